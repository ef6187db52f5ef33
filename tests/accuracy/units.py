"""Errors in units in the last place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from cases import flushes_results

Array = np.ndarray[Any, np.dtype[Any]]


def unit(size: Array, dtype: Any) -> Array:
    """The distance between neighbours in ``dtype`` at numbers of this size."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.abs(size))
    bits = np.maximum(exponent - 1, int(info.minexp)) - int(info.nmant)
    return np.ldexp(np.longdouble(1), bits)


def least_unit(dtype: Any) -> float:
    """What a term of a loss may lose where kernels take subnormal results for zero."""
    compute = "float64" if dtype == "float64" else "float32"
    return float(np.finfo(compute).tiny) if flushes_results else 0.0


def error_in_units(
    actual: Array, exact: Array, dtype: Any, size: Array | None = None, least: float = 0.0
) -> Array:
    """|actual - exact| in units of the exact result or, if larger, of ``size``; at least ``least``.

    A result beyond the largest number must be infinite (or that number), and one below the smallest
    is measured in units of the smallest.
    """
    most = np.longdouble(float(ml_dtypes.finfo(dtype).max))
    exact = np.clip(exact, -most, most)
    actual = np.asarray(actual).astype(np.longdouble)
    overflows = (np.abs(exact) == most) & np.isinf(actual) & (np.sign(actual) == np.sign(exact))
    size = np.abs(exact) if size is None else np.minimum(np.maximum(size, np.abs(exact)), most)
    with np.errstate(invalid="ignore"):
        error = np.abs(np.where(overflows, exact, actual) - exact) / np.maximum(
            unit(size, dtype), least
        )
    return np.where(np.isnan(error), np.inf, error).astype(float)
