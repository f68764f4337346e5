"""Measures the exponents of LLaMA's layers that the authors of FARMS published: released.json.

    TUTORIALS_DATA=... python data/03_farms_eigenspectrum/make_released.py

A few seconds. Needs the folder `farms` in TUTORIALS_DATA, with the files of the authors' folder
LLM_Pruning/metric_cache, and the exponents of our own models, alphas_MODEL.json. Only summaries are
stored (the smallest and the largest exponent among them), no array and no list of blocks.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import stats as scipy_stats

from helpers import data
from helpers.artefacts import rounded, versions, write

HERE = Path(__file__).resolve().parent
numbers, released = data.module("03", "make_numbers"), data.module("03", "released")

REPOSITORY = "github.com/HUST-AI-HYZ/FARMS at 834612b"
SOURCE = f"{REPOSITORY}, LLM_Pruning/metric_cache"
POSITIONS = {"LLaMA-7B": (10, 15), "LLaMA-13B": (15,)}  # that are shipped
LEVELS = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
PARTS = 8  # of the depth

# Epsilon of every cell as (AlphaPruning, FARMS), and window positions along each axis. Typed from
# LLM_Pruning/scripts/llm_pruning_main.txt, whose head says "Best eps is searched".
SPARSITIES = (0.7, 0.75, 0.8, 0.85)
EPSILON = {
    ("LLaMA-7B", "Wanda"): ((0.2, 0.3), (0.2, 0.3), (0.2, 0.3), (0.1, 0.15)),
    ("LLaMA-7B", "SparseGPT"): ((0.2, 0.2), (0.2, 0.2), (0.1, 0.2), (0.15, 0.2)),
    ("LLaMA-7B", "magnitude"): ((0.3, 0.6), (0.3, 0.4), (0.2, 0.3), (0.15, 0.2)),
    ("LLaMA-13B", "Wanda"): ((0.3, 0.3), (0.3, 0.3), (0.3, 0.3), (0.2, 0.25)),
    ("LLaMA-13B", "SparseGPT"): ((0.3, 0.3), (0.3, 0.3), (0.2, 0.3), (0.2, 0.25)),
    ("LLaMA-13B", "magnitude"): ((0.5, 0.6), (0.45, 0.5), (0.3, 0.4), (0.15, 0.1)),
}
TEN = {("LLaMA-7B", "SparseGPT"), ("LLaMA-7B", "magnitude")}  # all others have 15 positions
HEADLINE = ("LLaMA-7B", "SparseGPT", 0.8)  # 17.3 % lower perplexity, as third-party notes say

RAMP = {"sparsity": 0.6, "eps": 0.2}  # at which allocations are compared with a ramp: section 9's


# ------------------------------------------------------------------------- the authors' block map


def ratios(scores, sparsity, eps):
    """Sparsity of each block before the clamp; blocks have equal sizes, as LLaMA's do."""
    raw = 1 - eps + 2 * eps * (scores - scores.min()) / np.ptp(scores)
    return sparsity * raw / raw.mean()


def clamped(share, sparsity):
    """As the released code clamps: what is cut off is not given to other blocks."""
    return np.where(share > 1, 0.99999 if sparsity == 0.7 else 0.998, share)


def cell(full, farms, sparsity, eps):
    """What the pruner is asked for by both methods, and how much of the difference is epsilon."""
    alone = {  # scores, epsilon
        "AlphaPruning": (full, eps[0]),
        "FARMS": (farms, eps[1]),
        "AlphaPruning, FARMS's epsilon": (full, eps[1]),
        "FARMS, AlphaPruning's epsilon": (farms, eps[0]),
    }
    before = {name: ratios(own, sparsity, e) for name, (own, e) in alone.items()}
    share = {name: clamped(own, sparsity) for name, own in before.items()}

    def change(first, second):
        return round(float(np.abs(share[first] - share[second]).mean()), 4)

    found = {
        name: {
            "epsilon": own,
            "sparsity": round(float(share[name].mean()), 4),
            "clamped": int((before[name] > 1).sum()),
            "largest": round(float(before[name].max()), 4),
        }
        for name, own in zip(("AlphaPruning", "FARMS"), eps, strict=True)
    }
    found["change of block sparsity"] = {
        "both": change("FARMS", "AlphaPruning"),
        "epsilon alone": change("AlphaPruning, FARMS's epsilon", "AlphaPruning"),
        "estimator alone, FARMS's epsilon": change("FARMS", "AlphaPruning, FARMS's epsilon"),
        "estimator alone, AlphaPruning's epsilon": change(
            "FARMS, AlphaPruning's epsilon", "AlphaPruning"
        ),
    }
    return found


# -------------------------------------------------------------------------------------- exponents


def rank_correlation(first, second):
    return round(float(scipy_stats.spearmanr(first, second).statistic), 4)


def against_ramp(means):
    """How far the block sparsities are from an even ramp by depth of the same range.

    Beside it the distance of the same sparsities handed out in a random order (mean over all
    orders), and in the order of depth: the least that their values allow.
    """
    share = ratios(means, **RAMP)
    steps = np.linspace(-0.5, 0.5, len(share))
    ramp = RAMP["sparsity"] + np.ptp(share) * steps
    distance = {
        "as it is": np.abs(share - ramp).mean(),
        "random order": np.abs(share[:, None] - ramp).mean(),
        "order of depth": np.abs(np.sort(share) - ramp).mean(),
    }
    return {name: round(float(own), 4) for name, own in distance.items()}


def summary(alphas):
    """Summaries of one model's exponents (blocks, 7)."""
    parts = {
        "attention": alphas[:, : released.ATTENTION],
        "MLP": alphas[:, released.ATTENTION :],
        "all": alphas,
    }
    means = alphas.mean(axis=1)
    return {
        "means": {name: round(float(own.mean()), 4) for name, own in parts.items()},
        "quantiles": {name: rounded(np.quantile(own, LEVELS)) for name, own in parts.items()},
        "rank correlation with depth": rank_correlation(means, np.arange(len(means))),
        "means by depth": rounded([own.mean() for own in np.array_split(means, PARTS)]),
        "to a ramp": against_ramp(means),
    }


def measured(spectra):
    """Summaries of one model by its windows, {windows: (blocks, 7)}, of which "full" is one."""
    found = {windows: summary(alphas) for windows, alphas in spectra.items()}
    for windows, alphas in spectra.items():
        if windows != "full":
            ranks = rank_correlation(alphas.mean(1), spectra["full"].mean(1))
            found[windows]["rank correlation with full"] = ranks
    return {"blocks": len(spectra["full"]), "windows": found}


def theirs(folder=None):
    return {
        model: {"full": released.exponents(model, None, folder)}
        | {f"FARMS, {n}": released.exponents(model, n, folder) for n in POSITIONS[model]}
        for model in POSITIONS
    }


def ours(name):
    layers = data.read_json(HERE / f"alphas_{name}.json")["layers"]
    order = [layer.split(".")[-1].removesuffix("_proj") for layer in layers]
    blocks = len(order) // len(released.KINDS)
    if order != [*released.KINDS] * blocks:
        raise ValueError(f"alphas_{name}.json: layers are not in the order {released.KINDS}")
    return {
        windows: np.array([own[f"peak, {windows}"][0] for own in layers.values()]).reshape(
            blocks, len(released.KINDS)
        )
        for windows in ("full", "FARMS")
    }


def cells(spectra):
    """Every cell of the released scripts: model, pruner, sparsity."""
    found = {}
    for (model, pruner), row in EPSILON.items():
        positions = 10 if (model, pruner) in TEN else 15
        full, farms = (spectra[model][w].mean(1) for w in ("full", f"FARMS, {positions}"))
        for sparsity, eps in zip(SPARSITIES, row, strict=True):
            own = {"positions": positions, **cell(full, farms, sparsity, eps)}
            found.setdefault(model, {}).setdefault(pruner, {})[str(sparsity)] = own
    return found


def main():
    try:
        spectra = theirs()
    except FileNotFoundError as error:
        sys.exit(f"{error}. The files of the folder `farms` come from {SOURCE}.")
    about = (
        "Exponents by the peak rule of all linear layers of two LLaMAs, as the authors of FARMS "
        "published them, and of our two models: means, quantiles at `levels`, block means against "
        "depth (rank correlation, means of eighths, distance to an even ramp), and for every cell "
        "of the released scripts epsilon, the sparsity that the released map asks for after its "
        "clamp, and the mean absolute change of block sparsity; numbers only"
    )
    models = {name: measured(own) for name, own in spectra.items()}
    models |= {name: measured(ours(name)) for name in numbers.HEIGHT}
    content = {
        "about": about,
        "source": SOURCE,
        "source of epsilon": f"{REPOSITORY}, LLM_Pruning/scripts/llm_pruning_main.txt",
        **versions(),
        "rule": "peak",
        "levels": LEVELS,
        "ramp": RAMP,
        "headline": HEADLINE,
        "models": models,
        "cells": cells(spectra),
    }
    write(HERE / "released.json", content)


if __name__ == "__main__":
    main()
