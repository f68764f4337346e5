"""Writes the artefacts of notebook 03 on language models: exponents, and losses after pruning.

    python data/03_farms_eigenspectrum/make_numbers.py alphas smollm2-135m gemma3-270m
    python data/03_farms_eigenspectrum/make_numbers.py pruning smollm2-135m gemma3-270m
    python data/03_farms_eigenspectrum/make_numbers.py blocks smollm2-135m gemma3-270m
    python data/03_farms_eigenspectrum/make_numbers.py rounding smollm2-135m gemma3-270m
    python data/03_farms_eigenspectrum/make_numbers.py pruned smollm2-135m gemma3-270m
    python data/03_farms_eigenspectrum/make_numbers.py windows smollm2-135m
    python data/03_farms_eigenspectrum/make_numbers.py permutations smollm2-135m

`alphas` fits every linear layer by every rule, also after one more rounding of the weights;
`pruning` prunes under every allocation and measures the loss of every document; `blocks` prunes
one block at a time; `rounding` prunes by the exponents of the weights that were rounded once
more; `pruned` fits the layers of pruned models; `windows` prunes by FARMS with windows of other
sizes, numbers and ratios; `permutations` prunes in random orders of the blocks. All need the
alphas. What is finished is kept in the cache folder after every step, so an interrupted run goes
on where it stopped; a second process may begin at the other end (`backwards`). Times are in
README.md.

The maps and criteria are written here a second time, fast; the notebook has the version that is
read, and compares.
"""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

from helpers import data, hooks, lm, models, spectral
from helpers.artefacts import Steps, rounded, versions, write

HERE = Path(__file__).resolve().parent

HEIGHT = {"smollm2-135m": 192, "gemma3-270m": 256}  # the shortest side of the model's matrices
OPS = 5
EPS = 0.2
SEED = 11  # of the calibration text
SEEDS = {"smollm2-135m": (SEED, 12), "gemma3-270m": (SEED,)}
N_CALIBRATION, N_TOKENS = 8, 128
# Topics that share no passage of 20 words: some topics quote one another. Of each the middle
# segment is evaluated: a document counts once, however long it is.
CALIBRATION = ("compound", "execmodel", "import", "assignment", "debugger")
EVALUATION = (
    "types", "string-methods", "formatstrings", "typesmapping", "customization",
    "attribute-access", "strings", "sequence-types", "numeric-types", "calls", "operator-summary",
    "typesseq-mutable", "objects", "raise", "binary", "subscriptions", "integers", "in", "dict",
    "typesmodules", "typesmethods", "specialattrs", "slicings", "power", "id-classes", "global",
    "exprlists", "context-managers", "booleans", "yield", "unary", "truth", "nonlocal",
    "attribute-references", "imaginary", "floating", "del", "atom-literals", "bltin-code-objects",
    "bitwise",
)  # fmt: skip
# Magnitude pruning stops where uniform pruning keeps the perplexity below ten times that of the
# dense model, in steps of 10 %.
CELLS = {
    "smollm2-135m": (("magnitude", 0.4), ("wanda", 0.5), ("wanda", 0.6)),
    "gemma3-270m": (("magnitude", 0.3), ("wanda", 0.5), ("wanda", 0.6)),
}
CELL = ("wanda", 0.6)  # of single blocks, rounding, windows and permutations
N_PERMUTATIONS = 50
SHIFTS = (8, 16, 24)  # columns by which the groups of a second rounding are moved
GROUP = 32  # weights that share a scale and an offset in the files
SIZES, POSITIONS, RATIOS = (48, 96, 192), (3, 5, 8), (0.5, 0.75, 1.25, 1.5)
SPECTRAL = ("full", "FARMS", "own ratio")
RULES = ("peak", "median")
TWINS = ("peak, full", "peak, FARMS", "median, full", "median, FARMS")
BY_MATRIX = tuple(f"median, {own}, by matrix" for own in ("full", "FARMS", "divided"))
ONE_SEED = ("best fit, full", "peak, full, by rank", "peak, FARMS, by rank", *BY_MATRIX)


def block_of(name):
    return int(next(part for part in name.split(".") if part.isdigit()))


def arrays(model):
    """Weight matrices (out, in) of all linear layers, by name, as NumPy views."""
    return {n: layer.weight.detach().numpy() for n, layer in hooks.linear_layers(model).items()}


# --------------------------------------------------------------------------------------- alphas


def pooled(weight, height, ratio=1.0, ops=OPS):
    """Ascending eigenvalues of all windows."""
    grid = spectral.windows(weight, height, ops=ops, ratio=ratio)
    return np.sort(spectral.eigenvalues(grid), axis=None)


def own_ratio(weight, height):
    """The control of FARMS: windows of as many entries, in the ratio of the matrix."""
    rows, columns = weight.shape
    return pooled(weight, round(height * np.sqrt(rows / columns)), columns / rows)


def tail(eigs, rule):
    if rule == "best fit":
        return spectral.fit_power_law(eigs)
    if rule == "median":
        return spectral.fit_power_law(eigs, spectral.median_starts(eigs))
    eigs = eigs[eigs > 0]  # pruned matrices lose some; the rule takes logarithms
    return spectral.fit_power_law(eigs, spectral.peak_starts(eigs))


def measure(weight, height, rng):
    """Every rule's fit of one matrix: {rule, windows: [alpha, D]}."""
    spectra = {
        "full": spectral.eigenvalues(weight),
        "FARMS": pooled(weight, height),
        "own ratio": own_ratio(weight, height),
        "shuffled": spectral.eigenvalues(rng.permuted(weight.ravel()).reshape(weight.shape)),
    }
    wanted = [(rule, windows) for rule in RULES for windows in SPECTRAL]
    wanted += [("best fit", "full"), ("median", "shuffled")]
    fits = {f"{rule}, {windows}": tail(spectra[windows], rule) for rule, windows in wanted}
    return {key: rounded((fit.alpha, fit.D), 6) for key, fit in fits.items()}


def rounded_again(weight, shift):
    """The weights (out, in) rounded to 16 even levels in groups of 32, as format Q4_1 does.

    The groups begin `shift` columns later than those of the file, so that the rounding is new.
    """
    grouped = np.roll(weight, -shift, axis=1).reshape(-1, GROUP).astype(np.float64)
    low, high = grouped.min(1, keepdims=True), grouped.max(1, keepdims=True)
    step = np.where(high > low, (high - low) / 15, 1.0)
    found = low + step * np.round((grouped - low) / step)
    return np.roll(found.reshape(weight.shape), shift, axis=1)


def twins(weight, height):
    """Exponents of one matrix by the rules that are compared: {rule, windows: alpha}."""
    spectra = {"full": spectral.eigenvalues(weight), "FARMS": pooled(weight, height)}
    return {
        f"{rule}, {windows}": round(tail(spectra[windows], rule).alpha, 6)
        for rule in RULES
        for windows in spectra
    }


def alphas(name):
    model, _ = models.load(name)
    rng, height = np.random.default_rng(0), HEIGHT[name]
    steps = Steps(f"farms_alphas_{name}", [OPS, height, SHIFTS, versions()["torch"]])
    weights = arrays(model)
    layers = steps.run(
        "layers",
        lambda: {
            layer: {"shape": list(weight.shape), **measure(weight, height, rng)}
            for layer, weight in weights.items()
        },
    )
    again = {
        str(shift): steps.run(
            f"shift {shift}",
            lambda shift=shift: {
                layer: twins(rounded_again(weight, shift), height)
                for layer, weight in weights.items()
            },
        )
        for shift in SHIFTS
    }
    noise = {
        layer: round(float((rounded_again(weight, SHIFTS[0]) - weight).std() / weight.std()), 4)
        for layer, weight in weights.items()
    }
    head = {"model": name, "height": height, "ops": OPS, **versions()}
    parts = {"layers": layers, "rounded again": again, "rounding error / sd": noise}
    write(HERE / f"alphas_{name}.json", {**head, **parts}, indent=None)


# -------------------------------------------------------------------------------------- pruning


def allocate(scores, sizes, sparsity, eps=EPS):
    """Sparsity of each unit: high score, high sparsity; the weighted mean is `sparsity`."""
    scores, sizes = np.asarray(scores, dtype=float), np.asarray(sizes, dtype=float)
    if not np.isfinite(scores).all():
        raise ValueError("`scores` holds NaN or infinite values")
    span = np.ptp(scores)
    raw = np.ones(len(scores)) if span == 0 else 1 - eps + 2 * eps * (scores - scores.min()) / span
    full = np.zeros(len(raw), dtype=bool)
    while True:
        eta = (sparsity * sizes.sum() - sizes[full].sum()) / (sizes * raw)[~full].sum()
        share = np.where(full, 1.0, eta * raw)
        if (share <= 1).all():
            return share
        full |= share > 1


@cache  # asked for by every cell and every draw
def layer_scores(name):
    """Scores by rule, one per matrix, with the matrices' blocks and sizes."""
    layers = data.read_json(HERE / f"alphas_{name}.json")["layers"]
    shapes = np.array([layer["shape"] for layer in layers.values()])
    rules = [rule for rule in next(iter(layers.values())) if rule != "shape"]
    scores = {rule: np.array([layer[rule][0] for layer in layers.values()]) for rule in rules}
    noise = [spectral.mp_alpha(longer / shorter) for shorter, longer in np.sort(shapes)]
    scores["median, divided"] = scores["median, full"] / noise
    for rule in ("peak, full", "peak, FARMS"):  # a single outlier moves no other rank
        scores[f"{rule}, by rank"] = scores[rule].argsort().argsort().astype(float)
    blocks = np.array([block_of(layer) for layer in layers])
    return scores, blocks, shapes.prod(axis=1)


def by_block(scores, blocks):
    """Mean score of each block."""
    return np.bincount(blocks, scores) / np.bincount(blocks)


def with_first(share, sizes, first, sparsity):
    """The block sparsities with another one for block 0, the others scaled to keep the mean."""
    rest = (sparsity * sizes.sum() - first * sizes[0]) / (share * sizes)[1:].sum()
    return np.append(first, rest * share[1:])


def allocations(name, sparsity):
    """Sparsity of every matrix under every allocation."""
    scores, blocks, sizes = layer_scores(name)
    block_sizes = np.bincount(blocks, sizes)
    even, ramp = (
        allocate(units, block_sizes, sparsity)
        for units in (np.ones(len(block_sizes)), np.arange(len(block_sizes)))
    )
    units = {
        "uniform": even,
        "ramp": ramp,
        "uniform, block 0 as in the ramp": with_first(even, block_sizes, ramp[0], sparsity),
        "ramp, block 0 as in uniform": with_first(ramp, block_sizes, sparsity, sparsity),
    }
    whole = [f"{rule}, {windows}" for rule in RULES for windows in SPECTRAL]
    for rule in whole + [rule for rule in ONE_SEED if rule not in BY_MATRIX]:
        units[rule] = allocate(by_block(scores[rule], blocks), block_sizes, sparsity)
    found = {rule: share[blocks] for rule, share in units.items()}
    for rule in BY_MATRIX:
        found[rule] = allocate(scores[rule.removesuffix(", by matrix")], sizes, sparsity)
    return found


def shares_of(name, scores, sparsity):
    """Sparsity of every matrix, by the mean score of its block."""
    _, blocks, sizes = layer_scores(name)
    return allocate(by_block(scores, blocks), np.bincount(blocks, sizes), sparsity)[blocks]


def permuted(name, sparsity, seed):
    """Block sparsities of the peak rule, handed to blocks in a random order."""
    scores, blocks, sizes = layer_scores(name)
    order = np.random.default_rng([seed, 5]).permutation(blocks.max() + 1)
    units = by_block(scores["peak, full"], blocks)[order]
    return allocate(units, np.bincount(blocks, sizes), sparsity)[blocks]


def segments(tokenizer, topic):
    return lm.segments(tokenizer, data.english_prose([topic]).texts[0], N_TOKENS)


def evaluation(tokenizer):
    """One segment, the middle one, of every document."""
    pieces = [segments(tokenizer, topic) for topic in EVALUATION]
    return torch.stack([rows[len(rows) // 2] for rows in pieces])


def calibration(tokenizer, seed):
    rows = torch.cat([segments(tokenizer, topic) for topic in CALIBRATION])
    return rows[np.random.default_rng(seed).choice(len(rows), N_CALIBRATION, replace=False)]


def ranks(values):
    """Rank of each entry along the last axis, 0 for the smallest."""
    order = values.argsort(dim=-1, stable=True)
    places = torch.arange(values.shape[-1], dtype=torch.int32).expand(values.shape)
    return torch.empty_like(places.contiguous()).scatter_(-1, order, places)


class Pruner:
    """Prunes all linear layers of a model from their original weights, again and again."""

    def __init__(self, model):
        self.layers = hooks.linear_layers(model)
        self.originals = {name: layer.weight.data.clone() for name, layer in self.layers.items()}

    def rank_by(self, norms=None):
        """By |W| over each matrix, or by |W| times the input's norm in each row (Wanda)."""
        self.ranks = {}
        for name, weight in self.originals.items():
            score = weight.abs() if norms is None else weight.abs() * norms[name]
            self.ranks[name] = ranks(score.reshape(1, -1) if norms is None else score)

    def prune(self, shares):
        for (name, layer), share in zip(self.layers.items(), shares, strict=True):
            rank = self.ranks[name]
            keep = (rank >= round(share * rank.shape[1])).reshape(layer.weight.shape)
            torch.mul(self.originals[name], keep, out=layer.weight.data)

    def restore(self):
        for name, layer in self.layers.items():
            layer.weight.data.copy_(self.originals[name])


def prepare(pruner, model, tokenizer, criterion, seed):
    pruner.restore()
    names = list(pruner.layers)
    batches = calibration(tokenizer, seed).split(4)
    pruner.rank_by(spectral.input_norms(model, names, batches) if criterion == "wanda" else None)


def losses(model, rows):
    return rounded(lm.segment_nll(model, rows, batch_size=20), 5)


def setting(name):
    """What an artefact of losses must say to be read."""
    digests = {
        f"{part}_sha256": data.english_prose(topics).sha256
        for part, topics in (("calibration", CALIBRATION), ("evaluation", EVALUATION))
    }
    return {
        "model": name,
        "about": "mean negative log-likelihood (nats per token) of each evaluation document",
        "calibration_topics": CALIBRATION,
        "evaluation_topics": EVALUATION,
        "n_calibration": N_CALIBRATION,
        "n_tokens": N_TOKENS,
        "eps": EPS,
        **digests,
        **versions(),
    }


def stamp(name):
    parts = {k: v for k, v in setting(name).items() if k not in ("date", "python", "about")}
    scores, _, _ = layer_scores(name)
    return {**parts, "scores": [rounded(scores[rule], 4) for rule in scores]}


class Bench:
    """A model, its pruner and the evaluation text; calibrated only when a step needs it."""

    def __init__(self, name):
        self.model, self.tokenizer = models.load(name)
        self.model.eval()
        self.rows, self.pruner = evaluation(self.tokenizer), Pruner(self.model)
        self.ready = None

    def loss(self, criterion, seed, shares, rows=slice(None)):
        if self.ready != (criterion, seed):
            prepare(self.pruner, self.model, self.tokenizer, criterion, seed)
            self.ready = criterion, seed
        self.pruner.prune(shares)
        return losses(self.model, self.rows[rows])

    def dense(self):
        self.pruner.restore()
        return losses(self.model, self.rows)


def pruning(name):
    bench, tasks = Bench(name), {}
    # A seed draws the calibration text, which magnitude pruning does not look at.
    runs = [
        (*cell, seed)
        for seed in SEEDS[name]
        for cell in CELLS[name]
        if cell[0] == "wanda" or seed == SEED
    ]
    for criterion, sparsity, seed in runs:
        for key, shares in allocations(name, sparsity).items():
            if seed == SEED or key not in ONE_SEED:
                tasks[f"{criterion} {sparsity}|{key}|{seed}"] = (
                    lambda own=(criterion, seed, shares): bench.loss(*own)
                )
    steps = Steps(f"farms_pruning_{name}", stamp(name))
    dense, found, cells = steps.run("dense", bench.dense), steps.run_all(tasks), {}
    for label, own in found.items():
        cell, key, seed = label.split("|")
        cells.setdefault(cell, {}).setdefault(key, {})[seed] = own
    content = {**setting(name), "dense": dense, "cells": cells}
    write(HERE / f"pruning_{name}.json", content, indent=None)


def losses_of(name, part, tasks, rows=slice(None)):
    """Losses by label, with the setting; `tasks` maps labels to sparsities of all matrices."""
    bench, (criterion, _) = Bench(name), CELL
    tasks = {
        label: lambda shares=shares: bench.loss(criterion, SEED, shares, rows)
        for label, shares in tasks.items()
    }
    found = Steps(f"farms_{part}_{name}", stamp(name)).run_all(tasks)
    head = {**setting(name), "cell": " ".join(map(str, CELL)), "seed": SEED}
    write(HERE / f"{part}_{name}.json", {**head, "losses": found}, indent=None)


def blocks(name):
    _, own, _ = layer_scores(name)
    shares = {str(block): CELL[1] * (own == block) for block in range(own.max() + 1)}
    losses_of(name, "blocks", shares)


def rounding(name):
    again = data.read_json(HERE / f"alphas_{name}.json")["rounded again"]
    tasks = {
        f"{rule}|{shift}": shares_of(
            name, np.array([layer[rule] for layer in own.values()]), CELL[1]
        )
        for shift, own in again.items()
        for rule in TWINS
    }
    losses_of(name, "rounding", tasks)


def windows(name):
    weights = arrays(models.load(name)[0]).values()
    settings = [(size, ops, 1.0) for size in SIZES for ops in POSITIONS]
    settings += [(SIZES[1], OPS, ratio) for ratio in RATIOS]
    steps, tasks = (
        Steps(f"farms_window_alphas_{name}", [SIZES, POSITIONS, RATIOS, torch.__version__]),
        {},
    )
    for size, ops, ratio in settings:

        def exponents(size=size, ops=ops, ratio=ratio):
            spectra = [pooled(weight, size, ratio, ops) for weight in weights]
            return {rule: [tail(eigs, rule).alpha for eigs in spectra] for rule in RULES}

        found = steps.run(f"{size} {ops} {ratio}", exponents)
        for rule in RULES:
            tasks[f"{rule}|{size}|{ops}|{ratio}"] = shares_of(name, np.array(found[rule]), CELL[1])
    losses_of(name, "windows", tasks)


def permutations(name):
    tasks = {str(draw): permuted(name, CELL[1], draw) for draw in range(N_PERMUTATIONS)}
    losses_of(name, "permutations", tasks, slice(None, None, 2))


def pruned(name):
    bench, wanted = Bench(name), allocations(name, CELL[1])
    kept = ("uniform", "peak, full", "peak, FARMS", "peak, own ratio", "ramp")

    def exponents(key):
        prepare(bench.pruner, bench.model, bench.tokenizer, CELL[0], SEED)
        if key != "dense":
            bench.pruner.prune(wanted[key])
        return {n: twins(w, HEIGHT[name]) for n, w in arrays(bench.model).items()}

    tasks = {key: lambda key=key: exponents(key) for key in ("dense", *kept)}
    found = Steps(f"farms_pruned_{name}", stamp(name)).run_all(tasks)
    head = {"model": name, "cell": " ".join(map(str, CELL)), "seed": SEED, **versions()}
    write(HERE / f"pruned_{name}.json", {**head, "alphas": found}, indent=None)


PARTS = {
    own.__name__: own for own in (alphas, pruning, blocks, rounding, windows, permutations, pruned)
}

if __name__ == "__main__":
    part, *names = [word for word in sys.argv[1:] if word != "backwards"] or [""]
    if part not in PARTS or not names:
        sys.exit(__doc__)
    for name in names:
        PARTS[part](name)
