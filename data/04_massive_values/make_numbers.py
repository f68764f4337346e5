"""Writes the artefacts of notebook 04 on massive values.

    python data/04_massive_values/make_numbers.py disruption smollm2-135m gemma3-270m
    python data/04_massive_values/make_numbers.py questions smollm2-135m gemma3-270m

`disruption` runs our own questions under every edit, `questions` the paper's yes/no sets (needs
TUTORIALS_DATA). What is finished is kept in the cache folder after every step, so an interrupted
run goes on where it stopped; delete that folder to start anew. A second process that also says
`backwards` begins at the other end. Times are in README.md.

The edits are written here a second time, batched; the notebook has the slow version that is read.
"""

import hashlib
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from helpers import attention, data, lm, models, stats
from helpers.artefacts import Steps, rounded, versions, write

released = data.module("04", "released")

HERE = Path(__file__).resolve().parent

ITEMS = HERE / "items.json"
TINY = 1e-6  # smallest range that a grid of rounding may have


class Edit(NamedTuple):
    """Which dimensions of which tensors become what, in which layers."""

    which: str = "top"  # top | smallest | random | energy
    k: int = 1
    value: str | float = 0.0  # a factor, or mean | own mean
    parts: str = "qk"
    layers: str = "all"  # all | first | rest
    tokens: str = "all"  # all | first | rest
    seed: int = 0


class Quantise(NamedTuple):
    """Round post-RoPE q and k to a grid; what is kept in float, and what the scale covers."""

    keep: str = "none"  # none | top | random | random_in_scale
    scale: str = "tensor"  # tensor | clip | smooth | dim
    bits: int = 4
    seed: int = 0


SCOPES = {"": "all", ", rest": "rest", ", first": "first"}
CONDITIONS: dict[str, Edit | Quantise | None] = {
    "clean": None,
    "top1 zero": Edit(),
    "top1 mean": Edit(value="mean"),
    "top1 x0.5": Edit(value=0.5),
    "top1 x0.25": Edit(value=0.25),
    **{f"top1 own mean{s}": Edit(value="own mean", tokens=t) for s, t in SCOPES.items()},
    **{f"energy zero s{s}": Edit("energy", seed=s) for s in range(3)},
    "energy mean s0": Edit("energy", value="mean"),
    "energy x0.5 s0": Edit("energy", value=0.5),
    "energy x0.25 s0": Edit("energy", value=0.25),
    **{
        f"energy own mean{s} s0": Edit("energy", 1, "own mean", tokens=t) for s, t in SCOPES.items()
    },
    "smallest1 zero": Edit("smallest"),
    "smallest1 mean": Edit("smallest", value="mean"),
    **{f"random1 zero s{s}": Edit("random", seed=s) for s in range(3)},
    "rest top1 zero": Edit(layers="rest"),
    "V top1 zero": Edit(parts="v"),
    "V rest top1 zero": Edit(parts="v", layers="rest"),
    "V first top1 zero": Edit(parts="v", layers="first"),
    "V random1 zero s0": Edit("random", parts="v"),
    "4 bit plain": Quantise(),
    "4 bit top2 kept": Quantise("top"),
    **{f"4 bit random2 kept s{s}": Quantise("random", seed=s) for s in range(3)},
    "4 bit clipped": Quantise(scale="clip"),
    "4 bit smoothed": Quantise(scale="smooth"),
    "4 bit scale per dim": Quantise(scale="dim"),
}
# the released code takes 22 of 256 dimensions of its Gemma, and sets them to zero
WIDE = {
    "top22 zero": Edit(k=22),
    "energy22 zero s0": Edit("energy", 22),
    **{f"random22 zero s{s}": Edit("random", 22, seed=s) for s in range(3)},
    "smallest22 mean": Edit("smallest", 22, "mean"),
    "top22 mean": Edit(k=22, value="mean"),
    **{f"top22 own mean{s}": Edit("top", 22, "own mean", tokens=t) for s, t in SCOPES.items()},
    **{
        f"energy22 own mean{s} s0": Edit("energy", 22, "own mean", tokens=t)
        for s, t in SCOPES.items()
    },
    "top4 zero": Edit(k=4),
    "energy4 zero s0": Edit("energy", 4),
    "top8 zero": Edit(k=8),
    "energy8 zero s0": Edit("energy", 8),
}
# left out where the wide edits come in: more draws of what is not decided by one dimension there
SPARED = {
    *(f"{kind} zero s{seed}" for kind in ("energy", "random1") for seed in (1, 2)),
    *(f"4 bit random2 kept s{seed}" for seed in (1, 2)),
    *("top1 x0.25", "energy x0.25 s0", "smallest1 mean"),
    *("4 bit smoothed", "4 bit scale per dim"),
}
ON_QUESTIONS = ("clean", "top1 zero", "smallest1 zero", "random1 zero s0", "energy zero s0")

# ------------------------------------------------------------------------------------ the edits


def select(m, which, k, order):
    """Mask (B, heads, D) of the chosen dimensions; `order` (heads, D) is a random score."""
    rank = m.argsort(-1, descending=True).argsort(-1)
    if which == "top":
        return rank < k
    if which == "smallest":
        return rank >= m.shape[-1] - k
    shuffled = order.expand(m.shape).masked_fill(rank < k, 2.0).argsort(-1)
    if which == "random":
        return torch.zeros_like(m, dtype=torch.bool).scatter(-1, shuffled[..., :k], True)
    energy = m.square()
    goal = (energy * (rank < k)).sum(-1, keepdim=True)
    sorted_energy = energy.gather(-1, shuffled)
    needed = sorted_energy.cumsum(-1) - sorted_energy < goal
    chosen = torch.zeros_like(needed).scatter(-1, shuffled, needed)
    return chosen & (rank >= k)


def random_order(seed, layer, part, shape):
    rng = np.random.default_rng([seed, layer, "qkv".index(part)])
    return torch.as_tensor(rng.random(shape), dtype=torch.float32)


def replacement(x, mask, value):
    """What the chosen entries of x (B, heads, T, D) become; mask (B, heads, 1, D)."""
    if value == "own mean":  # of each dimension, over the tokens after the first
        return x[:, :, 1:].mean(2, keepdim=True)
    if value == "mean":  # of all chosen dimensions of a head, as the released code
        count = mask.sum((2, 3), keepdim=True) * x.shape[2]
        return (x * mask).sum((2, 3), keepdim=True) / count
    return x * value


def overwrite(x, layer, part, edit, n_prompt):
    prompt = x[:, :, :n_prompt]
    m = prompt.square().sum(2).sqrt()
    order = random_order(edit.seed, layer, part, m.shape[1:])
    mask = select(m, edit.which, edit.k, order)[:, :, None]
    first = torch.arange(n_prompt, device=x.device)[:, None] == 0
    where = {"all": mask, "first": mask & first, "rest": mask & ~first}[edit.tokens]
    new = torch.where(where, replacement(prompt, mask, edit.value), prompt)
    return torch.cat([new, x[:, :, n_prompt:]], dim=2)


def grid(x, bits, scale):
    top = 2 ** (bits - 1) - 1
    scale = scale.clamp(min=TINY)  # Gemma has dimensions that are zero throughout
    return (x / scale * top).round().clamp(-top, top) * scale / top


def quantise(x, layer, part, how):
    """Symmetric rounding of x (B, heads, T, D), one scale per item unless per dimension."""
    m = x.square().sum(2).sqrt()
    kept = torch.zeros_like(m, dtype=torch.bool)
    if how.keep != "none":
        which = "top" if how.keep == "top" else "random"
        order = random_order(how.seed, layer, part, m.shape[1:])
        # at random from all dimensions but the two largest
        kept = select(m, which, 2, order)
    kept = kept[:, :, None]
    size = x.abs() if how.keep in ("none", "random_in_scale") else x.abs().masked_fill(kept, 0)
    if how.scale == "dim":
        scale = size.amax(2, keepdim=True)
    elif how.scale == "clip":
        scale = size.flatten(1).quantile(0.99, dim=1).reshape(-1, 1, 1, 1)
    else:
        scale = size.amax((1, 2, 3), keepdim=True)
    return torch.where(kept, x, grid(x, how.bits, scale))


def smooth(q, k, bits):
    """k divided and q multiplied by one factor per dimension; k at `bits`, q at 8 bits."""
    group = q.shape[1] // k.shape[1]
    q_max = q.abs().amax(2, keepdim=True).unflatten(1, (-1, group)).amax(2)
    k_max = k.abs().amax(2, keepdim=True)
    factor = (k_max.clamp(min=TINY) / q_max.clamp(min=TINY)).sqrt()
    wide_q, flat_k = q * factor.repeat_interleave(group, 1), k / factor
    q8 = grid(wide_q, 8, wide_q.abs().amax((1, 2, 3), keepdim=True))
    return q8, grid(flat_k, bits, flat_k.abs().amax((1, 2, 3), keepdim=True))


def editing(model, condition):
    """The context that `lm` enters around each forward pass, given the prompt's length."""
    if condition is None:
        return None

    def fn(n_prompt, layer, states):
        if isinstance(condition, Quantise):
            if condition.scale == "smooth":
                states["q"], states["k"] = smooth(states["q"], states["k"], condition.bits)
            else:
                for part in "qk":
                    states[part] = quantise(states[part], layer, part, condition)
        elif condition.layers == "all" or (layer == 0) == (condition.layers == "first"):
            for part in condition.parts:
                states[part] = overwrite(states[part], layer, part, condition, n_prompt)
        return states["q"], states["k"], states["v"]

    return lambda n_prompt: attention.edit_qkv(
        model, lambda layer, q, k, v: fn(n_prompt, layer, {"q": q, "k": k, "v": v})
    )


# ----------------------------------------------------------------------------------- disruption


def answers(model, tokenizer, task, items, around):
    """A letter a question: 1 right, m the truth where the prompt tells another, 0 anything else."""
    prompts = [item.prompt for item in items]
    if task == "sentiment":
        odds = attention.label_logodds(model, tokenizer, prompts, " good", " bad", during=around)
        return rounded(odds)
    if task == "passkey":
        golds = [item.gold for item in items]
        table = attention.greedy_match(model, tokenizer, prompts, golds, during=around)
        return "".join("01"[int(right)] for right in table["correct"])
    table = attention.rank_candidates(model, tokenizer, items, during=around)
    given = zip(items, table["correct"], table["choice"], strict=True)
    return "".join(
        "1" if right else "m" if choice == item.memory else "0" for item, right, choice in given
    )


def prose_ids(tokenizer):
    """(4, 128) tokens: the beginnings of the texts that the loss on prose is measured on."""
    texts = data.english_prose().texts[:4]
    return torch.tensor([lm.encode(tokenizer, text)[:128] for text in texts])


def run_tasks(model, tokenizer, condition):
    """Answers by task (log-odds for sentiment) and the loss on prose under one edit."""
    around = editing(model, condition)
    found = {
        task: answers(model, tokenizer, task, items, around)
        for task, items in released.task_items(ITEMS).items()
    }
    ids = prose_ids(tokenizer)
    with around(ids.shape[1]) if around else nullcontext():
        found["prose"] = rounded(lm.segment_nll(model, ids))
    return found


def disruption(name):
    model, tokenizer = models.load(name)
    items = hashlib.sha256(ITEMS.read_bytes()).hexdigest()
    steps = Steps(f"massive_values_disruption_{name}", items)
    wanted = CONDITIONS
    if model.config.head_dim >= 256:
        wanted = {c: e for c, e in (CONDITIONS | WIDE).items() if c not in SPARED}
    results = steps.run_all(
        {label: lambda c=c: run_tasks(model, tokenizer, c) for label, c in wanted.items()}
    )
    prose = data.english_prose().sha256
    head = {"model": name, "items_sha256": items, "prose_sha256": prose, **versions()}
    write(HERE / f"disruption_{name}.json", {**head, "conditions": results})


# ------------------------------------------------------------------------------------ questions

SHOTS = (
    "Question: Is the Sun a star?\nAnswer: Yes\n\nQuestion: Do fish live in trees?\nAnswer: No\n\n"
    "Question: Is ice warmer than steam?\nAnswer: No\n\n"
    "Question: Is bread made from flour?\nAnswer: Yes\n\n"
)
CITIES = 100  # pairs of a true and a false statement about one city, of the published 748


def as_prompt(item, name):
    text = item.text
    if name == "cities":  # "The city of X is in Y." -> "Is the city of X in Y?"
        text = f"Is {text[0].lower()}{text[1:].replace(' is in ', ' in ', 1).rstrip('.')}?"
    return f"{SHOTS}Question: {text}\nAnswer:"


def questions_of(name):
    items = released.question_set(name)
    if name != "cities":
        return items
    subjects = sorted({item.subject for item in items})
    chosen = set(np.random.default_rng(0).choice(subjects, CITIES, replace=False))
    return [item for item in items if item.subject in chosen]


def pair_margins(model, tokenizer, items, around):
    """Log-probability of each city's true country minus that of the false one, after the same
    beginning of the sentence."""
    prompts = [item.text[: item.text.index(" is in ") + len(" is in")] for item in items]
    golds = [item.text[len(prompt) :] for item, prompt in zip(items, prompts, strict=True)]
    table = lm.score_targets(model, tokenizer, prompts, golds, during=around)
    by_city = {}
    for item, logprob in zip(items, table["logprob"], strict=True):
        by_city.setdefault(item.subject, {})[item.answer] = logprob
    return rounded([pair[True] - pair[False] for pair in by_city.values() if len(pair) == 2])


def score_set(model, tokenizer, name, condition):
    items, around = questions_of(name), editing(model, condition)
    prompts = [as_prompt(item, name) for item in items]
    odds = attention.label_logodds(model, tokenizer, prompts, " Yes", " No", during=around)
    found = {"logodds": rounded(odds)}
    if name == "cities":
        found["margins"] = pair_margins(model, tokenizer, items, around)
    return found


def auc_and_accuracy(odds, truth, groups):
    """AUC and accuracy with intervals; both statements about a city are resampled together."""
    table = np.column_stack([odds, truth])
    return {
        "auc": stats.bootstrap_ci(
            table, statistic=lambda drawn: [roc_auc_score(t[:, 1], t[:, 0]) for t in drawn],
            groups=groups, n_resamples=1000,
        ),
        "accuracy": stats.bootstrap_ci((table[:, 0] > 0) == table[:, 1], groups=groups),
    }  # fmt: skip


def summarise(scores, clean, name):
    """Numbers only: no text and no answer of the published sets leaves this function."""
    items = questions_of(name)
    truth = np.array([item.answer for item in items])
    groups = [item.subject or i for i, item in enumerate(items)]
    odds, clean_odds = np.array(scores["logodds"]), np.array(clean["logodds"])
    found = auc_and_accuracy(odds, truth, groups)
    both = np.column_stack([clean_odds, odds, truth])
    found["auc_drop"] = stats.bootstrap_ci(
        both,
        statistic=lambda drawn: [
            roc_auc_score(t[:, 2], t[:, 0]) - roc_auc_score(t[:, 2], t[:, 1]) for t in drawn
        ],
        groups=groups,
        n_resamples=1000,
    )
    found["yes_share"] = float((odds > 0).mean())
    if "margins" in scores:
        right, clean_right = np.array(scores["margins"]) > 0, np.array(clean["margins"]) > 0
        found["pair_accuracy"] = stats.bootstrap_ci(right)
        found["pair_drop"] = stats.paired_bootstrap(clean_right, right)
    return {key: rounded(value) if key != "yes_share" else value for key, value in found.items()}


def questions(name):
    model, tokenizer = models.load(name)
    steps = Steps(f"massive_values_questions_{name}", [SHOTS, CITIES])
    results, counts = {}, {}
    for label in ON_QUESTIONS:
        for subset in released.QUESTION_SETS:
            scores = steps.run(
                f"{label}: {subset}",
                lambda c=CONDITIONS[label], s=subset: score_set(model, tokenizer, s, c),
            )
            clean = steps.done[f"clean: {subset}"]
            results.setdefault(subset, {})[label] = summarise(scores, clean, subset)
            counts[subset] = len(scores["logodds"])
    source = "github.com/MingyuJ666/Rope_with_LLM, folder datasets/; cities: 100 pairs, seed 0"
    head = {"model": name, "source": source, "items": counts, "level": 0.95, **versions()}
    write(HERE / f"questions_{name}.json", {**head, "sets": results})


if __name__ == "__main__":
    part, *names = [word for word in sys.argv[1:] if word != "backwards"] or [""]
    if part in ("disruption", "questions") and names:
        for name in names:
            {"disruption": disruption, "questions": questions}[part](name)
    else:
        sys.exit(__doc__)
