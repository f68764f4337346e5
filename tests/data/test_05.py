"""The recipes of notebook 05 and what they wrote."""

import json

import numpy as np
import pytest
import torch
from families import build, one_thread, tiny_tokenizer, token_ids  # noqa: F401

from helpers import data, hooks, twosample

released_05 = data.module("05", "released")

HERE = data.folder("05")


BANKS = ("edits", "personas", "neutral", "confirm", "warm", "prompts", "long")
audits, numbers = data.module("05", "make_answers"), data.module("05", "make_numbers")


def stored_arms(part):
    return data.read_json(HERE / f"{part}_smollm2-135m.json")["arms"]


def prompts_of(part):
    return {name: arm["prompt"] for name, arm in stored_arms(part).items()}


def test_arms_of_one_model_have_seeds_of_their_own():
    arms = [arm for part in BANKS for arm in stored_arms(part).values()]
    systems = data.read_json(HERE / "systems.json")["systems"].values()
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
        twosample.embed_texts(arms[arm]["answers"][: numbers.K], *minilm)
        for arm in ("base", "comedian")
    ]
    now = numbers.tested(*z, 7)  # its place among the arms
    stored = data.read_json(HERE / "similarities_smollm2-135m.json")["views"]["MiniLM"]["comedian"]
    for key in ("omega", "energy", "h"):
        assert now[key] == pytest.approx(stored[key], abs=2e-3)
    assert now["energy_z"] == pytest.approx(stored["energy_z"], rel=0.1)


def test_published_answers_give_the_stored_numbers(tutorials_data, minilm):
    found = released_05.published_audits()
    stored = data.read_json(HERE / "published.json")
    assert set(stored["roles"]["answers"]) == set(found["roles"]) - {"doctor"}
    assert {n: len(own["answers"]) for n, own in stored["rephrasings"].items()} == {
        n: len(arms) - 1 for n, arms in found.items() if n != "roles"
    }
    z = [twosample.embed_texts(found["roles"][role], *minilm) for role in ("doctor", "child")]
    now = numbers.tested(*z, 0)
    assert now["h"] == pytest.approx(stored["roles"]["answers"]["child"]["h"], abs=2e-3)
    text = json.dumps(stored)
    assert not any(answer[:60] in text for arm in found["roles"].values() for answer in arm)
