"""What a call costs beside its work: losses of 100 float32, beside one NumPy addition of as many.

    python benchmarks/overhead.py

Every call is timed in every round, and each line is the median of the rounds.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

import fastloss

ELEMENTS = 100
ROUNDS = 15
CALLS = 10_000  # in a round


def calls() -> dict[str, Callable[[], Any]]:
    """What is timed, by name; the first is what the others are compared with."""
    rng = np.random.default_rng(0)
    t, p = (rng.random(ELEMENTS, np.float32) for _ in range(2))
    out, weight = np.empty_like(p), np.ones_like(p)
    rows, labels = p.reshape(-1, 10), np.arange(ELEMENTS // 10) % 10
    mse = fastloss.MeanSquaredError()
    sparse = fastloss.SparseCategoricalCrossentropy(from_logits=True)
    return {
        "numpy.add": lambda: np.add(t, p),
        "MSE value_and_grad": lambda: mse.value_and_grad(t, p),
        "MSE value_and_grad, out=": lambda: mse.value_and_grad(t, p, out=out),
        "MSE value_and_grad, sample_weight=": lambda: mse.value_and_grad(
            t[:, None], p[:, None], sample_weight=weight
        ),
        "MSE value": lambda: mse(t, p),
        "mean_squared_error": lambda: fastloss.mean_squared_error(t, p),
        "binary_crossentropy, from_logits=": lambda: fastloss.binary_crossentropy(
            t, p, from_logits=True
        ),
        "sparse CE value_and_grad, 10 x 10": lambda: sparse.value_and_grad(labels, rows),
    }


def microseconds() -> dict[str, float]:
    """The time of one call, by name."""
    timed = calls()
    rounds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(ROUNDS):
        for name, call in timed.items():
            rounds[name].append(timeit.timeit(call, number=CALLS) / CALLS * 1e6)
    return {name: statistics.median(times) for name, times in rounds.items()}


def main() -> None:
    """Measure and print a table."""
    times = microseconds()
    unit = next(iter(times.values()))
    print(f"{ELEMENTS} float32, medians of {ROUNDS} rounds of {CALLS} calls")
    print(f"{'':40}{'us':>8}{'x add':>8}")
    for name, time in times.items():
        print(f"{name:40}{time:8.2f}{time / unit:8.1f}")


if __name__ == "__main__":
    main()
