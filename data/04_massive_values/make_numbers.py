"""Writes the artefacts of notebook 04 on massive values.

    python data/04_massive_values/make_numbers.py disruption smollm2-135m gemma3-270m
    python data/04_massive_values/make_numbers.py questions smollm2-135m gemma3-270m
    python data/04_massive_values/make_numbers.py bytes

`disruption` runs our own questions under every edit, `questions` the paper's yes/no sets (needs
TUTORIALS_DATA), `bytes` trains byte-level models with and without RoPE. What is finished is kept
in the cache folder after every step, so an interrupted run goes on where it stopped; delete that
folder to start anew. Times are in README.md.

The edits are written here a second time, batched; the notebook has the slow version that is read.
"""

import hashlib
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

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
    value: str | float = 0.0  # a factor, or mean | dim_mean | max | min
    parts: str = "qk"
    layers: str = "all"  # all | first | rest
    seed: int = 0


class Quantise(NamedTuple):
    """Round post-RoPE q and k to a grid; what is kept in float, and what the scale covers."""

    keep: str = "none"  # none | top | random | random_in_scale
    scale: str = "tensor"  # tensor | clip | smooth | dim
    bits: int = 4
    seed: int = 0


CONDITIONS: dict[str, Edit | Quantise | None] = {
    "clean": None,
    "top1 zero": Edit(),
    "top1 x0.75": Edit(value=0.75),
    "top1 x0.5": Edit(value=0.5),
    "top1 x0.25": Edit(value=0.25),
    "top1 mean": Edit(value="mean"),
    "top1 max": Edit(value="max"),
    "top1 min": Edit(value="min"),
    "top2 zero": Edit(k=2),
    "top4 zero": Edit(k=4),
    "top4 x0.5": Edit(k=4, value=0.5),
    "top4 mean": Edit(k=4, value="mean"),
    "top4 dim_mean": Edit(k=4, value="dim_mean"),
    "smallest1 zero": Edit("smallest"),
    **{f"random1 zero s{s}": Edit("random", seed=s) for s in range(3)},
    **{f"energy zero s{s}": Edit("energy", seed=s) for s in range(3)},
    "energy x0.5 s0": Edit("energy", value=0.5),
    "rest top1 zero": Edit(layers="rest"),
    "V top1 zero": Edit(parts="v"),
    "V rest top1 zero": Edit(parts="v", layers="rest"),
    "V first top1 zero": Edit(parts="v", layers="first"),
    "V random1 zero s0": Edit("random", parts="v"),
    "4 bit plain": Quantise(),
    "4 bit top2 kept": Quantise("top"),
    **{f"4 bit random2 kept s{s}": Quantise("random", seed=s) for s in range(3)},
    "4 bit random2 kept, scale unchanged s0": Quantise("random_in_scale"),
    "4 bit clipped": Quantise(scale="clip"),
    "4 bit smoothed": Quantise(scale="smooth"),
    "4 bit scale per dim": Quantise(scale="dim"),
    "3 bit plain": Quantise(bits=3),
    "3 bit top2 kept": Quantise("top", bits=3),
}
# the released code takes 22 of 256 dimensions of its Gemma
WIDE = {"top22 zero": Edit(k=22), "smallest22 mean": Edit("smallest", 22, "mean")}
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
    if value == "dim_mean":
        return x.mean(2, keepdim=True)
    if not isinstance(value, str):
        return x * value
    if value == "mean":
        count = mask.sum((2, 3), keepdim=True) * x.shape[2]
        return (x * mask).sum((2, 3), keepdim=True) / count
    low = x.masked_fill(~mask, -math.inf if value == "max" else math.inf)
    return low.amax((2, 3), keepdim=True) if value == "max" else low.amin((2, 3), keepdim=True)


def overwrite(x, layer, part, edit, n_prompt):
    prompt = x[:, :, :n_prompt]
    m = prompt.square().sum(2).sqrt()
    order = random_order(edit.seed, layer, part, m.shape[1:])
    mask = select(m, edit.which, edit.k, order)[:, :, None]
    new = torch.where(mask, replacement(prompt, mask, edit.value), prompt)
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


def run_tasks(model, tokenizer, condition):
    """For each task the items' 0/1 string; log-odds for sentiment; loss on prose."""
    around = editing(model, condition)
    found = {}
    for task, items in released.task_items(ITEMS).items():
        prompts = [item.prompt for item in items]
        if task == "sentiment":
            odds = attention.label_logodds(
                model, tokenizer, prompts, " good", " bad", during=around
            )
            found[task] = rounded(odds)
            continue
        if task == "passkey":
            golds = [item.gold for item in items]
            table = attention.greedy_match(model, tokenizer, prompts, golds, during=around)
        else:
            table = attention.rank_candidates(model, tokenizer, items, during=around)
        found[task] = "".join("01"[int(c)] for c in table["correct"])
    texts = data.english_prose().texts[:4]
    ids = torch.tensor([lm.encode(tokenizer, text)[:128] for text in texts])
    with around(ids.shape[1]) if around else nullcontext():
        found["prose"] = rounded(lm.segment_nll(model, ids))
    return found


def disruption(name):
    model, tokenizer = models.load(name)
    items = hashlib.sha256(ITEMS.read_bytes()).hexdigest()
    steps = Steps(f"massive_values_disruption_{name}", items)
    wanted = CONDITIONS | (WIDE if model.config.head_dim >= 256 else {})
    results = {
        label: steps.run(label, lambda c=c: run_tasks(model, tokenizer, c))
        for label, c in wanted.items()
    }
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


# ---------------------------------------------------------------------------- byte-level models

WIDTH, HEADS, LAYERS, LENGTH, BASE = 128, 4, 3, 128, 1e4


class Attention(nn.Module):
    def __init__(self, rope):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.rope = rope

    def forward(self, x):
        q, k, v = (
            f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        if self.rope:
            positions = torch.arange(x.shape[1])
            q, k = (attention.apply_rope(y, positions, BASE) for y in (q, k))
        self.seen = {"q": q.detach(), "k": k.detach(), "v": v.detach()}
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, rope):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention = Attention(rope)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ByteModel(nn.Module):
    def __init__(self, positions):
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(positions == "rope") for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        if self.places is not None:
            x = x + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def windows(text, count, generator):
    starts = torch.randint(0, len(text) - LENGTH - 1, (count,), generator=generator)
    rows = torch.stack([text[s : s + LENGTH + 1] for s in starts])
    return rows[:, :-1], rows[:, 1:]


def byte_run(positions, seed, steps=300):
    texts = data.english_prose().texts
    as_bytes = [torch.tensor(list(text.encode())) for text in texts]
    train, held_out = torch.cat(as_bytes[:-1]), as_bytes[-1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ByteModel(positions)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = windows(train, 16, generator)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        x, y = windows(held_out, 64, torch.Generator().manual_seed(1))
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
    energy = {
        part: [
            attention.pair_norm(block.attention.seen[part].square().sum((0, 2)).sqrt())
            .square()
            .mean(0)
            for block in model.blocks
        ]
        for part in "qkv"
    }
    shares = {part: [rounded(e / e.sum(), 5) for e in found] for part, found in energy.items()}
    return {"loss": round(loss, 4), "pair_energy": shares}


def byte_models():
    steps = Steps("massive_values_bytes", [WIDTH, HEADS, LAYERS, LENGTH, BASE])
    runs = {
        positions: [
            steps.run(f"{positions} seed {s}", lambda p=positions, s=s: byte_run(p, s))
            for s in range(3)
        ]
        for positions in ("rope", "none", "learned")
    }
    about = "share of energy per rotary pair (slowest last), by layer; held-out loss in nats"
    write(HERE / "bytes.json", {"about": about, "steps": 300, **versions(), "runs": runs})


if __name__ == "__main__":
    part, *names = sys.argv[1:] or ["", ""]
    if part == "bytes":
        byte_models()
    elif part in ("disruption", "questions") and names:
        for name in names:
            {"disruption": disruption, "questions": questions}[part](name)
    else:
        sys.exit(__doc__)
