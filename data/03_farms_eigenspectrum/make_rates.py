"""Writes rates.json of notebook 03: small classifiers trained with layer-wise learning rates.

    python data/03_farms_eigenspectrum/make_rates.py

Two networks on scikit-learn's digits, three rates, twenty seeds, and every map from exponents to
rates. What is finished is kept in the cache folder after every step, so an interrupted run goes
on where it stopped; a second process may begin at the other end (`backwards`). Times are in
README.md.

The maps are written here a second time, fast; the notebook has the version that is read, and
compares.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from helpers import spectral
from helpers.artefacts import Steps, rounded, versions, write

HERE = Path(__file__).resolve().parent

RATES, SEEDS, EPOCHS = (0.03, 0.05, 0.1), range(100, 120), 25
N_TRAIN, BATCH, WRONG = 600, 50, 0.2
HEIGHT, OPS = 32, 5  # of the windows over dense layers


# --------------------------------------------------------------------------------- the exponents


def median_alpha(eigs):
    """Exponent of the upper half of eigenvalues, in any order and shape."""
    eigs = np.sort(eigs, axis=None)
    return spectral.tail_alpha(eigs, len(eigs) // 2)


def slices(kernel):
    """(positions, rows, columns) of a kernel (out, in, ...), turned so that rows >= columns."""
    stack = np.moveaxis(kernel.reshape(*kernel.shape[:2], -1), 2, 0)
    return stack if stack.shape[1] >= stack.shape[2] else stack.swapaxes(1, 2)


def square_blocks(kernel):
    """(blocks, positions, c, c): each slice cut into square blocks, as released; a rest is lost."""
    stack = slices(kernel)
    positions, rows, columns = stack.shape
    whole = stack[:, : rows // columns * columns]
    return whole.reshape(positions, -1, columns, columns).swapaxes(0, 1)


def full_alpha(weight):
    """Exponent of a matrix, or of all slices of a kernel pooled."""
    return median_alpha(spectral.eigenvalues(weight if weight.ndim == 2 else slices(weight)))


def farms_alpha(weight, ratio=1.0):
    """Exponent of a matrix by windows; of a kernel the mean over its square blocks."""
    if weight.ndim == 2:
        grid = spectral.windows(weight, min(HEIGHT, *weight.shape), ops=OPS, ratio=ratio)
        return median_alpha(spectral.eigenvalues(grid))
    return np.mean([median_alpha(spectral.eigenvalues(own)) for own in square_blocks(weight)])


# -------------------------------------------------------------------------------------- the maps


def linear(alphas, low, high):
    """TempBalance: the smallest exponent gets the factor `low`, the largest `high`."""
    alphas = np.asarray(alphas, dtype=float)
    span = np.ptp(alphas)
    return low + (high - low) * (alphas - alphas.min()) / span if span else np.ones(len(alphas))


def sigmoid(alphas, tau=10, s=1):
    """TB_Sigmoid (Liu et al. 2024, equations 3 and 4): factor 1 at the mean exponent."""
    alphas = np.asarray(alphas, dtype=float)
    return 10 ** (s * (expit(tau * (alphas - alphas.mean())) - 0.5))


class Method(NamedTuple):
    """How the layers' rates are found: which exponents, and what is made of them."""

    alpha: Callable  # of a weight
    map: Callable  # exponents to factors


NARROW = partial(linear, low=0.6, high=1.4)  # released for ResNet-18 with TempBalance
WIDE = partial(linear, low=0.1, high=1.9)  # released for ResNet-18 with FARMS
MEASURED = {
    "TB 0.6-1.4": Method(full_alpha, NARROW),
    "TB+FARMS 0.1-1.9": Method(farms_alpha, WIDE),
    "TB 0.1-1.9": Method(full_alpha, WIDE),
    "TB+FARMS 0.6-1.4": Method(farms_alpha, NARROW),
    "sigmoid": Method(full_alpha, sigmoid),
    "sigmoid+FARMS": Method(farms_alpha, sigmoid),
}
RATIOS = {  # the released ablation by accuracy, for the dense network at one rate
    f"TB+FARMS 0.1-1.9, Q* {ratio}": Method(partial(farms_alpha, ratio=ratio), WIDE)
    for ratio in (0.5, 1.5)
}
UNMEASURED = ("uniform", "random 0.1-1.9")


def factors(method, weights, rng):
    """A function without arguments that gives the layers' factors; it is asked in every epoch."""
    if method in UNMEASURED:
        n = len(weights)
        fixed = np.ones(n) if method == "uniform" else rng.uniform(0.1, 1.9, n)
        return lambda: fixed
    alpha, own_map = (MEASURED | RATIOS)[method]
    return lambda: own_map([alpha(weight) for weight in weights])


# ---------------------------------------------------------------------------------- the training


def dense():
    sizes = (64, 256, 64, 512, 64)
    parts = [
        part for before, after in pairwise(sizes) for part in (nn.Linear(before, after), nn.ReLU())
    ]
    return nn.Sequential(*parts, nn.Linear(64, 10))


def convolutional():
    plan = ((1, 12, 1), (12, 48, 2), (48, 24, 1), (24, 24, 1))
    parts = [
        part
        for before, after, stride in plan
        for part in (nn.Conv2d(before, after, 3, stride, padding=1), nn.ReLU())
    ]
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *parts, nn.Flatten(), nn.Linear(384, 10))


NETWORKS = {"dense": dense, "convolutional": convolutional}


def fresh(network, seed):
    """A network with its own first weights for each seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETWORKS[network]()


def balanced(net):
    """Layers whose rate is set: all but the last, and but a first one of a single channel."""
    layers = [part for part in net if hasattr(part, "weight")][:-1]
    return [layer for layer in layers if layer.weight.shape[1] > 1]


def unbalanced(net):
    """Parameters of all other layers: they keep the global rate."""
    owned = {id(own) for layer in balanced(net) for own in layer.parameters()}
    return [own for own in net.parameters() if id(own) not in owned]


def digits(seed):
    """600 training images with a fifth of the labels drawn anew, and all others for the test."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(labels))
    x = torch.tensor(images[order] / 16, dtype=torch.float32)
    y = torch.tensor(labels[order])
    noisy = torch.tensor(rng.random(N_TRAIN) < WRONG)
    y[:N_TRAIN][noisy] = torch.tensor(rng.integers(0, 10, int(noisy.sum())))
    return x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], y[N_TRAIN:]


def train(network, method, rate, seed):
    """Test accuracy, mean factor of the rate, and mean and spread over layers of FARMS's alphas."""
    x, y, x_test, y_test = digits(seed)
    net = fresh(network, seed)
    layers = balanced(net)
    groups = [{"params": layer.parameters()} for layer in layers]
    groups.append({"params": unbalanced(net)})
    optimiser = torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=5e-4, fused=True)
    weights = [layer.weight.detach().numpy() for layer in layers]  # views: they follow the training
    find = factors(method, weights, np.random.default_rng([seed, 3]))
    order, used = np.random.default_rng([seed, 2]), []
    for epoch in range(EPOCHS):
        used.append(find())
        now = rate * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        for group, factor in zip(optimiser.param_groups, [*used[-1], 1.0], strict=True):
            group["lr"] = now * factor
        for batch in torch.tensor(order.permutation(len(x))).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        accuracy = (net(x_test).argmax(1) == y_test).double().mean()
    alphas = [farms_alpha(weight) for weight in weights]
    return rounded((accuracy, np.mean(used), np.mean(alphas), np.std(alphas)))


def plan():
    """(network, method, rate) of every cell of the table."""
    methods = (*UNMEASURED, *MEASURED)
    cells = [(network, own, rate) for network in NETWORKS for rate in RATES for own in methods]
    return cells + [("dense", own, RATES[-1]) for own in RATIOS]


def main():
    tasks = {
        f"{network} | {rate} | {method} | {seed}": partial(train, network, method, rate, seed)
        for network, method, rate in plan()
        for seed in SEEDS
    }
    stamp = [str(convolutional()), str(dense()), EPOCHS, N_TRAIN, BATCH, WRONG, HEIGHT, OPS]
    found = Steps("farms_rates", [*stamp, torch.__version__]).run_all(tasks)
    runs = {}
    for network, method, rate in plan():
        own = [found[f"{network} | {rate} | {method} | {seed}"] for seed in SEEDS]
        runs.setdefault(network, {}).setdefault(str(rate), {})[method] = own
    about = (
        "scikit-learn digits, per seed: [test accuracy, mean factor of the learning rate, mean and "
        "standard deviation over layers of FARMS's alphas at the end]"
    )
    head = {"about": about, "seeds": [*SEEDS], **versions()}
    write(HERE / "rates.json", {**head, "runs": runs}, indent=None)


if __name__ == "__main__":
    if set(sys.argv[1:]) - {"backwards"}:
        sys.exit(__doc__)
    main()
