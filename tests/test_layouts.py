"""Arrays of any memory layout: the same bits as their contiguous copies, and inputs untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import by_sample, cases, draw, dtypes, losses, make, resolved, same_bits
from fastloss._registry import LossSpec
from oracle import Array

# The second has axes that only their strides tell apart.
SHAPES = [(6, 10, 8), (5, 5, 5)]


def every_other(a: Array) -> Array:
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 77, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def reversed_in_memory(a: Array) -> Array:
    backwards = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[backwards])[backwards]


def transposed(a: Array) -> Array:
    return np.ascontiguousarray(a.T).T


def swapped(a: Array) -> Array:
    """The last two axes exchanged in memory: neither C nor Fortran order in three dimensions."""
    return np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2) if a.ndim > 1 else a


def read_only(a: Array) -> Array:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def unaligned(a: Array) -> Array:
    raw = np.empty(a.nbytes + 1, np.uint8)
    copy = raw[1:].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def big_endian(a: Array) -> Array:
    return a.astype(a.dtype.newbyteorder(">"))


def padded_rows(a: Array) -> Array:
    wide = np.full((*a.shape[:-1], a.shape[-1] + 3), 77, a.dtype)
    wide[..., :-3] = a
    return wide[..., :-3]


LAYOUTS: list[Callable[[Array], Array]] = [
    every_other, reversed_in_memory, transposed, swapped, np.asfortranarray, read_only, unaligned,
    big_endian, padded_rows,
]  # fmt: skip


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@losses
def test_layout_does_not_change_a_bit(
    spec: LossSpec, layout: Callable[[Array], Array], shape: Any, dtype: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, shape, dtype, rng)
    weight = rng.uniform(0.5, 2, shape[:-1])
    mask = rng.random(shape[:-1]) < 0.7
    loss = make(spec, options)
    wrt = "y_pred" if spec.labels == "integer" else "both"
    expected = loss.value_and_grad(t, p, sample_weight=weight, mask=mask, wrt=wrt)
    arrays = [layout(a) for a in (t, p, weight, mask)]
    copies = [a.copy() for a in arrays]
    value, gradient = loss.value_and_grad(
        *arrays[:2], sample_weight=arrays[2], mask=arrays[3], wrt=wrt
    )
    assert value == expected[0]
    assert value.dtype == np.dtype(dtype)
    pairs = (
        [(gradient, expected[1])] if wrt == "y_pred" else zip(gradient, expected[1], strict=True)
    )
    for ours, theirs in pairs:
        assert same_bits(ours, theirs)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(3, 5000), (3000, 3)], ids=str)
@losses
def test_layout_does_not_change_a_bit_of_many_blocks(
    spec: LossSpec, shape: Any, layout: Callable[[Array], Array], dtype: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, shape, dtype, rng)
    loss = make(spec, options, reduction=None)
    expected = loss.value_and_grad(t, p)
    value, gradient = loss.value_and_grad(layout(t), layout(p))
    assert same_bits(value, expected[0])
    assert same_bits(gradient, expected[1])


@losses
def test_broadcast_inputs_are_read_through_their_zero_strides(spec: LossSpec, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (1, 8), np.float64, rng)
    many_t, many_p = np.broadcast_to(t, (50, *t.shape[1:])), np.broadcast_to(p, (50, 8))
    loss = make(spec, options)
    value, gradient = loss.value_and_grad(many_t, many_p)
    dense_value, dense_gradient = loss.value_and_grad(many_t.copy(), many_p.copy())
    assert value == dense_value
    assert same_bits(gradient, dense_gradient)


@losses
def test_scalars_broadcast_as_targets_of_one_number(spec: LossSpec, rng: Any) -> None:
    options = by_sample(spec)
    _, p = draw(spec, options, (4, 8), np.float32, rng)
    rows = (4,) if spec.labels == "integer" else (4, 8)
    loss = make(spec, options)
    assert loss(np.broadcast_to(1, rows), p) == loss(np.ones(rows), p)


@dtypes
@cases
def test_empty_batch_gives_empty_values(
    spec: LossSpec, options: dict[str, Any], dtype: Any
) -> None:
    options = resolved(spec, by_sample(spec) | options, (0, 4))
    t = np.zeros((0,) if spec.labels == "integer" else (0, 4), dtype)
    for reduction in ("sum_over_batch_size", "sum", "mean_with_sample_weight", None):
        loss = make(spec, options, reduction=reduction)
        value, gradient = loss.value_and_grad(t, np.zeros((0, 4), dtype))
        assert value.shape == (0,)
        assert gradient.shape == (0, 4)
        assert value.dtype == gradient.dtype == np.dtype(dtype)


@losses
def test_empty_batch_of_sequences_reduces_to_zero(spec: LossSpec) -> None:
    options = by_sample(spec)
    t = np.zeros((0, 3) if spec.labels == "integer" else (0, 3, 4))
    assert make(spec, options)(t, np.zeros((0, 3, 4))) == 0
    assert make(spec, options, reduction=None)(t, np.zeros((0, 3, 4))).shape == (0, 3)


@pytest.mark.parametrize(
    ("true", "pred", "values"),
    [
        ((5,), (5, 1), (5,)),
        ((5, 1), (5,), (5,)),
        ((4, 5), (4, 5, 1), (4,)),
        ((4, 5, 1), (4, 5), (4,)),
    ],
    ids=str,
)
def test_ranks_that_differ_by_a_last_dimension_of_one_fit(
    true: Any, pred: Any, values: Any, rng: Any
) -> None:
    t, p = rng.normal(size=true), rng.normal(size=pred)
    loss = fastloss.MeanSquaredError(reduction=None)
    value, (by_pred, by_true) = loss.value_and_grad(t, p, wrt="both")
    assert value.shape == values
    assert by_pred.shape == pred
    assert by_true.shape == true
    errors = (t.reshape(-1) - p.reshape(-1)) ** 2
    np.testing.assert_allclose(value.sum(), errors.reshape(values + (-1,)).mean(-1).sum())
    np.testing.assert_array_equal(by_pred.ravel(), -by_true.ravel())
