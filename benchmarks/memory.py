"""Peak memory: how far a process grows over one value with its gradient, each side in its own.

Linux keeps the high-water mark of a process and can set it back. Inputs and what a warm-up call
allocated for good are there before; the gradient is not.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from sides import Side, all_sides
from workload import Case, Inputs

PROCESS = Path("/proc/self")
M_MMAP_THRESHOLD = -3  # of glibc's mallopt


def _bytes(key: str) -> int:
    lines = (PROCESS / "status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def growth(call: Any) -> int:
    """Bytes that the process grows by, at most, while the call runs."""
    gc.collect()
    before = _bytes("VmRSS")
    (PROCESS / "clear_refs").write_text("5")  # the high-water mark, back to what is used now
    call()
    return max(_bytes("VmHWM") - before, 0)


def _of_side(name: str, cases: list[Case]) -> list[dict[str, Any]]:
    """Runs in a process of its own."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # nothing of size is kept when it is freed, so that growth does not hide in it
        mallopt(M_MMAP_THRESHOLD, 1 << 16)
    side = next(side for side in all_sides(threads=1) if side.name == name)
    rows = []
    for case in cases:
        try:
            call = side.make(case, Inputs(case, room=False), True)
            if call is None:
                continue
            call(0)
        except Exception:
            if side.is_peer:  # the timing has told why
                continue
            raise
        row = {"loss": case.loss, "shape": list(case.shape), "side": name}
        rows.append(row | {"gradient_bytes": 4 * case.elements, "bytes": growth(partial(call, 0))})
    return rows


def measure(sides: Iterable[Side], cases: Iterable[Case]) -> list[dict[str, Any]]:
    """The growth of each side on the largest case of each loss."""
    largest = {case.loss: case for case in sorted(cases, key=lambda case: case.elements)}
    context = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    for side in sides:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            rows += process.submit(_of_side, side.name, list(largest.values())).result()
    return rows
