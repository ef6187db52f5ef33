"""Threads: the same bits for every number of them, from any thread, and after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import cases, describe, draw, dtypes, make, resolved, same_bits
from fastloss import _core
from fastloss._registry import LossSpec

pytestmark = pytest.mark.usefixtures("any_threads")

# More rows than threads, fewer rows than threads, and rows that threads share.
SHAPES = [(3001, 17), (5, 20011), (2, 70001)]

# Calls one after the other, of which the first ones wake the threads that help with the others.
CALLS = 4


def evaluate(loss: fastloss.Loss, t: Any, p: Any, **extra: Any) -> bytes:
    value, gradient = loss.value_and_grad(t, p, **extra)
    return np.asarray(value).tobytes() + gradient.tobytes()


@dtypes
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", None])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@cases
def test_bits_do_not_depend_on_the_number_of_threads(
    spec: LossSpec, options: dict[str, Any], shape: Any, reduction: Any, dtype: Any, rng: Any
) -> None:
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, dtype, rng)
    loss = make(spec, options, reduction=reduction)
    results = set()
    for threads in (1, 2, 3, 8):
        fastloss.set_num_threads(threads)
        results |= {evaluate(loss, t, p) for _ in range(CALLS)}
    assert len(results) == 1


@cases
def test_bits_are_the_same_in_every_run(spec: LossSpec, options: dict[str, Any], rng: Any) -> None:
    options = resolved(spec, options, (3001, 17))
    t, p = draw(spec, options, (3001, 17), np.float32, rng)
    loss = make(spec, options)
    fastloss.set_num_threads(4)
    assert len({evaluate(loss, t, p) for _ in range(10)}) == 1


def test_weighted_means_do_not_depend_on_the_number_of_threads(rng: Any) -> None:
    t, p = rng.normal(size=(70001, 3)), rng.normal(size=(70001, 3))
    weight, mask = rng.random((70001, 3)), rng.random(70001) < 0.5
    loss = fastloss.MeanSquaredError(reduction="mean_with_sample_weight")
    results = set()
    for threads in (1, 2, 3, 8):
        fastloss.set_num_threads(threads)
        results |= {evaluate(loss, t, p, sample_weight=weight, mask=mask) for _ in range(CALLS)}
    assert len(results) == 1


@pytest.mark.parametrize(
    "spec", [fastloss.Hinge.spec, fastloss.CategoricalCrossentropy.spec], ids=describe
)
def test_many_python_threads_may_call_at_once(spec: LossSpec, rng: Any) -> None:
    data = [draw(spec, {}, (400 + k, 97), np.float32, rng) for k in range(16)]
    loss = make(spec, {})
    alone = [evaluate(loss, t, p) for t, p in data]
    fastloss.set_num_threads(2)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(lambda pair: evaluate(loss, *pair), data)) == alone


def test_layout_and_threads_together_do_not_change_a_bit(rng: Any) -> None:
    t, p = rng.normal(size=(500, 300)), rng.normal(size=(500, 300))
    loss = fastloss.CosineSimilarity()
    expected = loss.value_and_grad(t, p)
    fastloss.set_num_threads(3)
    for _ in range(CALLS):
        value, gradient = loss.value_and_grad(np.asfortranarray(t), np.asfortranarray(p))
        assert value == expected[0]
        assert same_bits(gradient, expected[1])


@pytest.mark.parametrize("n", [0, -1])
def test_number_of_threads_below_one_is_an_error(n: int) -> None:
    with pytest.raises(ValueError, match=f"n: expected at least 1, got {n}"):
        fastloss.set_num_threads(n)


def test_number_of_threads_that_is_no_integer_is_an_error_and_changes_nothing() -> None:
    before = _core.num_threads()
    for wrong in (1.5, "2", None):
        with pytest.raises(TypeError, match=f"^n: expected an integer, got {wrong!r}$"):
            fastloss.set_num_threads(wrong)
    assert _core.num_threads() == before


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_environment_variable_sets_the_number_of_threads() -> None:
    code = "from fastloss import _core; print(_core.num_threads())"
    assert run_python(code, FASTLOSS_NUM_THREADS="5") == "5"


def test_import_of_fastloss_imports_no_framework() -> None:
    code = (
        "import sys, fastloss; "
        "print([m for m in ('tensorflow', 'keras', 'cupy', 'jax', 'torch') if m in sys.modules])"
    )
    assert run_python(code) == "[]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_child_of_a_fork_computes_what_its_parent_does() -> None:
    code = """
import os, numpy as np, fastloss
fastloss.set_num_threads(4)
data = np.random.default_rng(0)
t, p = data.normal(size=(5000, 40)), data.normal(size=(5000, 40))
loss = fastloss.MeanSquaredError()
expected = loss.value_and_grad(t, p)[1].tobytes()
child = os.fork()
same = loss.value_and_grad(t, p)[1].tobytes() == expected
if child == 0:
    os._exit(0 if same else 1)
assert same
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("both")
"""
    assert run_python(code) == "both"
