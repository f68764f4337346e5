"""Spectra and power-law fits: `helpers.spectral` against WeightWatcher, powerlaw, SciPy and torch.

All in this process, on the CPU with one thread, on the same matrices: the linear layers of the
default models in float32. Time is CPU time, so that other programs disturb it less.

Parts: agreement of the fit over all starts with both peers, where a layer that differs is an error;
the fit alone; a whole model from weights to exponents; windows of FARMS; growth.
"""

import contextlib
import importlib
import io
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from unittest import mock

import numpy as np
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits

from helpers import hooks, models, spectral

MODELS = {"smollm2-135m": 210, "gemma3-270m": 126}  # -> linear layers
TIMED = "smollm2-135m"
SPREAD = ("layers.0.", "layers.14.", "layers.29.")  # 21 of its layers
SIDES = (128, 192, 256, 384, 512, 768, 1024, 1536)

Fit = tuple[float, int]  # exponent, start


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what peers print, log and set to this block."""
    root = logging.getLogger()
    handlers, level, drain = root.handlers[:], root.level, io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(drain),
            contextlib.redirect_stderr(drain),
            warnings.catch_warnings(),  # importing WeightWatcher turns all warnings off
            # With CUDA, WeightWatcher would go there, with weights in half precision.
            mock.patch.object(torch.cuda, "is_available", return_value=False),
        ):
            yield
    finally:  # importing WeightWatcher also sets up the root logger
        root.handlers[:] = handlers
        root.setLevel(level)


def matrices(name: str) -> dict[str, np.ndarray]:
    """Weights of all linear layers of a model, float32, by name."""
    layers = hooks.linear_layers(models.load(name).model)
    assert len(layers) == MODELS[name], f"{name} has {len(layers)} linear layers"
    return {layer: module.weight.detach().numpy() for layer, module in layers.items()}


def seconds(job: Callable, inputs: Iterable, repeats: int, clock=time.process_time) -> float:
    """Median seconds of a job over all inputs, CPU time unless another clock is given."""
    taken = []
    for _ in range(repeats):
        begin = clock()
        for value in inputs:
            job(value)
        taken.append(clock() - begin)
    return statistics.median(taken)


def row(what: str, note: str, *, ours=None, peer=None, ratio=None, unit="CPU s") -> dict:
    """One row of the table of `make bench`."""
    note += ("" if ours is None else "; one thread") + ("; ratio: times faster" if ratio else "")
    return dict(benchmark=what, ours=ours, peer=peer, ratio=ratio, unit=unit, note=note)


def timed(what: str, note: str, ours: float, peer: float) -> dict:
    """A row of seconds and how many times faster ours is."""
    return row(what, note, ours=ours, peer=peer, ratio=peer / ours)


def our_fit(eigs: np.ndarray) -> Fit:
    fit = spectral.fit_power_law(eigs)
    return fit.alpha, fit.start


def watcher_fit(eigs: np.ndarray) -> Fit:
    """WeightWatcher's search; its `analyze` leaves out eigenvalues up to 1e-5 before."""
    from weightwatcher.WW_powerlaw import WWFit

    fit = WWFit(eigs)
    return fit.alpha, int(np.argmin(fit.Ds))


def powerlaw_fit(eigs: np.ndarray, **settings) -> Fit:
    import powerlaw

    fit = powerlaw.Fit(eigs, verbose=0, **settings)
    return fit.alpha, int(np.searchsorted(eigs, fit.xmin))


def difference(layer: str, ours: Fit, peer: Fit, most: float) -> float:
    """Of two exponents; a larger one than `most` or another start is an error."""
    found = abs(ours[0] - peer[0])
    if not found <= most or ours[1] != peer[1]:
        raise AssertionError(f"{layer}: (alpha, start) is {ours} with ours, {peer} with the peer")
    return found


def agreement_rows(name: str) -> list[dict]:
    """Largest differences from both peers over all layers of a model."""
    watcher, law, bound = [], [], 0
    for layer, weight in matrices(name).items():
        eigs = spectral.eigenvalues(weight)
        ours = our_fit(eigs)
        binds = ours[0] >= 3  # outside powerlaw's default range
        settings = {"parameter_ranges": {"alpha": [0, None]}} if binds else {}
        bound += binds
        watcher.append(difference(f"{name}, {layer}", ours, watcher_fit(eigs), 1e-9))
        theirs = powerlaw_fit(eigs, **settings)
        law.append(difference(f"{name}, {layer}", ours, theirs, 1e-6))
    what, unit = f"fits of {name} agree: ours against", "max |diff| of alpha"
    note = f"all {len(law)} layers, same starts"
    limit = f"its default range, alpha < 3, binds on {bound}, there it is opened"
    return [
        row(f"{what} WeightWatcher's search", note, ours=max(watcher), unit=unit),
        row(f"{what} powerlaw.Fit", f"{note}; {limit}", ours=max(law), unit=unit),
    ]


def fit_rows(spread: list[np.ndarray]) -> list[dict]:
    """The fit alone, on eigenvalues that are there already."""
    spectra = [spectral.eigenvalues(weight) for weight in spread]
    ours = seconds(our_fit, spectra, 21)
    note = f"search over all starts in {len(spectra)} spectra of {TIMED}, eigenvalues given"
    return [
        timed("fit: ours / WeightWatcher's search", note, ours, seconds(watcher_fit, spectra, 5)),
        timed(
            "fit: ours / powerlaw.Fit",
            f"{note}; its default settings",
            ours,
            seconds(powerlaw_fit, spectra, 1),
        ),
    ]


def model_rows(weights: dict[str, np.ndarray]) -> list[dict]:
    """Exponents of all linear layers of a model, from the weights."""
    from weightwatcher import WeightWatcher
    from weightwatcher.RMT_Util import svd_vals

    def ours(weight):
        return our_fit(spectral.eigenvalues(weight))

    def parts(weight):
        return watcher_fit(svd_vals(weight.astype(float), method="fast") ** 2)

    # It would also take the embedding and the output head, so it gets the blocks alone; and it
    # leaves attributes on the modules, so they are of another copy of the model.
    blocks = models.load(TIMED).model.model.layers
    table = WeightWatcher(model=blocks).analyze()
    found = {f"model.layers.{name}": a for name, a in zip(table.longname, table.alpha, strict=True)}
    assert found.keys() == weights.keys(), found.keys() ^ weights.keys()
    for layer, weight in weights.items():
        alpha = ours(weight)[0]
        assert abs(alpha - found[layer]) < 1e-6, f"{layer}: {alpha}, but {found[layer]} by analyze"
    our = seconds(ours, weights.values(), 3)
    whole = seconds(lambda model: WeightWatcher(model=model).analyze(), [blocks], 2)
    what, note = f"alphas of {TIMED}: ours / WeightWatcher's", f"{len(found)} layers, same alphas"
    extra = "default settings, already its cheapest; embedding and head kept out; its norms, ranks"
    return [
        timed(f"{what} analyze", f"{note}; {extra}, entropies and table included", our, whole),
        timed(
            f"{what} parts",
            f"{note}; only its singular values and its search, called directly",
            our,
            seconds(parts, weights.values(), 2),
        ),
    ]


def cores_row(weights: dict[str, np.ndarray]) -> dict:
    """The whole model again in wall time: a matrix for each core against threads inside LAPACK."""
    from weightwatcher import WeightWatcher

    blocks = models.load(TIMED).model.model.layers
    count = os.cpu_count()

    def ours(matrices):
        with threadpool_limits(1), ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda weight: our_fit(spectral.eigenvalues(weight)), matrices))

    our = seconds(ours, [weights.values()], 3, time.perf_counter)
    with threadpool_limits(count):
        watch = WeightWatcher(model=blocks)
        whole = seconds(lambda _: watch.analyze(), [None], 2, time.perf_counter)
    return {
        "benchmark": f"alphas of {TIMED}, {count} cores: ours / WeightWatcher's analyze",
        "ours": our,
        "peer": whole,
        "ratio": whole / our,
        "unit": "wall s",
        "note": "ours: one matrix per core; peer: its loop, LAPACK with as many threads; "
        "ratio: times faster",
    }


def svd_64(matrix: np.ndarray) -> np.ndarray:
    return scipy.linalg.svdvals(matrix.astype(np.float64)) ** 2


def svd_32(matrix: np.ndarray) -> torch.Tensor:
    return torch.linalg.svdvals(torch.tensor(matrix)) ** 2


def per_window(decompose: Callable, grid: np.ndarray) -> list:
    return [decompose(grid[at]) for at in np.ndindex(grid.shape[:2])]


def window_rows(spread: list[np.ndarray]) -> list[dict]:
    """Eigenvalues of all windows of a few matrices, in one call for each and otherwise."""
    grids = [spectral.windows(weight, 192, ops=5) for weight in spread]
    for grid in grids:
        ours, peers = spectral.eigenvalues(grid), np.array(per_window(svd_64, grid))[:, ::-1]
        assert np.abs(ours.reshape(peers.shape) - peers).max() < 1e-12 * peers.max()
    jobs = {
        "one call per window": spectral.eigenvalues,
        "scipy.linalg.svdvals, float64, per window": svd_64,
        "torch.linalg.svdvals, float32, per window": svd_32,  # as the authors' code does
    }
    our, whole = (seconds(spectral.eigenvalues, inputs, 5) for inputs in (grids, spread))
    count = sum(grid.shape[0] * grid.shape[1] for grid in grids)
    note = f"eigenvalues of {count} windows of 192 x 192, a call for each of {len(grids)} matrices"
    return [
        timed(f"windows: ours / {name}", note, our, seconds(partial(per_window, job), grids, 3))
        for name, job in jobs.items()
    ] + [timed("windows: ours / ours on the whole matrices", note, our, whole)]


def growth_rows() -> list[dict]:
    """Exponents of the growth with sizes and with numbers of windows."""
    rng = np.random.default_rng(0)
    squares = {n: rng.standard_normal((n, n), dtype=np.float32) for n in SIDES}
    spectra = {n: spectral.eigenvalues(square) for n, square in squares.items()}
    grids = {ops**2: spectral.windows(squares[768], 128, ops=ops) for ops in (1, 2, 3, 5, 10)}
    each = partial(per_window, svd_32)
    parts = {
        "eigenvalues of n x n": (squares, spectral.eigenvalues, svd_64, "SciPy's svdvals"),
        "fit to n eigenvalues": (spectra, our_fit, watcher_fit, "WeightWatcher's search"),
        "n windows of 128 x 128": (grids, spectral.eigenvalues, each, "torch's svdvals, float32"),
    }
    rows = []
    for what, (inputs, ours, theirs, name) in parts.items():
        taken = [[seconds(job, [x], 5) for x in inputs.values()] for job in (ours, theirs)]
        slopes = [float(np.polyfit(np.log(list(inputs)), np.log(ys), 1)[0]) for ys in taken]
        points = list(zip(inputs, *taken, strict=True))
        ends = ", ".join(f"{n}: {a:.2g} / {b:.2g} s" for n, a, b in (points[0], points[-1]))
        note = f"slope of log CPU seconds on log n; peer: {name}; ours / peer at n = {ends}"
        rows.append(row(f"growth: {what}", note, ours=slopes[0], peer=slopes[1], unit="exponent"))
    return rows


def one_thread(rows: Callable[[], list[dict]]) -> list[dict]:
    with quiet():
        importlib.import_module("weightwatcher")  # a limit reaches only libraries that are there
        with threadpool_limits(1):
            return rows()


def spread() -> list[np.ndarray]:
    """A few of the model's layers."""
    found = [w for at, w in matrices(TIMED).items() if any(part in at for part in SPREAD)]
    assert len(found) == 21
    return found


def cores() -> list[dict]:
    with quiet():
        return [cores_row(matrices(TIMED))]


PARTS = {
    "agreement": lambda: one_thread(lambda: [r for name in MODELS for r in agreement_rows(name)]),
    "fit": lambda: one_thread(lambda: fit_rows(spread())),
    "model": lambda: one_thread(lambda: model_rows(matrices(TIMED))),
    "windows": lambda: one_thread(lambda: window_rows(spread())),
    "growth": lambda: one_thread(growth_rows),
    "cores": cores,
}
