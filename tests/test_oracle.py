"""The oracle itself: its derivatives are those of its values, and it is precise."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

import oracle
from cases import TOLERANCE, assert_close, by_sample, cases, draw, resolved
from composition import Call
from fastloss._registry import LossSpec

WIDTH = np.longdouble("1e-6")


@cases
def test_complex_step_is_the_limit_of_central_differences(
    spec: LossSpec, options: dict[str, Any], rng: Any
) -> None:
    options = resolved(spec, by_sample(spec) | options, (4, 5))
    t, p = draw(spec, options, (4, 5), np.float64, rng)
    call = Call(spec, t, p, options)
    forward = (oracle.ELEMENTS | oracle.ROWS)[spec.name]
    t, p = call.targets(), call.predictions()
    direction = rng.normal(size=p.shape).astype(np.longdouble)
    for wrt in ("y_pred", "y_true") if spec.labels == "dense" else ("y_pred",):
        if wrt == "y_true" and "hinge" in spec.name:
            continue  # the label rule makes a step off a binary label another function
        ends = [
            forward(*((t, p + h) if wrt == "y_pred" else (t + h, p)), call.limits, call.options)
            for h in (direction * WIDTH, -direction * WIDTH)
        ]
        difference = (ends[0] - ends[1]) / (2 * WIDTH)
        rest = (direction, wrt, call.limits, call.options)
        step = oracle.complex_step(forward, t, p, *rest)
        np.testing.assert_allclose(
            step.astype(float), difference.astype(float), rtol=1e-8, atol=1e-9
        )


@pytest.mark.parametrize("error", [1e-12, 1e-4, 0.3, 2.0, 50.0])
def test_log_cosh_of_the_oracle_is_that_of_high_precision(error: float) -> None:
    p = np.array([[error]], np.longdouble)
    value = oracle.log_cosh(p * 0, p, oracle.Limits.of(np.float64), {})
    with mpmath.workdps(60):
        exact = float(mpmath.log(mpmath.cosh(mpmath.mpf(error))))
    assert float(value[0, 0]) == pytest.approx(exact, rel=1e-15)


def test_clip_bounds_are_those_of_the_dtype() -> None:
    limits = oracle.Limits.of(np.float32)
    assert float(limits.low) == np.float32(1e-7)
    assert 1 - float(limits.high) == pytest.approx(1.1920929e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tolerance_tells_a_few_roundings_from_an_error(dtype: Any) -> None:
    exact = np.array([1.0, 2.0, 4.0])
    step = TOLERANCE[np.dtype(dtype)]
    assert_close((exact * (1 + step / 4)).astype(dtype), exact, dtype)
    for wrong in (exact * (1 + 8 * step), exact + [0, 0, np.nan]):
        with pytest.raises(AssertionError, match="elements are off"):
            assert_close(wrong.astype(dtype), exact, dtype)
