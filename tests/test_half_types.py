"""float16 and bfloat16: computed in float32, and rounded once where a gradient is stored."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastloss
from cases import cases, draw, flushed, make, one_class_is_allowed, resolved, same_bits
from fastloss._registry import LossSpec

pytestmark = one_class_is_allowed

HALVES = [np.float16, ml_dtypes.bfloat16]
halves = pytest.mark.parametrize("half", HALVES, ids=lambda d: np.dtype(d).name)


def every_value(half: Any) -> Any:
    return np.arange(2**16, dtype=np.uint16).view(half)


@halves
@cases
def test_half_is_float32_with_a_rounded_gradient(
    spec: LossSpec, options: dict[str, Any], half: Any, rng: Any
) -> None:
    shape = (6, 5, 7)
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, half, rng)
    wide_t, wide_p = (a if a.dtype.kind == "i" else a.astype(np.float32) for a in (t, p))
    loss = make(spec, options)
    wrt: Any = "y_pred" if spec.labels == "integer" else "both"
    value, gradients = loss.value_and_grad(t, p, wrt=wrt)
    wide_value, wide_gradients = loss.value_and_grad(wide_t, wide_p, wrt=wrt)
    assert same_bits(value, wide_value)
    assert value.dtype == np.float32
    for narrow, wide in zip(np.atleast_1d(gradients), np.atleast_1d(wide_gradients), strict=True):
        assert same_bits(narrow, wide.astype(half))
    values = getattr(fastloss, spec.name)(t, p, **options)
    assert same_bits(values, getattr(fastloss, spec.name)(wide_t, wide_p, **options))


@halves
def test_every_half_is_read_exactly(half: Any) -> None:
    x = every_value(half)
    read = fastloss.mean_absolute_error(np.zeros((x.size, 1), half), x[:, None])
    np.testing.assert_array_equal(read, flushed(np.abs(x.astype(np.float32))))


@halves
def test_gradients_of_every_size_are_rounded_to_nearest_even(half: Any, rng: Any) -> None:
    # The gradient of |p - t| is its sign times upstream: any float32 can be made to be stored.
    exponents = rng.uniform(-50, 20, 200_000)
    ties = every_value(half)[: 2**15 - 2].astype(np.float32)
    ties = ties[np.isfinite(ties)]
    between = ties[:-1] + (ties[1:] - ties[:-1]) / 2
    upstream = np.concatenate([np.exp2(exponents).astype(np.float32), ties, between])
    p = np.ones((upstream.size, 1), half)
    p[::3] = -1
    loss = fastloss.MeanAbsoluteError(reduction=None)
    _, gradient = loss.value_and_grad(np.zeros_like(p), p, upstream=upstream)
    with np.errstate(over="ignore"):
        expected = flushed(upstream * np.sign(p[:, 0].astype(np.float32))).astype(half)
    assert same_bits(gradient[:, 0], expected)


@halves
def test_mean_of_many_ones_is_one(half: Any) -> None:
    # In float16 itself the sum of 70,000 ones is infinite.
    ones = np.ones(70_000, half)
    assert fastloss.MeanSquaredError()(np.zeros_like(ones), ones) == 1.0


@halves
@pytest.mark.parametrize(
    "name",
    ["BinaryCrossentropy", "CategoricalCrossentropy", "KLDivergence", "BinaryFocalCrossentropy"],
)
def test_exact_zeros_and_ones_are_finite(name: str, half: Any) -> None:
    p = np.array([[0, 1], [1, 0], [1, 0]], half)
    t = np.array([[0, 1], [0, 1], [1, 0]], half)
    value, gradient = getattr(fastloss, name)().value_and_grad(t, p)
    assert np.isfinite(value)
    assert np.isfinite(gradient.astype(np.float32)).all()


@halves
def test_layouts_out_and_weights_may_be_half(half: Any, rng: Any) -> None:
    t, p = (rng.normal(size=(9, 8)).astype(half) for _ in range(2))
    w = rng.uniform(0.5, 2, 9).astype(half)
    loss = fastloss.Huber()
    value, expected = loss.value_and_grad(t, p, sample_weight=w)
    wide_value, _ = loss.value_and_grad(
        t.astype(np.float32), p.astype(np.float32), sample_weight=w.astype(np.float32)
    )
    assert value == wide_value
    large = np.zeros((18, 24), half)
    strided = large[::2, ::-3]
    strided[...] = p
    out = np.zeros((8, 9), half).T
    _, again = loss.value_and_grad(t.T.copy().T, strided, sample_weight=w, out=out)
    assert again is out
    assert same_bits(out, expected)
    loss.value_and_grad(t, p, sample_weight=w, out=p)
    assert same_bits(p, expected)


@halves
def test_labels_never_pass_through_a_half(half: Any) -> None:
    # 257 is 256 in bfloat16, and 2049 is 2048 in float16.
    for label in (257, 2049):
        logits = np.zeros((1, 2050), half)
        logits[0, label] = 20
        loss = fastloss.SparseCategoricalCrossentropy(from_logits=True)
        value, gradient = loss.value_and_grad(np.array([label]), logits)
        assert value < 1e-4
        assert (gradient[0].astype(np.float32) < 0).sum() == 1


def test_dtype_of_a_loss_may_be_half() -> None:
    t, p = np.zeros((2, 3)), np.full((2, 3), 1.001)
    for name in ("float16", "bfloat16"):
        _, gradient = fastloss.MeanSquaredError(dtype=name).value_and_grad(t, p)
        assert gradient.dtype.name == name
