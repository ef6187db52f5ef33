"""Writes ``python/fastloss/_reference.npz``, what `fastloss check` compares with.

    python tools/make_reference.py [--check]

``--check`` tells whether it is current. Values and gradients come from the definitions in
``tests/``, in extended precision. Inputs are exact in every dtype, and drawn again until no clip,
kink or tie is near, so that one result holds for all dtypes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import definitions
import oracle
from cases import draw, resolved, variants
from composition import Call
from fastloss._registry import REGISTRY, LossSpec

REFERENCE = Path(__file__).parents[1] / "python" / "fastloss" / "_reference.npz"
SMALL, LONG = (3, 19), (2, 130)  # a vector and a part of one; a row that is not put into lanes
NUDGE = 1e-7
Arrays = dict[str, np.ndarray[Any, Any]]

# The slopes of circle loss are differences of terms that are up to gamma times as large.
ROUNDING = {"circle": 20.0, "ctc": 10.0}


def coarse(x: Any) -> Any:
    """Rounded to eight binary digits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


def grid_results(spec: LossSpec, options: Any, t: Any, p: Any) -> Arrays:
    """Values per sample and gradients of their sum, by the oracle."""
    call = Call(spec, t, p, options, reduction=None)
    found = {"value": call.value(), "grad_pred": call.gradient("y_pred")}
    if spec.labels == "dense" and getattr(spec, "uses_target", True):
        found["grad_true"] = call.gradient("y_true")
    return found


def grid_case(spec: LossSpec, options: Any, shape: tuple[int, ...], rng: Any) -> Arrays:
    """Inputs and results of a loss of one sample at a time."""
    while True:
        t, p = draw(spec, options, shape, np.float64, rng)
        t = t if t.dtype.kind in "iu" else coarse(t)
        p = coarse(p)
        found = grid_results(spec, options, t, p)
        moved = grid_results(spec, options, t, p * (1 + NUDGE))
        if all(np.allclose(moved[name], x, 1e-3, 1e-4) for name, x in found.items()):
            return {"y_true": t, "y_pred": p, **found}


def circle_case(options: Any, rng: Any) -> Arrays:
    """Inputs and results of the circle loss; the slopes by the complex step."""
    y, p = rng.integers(0, 3, 9), rng.normal(size=(9, 6))
    p = coarse(p / np.linalg.norm(p, axis=1, keepdims=True))
    wide = p.astype(np.longdouble)
    slopes = np.empty_like(wide)
    for at in np.ndindex(p.shape):
        moved = wide.astype(np.clongdouble)
        moved[at] += 1j * oracle.STEP
        slopes[at] = definitions.circle(y, moved, **options).sum().imag / oracle.STEP
    return {
        "y_true": y, "y_pred": p, "value": definitions.circle(y, wide, **options),
        "grad_pred": slopes,
    }  # fmt: skip


def ctc_case(rng: Any) -> Arrays:
    """Inputs and results of CTC; equal neighbours among the labels, and fewer labels than there."""
    x = coarse(rng.normal(0, 2, (3, 12, 5)))
    labels = np.array([[1, 1, 2, 4], [3, 2, 3, 0], [4, 0, 0, 0]])
    found = [definitions.ctc(a, t[t > 0]) for a, t in zip(x, labels, strict=True)]
    return {
        "y_true": labels, "y_pred": x, "value": np.array([value for value, _ in found]),
        "grad_pred": np.array([slopes for _, slopes in found]),
    }  # fmt: skip


def cases() -> list[tuple[dict[str, Any], Arrays]]:
    """All cases: what they are, and their arrays."""
    out = []
    for spec in REGISTRY:
        rng = np.random.default_rng(list(spec.name.encode()))
        made: list[tuple[Any, Arrays]] = []
        if spec.kind == "pairwise":
            made = [(o, circle_case(o, rng)) for o in ({}, {"gamma": 5.0, "margin": 0.25})]
        elif spec.kind == "sequence":
            made = [({}, ctc_case(rng))]
        else:
            by_sample = {"axis": -1} if spec.kind == "region" else {}
            for given in variants(spec):
                options = resolved(spec, by_sample | given, SMALL)
                made.append((options, grid_case(spec, options, SMALL, rng)))
            made.append((by_sample, grid_case(spec, by_sample, LONG, rng)))
        for options, arrays in made:
            about = {"loss": spec.class_name, "options": options, "arrays": list(arrays)}
            out.append((about | {"rounding": ROUNDING.get(spec.name, 1.0)}, arrays))
    return out


def contents() -> Arrays:
    """The file: a description of all cases as JSON, and the arrays by case and name."""
    all_cases = cases()
    stored: Arrays = {"cases": np.array(json.dumps([about for about, _ in all_cases]))}
    for i, (_, arrays) in enumerate(all_cases):
        for name, array in arrays.items():
            narrow = np.int32 if array.dtype.kind in "iu" else np.float64
            exact_in_half = np.float32 if name in ("y_true", "y_pred") else narrow
            stored[f"{i}.{name}"] = array.astype(narrow if narrow is np.int32 else exact_in_half)
    return stored


def is_current(stored: Arrays) -> bool:
    """Whether the file holds that, up to the last digit, which the platform decides."""
    if not REFERENCE.exists():
        return False
    with np.load(REFERENCE) as found:
        return found.keys() == stored.keys() and all(
            found[k].dtype == x.dtype and found[k].shape == x.shape
            and (np.array_equal(found[k], x) if x.dtype.kind in "iU"
                 else np.allclose(found[k], x, 1e-14, 1e-17))
            for k, x in stored.items()
        )  # fmt: skip


def main() -> int:
    """Write the file, or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    stored = contents()
    if not parser.parse_args().check:
        np.savez_compressed(REFERENCE, allow_pickle=False, **stored)
    elif not is_current(stored):
        print(f"{REFERENCE.name} is out of date: run tools/make_reference.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
