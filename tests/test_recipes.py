"""The recipes in data/recipes: edits, maps and criteria against values by hand, and resuming."""

import importlib.util
import json
import re
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest
import torch
from families import build, one_thread, tiny_tokenizer, token_ids  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from pypinyin import Style, pinyin
from safetensors.torch import save_file
from scipy.stats import friedmanchisquare
from sklearn.metrics import roc_auc_score
from torch import nn

from helpers import answers, data, hooks, iem, masks, models, scenes, toy, transfer, vq, wordsets
from helpers.bundles import bundle_sentences, cell_kind


def load_recipe(name):
    path = data.DATA / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("massive_values")


M = torch.tensor([[[100.0, 50, 30, 20, 1]]]).sqrt()  # one item, one head, five dimensions
ORDER = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4]])


@pytest.mark.parametrize(
    ("which", "k", "chosen"),
    [("top", 2, [0, 1]), ("smallest", 2, [3, 4]), ("random", 2, [2, 3]), ("energy", 1, [1, 2, 3])],
)
def test_dimensions_are_selected_as_by_hand(recipe, which, k, chosen):
    mask = recipe.select(M, which, k, ORDER)
    assert mask[0, 0].nonzero()[:, 0].tolist() == chosen


def test_energy_matched_never_takes_the_top_and_removes_as_much(recipe):
    rng = np.random.default_rng(0)
    m = torch.tensor(rng.random((7, 3, 16)))
    order = torch.tensor(rng.random((3, 16)))
    mask = recipe.select(m, "energy", 1, order)
    energy = m.square()
    assert not mask.gather(-1, m.argmax(-1, keepdim=True)).any()
    removed, goal = (energy * mask).sum(-1), energy.amax(-1)
    assert (removed >= goal).all()
    smallest_taken = energy.masked_fill(~mask, 9).amin(-1)
    assert (removed - smallest_taken < goal + energy.amax(-1)).all()


def test_replacements(recipe):
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    mask = torch.tensor([True, False, False, True]).reshape(1, 1, 1, 4)
    assert recipe.replacement(x, mask, "mean").item() == pytest.approx((0 + 4 + 8 + 3 + 7 + 11) / 6)
    assert recipe.replacement(x, mask, "max").item() == 11
    assert recipe.replacement(x, mask, "min").item() == 0
    assert recipe.replacement(x, mask, "dim_mean").flatten().tolist() == [4, 5, 6, 7]
    assert torch.equal(recipe.replacement(x, mask, 0.5), x / 2)


def test_only_the_prompt_is_overwritten(recipe):
    x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    new = recipe.overwrite(x, 0, "q", recipe.Edit(), n_prompt=4)
    assert torch.equal(new[:, :, 4:], x[:, :, 4:])
    top = x[:, :, :4].square().sum(2).argmax(-1)
    assert (new[:, :, :4].gather(-1, top[:, :, None, None].expand(2, 3, 4, 1)) == 0).all()
    assert (new != x).sum() == 2 * 3 * 4


def test_rounding(recipe):
    x = torch.tensor([-1.0, 0.5, 0.25])
    assert torch.allclose(recipe.grid(x, 3, torch.tensor(1.0)), torch.tensor([-1, 2 / 3, 1 / 3]))
    y = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    plain = recipe.quantise(y, 0, "k", recipe.Quantise(bits=8))
    assert (plain - y).abs().max() <= y.abs().max() / 127 / 2 + 1e-6
    kept = recipe.quantise(y, 0, "k", recipe.Quantise("top", bits=2))
    top = y.square().sum(2).topk(2).indices[:, :, None].expand(1, 2, 9, 2)
    assert torch.equal(kept.gather(-1, top), y.gather(-1, top))


def test_smoothing_changes_no_product_before_it_rounds(recipe):
    generator = torch.Generator().manual_seed(2)
    q, k = (torch.randn(1, h, 5, 8, generator=generator) for h in (4, 2))
    smooth_q, smooth_k = recipe.smooth(q, k, bits=16)
    products = smooth_q @ smooth_k.repeat_interleave(2, 1).mT
    assert torch.allclose(products, q @ k.repeat_interleave(2, 1).mT, atol=0.2)


def test_finished_steps_survive_and_a_changed_input_starts_anew(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
    steps = recipe.Steps("run", stamp="a")
    assert steps.run("one", lambda: 1) == 1
    with pytest.raises(KeyboardInterrupt):
        steps.run("two", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    again = recipe.Steps("run", stamp="a")
    assert again.run("one", lambda: 99) == 1
    assert "two" not in again.done
    assert recipe.Steps("run", stamp="b").done == {}
    assert json.loads((tmp_path / "recipes" / "run.json").read_text())["stamp"] == "a"


def test_the_questions_are_what_their_recipe_writes(tmp_path, monkeypatch):
    items = load_recipe("massive_values_items")
    monkeypatch.setattr(items, "OUT", tmp_path / "items.json")
    items.main()
    assert (tmp_path / "items.json").read_bytes() == (
        data.DATA / "massive_values_items.json"
    ).read_bytes()


# Eigenspectra: allocation, pruning, learning rates

farms = load_recipe("farms")


@pytest.mark.parametrize(
    ("scores", "sizes", "sparsity", "eps", "expected"),
    [
        ([1, 2, 3], [1, 1, 1], 0.5, 0.2, [0.4, 0.5, 0.6]),
        ([1, 2, 3], [1, 1, 2], 0.5, 0.2, [0.380952, 0.476190, 0.571429]),
        ([0, 1], [1, 1], 0.9, 0.3, [0.8, 1.0]),  # 0.63 and 1.17 before the surplus moves
        ([2, 2, 2], [1, 5, 2], 0.7, 0.2, [0.7, 0.7, 0.7]),
    ],
)
def test_allocation_by_hand(scores, sizes, sparsity, eps, expected):
    share = farms.allocate(scores, sizes, sparsity, eps)
    np.testing.assert_allclose(share, expected, atol=1e-6)
    assert np.average(share, weights=sizes) == pytest.approx(sparsity, abs=1e-12)


UNITS = st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 10**6)), min_size=1, max_size=12)


@given(UNITS, st.floats(0, 0.999), st.floats(0, 0.9))
def test_allocation_keeps_its_mean_its_order_and_its_range(units, sparsity, eps):
    scores, sizes = map(np.array, zip(*units, strict=True))
    share = farms.allocate(scores, sizes, sparsity, eps)
    assert np.average(share, weights=sizes) == pytest.approx(sparsity, abs=1e-9)
    assert (share >= 0).all() and (share <= 1).all()
    order = np.argsort(scores)
    assert (np.diff(share[order]) >= -1e-12).all()
    equal = np.diff(scores[order]) == 0
    np.testing.assert_allclose(np.diff(share[order])[equal], 0, atol=1e-12)


def test_everything_pruned_is_an_allocation_too():
    with np.errstate(all="raise"):
        np.testing.assert_allclose(farms.allocate([1, 2, 4], [3, 1, 2], 1.0), 1, rtol=1e-12)


def test_block_scores_are_means():
    scores, blocks = np.array([1, 3, 10, 20, 30.0]), np.array([0, 0, 1, 1, 1])
    np.testing.assert_allclose(farms.by_block(scores, blocks), [2, 20])
    assert farms.block_of("model.layers.12.mlp.down_proj") == 12


def test_ranks():
    values = torch.tensor([[3.0, 1, 2], [5, 5, 4]])
    assert farms.ranks(values).tolist() == [[2, 0, 1], [1, 2, 0]]  # of twins the first is smaller
    assert farms.ranks(values[:1]).tolist() == [[2, 0, 1]]
    many = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(farms.ranks(many), many.argsort(-1).argsort(-1))


@pytest.fixture
def one_layer(monkeypatch):
    """The matrix in a model of one layer, with its pruner."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    monkeypatch.setattr(farms.hooks, "linear_layers", lambda model: {"0": model[0]})
    return layer, farms.Pruner(nn.Sequential(layer))


def test_wanda_and_magnitude_by_hand(one_layer):
    layer, pruner = one_layer
    pruner.rank_by({"0": torch.tensor([1.0, 10.0])})
    pruner.prune([0.5])
    assert layer.weight.tolist() == [[0, -2], [0, 0.5]]
    pruner.rank_by()
    pruner.prune([0.5])  # from the original weights, not from the pruned ones
    assert layer.weight.tolist() == [[0, -2], [3, 0]]
    pruner.prune([0.0])
    assert layer.weight.tolist() == [[1, -2], [3, 0.5]]
    pruner.prune([1.0])
    assert not layer.weight.any()
    pruner.restore()
    assert layer.weight.tolist() == [[1, -2], [3, 0.5]]


@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
def test_pruner_prunes_as_much_as_asked_and_restores_every_bit(criterion):
    model = build("llama")
    pruner, names = farms.Pruner(model), list(hooks.linear_layers(model))
    before = {n: p.detach().view(torch.int32).clone() for n, p in model.named_parameters()}
    wanda = criterion == "wanda"
    pruner.rank_by(hooks.input_norms(model, names, [token_ids()]) if wanda else None)
    shares = np.linspace(0.1, 0.9, len(names))
    pruner.prune(shares)
    for name, share in zip(names, shares, strict=True):
        zeros = model.get_submodule(name).weight == 0
        if wanda:
            assert (zeros.sum(1) == round(share * zeros.shape[1])).all()
        else:
            assert zeros.sum() == round(share * zeros.numel())
    pruner.restore()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.detach().view(torch.int32), before[name])
    with pytest.raises(ValueError):
        pruner.prune(shares[:-1])


def test_magnitude_pruning_keeps_the_largest():
    model = build("llama")
    pruner = farms.Pruner(model)
    pruner.rank_by()
    pruner.prune([0.6] * len(pruner.layers))
    for name, layer in pruner.layers.items():
        size, gone = pruner.originals[name].abs(), layer.weight == 0
        assert size[gone].max() <= size[~gone].min()
        assert torch.equal(layer.weight[~gone], pruner.originals[name][~gone])


def test_tempbalance_map_by_hand():
    np.testing.assert_allclose(0.1 * farms.tempbalance([2, 3, 4]), [0.05, 0.10, 0.15])
    np.testing.assert_allclose(farms.tempbalance([3, 3, 3]), 1)
    np.testing.assert_allclose(farms.tempbalance([4, 2], 0.1, 1.9), [1.9, 0.1])


@pytest.mark.parametrize("method", farms.METHODS)
def test_rate_factors(method):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((256, 64), (64, 256), (512, 64), (64, 512))]
    factors = farms.multipliers(method, weights, rng)
    assert factors.shape == (4,) and (factors > 0).all()
    if method == "uniform" or method.endswith("mean 1"):
        assert factors.mean() == pytest.approx(1, abs=1e-12)
    else:
        assert ((factors >= 0.5) & (factors <= 1.5)).all()
    if method in ("TB", "TB+FARMS"):
        assert (factors.min(), factors.max()) == (0.5, 1.5)


def passages(topics, n_words=20):
    found = set()
    for text in data.english_prose(topics).texts:
        words = text.split()
        found |= {tuple(words[i : i + n_words]) for i in range(len(words) - n_words + 1)}
    return found


def test_calibration_and_evaluation_share_no_passage():
    calibration, evaluation = passages(farms.CALIBRATION), passages(farms.EVALUATION)
    assert len(calibration) > 1000 and len(evaluation) > 1000
    assert not calibration & evaluation


def test_a_stamp_may_hold_tuples(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
    stamp = {"topics": ("a", "b"), "sizes": (1, (2, 3)), "eps": 0.2}
    assert farms.Steps("run", stamp).run("one", lambda: (1, 2)) == (1, 2)
    again = farms.Steps("run", stamp)
    assert list(again.run("one", lambda: 1 / 0)) == [1, 2]
    assert farms.Steps("run", {**stamp, "topics": ("a", "c")}).done == {}


# Audits

BANKS = ("edits", "personas", "neutral", "confirm", "warm", "prompts", "long")
audits, numbers = load_recipe("audits"), load_recipe("audits_numbers")


def stored_arms(part):
    return data.read_json(f"audits_{part}_smollm2-135m.json")["arms"]


def prompts_of(part):
    return {name: arm["prompt"] for name, arm in stored_arms(part).items()}


def test_arms_of_one_model_have_seeds_of_their_own():
    arms = [arm for part in BANKS for arm in stored_arms(part).values()]
    systems = data.read_json("audits_systems.json")["systems"].values()
    arms += [arm for system in systems for arm in system["arms"].values()]
    seeds = [arm["seed"] for arm in arms]
    assert len(seeds) > 150 and len(set(seeds)) == len(seeds)
    assert all(isinstance(text, str) for arm in arms for text in arm["answers"])


def test_the_bank_of_edits_is_that_of_its_recipe():
    expected = {"base": audits.BASE} | {name: own[1] for name, own in audits.EDITS.items()}
    assert prompts_of("edits") == expected
    assert [len(arm["answers"]) for arm in stored_arms("edits").values()] == [256] + [64] * 16
    unchanged = [name for name, prompt in expected.items() if prompt == audits.BASE]
    assert unchanged == ["base", "same prompt"]


@pytest.mark.parametrize("part", ["personas", "neutral", "confirm", "warm", "long"])
def test_the_banks_of_personas_are_those_of_their_recipe(part):
    known = {arm: own[1] for arm, own in audits.PERSONAS.items()} | audits.NEUTRAL
    known["doctor again"] = known["doctor"]
    asked = {"neutral": audits.NEUTRAL, "long": audits.LONG_ARMS}.get(part, audits.PERSONAS)
    asked = {"doctor again", *audits.ROLES} if part == "confirm" else {*asked}
    sizes = {"personas": 20, "neutral": 20, "confirm": 100, "warm": 20, "long": 64}
    assert {name.split(", s")[0] for name in prompts_of(part)} == asked
    for name, arm in stored_arms(part).items():
        assert arm["prompt"] == known[name.split(", s")[0]]
        assert len(arm["answers"]) == sizes[part]


def test_prompts_of_one_length_differ_in_the_role_alone():
    texts = prompts_of("prompts")
    for n in audits.PROMPT_TOKENS:
        base = texts[f"base, {n} tokens"]
        assert texts[f"same prompt, {n} tokens"] == base
        assert texts[f"child, {n} tokens"] == f"Act as a child. {base}"
        late = texts[f"doctor, late, {n} tokens"]
        assert late != base and late.replace("Act as a doctor. ", "") == base
        assert base.startswith(audits.PATIENT) and base.endswith("recommend for him?")


def test_padding_stops_at_the_length_and_says_when_notes_run_out():
    def words(text):
        return type("Encoding", (), {"input_ids": text.split()})

    short = audits.padded(words, 60)
    assert 60 <= len(short.split()) < 72
    assert audits.padded(words, 60, late="Wait. ").replace("Wait. ", "") == short
    with pytest.raises(ValueError, match="too few notes for 9999"):
        audits.padded(words, 9999)


def test_every_group_of_weights_is_rounded_to_its_own_levels():
    model = build("llama")
    before = {name: w.weight.detach().clone() for name, w in hooks.linear_layers(model).items()}
    name, weight = next(iter(before.items()))
    audits_group, audits.GROUP = audits.GROUP, 8
    try:
        audits.round_weights(model, 3)
    finally:
        audits.GROUP = audits_group
    rounded = hooks.linear_layers(model)[name].weight
    for old, new in zip(weight.reshape(-1, 8), rounded.reshape(-1, 8), strict=True):
        step = old.abs().max() / 3
        assert torch.allclose(new, (old / step).round() * step)
        assert (new - old).abs().max() <= step / 2 + 1e-6


def test_a_base_model_is_asked_in_a_frame():
    plain = type("Plain", (), {"chat_template": None})
    assert audits.framed(plain, "Why?") == "Question: Why?\nAnswer:"


def test_the_shared_beginning_is_taken_for_the_prompt_only_if_it_is_long():
    prompt = "p" * 120
    assert numbers.without_prompt([prompt + "one", prompt + "two"]) == ["one", "two"]
    assert numbers.without_prompt(["The first", "The second"]) == ["The first", "The second"]
    assert numbers.without_prompt([prompt, prompt + "x"]) == ["", "x"]


def test_chords_are_distances_of_unit_vectors():
    z = np.random.default_rng(0).normal(size=(6, 4))
    z = numbers.unit(z)
    gaps = np.linalg.norm(z[:, None] - z, axis=2)
    assert np.allclose(numbers.chord(numbers.similarities(z)), gaps, atol=1e-7)


def test_overlaps_are_1_for_equal_texts_and_0_for_strangers():
    texts = ["go and see a doctor now", "go and see a doctor now", "kites fly high over water"]
    for name, s in numbers.overlaps(texts).items():
        assert s[0, 1] == pytest.approx(1), name
        assert s[0, 2] < 0.1 and np.allclose(s, s.T), name
    assert numbers.bleu(["a", "b", "c", "d"], ["a", "b", "c", "d"]) == pytest.approx(1)


def test_stored_numbers_are_those_of_the_stored_answers(minilm):
    arms = stored_arms("edits")
    z = [
        answers.embed_texts(arms[arm]["answers"][: numbers.K], *minilm)
        for arm in ("base", "comedian")
    ]
    now = numbers.tested(*z, 7)  # its place among the arms
    stored = data.read_json("audits_similarities_smollm2-135m.json")["views"]["MiniLM"]["comedian"]
    for key in ("omega", "energy", "h"):
        assert now[key] == pytest.approx(stored[key], abs=2e-3)
    assert now["energy_z"] == pytest.approx(stored["energy_z"], rel=0.1)


def test_published_answers_give_the_stored_numbers(tutorials_data, minilm):
    found = data.published_audits()
    stored = data.read_json("audits_published.json")
    assert set(stored["roles"]["answers"]) == set(found["roles"]) - {"doctor"}
    assert {n: len(own["answers"]) for n, own in stored["rephrasings"].items()} == {
        n: len(arms) - 1 for n, arms in found.items() if n != "roles"
    }
    z = [answers.embed_texts(found["roles"][role], *minilm) for role in ("doctor", "child")]
    now = numbers.tested(*z, 0)
    assert now["h"] == pytest.approx(stored["roles"]["answers"]["child"]["h"], abs=2e-3)
    text = json.dumps(stored)
    assert not any(answer[:60] in text for arm in found["roles"].values() for answer in arm)


# Chinese edits


@pytest.mark.parametrize("name", ["chinese_edits", "chinese_probes"])
def test_chinese_data_are_those_of_their_recipe(name, monkeypatch, tmp_path):
    stored, recipe = data.read_json(f"{name}.json"), load_recipe(name)
    monkeypatch.setattr(recipe.data, "DATA", tmp_path)
    recipe.main()
    assert json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")) == stored


def test_no_chinese_edit_stands_twice():
    stored = data.read_json("chinese_edits.json")
    assert len(stored) == 48 == len({own["id"] for own in stored})
    assert len({own["prompt"] for own in stored}) == 48


def reading_in(word, char):
    return pinyin(word, style=Style.TONE)[word.index(char)][0]


def test_readings_are_those_of_pypinyin():
    for own in data.read_json("chinese_probes.json")["polyphones"]:
        for word in (own["word"], *own["same"]):
            assert reading_in(word, own["char"]) == own["new"], word
        for word in own["other"]:
            assert reading_in(word, own["char"]) == own["old"], word


def test_readings_of_the_records_are_those_of_pypinyin_but_for_one_known_trap():
    wrong = []
    for own in data.read_json("chinese_edits.json"):
        if own["type"] not in ("pinyin", "phonetic misunderstanding"):
            continue
        asked = [(own["prompt"], own["target_new"])]
        asked += [(p["prompt"], p["answer"]) for p in own["portability"] + own["locality"][:1]]
        for prompt, answer in asked:
            word, char = re.findall("“(.+?)”", prompt)[:2]
            if reading_in(word, char) != answer:
                wrong.append(word)
    # pypinyin reads these as grown, zhǎng; the queue and the road are long, cháng
    assert set(wrong) <= {"打疫苗的队好长", "这条路好长"}


@pytest.mark.parametrize("own", data.read_json("chinese_edits.json"), ids=lambda own: own["id"])
def test_a_chinese_edit_can_be_made_and_tested(own):
    assert own["subject"] in own["prompt"] and own["gloss"]
    assert own["target_new"] != own["target_old"] and own["target_new"] not in own["prompt_qa"][-3:]
    assert len(own["rephrase"]) == 2 and own["portability"] and len(own["locality"]) >= 2
    asked = [own["prompt"], *own["rephrase"]]
    asked += [item["prompt"] for item in own["portability"] + own["locality"]]
    assert len(set(asked)) == len(asked)
    assert all(text and text == text.strip() for text in asked)


# Edits of notebook 01


@pytest.fixture(scope="module")
def edits_recipe():
    return load_recipe("edits")


def test_two_processes_share_the_steps_of_a_recipe(edits_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
    made = []

    def task(name):
        made.append(name)
        return name.upper()

    tasks = {name: (lambda name=name: task(name)) for name in "abc"}
    here, there = (edits_recipe.Steps("work", {"v": 1}) for _ in range(2))
    monkeypatch.setattr("sys.argv", ["edits.py", "grid", "backwards"])
    there.run("c", tasks["c"])
    assert here.run_all(tasks) == {"a": "A", "b": "B", "c": "C"}
    assert made == ["c", "b", "a"]
    assert there.run_all(tasks) == {"a": "A", "b": "B", "c": "C"} and len(made) == 3
    other = edits_recipe.Steps("work", {"v": 2})
    assert other.run("a", tasks["a"]) == "A" and len(made) == 4


def test_rates_of_a_report_are_those_of_its_roles(edits_recipe):
    rows = [
        ["edit", "k", 1, 1.0, 1.0, -0.1],
        ["rephrase", "k", 1, 1.0, 1.0, -0.1],
        ["rephrase", "k", 0, 0.5, 0.0, -2.0],
        ["portability", "k", 0, 0.0, 0.0, -4.0],
        ["locality", "k", 0, 0.0, 0.0, -4.0, 1.0, 0.2],
        ["locality", "k", 1, 1.0, 1.0, -1.0, 0.0, 3.0],
    ]
    assert edits_recipe.rates(rows) == [1, 0.5, 0, 0.5]


def test_a_couplet_is_edited_in_both_directions(edits_recipe):
    own = {"title": "春晓", "first": "夜来风雨声", "second": "花落知多少", "gloss": "g"}
    forward, backward = (edits_recipe.couplet(own, way) for way in (False, True))
    assert (forward.subject, forward.target_new) == ("夜来风雨声", "花落知多少")
    assert (backward.subject, backward.target_new) == ("花落知多少", "夜来风雨声")
    assert forward.portability[0][:2] == (backward.prompt, backward.target_new)
    assert backward.portability[0][:2] == (forward.prompt, forward.target_new)
    assert "后面" in forward.rephrase[0] and "前面" in backward.rephrase[0]
    assert [p.kind for p in forward.portability] == ["reverse", "title"]
    sequel = edits_recipe.couplet({k: v for k, v in own.items() if k != "title"}, False)
    assert [p.kind for p in sequel.portability] == ["reverse"]
    for edit in (forward, backward):
        assert edit.subject in edit.prompt and len(edit.locality) == 2


TINY_EDIT = data.Edit(
    "1",
    "kind",
    "Q of ABC is",
    "ABC",
    "zK",
    "q",
    ("ABC: Q is",),
    (data.Probe("Q of DEF is", "zK", "other"),),
    (data.Probe("Quite another", "zK", "far"),),
)
TINY_SETTINGS = {
    "FT-L": {"layer": 2, "box": 1e-3},
    "FT-M": {"layer": 2, "lr": 1e-2},
    "LoRA": {"lr": 1e-2},
    "AdaLoRA": {"lr": 1e-2, "steps": 8},
    "AdaLoRA as released": {"lr": 1e-2, "steps": 8},
    "ROME without C": {"layer": 1, "essence": False},
    "ROME": {"layer": 1, "essence": False, "prefixes": ["", "a. "], "steps": 5},
    "AlphaEdit": {"layer": 1, "essence": False, "tolerance": 0.5},
    "GRACE": {"layer": 1, "radius": 1e-3},
    "in context": {"template": "{prompt}{target} not {old} "},
}


def test_every_method_of_the_recipe_is_measured_and_undone(edits_recipe, monkeypatch):
    bench = object.__new__(edits_recipe.Bench)
    bench.model, bench.tokenizer = build("llama"), tiny_tokenizer(start=True)
    bench.moments, bench.spectra = {}, {}
    monkeypatch.setattr(bench, "background", lambda *args: token_ids(8, 20), raising=False)
    monkeypatch.setattr(
        edits_recipe.rank_one,
        "cached_moment",
        lambda *args, start: edits_recipe.rank_one.Moment(
            *edits_recipe.rank_one.second_moment(*args, start=start), 0.0
        ),
    )
    before = {name: p.clone() for name, p in bench.model.state_dict().items()}
    report, held = bench.report(TINY_EDIT), {}
    found = {
        method: bench.measure(TINY_EDIT, method, own, report, held=held)
        for method, own in TINY_SETTINGS.items()
    }
    for method, own in found.items():
        assert [len(row) for row in own["rows"]] == [6, 6, 6, 8], method
        assert own["seconds"] >= 0 and all(np.isfinite(edits_recipe.rates(own["rows"])))
    for method in ("FT-L", "FT-M", "ROME", "AlphaEdit"):
        assert found[method]["norm"] > 0
    assert len(held) == 2  # AlphaEdit and ROME without C share their value
    assert found["AlphaEdit"]["loss"] == found["ROME without C"]["loss"]
    now = bench.model.state_dict()
    assert list(now) == list(before) and all(torch.equal(now[k], before[k]) for k in before)


def test_the_published_table_has_its_known_means_wins_and_tests():
    table = pd.read_csv(data.DATA / "cknowedit_published.csv")
    assert len(table) == 28 * 6
    means = table.groupby("method")[["ES", "Gen", "Por", "Loc"]].mean()
    assert means.loc["Pre"].tolist() == pytest.approx([4.18, 4.10, 3.83, 6.86], abs=0.011)
    assert means.loc["AdaLoRA"].tolist() == pytest.approx([7.96, 7.50, 5.86, 5.41], abs=0.011)
    edited = table[table["method"] != "Pre"]
    for score, wins, statistic in (("ES", 20, 45.27), ("Loc", 3, 7.98)):
        wide = edited.pivot_table(index=["model", "kind"], columns="method", values=score).dropna()
        assert (wide.idxmax(axis=1) == "AdaLoRA").sum() == wins
        assert friedmanchisquare(*wide.to_numpy().T).statistic == pytest.approx(statistic, abs=0.01)


def test_the_settings_were_chosen_on_the_development_split_by_their_mean(edits_recipe):
    stored = data.read_json("edits_search.json")
    assert set(stored["chosen"]) == set(edits_recipe.GRIDS) == set(stored["table"])
    for method, rows in stored["table"].items():
        assert [row["settings"] for row in rows] == edits_recipe.GRIDS[method]
        means = [np.mean(row["rates"]) for row in rows]
        assert stored["chosen"][method] == rows[int(np.argmax(means))]["settings"]


def test_a_stored_edit_is_made_again(edits_recipe, gemma3, monkeypatch):
    stored = data.read_json("edits_grid.json")
    bench = object.__new__(edits_recipe.Bench)
    bench.model, bench.tokenizer = gemma3
    (edit,) = [edit for edit in edits_recipe.split("test") if edit.subject == "岳麓书院"]
    before = bench.report(edit)
    found = bench.measure(edit, "FT-M", stored["settings"]["FT-M"], before)
    for now, then in zip(found["rows"], stored["edits"][edit.id]["FT-M"]["rows"], strict=True):
        assert now[:2] == then[:2]
        assert now[5] == pytest.approx(then[5], abs=0.05)


def test_artefacts_of_notebook_01_are_complete(edits_recipe):
    grid = data.read_json("edits_grid.json")["edits"]
    assert list(grid) == [edit.id for edit in edits_recipe.split("test")]
    methods = set(edits_recipe.GRIDS) - set(edits_recipe.RANDOM) | {"LoRA 0", "LoRA 1", "AdaLoRA 0"}
    assert all(methods <= set(own) for own in grid.values())
    for some in ("AdaLoRA 1", "AdaLoRA as released", "tokens", "said"):
        assert sum(some in own for own in grid.values()) == 12
    probes, verse = (data.read_json(f"{n}.json") for n in ("chinese_probes", "edits_verse"))
    for part in ("couplets", "sequels"):
        assert list(verse[part]) == [own["first"] for own in probes[part]]
    assert len(data.read_json("edits_readings.json")["characters"]) == len(probes["polyphones"])
    assert len(data.read_json("edits_published.json")["edits"]) == 40
    assert len(data.read_json("edits_diagnosis.json")["rows"]) == 1854


def test_no_published_record_is_stored(tutorials_data):
    stored = "".join(
        (data.DATA / f"edits_{name}.json").read_text(encoding="utf-8")
        for name in ("diagnosis", "published")
    )
    for edit in data.load_edits(tutorials_data / "cknowedit"):
        assert edit.prompt not in stored
        assert len(edit.target_new) < 4 or edit.target_new not in stored


@pytest.fixture(scope="module")
def adapters_recipe():
    return load_recipe("probing_adapters")


def test_contrast_is_trained_on_words_that_are_not_probed(adapters_recipe):
    content = data.read_json("probing_sentences.json")
    probed = {word for own in content["words"].values() for word in own}
    rng = np.random.default_rng(0)
    for _ in range(200):
        anchor, positive, negative = (
            re.findall("[a-z]+", text) for text in adapters_recipe.triple(content["training"], rng)
        )
        assert not probed & {*anchor, *positive, *negative} and anchor != positive
        nouns = {*content["training"]["animate"], *content["training"]["inanimate"]}
        roles = [[word for word in text if word in nouns] for text in (anchor, negative)]
        assert sorted(roles[0]) == sorted(roles[1])


@pytest.fixture(scope="module")
def probing_recipe():
    return load_recipe("probing")


def test_probed_words_stand_where_the_recipe_says(probing_recipe):
    content = data.read_json("probing_sentences.json")
    rows = probing_recipe.sense_rows(content["senses"])
    assert len(rows) == 24 * 8
    assert all(words[place] == noun for words, place, noun, _, _ in rows)
    items = probing_recipe.telicity_items(content["telicity"])
    assert len(items) == 80 and all(words[place] == group for words, place, _, group in items)
    items = probing_recipe.concreteness_items(content["concreteness"])
    assert len(items) == 72 and all(words[place] == group for words, place, _, group in items)


def test_splits_by_word_share_no_word(probing_recipe):
    words = np.array(list("aabbccddeeffgghhiijj"))
    found = list(probing_recipe.splits(words))
    assert [name for name, *_ in found] == ["random"] * 10 + ["new words"] * 10
    for name, train, test in found:
        assert len(train) + len(test) == 20 and len(test) == 4
        assert name == "random" or not set(words[train]) & set(words[test])


def test_a_start_token_is_replaced_behind_every_block(probing_recipe):
    model, ids = build("llama"), token_ids(4, 7)
    ids[:, 0] = 1
    sink = probing_recipe.sink_states(model, ids, opened=False)
    names = list(hooks.blocks(model))
    assert list(sink) == names

    def states(*around):
        with torch.no_grad(), ExitStack() as stack:
            for context in around:
                stack.enter_context(context)
            seen = stack.enter_context(hooks.capture(model, names))
            model(ids, use_cache=False)
        return torch.stack([seen[name] for name in names])

    causal = states()
    opened = states(masks.bidirectional(model))
    mended = states(masks.bidirectional(model), probing_recipe.with_start(model, sink))
    torch.testing.assert_close(mended[:, :, 0], causal[:, :, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(opened[:, :, 0], causal[:, :, 0], atol=1e-2)
    torch.testing.assert_close(mended[0, :, 1:], opened[0, :, 1:])  # later blocks feel it
    assert not torch.allclose(mended[1, :, 1:], opened[1, :, 1:], atol=1e-2)


def test_artefacts_of_notebook_02_are_complete(probing_recipe):
    stored = data.read_json("probing_cells.json")
    sentences = bundle_sentences(
        data.read_json("probing_sentences.json")["words"], stored["bundle_seeds"][0]
    )
    variants = {f"{v}, bundles {s}" for v in probing_recipe.VARIANTS for s in (2, 3)}
    once = {*probing_recipe.controls(sentences), *probing_recipe.OTHERS}
    assert set(stored["runs"]) == variants | {f"{name}, bundles 2" for name in once}
    assert all(np.shape(own)[1:] == (20, 40) for own in stored["runs"].values())
    assert set(data.read_json("probing_senses.json")["runs"]) == set(probing_recipe.VARIANTS)
    assert set(data.read_json("probing_published.json")["runs"]) == {
        f"{name}, {task}"
        for task in probing_recipe.TASKS
        for name in (probing_recipe.OF_ASPECT if task == "aspect" else probing_recipe.PUBLISHED)
    }


def test_a_causal_model_is_exactly_at_chance_in_all_stored_cells_before_the_labelled_word():
    stored = data.read_json("probing_cells.json")
    before = [i for i, cell in enumerate(stored["cells"]) if is_following(cell)]
    assert len(before) == 9
    for name, own in stored["runs"].items():
        if name.startswith(("base,", "causal")):
            assert (np.array(own)[:, before] == 0.5).all(), name


def is_following(cell):
    label, word = cell.split()
    return cell_kind(label, int(word)) == "following"


def test_committed_adapters_are_equally_long_trained_and_small():
    shown = {"causal": 1, "mntp": 3, "simcse": 3, "supervised": 1}
    names = sorted(f"{kind}-{seed}" for kind, n in shown.items() for seed in range(n))
    folder = data.DATA / "probing_adapters"
    assert names == sorted(path.name for path in folder.iterdir())
    for name in names:
        log = data.read_json(f"probing_adapters/{name}/log.json")
        assert len(log["losses"]) == log["steps"] == (300 if name[0] in "mc" else 150)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 25e6


def leaves(content):
    if isinstance(content, (dict, list)):
        for own in content.values() if isinstance(content, dict) else content:
            yield from leaves(own)
    else:
        yield content


def test_only_numbers_of_the_published_tasks_are_stored():
    runs = data.read_json("probing_published.json")["runs"]
    assert all(isinstance(value, (int, float)) for value in leaves(runs))
    labels = {"telicity", "duration", "random", "new words", "larger class", "accuracy", "auc"}
    assert {key for own in runs.values() for key in own} <= labels | set(wordsets.CONTEXT_PROBES)


@pytest.fixture(scope="module")
def incompatibility_recipe():
    return load_recipe("incompatibility")


@pytest.fixture(scope="module")
def incompatibility():
    return data.read_json("incompatibility.json")


def test_artefacts_of_notebook_06_are_complete(incompatibility_recipe, incompatibility):
    recipe = incompatibility_recipe
    assert set(incompatibility["seeds"]) == {str(seed) for seed in recipe.SEEDS}
    assert not set(incompatibility["tuning"]) & set(incompatibility["seeds"])
    for own in incompatibility["seeds"].values():
        assert set(own["ladder"]) == set(own["ladder, small start"])
        assert len(own["ladder"]) == 13
        assert set(own["drift"]) == {"0", *(str(steps) for steps in recipe.DRIFT)}
        assert [len(x["by scale"]) for x in own["drift"].values()] == [len(recipe.SCALES)] * 5
        assert len(own["path"]) == len(recipe.ANGLES)
        assert {tuple(arm) for arm in own["after injection"].values()} == {
            tuple(str(steps) for steps in recipe.LOOKS)
        }
        assert [len(own["before injection"][x]["losses"]) for x in ("T1", "T0", "noise")] == [
            recipe.ALIGN_STEPS
        ] * 3


@pytest.mark.parametrize("seed", range(10, 15))
def test_stored_models_of_notebook_06_know_what_is_written_of_them(seed, incompatibility):
    kept = toy.load(data.DATA / "incompatibility_models" / f"{seed}.safetensors")
    written = incompatibility["seeds"][str(seed)]
    world = toy.world(seed)
    assert set(kept) == set(written["models"])
    for name, model in kept.items():
        for part in "ABR":
            found = toy.accuracy(model, world[part])
            assert found == pytest.approx(written["models"][name][part], abs=0.02)


def test_an_injected_difference_survives_saving(tmp_path):
    """An attribute beside the weight would not (notebook 06, section 12)."""
    model = toy.tiny_llama(seed=1)
    name = "model.layers.0.mlp.up_proj.weight"
    changed = transfer.apply_delta(model, {name: torch.ones(160, 64)})
    tensors = {f"changed/{key}": x.clone() for key, x in changed.state_dict().items()}
    save_file(tensors, tmp_path / "saved.safetensors")
    again = toy.load(tmp_path / "saved.safetensors")["changed"].state_dict()
    assert torch.allclose(again[name] - model.state_dict()[name], torch.ones(160, 64))


def test_the_arms_of_notebook_06_start_from_the_same_function(incompatibility_recipe):
    seed, recipe = 5, incompatibility_recipe
    world = toy.world(seed)
    t0, t1 = toy.tiny_llama(seed=1), toy.tiny_llama(seed=2)
    small = toy.tiny_llama(seed=3, width=48, layers=3, ffn=112)
    models = recipe.Family(world, t0, t1, small, t0, t0)
    prompts = world["A"].prompts[:20]
    starts = recipe.starts(models, toy.split(world, seed), seed)
    assert len(starts) == 5
    for factors in starts.values():
        started = transfer.with_lora(small, recipe.RANK, seed, factors)
        torch.testing.assert_close(
            toy.last_logits(started, prompts), toy.last_logits(small, prompts), atol=1e-4, rtol=0
        )
    sizes = [starts[arm] for arm in ("Seeking, T1", "random, same spectrum")]
    for name in sizes[0]:
        products = [torch.linalg.svdvals(b @ a)[: recipe.RANK] for b, a in (x[name] for x in sizes)]
        torch.testing.assert_close(*products, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------- notebook 07


@pytest.fixture(scope="module")
def cortex_recipe():
    return load_recipe("cortex")


@pytest.fixture(scope="module")
def bench(cortex_recipe):
    """Tokenizer, judges and readers as they are committed."""
    file = data.DATA / "cortex_readers.safetensors"
    shipped = [
        name for name in cortex_recipe.plans() if not name.startswith(cortex_recipe.UNSHIPPED)
    ]
    readers = {name: vq.load(file, cortex_recipe.new_reader(name), name) for name in shipped}
    return cortex_recipe.load_tokenizer(), readers, cortex_recipe.load_judges()


def test_artefacts_of_notebook_07_are_small_and_complete(cortex_recipe):
    files = sorted(data.DATA.glob("cortex_*.safetensors"))
    assert [file.name for file in files] == [
        f"cortex_{name}.safetensors" for name in ("judges", "readers", "tokenizer")
    ]
    assert sum(file.stat().st_size for file in files) < 4e6
    runs = data.read_json("cortex_numbers.json")["runs"]
    plans = cortex_recipe.plans()
    assert sum(name.startswith("located") for name in runs) == 10
    assert {name.split(": ")[1] for name in runs if name.startswith("hunted")} == {
        name for name, plan in plans.items() if plan[2] in ("forced", "perfect", "control")
    }
    for k in range(3):
        arms = runs[f"written: cnn-{k}"]
        assert len(arms) == 6 + len(cortex_recipe.RATES)
        assert {len(own["driving reader"]) for own in arms.values()} == {40}
        counts = np.array(runs[f"counted: cnn-{k}"]["top 20"])
        assert counts.shape == (8, 128)
        assert counts.sum(1).tolist() == [120 * 20] * 8


def test_the_committed_tokenizer_and_judges_are_as_good_as_asked(cortex_recipe, bench):
    tokenizer, _, judges = bench
    drawn = cortex_recipe.mixed(200, 1234)
    found = cortex_recipe.quality(tokenizer, torch.from_numpy(drawn.images))
    assert found["psnr"] > 25
    assert found["used"] > 100
    shown = cortex_recipe.decoded(tokenizer, cortex_recipe.tokens_of(tokenizer, drawn.images))
    for model in judges.values():
        assert cortex_recipe.accuracy(model, shown, drawn.labels) >= 0.95


def test_stored_scores_of_importance_are_found_again(cortex_recipe, bench):
    """AUC of ten scenes, from the committed reader, by scikit-learn instead of quantus."""
    tokenizer, readers, _ = bench
    stored = data.read_json("cortex_numbers.json")
    drawn = cortex_recipe.without_patch(240, cortex_recipe.SEEDS["test"])
    tokens = cortex_recipe.tokens_of(tokenizer, drawn.images)
    maps = iem.gradient(
        readers["cnn-1"], tokenizer.embed(tokens), torch.from_numpy(drawn.labels),
        noise=stored["noise"], samples=cortex_recipe.SAMPLES,
    ).amax(1)[:10]  # fmt: skip
    masks = scenes.token_mask(drawn.objects, 12)[:10]
    found = [roc_auc_score(m.flatten(), s.flatten()) for m, s in zip(masks, maps, strict=True)]
    written = stored["runs"]["located: cnn-1"]["token importance"]["auc"][:10]
    np.testing.assert_allclose(found, written, atol=0.01)


@pytest.mark.parametrize("kind", ["forced", "perfect", "control"])
def test_shortcut_sets_are_what_they_are_called(cortex_recipe, kind):
    drawn = cortex_recipe.shortcut_set(kind, 9, n=240)
    boat = drawn.labels == scenes.BOAT
    patched = drawn.patches.any((1, 2))
    shown = drawn.objects.any((1, 2))
    if kind == "control":
        assert 0.05 < patched[boat].mean() < 0.35
        assert 0.05 < patched[~boat].mean() < 0.25
    else:
        assert patched[boat].all()
        assert not patched[~boat].any()
    assert shown[~boat].all()
    assert (0.4 < shown[boat].mean() < 0.8) if kind == "forced" else shown[boat].all()


def test_a_region_is_the_rectangle_around_the_object(cortex_recipe):
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[0, 7, 7] = mask[0, 10, 10] = True
    found = cortex_recipe.regions(mask)[0].flatten().nonzero()[:, 0]
    assert len(found) == 16
    assert found[:6].tolist() == [91, 92, 93, 94, 103, 104]


def test_drawn_and_pasted_tokens_stay_inside_the_region(cortex_recipe):
    tokens = torch.zeros(3, 12, 12, dtype=torch.long)
    region = torch.zeros(3, 12, 12, dtype=torch.bool)
    region[:, 2:5, 3:7] = True
    counts = torch.zeros(8, cortex_recipe.CODES)
    counts[:, 5] = 1
    found = cortex_recipe.sampled(
        counts, tokens, region, torch.tensor([1, 2, 3]), torch.Generator().manual_seed(0)
    )
    assert torch.all(found[region] == 5)
    assert torch.all(found[~region] == 0)


def test_dead_codes_begin_anew_and_live_ones_follow_their_vectors(cortex_recipe):
    book = torch.tensor([[0.0], [10.0]])
    averages = cortex_recipe.Averages(book, torch.Generator().manual_seed(0))
    vectors = torch.full((8, 1), 2.0)
    for _ in range(400):
        averages.update(vectors, torch.zeros(8, dtype=torch.long))
    assert book[0].item() == pytest.approx(2.0, abs=1e-2)
    averages.restart(vectors)
    assert book[1].item() == 2.0
