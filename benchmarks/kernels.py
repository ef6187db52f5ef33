"""Time of value and gradient of every loss on large NumPy arrays, beside a copy of as many bytes.

    python benchmarks/kernels.py [--millions 16] [--classes 1000]

A loss must move 12 bytes an element (targets and predictions read, the gradient written), or 8 with
integer labels. The copy is NumPy's, split over the same threads, timed in the same rounds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import fastloss
from fastloss import _core
from fastloss._registry import REGISTRY

ROUNDS = 7

Call = Callable[[], Any]


def make_copy(n: int) -> Call:
    """A copy of n float32 by all threads: 8 n bytes moved."""
    source, target = np.ones(n, np.float32), np.empty(n, np.float32)
    ends = np.linspace(0, n, _core.num_threads() + 1).astype(int)
    slices = [slice(a, b) for a, b in itertools.pairwise(ends)]
    pool = ThreadPoolExecutor(_core.num_threads())
    return lambda: list(pool.map(lambda s: np.copyto(target[s], source[s]), slices))


def make_calls(shape: tuple[int, int]) -> dict[str, tuple[Call, int]]:
    """What is timed: name to (call, bytes that it must move)."""
    rng = np.random.default_rng(0)
    p, t = (rng.uniform(0.01, 0.99, shape).astype(np.float32) for _ in range(2))
    labels = rng.integers(0, shape[1], shape[0])
    out = np.empty_like(p)
    calls: dict[str, tuple[Call, int]] = {"copy": (make_copy(p.size), 8 * p.size)}
    for spec in (spec for spec in REGISTRY if not spec.batched):
        sparse = spec.labels == "integer"
        y_true = labels if sparse else t
        has_logits = any(q.name == "from_logits" for q in spec.parameters)
        for options in [{}, {"from_logits": True}] if has_logits else [{}]:
            loss = getattr(fastloss, spec.class_name)(**options)
            calls[spec.name + " (logits)" * len(options)] = (
                lambda loss=loss, y_true=y_true: loss.value_and_grad(y_true, p, out=out),
                (8 if sparse else 12) * p.size,
            )
    return calls | batch_calls(rng)


def batch_calls(rng: np.random.Generator) -> dict[str, tuple[Call, int]]:
    """Circle loss, which must move a matrix of similarities and its gradient, and CTC."""
    n, features = 1024, 128
    embeddings = rng.normal(size=(n, features)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    classes = rng.integers(0, 32, n)
    logits = rng.normal(size=(32, 200, 100)).astype(np.float32)
    labels = rng.integers(1, 100, (32, 30))
    circle, ctc = fastloss.Circle(), fastloss.CTC()
    return {
        f"circle ({n} x {features})": (
            lambda: circle.value_and_grad(classes, embeddings),
            8 * n * n,
        ),
        "ctc (32 x 200 x 100)": (lambda: ctc.value_and_grad(labels, logits), 8 * logits.size),
    }


def seconds(call: Call) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Parse the command line, time everything in turn, print a table."""
    parser = argparse.ArgumentParser(description="Time every loss beside a copy.")
    parser.add_argument("--millions", type=float, default=16, help="elements of y_pred")
    parser.add_argument("--classes", type=int, default=1000, help="the size of the last axis")
    options = parser.parse_args()
    shape = (int(options.millions * 1e6) // options.classes, options.classes)
    calls = make_calls(shape)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (call, _) in calls.items():
            times[name].append(seconds(call))

    threads, isa = _core.num_threads(), _core.instruction_set()
    print(f"{shape} float32, {threads} threads, {isa}, {ROUNDS} rounds")
    print(f"{'':44}{'ms':>8}{'range':>16}{'GB/s':>8}{'% of copy':>11}")
    floor = calls["copy"][1] / statistics.median(times["copy"])
    for name, measured in times.items():
        median = statistics.median(measured)
        rate = calls[name][1] / median
        spread = f"{min(measured) * 1e3:.1f}-{max(measured) * 1e3:.1f}"
        print(
            f"{name:44}{median * 1e3:8.1f}{spread:>16}{rate / 1e9:8.1f}{100 * rate / floor:11.0f}"
        )


if __name__ == "__main__":
    main()
