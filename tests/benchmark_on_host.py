"""Runs `benchmarks/run.py --device cuda` with the host for a card.

    PYTHONPATH=benchmarks python tests/benchmark_on_host.py EMULATED_MODULE ARGUMENTS_OF_RUN...

The kernels are emulated, PyTorch and JAX compute on the CPU, and the clock stands for events.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import card
import run
from device import DeviceArray, empty, install


class HostCard(card.Card):
    """What the benchmark asks of a card, by the host."""

    def __init__(self) -> None:
        self.l2, self.half = 1 << 16, np.dtype(ml_dtypes.bfloat16)
        self.cupy: Any = np  # for the expressions of users of CuPy
        self.evicted = 0

    def put(self, array: Any, repeats: int) -> Any:
        return DeviceArray(np.tile(array, (repeats,) + (1,) * (array.ndim - 1)))

    def empty_like(self, array: Any) -> Any:
        return empty(array.shape, array.dtype)

    def host(self, x: Any) -> Any:
        return x.held if isinstance(x, DeviceArray) else super().host(x)

    def torch(self, x: Any) -> Any:
        import torch

        if x.dtype == self.half:
            return torch.from_numpy(x.held.view(np.int16)).view(torch.bfloat16)
        tensor = torch.from_numpy(x.held)
        return tensor if tensor.is_floating_point() else tensor.long()

    def jax(self, x: Any) -> Any:
        import jax

        return jax.device_put(x.held)

    def copy(self, size: int) -> Callable[[], Any]:
        source, target = np.ones((2, max(size // 2, 1)), np.uint8)
        return partial(np.copyto, target, source)

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        return call

    def empty_kernel(self) -> Callable[[], Any]:
        return lambda: None

    def evict(self) -> None:
        self.evicted += 1

    def synchronize(self) -> None:
        pass

    def milliseconds(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)

    def free(self) -> None:
        pass


def expressions(case: Any, inputs: Any, gradient: bool) -> Any:
    """On the arrays that stand for CuPy's."""
    held = [tuple(a.held for a in pair) for pair in inputs.cupy]
    inputs = type("Held", (), {"card": inputs.card, "cupy": held})
    return card._expressions(case, inputs, gradient)


if __name__ == "__main__":
    install(Path(sys.argv[1]), pytest.MonkeyPatch())
    card.Card = HostCard  # type: ignore[misc]
    run.no_card = lambda: ""
    prepare = run.prepare_process
    run.prepare_process = lambda threads, _: prepare(threads, "cpu")
    sides = card.card_sides
    card.card_sides = lambda: [
        card.Side(s.name, "numpy", expressions if s.name.startswith("CuPy") else s.make)
        if s.package == "cupy"
        else s
        for s in sides()
    ]
    sys.exit(run.main(sys.argv[2:]))
