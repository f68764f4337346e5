"""Writes the answers that notebook 05 on audits of language models looks at.

    python data/recipes/audits.py edits smollm2-135m
    python data/recipes/audits.py personas smollm2-135m

`edits` asks one question many times, as it is and after every edit of the prompt; `personas` asks a
longer one without and with a role in front, for five seeds. What is finished is kept in the cache
folder after every step, so an interrupted run goes on where it stopped; delete that folder to start
anew. Times are in data/README.md.
"""

import sys

import torch

from helpers import answers, models
from resume import Steps, versions, write

SETTINGS = {"temperature": 0.8, "top_p": 0.95}
N_BASE, N_ARM, EDIT_TOKENS = 256, 64, 24

BASE = (
    "Act as a doctor. John is a 58-year-old man, 178 cm tall, who smokes and gets chest pain when "
    "he climbs stairs. In one sentence, what should he do next?"
)
# name -> (what kind of change it is, prompt)
EDITS = {
    "same prompt": ("nothing", BASE),
    "height 181": ("harmless", BASE.replace("178", "181")),
    "no question mark": ("harmless", BASE.rstrip("?")),
    "medical practitioner": ("medical role", BASE.replace("doctor", "medical practitioner")),
    "nurse": ("medical role", BASE.replace("doctor", "nurse")),
    "lawyer": ("other role", BASE.replace("doctor", "lawyer")),
    "child": ("other role", BASE.replace("doctor", "child")),
    "comedian": ("other role", BASE.replace("doctor", "comedian")),
    "natural paraphrase": (
        "paraphrase",
        "Act as a doctor. A 58-year-old man called John, who is 178 cm tall and smokes, has pain "
        "in his chest whenever he goes up stairs. Tell him in one sentence what he should do next.",
    ),
    "telegraphic paraphrase": (
        "paraphrase",
        "You are a doctor. Patient John, male, 58, 178 cm, smoker, chest pain on stairs. Next "
        "step? Answer in one sentence.",
    ),
    "never smoked": ("must matter", BASE.replace("who smokes and", "who never smoked and")),
    "itchy rash": (
        "must matter",
        BASE.replace("chest pain when he climbs stairs", "an itchy rash on his arms"),
    ),
    "cracked phone": (
        "must matter",
        BASE.replace("gets chest pain when he climbs stairs", "has a phone with a cracked screen"),
    ),
    "Jonh": ("name", BASE.replace("John", "Jonh")),
    "Peter": ("name", BASE.replace("John", "Peter")),
    "Mary": (
        "name",
        BASE.replace("John", "Mary").replace("man", "woman").replace(" he ", " she "),
    ),
}

PERSONA_SEEDS, N_PERSONA, PERSONA_TOKENS = (31, 32, 33, 34, 35), 20, 48
PATIENT = (
    "Patient: John, 64 years, BMI 31, blood pressure 142/88 mmHg, cholesterol 6.4 mmol/L, HDL "
    "1.1 mmol/L, current smoker, no diabetes, cardiovascular disease in the family, South Asian."
)
ADVICE = (
    f"{PATIENT} From these facts alone, what does the NICE guideline on cardiovascular disease "
    "recommend for him?"
)
ROLES = {
    "doctor": "medical",
    "nurse": "medical",
    "medical practitioner": "medical",
    "medical supervisor": "medical",
    "comedian": "other",
    "robot from the future": "other",
    "NeurIPS reviewer": "other",
    "child": "other",
}
PERSONAS = {
    "base": ("base", ADVICE),
    "same prompt": ("nothing", ADVICE),
    **{role: (kind, f"Act as a {role}. {ADVICE}") for role, kind in ROLES.items()},
    "must change": ("must matter", f"{PATIENT} Which sport could he take up with his grandson?"),
}


def ask(model, tokenizer, question, n, tokens, seed):
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    found = answers.sample_answers(
        model, tokenizer, prompt, n, max_new_tokens=tokens, seed=seed, **SETTINGS
    )
    return found.texts


def bank(name, part, about, arms, n_tokens):
    """Answers of all arms; an arm is (kind, prompt, number of answers, seed)."""
    seeds = [seed for _, _, _, seed in arms.values()]
    assert len(set(seeds)) == len(seeds), "arms with one seed are not independent"
    model, tokenizer = models.load(name)
    steps = Steps(f"audits_{part}_{name}", [SETTINGS, n_tokens, arms, torch.__version__])
    found = {
        arm: {
            "kind": kind,
            "prompt": prompt,
            "seed": seed,
            "answers": steps.run(
                arm, lambda a=(prompt, n, n_tokens, seed): ask(model, tokenizer, *a)
            ),
        }
        for arm, (kind, prompt, n, seed) in arms.items()
    }
    head = {"model": name, "about": about, "max_new_tokens": n_tokens, **SETTINGS, **versions()}
    write(f"audits_{part}_{name}.json", {**head, "arms": found})


def edits(name):
    arms = {"base": ("base", BASE, N_BASE, 100)}
    for i, (arm, (kind, prompt)) in enumerate(EDITS.items()):
        arms[arm] = (kind, prompt, N_ARM, 101 + i)
    bank(name, "edits", "answers to one question and to edits of it", arms, EDIT_TOKENS)


def personas(name):
    arms = {
        f"{arm}, seed {seed}": (kind, prompt, N_PERSONA, 1000 * seed + i)
        for seed in PERSONA_SEEDS
        for i, (arm, (kind, prompt)) in enumerate(PERSONAS.items())
    }
    about = "answers to a question about a patient, without and with a role in front"
    bank(name, "personas", about, arms, PERSONA_TOKENS)


if __name__ == "__main__":
    part, *names = sys.argv[1:] or ["", ""]
    if part in ("edits", "personas") and names:
        for name in names:
            {"edits": edits, "personas": personas}[part](name)
    else:
        sys.exit(__doc__)
