"""The preallocated gradient: any writable array, an input itself included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss
from cases import SPECS, by_sample, cases, describe, draw, dtypes, losses, make, resolved, same_bits
from fastloss._registry import LossSpec

SHAPES = [(5, 7), (3, 5000), (3000, 3)]


def per_sample(spec: LossSpec, options: dict[str, Any], shape: Any) -> dict[str, Any]:
    return resolved(spec, by_sample(spec) | options, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@cases
def test_out_is_filled_and_returned(
    spec: LossSpec, options: dict[str, Any], shape: Any, rng: Any
) -> None:
    options = per_sample(spec, options, shape)
    t, p = draw(spec, options, shape, np.float32, rng)
    expected = make(spec, options).value_and_grad(t, p)
    out = np.full(shape, np.nan, np.float32)
    value, gradient = make(spec, options).value_and_grad(t, p, out=out)
    assert gradient is out
    assert value == expected[0]
    assert same_bits(out, expected[1])


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@cases
def test_gradient_may_replace_the_predictions(
    spec: LossSpec, options: dict[str, Any], shape: Any, dtype: Any, rng: Any
) -> None:
    options = per_sample(spec, options, shape)
    t, p = draw(spec, options, shape, dtype, rng)
    before = t.copy()
    expected = make(spec, options).value_and_grad(t, p)
    value, gradient = make(spec, options).value_and_grad(t, p, out=p)
    assert gradient is p
    assert value == expected[0]
    assert same_bits(p, expected[1])
    assert same_bits(t, before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", [s for s in SPECS if s.labels == "dense"], ids=describe)
def test_gradient_may_replace_the_targets(spec: LossSpec, shape: Any, rng: Any) -> None:
    options = per_sample(spec, {}, shape)
    t, p = draw(spec, options, shape, np.float64, rng)
    before = p.copy()
    expected = make(spec, options).value_and_grad(t, p)
    value, _ = make(spec, options).value_and_grad(t, p, out=t)
    assert value == expected[0]
    assert same_bits(t, expected[1])
    assert same_bits(p, before)


@pytest.mark.parametrize("shift", [1, -1, 3])
@losses
def test_out_may_overlap_the_predictions_shifted(spec: LossSpec, shift: int, rng: Any) -> None:
    options = per_sample(spec, {}, (40, 70))
    t, p = draw(spec, options, (40, 70), np.float64, rng)
    expected = make(spec, options).value_and_grad(t, p)
    memory = np.empty(40 * 70 + 6)
    inner = memory[3:-3].reshape(40, 70)
    inner[...] = p
    out = memory[3 + shift : len(memory) - 3 + shift].reshape(40, 70)
    value, _ = make(spec, options).value_and_grad(t, inner, out=out)
    assert value == expected[0]
    assert same_bits(out, expected[1])


@losses
def test_out_may_be_the_predictions_reversed(spec: LossSpec, rng: Any) -> None:
    options = per_sample(spec, {}, (30, 20))
    t, p = draw(spec, options, (30, 20), np.float64, rng)
    expected = make(spec, options).value_and_grad(t, p)[1]
    out = p[::-1, ::-1]
    make(spec, options).value_and_grad(t, p, out=out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("argument", ["sample_weight", "upstream"])
def test_out_may_overlap_a_factor(argument: str, rng: Any) -> None:
    t, p = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    out = np.abs(rng.normal(size=(4, 4)))
    factor = out[0]
    loss = fastloss.MeanSquaredError(reduction=None)
    expected = loss.value_and_grad(t, p, **{argument: factor.copy()})
    value, gradient = loss.value_and_grad(t, p, out=out, **{argument: factor})
    assert same_bits(value, expected[0])
    assert same_bits(gradient, expected[1])


@losses
def test_out_may_be_strided_and_only_its_own_elements_are_written(spec: LossSpec, rng: Any) -> None:
    options = per_sample(spec, {}, (9, 5))
    t, p = draw(spec, options, (9, 5), np.float32, rng)
    expected = make(spec, options).value_and_grad(t, p)[1]
    memory = np.full((20, 13), 5.0, np.float32)
    out = memory[1:19:2, 11:1:-2]
    make(spec, options).value_and_grad(t, p, out=out)
    np.testing.assert_array_equal(out, expected)
    untouched = np.ones_like(memory, bool)
    untouched[1:19:2, 11:1:-2] = False
    assert (memory[untouched] == 5).all()


@losses
def test_out_may_be_transposed_or_unaligned(spec: LossSpec, rng: Any) -> None:
    options = per_sample(spec, {}, (9, 5))
    t, p = draw(spec, options, (9, 5), np.float64, rng)
    expected = make(spec, options).value_and_grad(t, p)[1]
    unaligned = np.empty(9 * 5 * 8 + 1, np.uint8)[1:].view(np.float64).reshape(9, 5)
    for out in (np.empty((5, 9)).T, unaligned):
        make(spec, options).value_and_grad(t, p, out=out)
        np.testing.assert_array_equal(out, expected)


def test_out_has_the_given_shape_of_predictions_whose_rank_was_adjusted(rng: Any) -> None:
    t, p = rng.normal(size=(6, 4)), rng.normal(size=(6, 4, 1))
    expected = fastloss.MeanSquaredError().value_and_grad(t, p)[1]
    for out in (np.empty((6, 4, 1)), np.empty((6, 4, 2))[..., :1], p):
        assert fastloss.MeanSquaredError().value_and_grad(t, p.copy(), out=out)[1] is out
        assert same_bits(out, expected)


@losses
def test_fully_masked_rows_of_out_are_written_too(spec: LossSpec, rng: Any) -> None:
    options = per_sample(spec, {}, (4, 6))
    t, p = draw(spec, options, (4, 6), np.float64, rng)
    out = np.full((4, 6), np.nan)
    make(spec, options).value_and_grad(t, p, mask=[True, False, True, False], out=out)
    assert not out[1::2].any()
    assert np.isfinite(out).all()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (3, 0, 2, 4)], ids=str)
@losses
def test_out_of_an_empty_batch_is_returned(spec: LossSpec, shape: Any) -> None:
    p = np.zeros(shape)
    t = np.zeros(shape[:-1], int) if spec.labels == "integer" else np.zeros(shape)
    out = np.zeros(shape)  # NumPy gives the axes of an empty array strides of zero
    loss = make(spec, by_sample(spec))
    assert loss.value_and_grad(t, p, out=out)[1] is out


def test_out_of_an_empty_batch_of_a_loss_of_batches_is_returned() -> None:
    out = np.zeros((0, 3))
    assert fastloss.Circle().value_and_grad(np.zeros(0, int), out.copy(), out=out)[1] is out
    for shape in [(0, 4, 3), (2, 0, 3)]:
        out = np.zeros(shape)
        labels = np.zeros((shape[0], 0), int)
        assert fastloss.CTC().value_and_grad(labels, out.copy(), out=out)[1] is out
