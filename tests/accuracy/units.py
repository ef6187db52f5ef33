"""Errors in units in the last place."""

from __future__ import annotations

import platform
from typing import Any

import ml_dtypes
import numpy as np

FLUSHES = platform.machine() in ("x86_64", "AMD64")
Array = np.ndarray[Any, np.dtype[Any]]


def unit(size: Array, dtype: Any) -> Array:
    """The distance between neighbours in ``dtype`` at numbers of this size.

    Where subnormal results become zero it is at least the smallest normal number, which is what a
    term of a result may have lost.
    """
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.abs(size))
    bits = np.maximum(exponent - 1, int(info.minexp)) - int(info.nmant)
    distance = np.ldexp(np.longdouble(1), bits)
    least = np.finfo("float64" if dtype == "float64" else "float32").tiny  # of what computes
    return np.maximum(distance, least) if FLUSHES else distance


def error_in_units(actual: Array, exact: Array, dtype: Any, size: Array | None = None) -> Array:
    """|actual - exact| in units of the exact result or, if larger, of ``size``.

    A result beyond the largest number must be infinite (or that number), and one below the smallest
    is measured in units of the smallest.
    """
    most = np.longdouble(float(ml_dtypes.finfo(dtype).max))
    exact = np.clip(exact, -most, most)
    actual = np.asarray(actual).astype(np.longdouble)
    overflows = (np.abs(exact) == most) & np.isinf(actual) & (np.sign(actual) == np.sign(exact))
    size = np.abs(exact) if size is None else np.minimum(np.maximum(size, np.abs(exact)), most)
    with np.errstate(invalid="ignore"):
        error = np.abs(np.where(overflows, exact, actual) - exact) / unit(size, dtype)
    return np.where(np.isnan(error), np.inf, error).astype(float)
