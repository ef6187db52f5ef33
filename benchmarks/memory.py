"""Peak memory: how far a process grows over the first values and gradients of a size.

Every side and loss has a process of its own, because allocators keep what is freed: TensorFlow's
never gives it back, and what a call takes from there is no growth. Linux keeps the high-water mark
of a process and can set it back. Inputs are there before; the gradient is not.
"""

from __future__ import annotations

import gc
import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from sides import Side, all_sides
from workload import Case, Inputs

PROCESS = Path("/proc/self")


def _bytes(key: str) -> int:
    lines = (PROCESS / "status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def growth(call: Callable[[], Any]) -> int:
    """Bytes that the process grows by, at most, while the call runs."""
    gc.collect()
    before = _bytes("VmRSS")
    (PROCESS / "clear_refs").write_text("5")  # the high-water mark, back to what is used now
    call()
    return max(_bytes("VmHWM") - before, 0)


def _growth_of(name: str, case: Case, threads: int) -> int | None:
    """In a process of its own; None if there is no such loss on that side."""
    warnings.simplefilter("ignore")  # the timing has shown them
    side = next(side for side in all_sides(threads) if side.name == name)
    small = replace(case, shape=tuple(min(n, 10) for n in case.shape))
    warm_up = side.make(small, Inputs(small, room=False), True)
    if warm_up is None:
        return None
    warm_up(0)  # loads and allocates what does not depend on the size
    inputs = Inputs(case, room=False)

    def first_calls() -> None:
        call = side.make(case, inputs, True)
        assert call is not None
        for _ in range(2):
            call(0)

    # TensorFlow's tensors and JAX's arrays are made here: they are inputs, not growth.
    getattr(inputs, {"keras": "tensorflow"}.get(side.package, side.package), None)
    return growth(first_calls)


def pairs(sides: list[Side], cases: list[Case]) -> list[tuple[Side, Case]]:
    """Who is measured on what: the largest case of each loss, from logits where it takes them."""
    largest = {case.name: case for case in sorted(cases, key=lambda case: case.elements)}
    return [(side, case) for case in largest.values() for side in sides if not side.is_floor]


def measure(
    chosen: list[tuple[Side, Case]], threads: int, advance: Callable[[], None]
) -> list[dict[str, Any]]:
    """The growth of each process beside the size of the gradient."""
    context = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    for side, case in chosen:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            try:
                grown = process.submit(_growth_of, side.name, case, threads).result()
            except Exception as error:
                if not (side.is_peer or isinstance(error, NotImplementedError)):
                    raise
                grown = None  # the timing has told why
        if grown is not None:
            row = {"loss": case.loss, "shape": list(case.shape), "side": side.name}
            rows.append({**row, "gradient_bytes": 4 * case.elements, "bytes": grown})
        advance()
    return rows
