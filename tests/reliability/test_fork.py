"""Children of a process that has a team of threads compute at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import fastloss
from test_concurrency import run_python

pytestmark = [
    pytest.mark.usefixtures("any_threads"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # Python's own warning, from 3.12 on, that forking a process with threads is delicate.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

TEAM_AND_JOB = """
import os, signal, threading, numpy as np, fastloss
fastloss.set_num_threads(4)
rng = np.random.default_rng(0)
t, p = rng.normal(size=(2000, 40)), rng.normal(size=(2000, 40))
loss = fastloss.MeanSquaredError()
def work():
    value, gradient = loss.value_and_grad(t, p)
    return value.tobytes() + gradient.tobytes()
expected = work()
assert all(work() == expected for _ in range(5))  # by a team
def child():
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # what hangs, ends
        os._exit(0 if work() == expected else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def job(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    t, p = rng.normal(size=(2000, 40)), rng.normal(size=(2000, 40))
    value, gradient = fastloss.MeanSquaredError().value_and_grad(t, p)
    return value.tobytes() + gradient.tobytes()


def test_a_hundred_forks_one_after_the_other() -> None:
    code = f"{TEAM_AND_JOB}\nprint({{child() for _ in range(100)}}, work() == expected)"
    assert run_python(code) == "{0} True"


@pytest.mark.skipif(
    "asan.so" in os.environ.get("LD_PRELOAD", ""),
    reason="a child waits for the lock of the address sanitizer's own allocator, which another "
    "thread held at the fork",
)
def test_child_of_a_child_and_fork_while_other_threads_compute() -> None:
    code = f"""{TEAM_AND_JOB}
stop = threading.Event()
def busy():
    while not stop.is_set():
        work()
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
codes = {{child() for _ in range(30)}}
stop.set()
for thread in threads:
    thread.join()
pid = os.fork()
if pid == 0:
    os._exit(child())
print(codes, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert run_python(code) == "{0} 0"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pool_of_processes_after_a_parallel_call(method: str) -> None:
    fastloss.set_num_threads(2)
    expected = [job(seed) for seed in range(4)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(job, range(4)).get(timeout=120) == expected


def test_workers_of_pytorchs_data_loader() -> None:
    if not any((Path(p) / "torch").is_dir() for p in sys.path):
        pytest.skip("torch is not installed")
    code = f"""{TEAM_AND_JOB}
import torch
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return int(work() == expected)
loader = torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2, timeout=60)
for _ in range(2):
    print(sum(int(batch.sum()) for batch in loader), end=" ")
"""
    assert run_python(code) == "8 8"


def test_threads_are_back_to_one_in_a_child_only() -> None:
    code = f"""{TEAM_AND_JOB}
def threads():
    return len(os.listdir("/proc/self/task"))
pid = os.fork()
if pid == 0:
    work()
    os._exit(threads())
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), threads() > 1)
"""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted in /proc")
    assert run_python(code) == "1 True"
