"""Every instruction set that this processor has gives the default's results."""

from __future__ import annotations

import functools
import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import CASES, assert_close, describe, draw, make, resolved
from composition import Call
from fastloss import _core
from fastloss._registry import LossSpec

NEEDS = {
    "x86-64-v2": set(),
    "x86-64-v3": {"avx2", "fma", "bmi2"},
    "x86-64-v4": {"avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}

DTYPES = (np.float32, np.float64)
SHAPE = (9, 77)  # not a multiple of any vector width


def processor_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def supported() -> list[str]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    return [isa for isa, flags in NEEDS.items() if flags <= processor_flags()]


def inputs(spec: LossSpec, options: dict[str, Any], dtype: Any) -> tuple[Any, Any, dict[str, Any]]:
    options = resolved(spec, options, SHAPE)
    t, p = draw(spec, options, SHAPE, dtype, np.random.default_rng(5))
    return t, p, options


def evaluate_all() -> dict[Any, Any]:
    """What a subprocess, under a forced instruction set, sends back."""
    out = {}
    for case, (spec, options) in enumerate(CASES):
        for dtype in DTYPES:
            t, p, resolved_options = inputs(spec, options, dtype)
            out[case, dtype.__name__] = make(spec, resolved_options).value_and_grad(t, p)
    return out


def run_under(isa: str) -> subprocess.CompletedProcess[bytes]:
    code = (
        "import sys, pickle; sys.path.insert(0, sys.argv[1]); import test_instruction_sets as m; "
        "sys.stdout.buffer.write(pickle.dumps((m._core.instruction_set(), m.evaluate_all())))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        env={**os.environ, "FASTLOSS_ISA": isa},
        capture_output=True,
        timeout=120,
        check=False,
    )


@functools.cache
def results_under(isa: str) -> tuple[str, dict[Any, Any]]:
    done = run_under(isa)
    assert done.returncode == 0, done.stderr.decode()
    name, results = pickle.loads(done.stdout)
    return name, results


@pytest.mark.parametrize("isa", supported())
def test_forced_instruction_set_is_the_one_in_use(isa: str) -> None:
    assert results_under(isa)[0] == isa


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda k: "-".join(map(describe, CASES[k])))
@pytest.mark.parametrize("isa", supported())
def test_forced_instruction_set_agrees_with_the_oracle(isa: str, case: int, dtype: Any) -> None:
    t, p, options = inputs(*CASES[case], dtype)
    call = Call(CASES[case][0], t, p, options)
    value, gradient = results_under(isa)[1][case, dtype.__name__]
    assert_close(value, call.value(), dtype, scale=call.value_scale())
    assert_close(gradient, call.gradient("y_pred"), dtype)


CONVERSIONS = [
    "test_dtypes.py",
    "test_half_types.py::test_every_half_is_read_exactly",
    "test_half_types.py::test_gradients_of_every_size_are_rounded_to_nearest_even",
]


@pytest.mark.parametrize("isa", supported())
def test_forced_instruction_set_converts_elements_exactly(isa: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CONVERSIONS],
        cwd=Path(__file__).parent,
        env={**os.environ, "FASTLOSS_ISA": isa},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.skipif(not supported(), reason="instruction sets are chosen on x86-64 only")
def test_best_supported_instruction_set_is_the_default() -> None:
    if "FASTLOSS_ISA" in os.environ:
        pytest.skip("the environment forces one")
    assert _core.instruction_set() == supported()[-1]
    assert _core.instruction_sets() == supported()


@pytest.mark.skipif(not supported(), reason="instruction sets are chosen on x86-64 only")
def test_unknown_instruction_set_is_an_error() -> None:
    done = run_under("mmx")
    assert done.returncode != 0
    assert b"FASTLOSS_ISA: expected one of x86-64-v2, " in done.stderr
    assert b"mmx" in done.stderr
