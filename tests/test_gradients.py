"""Gradients of every loss against the complex-step derivatives of the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import (
    LARGE_SHAPES,
    SMALL_SHAPES,
    SPECS,
    TOLERANCE,
    accepts_axis,
    assert_close,
    by_sample,
    cases,
    describe,
    draw,
    dtypes,
    losses,
    make,
    one_class_is_allowed,
    resolved,
    value_shape,
)
from composition import Call
from fastloss._registry import LossSpec
from oracle import Array

pytestmark = one_class_is_allowed


def gradients(spec: LossSpec, loss: Any, t: Array, p: Array, **extra: Any) -> dict[str, Array]:
    """All gradients that a loss has, from one call."""
    if spec.labels == "integer":
        return {"y_pred": loss.value_and_grad(t, p, **extra)[1]}
    pair = loss.value_and_grad(t, p, wrt="both", **extra)[1]
    return dict(zip(("y_pred", "y_true"), pair, strict=True))


def check(
    spec: LossSpec, options: dict[str, Any], shape: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, dtype, rng)
    call = Call(spec, t, p, options)
    for wrt, gradient in gradients(spec, make(spec, options), t, p).items():
        exact = call.gradient(wrt)
        # The gradient of a single class is a difference that may be exactly zero, with no
        # neighbours to tell the size of what was subtracted.
        alone = 4 * np.abs(call.coefficients()).mean() if call.grid[1] == 1 else 0
        assert_close(gradient, exact, dtype, scale=np.abs(exact).mean() + alone)


@dtypes
@pytest.mark.parametrize("shape", SMALL_SHAPES, ids=str)
@cases
def test_gradient_is_the_oracles_derivative(
    spec: LossSpec, options: dict[str, Any], shape: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    check(spec, options, shape, dtype, rng)


@dtypes
@pytest.mark.parametrize("axis", [0, 2, -2])
@pytest.mark.parametrize("spec", [s for s in SPECS if accepts_axis(s)], ids=describe)
def test_gradient_follows_the_axis(spec: LossSpec, axis: int, dtype: Any, rng: Any) -> None:
    check(spec, {"axis": axis}, (4, 3, 5, 6), dtype, rng)


@dtypes
@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
@losses
def test_gradient_of_many_blocks_is_the_oracles_derivative(
    spec: LossSpec, shape: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    # Every partial derivative of the oracle would take too long; a derivative along a random
    # direction takes one evaluation, and along a part of one it localizes what is wrong.
    t, p = draw(spec, {}, shape, dtype, rng)
    call = Call(spec, t, p)
    for wrt, gradient in gradients(spec, make(spec, {}), t, p).items():
        for part in (slice(None), slice(-5, None)):
            direction = np.zeros(shape)
            direction[..., part] = rng.normal(size=direction[..., part].shape)
            terms = gradient.astype(np.longdouble) * direction
            exact = call.gradient_along(direction, wrt)
            assert abs(terms.sum() - exact) <= TOLERANCE[np.dtype(dtype)] * np.abs(terms).sum()


@pytest.mark.parametrize("spec", [s for s in SPECS if s.labels == "dense"], ids=describe)
def test_wrt_chooses_which_gradients_come_back(spec: LossSpec, rng: Any) -> None:
    t, p = draw(spec, {}, (6, 5), np.float64, rng)
    loss = make(spec, {})
    value, pair = loss.value_and_grad(t, p, wrt="both")
    assert isinstance(pair, tuple)
    for alone, together in zip(("y_pred", "y_true"), pair, strict=True):
        value_alone, gradient = loss.value_and_grad(t, p, wrt=alone)
        np.testing.assert_allclose(value_alone, value, rtol=1e-15)
        np.testing.assert_allclose(gradient, together, rtol=1e-14, atol=1e-17)


@cases
def test_value_beside_a_gradient_is_the_value_alone(
    spec: LossSpec, options: dict[str, Any], rng: Any
) -> None:
    # Up to rounding: the loops with and without a gradient are compiled apart.
    options = resolved(spec, options, (33, 70))
    t, p = draw(spec, options, (33, 70), np.float32, rng)
    loss = make(spec, options)
    value, _ = loss.value_and_grad(t, p)
    np.testing.assert_allclose(value, loss(t, p), rtol=2**-23)


@dtypes
@pytest.mark.parametrize("upstream", [0.0, -2.5, 7, np.float32(0.25)], ids=repr)
@losses
def test_upstream_number_multiplies_the_gradient(
    spec: LossSpec, upstream: Any, dtype: Any, rng: Any
) -> None:
    t, p = draw(spec, {}, (6, 5), dtype, rng)
    for wrt, gradient in gradients(spec, make(spec, {}), t, p, upstream=upstream).items():
        assert_close(gradient, Call(spec, t, p, upstream=upstream).gradient(wrt), dtype)


@dtypes
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 7), (2, 5000)], ids=str)
@losses
def test_upstream_array_multiplies_each_loss(
    spec: LossSpec, shape: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, shape, dtype, rng)
    upstream = rng.normal(size=value_shape(spec, options, shape))
    call = Call(spec, t, p, options, reduction=None, upstream=upstream.astype(dtype))
    loss = make(spec, options, reduction=None)
    for wrt, gradient in gradients(spec, loss, t, p, upstream=call.upstream).items():
        if shape[-1] <= 100:
            assert_close(gradient, call.gradient(wrt), dtype)
        else:
            direction = rng.normal(size=shape)
            terms = gradient * direction
            error = abs(terms.sum(dtype=np.longdouble) - call.gradient_along(direction, wrt))
            assert error <= TOLERANCE[np.dtype(dtype)] * np.abs(terms).sum()
