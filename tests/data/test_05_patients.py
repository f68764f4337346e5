"""The recipe of case study 2 of notebook 05: which patients, which changes, which seeds."""

import json
import re
import zlib
from collections import Counter

import numpy as np
import pytest

from helpers import data

HERE = data.folder("05")
SYSTEMS = ("smollm2-135m", "4-bits", "gemma3-270m")


@pytest.fixture(scope="module")
def recipe():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)  # it imports its neighbour, as a script does
        yield data.module("05", "make_patients")


@pytest.fixture(scope="module")
def patients(recipe):
    """(number, patient, random numbers that go on) of many more than the recipe draws."""

    def drawn():
        for i in range(600):
            rng = np.random.default_rng([1, i])
            yield i, recipe.draw_patient(rng), rng

    return drawn


def differing(a, b):
    return [field for field in a if a[field] != b[field]]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("AGES", {40: 0, 49: 0, 50: 1, 64: 1, 65: 2, 79: 2}),
        ("PRESSURES", {110: 0, 129: 0, 130: 1, 159: 1, 160: 2, 179: 2}),
        ("CHOLESTEROLS", {3.5: 0, 4.9: 0, 5.0: 1, 6.4: 1, 6.5: 2, 8.5: 2}),
    ],
)
def test_a_border_belongs_to_the_class_above(recipe, what, expected):
    borders = getattr(recipe, what)
    assert {value: recipe.risk_class(value, borders) for value in expected} == expected


def test_patients_are_drawn_from_the_whole_range(recipe, patients):
    drawn = [patient for _, patient, _ in patients()]
    for what, borders in (
        ("age", recipe.AGES),
        ("pressure", recipe.PRESSURES),
        ("cholesterol", recipe.CHOLESTEROLS),
    ):
        values = [patient[what] for patient in drawn]
        assert borders[0] <= min(values) and max(values) <= borders[-1]
        assert {recipe.risk_class(value, borders) for value in values} == {0, 1, 2}
    assert {patient["name"] for patient in drawn} == {*recipe.NAMES}
    for fact in ("diabetes", "smoking", "family"):
        assert 0.4 < np.mean([patient[fact] for patient in drawn]) < 0.6
    assert json.loads(json.dumps(drawn)) == drawn


@pytest.mark.parametrize(
    ("what", "step", "borders"), [("age", 2, "AGES"), ("pressure", 5, "PRESSURES")]
)
def test_a_nudge_is_one_step_within_the_class(recipe, what, step, borders):
    borders, moves = getattr(recipe, borders), Counter()
    for old in range(borders[0], borders[-1]):
        for seed in range(8):
            rng = np.random.default_rng([old, seed])
            new = recipe.nudged({what: old, "name": "Ruth"}, what, step, borders, rng)
            assert new["name"] == "Ruth" and borders[0] <= new[what] < borders[-1]
            assert recipe.risk_class(new[what], borders) == recipe.risk_class(old, borders)
            moves[new[what] - old] += 1
    assert {*moves} == {-step, step} and min(moves.values()) > 0.4 * sum(moves.values())


def test_cholesterol_moves_to_a_class_that_is_far_away(recipe):
    borders, seen = recipe.CHOLESTEROLS, set()
    for old in np.arange(35, 86) / 10:
        for seed in range(20):
            patient = {"cholesterol": float(old), "name": "Ruth"}
            new = recipe.other_class(patient, np.random.default_rng(seed))
            assert differing(patient, new) == ["cholesterol"]
            assert borders[0] < new["cholesterol"] < borders[-1]
            assert new["cholesterol"] == round(new["cholesterol"], 1)
            seen.add(tuple(recipe.risk_class(p["cholesterol"], borders) for p in (patient, new)))
    assert seen == {(0, 2), (2, 0), (1, 0), (1, 2)}


def test_each_change_is_of_one_field_and_says_which(recipe, patients):
    for i, patient, rng in patients():
        before = dict(patient)
        changed = recipe.changes(i, patient, rng)
        assert patient == before and [*changed] == ["name", "small", "clinical"]
        for what, new in changed.values():
            assert differing(patient, new) == [what]
        assert changed["name"][1]["name"] in recipe.NAMES
        assert changed["small"][0] in ("age", "pressure")
        assert changed["clinical"][0] in recipe.CLINICAL


def test_sixty_patients_have_each_fact_twenty_times(recipe, patients):
    own = [recipe.changes(i, p, rng) for i, p, rng in patients() if i < recipe.N_PATIENTS]
    assert len(own) == 60
    assert Counter(c["clinical"][0] for c in own) == dict.fromkeys(recipe.CLINICAL, 20)
    assert Counter(c["small"][0] for c in own) == {"age": 30, "pressure": 30}
    both = Counter((c["small"][0], c["clinical"][0]) for c in own)
    assert len(both) == 6 and {*both.values()} == {10}  # neither depends on the other


def test_sentences_say_what_the_patient_has(recipe, patients):
    pattern = re.compile(
        r"(\w+) is (\d+) years old\. Systolic blood pressure: (\d+) mmHg\. Total cholesterol: "
        r"(\d\.\d) mmol/L\. Diabetes: (yes|no)\. Smoker: (yes|no)\. "
        r"Heart disease in the family: (yes|no)\."
    )
    for i, patient, rng in patients():
        said = list(pattern.fullmatch(recipe.facts(patient)).groups())
        flags = ["yes" if patient[k] else "no" for k in ("diabetes", "smoking", "family")]
        values = [str(patient[k]) for k in ("name", "age", "pressure", "cholesterol")]
        assert said == values + flags
        arms = recipe.arms_of(i, patient, rng)
        prompts = {arm: text for arm, (_, text) in arms.items()}
        assert prompts["base"] == prompts["same prompt"] == recipe.question(patient)
        assert len({*prompts.values()}) == len(prompts) - 1
        assert all(
            text.startswith(recipe.facts(patient))
            for arm, text in prompts.items()
            if arm in ("base", "other question")
        )
        assert not re.search(r"\b(he|she|his|her|him)\b", " ".join(prompts.values()))


def unit(z):
    return z / np.linalg.norm(z)


def by_name(texts):
    """Vectors of texts, in which a name counts more than all else."""
    found = []
    for text in texts:
        z = np.random.default_rng(zlib.crc32(text.encode())).normal(size=6)
        z[:2] += 20 * ("Ruth" in text), 20 * ("James" in text)
        found.append(unit(z))
    return np.array(found)


def test_an_echo_is_found_as_answered_and_gone_when_blanked(recipe):
    told = [f"should rest for {i} days." for i in range(recipe.K)]
    other = [f"may fly a kite of {i} m." for i in range(recipe.K)]
    answers = {
        "base": [f"James {text}" for text in told],
        "name": [f"Ruth {text}" for text in told],
        "clinical": [f"James {text}" for text in other],
    }
    found = json.loads(json.dumps(recipe.compared(answers, by_name, 0)))
    assert [*found] == ["name", "clinical"]
    for test in ("algorithm 1", "energy"):
        assert found["name"]["as answered"][test]["p"] == 1 / (1 + recipe.N_PERMUTATIONS)
        assert found["name"]["blanked"][test]["p"] > 0.2
        assert found["clinical"]["as answered"][test]["p"] > 0.01
    assert found["name"]["blanked"]["energy"]["p"] == 1  # word by word the same answers
    assert found["name"]["blanked"]["energy"]["statistic"] == 0


class Kept:
    """Steps that are kept nowhere."""

    def __init__(self, *_):
        pass

    def run_all(self, tasks):
        return {name: compute() for name, compute in tasks.items()}


@pytest.fixture(scope="module")
def asked(recipe):
    """What every system would write, no model being asked: (content, questions, rounding)."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in recipe.SYSTEMS:
            questions, rounded, written = [], [], []

            def ask(model, tokenizer, text, n, tokens, seed, questions=questions):
                questions.append((text, seed))
                assert (n, tokens) == (recipe.K, recipe.TOKENS)
                return [f"answer {row}, seed {seed}" for row in range(n)]

            patch.setattr(recipe, "ask", ask)
            patch.setattr(recipe, "compared", lambda answers, embed, seed: {})
            patch.setattr(recipe, "Steps", Kept)
            patch.setattr(recipe, "versions", dict)
            patch.setattr(recipe.models, "load", lambda own: (own, own))
            patch.setattr(
                recipe, "round_weights", lambda m, bits, rounded=rounded: rounded.append((m, bits))
            )
            patch.setattr(recipe, "write", lambda *own, written=written: written.append(own))
            recipe.system(name)
            ((path, content),) = written
            assert path == HERE / f"patients_{name}.json"
            found[name] = json.loads(json.dumps(content)), questions, rounded
    return found


def test_the_patients_are_the_same_for_every_system(recipe, asked):
    assert tuple(asked) == SYSTEMS
    every = [content["patients"] for content, _, _ in asked.values()]
    assert [len(own) for own in every] == [60] * len(SYSTEMS)
    for same in zip(*every, strict=True):
        assert all(own["patient"] == same[0]["patient"] for own in same)
        for arm in {"base", "name", "small", "clinical"}:
            texts = {own["arms"][arm]["prompt"] for own in same}
            assert len(texts) == 1
    assert len({json.dumps(own["patient"]) for own in every[0]}) == 60


def test_no_two_arms_share_a_seed(asked):
    seeds = [
        arm["seed"]
        for content, _, _ in asked.values()
        for own in content["patients"]
        for arm in own["arms"].values()
    ]
    assert len({*seeds}) == len(seeds) > 700
    assert min(seeds) >= 3_000_000  # those of the other banks are smaller
    for content, questions, _ in asked.values():
        arms = [arm for own in content["patients"] for arm in own["arms"].values()]
        assert questions == [(arm["prompt"], arm["seed"]) for arm in arms]


def test_the_arms_that_check_the_test_are_asked_about_the_first_patients(recipe, asked):
    for name, (content, _, _) in asked.items():
        n = recipe.N_CONTROLLED.get(name, 10)
        assert n >= 10
        for i, own in enumerate(content["patients"]):
            assert (
                {*recipe.CONTROLS_OF_THE_TEST} <= {*own["arms"]} if i < n else len(own["arms"]) == 4
            )
            assert all(("answers" in arm) == (i < recipe.N_SHOWN) for arm in own["arms"].values())


def test_only_the_rounded_system_is_rounded(asked):
    assert {name: rounded for name, (_, _, rounded) in asked.items()} == {
        "smollm2-135m": [],
        "4-bits": [("smollm2-135m", 4)],
        "gemma3-270m": [],
    }


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_stored_patients_are_those_of_the_recipe(recipe, asked, name):
    if not (HERE / f"patients_{name}.json").exists():
        pytest.skip("the recipe has not run yet")
    stored, (content, _, _) = data.read_json(HERE / f"patients_{name}.json"), asked[name]
    for own, expected in zip(stored["patients"], content["patients"], strict=True):
        assert own["patient"] == expected["patient"]
        for arm, about in expected["arms"].items():
            for key in ("changed", "prompt", "seed"):
                assert own["arms"][arm][key] == about[key]
        for arm, about in own["arms"].items():
            numbers = [view for key, view in about.items() if key in ("as answered", "blanked")]
            assert len(numbers) == (0 if arm == "base" else 2)
            assert all(0 < view[test]["p"] <= 1 for view in numbers for test in view)
