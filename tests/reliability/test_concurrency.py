"""Many threads, other libraries' thread teams, and their limits: always the bits of one thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import SPECS, by_sample, draw, make
from fastloss import _core

pytestmark = pytest.mark.usefixtures("any_threads")

# With the GIL, without it, and on a team of threads.
SHAPES = [(9, 7), (60, 50), (300, 140)]

CALLS_OF_A_THREAD = 1000


def run_python(code: str, **environment: str) -> str:
    """What the code prints, in a process of its own that must end well."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def everything() -> list[tuple[fastloss.Loss, Any, Any]]:
    rng = np.random.default_rng(0)
    jobs = []
    for spec in SPECS:
        for shape in SHAPES:
            options = by_sample(spec)
            jobs.append((make(spec, options), *draw(spec, options, shape, np.float32, rng)))
    jobs.append((fastloss.Circle(), rng.integers(0, 3, 12), rng.normal(size=(12, 5))))
    jobs.append((fastloss.CTC(), rng.integers(1, 5, (3, 4)), rng.normal(size=(3, 12, 5))))
    return jobs


def evaluate(job: tuple[fastloss.Loss, Any, Any]) -> bytes:
    loss, t, p = job
    value, gradient = loss.value_and_grad(t, p)
    return np.asarray(value).tobytes() + gradient.tobytes()


def digest_of_everything() -> int:
    return hash(tuple(evaluate(job) for job in everything()))


def test_sixteen_threads_of_a_thousand_calls_give_the_bits_of_one() -> None:
    jobs = everything()
    alone = [evaluate(job) for job in jobs]
    fastloss.set_num_threads(2)
    start = threading.Barrier(16)

    def work(seed: int) -> int:
        start.wait()
        order = np.random.default_rng(seed).integers(0, len(jobs), CALLS_OF_A_THREAD)
        return sum(evaluate(jobs[i]) != alone[i] for i in order)

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, range(16))) == 0


def test_scalars_of_two_threads_on_one_object_are_not_mixed_up() -> None:
    loss = fastloss.MeanSquaredError()
    start = threading.Barrier(2)

    def work(k: int) -> int:
        p = np.full((3, 2), float(k))
        start.wait()
        return sum(loss([[0.0] * 2] * 3, p) != k * k for _ in range(3000))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, [2, 3])) == [0, 0]


@pytest.mark.skipif(
    not hasattr(sys, "_is_gil_enabled"), reason="this Python has no build without the GIL"
)
def test_import_does_not_bring_the_gil_back() -> None:
    code = "import fastloss; print(sys._is_gil_enabled())"
    before = "print(sys._is_gil_enabled())"
    assert run_python(code) == run_python(before)


# ---- other libraries' teams ----

TEAM_OF_SCIKIT_LEARN = """
from sklearn.cluster import KMeans
data = np.random.default_rng(1).normal(size=(4000, 8))
def other():
    KMeans(8, n_init=1, max_iter=20, random_state=0).fit(data)
"""
TEAM_OF_PYTORCH = """
import torch
data = torch.ones(400, 400)
torch.set_num_threads(2)
def other():
    torch.softmax(data @ data, 1).sum()
"""
WHILE_ANOTHER_TEAM_WORKS = """
import threading, numpy as np, fastloss
from test_concurrency import everything, evaluate
fastloss.set_num_threads(2)
jobs = everything()
alone = [evaluate(job) for job in jobs]
stop = threading.Event()
rounds = 0
def work():
    global rounds
    while not stop.is_set():
        other()
        rounds += 1
thread = threading.Thread(target=work)
thread.start()
try:
    wrong = sum(evaluate(job) != bits for _ in range(5) for job, bits in zip(jobs, alone))
finally:
    stop.set()
    thread.join()
print(wrong, rounds > 0)
"""


@pytest.mark.parametrize(
    ("library", "team"), [("sklearn", TEAM_OF_SCIKIT_LEARN), ("torch", TEAM_OF_PYTORCH)]
)
def test_calls_while_the_team_of_another_library_works(library: str, team: str) -> None:
    if not any((Path(p) / library).is_dir() for p in sys.path):
        pytest.skip(f"{library} is not installed")
    assert run_python(f"import numpy as np\n{team}\n{WHILE_ANOTHER_TEAM_WORKS}") == "0 True"


def test_processes_and_threads_of_joblib_give_the_same_bits() -> None:
    joblib = pytest.importorskip("joblib")
    jobs = everything()
    alone = [evaluate(job) for job in jobs]
    for backend in ("loky", "threading"):
        parallel = joblib.Parallel(n_jobs=2, backend=backend)
        assert parallel(joblib.delayed(evaluate)(job) for job in jobs) == alone


def test_executors_within_executors_give_the_same_bits() -> None:
    jobs = everything()[:12]
    alone = [evaluate(job) for job in jobs]

    def nested(_: int) -> list[bytes]:
        with ThreadPoolExecutor(2) as inner:
            return list(inner.map(evaluate, jobs))

    fastloss.set_num_threads(2)
    with ThreadPoolExecutor(3) as pool:
        assert all(bits == alone for bits in pool.map(nested, range(3)))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(evaluate, jobs)) == alone


# ---- limits ----


def test_limit_of_threadpoolctl_is_the_number_of_threads_of_a_call() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    for chosen in (None, 4):
        if chosen:
            fastloss.set_num_threads(chosen)
        before = _core.num_threads()
        with threadpoolctl.threadpool_limits(1):
            assert _core.num_threads() == 1
        assert _core.num_threads() == before


def test_no_thread_is_made_under_a_limit_of_one() -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted in /proc")
    pytest.importorskip("threadpoolctl")
    code = """
import os, numpy as np, fastloss
from threadpoolctl import threadpool_limits
fastloss.set_num_threads(3)
t, p = np.zeros((4000, 400)), np.ones((4000, 400))
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
with threadpool_limits(1):
    fastloss.MeanSquaredError().value_and_grad(t, p)
limited = threads()
fastloss.MeanSquaredError().value_and_grad(t, p)
print(limited - before, threads() - before)
"""
    assert run_python(code, OMP_NUM_THREADS="3") == "0 2"


def test_threads_that_call_share_the_threads_that_help() -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted in /proc")
    code = """
import os, threading, numpy as np, fastloss
fastloss.set_num_threads(3)
t, p = np.zeros((4000, 400)), np.ones((4000, 400))
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
done, counted = threading.Barrier(5), threading.Event()
def call():
    for _ in range(20):
        fastloss.MeanSquaredError().value_and_grad(t, p)
    done.wait()
    counted.wait()
callers = [threading.Thread(target=call) for _ in range(4)]
for caller in callers:
    caller.start()
done.wait()
print(threads() - before - len(callers))
counted.set()
"""
    assert run_python(code) == "2"


@pytest.mark.parametrize(("given", "used"), [("3", "3"), ("0", "2"), ("-1", "2"), ("x", "2")])
def test_number_of_threads_comes_from_the_environment(given: str, used: str) -> None:
    code = "from fastloss import _core; print(_core.num_threads())"
    assert run_python(code, FASTLOSS_NUM_THREADS=given, OMP_NUM_THREADS="2") == used
