"""The two published ways to move parameters, step by step against values by hand."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import one_thread  # noqa: F401
from torch import nn

from helpers import data, hooks, training, transfer

RECIPE = data.module("06", "make_numbers")  # it trains the translator


@pytest.fixture(scope="module")
def pair():
    teacher = transfer.tiny_llama(seed=0, width=32, layers=3, ffn=48)
    student = transfer.tiny_llama(seed=1, width=24, layers=2, ffn=40)
    facts = transfer.world(0)["A"]
    list(training.training(teacher, *facts, steps=40, rng=0))
    return teacher, student, transfer.Facts(facts.prompts[:6], facts.values[:6])


def test_a_difference_is_added_to_a_copy_and_is_saved_with_it(pair):
    teacher, _, facts = pair
    before = {name: w.clone() for name, w in teacher.state_dict().items()}
    taught = copy.deepcopy(teacher)
    list(
        training.training(
            taught, *facts, steps=2, rng=0, weights=transfer.changed_weights(taught).values()
        )
    )
    delta = transfer.difference(taught, teacher)
    assert len(delta) == 12 and {n.rsplit(".", 2)[-2] for n in delta} == set(transfer.MODULES)
    found = transfer.apply_delta(teacher, delta, 0.5).state_dict()
    for name, weight in before.items():
        assert torch.equal(teacher.state_dict()[name], weight)
        assert torch.allclose(found[name], weight + 0.5 * delta.get(name, torch.zeros(1)))


def test_a_difference_that_does_not_fit_is_named(pair):
    teacher, _, _ = pair
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ValueError, match="no parameter 'up'"):
        transfer.apply_delta(teacher, {"up": torch.ones(1)})
    with pytest.raises(ValueError, match=name):
        transfer.apply_delta(teacher, {name: torch.ones(3, 3)})


def test_sensitivity_of_a_weight_is_its_size_times_its_gradient(pair):
    teacher, _, facts = pair
    found = transfer.sensitivity(teacher, facts)
    assert all("layers." in name and "norm" not in name for name in found)
    name = "model.layers.1.self_attn.o_proj.weight"
    weight, total = dict(teacher.named_parameters())[name], 0
    for prompt, value in zip(*facts, strict=True):
        loss = -training.last_logits(teacher, prompt[None]).log_softmax(-1)[0, value]
        total = total + (weight * torch.autograd.grad(loss, weight)[0]).abs()
    assert torch.allclose(found[name], total, atol=1e-6)


def test_layers_are_scored_by_their_sums_and_kept_in_order():
    scores = {
        f"model.layers.{i}.mlp.x.weight": torch.full((2,), own) for i, own in enumerate((3.0, 1, 2))
    }
    assert transfer.layer_scores(scores).tolist() == [6, 2, 4]
    assert transfer.top_layers(transfer.layer_scores(scores), 2) == [0, 2]


def test_best_block_by_hand():
    scores = torch.zeros(6, 6)
    scores[2, 3], scores[4, 4], scores[0, 0] = 5, 4, 6
    row, column = transfer.best_block(scores, (3, 2))
    assert (row, column) == (2, 3) and scores[row : row + 3, column : column + 2].sum() == 9
    assert transfer.best_block(scores, (6, 6)) == (0, 0)
    with pytest.raises(ValueError, match=r"\(7, 2\) does not fit into \(6, 6\)"):
        transfer.best_block(scores, (7, 2))


def test_best_block_is_the_best_of_all():
    scores = torch.rand(9, 7, generator=torch.Generator().manual_seed(0))
    row, column = transfer.best_block(scores, (4, 3))
    every = [scores[i : i + 4, j : j + 3].sum() for i in range(6) for j in range(5)]
    assert scores[row : row + 4, column : column + 3].sum() == pytest.approx(float(max(every)))


def test_low_rank_and_its_cosine():
    matrix = torch.diag(torch.tensor([4.0, 3, 2, 1]))
    b, a = transfer.low_rank(matrix, 2)
    assert torch.allclose(b @ a, torch.diag(torch.tensor([4.0, 3, 0, 0])), atol=1e-6)
    assert transfer.flat_cosine(b @ a, matrix) == pytest.approx(np.sqrt(25 / 30))
    assert transfer.flat_cosine(b @ a, matrix - b @ a) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("ratio", "expected"), [(0.75, -0.6), (1, -0.70711)])
def test_cosine_with_the_remainder_of_an_unrelated_part(ratio, expected):
    whole, part = np.array([1.0, 0]), np.array([0, ratio])
    assert transfer.flat_cosine(part, whole - part) == pytest.approx(expected, abs=1e-5)


def test_random_factors_keep_the_spectrum_and_nothing_else():
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    like = transfer.low_rank(matrix, 4)
    b, a = transfer.random_factors(like, np.random.default_rng(0))
    spectra = [torch.linalg.svdvals(x @ y)[:4] for x, y in ((b, a), like)]
    assert torch.allclose(*spectra, atol=1e-4)
    assert abs(transfer.flat_cosine(b @ a, like[0] @ like[1])) < 0.2


def test_seeking_cuts_blocks_of_the_students_shape_out_of_the_sensitive_layers(pair):
    teacher, student, _ = pair
    scores = {
        n: torch.full_like(w, float(n.split(".")[2] != "1"))
        for n, w in teacher.named_parameters()
        if "layers." in n and "norm" not in n
    }  # layer 1 is not sensitive
    factors = transfer.seek(teacher, student, scores, 40)
    assert set(factors) == set(transfer.changed_weights(student))
    for name, (b, a) in factors.items():
        own = dict(student.named_parameters())[name]
        source = name.replace("layers.1.", "layers.2.")
        block = dict(teacher.named_parameters())[source][: own.shape[0], : own.shape[1]]
        assert torch.allclose(b @ a, block, atol=1e-5)


def test_lora_changes_no_score_at_the_start_whatever_it_starts_from(pair):
    teacher, student, facts = pair
    factors = transfer.seek(teacher, student, transfer.sensitivity(teacher, facts), 4)
    with torch.no_grad():
        expected = training.last_logits(student, facts.prompts)
        for own in (None, factors):
            found = transfer.with_lora(student, 4, 0, own)
            assert torch.allclose(training.last_logits(found, facts.prompts), expected, atol=1e-5)
            trained = [n for n, w in found.named_parameters() if w.requires_grad]
            assert len(trained) == 16 and all("lora" in name for name in trained)
    lora = found.model.layers[0].mlp.up_proj.lora_B["default"].weight
    assert torch.equal(lora, factors["model.layers.0.mlp.up_proj.weight"][0])
    assert not hasattr(student.model.layers[0].mlp.up_proj, "base_layer")


def test_a_neurons_score_is_what_its_output_adds_to_the_log_probability(pair):
    teacher, _, facts = pair
    found = transfer.locate(teacher, facts)
    assert found.ffn.shape == (3, 48) and found.attention.shape == (3, 64)
    one = transfer.Facts(facts.prompts[:1], facts.values[:1])
    found = transfer.locate(teacher, one)
    states = {}

    def keep(name):
        return lambda _m, args, _o: states.__setitem__(name, args[0][0, -1])

    layer = teacher.model.layers[2]
    handles = [
        layer.register_forward_hook(keep("input")),
        layer.self_attn.o_proj.register_forward_hook(keep("values")),
        layer.mlp.down_proj.register_forward_hook(keep("units")),
        teacher.model.norm.register_forward_hook(keep("end")),
    ]
    with torch.no_grad():
        training.last_logits(teacher, one.prompts)
        for handle in handles:
            handle.remove()
        size = states["end"].square().mean().sqrt()

        def p(h):
            return teacher.lm_head(h / size).log_softmax(-1)[one.values[0]]

        v = states["values"][5] * layer.self_attn.o_proj.weight[:, 5]
        expected = p(states["input"] + v) - p(states["input"])
        assert found.attention[2, 5] == pytest.approx(float(expected), abs=1e-5)
        middle = states["input"] + layer.self_attn.o_proj(states["values"])
        v = states["units"][7] * layer.mlp.down_proj.weight[:, 7]
        assert found.ffn[2, 7] == pytest.approx(float(p(middle + v) - p(middle)), abs=1e-5)
        assert found.layers[2] == pytest.approx(
            float(p(states["end"]) - p(states["input"])), abs=1e-5
        )


def test_a_push_of_ln_3_takes_the_answer_from_a_half_to_three_quarters():
    h, v = torch.zeros(2), torch.tensor([np.log(3), 0])
    gain = (h + v).log_softmax(-1)[0] - h.log_softmax(-1)[0]
    assert float(gain) == pytest.approx(0.405465, abs=1e-6)


def test_a_neuron_that_writes_the_answer_is_found():
    teacher = transfer.tiny_llama(seed=0, width=32, layers=2, ffn=48)
    facts = transfer.world(0)["A"]
    one = transfer.Facts(facts.prompts[:1], facts.values[:1])
    down = teacher.model.layers[1].mlp.down_proj
    with (
        hooks.capture(teacher, "model.layers.1.mlp.down_proj", of="input") as seen,
        torch.no_grad(),
    ):
        training.last_logits(teacher, one.prompts)
        activation = seen["model.layers.1.mlp.down_proj"][0, -1, 9]
        down.weight[:, 9] = 5 * teacher.lm_head.weight[one.values[0]] / activation
    assert transfer.locate(teacher, one).ffn[1].argmax() == 9


def test_neurons_are_rows_and_columns(pair):
    teacher, _, facts = pair
    located = transfer.locate(teacher, facts)
    places = transfer.places_of(located, [0, 2], (5, 3))
    assert torch.equal(places["up_proj"][1], located.ffn[2].argsort(descending=True)[:5])
    vectors = transfer.neurons(teacher, [0, 2], places)
    shapes = {kind: tuple(own.shape) for kind, own in vectors.items()}
    assert shapes == {
        "up_proj": (2, 5, 32), "down_proj": (2, 5, 32), "v_proj": (2, 3, 32), "o_proj": (2, 3, 32)
    }  # fmt: skip
    layer, j, k = teacher.model.layers[2], places["up_proj"][1, 4], places["o_proj"][1, 2]
    assert torch.equal(vectors["up_proj"][1, 4], layer.mlp.up_proj.weight[j])
    assert torch.equal(vectors["down_proj"][1, 4], layer.mlp.down_proj.weight[:, j])
    assert torch.equal(vectors["v_proj"][1, 2], layer.self_attn.v_proj.weight[k])
    assert torch.equal(vectors["o_proj"][1, 2], layer.self_attn.o_proj.weight[:, k])


def test_a_translator_has_the_published_size():
    with torch.device("meta"):
        wide = SimpleNamespace(parameters=nn.Linear(5120, 5120, bias=False).parameters)
        narrow = nn.Linear(5120, 4096, bias=False)
    sizes = sum(p.numel() for part in (wide, narrow) for p in part.parameters())
    assert sizes == 47_185_920
    own = transfer.Translator(10, 6, std=0.1, seed=0)
    for net in own.nets.values():
        assert sum(p.numel() for p in net.parameters()) == 10 * 10 + 10 * 6
    out = own({kind: torch.ones(2, 3, 10) for kind in transfer.MODULES})
    assert all(x.shape == (2, 3, 6) for x in out.values())


def test_translators_of_one_seed_are_equal():
    a, same, other = (transfer.Translator(8, 4, std=0.1, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[k], same[k]) and not torch.equal(a[k], other[k]) for k in a)


def test_vectors_are_added_where_they_belong(pair):
    _, student, _ = pair
    places = {kind: torch.tensor([[1, 0], [2, 3]]) for kind in transfer.MODULES}
    vectors = {kind: torch.full((2, 2, 24), 0.5) for kind in transfer.MODULES}
    vectors["down_proj"][1, 1] = 7
    found = transfer.injected(student, vectors, places)
    old = transfer.changed_weights(student)
    down, value = "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.v_proj.weight"
    change = found[down] - old[down]
    assert torch.allclose(change[:, 2], torch.full((24,), 0.5), atol=1e-6)
    assert torch.allclose(change[:, 3], torch.full((24,), 7.0), atol=1e-5)
    assert change.count_nonzero() == 48
    change = found[value] - old[value]
    assert torch.allclose(change[:2], torch.full((2, 24), 0.5), atol=1e-6)
    assert change.count_nonzero() == 48


def test_alignment_trains_the_translator_alone(pair):
    teacher, student, facts = pair
    places = transfer.places_of(transfer.locate(student, facts), [0, 1], (4, 3))
    sources = transfer.places_of(transfer.locate(teacher, facts), [1, 2], (4, 3))
    vectors = transfer.neurons(teacher, [1, 2], sources)
    translator = transfer.Translator(32, 24, std=1e-2, seed=0)
    before = {n: w.clone() for n, w in student.state_dict().items()}
    model, scores, penalty = RECIPE.aligned(student, vectors, places, translator, 1000.0)
    losses = [
        loss
        for _, loss in training.training(
            model, *facts, steps=15, rng=0, lr=1e-2, decay=0.05, scores=scores, penalty=penalty
        )
    ]
    assert losses[-1] < losses[0]
    assert all(torch.equal(w, before[n]) for n, w in student.state_dict().items())
    with torch.no_grad():
        changed = transfer.injected(student, translator(vectors), places)
        fused = copy.deepcopy(student)
        fused.load_state_dict({**student.state_dict(), **changed})
        direct = scores(translator, facts.prompts)
        assert torch.allclose(training.last_logits(fused, facts.prompts), direct, atol=1e-5)
