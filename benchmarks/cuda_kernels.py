"""Value and gradient on a GPU, timed against a copy of the same bytes in the same run.

    python benchmarks/cuda_kernels.py [--seconds 0.3] [--output FILE.json]

Each call is captured in a CUDA graph, and replays are timed with events: so the time is the
device's, and a call that waits for the device would fail here. Buffers rotate until together they
are several times the L2 cache; small batches, which stay in it, are timed as calls from Python as
well, beside an empty kernel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cupy as cp
import ml_dtypes
import numpy as np

import fastloss
import fastloss.cuda

L2_MULTIPLE = 4
DTYPES = [np.float32, ml_dtypes.bfloat16 if int(cp.__version__.split(".")[0]) >= 14 else np.float16]

# (loss, options, shape); the bytes of a dense loss are t, p and the gradient, of a sparse one p and
# the gradient.
CASES: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("MeanSquaredError", {}, (64_000_000,)),
    ("Huber", {}, (64_000, 1000)),
    ("BinaryCrossentropy", {"from_logits": True}, (64_000, 1000)),
    ("BinaryFocalCrossentropy", {}, (64_000, 1000)),
    ("CategoricalCrossentropy", {"from_logits": True}, (64_000, 1000)),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, (6_400_000, 10)),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, (64_000, 1000)),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, (4096, 32_000)),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, (8192, 128_256)),
    ("CosineSimilarity", {}, (64_000, 1000)),
    ("Dice", {}, (64_000_000,)),
    ("Dice", {"axis": (1,)}, (64, 1_000_000)),
]
SMALL = [("MeanSquaredError", {}, (256, 10)),
         ("SparseCategoricalCrossentropy", {"from_logits": True}, (256, 10))]  # fmt: skip


def inputs(name: str, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any, Any]:
    """y_true, y_pred and memory for the gradient."""
    p = cp.random.random(shape, dtype=np.float32).astype(dtype)
    if name.startswith("Sparse"):
        t = cp.random.randint(0, shape[-1], shape[:-1])
    else:
        t = cp.random.random(shape, dtype=np.float32).astype(dtype)
    return t, p, cp.empty_like(p)


class Captured:
    """The same work as a graph, replayed by a call. Keeps the results that it writes to."""

    def __init__(self, call: Callable[[], Any]) -> None:
        stream = cp.cuda.Stream(non_blocking=True)
        with stream:
            call()  # what is made once: kernels loaded, memory in the pool
            stream.synchronize()
            stream.begin_capture()
            self.results = call()
            self.graph = stream.end_capture()

    def __call__(self) -> None:
        """Replays it on the current stream."""
        self.graph.launch()


def device_time(calls: Sequence[Callable[[], Any]], seconds: float) -> float:
    """Median milliseconds of one call on the device."""
    for call in calls:
        call()
    cp.cuda.Device().synchronize()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 5 or time.perf_counter() < end:
        start, stop = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        for call in calls:
            call()
        stop.record()
        stop.synchronize()
        samples.append(cp.cuda.get_elapsed_time(start, stop) / len(calls))
    return statistics.median(samples)


def host_time(call: Callable[[], Any], seconds: float) -> float:
    """Median microseconds until the device is through with one call from Python."""
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 50 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        cp.cuda.Device().synchronize()
        samples.append(time.perf_counter() - start)
    return 1e6 * statistics.median(samples)


def measure_large(seconds: float) -> list[dict[str, Any]]:
    """Every case in every dtype, with the copy of as many bytes."""
    rows = []
    l2 = cp.cuda.Device().attributes["L2CacheSize"]
    for dtype in DTYPES:
        for name, options, shape in CASES:
            loss = getattr(fastloss, name)(**options)
            t, p, out = inputs(name, shape, dtype)
            moved = p.nbytes + out.nbytes + (0 if name.startswith("Sparse") else t.nbytes)
            copies = max(1, -(-L2_MULTIPLE * l2 // moved))
            sets = [(t, p, out)] + [inputs(name, shape, dtype) for _ in range(copies - 1)]
            calls = [Captured(partial(loss.value_and_grad, t, p, out=out)) for t, p, out in sets]
            source, target = (cp.empty(moved // 2, np.uint8) for _ in range(2))
            floor = device_time([partial(cp.copyto, target, source)] * copies, seconds)
            taken = device_time(calls, seconds)
            rows.append({
                "loss": name, "options": repr(options), "shape": shape,
                "dtype": np.dtype(dtype).name, "ms": taken, "copy_ms": floor,
                "of_copy": floor / taken, "GB_per_s": moved / taken / 1e6,
            })  # fmt: skip
            print(
                f"{name:32} {'x'.join(map(str, shape)):>14} {np.dtype(dtype).name:8} "
                f"{taken:9.3f} ms, copy {floor:8.3f} ms: {100 * floor / taken:5.1f} % of copy",
                flush=True,
            )
            del sets, calls, t, p, out, source, target
            cp.get_default_memory_pool().free_all_blocks()
    return rows


def measure_small(seconds: float) -> list[dict[str, Any]]:
    """Calls from Python on small batches, beside an empty kernel."""
    empty = cp.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
    rows = [{"call": "empty kernel", "us": host_time(lambda: empty((1,), (1,), ()), seconds)}]
    for name, options, shape in SMALL:
        loss = getattr(fastloss, name)(**options)
        t, p, out = inputs(name, shape, np.float32)
        taken = host_time(partial(loss.value_and_grad, t, p, out=out), seconds)
        rows.append({"call": f"{name} {shape}", "us": taken})
    for row in rows:
        print(f"{row['call']:48} {row['us']:8.1f} us", flush=True)
    return rows


def main() -> None:
    """Measure everything; print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.3, help="for each timing")
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    print(fastloss.cuda.info())
    result = {
        "info": fastloss.cuda.info(),
        "small": measure_small(options.seconds),
        "large": measure_large(options.seconds),
    }
    if options.output:
        options.output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
