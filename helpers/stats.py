"""Uncertainty and concentration measures; NumPy and SciPy only.

Every interval says what it was resampled over: single values, whole clusters (`groups=`) or values
within fixed strata (`strata=`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as _scipy_stats

_CELLS_AT_ONCE = 4_000_000  # resampled entries held in memory at once (about 32 MB of indices)


class Estimate(NamedTuple):
    """An estimate with the ends of its confidence interval; prints as `0.50 [0.34, 0.66]`."""

    estimate: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or "z.2f"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    """`values` as a float array, or a ValueError that names the argument and counts the faults."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be a rectangular array of real numbers: {error}."
        ) from None
    if array.size == 0:
        raise ValueError(f"`{name}` is empty; at least one value is needed.")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(
            f"`{name}` holds {bad} NaN or infinite value(s) among {array.size}; "
            "find where they come from before computing a statistic."
        )
    return array


def _check_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie strictly between 0 and 1, such as 0.95; got {level!r}.")
    return level


def _codes(name: str, labels: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of N items as integer codes (N,), and the number of items of each label."""
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(
            f"`{name}` must have shape ({n},), one label per value; got {labels.shape}."
        )
    missing = sum(label is None or label != label for label in labels.tolist())  # NaN != NaN
    if missing:
        raise ValueError(f"`{name}` lacks {missing} label(s) (None or NaN); label every value.")
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return codes, counts


def _blocks(n_resamples: int, width: int) -> list[int]:
    """Sizes of blocks of resamples, `width` cells each, that fit in memory."""
    step = max(1, _CELLS_AT_ONCE // width)
    return [min(step, n_resamples - start) for start in range(0, n_resamples, step)]


def _resample_rows(values, statistic, strata, n_resamples, rng) -> np.ndarray:
    """Statistic of `n_resamples` samples; row i is replaced by a row of its own stratum."""
    n = len(values)
    codes, counts = _codes("strata", np.zeros(n) if strata is None else strata, n)
    if counts.min() < 2:
        what = "`values`" if strata is None else "a stratum in `strata`"
        raise ValueError(f"{what} has a single item; an interval needs at least two.")
    members = [np.flatnonzero(codes == code) for code in range(len(counts))]
    means = values.reshape(n, -1).mean(axis=1)
    replicates = []
    for size in _blocks(n_resamples, n):
        rows = np.empty((size, n), dtype=np.intp)
        for own in members:
            rows[:, own] = own[rng.integers(0, len(own), (size, len(own)))]
        if statistic is np.mean:
            replicates.append(means[rows].mean(axis=1))
        else:
            replicates.append(np.array([statistic(values[row]) for row in rows], dtype=float))
    return np.concatenate(replicates)


def _resample_groups(values, statistic, groups, n_resamples, rng) -> np.ndarray:
    """Statistic of `n_resamples` samples of whole groups drawn with replacement."""
    codes, counts = _codes("groups", groups, len(values))
    n_groups = len(counts)
    if n_groups < 2:
        raise ValueError("`groups` names a single group; a cluster bootstrap needs at least two.")
    sums = np.bincount(codes, weights=values.reshape(len(values), -1).mean(axis=1))
    replicates = []
    for size in _blocks(n_resamples, n_groups):
        times = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size)
        if statistic is np.mean:
            replicates.append((times @ sums) / (times @ counts))
        else:
            rows = (np.repeat(np.arange(len(values)), draw[codes]) for draw in times)
            replicates.append(np.array([statistic(values[row]) for row in rows], dtype=float))
    return np.concatenate(replicates)


def bootstrap_ci(
    values: ArrayLike,
    *,
    statistic: Callable[[np.ndarray], float] = np.mean,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    n_resamples: int = 4000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> Estimate:
    """Percentile bootstrap interval of a statistic.

    Args:
        values: (N,) or (N, ...) real numbers; resampled along the first axis.
        statistic: maps an array like `values` to a number; `np.mean` (over all entries) is fast.
        groups: (N,) labels; whole groups are drawn (cluster bootstrap), so a resample's length
            varies when the groups differ in size.
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
    values = np.atleast_1d(_finite("values", values))
    tail = (1 - _check_level(level)) / 2
    if n_resamples < 1:
        raise ValueError(f"`n_resamples` must be at least 1; got {n_resamples!r}.")
    if groups is not None and strata is not None:
        raise ValueError("give either `groups` or `strata`, not both.")
    resample, labels = (_resample_rows, strata) if groups is None else (_resample_groups, groups)
    replicates = resample(values, statistic, labels, n_resamples, np.random.default_rng(rng))
    estimate = float(statistic(values))
    bad = int(np.count_nonzero(~np.isfinite([estimate, *replicates])))
    if bad:
        raise ValueError(
            f"`statistic` is NaN or infinite on {bad} of {n_resamples + 1} samples; "
            "resample within `strata`, or use a statistic that every resample defines."
        )
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Estimate(estimate, float(low), float(high))


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    n_resamples: int = 4000,
    level: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> Estimate:
    """Percentile bootstrap interval of mean(a - b) over paired items.

    Args:
        a: (N,) scores of the items under one condition; booleans count as 0 and 1.
        b: (N,) scores of the same items, in the same order, under the other condition.
        groups, strata, n_resamples, level, rng: as in `bootstrap_ci`.

    Returns:
        Estimate of the mean difference.

    Raises:
        ValueError: `a` and `b` differ in shape or are not one-dimensional, and as `bootstrap_ci`.
    """
    a, b = _finite("a", a), _finite("b", b)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"`a` and `b` must both have shape (N,), the same items in the same order; "
            f"got {a.shape} and {b.shape}."
        )
    return bootstrap_ci(
        a - b, groups=groups, strata=strata, n_resamples=n_resamples, level=level, rng=rng
    )


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
    values = _finite("values", values)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"`values` must have shape (N,) with N >= 2; got {values.shape}.")
    mean = float(values.mean())
    half = values.std(ddof=1) / np.sqrt(len(values))
    half = float(half * _scipy_stats.t.ppf((1 + _check_level(level)) / 2, len(values) - 1))
    return Estimate(mean, mean - half, mean + half)


def _magnitudes(x: ArrayLike, axis: int) -> np.ndarray:
    """`x` as non-negative floats with `axis` moved to the end."""
    x = np.atleast_1d(_finite("x", x))
    if (x < 0).any():
        raise ValueError("`x` has negative entries; pass magnitudes, such as norms or np.abs(x).")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"`axis` {axis} does not exist in `x` of shape {x.shape}.")
    return np.moveaxis(x, axis, -1)


def _float_if_single(values: np.ndarray) -> float | np.ndarray:
    return float(values) if np.ndim(values) == 0 else values


def gini(x: ArrayLike, axis: int = -1) -> float | np.ndarray:
    """Gini coefficient: 0 when all entries are equal, (n - 1) / n when one entry holds everything.

    Args:
        x: non-negative magnitudes.
        axis: axis along which the concentration is measured.

    Returns:
        Coefficients, shaped like `x` without `axis`; a float for one-dimensional `x`.

    Raises:
        ValueError: negative, non-finite or no entries; a row of zeros, where there is nothing to
            share out (the coefficient is free of scale, so it has no limit there).

    Source: Gini (1912); computed from the sorted entries as sum((2i - n - 1) x_i) / (n sum(x)).
    """
    x = np.sort(_magnitudes(x, axis), axis=-1)
    n = x.shape[-1]
    largest = x[..., -1:]
    if (largest == 0).any():
        raise ValueError("`x` has a row that is all zero; its Gini coefficient is not defined.")
    x = x / largest  # sums of huge or tiny entries neither overflow nor vanish
    weights = 2 * np.arange(1, n + 1) - n - 1
    return _float_if_single((x @ weights) / (n * x.sum(axis=-1)))


def max_over_median(x: ArrayLike, axis: int = -1) -> float | np.ndarray:
    """Largest entry divided by the median entry.

    Args:
        x: non-negative magnitudes.
        axis: axis along which to look.

    Returns:
        Ratios (>= 1), shaped like `x` without `axis`; a float for one-dimensional `x`.

    Raises:
        ValueError: negative, non-finite or no entries, or a row whose median is zero.
    """
    x = _magnitudes(x, axis)
    median = np.median(x, axis=-1)
    if (median == 0).any():
        raise ValueError("`x` has a row whose median is zero; its max/median is not defined.")
    return _float_if_single(x.max(axis=-1) / median)


def exceed_share(x: ArrayLike, factor: float, axis: int = -1) -> float | np.ndarray:
    """Share of entries that are larger than `factor` times the mean along `axis`.

    Args:
        x: non-negative magnitudes.
        factor: positive threshold in units of the mean.
        axis: axis over which mean and share are taken.

    Returns:
        Shares in [0, 1], shaped like `x` without `axis`; a float for one-dimensional `x`.

    Raises:
        ValueError: negative, non-finite or no entries, or a `factor` that is not positive.
    """
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"`factor` must be a positive number; got {factor!r}.")
    x = _magnitudes(x, axis)
    return _float_if_single((x > factor * x.mean(axis=-1, keepdims=True)).mean(axis=-1))
