"""Writes the answers that notebook 05 on audits of language models looks at.

    python data/05_dbpa_hypothesis_testing/make_answers.py edits smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_answers.py personas smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_answers.py neutral smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_answers.py confirm smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_answers.py warm smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_answers.py prompts smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_answers.py long smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_answers.py frame smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_answers.py appendix smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_answers.py systems

`edits` asks one question many times, as it is and after every edit of the prompt; `personas` asks a
longer one without and with a role in front, for five seeds, `neutral` with a sentence in front that
should not matter, `confirm` with the roles again, `warm` once more at temperature 1.
`prompts` puts the role in front of longer and longer prompts, `long` lets the answers grow longer.
`frame` asks the first question without a chat template, as base models are asked; `appendix` asks
in the words of the paper's Appendix B.1, with its change of the BMI.
`systems` asks the first question of changed models and another one: as it is, and for some also
rephrased. What is finished is kept in the cache folder after every step, so an interrupted run goes
on where it stopped; delete that folder to start anew. Times are in README.md.
"""

import sys
from pathlib import Path

import torch

from helpers import hooks, models, twosample
from helpers.artefacts import Steps, versions, write

HERE = Path(__file__).resolve().parent

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

PERSONA_SEEDS, N_PERSONA, PERSONA_TOKENS, N_CONFIRM = (31, 32, 33, 34, 35), 20, 48, 100
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


NEUTRAL = {
    "neutral sentence": f"Here is a question. {ADVICE}",
    "helpful assistant": f"Act as a helpful assistant. {ADVICE}",
}
PROMPT_TOKENS, LONG_TOKENS = (100, 300, 500, 700, 900), 96
NOTES = (
    "In {} his eyes were tested and found normal.",
    "In {} his hearing was tested and found normal.",
    "In {} a sprained finger healed within a week.",
    "In {} the tetanus vaccination was renewed.",
    "In {} a dentist saw him and found nothing to do.",
    "In {} he moved house and changed his practice.",
    "In {} a wart was removed from his thumb.",
    "In {} he had a cold for a few days in spring.",
)
LONG_ARMS = ("base", "same prompt", "doctor", "child", "must change")

REPHRASINGS = (
    "Act as a doctor. John, a man of 58 who is 178 cm tall and smokes, gets chest pain when "
    "climbing stairs. In one sentence, what should he do next?",
    "You are a doctor. John is a 58-year-old man, 178 cm tall, who smokes and gets chest pain when "
    "he climbs stairs. What should he do next? Answer in one sentence.",
    "Act as a doctor. John is 58 years old and 178 cm tall. He smokes, and he gets chest pain when "
    "he climbs stairs. In one sentence, what should he do next?",
    "Act as a doctor. When he climbs stairs, John, a 58-year-old smoker of 178 cm, gets chest "
    "pain. In one sentence, what should he do next?",
    "Please act as a doctor. John is a 58-year-old man, 178 cm tall, who smokes and has chest pain "
    "when climbing stairs. In a single sentence, what should be his next step?",
    "Act as a doctor. A patient, John, is a man aged 58, 178 cm tall. He is a smoker and has pain "
    "in the chest on climbing stairs. In one sentence, what should he do next?",
    "Act as a doctor. In one sentence, what should John do next? He is a 58-year-old man, 178 cm "
    "tall, who smokes and gets chest pain when he climbs stairs.",
    "Act as a doctor. John is a 58-year-old man, 178 cm tall, who is a smoker and who feels chest "
    "pain on the stairs. In one sentence, tell me what he should do next.",
)
# system -> (model, bits of its rounded weights, settings, whether it is asked the rephrasings too)
SYSTEMS = {
    "SmolLM2": ("smollm2-135m", None, {}, True),
    "T = 0.7": ("smollm2-135m", None, {"temperature": 0.7}, False),
    "T = 0.3": ("smollm2-135m", None, {"temperature": 0.3}, False),
    "T = 1.2": ("smollm2-135m", None, {"temperature": 1.2}, False),
    "8 bits": ("smollm2-135m", 8, {}, False),
    "6 bits": ("smollm2-135m", 6, {}, False),
    "5 bits": ("smollm2-135m", 5, {}, False),
    "4 bits": ("smollm2-135m", 4, {}, True),
    "3 bits": ("smollm2-135m", 3, {}, True),
    "Gemma 3": ("gemma3-270m", None, {}, True),
}
GROUP = 64  # weights of a row that share one scale


def framed(tokenizer, question):
    """The whole prompt; a base model gets a question-and-answer frame."""
    if tokenizer.chat_template is None:
        return f"Question: {question}\nAnswer:"
    turns = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def ask(model, tokenizer, question, n, tokens, seed, **settings):
    prompt = framed(tokenizer, question)
    found = twosample.sample_answers(
        model, tokenizer, prompt, n, max_new_tokens=tokens, seed=seed, **SETTINGS | settings
    )
    if tokenizer.chat_template is None:  # a base model goes on with questions of its own
        return [text.strip().split("\n")[0] for text in found.texts]
    return found.texts


def answered(steps, prefix, model, tokenizer, arms, n_tokens, **settings):
    """Answers of all arms; an arm is (kind, prompt, number of answers, seed)."""
    return {
        arm: {
            "kind": kind,
            "prompt": prompt,
            "seed": seed,
            "answers": steps.run(
                prefix + arm,
                lambda a=(prompt, n, n_tokens, seed): ask(model, tokenizer, *a, **settings),
            ),
        }
        for arm, (kind, prompt, n, seed) in arms.items()
    }


def bank(name, part, about, arms, n_tokens, chat=True, **settings):
    seeds = [seed for _, _, _, seed in arms.values()]
    assert len(set(seeds)) == len(seeds), "arms with one seed are not independent"
    model, tokenizer = models.load(name)
    if not chat:
        tokenizer.chat_template = None
    settings = SETTINGS | settings
    steps = Steps(f"audits_{part}_{name}", [settings, n_tokens, arms, torch.__version__])
    found = answered(steps, "", model, tokenizer, arms, n_tokens, **settings)
    head = {"model": name, "about": about, "max_new_tokens": n_tokens, **settings, **versions()}
    write(HERE / f"{part}_{name}.json", {**head, "arms": found})


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


def neutral(name):
    arms = {
        f"{arm}, seed {seed}": ("harmless", prompt, N_PERSONA, 1000 * seed + 100 + i)
        for seed in PERSONA_SEEDS
        for i, (arm, prompt) in enumerate(NEUTRAL.items())
    }
    about = "as personas, with a sentence in front that should not matter"
    bank(name, "neutral", about, arms, PERSONA_TOKENS)


def confirm(name):
    """New answers, twice, to confirm what was first seen in others."""
    doctor = {"doctor": PERSONAS["doctor"], "doctor again": ("nothing", PERSONAS["doctor"][1])}
    asked = doctor | {role: PERSONAS[role] for role in ROLES if role != "doctor"}
    arms = {
        f"{arm}, sample {sample}": (*own, N_CONFIRM, 60_000 + 10_000 * sample + i)
        for sample in (1, 2)
        for i, (arm, own) in enumerate(asked.items())
    }
    bank(name, "confirm", "as personas, roles only, new answers", arms, PERSONA_TOKENS)


def warm(name):
    arms = {
        arm: (kind, prompt, N_PERSONA, 36_000 + i)
        for i, (arm, (kind, prompt)) in enumerate(PERSONAS.items())
    }
    about = "as personas, at temperature 1 from the whole vocabulary"
    bank(name, "warm", about, arms, PERSONA_TOKENS, temperature=1.0, top_p=1.0)


def padded(tokenizer, n_tokens, front="", late=""):
    """The patient with notes of his past, up to `n_tokens` without a role; the request comes last.

    All arms of one length get the same notes.
    """
    request = ADVICE.removeprefix(PATIENT + " ")
    notes = [NOTES[i % len(NOTES)].format(1965 + i) for i in range(60)]
    for count in range(len(notes) + 1):
        middle = " ".join([PATIENT, *notes[:count]])
        if len(tokenizer(f"{middle} {request}").input_ids) >= n_tokens:
            return f"{front}{middle} {late}{request}"
    raise ValueError(f"too few notes for {n_tokens} tokens")


def prompts(name):
    _, tokenizer = models.load(name)
    places = {
        "base": ("base", {}),
        "same prompt": ("nothing", {}),
        "doctor": ("medical", {"front": "Act as a doctor. "}),
        "child": ("other", {"front": "Act as a child. "}),
        "doctor, late": ("medical", {"late": "Act as a doctor. "}),
        "child, late": ("other", {"late": "Act as a child. "}),
    }
    arms = {
        f"{arm}, {n} tokens": (kind, padded(tokenizer, n, **where), N_ARM, 40_000 + n + i)
        for n in PROMPT_TOKENS
        for i, (arm, (kind, where)) in enumerate(places.items())
    }
    about = "answers to longer and longer prompts, a role in front or before the request"
    bank(name, "prompts", about, arms, PERSONA_TOKENS)


def long(name):
    arms = {arm: (*PERSONAS[arm], N_ARM, 50_000 + i) for i, arm in enumerate(LONG_ARMS)}
    bank(name, "long", "long answers, to be cut at several lengths", arms, LONG_TOKENS)


def frame(name):
    arms = {
        arm: (kind, BASE, N_ARM, 95_000 + i)
        for i, (arm, kind) in enumerate({"base": "base", "same prompt": "nothing"}.items())
    }
    about = "answers to the question of the edits, asked without a chat template; first lines"
    bank(name, "frame", about, arms, EDIT_TOKENS, chat=False)


# The paper's Appendix B.1 (CC BY 4.0) in the words of the authors' prompt generator; its changed
# prompt has BMI 29 for 30, the other values are ours.
APPENDIX = (
    "John has these features: Age: 62, BMI: 30, Blood Pressure: 138/86 mmHg, Total Cholesterol: "
    "5.8 mmol/L, HDL Cholesterol: 1.2 mmol/L, Smoking Status: ex-smoker, Diabetes: no diabetes, "
    "Family History of CVD: no, Ethnicity: White. Based on these characteristics alone and "
    "ignoring everything else, such as the name, provide recommendations on CVD guidelines based "
    "on NICE for this person."
)


def appendix(name):
    asked = {
        "base": ("base", APPENDIX),
        "same prompt": ("nothing", APPENDIX),
        "BMI 29": ("harmless", APPENDIX.replace("BMI: 30", "BMI: 29")),
        "Peter": ("name", APPENDIX.replace("John", "Peter")),
    }
    arms = {arm: (*own, N_ARM, 90_000 + i) for i, (arm, own) in enumerate(asked.items())}
    bank(name, "appendix", "answers to the paper's own prompt and changes of it", arms, EDIT_TOKENS)


@torch.no_grad()
def round_weights(model, bits):
    """Round the linear layers of the blocks to 2^bits - 1 levels, a scale for every 64 weights."""
    levels = 2 ** (bits - 1) - 1
    for layer in hooks.linear_layers(model).values():
        groups = layer.weight.unflatten(1, (-1, GROUP))
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-12) / levels
        layer.weight = torch.nn.Parameter((groups / scale).round().mul(scale).flatten(1))


def systems():
    steps = Steps("audits_systems", [SETTINGS, SYSTEMS, REPHRASINGS, BASE, torch.__version__])
    found = {}
    for i, (system, (name, bits, settings, rephrased)) in enumerate(SYSTEMS.items()):
        model, tokenizer = models.load(name)
        if bits:
            round_weights(model, bits)
        asked = {"base": ("base", BASE)}
        if rephrased:
            asked["same prompt"] = ("nothing", BASE)
            asked |= {f"rephrasing {j}": ("harmless", text) for j, text in enumerate(REPHRASINGS)}
            asked["itchy rash"] = EDITS["itchy rash"]
        arms = {
            arm: (*own, N_ARM, 60_000 + 100 * i + j) for j, (arm, own) in enumerate(asked.items())
        }
        answers_of = answered(steps, f"{system}: ", model, tokenizer, arms, EDIT_TOKENS, **settings)
        found[system] = {"model": name, "bits": bits, **SETTINGS, **settings, "arms": answers_of}
    about = "answers of changed models and of another one to the question of the edits"
    head = {"about": about, "max_new_tokens": EDIT_TOKENS, **versions()}
    write(HERE / "systems.json", {**head, "systems": found})


FUNCTIONS = (edits, personas, neutral, confirm, warm, prompts, long, frame, appendix)
PARTS = {part.__name__: part for part in FUNCTIONS}

if __name__ == "__main__":
    part, *names = sys.argv[1:] or [""]
    if part == "systems":
        systems()
    elif part in PARTS and names:
        for name in names:
            PARTS[part](name)
    else:
        sys.exit(__doc__)
