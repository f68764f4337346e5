"""Writes the artefacts of notebook 03 on eigenspectra without aspect-ratio bias.

    python data/03_farms_eigenspectrum/make_numbers.py alphas smollm2-135m gemma3-270m
    python data/03_farms_eigenspectrum/make_numbers.py pruning smollm2-135m gemma3-270m
    python data/03_farms_eigenspectrum/make_numbers.py permutations smollm2-135m gemma3-270m
    python data/03_farms_eigenspectrum/make_numbers.py rates

`alphas` fits every linear layer by every rule, `pruning` prunes under every allocation and
measures the loss per segment, `permutations` does so for shuffled block scores, `rates` trains
small classifiers with layer-wise learning rates. `pruning` and `permutations` need the alphas.
What is finished is kept in the cache folder after every step, so an interrupted run goes on where
it stopped; delete that folder to start anew. Times are in README.md.

The maps and criteria are written here a second time, fast; the notebook has the version that is
read, and compares.
"""

import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from helpers import data, hooks, lm, models, spectral
from helpers.artefacts import Steps, rounded, versions, write

HERE = Path(__file__).resolve().parent

HEIGHT = {"smollm2-135m": 192, "gemma3-270m": 256}  # the shortest side of the model's matrices
OPS = 5
EPS = 0.2
SEEDS = (11, 12, 13)
N_CALIBRATION, N_EVALUATION, N_TOKENS = 8, 32, 128
# Topics that share no passage of 20 words: some topics quote one another.
CALIBRATION = ("compound", "execmodel", "import", "assignment", "debugger")
EVALUATION = ("specialnames", "calls", "strings", "objects", "comparisons")
CELLS = (("magnitude", 0.5), ("wanda", 0.5), ("wanda", 0.6))
NULL_CELL = {"smollm2-135m": ("wanda", 0.6), "gemma3-270m": ("wanda", 0.5)}
N_PERMUTATIONS = 50
BY_BLOCK = ("peak", "F_peak", "S_peak", "med", "F_med", "S_med", "ks", "ramp", "reverse")
BY_MATRIX = ("peak", "F_peak", "med", "F_med", "med/MP")


def block_of(name):
    return int(next(part for part in name.split(".") if part.isdigit()))


def arrays(model):
    """Weight matrices (out, in) of all linear layers, by name, as NumPy views."""
    return {n: layer.weight.detach().numpy() for n, layer in hooks.linear_layers(model).items()}


# --------------------------------------------------------------------------------------- alphas


def measure(weight, height, rng):
    """Every rule's fit of one matrix: {rule: [alpha, D]}."""
    whole = spectral.eigenvalues(weight)
    grid = spectral.windows(weight, min(height, *weight.shape), ops=OPS)
    pooled = np.sort(spectral.eigenvalues(grid), axis=None)
    r, c = weight.shape  # the control: windows of the matrix's own ratio, half its size
    same = spectral.windows(weight, r // 2, ops=OPS, ratio=c / r)
    same = np.sort(spectral.eigenvalues(same), axis=None)
    shuffled = spectral.eigenvalues(rng.permuted(weight.ravel()).reshape(weight.shape))
    tails = {
        "med": (whole, spectral.median_starts(whole)),
        "peak": (whole, spectral.peak_starts(whole)),
        "ks": (whole, None),
        "F_med": (pooled, spectral.median_starts(pooled)),
        "F_peak": (pooled, spectral.peak_starts(pooled)),
        "S_med": (same, spectral.median_starts(same)),
        "S_peak": (same, spectral.peak_starts(same)),
        "shuffled": (shuffled, spectral.median_starts(shuffled)),
    }
    fits = {rule: spectral.fit_power_law(*tail) for rule, tail in tails.items()}
    return {rule: rounded((fit.alpha, fit.D), 6) for rule, fit in fits.items()}


def alphas(name):
    model, _ = models.load(name)
    rng = np.random.default_rng(0)
    layers = {
        layer: {"shape": list(weight.shape), **measure(weight, HEIGHT[name], rng)}
        for layer, weight in arrays(model).items()
    }
    head = {"model": name, "height": HEIGHT[name], "ops": OPS, **versions()}
    write(HERE / f"alphas_{name}.json", {**head, "layers": layers})


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
    rules = ("peak", "F_peak", "S_peak", "med", "F_med", "S_med", "ks")
    scores = {rule: np.array([layer[rule][0] for layer in layers.values()]) for rule in rules}
    noise = [spectral.mp_alpha(longer / shorter) for shorter, longer in np.sort(shapes)]
    scores["med/MP"] = scores["med"] / noise
    blocks = np.array([block_of(layer) for layer in layers])
    return scores, blocks, shapes.prod(axis=1)


def by_block(scores, blocks):
    """Mean score of each block."""
    return np.bincount(blocks, scores) / np.bincount(blocks)


def allocations(name, sparsity):
    """Sparsity of every matrix under every allocation."""
    scores, blocks, sizes = layer_scores(name)
    depth = np.arange(blocks.max() + 1.0)
    units = {rule: by_block(own, blocks) for rule, own in scores.items()}
    units |= {"ramp": depth, "reverse": -depth}
    block_sizes = np.bincount(blocks, sizes)
    found = {"uniform": np.full(len(blocks), sparsity)}
    for rule in BY_BLOCK:
        found[f"{rule}:b"] = allocate(units[rule], block_sizes, sparsity)[blocks]
    for rule in BY_MATRIX:
        found[f"{rule}:m"] = allocate(scores[rule], sizes, sparsity)
    return found


def permuted(name, sparsity, seed):
    """Block sparsities of the peak rule, handed to blocks in a random order."""
    scores, blocks, sizes = layer_scores(name)
    order = np.random.default_rng([seed, 5]).permutation(blocks.max() + 1)
    share = allocate(by_block(scores["peak"], blocks)[order], np.bincount(blocks, sizes), sparsity)
    return share[blocks]


def segments(tokenizer, topics):
    texts = data.english_prose(topics).texts
    return torch.cat([lm.segments(tokenizer, text, N_TOKENS) for text in texts])


def evaluation(tokenizer):
    rows = segments(tokenizer, EVALUATION)
    return rows[np.linspace(0, len(rows) - 1, N_EVALUATION).astype(int)]


def calibration(tokenizer, seed):
    rows = segments(tokenizer, CALIBRATION)
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
    return rounded(lm.segment_nll(model, rows, batch_size=8), 5)


def setting(name):
    """What an artefact of losses must say to be read."""
    digests = {
        f"{part}_sha256": data.english_prose(topics).sha256
        for part, topics in (("calibration", CALIBRATION), ("evaluation", EVALUATION))
    }
    return {
        "model": name,
        "about": "mean negative log-likelihood (nats per token) of each evaluation segment",
        "calibration_topics": CALIBRATION,
        "evaluation_topics": EVALUATION,
        "n_calibration": N_CALIBRATION,
        "n_evaluation": N_EVALUATION,
        "n_tokens": N_TOKENS,
        "eps": EPS,
        **digests,
        **versions(),
    }


def stamp(name):
    parts = {k: v for k, v in setting(name).items() if k not in ("date", "python", "about")}
    scores, _, _ = layer_scores(name)
    return {**parts, "scores": [rounded(scores[rule], 4) for rule in scores]}


def pruning(name):
    model, tokenizer = models.load(name)
    model.eval()
    steps, rows = Steps(f"farms_pruning_{name}", stamp(name)), evaluation(tokenizer)
    dense = steps.run("dense", lambda: losses(model, rows))
    pruner, cells = Pruner(model), {}
    # A seed draws the calibration text, which magnitude pruning does not look at.
    runs = [(c, s, seed) for seed in SEEDS for c, s in CELLS if c == "wanda" or seed == SEEDS[0]]
    for criterion, sparsity, seed in runs:
        label = f"{criterion} {sparsity} seed {seed}"
        wanted = allocations(name, sparsity)
        if any(f"{label} {key}" not in steps.done for key in wanted):
            prepare(pruner, model, tokenizer, criterion, seed)
        for key, shares in wanted.items():

            def compute(shares=shares):
                pruner.prune(shares)
                return losses(model, rows)

            found = steps.run(f"{label} {key}", compute)
            cells.setdefault(f"{criterion} {sparsity}", {}).setdefault(key, {})[str(seed)] = found
    write(HERE / f"pruning_{name}.json", {**setting(name), "dense": dense, "cells": cells})


def permutations(name):
    model, tokenizer = models.load(name)
    model.eval()
    rows = evaluation(tokenizer)[::2]
    criterion, sparsity = NULL_CELL[name]
    cell = [criterion, sparsity, SEEDS[0], "every second segment"]
    steps = Steps(f"farms_permutations_{name}", [stamp(name), cell])
    pruner, found = Pruner(model), []
    prepare(pruner, model, tokenizer, criterion, SEEDS[0])
    for draw in range(N_PERMUTATIONS):

        def compute(draw=draw):
            pruner.prune(permuted(name, sparsity, draw))
            return losses(model, rows)

        found.append(steps.run(f"draw {draw}", compute))
    head = {**setting(name), "cell": f"{criterion} {sparsity}", "seed": SEEDS[0]}
    write(HERE / f"permutations_{name}.json", {**head, "segments": "every second", "draws": found})


# ---------------------------------------------------------------------------------------- rates

SIZES = (64, 256, 64, 512, 64, 10)
RATES, RATE_SEEDS, EPOCHS = (0.03, 0.05, 0.1), range(100, 120), 25
METHODS = ("uniform", "TB", "TB+FARMS", "random", "TB mean 1", "TB+FARMS mean 1")


def tempbalance(values, low=0.5, high=1.5):
    values = np.asarray(values, dtype=float)
    span = np.ptp(values)
    return low + (high - low) * (values - values.min()) / span if span else np.ones(len(values))


def multipliers(method, weights, rng):
    """Factors of the global learning rate for all layers but the last."""
    kind, _, normal = method.partition(" ")
    if kind == "uniform":
        return np.ones(len(weights))
    if kind == "random":
        return rng.uniform(0.5, 1.5, len(weights))
    spectra = []
    for weight in weights:
        grid = spectral.windows(weight, 32, ops=OPS) if kind == "TB+FARMS" else weight
        spectra.append(np.sort(spectral.eigenvalues(grid), axis=None))
    found = tempbalance([spectral.tail_alpha(e, len(e) // 2) for e in spectra])
    return found / found.mean() if normal else found


def digits(seed):
    """600 training images with a fifth of the labels replaced, and all others for the test."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(labels))
    x = torch.tensor(images[order] / 16, dtype=torch.float32)
    y = torch.tensor(labels[order])
    noisy = torch.tensor(rng.random(600) < 0.2)
    y[:600][noisy] = torch.tensor(rng.integers(0, 10, int(noisy.sum())))
    return x[:600], y[:600], x[600:], y[600:]


def train(method, rate, seed):
    """Test accuracy and the mean factor of the learning rate over layers and epochs."""
    x, y, x_test, y_test = digits(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(a, b) for a, b in pairwise(SIZES)]
    net = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
    groups = [{"params": layer.parameters()} for layer in layers]
    optimiser = torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=5e-4)
    rng, used = np.random.default_rng([seed, 2]), []
    fixed = multipliers("random", layers[:-1], rng) if method == "random" else None
    for epoch in range(EPOCHS):
        weights = [layer.weight.detach().numpy() for layer in layers[:-1]]
        factors = multipliers(method, weights, rng) if fixed is None else fixed
        used.append(float(np.mean(factors)))
        now = rate * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        for group, factor in zip(optimiser.param_groups, [*factors, 1.0], strict=True):
            group["lr"] = now * factor
        for batch in torch.tensor(rng.permutation(len(x))).split(50):
            optimiser.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        accuracy = (net(x_test).argmax(1) == y_test).double().mean()
    return rounded((accuracy, np.mean(used)))


def rates():
    steps = Steps("farms_rates", [SIZES, EPOCHS, OPS, torch.__version__])
    runs = {
        str(rate): {
            method: [
                steps.run(f"{rate} {method} {s}", lambda m=method, r=rate, s=s: train(m, r, s))
                for s in RATE_SEEDS
            ]
            for method in METHODS
        }
        for rate in RATES
    }
    about = "scikit-learn digits: [test accuracy, mean factor of the learning rate] per seed"
    write(HERE / "rates.json", {"about": about, "seeds": [*RATE_SEEDS], **versions(), "runs": runs})


if __name__ == "__main__":
    part, *names = sys.argv[1:] or ["", ""]
    if part == "rates":
        rates()
    elif part in ("alphas", "pruning", "permutations") and names:
        for name in names:
            {"alphas": alphas, "pruning": pruning, "permutations": permutations}[part](name)
    else:
        sys.exit(__doc__)
