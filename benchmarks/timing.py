"""How it is measured: everyone checked against the same numbers, then timed in turns."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

Call = Callable[[int], Any]

LEAST_ROUNDS, MOST_ROUNDS = 7, 50

# What is shorter is called as often as fills it, so that neither the clock nor the waking of
# threads is what is measured.
LEAST_SECONDS = 1e-3

# What takes longer needs no call to warm up: waking the threads is a hundredth of it.
LONG_SECONDS = 20e-3

# Each side sums and rounds in an order of its own, in float32; sums of millions of terms lose a few
# digits. What computes something else is further off.
VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 2e-4

# Half types: we round the gradient once; frameworks round what is between, too, and some the value.
HALF_TOLERANCE, HALF_TOLERANCE_OF_PEERS = 1e-2, 5e-2

# A path of hundreds of frames has a log probability of a thousand, which float32 holds to 6e-5;
# so relative is the error of every probability. PyTorch's gradient is 5e-4 off.
SEQUENCE_TOLERANCE = 2e-3


class DifferentError(AssertionError):
    """A side that does not compute what the reference does."""


def check(
    results: list[Any],
    reference: list[Any],
    gradient_tolerance: float = GRADIENT_TOLERANCE,
    value_tolerance: float = VALUE_TOLERANCE,
) -> None:
    """Raise DifferentError unless value and gradient are those of the reference."""
    if len(results) != len(reference):
        raise DifferentError(f"returns {len(results)} results, expected {len(reference)}")
    tolerances = (value_tolerance, gradient_tolerance)
    for what, mine, exact, tolerance in zip(
        ("value", "gradient"), results, reference, tolerances, strict=False
    ):
        if mine.shape != exact.shape:
            raise DifferentError(f"{what} of shape {mine.shape}, expected {exact.shape}")
        # Entries far smaller than the mean are differences of larger terms.
        allowed = tolerance * (np.abs(exact) + np.abs(exact).mean())
        error = np.abs(mine.astype(exact.dtype) - exact)
        wrong = ~(error <= allowed)  # NaN is wrong
        if wrong.any():
            at = np.unravel_index(int(np.argmax(np.where(wrong, error, -1))), exact.shape)
            place = f" at {tuple(map(int, at))}" if at else ""
            raise DifferentError(
                f"{what}{place}: {mine[at]!s} instead of {exact[at]!s}, "
                f"{int(wrong.sum())} of {wrong.size} differ"
            )


class Timer(Protocol):
    """What takes the time of calls, after the side was called once and for ``warming_seconds``."""

    warming_seconds: float

    def seconds(self, call: Call, sets: list[int]) -> float:
        """How long the call takes on each of the sets in turn, per set."""


class CpuTimer:
    """The clock of calls that are complete when they return."""

    # The threads of GNU OpenMP spin for 4 ms after their last call, and keep others from their
    # core for up to 8 ms.
    warming_seconds = 10e-3

    def seconds(self, call: Call, sets: list[int]) -> float:
        """How long the call takes on each of the sets in turn, per set."""
        start = time.perf_counter()
        for i in sets:
            result = call(i)
        taken = time.perf_counter() - start
        del result  # it may take long to free what belongs to no call
        return taken / len(sets)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """No collection falls into what is timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def time_in_turns(
    timer: Timer, calls: dict[str, Call], sets: int, seconds: float
) -> dict[str, list[float]]:
    """Samples of each side, taken in rounds of random order, each side on the next sets of inputs.

    No set is given to two calls in a row, so nobody finds in the cache what another left there. A
    turn begins with calls that do not count: they wake the side's own threads, and meanwhile those
    of the side before stop spinning. To sleep instead slows everyone, by up to a half.
    """
    order = list(calls)
    shuffle = random.Random(0).shuffle
    step = 0

    def next_sets(count: int) -> list[int]:
        nonlocal step
        step += count
        return [i % sets for i in range(step - count, step)]

    with without_garbage_collection():
        repeats, warming = {}, {}
        for name, call in calls.items():
            timer.seconds(call, next_sets(2))  # what is set up lazily
            once = min(timer.seconds(call, next_sets(1)) for _ in range(3))
            repeats[name] = max(round(LEAST_SECONDS / once), 1)
            least = max(math.ceil(timer.warming_seconds / once), 1)
            warming[name] = least if once < LONG_SECONDS else 0
        samples: dict[str, list[float]] = {name: [] for name in calls}
        start, rounds = time.perf_counter(), 0
        while rounds < LEAST_ROUNDS or (
            rounds < MOST_ROUNDS and time.perf_counter() - start < seconds
        ):
            shuffle(order)
            for name in order:
                if warming[name]:
                    timer.seconds(calls[name], next_sets(warming[name]))
                samples[name].append(timer.seconds(calls[name], next_sets(repeats[name])))
            rounds += 1
    return samples


def summary(samples: list[float]) -> dict[str, float | int]:
    """Median and spread of samples in seconds."""
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": median, "q25": low, "q75": high, "best": min(samples), "rounds": len(samples)}
