"""Uncertainty, effect sizes and concentration measures; NumPy and SciPy only.

Every interval says what it was resampled over: single values, whole clusters (`groups=`) or values
within fixed strata (`strata=`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as _scipy_stats
from scipy.special import logsumexp

_STAKES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])  # shares of the wealth that are bet
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


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"`{name}` must lie strictly between 0 and 1; got {value!r}.")
    return value


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
    tail = (1 - _share("level", level)) / 2
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
    half = float(half * _scipy_stats.t.ppf((1 + _share("level", level)) / 2, len(values) - 1))
    return Estimate(mean, mean - half, mean + half)


def jackknife_ci(
    statistic: Callable[[np.ndarray], float], arms: ArrayLike, level: float = 0.95
) -> Estimate:
    """Interval of a statistic of one or more samples, from leaving out one item at a time.

    For smooth statistics; at their minimum, such as the energy of two equal arms, it is no test.

    Args:
        statistic: maps the places (N',) of the items that stay, ascending, to a number.
        arms: (N,) the sample to which each item belongs.
        level: confidence level of the Student-t interval, with N - number of samples degrees.

    Returns:
        Estimate of the statistic of all items.

    Raises:
        ValueError: a sample of fewer than two items, or a statistic that is not finite.

    Source: Arvesen 1969, Jackknifing U-statistics, for several samples.
    """
    places = np.arange(np.size(arms))
    codes, counts = _codes("arms", arms, len(places))
    if counts.size == 0 or counts.min() < 2:
        raise ValueError("`arms` must name at least two items of each sample, to leave one out.")
    found = np.array([statistic(np.delete(places, i)) for i in places], dtype=float)
    estimate = float(statistic(places))
    if not np.isfinite([estimate, *found]).all():
        raise ValueError("`statistic` is NaN or infinite where an item is left out; take another.")
    squares = (found - (np.bincount(codes, found) / counts)[codes]) ** 2
    half = np.sqrt((np.bincount(codes, squares) * (counts - 1) / counts).sum())
    degrees = len(places) - len(counts)
    half = float(half * _scipy_stats.t.ppf((1 + _share("level", level)) / 2, degrees))
    return Estimate(estimate, estimate - half, estimate + half)


class ZTest(NamedTuple):
    """A standard normal statistic and its two-sided p-value."""

    statistic: float
    pvalue: float


def two_proportion_test(k1: int, n1: int, k2: int, n2: int, *, pooled: bool = False) -> ZTest:
    """Two-sided normal test of equal proportions in independent samples.

    Args:
        k1, n1, k2, n2: successes and trials of both samples; the statistic is positive where the
            second share is larger.
        pooled: take the standard error from the pooled proportion, not from both.

    Returns:
        ZTest(statistic, pvalue); (0, 1) for equal proportions.

    Raises:
        ValueError: numbers that are not 0 <= k <= n with n >= 1, or shares of 0 and 1, for which
            only the pooled standard error is not 0.
    """
    for name, k, n in (("1", k1, n1), ("2", k2, n2)):
        if not (0 <= k <= n and n >= 1):
            raise ValueError(f"`k{name}`, `n{name}` must be 0 <= k <= n, n >= 1; got {k!r}, {n!r}.")
    p1, p2, p = k1 / n1, k2 / n2, (k1 + k2) / (n1 + n2)
    if p1 == p2:
        return ZTest(0.0, 1.0)
    variance = (
        p * (1 - p) * (1 / n1 + 1 / n2) if pooled else p1 * (1 - p1) / n1 + p2 * (1 - p2) / n2
    )
    if variance == 0:
        raise ValueError("`k1` and `k2` are none and all of their trials; use pooled=True.")
    z = float((p2 - p1) / np.sqrt(variance))
    return ZTest(z, float(2 * _scipy_stats.norm.sf(abs(z))))


def cliffs_delta(x: ArrayLike, y: ArrayLike) -> float:
    """P(x > y) - P(x < y) over all pairs: 1 when every x is larger, 0 for no tendency.

    Args:
        x, y: (N,) and (M,) real numbers.

    Returns:
        Cliff's delta in [-1, 1], which is 2 AUC - 1.

    Raises:
        ValueError: empty, non-finite or not one-dimensional input.

    Source: Cliff 1993, Dominance statistics; computed from ranks.
    """
    x, y = _finite("x", x), _finite("y", y)
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"`x` and `y` must be one-dimensional; got {x.shape} and {y.shape}.")
    ranks = _scipy_stats.rankdata(np.concatenate([x, y]))[: len(x)]
    return float(2 * (ranks.mean() - (len(x) + 1) / 2) / len(y) - 1)


def log_odds_z(counts_a: ArrayLike, counts_b: ArrayLike, prior: float = 0.5) -> np.ndarray:
    """How typical items are of A rather than B: log-odds ratios in standard errors.

    Args:
        counts_a, counts_b: (K,) how often each of K >= 2 items occurs in either corpus.
        prior: count that is added to every item.

    Returns:
        (K,) z values, positive where A uses the item more.

    Raises:
        ValueError: shapes that differ, negative or non-finite counts, or a prior not above 0.

    Source: Monroe, Colaresi and Quinn 2008, Fightin' Words, equations 16, 20 and 22.
    """
    if not (np.isfinite(prior) and prior > 0):
        raise ValueError(f"`prior` must be a positive number; got {prior!r}.")
    a, b = _finite("counts_a", counts_a), _finite("counts_b", counts_b)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2 or min(a.min(), b.min()) < 0:
        raise ValueError(
            "`counts_a` and `counts_b` must be counts of the same items, shape (K,), K >= 2, none "
            f"negative; got shapes {a.shape} and {b.shape}."
        )
    a, b = a + prior, b + prior
    gap = np.log(a / (a.sum() - a)) - np.log(b / (b.sum() - b))
    return gap / np.sqrt(1 / a + 1 / b)


class Bets(NamedTuple):
    """Wealth and payoffs (T,); after `stop` pairs the wealth first was 1 / alpha (or None)."""

    wealth: np.ndarray
    payoffs: np.ndarray
    stop: int | None


def betting_process(x: ArrayLike, y: ArrayLike, alpha: float = 0.05, *, start: int = 4) -> Bets:
    """Bets(wealth, payoffs, stop) on pairs of answers that come in one after the other.

    Before pair t the gambler fixes a direction w, the difference of the arms' means so far, and a
    scale, the median of |(x_s - y_s) · w| over the past. The pair pays
    f_t = tanh(2 (x_t - y_t) · w / scale); the wealth is the mean of Π (1 + λ f_t) over stakes λ.
    Swapping the pair flips the sign of f_t: under the null hypothesis the game is fair, and the
    wealth ever reaches 1 / alpha with probability at most alpha, however often one looks.

    Args:
        x, y: (T, d) embeddings; pair t is row t of both, sampled independently. Pairs that come
            later do not change the wealth after the earlier ones.
        alpha: level of the test.
        start: pairs that are only looked at before the first bet.

    Raises:
        ValueError: shapes that differ, NaN, `alpha` outside (0, 1), `start` below 1.

    Source: Shafer 2021, Testing by betting; Ville's inequality.
    """
    x, y = _finite("x", x), _finite("y", y)
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(
            f"`x` and `y` must both have shape (T, d); got {x.shape} and {y.shape}; cut the longer "
            "one, embed both with one encoder."
        )
    if not isinstance(start, int | np.integer) or start < 1:
        raise ValueError(f"`start` must be a whole number, at least 1; got {start!r}.")
    gaps, payoffs = x - y, np.zeros(len(x))
    gaps = np.ldexp(gaps, -np.frexp(np.abs(gaps).max())[1])  # squares fit, and no digit changes
    dots = np.cumsum(gaps @ gaps.T, axis=0)  # row t - 1: all pairs along t times the w of pair t
    for t in range(start, len(x)):
        scale = np.median(np.abs(dots[t - 1, :t]))
        payoffs[t] = np.tanh(2 * dots[t - 1, t] / scale) if scale > 0 else 0
    logs = np.log1p(_STAKES[:, None] * payoffs).cumsum(axis=1)
    with np.errstate(under="ignore"):  # a lost stake is worth 0
        logs = logsumexp(logs, axis=0) - np.log(len(_STAKES))
        wealth = np.exp(np.minimum(logs, 700))
    reached = np.flatnonzero(logs >= -np.log(_share("alpha", alpha)))
    return Bets(wealth, payoffs, int(reached[0]) + 1 if reached.size else None)


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
