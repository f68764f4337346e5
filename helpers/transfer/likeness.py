"""How alike two representations, or two sets of weights, are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from helpers import checks
from helpers.checks import EPS


def _gram(name: str, values: ArrayLike, debiased: bool) -> np.ndarray:
    """Centred products of rows, of length 1, flat (N * N,)."""
    rows = checks.finite(name, values, 2)
    n = len(rows)
    if n < (4 if debiased else 2):
        raise ValueError(f"`{name}` has {n} rows, too few.")
    centred = rows - rows.mean(0)
    if np.linalg.norm(centred) <= EPS * n * np.linalg.norm(rows):  # the mean is rounded
        raise ValueError(f"all rows of `{name}` are equal.")
    gram = centred @ centred.T
    whole = np.linalg.norm(gram)
    if debiased:
        np.fill_diagonal(gram, 0)
        sums = gram.sum(1)
        gram += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums) / (n - 2)
        np.fill_diagonal(gram, 0)
    size = np.linalg.norm(gram)
    if size <= EPS * n * whole:
        raise ValueError(f"all rows of `{name}` are equally far apart: no debiased CKA.")
    return (gram / size).ravel()


def cka_matrix(
    xs: Sequence[ArrayLike], ys: Sequence[ArrayLike], *, debiased: bool = False
) -> np.ndarray:
    """Linear CKA of every x with every y.

    Args:
        xs, ys: K and M arrays with the same N items as rows, of any width.
        debiased: the unbiased estimate of both covariances (0 on average for independent data; may
            be negative), else the plain one, which grows with width over N.

    Returns:
        (K, M); 1 for equal geometries. Not changed by rotations and by a common factor.

    Raises:
        ValueError: NaN, rows too few, all equal (debiased: equally far apart) or unlike in number.

    Source: Kornblith et al. 2019, arXiv 1905.00414; unbiased: Song et al. 2012, equation 5.
    """
    sides = [
        np.stack([_gram(f"{name}[{i}]", own, debiased) for i, own in enumerate(side)])
        for name, side in (("xs", xs), ("ys", ys))
    ]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError("xs and ys must have the same number of rows.")
    return sides[0] @ sides[1].T


def linear_cka(x: ArrayLike, y: ArrayLike, *, debiased: bool = False) -> float:
    """Linear CKA of two arrays with the same N items as rows; see `cka_matrix`."""
    return float(cka_matrix([x], [y], debiased=debiased)[0, 0])


def mutual_knn(x: ArrayLike, y: ArrayLike, k: int) -> float:
    """Share of an item's k nearest neighbours in x that are also among its k nearest in y.

    Neighbours by cosine. k / (N - 1) for unrelated arrays, 1 for equal ones.

    Args:
        x, y: (N, d) and (N, e), no row of zeros.
        k: at least 1, below N.

    Raises:
        ValueError: NaN, a row of zeros, different numbers of rows, or such a k.
    """
    sides = [checks.finite(name, own, 2) for name, own in (("x", x), ("y", y))]
    n = len(sides[0])
    if len(sides[1]) != n or not 1 <= k < n:
        raise ValueError(f"{n} and {len(sides[1])} rows, k = {k}: rows must agree and exceed k.")
    near = []
    for name, rows in zip("xy", sides, strict=True):
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not lengths.all():
            raise ValueError(f"`{name}` holds a row of zeros.")
        cosines = (rows / lengths) @ (rows / lengths).T
        np.fill_diagonal(cosines, -np.inf)
        near.append(np.argpartition(-cosines, k - 1, axis=1)[:, :k])
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(*near, strict=True)]))


def flat_cosine(x: ArrayLike, y: ArrayLike) -> float:
    """Cosine of two arrays of one shape, read as two long vectors.

    Raises:
        ValueError: different shapes, NaN, or nothing but zeros.
    """
    a, b = checks.finite("x", x), checks.finite("y", y)
    if a.shape != b.shape or not (a.any() and b.any()):
        raise ValueError(f"x and y must be of one shape and not 0; got {a.shape} and {b.shape}.")
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
