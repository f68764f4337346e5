"""Spectra of weight matrices: eigenvalues, the Marchenko-Pastur law and power-law tails.

An eigenvalue here is a squared singular value of W, that is, an eigenvalue of W Wᵀ without any
division by the matrix's size; exponents do not depend on scale. Only float64 is computed with:
eigenvalues of a float32 Gram matrix lose the small ones, which square windows have plenty of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate, optimize

from helpers import checks

_BYTES_AT_ONCE = 64_000_000  # Gram matrices held in memory at once
_GRID = 48  # places per start where the distance is looked at before it is computed in full
_MIN_EIGENVALUES = 5


def eigenvalues(matrices: ArrayLike) -> np.ndarray:
    """Squared singular values, computed in float64 whatever the input's precision.

    Args:
        matrices: (..., r, c) floating-point matrices or tensors; views, such as those of
            `windows`, are copied a few matrices at a time.

    Returns:
        (..., min(r, c)) float64, ascending, never negative, 0 where rounding would decide.

    Raises:
        ValueError: fewer than two dimensions, no entries, integers or complex numbers, NaN or
            infinite entries.
    """
    matrices = checks.as_array(matrices)
    if matrices.ndim < 2 or 0 in matrices.shape or matrices.dtype.kind != "f":
        raise ValueError(
            "`matrices` must be floating-point numbers, shape (..., r, c), with entries; got "
            f"{matrices.dtype} of {matrices.shape}."
        )
    *stack, r, c = matrices.shape
    m = min(r, c)
    found = np.empty((int(np.prod(stack)), m))
    # A reshape would copy a stack of overlapping windows as a whole; an index copies one by one.
    places = list(np.ndindex(*stack))
    step = max(1, _BYTES_AT_ONCE // (8 * (m * m + r * c)))
    for start in range(0, len(places), step):
        block = np.stack([matrices[at] for at in places[start : start + step]])
        block = checks.finite("matrices", block if r <= c else block.swapaxes(-1, -2))
        own = np.linalg.eigvalsh(block @ block.swapaxes(-1, -2))
        found[start : start + step] = _without_noise(own, block)
    return found.reshape(*stack, m)


def _without_noise(own: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Ascending eigenvalues (B, m) of block blockᵀ, with 0 for what rounding made of 0.

    Several below the rounding of products mean a lost rank, be it of weights that were rounded
    when stored: those of full matrices keep apart. One may be real: its singular value tells.
    """
    share = checks.EPS * max(block.shape[1:])
    small = own < share * own[:, -1:]
    own = np.where(small, 0, own)
    for at in np.flatnonzero(small.sum(-1) == 1):
        values = np.linalg.svd(block[at], compute_uv=False)
        if values[-1] > share * values[0]:
            own[at, 0] = values[-1] ** 2
    return own


def windows(matrix: ArrayLike, height: int, *, ops: int, ratio: float = 1.0) -> np.ndarray:
    """Overlapping windows of one size on an even grid over a matrix (FARMS).

    Args:
        matrix: (r, c).
        height: rows of a window, h.
        ops: most positions along each axis; the step is ⌊room / (ops - 1)⌋, at least 1.
        ratio: columns per row of a window, Q*; it has ⌊h Q*⌋ columns (after rounding errors).

    Returns:
        (positions down, positions across, h, ⌊h Q*⌋): a read-only view, nothing is copied.

    Raises:
        ValueError: not a matrix, a window larger than the matrix or without columns, or `ops`
            below 1. (The authors' code shrinks h to min(r, c) without a word, and cuts a window
            of another shape where the columns do not suffice.)

    Source: Hu et al. 2025; the grid is that of their repository, commit 834612b.
    """
    matrix = checks.as_array(matrix)
    if matrix.ndim != 2:
        raise ValueError(f"`matrix` must have shape (r, c); got {matrix.shape}.")
    height, ops = checks.whole("height", height, 1), checks.whole("ops", ops, 1)
    columns = min(height * checks.positive("ratio", ratio), 1e15)  # round() takes no infinity
    size = (height, int(round(columns, 9)))  # 0.29 * 100 is 29, not 28.99...
    for name, own, room in zip(("height", "ratio"), size, matrix.shape, strict=True):
        if not 1 <= own <= room:
            raise ValueError(
                f"`{name}`: a window of {size[0]} x {size[1]} does not fit in `matrix` of "
                f"{matrix.shape[0]} x {matrix.shape[1]}."
            )
    steps = [max(1, (n - w) // max(1, ops - 1)) for n, w in zip(matrix.shape, size, strict=True)]
    grid = np.lib.stride_tricks.sliding_window_view(matrix, size)
    return grid[:: steps[0], :: steps[1]][:ops, :ops]


# ------------------------------------------------------------------------------ Marchenko-Pastur


def mp_support(gamma: float) -> tuple[float, float]:
    """Ends of the Marchenko-Pastur law: (1 ∓ √gamma)².

    The law is the limit of the eigenvalues of W Wᵀ / n for an m x n matrix of independent
    entries with mean 0 and variance 1.

    Args:
        gamma: m / n, in (0, 1]; with Q = n / m it is 1 / Q.

    Raises:
        ValueError: `gamma` outside (0, 1].

    Source: Marchenko and Pastur (1967).
    """
    if not 0 < gamma <= 1:
        raise ValueError(
            f"`gamma` must lie in (0, 1], the shorter side over the longer; got {gamma!r}."
        )
    root = np.sqrt(gamma)
    return float((1 - root) ** 2), float((1 + root) ** 2)


def mp_pdf(x: ArrayLike, gamma: float) -> np.ndarray:
    """Density of the Marchenko-Pastur law; 0 outside its support.

    Args:
        x: where; gamma: as in `mp_support`.

    Returns:
        Densities, shaped like `x`; infinite at 0 for gamma = 1.
    """
    low, high = mp_support(gamma)
    x = np.asarray(x, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.sqrt((high - x) * (x - low)) / (2 * np.pi * gamma * x)
    density = np.where((x < low) | (x > high), 0.0, density)
    return np.where((x == low) & (low == 0), np.inf, density)


def _mp_cdf(t: ArrayLike, gamma: float) -> np.ndarray:
    """Mass of the law below 1 + gamma - 2 √gamma cos t: from 0 to pi, t runs over the support.

    The angle keeps full precision at the ends, where the law is steep.
    """
    t, root = np.asarray(t), np.sqrt(gamma)
    inner = np.arctan2((1 + root) * np.sin(t / 2), (1 - root) * np.cos(t / 2))
    area = 2 * root * np.sin(t) + (1 + gamma) * t - 2 * (1 - gamma) * inner
    return np.clip(area / (2 * np.pi * gamma), 0, 1)


def _mp_angle(p: float, gamma: float) -> float:
    """Angle at which the law has the share `p` of its mass below."""
    if p in (0, 1):
        return np.pi * p
    return optimize.brentq(lambda t: _mp_cdf(t, gamma) - p, 0, np.pi, xtol=1e-15)


def mp_quantile(p: float, gamma: float) -> float:
    """Where the Marchenko-Pastur law has the share `p` of its mass below.

    Args:
        p: in [0, 1]; gamma: as in `mp_support`.

    Raises:
        ValueError: `p` outside [0, 1], and as `mp_support`.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"`p` must lie in [0, 1]; got {p!r}.")
    low, high = mp_support(gamma)
    angle = _mp_angle(p, gamma)
    return float(low * np.cos(angle / 2) ** 2 + high * np.sin(angle / 2) ** 2)


def mp_alpha(q: float, tail: float = 0.5) -> float:
    """Exponent that the upper `tail` of pure noise has, in the limit of large matrices.

    1 + 1 / E[ln(λ / λ₀) | λ >= λ₀] under the Marchenko-Pastur law, with λ₀ its 1 - tail quantile.

    Args:
        q: aspect ratio, longer side over shorter, at least 1.
        tail: share of the eigenvalues that the fit uses, in (0, 1); 0.5 is the median rule.

    Raises:
        ValueError: `q` below 1, or `tail` outside (0, 1).
    """
    if not (np.isfinite(q) and q >= 1):
        raise ValueError(f"`q` must be at least 1, the longer side over the shorter; got {q!r}.")
    checks.share("tail", tail)
    gamma = 1 / q
    root = np.sqrt(gamma)

    def above(t: float) -> float:
        """P(X > x) dx / (x dt)."""
        x = (1 - root) ** 2 + 4 * root * np.sin(t / 2) ** 2
        return (1 - _mp_cdf(t, gamma)) * 2 * root * np.sin(t) / x

    # By parts: the mean of ln(x / start) is the integral of P(X > x) / x.
    start = _mp_angle(1 - tail, gamma)
    area, _ = integrate.quad(above, start, np.pi, epsabs=0, epsrel=1e-9, limit=200)
    return 1 + tail / area


# ------------------------------------------------------------------------------ power-law tails


class PowerLawFit(NamedTuple):
    """A fitted tail p(λ) ∝ λ^-alpha for λ >= xmin.

    `D` is the Kolmogorov-Smirnov distance of the tail, `start` the index of xmin in the ascending
    eigenvalues, `n_tail` how many eigenvalues the tail holds, xmin included.
    """

    alpha: float
    D: float
    xmin: float
    start: int
    n_tail: int


def _spectrum(eigs: ArrayLike) -> np.ndarray:
    """Ascending, non-negative, finite eigenvalues, five at least and not all equal."""
    eigs = checks.finite("eigs", eigs, 1)
    if len(eigs) < _MIN_EIGENVALUES:
        raise ValueError(f"`eigs` has {len(eigs)} value(s); a fit needs {_MIN_EIGENVALUES}.")
    if eigs.min() < 0 or (np.diff(eigs) < 0).any():
        raise ValueError("`eigs` must be non-negative and sorted in ascending order.")
    if eigs[0] == eigs[-1]:
        raise ValueError("`eigs` are all equal; a constant spectrum has no tail exponent.")
    return eigs


def _exponent(logs: np.ndarray) -> float:
    """Exponent of a tail from its ascending log eigenvalues; infinite where all are equal."""
    total = float((logs - logs[0]).sum())
    return 1 + len(logs) / total if total > 0 else np.inf


def tail_alpha(eigs: ArrayLike, start: int) -> float:
    """Maximum-likelihood exponent of the tail that begins at an index.

    alpha = 1 + n / Σ ln(λ_i / λ_start), over the n eigenvalues λ_i >= λ_start: those from the
    index on, and its equals before it. The start itself is counted in n, as Clauset et al. and the
    FARMS repository do; the textbook Hill estimator counts one fewer.

    Args:
        eigs: (N,) ascending eigenvalues, N >= 5.
        start: index of the first eigenvalue of the tail, with a positive eigenvalue there.

    Raises:
        ValueError: eigenvalues that are not sorted, negative, non-finite, too few or all equal;
            a start out of range or with nothing but equal values above it.

    Source: Clauset, Shalizi and Newman (2009), equation 3.1.
    """
    eigs = _spectrum(eigs)
    if checks.whole("start", start, 0) > len(eigs) - 2:
        raise ValueError(
            f"`start` must leave two eigenvalues: 0 <= start <= {len(eigs) - 2}; got {start!r}."
        )
    if eigs[start] == 0 or eigs[start] == eigs[-1]:
        raise ValueError(
            f"`start` {start}: the tail from eigenvalue {eigs[start]:g} to {eigs[-1]:g} has no "
            "exponent; it must begin above 0 and hold different values."
        )
    return _exponent(np.log(eigs[np.searchsorted(eigs, eigs[start]) :]))


def median_starts(eigs: ArrayLike) -> tuple[int, int]:
    """Range (lo, hi) with the one start of the median rule: the tail is the upper half.

    Source: the rule `xmin_mid` of the FARMS and AlphaPruning repositories.
    """
    middle = len(_spectrum(eigs)) // 2
    return middle, middle + 1


def peak_starts(eigs: ArrayLike, *, bins: int = 100, as_intended: bool = False) -> tuple[int, int]:
    """Range (lo, hi) of starts of the peak rule ("fix finger").

    The fullest of `bins` even bins of log10 λ begins at λ_peak. Starts reach up to 1.5 λ_peak. As
    the rule is coded they begin at log10(0.95 λ_peak), which is below λ_peak by so much that
    it hardly ever binds; as it seems to be intended, at 0.95 λ_peak.

    Args:
        eigs: (N,) ascending positive eigenvalues, N >= 5.
        bins: bins of the histogram.
        as_intended: take the lower bound without the logarithm.

    Raises:
        ValueError: eigenvalues that `tail_alpha` refuses or that are zero, or no bins.

    Source: the rule `xmin_peak` of the FARMS repository, commit 834612b; from WeightWatcher.
    """
    eigs = _spectrum(eigs)
    if eigs[0] == 0:
        raise ValueError("`eigs` holds zeros; the peak rule takes logarithms, so leave them out.")
    bins = checks.whole("bins", bins, 1)
    counts, edges = np.histogram(np.log10(eigs), bins)
    peak = 10 ** edges[int(counts.argmax())]
    bound = 0.95 * peak if as_intended else np.log10(0.95 * peak)
    lo = int(np.searchsorted(eigs, bound, side="left"))
    hi = int(np.searchsorted(eigs, 1.5 * peak, side="right"))
    return lo, max(hi, lo + 1)


def _distance(logs: np.ndarray, below: np.ndarray, alpha: float) -> float:
    """Kolmogorov-Smirnov distance as WeightWatcher does it; `below` counts the smaller values."""
    fitted = -np.expm1((1 - alpha) * (logs - logs[0]))
    return float(np.abs(fitted - below / len(logs)).max())


def _bounds(logs, below, starts, alphas) -> np.ndarray:
    """For each start the largest distance at a few places: never more than the full distance."""
    n = len(logs) - starts
    places = starts[:, None] + (np.linspace(0, 1, _GRID) * (n[:, None] - 1)).astype(np.intp)
    fitted = -np.expm1((1 - alphas[:, None]) * (logs[places] - logs[starts, None]))
    return np.abs(fitted - (below[places] - starts[:, None]) / n[:, None]).max(axis=1)


def fit_power_law(eigs: ArrayLike, starts: tuple[int, int] | None = None) -> PowerLawFit:
    """Tail with the smallest Kolmogorov-Smirnov distance among a range of starts.

    Exact and fast: all exponents at once from sums of logarithms, a lower bound of each
    distance from a few places, then full distances in the order of the bounds until no bound is
    below the best distance. Of starts with equal distance the first wins.

    Args:
        eigs: (N,) ascending eigenvalues, N >= 5; zeros are never a start.
        starts: candidates lo <= start < hi; by default all, which is WeightWatcher's rule. See
            `median_starts` and `peak_starts`. The last eigenvalue alone is never a tail, and of
            equal ones the first stands for all, so that a tail holds every λ >= xmin.

    Raises:
        ValueError: eigenvalues that `tail_alpha` refuses, or a range without a usable start.

    Source: Clauset, Shalizi and Newman (2009), section 3.3.
    """
    eigs = _spectrum(eigs)
    starts = (0, len(eigs) - 1) if starts is None else tuple(starts)
    whole = len(starts) == 2 and all(isinstance(own, int | np.integer) for own in starts)
    lo, hi = starts if whole else (0, 0)
    if not 0 <= lo < hi <= len(eigs):
        raise ValueError(f"`starts` must be (lo, hi), 0 <= lo < hi <= {len(eigs)}; got {starts!r}.")
    lo = max(lo, int(np.searchsorted(eigs, 0, side="right")))
    # A start whose logarithm is the largest one's has nothing above it.
    hi = min(hi, lo + int(np.searchsorted(np.log(eigs[lo:]), np.log(eigs[-1]), side="left")))
    if lo >= hi:
        raise ValueError(
            f"`starts` {starts!r} holds no start with a positive eigenvalue and a larger one above."
        )
    lo = int(np.searchsorted(eigs, eigs[lo]))
    logs, below = np.log(eigs[lo:]), np.searchsorted(eigs[lo:], eigs[lo:])
    candidates = np.unique(below[: hi - lo])
    sums = np.cumsum((logs - logs[-1])[::-1])[::-1][candidates]
    n = len(logs) - candidates
    totals = sums - n * (logs[candidates] - logs[-1])
    sound = totals > 0  # rounding may eat the sum of a tail of all but equal values
    bounds = _bounds(logs, below, candidates, 1 + n / np.where(sound, totals, 1))
    bounds[~sound] = 0
    best = (np.inf, -1)
    for i in np.argsort(bounds, kind="stable"):
        if bounds[i] > best[0] + 1e-9:  # more than the rounding of the sums behind the bound
            break
        at = int(candidates[i])
        best = min(best, (_distance(logs[at:], below[at:] - at, _exponent(logs[at:])), at))
    distance, at = best
    return PowerLawFit(
        alpha=_exponent(logs[at:]),
        D=distance,
        xmin=float(eigs[lo + at]),
        start=lo + at,
        n_tail=len(logs) - at,
    )
