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
