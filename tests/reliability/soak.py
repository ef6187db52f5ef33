"""Random calls for minutes: memory must not grow, and no result may be wrong.

Run as ``make soak``, or by hand::

    PYTHONPATH=tests python tests/reliability/soak.py --minutes 10 --threads 2
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np

import fastloss
from batched_calls import check_batched
from calls import check, random_call
from sum_calls import check_sum
from test_concurrency import evaluate, everything

GROWTH_ALLOWED = 0.01
WARM_UP = 60_000  # calls


def resident() -> int:
    """Bytes of memory that this process holds, without what its heap holds for later.

    That swings by tens of megabytes with the oracle's temporary arrays.
    """
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class Busy(threading.Thread):
    """Calls of every loss on every size of array, until told to stop; each must give its bits."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.stop, self.calls, self.wrong = stop, 0, 0

    def run(self) -> None:
        jobs = everything()
        alone = [evaluate(job) for job in jobs]
        while not self.stop.is_set():
            for job, bits in zip(jobs, alone, strict=True):
                self.wrong += evaluate(job) != bits
                self.calls += 1


def main() -> int:
    """Print what was done; returns the exit status."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument(
        "--threads", type=int, default=2, help="which call at once, and of a call"
    )
    arguments.add_argument("--seed", type=int, default=int(time.time()))
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    fastloss.set_num_threads(given.threads)
    rng = np.random.default_rng(given.seed)

    def choose(low: int, high: int) -> int:
        return int(rng.integers(low, high, endpoint=True))

    stop = threading.Event()
    busy = [Busy(stop) for _ in range(given.threads - 1)]
    for thread in busy:
        thread.start()
    # Caches of Python and of the allocator fill up first.
    calls = -WARM_UP
    held: list[int] = []
    end = float("inf")
    while time.monotonic() < end:
        for k in range(10):  # the oracle takes most of the time
            check(choose, random_call(choose), oracle=k == 0)
            check_batched(choose)
            check_sum(choose)
            calls += 3
        if calls >= 0 and calls % 600 == 0:
            if not held:
                end = time.monotonic() + 60 * given.minutes
            held.append(resident())
    stop.set()
    for thread in busy:
        thread.join()

    tenth = max(1, len(held) // 10)
    early, late = statistics.median(held[:tenth]), statistics.median(held[-tenth:])
    growth = late / early - 1
    wrong = sum(thread.wrong for thread in busy)
    print(
        f"{given.minutes:g} minutes, seed {given.seed}, {given.threads} threads: {calls} random "
        f"calls checked, {sum(thread.calls for thread in busy)} others, {wrong} of them wrong; "
        f"memory held {early / 2**20:.1f} MiB, then {late / 2**20:.1f} MiB ({growth:+.2%})"
    )
    return int(wrong > 0 or growth > GROWTH_ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
