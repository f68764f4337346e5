"""Writes the numbers that notebook 05 on audits of language models shows beside its own.

    TUTORIALS_DATA=... python data/05_dbpa_hypothesis_testing/make_numbers.py published
    python data/05_dbpa_hypothesis_testing/make_numbers.py similarities smollm2-135m
    python data/05_dbpa_hypothesis_testing/make_numbers.py lengths smollm2-135m

`published` tests the answers that the paper's authors released (github.com/QiyaoWei/DBPA at
e8e14389) once more; only numbers are stored. `similarities` tests the answers of our bank with
other embedders and with the overlap of words, `lengths` those of longer prompts and of answers
cut at several lengths, and the two samples of roles. Finished steps are kept in the cache folder.
"""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score import rouge_scorer
from sklearn.feature_extraction.text import CountVectorizer

from helpers import data, models, twosample
from helpers.artefacts import Steps, rounded, versions, write

released = data.module("05", "released")

HERE = Path(__file__).resolve().parent

N_PERMUTATIONS = 9999
K = 64  # answers of an arm of our bank
SMALL, RESAMPLINGS, SPLITS = 20, 25, 400
CALM = ("same prompt", "height 181", "medical practitioner", "nurse")
MATTERS = ("Mary", "itchy rash", "cracked phone", "child", "comedian")
CUTS = (6, 12, 24, 48, 96)  # tokens of an answer
PROMPT_LEAST = 100  # characters; a shorter common beginning is not a prompt


def similarities(z):
    return np.clip(z @ z.T.astype(float), -1, 1)


def chord(s):
    """Euclidean distances of unit vectors from their cosine similarities."""
    d = np.sqrt(np.maximum(1 - (s + s.T) / 2, 0) * 2)
    np.fill_diagonal(d, 0)
    return d


def both_tests(s, d, n_x, n_permutations, rng):
    ours = twosample.similarity_test(s, n_x, n_permutations=n_permutations, rng=rng)
    energy = twosample.energy_test(d, n_x, n_permutations=n_permutations, rng=rng)
    return ours, energy


def row(s, d, n_x, rng):
    ours, energy = both_tests(s, d, n_x, N_PERMUTATIONS, rng)
    names = ("omega", "p", "z", "energy", "energy_p", "energy_z", "h")
    h = twosample.energy_coefficient(d, n_x)
    values = (ours.statistic, ours.pvalue, ours.z, energy.statistic, energy.pvalue, energy.z, h)
    return dict(zip(names, rounded(values), strict=True))


# ------------------------------------------------------------------------------ published answers


def without_prompt(texts):
    """The answers behind the prompt that open models repeat: the beginning that all share."""
    first, last = min(texts), max(texts)  # of sorted texts, these two agree least
    pairs = enumerate(zip(first, last, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), len(first))
    return [text[shared:] for text in texts] if shared >= PROMPT_LEAST else texts


def tested(x, y, rng):
    s = similarities(np.concatenate([x, y]))
    return row(s, chord(s), len(x), rng)


def halves(arms):
    """First against second half of every arm: do answers drift while they are collected?"""
    return [tested(z[: len(z) // 2], z[len(z) // 2 :], 0) for z in arms]


def against(name, arms):
    return {arm: tested(arms[name], z, i) for i, (arm, z) in enumerate(arms.items()) if arm != name}


def rephrased(embed, arms):
    """Rephrasings of one model against its base, without and with the prompt in the answers."""
    bare = {arm: without_prompt(texts) for arm, texts in arms.items()}
    embedded = {arm: embed(texts) for arm, texts in bare.items()}
    found = {"answers": against("base", embedded), "drift": halves(embedded.values())}
    if bare["base"] != arms["base"]:
        whole = {arm: embed(texts) for arm, texts in arms.items()}
        found["with_prompt"] = against("base", whole)
    return found


def aligned(bases, embed):
    embedded = {name: embed(without_prompt(texts)) for name, texts in bases.items()}
    references = [name for name in bases if "gpt-4" in name or "gpt-35" in name]
    return {reference: against(reference, embedded) for reference in references}


def published():
    found = released.published_audits()
    model, tokenizer = models.load("minilm-l6")
    steps = Steps("audits_published", [N_PERMUTATIONS, PROMPT_LEAST, "by model"])

    def embed(texts):
        return twosample.embed_texts(texts, model, tokenizer)

    def roles():
        embedded = {role: embed(texts) for role, texts in texts_of_roles.items()}
        return {"answers": against("doctor", embedded), "drift": halves(embedded.values())}

    texts_of_roles = found.pop("roles")
    file = data.tutorials_data() / "dbpa" / "roles_cvd_guidelines_results.json"
    of_authors = {
        row["prefix"].removeprefix("Act as a ").strip(" ."): [row["jsd"], row["p_value"]]
        for row in data.read_json(file.resolve())
    }
    out = {
        "roles": steps.run("roles", roles),
        "released": {role: rounded(of_authors[role], 3) for role in texts_of_roles},
        "rephrasings": {
            name: steps.run(name, lambda arms=arms: rephrased(embed, arms))
            for name, arms in found.items()
        },
        "alignment": steps.run(
            "alignment",
            lambda: aligned({name: arms["base"] for name, arms in found.items()}, embed),
        ),
    }
    about = (
        "Numbers from answers released by the authors of DBPA (github.com/QiyaoWei/DBPA at "
        "e8e14389, MIT), workshop runs: 20 answers an arm; roles against 'doctor', rephrasings of "
        "seed 9 against 'base'. all-MiniLM-L6-v2; Algorithm 1 with 30 common bins; energy distance."
    )
    write(HERE / "published.json", {"about": about, **versions(), **out})


# ------------------------------------------------------------- other similarities of our own bank


def bleu(a, b):
    """Smoothed BLEU of two lists of words, the mean of both directions."""
    smooth = SmoothingFunction().method1
    both = [sentence_bleu([a], b, smoothing_function=smooth)]
    both.append(sentence_bleu([b], a, smoothing_function=smooth))
    return float(np.mean(both))


def overlaps(texts):
    """BLEU and ROUGE between all texts: name -> (N, N), 1 on the diagonal."""
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer, words = rouge_scorer.RougeScorer(kinds), [text.lower().split() for text in texts]
    found = {name: np.eye(len(texts)) for name in ("bleu", *kinds)}
    for i, j in combinations(range(len(texts)), 2):
        scores = scorer.score(texts[i], texts[j])
        values = {"bleu": bleu(words[i], words[j])} | {k: scores[k].fmeasure for k in kinds}
        for name, value in values.items():
            found[name][i, j] = found[name][j, i] = value
    return found


def unit(z):
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def embeddings(texts, spare, name):
    """name -> unit vectors of all texts; `spare` are answers of the base that no test looks at."""
    encoder, its_tokenizer = models.load("minilm-l6")
    model, tokenizer = models.load(name)
    states = twosample.embed_texts([*texts, *spare], model.base_model, tokenizer)
    own, other = states[: len(texts)], states[len(texts) :]
    words = CountVectorizer().fit(spare + texts)
    return {
        "MiniLM": twosample.embed_texts(texts, encoder, its_tokenizer),
        "hidden states": own,
        "hidden states, standardised": unit((own - other.mean(0)) / other.std(0)),
        "bag of words": unit(words.transform(texts).toarray().astype(float)),
    }


def arm_row(s, d, rng):
    """Numbers of one arm: base first, K answers each."""
    generator = np.random.default_rng(rng)
    p_values = []
    for i in range(RESAMPLINGS):
        rows = [generator.choice(K, SMALL, replace=False) + start for start in (0, K)]
        own = np.ix_(np.concatenate(rows), np.concatenate(rows))
        p_values.append([test.pvalue for test in both_tests(s[own], d[own], SMALL, 999, i)])
    small = dict(zip(("small_p", "small_energy_p"), np.transpose(p_values), strict=True))
    return row(s, d, K, rng) | {key: rounded(values, 3) for key, values in small.items()}


def size(s, d):
    """Share of rejections where both halves come from one prompt, at 0.05, k = SMALL."""
    generator, hits = np.random.default_rng(0), np.zeros(2)
    for i in range(SPLITS):
        rows = generator.choice(len(s), 2 * SMALL, replace=False)
        own = np.ix_(rows, rows)
        hits += [test.pvalue <= 0.05 for test in both_tests(s[own], d[own], SMALL, 199, i)]
    return rounded(hits / SPLITS)


def by_similarity(name):
    arms = data.read_json(HERE / f"edits_{name}.json")["arms"]
    base = arms.pop("base")["answers"]
    texts = base[:K] + [text for arm in arms.values() for text in arm["answers"]]
    stamp = [texts, N_PERMUTATIONS, SMALL, RESAMPLINGS, SPLITS, CALM, MATTERS]
    steps, out = Steps(f"audits_similarities_{name}", stamp), {}
    views = embeddings(texts, base[K:], name)
    for i, arm in enumerate(arms):
        rows = np.r_[:K, K * (i + 1) : K * (i + 2)]

        def numbers(rows=rows, i=i):
            own = {view: similarities(z[rows]) for view, z in views.items()}
            found = {view: (s, chord(s)) for view, s in own.items()}
            found |= {k: (s, 1 - s) for k, s in overlaps([texts[r] for r in rows]).items()}
            rates = {v: size(*both) for v, both in found.items()} if i == 0 else {}
            return {v: arm_row(*both, i) for v, both in found.items()}, rates

        own, rates = steps.run(arm, numbers)
        out |= {f"size of {view}": rate for view, rate in rates.items()}
        for view, numbers_of in own.items():
            out.setdefault(view, {})[arm] = numbers_of
    sizes = {v.removeprefix("size of "): out.pop(v) for v in [*out] if v.startswith("size of ")}
    about = (
        f"answers of audits_edits_{name}.json, {K} an arm, by other similarities; size: share of "
        f"{SPLITS} pairs of {SMALL} answers to one prompt that Algorithm 1 and energy reject"
    )
    head = {"model": name, "about": about, "calm": CALM, "matters": MATTERS, **versions()}
    write(HERE / f"similarities_{name}.json", {**head, "size": sizes, "views": out})


# ----------------------------------------------------------------------- longer prompts and answers


def cut(tokenizer, text, n_tokens):
    """The answer that a limit of `n_tokens` would have given, from a longer one."""
    return tokenizer.decode(tokenizer(text).input_ids[:n_tokens])


def lengths(name):
    encoder, its_tokenizer = models.load("minilm-l6")
    _, tokenizer = models.load(name)
    asked = data.read_json(HERE / f"prompts_{name}.json")["arms"]
    long = data.read_json(HERE / f"long_{name}.json")["arms"]
    again = data.read_json(HERE / f"confirm_{name}.json")["arms"]
    banks = {"prompts": {}, "answers": {}, "samples": {}}
    for arm, own in again.items():
        role, sample = arm.rsplit(", sample ", 1)
        banks["samples"].setdefault(sample, {})[role] = own["answers"]
    for arm, own in asked.items():
        place, n_tokens = arm.rsplit(", ", 1)
        banks["prompts"].setdefault(n_tokens.split()[0], {})[place] = own["answers"]
    for n in CUTS:
        banks["answers"][n] = {
            arm: [cut(tokenizer, text, n) for text in own["answers"]] for arm, own in long.items()
        }
    steps = Steps(f"audits_lengths_{name}", [banks, N_PERMUTATIONS])

    def numbers(texts):
        embedded = {
            arm: twosample.embed_texts(own, encoder, its_tokenizer) for arm, own in texts.items()
        }
        return against("base" if "base" in embedded else "doctor", embedded)

    out = {
        what: {
            f"{n}": steps.run(f"{what}, {n}", lambda texts=texts: numbers(texts))
            for n, texts in by_length.items()
        }
        for what, by_length in banks.items()
    }
    about = f"answers of audits_prompts, _long and _confirm_{name}.json against their base"
    write(HERE / f"lengths_{name}.json", {"model": name, "about": about, **versions(), **out})


if __name__ == "__main__":
    part, *names = sys.argv[1:] or [""]
    if part == "published":
        published()
    elif part in ("similarities", "lengths") and names:
        for name in names:
            {"similarities": by_similarity, "lengths": lengths}[part](name)
    else:
        sys.exit(__doc__)
