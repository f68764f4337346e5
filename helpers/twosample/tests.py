"""Two-sample tests that permute the labels of answers; NumPy and SciPy only.

Two arms of answers, X and Y, are pooled: the first `n_x` rows of a matrix of distances or
similarities belong to X. Under the null hypothesis the pooled answers are exchangeable, so that any
statistic of them has an exact p-value when whole answers change arms. (Pairs of answers are not
exchangeable, since one answer stands in many pairs: they are never shuffled here.)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, combinations
from math import ceil, comb

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import distance
from scipy.stats import t as student

from helpers import checks
from helpers.stats import Estimate

_BYTES_AT_ONCE = 128_000  # a block of labels or pairs; larger ones leave the cache, or cost pages


@dataclass(frozen=True, eq=False)
class PermutationResult:
    """`null_distribution` holds all relabellings if `exact`, otherwise random ones."""

    statistic: float
    pvalue: float
    exact: bool
    null_distribution: np.ndarray = field(repr=False)

    @property
    def n_permutations(self) -> int:
        return len(self.null_distribution)

    @property
    def z(self) -> float:
        """Standard deviations between the statistic and its mean under relabelling."""
        null = self.null_distribution
        own, spread = self.statistic - np.mean(null), np.std(null)
        return float(own / spread) if spread > 1e-12 * abs(self.statistic) else 0.0


# ------------------------------------------------------------------- matrices of pooled answers


def _symmetric(name: str, values: ArrayLike) -> np.ndarray:
    """A symmetric matrix of at least two answers; what stands on its diagonal is left open."""
    matrix = checks.finite(name, values, 2)
    if matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(
            f"`{name}` must have shape (N, N), both arms against both, N at least 2; got "
            f"{matrix.shape}."
        )
    if np.abs(matrix - matrix.T).max() > 1e-8 * np.abs(matrix).max():
        raise ValueError(
            f"`{name}` is not symmetric; pass all pairs of the pooled answers, or against rounding "
            f"errors ({name} + {name}.T) / 2."
        )
    return matrix


def _distances(d: ArrayLike) -> np.ndarray:
    d = _symmetric("d", d)
    if (d < 0).any():
        raise ValueError(
            f"`d` holds negative distances, down to {d.min():.3g}; are these similarities? "
            "Against rounding errors np.maximum(d, 0)."
        )
    if d.diagonal().any():
        raise ValueError(
            "`d` is not 0 on its diagonal; are these similarities? Use 1 - similarity, or against "
            "rounding errors np.fill_diagonal(d, 0)."
        )
    return d


# ---------------------------------------------------------------------------------------- labels


def label_matrix(
    n_x: int, n_y: int, n_permutations: int = 999, rng: int | np.random.Generator = 0
) -> np.ndarray:
    """Who belongs to the first arm, in the observed data and after relabelling.

    Args:
        n_x, n_y: answers of the two arms.
        n_permutations: number of random relabellings; each is uniform over all of them.
        rng: seed or NumPy generator.

    Returns:
        (n_permutations + 1, n_x + n_y) booleans, row 0 the observed. Where that many rows suffice
        for all relabellings, each stands there once instead: there are comb(n_x + n_y, n_x) rows
        then and only then.

    Raises:
        ValueError: a number that is not whole or not positive.
    """
    n_x, n_y = checks.whole("n_x", n_x, 1), checks.whole("n_y", n_y, 1)
    n_permutations, n = checks.whole("n_permutations", n_permutations, 1), n_x + n_y
    if (count := comb(n, n_x)) <= n_permutations + 1:
        chosen = np.fromiter(chain.from_iterable(combinations(range(n), n_x)), dtype=np.intp)
        labels = np.zeros((count, n), dtype=bool)  # lexicographic order starts with the first n_x
        np.put_along_axis(labels, chosen.reshape(count, n_x), True, axis=1)
        return labels
    labels = np.empty((n_permutations + 1, n), dtype=bool)
    labels[0] = np.arange(n) < n_x
    rng, step = np.random.default_rng(rng), max(64, _BYTES_AT_ONCE // (4 * n))
    for start in range(1, len(labels), step):
        block = np.arange(start, min(start + step, len(labels)))
        while block.size:  # the first arm is where the smallest keys are; rows with ties once more
            keys = rng.random((len(block), n), dtype=np.float32)
            labels[block] = keys <= np.partition(keys, n_x - 1)[:, n_x - 1 : n_x]
            block = block[np.count_nonzero(labels[block], axis=1) != n_x]
    return labels


def _labels(labels: ArrayLike, n: int, least: int) -> tuple[np.ndarray, int]:
    """Checked labels and the size of the first arm."""
    labels = np.asarray(labels)
    if labels.dtype != bool or labels.ndim != 2 or labels.shape[1] != n or not len(labels):
        raise ValueError(
            f"`labels` must be booleans of shape (R, {n}), such as from `label_matrix`; got "
            f"{labels.dtype} of shape {labels.shape}."
        )
    sizes = {*np.count_nonzero(labels, axis=1).tolist()}
    if len(sizes) > 1 or not least <= min(sizes) < n:
        raise ValueError(
            f"`labels` must put the same number of answers, {least} to {n - 1}, in the first arm "
            f"in each row; got {min(sizes)} to {max(sizes)}."
        )
    return labels, sizes.pop()


# -------------------------------------------------------------------------------------- p-values


def permutation_pvalue(stats: ArrayLike, rtol: float = 1e-9) -> float:
    """Share of relabellings whose statistic is at least the observed one; never 0.

    Args:
        stats: (R,) the observed statistic first, then those of relabellings; large ones speak
            against the null hypothesis (two-sided: pass absolute values).
        rtol: statistics that fall short by less than this share of the largest magnitude count as
            ties, so that rounding errors decide nothing.

    Returns:
        p in [1 / R, 1]: exact with all relabellings, (1 + count) / (1 + B) with random ones.

    Raises:
        ValueError: fewer than two statistics, or NaN or infinite ones.

    Source: Phipson and Smyth 2010, equation 2.
    """
    stats = checks.finite("stats", stats, 1)
    if len(stats) < 2:
        raise ValueError("`stats` must be the observed one and others.")
    return float(np.mean(stats >= stats[0] - rtol * np.abs(stats).max()))


def _check_resolution(n_x, n_y, n_permutations, alpha, n_tests, mirrored) -> None:
    """Refuse a test that could not reject at `alpha` whatever the answers."""
    count, level = (
        comb(n_x + n_y, n_x),
        checks.share("alpha", alpha) / checks.whole("n_tests", n_tests, 1),
    )
    least = (2 if mirrored and n_x == n_y else 1) / count
    says = f"allows no p-value below {{:.3g}}, but alpha / n_tests is {level:.3g};"
    bound = level * (1 + 1e-9)
    if least > bound:
        raise ValueError(
            f"`n_x` = {n_x} against {n_y} answers {says.format(least)} draw more answers."
        )
    if count > n_permutations + 1 and 1 / (n_permutations + 1) > bound:
        raise ValueError(
            f"`n_permutations` = {n_permutations} {says.format(1 / (n_permutations + 1))} "
            f"take at least {ceil(1 / bound) - 1}."
        )


def permutation_test(
    statistics: Callable[[np.ndarray], np.ndarray],
    n: int,
    n_x: int,
    *,
    n_permutations: int = 999,
    alpha: float | None = None,
    n_tests: int = 1,
    rng: int | np.random.Generator = 0,
    mirrored: bool = False,
) -> PermutationResult:
    """Test of any statistic of pooled answers by permuting their labels.

    Args:
        statistics: maps labels (R, n), booleans as of `label_matrix`, to R statistics; large ones
            speak against the null hypothesis.
        n, n_x: answers of both arms and of the first.
        n_permutations: random relabellings; where these would suffice for all, all are taken.
        alpha: if given, a test that cannot reject at `alpha` / `n_tests` is refused.
        n_tests: with `alpha`, tests among which p-values will be corrected (Bonferroni, Holm).
        rng: seed or NumPy generator.
        mirrored: whether the statistic stays the same when arms of equal size swap their names.

    Returns:
        PermutationResult(statistic, pvalue, exact, null_distribution), with `z`.

    Raises:
        ValueError: an arm of fewer than two answers, `alpha` outside (0, 1), too few permutations
            or answers for it, statistics that are not finite.

    Source: Rauba et al. 2025, Algorithm 1.
    """
    n_x, n_permutations = (
        checks.whole("n_x", n_x, 2),
        checks.whole("n_permutations", n_permutations, 1),
    )
    if n - n_x < 2:
        raise ValueError(f"`n_x` = {n_x} of {n} answers; a test needs at least two in each arm.")
    if alpha is not None:
        _check_resolution(n_x, n - n_x, n_permutations, alpha, n_tests, mirrored)
    labels = label_matrix(n_x, n - n_x, n_permutations, rng)
    values = np.asarray(statistics(labels))
    exact = len(labels) == comb(n, n_x)
    null = values if exact else values[1:]
    return PermutationResult(float(values[0]), permutation_pvalue(values), exact, null)


# ---------------------------------------------------------------------------- energy and kernels


def _energies(d: np.ndarray, labels: np.ndarray, n_x: int) -> np.ndarray:
    # With v = labels / n_x - (1 - labels) / n_y the energy is -v D v.
    n, n_y = len(d), len(d) - n_x
    rows, weight = d.sum(axis=1), 1 / n_x + 1 / n_y
    energies = np.empty(len(labels))
    step = max(64, _BYTES_AT_ONCE // (8 * n))
    for start in range(0, len(labels), step):
        own = labels[start : start + step].astype(np.float64)
        within = np.vecdot(own @ d, own)
        energies[start : start + step] = weight * (2 / n_y * (own @ rows) - weight * within)
    return energies - rows.sum() / n_y**2


def energy_statistics(d: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Energy distance of the two arms for every labelling, in two matrix products.

    E = 2 mean d(x, y) - mean d(x, x') - mean d(y, y'), zeros of the diagonals included.

    Args:
        d: (N, N) distances between the pooled answers.
        labels: (R, N) booleans from `label_matrix`.

    Returns:
        (R,) energies. They are squared kernel distances (MMD²) for `d` = 1 - kernel.

    Raises:
        ValueError: `d` is not square, finite, symmetric, non-negative and 0 on its diagonal, or
            `labels` do not fit it.

    Source: Székely and Rizzo 2013, Energy statistics, section 4 (without the factor nm / (n + m)).
    """
    d = _distances(d)
    return _energies(d, *_labels(labels, len(d), 1))


def energy_coefficient(d: ArrayLike, n_x: int) -> float:
    """Effect size H = E / (2 mean d(x, y)), in [0, 1] for Euclidean and cosine distances.

    Its floor is not 0: two arms of k answers of one distribution give about 1 / k, so that
    coefficients are compared at equal k only.

    Args:
        d: (N, N) distances between the pooled answers.
        n_x: answers of the first arm.

    Returns:
        H, and 0 where nothing lies across, since all answers are equal.

    Raises:
        ValueError: as `energy_statistics`; `n_x` that leaves an arm empty.
    """
    d, n_x = _distances(d), checks.whole("n_x", n_x, 1)
    if n_x >= len(d):
        raise ValueError(f"`n_x` = {n_x} leaves nothing of {len(d)} answers for the second arm.")
    across = d[:n_x, n_x:].mean()
    within = d[:n_x, :n_x].mean() + d[n_x:, n_x:].mean()
    return float(1 - within / (2 * across)) if across else 0.0


def energy_test(d: ArrayLike, n_x: int, **options) -> PermutationResult:
    """Do two arms of answers have one distribution? Energy distance with answers permuted.

    Args:
        d: (N, N) distances between the pooled answers, those of the first arm first.
        n_x: answers of the first arm.
        options: `n_permutations`, `alpha`, `n_tests` and `rng` of `permutation_test`.

    Returns, Raises: as `energy_statistics` and `permutation_test`.

    Source: Székely and Rizzo 2004, Testing for equal distributions in high dimension.
    """
    d = _distances(d)
    return permutation_test(
        lambda labels: _energies(d, labels, int(n_x)), len(d), n_x, mirrored=True, **options
    )


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
    codes, counts = checks.codes("arms", arms, len(places))
    if counts.size == 0 or counts.min() < 2:
        raise ValueError("`arms` must name at least two items of each sample, to leave one out.")
    found = [statistic(np.delete(places, i)) for i in places]
    *found, estimate = checks.finite("statistic", [*found, statistic(places)])
    squares = (found - (np.bincount(codes, found) / counts)[codes]) ** 2
    error = np.sqrt((np.bincount(codes, squares) * (counts - 1) / counts).sum())
    quantile = student.ppf((1 + checks.share("level", level)) / 2, len(places) - len(counts))
    half = float(error * quantile)
    return Estimate(float(estimate), float(estimate) - half, float(estimate) + half)


# ----------------------------------------------------------------- Algorithm 1 with Jensen-Shannon


def pair_histograms(
    s: ArrayLike, labels: ArrayLike, n_bins: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Histograms of P0, pairs within the first arm, and P1, pairs across, for every labelling.

    Args:
        s: (N, N) similarities of the pooled answers, of any sign; the diagonal is not used.
        labels: (R, N) booleans from `label_matrix`, with at least two answers in the first arm.
        n_bins: bins of equal width from the smallest to the largest pooled similarity, common to
            both histograms and to all labellings.

    Returns:
        Counts (R, n_bins) of P0, k (k - 1) / 2 in each row, and of P1, k m in each row.

    Raises:
        ValueError: `s` is not square, finite and symmetric, `labels` do not fit it, or no bins.
    """
    s, n_bins = _symmetric("s", s), checks.whole("n_bins", n_bins, 1)
    labels, _ = _labels(labels, len(s), 2)
    i, j = np.triu_indices(len(s), 1)
    pairs = s[i, j]
    edges = np.linspace(pairs.min(), pairs.max(), n_bins + 1)
    codes = np.minimum(np.searchsorted(edges, pairs, side="right") - 1, n_bins - 1)
    per_answer = sum(
        np.bincount(end * n_bins + codes, minlength=s.shape[0] * n_bins) for end in (i, j)
    )
    within = np.zeros((len(labels), n_bins))
    by_answer = np.ascontiguousarray(labels.T)
    step = max(1, _BYTES_AT_ONCE // len(labels))
    for code in range(n_bins):
        own = np.flatnonzero(codes == code)
        for start in range(0, len(own), step):
            some = own[start : start + step]
            both = by_answer[i[some]] & by_answer[j[some]]
            within[:, code] += both.sum(axis=0, dtype=np.int32)
    return within, labels @ per_answer.reshape(-1, n_bins).astype(np.float64) - 2 * within


def similarity_statistics(s: ArrayLike, labels: ArrayLike, n_bins: int = 30) -> np.ndarray:
    """Jensen-Shannon distance ω between the histograms of P0 and P1 for every labelling.

    The distance is the root of the divergence in nats, from 0 to √ln 2. Unchanged arms do not give
    0: the floor depends on k, so that values of different k cannot be compared.

    Args:
        s, labels, n_bins: as in `pair_histograms`.

    Returns:
        (R,) distances.

    Raises:
        ValueError: as `pair_histograms`.
    """
    return distance.jensenshannon(*pair_histograms(s, labels, n_bins), axis=1)


def similarity_test(s: ArrayLike, n_x: int, *, n_bins: int = 30, **options) -> PermutationResult:
    """Algorithm 1 of DBPA: similarities within the first arm against those across, ω = JS.

    The second arm is never compared with itself, so that swapping the arms can change p: say which
    one is the base before looking.

    Args:
        s: (N, N) similarities of the pooled answers, those of the first arm (the base) first.
        n_x: answers of the first arm.
        n_bins: common bins over all pooled similarities; our choice, since without bins no two
            similarities are alike and ω is √ln 2 for every labelling.
        options: `n_permutations`, `alpha`, `n_tests` and `rng` of `permutation_test`.

    Returns, Raises: as `similarity_statistics` and `permutation_test`.

    Source: Rauba et al. 2025, Algorithm 1.
    """
    s = _symmetric("s", s)
    return permutation_test(
        lambda labels: similarity_statistics(s, labels, n_bins), len(s), n_x, **options
    )
