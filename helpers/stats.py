"""Estimates with intervals, from SciPy's routines.

Every interval says what it was resampled over: single values, whole clusters (`groups=`) or values
within fixed strata (`strata=`).
"""

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as _scipy_stats

from helpers import checks

_CELLS_AT_ONCE = 1_000_000  # resampled entries held in memory at once (8 MB of indices)


@dataclass(frozen=True, repr=False)
class Estimate:
    """An estimate with the ends of its confidence interval; prints as `0.50 [0.34, 0.66]`.

    Unpacks into its three numbers; np.asarray(estimates) of a list of n has shape (n, 3).
    """

    estimate: float
    low: float
    high: float

    def __iter__(self) -> Iterator[float]:
        return iter(astuple(self))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(astuple(self), dtype=dtype)

    def __format__(self, spec: str) -> str:
        spec = spec or "z.2f"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __repr__(self) -> str:
        return format(self)


def proportion_ci(hits: ArrayLike, n: int | None = None, level: float = 0.95) -> Estimate:
    """Wilson's interval of a proportion; it keeps a width at 0 of n and n of n.

    Args:
        hits: (N,) independent trials, True or 1 for a hit, else False or 0; or their count.
        n: number of trials, with a count.
        level: confidence level.

    Returns:
        Estimate of the proportion.

    Raises:
        ValueError: no trials, entries other than 0 and 1, or a count that is not among 0 .. n.

    Source: Wilson 1927, Probable inference.
    """
    if n is None:
        trials = checks.finite("hits", hits, 1)
        if not np.isin(trials, (0, 1)).all():
            raise ValueError("`hits` must be 0 or 1 for each trial; with a count, pass `n` too.")
        hits, n = int(trials.sum()), len(trials)
    hits, n = checks.whole("hits", hits, 0), checks.whole("n", n, 1)
    if hits > n:
        raise ValueError(f"`hits` must be at most `n`; got {hits} of {n}.")
    test = _scipy_stats.binomtest(hits, n)
    ends = test.proportion_ci(checks.share("level", level), method="wilson")
    return Estimate(hits / n, float(ends.low), float(ends.high))


# What SciPy draws from, one array of row or group numbers for each stratum; and what it calls with
# R drawings of each, (R, N) numbers
_Plan = tuple[list[np.ndarray], Callable[..., np.ndarray]]


def _rows_in_strata(values: np.ndarray, statistic: Callable, strata: ArrayLike) -> _Plan:
    """Row i is replaced by a row of its own stratum."""
    codes, counts = checks.codes("strata", strata, len(values))
    members = [np.flatnonzero(codes == code) for code in range(len(counts))]
    place = np.argsort(np.concatenate(members))
    return members, lambda *drawn, axis: statistic(values[np.concatenate(drawn, 1)[:, place]])


def _whole_groups(values: np.ndarray, statistic: Callable, groups: ArrayLike) -> _Plan:
    """All rows of each drawn group, so that samples differ in length and go one by one."""
    codes, counts = checks.codes("groups", groups, len(values))
    members = [np.flatnonzero(codes == code) for code in range(len(counts))]

    def means(drawn, axis):
        return np.bincount(codes, values)[drawn].sum(1) / counts[drawn].sum(1)

    def one_by_one(drawn, axis):
        rows = (np.concatenate([members[group] for group in own]) for own in drawn)
        return np.concatenate([statistic(values[None, row]) for row in rows])

    return [np.arange(len(counts))], means if statistic is _means else one_by_one


def _means(batch: np.ndarray) -> np.ndarray:
    return batch.mean(axis=1)


def bootstrap_ci(
    values: ArrayLike,
    *,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    n_resamples: int = 4000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> Estimate:
    """Percentile bootstrap interval of a statistic, by SciPy.

    Args:
        values: (N,) or (N, ...) real numbers; resampled along the first axis.
        statistic: maps R samples at once, (R, N, ...), to R numbers; the mean of all entries if
            None.
        groups: (N,) labels; whole groups are drawn (cluster bootstrap). Samples differ in length
            when groups do, so that `statistic` gets one at a time, (1, N', ...).
        strata: (N,) labels; row i of a resample comes from row i's stratum, so that `statistic`
            may pick out strata with fixed masks. Not together with `groups`.
        n_resamples: number of resamples.
        level: confidence level of the interval.
        rng: seed or NumPy generator.

    Returns:
        Estimate(estimate, low, high): the statistic of `values` and the interval's ends.

    Raises:
        ValueError: empty, non-finite or misshapen input, fewer than two units to resample, or a
            statistic that is not finite on some resample.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    values = np.atleast_1d(checks.finite("values", values))
    if groups is not None and strata is not None:
        raise ValueError("give either `groups` or `strata`, not both.")
    if statistic is None:
        values, statistic = values.reshape(len(values), -1).mean(axis=1), _means
    if groups is None:
        strata = np.zeros(len(values)) if strata is None else strata
        units, replicate = _rows_in_strata(values, statistic, strata)
    else:
        units, replicate = _whole_groups(values, statistic, groups)
    found = _scipy_stats.bootstrap(
        units,
        replicate,
        n_resamples=n_resamples,
        batch=max(1, _CELLS_AT_ONCE // values.size),
        vectorized=True,
        confidence_level=checks.share("level", level),
        method="percentile",
        rng=rng,
    )
    estimate = float(statistic(values[None])[0])
    bad = int(np.count_nonzero(~np.isfinite([estimate, *found.bootstrap_distribution])))
    if bad:
        raise ValueError(
            f"`statistic` is NaN or infinite on {bad} of {n_resamples + 1} samples; "
            "resample within `strata`, or use a statistic that every resample defines."
        )
    # sorted: between equal replicates a quantile is rounded up or down
    return Estimate(estimate, *sorted(map(float, found.confidence_interval)))


def paired_bootstrap(a: ArrayLike, b: ArrayLike, **options) -> Estimate:
    """Percentile bootstrap interval of mean(a - b) over paired items.

    Args:
        a: (N,) scores of the items under one condition; booleans count as 0 and 1.
        b: (N,) scores of the same items, in the same order, under the other condition.
        options: `groups`, `strata`, `n_resamples`, `level` and `rng` of `bootstrap_ci`.

    Returns:
        Estimate of the mean difference.

    Raises:
        ValueError: `a` and `b` differ in shape or are not one-dimensional, and as `bootstrap_ci`.
    """
    a, b = checks.finite("a", a, 1), checks.finite("b", b, 1)
    if a.shape != b.shape:
        raise ValueError(f"`a` and `b` must be the same items; got {a.shape} and {b.shape}.")
    return bootstrap_ci(a - b, **options)


def mean_ci(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Student-t interval of a mean.

    Args:
        values: (N,) independent real numbers, N >= 2.
        level: confidence level.

    Returns:
        Estimate of the mean.

    Raises:
        ValueError: fewer than two values, non-finite values or a wrong shape.
    """
    values = checks.finite("values", values, 1)
    if len(values) < 2:
        raise ValueError(f"`values` must have shape (N,) with N >= 2; got {values.shape}.")
    mean, error = float(values.mean()), float(_scipy_stats.sem(values))
    # SciPy's ttest_1samp has the same interval, but warns where all values are equal
    half = error * float(
        _scipy_stats.t.ppf((1 + checks.share("level", level)) / 2, len(values) - 1)
    )
    return Estimate(mean, mean - half, mean + half)


def cliffs_delta(x: ArrayLike, y: ArrayLike) -> float | np.ndarray:
    """P(x > y) - P(x < y) over all pairs: 1 when every x is larger, 0 for no tendency.

    Args:
        x, y: (..., N) and (..., M) real numbers; samples lie along the last axis.

    Returns:
        Cliff's delta in [-1, 1], which is 2 AUC - 1; a float for one pair of samples.

    Raises:
        ValueError: empty or non-finite input.

    Source: Cliff 1993, Dominance statistics; from the U of Mann and Whitney.
    """
    x, y = checks.finite("x", x), checks.finite("y", y)
    u = _scipy_stats.mannwhitneyu(x, y, axis=-1, method="asymptotic").statistic
    return 2 * u / (x.shape[-1] * y.shape[-1]) - 1
