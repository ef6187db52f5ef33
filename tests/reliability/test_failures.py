"""What fails inside a call: memory, optional libraries, a signal. An error, never a crash."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

import fastloss
from fastloss import _core
from test_concurrency import run_python

sanitized = pytest.mark.skipif(
    sys.platform != "linux" or "san.so" in os.environ.get("LD_PRELOAD", ""),
    reason="limits memory by address space, which the address sanitizer needs terabytes of",
)

LIMITED_MEMORY = """
import resource, numpy as np, fastloss
def limited(call, room):
    pages = int(open("/proc/self/statm").read().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, old[1]))
    try:
        call()
        return "no error"
    except MemoryError:
        return "MemoryError"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
"""

# A row of 60000 columns takes half a megabyte of scratch, for its elements and what is kept.
SCRATCH = f"""{LIMITED_MEMORY}
rng = np.random.default_rng(0)
fastloss.set_num_threads(THREADS)
t, p = rng.random((8, 60000)), rng.normal(size=(8, 60000))
loss = fastloss.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
fastloss.MeanSquaredError().value_and_grad(t, p)  # makes the threads
out = np.empty_like(p)
print(limited(lambda: loss.value_and_grad(t, p, out=out), 100_000))
value, gradient = loss.value_and_grad(t, p)
rows = [loss.value_and_grad(t[i : i + 1], p[i : i + 1])[1] / 8 for i in range(8)]
print(np.array_equal(gradient, np.concatenate(rows)))
"""


@sanitized
@pytest.mark.parametrize("threads", [1, 3])
def test_no_memory_for_scratch_is_an_error_and_the_next_call_is_right(threads: int) -> None:
    code = SCRATCH.replace("THREADS", str(threads))
    assert run_python(code).split() == ["MemoryError", "True"]


@sanitized
@pytest.mark.parametrize(
    "call",
    [
        "fastloss.MeanSquaredError().value_and_grad(t, p)",
        "fastloss.MeanSquaredError().value_and_grad(t, p, wrt='both')",
        "fastloss.CosineSimilarity(reduction=None).value_and_grad(t.T, p.T)",
        "fastloss.CTC().value_and_grad(np.ones((2, 9), int), p.reshape(2, 1000, 1000))",
        "fastloss.Circle().value_and_grad(np.zeros(2000, int), p)",
    ],
)
def test_no_memory_for_the_result_is_an_error(call: str) -> None:
    code = f"""{LIMITED_MEMORY}
t, p = np.ones((2000, 1000)), np.ones((2000, 1000))
print(limited(lambda: {call}, 2_000_000))
{call}
"""
    assert run_python(code) == "MemoryError"


@sanitized
def test_kept_memory_gives_way_to_a_result_that_it_does_not_fit() -> None:
    code = f"""{LIMITED_MEMORY}
p = np.ones((9000, 1000))
loss = fastloss.MeanSquaredError()
loss.value_and_grad(p[:5000], p[:5000])  # 40 MB are kept
print(limited(lambda: loss.value_and_grad(p, p), 50_000_000))  # asks for 72 MB
"""
    assert run_python(code) == "no error"


def without(module: str, statement: str) -> str:
    """What a statement raises in a process where a module cannot be imported."""
    code = f"""
sys.modules[{module!r}] = None
import fastloss
try:
    {statement}
except Exception as error:
    print(type(error).__name__, error)
"""
    return run_python(code)


@pytest.mark.parametrize(
    ("module", "statement", "error"),
    [
        ("ml_dtypes", "fastloss.MeanSquaredError(dtype='bfloat16')", "ml_dtypes"),
        ("tensorflow", "import fastloss.tensorflow", "tensorflow"),
        ("keras", "import fastloss.keras", "keras"),
        ("fastloss._cuda", "import fastloss.cuda; fastloss.cuda.info()", "CUDA"),
    ],
)
def test_missing_optional_library_is_named(module: str, statement: str, error: str) -> None:
    if module == "keras":
        pytest.importorskip("tensorflow")
    said = without(module, statement)
    assert said.split()[0] in ("ImportError", "ModuleNotFoundError", "RuntimeError"), said
    assert error in said


def test_losses_need_numpy_alone() -> None:
    code = """
for name in ("tensorflow", "keras", "ml_dtypes", "cupy", "torch", "jax", "scipy"):
    sys.modules[name] = None
import fastloss
print(fastloss.MeanSquaredError().value_and_grad([[1.0, 0.0]], [[2.0, 3.0]])[0])
"""
    assert run_python(code) == "5.0"


# 2^40 elements without memory for them: half an hour. The process is ended after four minutes.
INTERRUPTED = """
import os, signal, threading, numpy as np, fastloss
fastloss.set_num_threads(THREADS)
p = np.broadcast_to(np.float32(0.5), (2**20, 2**20))
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    fastloss.CosineSimilarity()(p, p)
except KeyboardInterrupt:
    print("interrupted")
t = np.ones((300, 400))
print(fastloss.MeanSquaredError()(t, 2 * t))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_long_call(threads: int) -> None:
    assert run_python(INTERRUPTED.replace("THREADS", str(threads))) == "interrupted\n1.0"


def test_compiled_plan_without_axes_is_refused() -> None:
    # Python's front end says so before; the module itself read the first of none.
    with pytest.raises(ValueError, match=r"^axes: expected at least one, got none"):
        _core.Plan(0, [], [], 0.0, [], "class_weight", None, False)


def test_what_a_handler_raises_comes_out_of_the_call_and_others_go_on() -> None:
    code = """
import signal, threading, numpy as np, fastloss
class Enough(Exception):
    pass
def handler(*_):
    raise Enough
signal.signal(signal.SIGALRM, handler)
small = np.ones((300, 400))
results, stop = [], threading.Event()
def work():
    while not stop.is_set():
        results.append(float(fastloss.MeanSquaredError()(small, 2 * small)))
thread = threading.Thread(target=work)
thread.start()
p = np.broadcast_to(np.float32(0.5), (2**20, 2**20))
signal.setitimer(signal.ITIMER_REAL, 0.5)
try:
    fastloss.CategoricalHinge()(p, p)
except Enough:
    print("Enough", end=" ")
stop.set()
thread.join()
print(set(results))
"""
    assert run_python(code) == "Enough {1.0}"


def test_handler_that_returns_does_not_end_the_call() -> None:
    code = """
import signal, numpy as np, fastloss
calls = []
signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
p = np.broadcast_to(np.float32(0.5), (2**8, 2**18))
signal.setitimer(signal.ITIMER_REAL, 0.02)
values = set()
while not calls:
    values.add(float(fastloss.MeanSquaredError()(p, p)))
print(values)
"""
    assert run_python(code) == "{0.0}"


def test_an_error_in_one_thread_leaves_the_team_usable() -> None:
    fastloss.set_num_threads(4)
    labels = np.zeros(100_000, int)
    labels[77_777] = 3
    p = np.full((100_000, 3), 0.25)
    loss = fastloss.SparseCategoricalCrossentropy()
    for _ in range(20):
        with pytest.raises(ValueError, match="77777"):
            loss.value_and_grad(labels, p)
        assert np.isfinite(loss.value_and_grad(np.zeros_like(labels), p)[0])


def test_process_may_end_while_a_daemon_computes() -> None:
    code = """
import threading, time, numpy as np, fastloss
t = np.ones((300, 400))
def work():
    while True:
        fastloss.LogCosh().value_and_grad(t, 2 * t)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
print("end")
"""
    for _ in range(10):
        assert run_python(code) == "end"
