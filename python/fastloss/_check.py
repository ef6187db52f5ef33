"""The self-test of an installation: every loss on this machine, against stored results.

The results come from definitions that the kernels have nothing to do with: those of ``tests/``, in
extended precision, by ``tools/make_reference.py``. They hold for every dtype, because the inputs
are exact in bfloat16 and lie away from clips and kinks.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastloss import _core, losses
from fastloss._evaluate import Array
from fastloss._registry import REGISTRY

REFERENCE = Path(__file__).with_name("_reference.npz")

TOLERANCE = {"float64": 2e-14, "float32": 2e-6, "float16": 2**-10, "bfloat16": 2**-7}
"""Of a result, relative to its size plus the mean size of all; values of half types are float32.

Those of the tests; for half types, what one rounding of the gradient takes."""

Move = Callable[[Array], Any]


def reference() -> Iterator[tuple[dict[str, Any], dict[str, Array]]]:
    """What was computed, as ``loss``, ``options`` and ``rounding``, and the arrays of each case."""
    with np.load(REFERENCE) as stored:
        cases = json.loads(str(stored["cases"]))
        for i, case in enumerate(cases):
            yield case, {name: stored[f"{i}.{name}"] for name in case.pop("arrays")}


def dtypes() -> list[str]:
    """Those that can be checked here: NumPy has bfloat16 where ml_dtypes is installed."""
    if importlib.util.find_spec("ml_dtypes"):
        import ml_dtypes  # noqa: F401  (registers bfloat16)

        return list(TOLERANCE)
    return [name for name in TOLERANCE if name != "bfloat16"]


def error(actual: Any, exact: Array, tolerance: float) -> float:
    """The worst error in units of what is allowed; infinite for NaN and for another shape."""
    got = np.asarray(actual).astype(np.float64)
    if got.shape != exact.shape:
        return float("inf")
    allowed = tolerance * (np.abs(exact) + np.abs(exact).mean())
    with np.errstate(invalid="ignore"):
        units = np.abs(got - exact) / np.maximum(allowed, np.finfo(np.float64).tiny)
    return float(np.where(np.isfinite(units), units, np.inf).max())


def check_case(case: dict[str, Any], arrays: dict[str, Array], dtype: str, to: Move) -> float:
    """The worst error of a loss and its gradients."""
    config = {**case["options"], "reduction": None}
    loss = losses.get({"class_name": case["loss"], "config": config})
    y_true = arrays["y_true"]
    y_true = to(y_true if y_true.dtype.kind in "iu" else y_true.astype(dtype))
    y_pred = to(arrays["y_pred"].astype(dtype))
    found = {}
    if "grad_true" in arrays:
        found["value"], pair = loss.value_and_grad(y_true, y_pred, wrt="both")
        found["grad_pred"], found["grad_true"] = pair
    else:
        found["value"], found["grad_pred"] = loss.value_and_grad(y_true, y_pred)
    host = {name: x.get() if hasattr(x, "get") else x for name, x in found.items()}
    tolerances = dict.fromkeys(host, TOLERANCE[dtype])
    tolerances["value"] = min(TOLERANCE[dtype], TOLERANCE["float32"])
    return max(
        error(x, arrays[name], case["rounding"] * tolerances[name]) for name, x in host.items()
    )


def check_here(where: str, to: Move = lambda a: a) -> list[dict[str, Any]]:
    """One result per loss: the place, the loss, how many cases, the worst error, what failed."""
    results: dict[str, dict[str, Any]] = {}
    by_class = {spec.class_name: spec for spec in REGISTRY}
    for case, arrays in reference():
        spec = by_class[case["loss"]]
        result = results.setdefault(
            spec.name, {"where": where, "loss": spec.name, "cases": 0, "worst": 0.0, "failed": []}
        )
        for dtype in dtypes():
            try:
                units = check_case(case, arrays, dtype, to)
                said = f"{units:.3g} times the error that is allowed"
            except Exception as problem:
                units, said = float("inf"), f"{type(problem).__name__}: {problem}"
            result["cases"] += 1
            result["worst"] = max(result["worst"], units)
            if not units <= 1:
                result["failed"].append(f"{dtype}, {case['options'] or 'defaults'}: {said}")
    return list(results.values())


def check_instruction_set(isa: str) -> list[Any]:
    """The results under another instruction set, which is chosen once per process."""
    code = (
        "import json; from fastloss import _check, _core; "
        "print(json.dumps(_check.check_here(_core.instruction_set())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"FASTLOSS_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        found: list[Any] = json.loads(done.stdout)
        return found
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return [{"where": isa, "loss": "all", "cases": 0, "worst": float("inf"), "failed": [last]}]


def gpu() -> tuple[Move | None, str]:
    """What copies an array to the GPU, or None, and why."""
    from fastloss import _cupy

    try:
        cuda = _cupy.kernels()
        devices = cuda.devices()
        import cupy
    except (RuntimeError, ImportError) as problem:
        return None, str(problem)
    if not devices:
        return None, "the driver shows no device"
    return cupy.asarray, devices[0][0]


def check_all() -> tuple[list[Any], list[str]]:
    """The results everywhere, and lines about what could not be checked."""
    here = _core.instruction_set()
    results = check_here(here)
    for isa in _core.instruction_sets():
        if isa != here:
            results += check_instruction_set(isa)
    notes = []
    to_gpu, name = gpu()
    if to_gpu is None:
        notes.append(f"GPU not checked: {name}")
    else:
        results += check_here(name, to_gpu)
    if "bfloat16" not in dtypes():
        notes.append("bfloat16 not checked: ml_dtypes is not installed")
    checked = {result["loss"] for result in results}
    notes += [f"{s.name}: no stored results" for s in REGISTRY if s.name not in checked]
    return results, notes
