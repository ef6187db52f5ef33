"""The kernels compiled for 64-bit Arm, and run by QEMU, give the results of this processor's.

Needs Debian's g++-aarch64-linux-gnu and qemu-user, or what they are called elsewhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastloss
from cases import (
    CASES,
    SPECS,
    TOLERANCE,
    assert_close,
    describe,
    draw,
    make,
    one_class_is_allowed,
    resolved,
)
from oracle import Array

ROOT = Path(__file__).resolve().parents[1]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
MISSING = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]

pytestmark = [
    one_class_is_allowed,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}"),
]

# In the order of `dtype` in csrc/api.h.
TYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    "bfloat16", "float32", "float64",
]  # fmt: skip

# Rows one by one and in lanes, longer than a block, for a team of threads, and split between them.
SHAPES = [(1,), (3, 423), (70, 10), (2, 2049), (33, 1000), (1, 70001)]

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]

Operation = tuple[str, list[Array]]


def build(folder: Path) -> Path:
    """The program of tests/operations.cpp, with the sources and flags of CMakeLists.txt."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    flags = re.search(r"set\(kernel_flags (.*)\)", cmake)
    core = re.search(r"pybind11_add_module\(_core MODULE(.*?)\)", cmake, re.DOTALL)
    assert flags is not None
    assert core is not None
    sources = [s for s in core[1].split() if not s.startswith("csrc/bind/")]
    kernels = [
        "csrc/cpu/kernels.cpp", "-DFASTLOSS_KERNELS=kernels_baseline", '-DFASTLOSS_ISA="baseline"',
        *flags[1].split(),
    ]  # fmt: skip
    common = [COMPILER, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
    program, compiled = folder / "operations", folder / "kernels.o"
    subprocess.run([*common, *kernels, "-c", "-o", compiled], check=True, cwd=ROOT)
    rest = ["-O1", "-fopenmp", "-static", "tests/operations.cpp", *sources, compiled]
    subprocess.run([*common, *rest, "-o", program], check=True, cwd=ROOT)
    return program


def run_operations(program: Path, operations: Iterable[Operation]) -> bytes:
    """The bytes of all outputs."""
    words = bytearray()
    for line, arrays in operations:
        words += np.int64(len(line)).tobytes() + line.encode() + np.int64(len(arrays)).tobytes()
        for a in arrays:
            numbers = [TYPES.index(a.dtype.name), a.itemsize, a.ndim, *a.shape]
            words += np.array(numbers, np.int64).tobytes() + a.tobytes()
    done = subprocess.run([EMULATOR, program], input=words, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("arm"))


def assert_agrees(found: bytes, expected: list[Array]) -> None:
    """The outputs, one after the other, are close to these; half types by one rounding."""
    assert len(found) == sum(a.nbytes for a in expected)
    at = 0
    for a in expected:
        ours = np.frombuffer(found, a.dtype, a.size, at).reshape(a.shape)
        at += a.nbytes
        if a.itemsize == 2:
            half, wide = ml_dtypes.finfo(a.dtype), a.astype(np.float32)
            size = np.abs(wide)
            rounding = float(half.eps) * np.maximum(size, float(half.tiny))
            allowed = rounding + TOLERANCE[wide.dtype] * (size + size.mean())
            assert (np.abs(ours.astype(np.float32) - wide) <= allowed).all()
        else:
            assert_close(ours, a, a.dtype)


def operation(
    loss: fastloss.Loss, t: Array, p: Array, weight: Array
) -> tuple[Operation, list[Array]]:
    """The call of a loss with reduction None as an operation, and what it gives here."""
    sparse = loss._plan.takes_labels
    wrt: Any = "y_pred" if sparse else "both"
    value, gradients = loss.value_and_grad(t, p, sample_weight=weight, wrt=wrt)
    outputs = "value,grad_pred" if sparse else "value,grad_pred,grad_true"
    line = f"none y_true,y_pred,sample_weight {outputs} {loss._plan.compiled.line()}"
    expected = [np.asarray(value), *([gradients] if sparse else gradients)]
    return (line, [t, p, weight]), expected


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_are_those_of_this_processor(
    program: Path, shape: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    operations, expected = [], []
    for spec, options in CASES if np.prod(shape) < 2000 else [(s, {}) for s in SPECS]:
        options = resolved(spec, options, shape)
        t, p = draw(spec, options, shape, dtype, rng)
        loss = make(spec, options, reduction=None)
        weight = rng.uniform(0.5, 2, np.shape(loss(t, p))).astype(dtype)
        one, results = operation(loss, t, p, weight)
        operations.append(one)
        expected.append((spec, options, results))
    found = run_operations(program, operations)
    for spec, options, results in expected:
        size = sum(a.nbytes for a in results)
        try:
            assert_agrees(found[:size], results)
        except AssertionError as error:
            raise AssertionError(f"{describe(spec)}, {describe(options)}: {error}") from None
        found = found[size:]
    assert not found


def test_reduced_sum_of_losses_is_that_of_this_processor(program: Path, rng: Any) -> None:
    loss = 0.5 * fastloss.MeanSquaredError() + 2.0 * fastloss.CategoricalCrossentropy(
        from_logits=True
    )
    t, p = rng.random((40, 1000), dtype=np.float32), rng.normal(size=(40, 1000)).astype("f4")
    value, gradient = loss.value_and_grad(t, p)
    line = f"mean y_true,y_pred value,grad_pred {loss._plan.compiled.line()}"
    assert_agrees(run_operations(program, [(line, [t, p])]), [np.asarray(value), gradient])


def test_ctc_is_that_of_this_processor(program: Path, rng: Any) -> None:
    t, p = rng.integers(1, 12, (3, 8)), rng.normal(size=(3, 40, 12)).astype(np.float32)
    lengths = [np.array([8, 5, 1]), np.array([40, 31, 20])]
    loss = fastloss.CTC(reduction=None)
    value, gradient = loss.value_and_grad(t, p, label_length=lengths[0], logit_length=lengths[1])
    line = "none y_true,y_pred,label_length,logit_length value,grad_pred ctc blank=0"
    assert_agrees(run_operations(program, [(line, [t, p, *lengths])]), [value, gradient])
