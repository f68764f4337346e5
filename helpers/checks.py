"""Arguments that would go wrong without a word are refused with a sentence that names them."""

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


def finite(name: str, values: ArrayLike, ndim: int | None = None) -> np.ndarray:
    """`values` as a float64 array with entries, of `ndim` dimensions if given, none NaN."""
    try:
        array = as_array(values)
        if np.iscomplexobj(array):  # NumPy would drop the imaginary part
            raise TypeError("got complex ones")
        array = np.asarray(array, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be real numbers, rows of one length: {error}.") from None
    if array.size == 0 or array.ndim != (array.ndim if ndim is None else ndim):
        wanted = "entries" if ndim is None else f"{ndim} dimension(s) and entries"
        raise ValueError(f"`{name}` must have {wanted}; got shape {array.shape}.")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(f"`{name}` holds {bad} NaN or infinite value(s) among {array.size}.")
    return array


def whole(name: str, value: int, least: int) -> int:
    """`value` as an int, at least `least`; True and 2.0 are none."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be a whole number, at least {least}; got {value!r}.")
    return int(value)


def share(name: str, value: float) -> float:
    """`value` if it lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"`{name}` must lie strictly between 0 and 1; got {value!r}.")
    return value


def positive(name: str, value: float) -> float:
    """`value` if it is a finite number above 0."""
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be a positive number; got {value!r}.")
    return value


def codes(name: str, labels: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of n items as integer codes (n,), and the number of items of each label."""
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"`{name}` must have shape ({n},), one label each; got {labels.shape}.")
    missing = sum(label is None or label != label for label in labels.tolist())  # NaN != NaN
    if missing:
        raise ValueError(f"`{name}` lacks {missing} label(s) (None or NaN); label every value.")
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return numbers, counts
