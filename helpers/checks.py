"""Arguments as arrays: what would go wrong without a word is refused with a sentence."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

EPS = np.finfo(float).eps


def as_array(values: ArrayLike) -> np.ndarray:
    """`values` in NumPy, tensors too: without their gradient, in the precisions that it knows."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        narrow = values.is_floating_point() and values.itemsize < 4  # NumPy has no bfloat16
        values = values.float() if narrow else values
    return np.asarray(values)


def matrices(name: str, values: ArrayLike) -> np.ndarray:
    """Real, finite, floating-point matrices (..., r, c), or a ValueError that names them."""
    array = as_array(values)
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"`{name}` must have shape (..., r, c) with entries; got {array.shape}.")
    if array.dtype.kind != "f":
        raise ValueError(f"`{name}` must hold floating-point numbers; got {array.dtype}.")
    return array
