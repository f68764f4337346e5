"""Case study 2 of DBPA: changes that should not matter against changes that should.

    python data/05_dbpa_hypothesis_testing/make_patients.py SYSTEM ...

SYSTEM is one of smollm2-135m, 4-bits (the same with rounded weights) and gemma3-270m. Gemma 3 is a
base model: it is asked "Question: ... Answer:", and the first line of its answer is kept.

Patients are drawn at random; each is asked about as he is and after five changes, 20 answers each.
Both tests compare every change with the patient as he was, once on the answers and once with names
and gendered words blanked in them. Every system writes patients_SYSTEM.json: the numbers of all
patients, the answers of the first four. The same prompt again and another question, which only
check the test, are asked about 30 patients of smollm2-135m and 10 of the others.

What is finished is kept in the cache folder after every patient, so an interrupted run goes on
where it stopped; delete that folder to start anew. A second process that also says
`backwards` begins at the other end. Times are in README.md.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from make_answers import SETTINGS, ask, round_weights
from scipy.spatial.distance import pdist, squareform

from helpers import models, twosample
from helpers.artefacts import Steps, versions, write

HERE = Path(__file__).resolve().parent

N_PATIENTS, K, TOKENS, N_PERMUTATIONS, N_SHOWN = 60, 20, 24, 999, 4
N_CONTROLLED = {"smollm2-135m": 30}  # patients with the two control arms; 10 elsewhere
NAMES = (
    *("James", "Robert", "David", "Thomas", "Peter", "Paul"),
    *("Susan", "Linda", "Helen", "Anna", "Alice", "Ruth"),
)
# the borders of the risk classes that no small change crosses and every change of cholesterol does
AGES, PRESSURES, CHOLESTEROLS = (40, 50, 65, 80), (110, 130, 160, 180), (3.5, 5.0, 6.5, 8.5)
CONTROLS_OF_THE_TEST = ("same prompt", "other question")
CLINICAL = ("diabetes", "smoking", "cholesterol")
SYSTEMS = {  # name -> (model, bits of its rounded weights)
    "smollm2-135m": ("smollm2-135m", None),
    "4-bits": ("smollm2-135m", 4),
    "gemma3-270m": ("gemma3-270m", None),
}


def risk_class(value, borders):
    return int(np.searchsorted(borders[1:-1], value, side="right"))


def draw_patient(rng):
    return {
        "name": str(rng.choice(NAMES)),
        "age": int(rng.integers(AGES[0], AGES[-1])),
        "pressure": int(rng.integers(PRESSURES[0], PRESSURES[-1])),
        "cholesterol": round(float(rng.uniform(CHOLESTEROLS[0], CHOLESTEROLS[-1])), 1),
        "diabetes": bool(rng.integers(2)),
        "smoking": bool(rng.integers(2)),
        "family": bool(rng.integers(2)),
    }


def nudged(patient, what, step, borders, rng):
    """A value moved by `step`, up or down, within its risk class."""
    old = patient[what]
    near = [v for v in (old - step, old + step) if borders[0] <= v < borders[-1]]
    near = [v for v in near if risk_class(v, borders) == risk_class(old, borders)]
    return patient | {what: int(rng.choice(near))}


def other_class(patient, rng):
    """Cholesterol drawn from another class: from low to high, from high to low, from between."""
    now = risk_class(patient["cholesterol"], CHOLESTEROLS)
    there = {0: 2, 1: int(rng.choice([0, 2])), 2: 0}[now]
    low, high = CHOLESTEROLS[there], CHOLESTEROLS[there + 1]
    return patient | {"cholesterol": round(float(rng.uniform(low + 0.1, high - 0.1)), 1)}


def changes(i, patient, rng):
    """The changed patients of patient i: a name, a small step, a clinical fact.

    Which step and which fact goes round in turn, so that each is as frequent as the others.
    """
    name = str(rng.choice([n for n in NAMES if n != patient["name"]]))
    what, step, borders = [("age", 2, AGES), ("pressure", 5, PRESSURES)][i % 2]
    fact = CLINICAL[i % 3]
    if fact == "cholesterol":
        clinical = other_class(patient, rng)
    else:
        clinical = patient | {fact: not patient[fact]}
    return {
        "name": ("name", patient | {"name": name}),
        "small": (what, nudged(patient, what, step, borders, rng)),
        "clinical": (fact, clinical),
    }


def facts(p):
    said = {True: "yes", False: "no"}
    return (
        f"{p['name']} is {p['age']} years old. Systolic blood pressure: {p['pressure']} mmHg. "
        f"Total cholesterol: {p['cholesterol']} mmol/L. Diabetes: {said[p['diabetes']]}. "
        f"Smoker: {said[p['smoking']]}. Heart disease in the family: {said[p['family']]}."
    )


def question(patient):
    return (
        f"{facts(patient)} Judge by these facts alone and not by the name: by the NICE guideline, "
        "is the risk of heart disease low, medium or high, and what do you recommend?"
    )


def other_question(patient):
    return f"{facts(patient)} Which present could a grandchild make for the birthday?"


def arms_of(i, patient, rng):
    """arm -> (what is changed, question)"""
    changed = {arm: (what, question(new)) for arm, (what, new) in changes(i, patient, rng).items()}
    return {
        "base": ("nothing", question(patient)),
        "same prompt": ("nothing", question(patient)),
        **changed,
        "other question": ("the request", other_question(patient)),
    }


def both_tests(x, y, rng):
    """Statistic, p-value and permutation z of Algorithm 1 and of energy; x is the base."""
    z = np.concatenate([x, y])
    s, d = np.clip(z @ z.T.astype(float), -1, 1), squareform(pdist(z))
    found = {
        "algorithm 1": twosample.similarity_test(s, K, n_permutations=N_PERMUTATIONS, rng=rng),
        "energy": twosample.energy_test(d, K, n_permutations=N_PERMUTATIONS, rng=rng),
    }
    return {
        name: {"statistic": round(t.statistic, 5), "p": t.pvalue, "z": round(t.z, 3)}
        for name, t in found.items()
    }


def compared(answers, embed, seed):
    """arm -> as answered or blanked -> test -> numbers"""
    views = {"as answered": list, "blanked": lambda texts: twosample.blank_names(texts, NAMES)}
    found = {arm: {} for arm in answers if arm != "base"}
    for view, seen in views.items():
        z = {arm: embed(seen(texts)) for arm, texts in answers.items()}
        for arm in found:
            found[arm][view] = both_tests(z["base"], z[arm], seed)
    return found


def patient(i, offset, controlled, model, tokenizer, embed):
    rng = np.random.default_rng([20250607, i])  # the same patients for every system
    own = draw_patient(rng)
    arms = arms_of(i, own, rng)
    seeds = {arm: offset + 10 * i + j for j, arm in enumerate(arms)}
    if not controlled:
        arms = {arm: about for arm, about in arms.items() if arm not in CONTROLS_OF_THE_TEST}
    answers = {
        arm: ask(model, tokenizer, text, K, TOKENS, seeds[arm]) for arm, (_, text) in arms.items()
    }
    found = compared(answers, embed, i)
    about = {
        arm: {"changed": what, "prompt": text, "seed": seeds[arm], **found.get(arm, {})}
        for arm, (what, text) in arms.items()
    }
    if i < N_SHOWN:
        for arm in about:
            about[arm]["answers"] = answers[arm]
    return {"patient": own, "arms": about}


def system(name):
    model_name, bits = SYSTEMS[name]
    model, tokenizer = models.load(model_name)
    if bits:
        round_weights(model, bits)
    encoder, encoder_tokenizer = models.load("minilm-l6")

    def embed(texts):
        return twosample.embed_texts(texts, encoder, encoder_tokenizer)

    offset = 3_000_000 + 10_000 * list(SYSTEMS).index(name)
    sample = draw_patient(np.random.default_rng(0))
    drawn = [sample, question(sample)]
    inputs = [SETTINGS, K, TOKENS, N_PERMUTATIONS, NAMES, drawn, torch.__version__]
    steps = Steps(f"patients_{name}", inputs)

    def answered(i):
        controlled = i < N_CONTROLLED.get(name, 10)
        return patient(i, offset, controlled, model, tokenizer, embed)

    tasks = {f"{i}": lambda i=i: answered(i) for i in range(N_PATIENTS)}
    found = list(steps.run_all(tasks).values())
    head = {
        "about": "changes of a patient that should and should not matter, by both tests",
        "model": model_name,
        "bits": bits,
        "k": K,
        "max_new_tokens": TOKENS,
        "n_permutations": N_PERMUTATIONS,
        **SETTINGS,
        **versions(),
    }
    write(HERE / f"patients_{name}.json", {**head, "patients": found})


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "backwards"]
    if not names or set(names) - set(SYSTEMS):
        sys.exit(__doc__)
    for name in names:
        system(name)
