"""How alike and how evenly spread word vectors are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from helpers import checks
from helpers.checks import EPS


def _vectors(vectors: ArrayLike) -> np.ndarray:
    """(N, d) finite numbers, N >= 2, or a ValueError."""
    rows = checks.finite("vectors", vectors, 2)
    if len(rows) < 2:
        raise ValueError(f"`vectors` must be two or more rows; got shape {rows.shape}.")
    return rows


def mean_cosine(vectors: ArrayLike) -> float:
    """Mean cosine over all pairs of different rows: how narrow a cone the vectors fill.

    Args:
        vectors: (N, d), N >= 2, no row of zeros.

    Raises:
        ValueError: fewer than two rows, NaN, or a row of zeros.
    """
    rows = _vectors(vectors)
    lengths = np.linalg.norm(rows, axis=1)
    if not (lengths > 0).all():
        raise ValueError(f"`vectors` holds {np.sum(lengths == 0)} row(s) of zeros.")
    n, total = len(rows), (rows / lengths[:, None]).sum(0)
    return float((total @ total - n) / (n * (n - 1)))


def participation_ratio(vectors: ArrayLike) -> float:
    """Effective number of dimensions: squared sum over sum of squares of the variances.

    Args:
        vectors: (N, d), N >= 2, not all equal; centred first.

    Raises:
        ValueError: fewer than two rows, NaN, or rows that are all equal (but for rounding).
    """
    rows = _vectors(vectors)
    centred = rows - rows.mean(0)
    if np.linalg.norm(centred) <= EPS * len(rows) * np.linalg.norm(rows):  # the mean is rounded
        raise ValueError("`vectors` holds equal rows only.")
    gram = centred @ centred.T if len(rows) <= rows.shape[1] else centred.T @ centred
    return float(np.trace(gram) ** 2 / (gram**2).sum())
