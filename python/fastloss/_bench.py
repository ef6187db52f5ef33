"""Times of losses on NumPy arrays, beside a copy; ``benchmarks/`` has the peers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss import _core, losses
from fastloss._registry import REGISTRY, LossSpec

SECONDS = 0.25  # for each number


def machine() -> str:
    """What the times depend on."""
    return f"{_core.instruction_set()}, {_core.num_threads()} threads"


def median(call: Callable[[], Any]) -> float:
    """Seconds of a call, once what it needs is in memory."""
    call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def arrays(spec: LossSpec, shape: tuple[int, ...], dtype: str) -> tuple[Any, Any]:
    """Targets and predictions that every loss takes: numbers between 0 and 1, or labels."""
    rng = np.random.default_rng(0)
    y_pred = rng.uniform(0.05, 0.95, shape).astype(dtype)
    if spec.kind == "pairwise":
        y_pred /= np.linalg.norm(y_pred.astype(np.float32), axis=1, keepdims=True).astype(dtype)
    if spec.labels == "integer":
        return rng.integers(0, shape[-1], shape[0]).astype(np.int32), y_pred
    return rng.uniform(0.05, 0.95, shape).astype(dtype), y_pred


def run(
    specs: list[LossSpec] | None, shape: tuple[int, ...], dtype: str, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row per loss."""
    chosen = [s for s in REGISTRY if not s.batched] if specs is None else specs
    taken = {p.name for spec in chosen for p in spec.parameters}
    for name in options:
        if name not in taken:
            raise ValueError(f"--param: none of these losses has the option {name!r}")
    rows = []
    for spec in chosen:
        if spec.kind == "sequence":
            raise ValueError(f"{spec.name}: has no rows and columns; see `make bench`")
        names = {p.name for p in spec.parameters}
        loss = getattr(losses, spec.class_name)(
            **{name: value for name, value in options.items() if name in names}
        )
        y_true, y_pred = arrays(spec, shape, dtype)
        grad = np.empty_like(y_pred)
        moved = y_true.nbytes + 2 * y_pred.nbytes
        source, target = np.ones((2, moved // 2), np.uint8)
        seconds = median(lambda: loss.value_and_grad(y_true, y_pred, out=grad))  # noqa: B023
        rows.append(
            {
                "loss": spec.name,
                "value_ms": 1e3 * median(lambda: loss(y_true, y_pred)),  # noqa: B023
                "value_and_grad_ms": 1e3 * seconds,
                "gigabytes_per_second": moved / seconds / 1e9,
                "times_a_copy": seconds / median(lambda: np.copyto(target, source)),  # noqa: B023
            }
        )
    return rows
