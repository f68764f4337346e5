"""The energy test of `helpers.twosample` against dcor, SciPy's permutation_test and hyppo.

All in this process, on the CPU with one thread, on the same answers: vectors of 384 numbers, the
size of MiniLM's embeddings. Time is CPU time, so that other programs disturb it less; what a
package compiles at its first call is not counted.

Parts: statistics equal to 1e-10 after each package's own normalisation, where a difference is an
error, and p-values within Monte Carlo error; (a) labels and statistics on a given distance matrix;
(b) the same with the distances; Algorithm 1; growth with the number of answers.
"""

import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import stats as scipy_stats
from scipy.spatial.distance import cdist, pdist, squareform
from threadpoolctl import threadpool_limits

from helpers import twosample

PERMUTATIONS = 999
WIDTH, SHIFT = 384, 0.22
SIDE, SIDES = 64, (16, 32, 64, 128, 256, 512, 1000)
FEWER = 49  # permutations of the peers on more than 128 a side; the rest is extrapolated

Found = tuple[float, float]  # statistic, p-value


def arms(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two samples of unit vectors, the second a little aside."""
    z = np.random.default_rng(n).normal(size=(2, n, WIDTH))
    z[1, :, 0] += SHIFT * np.sqrt(WIDTH / n)
    return tuple(z / np.linalg.norm(z, axis=-1, keepdims=True))


def seconds(job: Callable, repeats: int) -> float:
    """Median CPU seconds of a job, after one run that is not counted."""
    job()
    taken = []
    for _ in range(repeats):
        begin = time.process_time()
        job()
        taken.append(time.process_time() - begin)
    return statistics.median(taken)


def row(what: str, note: str, *, ours=None, peer=None, ratio=None, unit="CPU s") -> dict:
    """One row of the table of `make bench`."""
    return dict(benchmark=what, ours=ours, peer=peer, ratio=ratio, unit=unit, note=note)


def timed(what: str, note: str, ours: float, peer: float) -> dict:
    """A row of seconds and how many times faster ours is."""
    note += "; one thread; ratio: times faster"
    return row(what, note, ours=ours, peer=peer, ratio=peer / ours)


# Jobs on a distance matrix of two arms of n answers, and on the answers; each gives its Found.


def ours_on_matrix(d: np.ndarray, n: int, count: int) -> Found:
    found = twosample.energy_test(d, n, n_permutations=count)
    return found.statistic, found.pvalue


def ours(x: np.ndarray, y: np.ndarray, count: int) -> Found:
    return ours_on_matrix(squareform(pdist(np.concatenate([x, y]))), len(x), count)


def dcor_on_matrix(d: np.ndarray, n: int, count: int) -> Found:
    """What dcor does once it has the distances; it has no public function from there on."""
    from dcor import _hypothesis, homogeneity

    statistic = partial(
        homogeneity._energy_test_statistic_multivariate_from_distance_matrix,
        indexes=(0, n),
        sizes=(n, n),
    )
    found = _hypothesis._permutation_test_with_sym_matrix(
        d, statistic_function=statistic, num_resamples=count, random_state=0, n_jobs=1
    )
    return found.statistic / (n / 2), found.pvalue


def dcor_on_answers(x: np.ndarray, y: np.ndarray, count: int) -> Found:
    import dcor

    found = dcor.homogeneity.energy_test(x, y, num_resamples=count, random_state=0)
    return found.statistic / (len(x) / 2), found.pvalue


def permuted(energy, n: int, count: int, **how) -> Found:
    """SciPy's test of a statistic of the indices of 2 n answers."""
    found = scipy_stats.permutation_test(
        (np.arange(n), np.arange(n, 2 * n)),
        energy,
        n_resamples=count,
        alternative="greater",
        rng=np.random.default_rng(0),
        **how,
    )
    return found.statistic, found.pvalue


def scipy_on_matrix(d: np.ndarray, n: int, count: int) -> Found:
    """SciPy permutes indices of answers; means over blocks of the matrix."""

    def energy(x, y):
        across = d[np.ix_(x, y)].mean()
        return 2 * across - d[np.ix_(x, x)].mean() - d[np.ix_(y, y)].mean()

    return permuted(energy, n, count, vectorized=False)


def scipy_vectorised(d: np.ndarray, n: int, count: int) -> Found:
    """The same for batches of relabellings at once."""

    def energy(x, y, axis):
        def mean(a, b):
            return d[a[..., :, None], b[..., None, :]].mean(axis=(-1, -2))

        return 2 * mean(x, y) - mean(x, x) - mean(y, y)

    return permuted(energy, n, count, vectorized=True, batch=max(1, 500_000 // n**2))


def scipy_on_answers(job: Callable, x: np.ndarray, y: np.ndarray, count: int) -> Found:
    z = np.concatenate([x, y])
    return job(cdist(z, z), len(x), count)


def hyppo_energy(stat: float, n: int) -> float:
    """From hyppo's biased statistic: c √dCov², where the energy is c dCov² with c = 8 here."""
    scale = (2 * n) ** 4 / (2 * n**4)
    return stat**2 / scale


def hyppo_on_matrix(d: np.ndarray, n: int, count: int) -> Found:
    """Distance correlation of the answers with their labels, which has the same p-value."""
    from hyppo.independence import Dcorr
    from hyppo.independence.dcorr import _dcov

    labels = np.repeat([0.0, 1.0], n)
    apart = np.abs(labels[:, None] - labels)
    _, p = Dcorr(compute_distance=None, bias=True).test(
        d, apart, reps=count, auto=False, random_state=0
    )
    return hyppo_energy(8 * _dcov(d, apart, bias=True), n), p


def hyppo_on_answers(x: np.ndarray, y: np.ndarray, count: int) -> Found:
    from hyppo.ksample import Energy

    stat, p = Energy(bias=True).test(x, y, reps=count, auto=False, random_state=0)
    return hyppo_energy(stat, len(x)), p


ON_MATRIX = {
    "dcor": dcor_on_matrix,
    "SciPy": scipy_on_matrix,
    "SciPy, vectorised": scipy_vectorised,
    "hyppo": hyppo_on_matrix,
}
ON_ANSWERS = {
    "dcor": dcor_on_answers,
    "SciPy": partial(scipy_on_answers, scipy_on_matrix),
    "SciPy, vectorised": partial(scipy_on_answers, scipy_vectorised),
    "hyppo": hyppo_on_answers,
}


def agreement_rows(name: str, x: np.ndarray, y: np.ndarray, d: np.ndarray) -> list[dict]:
    """Largest differences from a peer; more than rounding or chance is an error."""
    n = len(x)
    statistic, p = ours(x, y, PERMUTATIONS)
    error = 4 * np.sqrt(2 * p * (1 - p) / PERMUTATIONS)
    found = [ON_MATRIX[name](d, n, PERMUTATIONS), ON_ANSWERS[name](x, y, PERMUTATIONS)]
    for theirs, their_p in found:
        if not abs(theirs - statistic) <= 1e-10 or not abs(their_p - p) <= error:
            raise AssertionError(f"{name}: {theirs}, p = {their_p}, but ours {statistic}, p = {p}")
    most, far = np.abs(np.array(found) - (statistic, p)).max(0)
    what = f"energy test agrees with {name}"
    note = f"{n} answers a side, E {statistic:.4f}; normalisations undone"
    note_p = f"4 standard errors are {error:.3f}; ours {p:.3f}"
    return [
        row(f"{what}: statistic", note, ours=float(most), unit="max |diff|"),
        row(f"{what}: p", note_p, ours=float(far), unit="max |diff|"),
    ]


def speed_rows(name: str, x: np.ndarray, y: np.ndarray, d: np.ndarray) -> list[dict]:
    n, rows = len(x), []
    note = f"{PERMUTATIONS} permutations of {n} + {n} answers"
    distances = f"with distances of {WIDTH} numbers"
    for what, mine, peer, inputs, more in (
        ("given distances", ours_on_matrix, ON_MATRIX[name], (d, n), "labels and statistics"),
        ("from answers", ours, ON_ANSWERS[name], (x, y), distances),
    ):
        our = seconds(partial(mine, *inputs, PERMUTATIONS), 51)
        their = seconds(partial(peer, *inputs, PERMUTATIONS), 3)
        rows.append(timed(f"energy, {what}: ours / {name}", f"{note}, {more}", our, their))
    return rows


def loop_row(x: np.ndarray, y: np.ndarray) -> dict:
    """Algorithm 1 against its plain loop over relabellings."""
    z = np.concatenate([x, y])
    s, n = z @ z.T, len(x)
    labels = twosample.label_matrix(n, n, PERMUTATIONS)
    upper = np.triu_indices(n, 1)
    edges = np.linspace(*np.quantile(s[np.triu_indices(2 * n, 1)], [0, 1]), 31)

    def loop():
        return [
            (
                np.histogram(s[np.ix_(own, own)][upper], edges)[0],
                np.histogram(s[np.ix_(own, ~own)], edges)[0],
            )
            for own in labels
        ]

    def fast():
        return twosample.pair_histograms(s, labels)

    assert all(
        (np.array(a) == b).all() for a, b in zip(zip(*loop(), strict=True), fast(), strict=True)
    )
    note = (
        f"histograms of P0 and P1, given labels, {PERMUTATIONS} permutations of {n} + {n} answers"
    )
    return timed("Algorithm 1: ours / plain loop", note, seconds(fast, 9), seconds(loop, 3))


def peer_time(name: str, n: int) -> float:
    """Seconds from answers to p; of many answers with the first permutations extrapolated."""
    x, y = arms(n)
    if n <= 128:
        return seconds(partial(ON_ANSWERS[name], x, y, PERMUTATIONS), 3)
    z = np.concatenate([x, y])
    both = seconds(partial(ON_ANSWERS[name], x, y, FEWER), 1)
    alone = seconds(partial(ON_MATRIX[name], cdist(z, z), n, FEWER), 1)
    return both + alone * (PERMUTATIONS - FEWER) / (FEWER + 1)


def growth_rows(name: str) -> list[dict]:
    """Exponents of the growth with the number of answers, and times of the most answers."""
    our = [seconds(partial(ours, *arms(n), PERMUTATIONS), 5) for n in SIDES]
    their = [peer_time(name, n) for n in SIDES]
    large = np.array(SIDES) >= 128
    slopes = [
        float(np.polyfit(np.log(SIDES)[large], np.log(taken)[large], 1)[0])
        for taken in (our, their)
    ]
    note = (
        f"slope of log CPU seconds on log n, 128 to {SIDES[-1]} a side, distances included; peer "
        f"from 256 a side on extrapolated from {FEWER} permutations"
    )
    many = f"{SIDES[-1]} + {SIDES[-1]} answers, distances included; peer extrapolated"
    return [
        row(f"growth: ours / {name}", note, ours=slopes[0], peer=slopes[1], unit="exponent"),
        timed(f"energy, many answers: ours / {name}", many, our[-1], their[-1]),
    ]


def against(name: str) -> list[dict]:
    """All rows of one peer."""
    package = {"dcor": "dcor", "hyppo": "hyppo.ksample"}.get(name)
    if package and not importlib.util.find_spec(package.split(".")[0]):
        return [row(f"energy test: ours / {name}", "not installed (requirements-bench.txt)")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hyppo warns of fewer than 1000 permutations
        if package:
            importlib.import_module(package)  # a limit reaches only libraries that are there
        with threadpool_limits(1):
            x, y = arms(SIDE)
            z = np.concatenate([x, y])
            d = cdist(z, z)
            return agreement_rows(name, x, y, d) + speed_rows(name, x, y, d) + growth_rows(name)


def against_loop() -> list[dict]:
    with threadpool_limits(1):
        return [loop_row(*arms(SIDE))]


PARTS = {
    "dcor": partial(against, "dcor"),
    "SciPy": partial(against, "SciPy"),
    "SciPy-vectorised": partial(against, "SciPy, vectorised"),
    "hyppo": partial(against, "hyppo"),
    "loop": against_loop,
}
