"""Targets of every dtype are converted as NumPy converts them, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastloss
from cases import flushed, same_bits

INTEGERS = [
    np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
]  # fmt: skip
STORED = [np.bool_, *INTEGERS, np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "adjacent": lambda x: x,
    "every third": lambda x: np.repeat(x, 3)[::3],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "unaligned": lambda x: np.frombuffer(b"-" + x.tobytes(), np.uint8)[1:].view(x.dtype),
}


def numbers(dtype: Any, n: int, rng: np.random.Generator) -> Any:
    """Numbers of all sizes, the extremes among them."""
    if dtype is np.bool_:
        return rng.random(n) < 0.5
    if dtype in INTEGERS:
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, n, dtype, endpoint=True) >> rng.integers(
            0, info.bits, n, dtype
        )
        x[:3] = [info.max, info.min, 1][:n]
        return x
    x = (np.exp2(rng.uniform(-20, 15, n)) * rng.choice([-1, 1], n)).astype(dtype)
    x[:3] = [np.inf, 0, ml_dtypes.finfo(dtype).max][:n]
    return x


@pytest.mark.parametrize("n", [1, 3, 423, 32000])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compute", [np.float32, np.float64])
@pytest.mark.parametrize("stored", STORED, ids=lambda d: np.dtype(d).name)
def test_targets_are_read_as_numpy_converts_them(
    stored: Any, compute: Any, layout: str, n: int, rng: np.random.Generator
) -> None:
    x = numbers(stored, n, rng)
    t = LAYOUTS[layout](x)
    read = fastloss.mean_absolute_error(t[:, None], np.zeros((n, 1), compute))
    with np.errstate(over="ignore"):
        assert same_bits(read, flushed(np.abs(x.astype(compute))))
