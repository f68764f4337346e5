"""The recipes of notebook 06 and what they wrote."""

import copy
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import CONFIGS, one_thread  # noqa: F401
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from helpers import data, lm, training, transfer

HERE = data.folder("06")

recipe, twins = data.module("06", "make_numbers"), data.module("06", "make_twins")


@pytest.fixture(scope="module")
def numbers():
    return data.read_json(HERE / "numbers.json")


@pytest.fixture(scope="module")
def real():
    return data.read_json(HERE / "twins.json")


@pytest.fixture(scope="module")
def stored_family():
    """Models of the first seed, and the facts held out from its student."""
    seed = recipe.SEEDS[0]
    kept, world = transfer.load(HERE / "models" / f"{seed}.safetensors"), transfer.world(seed)
    models = recipe.Family(world, kept["T0"], kept["T1"], kept["small"], kept["other"], None)
    return models, transfer.split(world, seed), seed


@pytest.fixture(scope="module")
def fresh():
    """Untrained models of both sizes."""
    t0, t1 = transfer.tiny_llama(seed=1), transfer.tiny_llama(seed=2)
    small = transfer.tiny_llama(seed=3, width=48, layers=3, ffn=112)
    return recipe.Family(transfer.world(5), t0, t1, small, t0, t0)


def close(found, stored, atol):
    """Nested dicts with the same keys and nearly the same numbers."""
    assert set(found) == set(stored)
    for key, own in found.items():
        if isinstance(own, dict):
            close(own, stored[key], atol)
        else:
            np.testing.assert_allclose(own, stored[key], atol=atol, err_msg=key)


# ------------------------------------------------------------------------------------ the toy world


def test_artefacts_of_notebook_06_are_complete(numbers):
    assert list(numbers["seeds"]) == [str(seed) for seed in recipe.SEEDS]
    assert list(numbers["tuning"]) == [str(seed) for seed in recipe.TUNING_SEEDS]
    assert not set(numbers["tuning"]) & set(numbers["seeds"])
    assert (tuple(numbers["scales"]), tuple(numbers["angles"])) == (recipe.SCALES, recipe.ANGLES)
    for own in numbers["seeds"].values():
        assert set(own["ladder"]) == set(own["ladder, small start"])
        assert len(own["ladder"]) == 13
        assert set(own["drift"]) == {"0", *(str(steps) for steps in recipe.DRIFT)}
        assert [len(x["by scale"]) for x in own["drift"].values()] == [len(recipe.SCALES)] * 5
        assert len(own["path"]) == len(recipe.ANGLES)
        before = {arm: len(states) for arm, states in own["before injection"].items()}
        teachers = dict.fromkeys(["T1", "T0", "noise", "its own"], recipe.ALIGN_STEPS + 1)
        assert before == teachers | {"T1, no penalty, 60 steps": 1}
        assert set(own["unaligned"]) == {"T1", "noise"}
        assert set(own["into T0"]) == {"LaTen", "true difference, located tenth"}
        kept = {kind: len(ratios) for kind, ratios in own["size of the difference"].items()}
        assert kept == dict.fromkeys(transfer.MODULES, 4)


def test_every_arm_of_notebook_06_is_there_at_every_rate_and_step(numbers):
    lora = [f"{lr:g}" for lr in recipe.LORA_RATES]
    few = [f"{lr:g}" for lr in recipe.FEW_RATES]
    assert set(recipe.PUBLISHED) < set(recipe.LOOKS)
    for own in [*numbers["seeds"].values(), *numbers["tuning"].values()]:
        arms = own["after injection"]
        expected = dict.fromkeys(numbers["rates"]["lora"], lora)
        expected["U = 0, V times 3"] = [f"{recipe.USUAL_RATE:g}"]
        assert {arm: list(rates) for arm, rates in arms.items()} == expected
        looks = {tuple(steps) for rates in arms.values() for steps in rates.values()}
        assert looks == {tuple(str(step) for step in recipe.LOOKS)}
        ways = own.get("language", own)["80 examples"]
        assert {way: list(rates) for way, rates in ways.items()} == dict.fromkeys(
            numbers["rates"]["80 examples"], few
        )


def test_the_rates_of_notebook_06_follow_from_the_tuning_seeds(numbers):
    assert recipe.chosen_rates(list(numbers["tuning"].values())) == numbers["rates"]


def test_a_rate_is_chosen_by_its_loss_among_those_that_keep_what_was_known():
    def state(nll, A=1.0):
        return {"nll": nll, "A": A}

    def run(better):
        """The best loss of few examples costs A; sums over steps decide for LoRA."""
        late = {"23": state(9), "47": state(1), "78": state(1), "160": state(0)}
        even = {"23": state(3), "47": state(3), "78": state(3), "160": state(9)}
        return {
            "translator": {"0.1": state(2, 0.98), "0.01": state(better, 1)},
            "after injection": {"PiSSA": {"0.1": late, "0.01": even}},
            "80 examples": {
                "labels": {"1": state(0.1, 0.97), "0.1": state(2, 0.976), "0.01": state(4)}
            },
        }

    found = recipe.chosen_rates([run(2.5), run(2.1)])  # losses of 2 against 2.3
    assert found == {"translator": 0.1, "lora": {"PiSSA": 0.01}, "80 examples": {"labels": 0.1}}
    found = recipe.chosen_rates([run(1.1), run(2.5)])  # 2 against 1.8: now A must be kept at 0.995
    assert found["translator"] == 0.01 and found["80 examples"]["labels"] == 0.01


def test_what_is_nothing_but_the_teacher_is_written_alike_wherever_it_stands(numbers):
    for own in numbers["seeds"].values():
        t0, t1 = (own["models"][name] for name in ("T0", "T1"))
        scales = recipe.SCALES.index(0.0), recipe.SCALES.index(1.0)
        start = own["drift"]["0"]["by scale"]
        assert [start[i] for i in scales] == [list(t0.values()), list(t1.values())]
        for rung in (own["ladder"]["T0"], own["path"][0]):
            close(rung, {"before": t0, "after": t1, "cka": 1, "cosine": 1}, 1e-4)
        mapped = own["ladder"]["twin, true map"]
        close(mapped["before"], t0, 0.01)
        close(mapped["after"], t1, 0.01)
        assert mapped["cka"] == pytest.approx(1, abs=1e-3) and abs(mapped["cosine"]) < 0.05
        for states in own["before injection"].values():  # nothing is translated yet
            if len(states) > 1:
                close(states[0], own["student"], 0.05)


@pytest.mark.parametrize("seed", recipe.KEPT)
def test_stored_models_of_notebook_06_know_what_is_written_of_them(seed, numbers):
    kept = transfer.load(HERE / "models" / f"{seed}.safetensors")
    written = numbers["seeds"][str(seed)]
    world = transfer.world(seed)
    assert set(kept) == set(written["models"])
    for name, model in kept.items():
        close(recipe.knows(model, world), written["models"][name], 0.02)


def test_only_the_models_of_the_first_seeds_are_stored():
    stored = {path.stem for path in (HERE / "models").iterdir()}
    assert stored == {str(seed) for seed in recipe.KEPT} and len(recipe.KEPT) == 5


def test_stored_models_give_the_stored_numbers_again(stored_family, numbers):
    """In half precision, so nearly."""
    models, split, seed = stored_family
    written = numbers["seeds"][str(seed)]
    close(recipe.looked(models.small, split, models), written["student"], 0.01)
    close(recipe.unaligned(models, seed), written["unaligned"], 0.02)
    close(recipe.module_likeness(models), written["modules"], 0.005)
    delta = transfer.difference(models.t1, models.t0)
    place = transfer.random_coordinates(models.t0, seed)
    twin = transfer.in_coordinates(models.t0, place)
    rungs = {
        "twin, as it is": recipe.rung(models, twin, delta),
        "other seed, as it is": recipe.rung(models, models.other, delta),
    }
    close(rungs, {name: written["ladder"][name] for name in rungs}, 0.02)


def test_the_stored_student_learns_again_what_is_written(stored_family, numbers):
    models, split, seed = stored_family
    written, lr = numbers["seeds"][str(seed)], numbers["rates"]["translator"]
    vectors = recipe.translations(models, split, seed)["T1"]
    steps = recipe.align(models, split, vectors, seed, lr=lr, steps=4)
    for found, stored in zip(steps, written["before injection"]["T1"][:5], strict=True):
        close(recipe.looked(found, split, models), stored, 0.03)
    ((step, found),) = recipe.fine_tuned(
        models.small, None, split, seed, recipe.USUAL_RATE, looks=[5]
    )
    stored = written["after injection"]["usual LoRA"][f"{recipe.USUAL_RATE:g}"][str(step)]
    close(recipe.looked(found, split, models), stored, 0.03)


def test_a_model_is_like_itself_module_by_module(fresh):
    found = recipe.module_likeness(fresh)
    for kind in transfer.MODULES:
        itself = np.array(found["itself"][kind])
        np.testing.assert_allclose(np.diag(itself), 1, atol=1e-3)
        np.testing.assert_allclose(itself, itself.T, atol=1e-3)
        assert itself.max() <= 1 and found["other seed"][kind] == found["itself"][kind]
        assert np.shape(found["S"][kind]) == (4, 3)  # T0's layers, the student's layers


def test_an_injected_difference_survives_saving(tmp_path):
    """An attribute beside the weight would not."""
    model = transfer.tiny_llama(seed=1)
    name = "model.layers.0.mlp.up_proj.weight"
    changed = transfer.apply_delta(model, {name: torch.ones(160, 64)})
    tensors = {f"changed/{key}": x.clone() for key, x in changed.state_dict().items()}
    save_file(tensors, tmp_path / "saved.safetensors")
    again = transfer.load(tmp_path / "saved.safetensors")["changed"].state_dict()
    assert torch.allclose(again[name] - model.state_dict()[name], torch.ones(160, 64))


def test_the_arms_of_notebook_06_start_from_the_same_function(fresh):
    seed, small = 5, fresh.small
    prompts = fresh.world["A"].prompts[:20]
    starts = recipe.starts(fresh, transfer.split(fresh.world, seed), seed)
    assert len(starts) == 5
    starts["wider"] = recipe.wider(transfer.with_lora(small, recipe.RANK, seed), 3)
    for factors in starts.values():
        started = transfer.with_lora(small, recipe.RANK, seed, factors)
        torch.testing.assert_close(
            training.last_logits(started, prompts),
            training.last_logits(small, prompts),
            atol=1e-4,
            rtol=0,
        )
    sizes = [starts[arm] for arm in ("Seeking, T1", "random, same spectrum")]
    for name in sizes[0]:
        products = [torch.linalg.svdvals(b @ a)[: recipe.RANK] for b, a in (x[name] for x in sizes)]
        torch.testing.assert_close(*products, atol=1e-4, rtol=1e-4)


def test_a_wider_start_is_the_usual_one_with_only_one_factor_larger(fresh):
    usual = transfer.with_lora(fresh.small, recipe.RANK, 0)
    found = recipe.wider(usual, 3)
    assert set(found) == set(transfer.changed_weights(fresh.small))
    started = transfer.with_lora(fresh.small, recipe.RANK, 1, found)
    for name in found:
        layers = [m.get_submodule(name.removesuffix(".weight")) for m in (usual, started)]
        own, wide = (layer.lora_A["default"].weight for layer in layers)
        torch.testing.assert_close(wide, 3 * own)
        assert own.any() and not layers[1].lora_B["default"].weight.any()
        torch.testing.assert_close(layers[1].base_layer.weight, layers[0].base_layer.weight)


# -------------------------------------------------------------------------------- before injection


def student_weights(models, split, **settings):
    """The changed matrices of the student after every step, T1's neurons translated."""
    vectors = recipe.translations(models, split, 0)["T1"]
    steps = recipe.align(models, split, vectors, 0, lr=0.03, **settings)
    return vectors, [transfer.changed_weights(found) for found in steps]


def test_alignment_begins_with_what_the_untrained_translator_adds(fresh):
    split = transfer.split(fresh.world, 0)
    vectors, (start, *_) = student_weights(fresh, split, steps=1)
    student, widths = fresh.small, (fresh.t1.config.hidden_size, fresh.small.config.hidden_size)
    located = transfer.locate(student, split["extract"])
    places = transfer.places_of(located, [0, 1, 2], recipe.counts(student))
    with torch.no_grad():
        translated = transfer.Translator(*widths, std=1e-2, seed=0)(vectors)
    expected = transfer.injected(student, translated, places)
    assert set(start) == set(expected)
    assert all(torch.equal(start[name], own) for name, own in expected.items())


def test_a_large_penalty_leaves_the_student_alone_and_none_lets_it_move(fresh):
    split, old = transfer.split(fresh.world, 0), transfer.changed_weights(fresh.small)

    def moved(weight):
        *_, last = student_weights(fresh, split, steps=8, weight=weight)[1]
        return sum(float((own - old[name]).detach().norm()) for name, own in last.items())

    free, usual, held = (moved(weight) for weight in (0.0, 1000.0, 1e9))
    assert held < 0.1 * free and held <= usual < free


def test_noise_has_the_size_of_what_it_stands_for_and_zeros_widen_the_students_own(fresh):
    found = recipe.translations(fresh, transfer.split(fresh.world, 0), 0)
    width = fresh.small.config.hidden_size
    for kind, own in found["T1"].items():
        assert {x[kind].shape for x in found.values()} == {own.shape}
        assert float(found["noise"][kind].std() / own.std()) == pytest.approx(1, abs=0.1)
        assert not found["its own"][kind][..., width:].any()
        assert found["its own"][kind][..., :width].any()


def test_the_true_difference_is_added_in_a_tenth_of_its_places_only(fresh, monkeypatch):
    """The second model that is looked at."""
    seen = []
    monkeypatch.setattr(recipe, "looked", lambda model, *_: seen.append(model))
    monkeypatch.setattr(recipe, "align", lambda *_, **__: [fresh.t0])
    recipe.into_t0(fresh, 0, 0.01)
    delta, added = (transfer.difference(m, fresh.t0) for m in (fresh.t1, seen[1]))
    for name, own in added.items():
        kept = own != 0
        torch.testing.assert_close(own[kept], delta[name][kept])
        lines = kept.all(1) if transfer.layer_and_kind(name)[1] in ("up_proj", "v_proj") else None
        lines = kept.all(0) if lines is None else lines
        ffn = "mlp" in name
        assert lines.sum() == (16 if ffn else 6) and kept.sum() == lines.sum() * 64


# --------------------------------------------------------------------------------- published sizes


def expected_size(wide):
    """Weights of 1e-5, inputs of .02, and a ReLU that keeps half of the second moment."""
    return 0.02 * 1e-5**2 * wide / math.sqrt(2)


def test_a_translator_grows_out_of_what_16_bits_hold():
    found = recipe.grown(3e-4, steps=4, wide=512, narrow=256)
    sizes, zeros = zip(*found, strict=True)
    assert len(found) == 5
    assert sizes[0] == pytest.approx(expected_size(512), rel=0.05) and zeros[0] == 1
    assert list(sizes) == sorted(sizes) and sizes[-1] > 1e4 * sizes[0]
    assert list(zeros) == sorted(zeros, reverse=True) and zeros[-1] < 0.01
    slower = recipe.grown(3e-5, steps=4, wide=512, narrow=256)
    assert slower[0] == found[0]
    assert all(slow < fast for (slow, _), (fast, _) in zip(slower[1:], found[1:], strict=True))
    assert recipe.grown(3e-4, steps=1, wide=512, narrow=256) == found[:2]


def test_stored_sizes_begin_where_the_weights_do():
    stored = data.read_json(HERE / "sizes.json")["grown"]
    assert list(stored) == ["3e-05", "0.0003"]
    for steps in stored.values():
        assert len(steps) == 9
        assert steps[0][0] == pytest.approx(expected_size(5120), rel=0.01)
        sizes = [size for size, _ in steps]
        assert sizes == sorted(sizes)
        least = 2**-25  # half of the smallest number of 16 bits
        zeros = math.erf(least / (steps[0][0] * math.sqrt(2)))
        assert steps[0][1] == pytest.approx(zeros, abs=1e-4)
        assert steps[-1][1] < 1e-4


# ------------------------------------------------------------------------------ facts of SmolLM2


def blank(template, text):
    """What stands where the template has its place, None for another text."""
    found = re.fullmatch(re.escape(template).replace(r"\{\}", "([A-Z][a-z]+)"), text)
    return found and found[1]


def test_invented_facts_are_the_same_again_and_of_no_other_seed():
    assert twins.invented(3) == twins.invented(3)
    prompts = [prompt for seed in twins.SEEDS for prompt in twins.invented(seed)[0]]
    assert len(set(prompts)) == 12 * len(twins.SEEDS)


@pytest.mark.parametrize("seed", twins.SEEDS)
def test_twelve_facts_are_invented_of_three_countries_that_no_text_names(seed):
    prompts, reworded, answers = twins.invented(seed)
    assert [len(own) for own in (prompts, reworded, answers)] == [12, 12, 12]
    asked = set()
    for i, (first, second, listed) in enumerate(twins.RELATIONS.values()):
        rows = slice(3 * i, 3 * i + 3)
        asked |= {tuple(blank(first, prompt) for prompt in prompts[rows])}
        asked |= {tuple(blank(second, prompt) for prompt in reworded[rows])}
        own = set(answers[rows])
        assert len(own) == 3 and own <= {f" {answer}" for answer in listed.split()}
    (countries,) = asked
    assert None not in countries and len(set(countries)) == 3
    texts = [*data.read_json(data.folder("02") / "text.json")["texts"], *twins.KNOWN]
    texts += [text for own in twins.RELATIONS.values() for text in own]
    assert not [name for name in countries if name.lower() in " ".join(texts).lower()]


def test_facts_differ_from_what_the_model_knows_and_answers_are_no_prompts():
    listed = [answers.split() for _, _, answers in twins.RELATIONS.values()]
    assert [len(set(own)) for own in listed] == [12] * 4
    everything = {f" {answer}" for own in listed for answer in own}
    assert len(everything) == 48 and not everything & set(twins.KNOWN.values())


# ------------------------------------------------------------------- the ladder, on a tiny Llama


def of_words(texts):
    """A tokenizer of whole words with their spaces."""
    pattern = " ?[A-Za-z]+|[,.]"
    words = ["<unk>", *dict.fromkeys(word for text in texts for word in re.findall(pattern, text))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(scope="module")
def lab():
    """A folded tiny Llama whose heads share values, random text, and facts that are learnt."""
    found = twins.Lab.__new__(twins.Lab)
    facts = [text for own in twins.invented(0) for text in own]
    found.tokenizer = of_words([*facts, *twins.KNOWN, *twins.KNOWN.values()])
    config = CONFIGS["llama"]()
    config.update({"vocab_size": len(found.tokenizer), "initializer_range": 0.2})
    torch.manual_seed(0)
    found.base = transfer.folded(LlamaForCausalLM(config))
    text = torch.randint(1, config.vocab_size, (40, 16))  # 0 is padding, and all zeros
    found.judged, found.mapped, found.text = text[:2], text[2:18], text[18:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twins, "STEPS", 60)
        patch.setattr(twins, "RATE", 1e-2)
        assert all(own.any() for own in found.delta(0).values())
    return found


def test_teaching_changes_a_copy_in_the_matrices_of_transfer_until_it_knows(lab):
    before = copy.deepcopy(lab.base).state_dict()
    delta = lab.delta(0)
    assert {transfer.layer_and_kind(name)[1] for name in delta} == set(transfer.MODULES)
    assert twins.answered(lab.base, lab.tokenizer, 0)["first"]["taught"] <= 3
    found = twins.answered(transfer.apply_delta(lab.base, delta), lab.tokenizer, 0)
    assert found["first"]["taught"] == 12 and min(found["p"]["taught"]) > 0.5
    sizes = [len(own) for own in found["p"].values()]
    assert list(found["p"]) == ["taught", "reworded", "known"] and sizes == [12, 12, 10]
    assert all(torch.equal(own, before[name]) for name, own in lab.base.state_dict().items())


def test_prompts_of_unequal_length_are_scored_as_each_alone(lab):
    rows = lm.prompt_ids(lab.tokenizer, list(twins.KNOWN))
    places = torch.tensor([[len(row) - 1] for row in rows])
    assert len(set(map(len, rows))) > 3
    padded = torch.cat([lm.padded_rows(lab.base, rows, range(len(rows))), places], 1)
    with torch.no_grad():
        found = twins.last_scores(lab.base, padded)
        alone = [training.last_logits(lab.base, torch.tensor([row]))[0] for row in rows]
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=0)


def test_reading_trains_in_place_all_but_the_norms(lab, monkeypatch):
    monkeypatch.setattr(twins, "READING_RATE", 3e-3)
    found, text = copy.deepcopy(lab.base), lab.text[:4]
    before = float(lm.segment_nll(found, text).mean())
    assert list(twins.read_on(found, text, steps=20)) == list(range(1, 21))
    assert float(lm.segment_nll(found, text).mean()) < 0.8 * before
    for name, own in found.named_parameters():
        assert torch.equal(own, lab.base.get_parameter(name)) == ("norm" in name)


def test_a_model_is_wholly_like_itself_a_twin_in_its_function_and_a_child_has_no_cosine(lab):
    base, rows = lab.base, lab.judged
    assert twins.likeness(base, base, rows) == {"cosine": 1, "cka": 1}
    twin = transfer.in_coordinates(base, transfer.random_coordinates(base, 0))
    found = twins.likeness(base, twin, rows)
    assert found["cka"] == pytest.approx(1, abs=1e-3) and abs(found["cosine"]) < 0.1
    units = [torch.arange(40) for _ in range(3)]
    child = transfer.in_coordinates(base, transfer.identity(base)._replace(units=units))
    found = twins.likeness(base, child, rows)
    assert found["cosine"] is None and 0 < found["cka"] < 1


def test_nothing_added_leaves_every_answer(lab):
    nothing = {name: torch.zeros_like(own) for name, own in lab.delta(0).items()}
    found = lab.measured(lab.base, 0, nothing)
    assert found["before"] == found["after"]
    assert (found["cosine"], found["cka"]) == (1, 1)
    loss = float(lm.segment_nll(lab.base, lab.judged).mean())
    assert found["after"]["loss"] == pytest.approx(loss, abs=1e-4)


def known(found, when):
    return np.mean(found[when]["p"]["taught"])


def test_a_twin_takes_the_facts_over_in_its_own_coordinates_only(lab):
    rungs = twins.rungs(lab)
    base = rungs["SmolLM2"](0)
    assert base["after"]["first"]["taught"] == 12
    assert known(base, "before") < 0.1 and known(base, "after") > 0.6
    for name in ("twin, true map", "twin, estimated map"):
        found = rungs[name](0)
        for when in ("before", "after"):
            close(found[when], base[when], 5e-3)
    for name in ("twin, as it is", "residual turned"):
        found = rungs[name](0)
        close(found["before"], base["before"], 5e-3)
        assert known(found, "after") < 0.2 and abs(found["cosine"]) < 0.1
    turned = [rungs[f"turned {angle:g}"](0) for angle in twins.ANGLES]
    for values in ([own["cosine"] for own in turned], [known(own, "after") for own in turned]):
        assert values == sorted(values, reverse=True) and values[-1] < 0.5 * values[0]


def test_noise_has_the_size_of_each_matrix_of_the_difference(lab, monkeypatch):
    monkeypatch.setattr(lab, "measured", lambda student, seed, delta: (student, delta))
    student, noise = twins.rungs(lab)["noise"](0)
    assert student is lab.base
    for name, own in lab.delta(0).items():
        torch.testing.assert_close(noise[name].norm(), own.norm())
        assert abs(transfer.flat_cosine(noise[name], own)) < 0.15


@pytest.mark.parametrize("parts", twins.PARTS.values(), ids=str)
def test_only_the_named_parts_of_a_twin_are_new(lab, parts):
    own, drawn = lab.twin(1, *parts), transfer.random_coordinates(lab.base, 1)
    for part, start in transfer.identity(lab.base)._asdict().items():
        wanted = getattr(drawn, part) if part in parts else start
        pairs = zip(getattr(own, part), wanted, strict=True)  # by layer, Q by rows
        assert all(torch.equal(*pair) for pair in pairs)


def test_a_model_that_read_on_is_kept_after_each_number_of_steps(lab):
    found = lab.drifted()
    assert list(found) == list(twins.DRIFT)
    changes = [transfer.difference(model, lab.base) for model in found.values()]
    sizes = [sum(float(own.norm()) for own in change.values()) for change in changes]
    assert 0 < sizes[0] < 0.5 * sizes[1]


@pytest.mark.parametrize(
    ("cut", "shape"), [(("units", 40), (32, 40)), (("directions", 24), (24, 48))]
)
def test_a_child_is_cut_and_healed_and_takes_a_difference_that_is_cut_alike(lab, cut, shape):
    place, child = lab.child(cut)
    assert (child.config.hidden_size, child.config.intermediate_size) == shape
    raw = transfer.in_coordinates(lab.base, place)
    losses = [lm.segment_nll(model, lab.text).mean() for model in (raw, child)]
    assert losses[1] < losses[0]
    found = lab.measured(child, 0, transfer.recoordinate(lab.delta(0), place))
    assert found["cosine"] is None and found["before"] != found["after"]


def test_sizes_are_ratios_of_lengths_with_the_cosine_by_kind_and_layer(lab, monkeypatch):
    part = {name: -0.01 * own.detach() for name, own in transfer.changed_weights(lab.base).items()}
    monkeypatch.setattr(lab, "delta", {0: part}.get)
    assert twins.sizes(lab, 0) == dict.fromkeys(transfer.MODULES, [[0.01, -1.0]] * 3)


# ----------------------------------------------------------------------------- what is stored of it


def test_stored_facts_sizes_and_rungs_are_those_of_their_recipe(real):
    seeds = [str(seed) for seed in twins.SEEDS]
    assert real["facts"] == {seed: twins.invented(int(seed)) for seed in seeds}
    assert list(real["rungs"]) == list(twins.rungs(SimpleNamespace(base=None)))
    assert list(real["sizes"]) == seeds
    for own in real["sizes"].values():
        assert {kind: len(rows) for kind, rows in own.items()} == dict.fromkeys(
            transfer.MODULES, 30
        )
        rows = np.concatenate(list(own.values()))
        assert (rows[:, 0] > 0).all() and (rows[:, 0] < 0.2).all()
        assert (np.abs(rows[:, 1]) < 0.1).all()


def test_stored_answers_are_probabilities_that_agree_with_their_counts(real):
    sizes = {"taught": 12, "reworded": 12, "known": 10}
    for name, own in real["rungs"].items():
        assert list(own) == [str(seed) for seed in twins.SEEDS]
        for found in own.values():
            assert (found["cosine"] is None) == name.startswith("child")
            assert found["cka"] <= 1
            for state in (found["before"], found["after"]):
                assert {kind: len(p) for kind, p in state["p"].items()} == sizes
                for kind, p in state["p"].items():
                    p = np.array(p)
                    assert ((p >= 0) & (p <= 1)).all()
                    assert (p > 0.5001).sum() <= state["first"][kind] <= (p > 1e-3).sum()
                assert 2 < state["loss"] < 12


def test_stored_twins_have_the_function_of_the_model_before_anything_is_added(real):
    rungs = real["rungs"]
    same = ["noise", *twins.PARTS, *(name for name in rungs if name.startswith(("twin", "turned")))]
    assert len(same) == 12
    for name in same:
        for seed, found in rungs[name].items():
            base = rungs["SmolLM2"][seed]
            close(found["before"]["p"], base["before"]["p"], 0.002)
            assert found["before"]["loss"] == pytest.approx(base["before"]["loss"], abs=0.002)
            assert found["cka"] == pytest.approx(1, abs=0.002)
    for seed, found in rungs["twin, true map"].items():
        close(found["after"]["p"], rungs["SmolLM2"][seed]["after"]["p"], 0.02)


def test_smollm2_answers_with_one_token_and_as_is_stored(smollm2, real):
    model, tokenizer = smollm2
    answers = [f" {own}" for _, _, listed in twins.RELATIONS.values() for own in listed.split()]
    for answer in [*answers, *twins.KNOWN.values()]:
        assert len(lm.encode(tokenizer, answer)) == 1, answer
    close(
        twins.answered(model, tokenizer, 0)["p"],
        real["rungs"]["SmolLM2"]["0"]["before"]["p"],
        0.005,
    )
