"""Weights, masks and reductions, against the oracle's losses composed by the contract's rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss
from cases import SPECS, assert_close, by_sample, describe, draw, dtypes, losses, make, value_shape
from composition import Call
from fastloss._evaluate import REDUCTIONS
from fastloss._registry import LossSpec

SHAPE = (4, 3, 6)

reductions = pytest.mark.parametrize("reduction", list(REDUCTIONS), ids=str)

WEIGHTINGS = [
    "none", "sample", "value", "element", "sample mask", "value mask", "element mask",
    "sample and value mask", "value and element mask", "element and sample mask", "trailing one",
    "number", "batch of one",
]  # fmt: skip


def weighting(
    which: str, values: tuple[int, ...], shape: tuple[int, ...], rng: np.random.Generator
) -> dict[str, Any]:
    """sample_weight and mask of the kind that a name describes."""

    def mask_of(size: tuple[int, ...]) -> Any:
        return rng.random(size) < 0.6

    shapes = {"sample": values[:1], "value": values, "element": shape}
    if which == "none":
        return {}
    if which == "trailing one":
        return {"sample_weight": rng.uniform(0, 2, (*values, 1))}
    if which == "number":
        return {"sample_weight": 1.75}
    if which == "batch of one":
        return {"sample_weight": rng.uniform(0, 2, (1, *values[1:]))}
    if " and " in which:
        weight, mask = which.removesuffix(" mask").split(" and ")
        weights = np.where(mask_of(shapes[weight]), rng.uniform(0, 2, shapes[weight]), 0)
        return {"sample_weight": weights, "mask": mask_of(shapes[mask])}
    if which.endswith(" mask"):
        return {"mask": mask_of(shapes[which.removesuffix(" mask")])}
    return {"sample_weight": rng.uniform(0, 2, shapes[which])}


def oracle_view(given: dict[str, Any], values: tuple[int, ...]) -> dict[str, Any]:
    """The same with a trailing 1 taken off: the rank rule, which the composition does not hold."""
    weight = given.get("sample_weight")
    if np.ndim(weight) == len(values) + 1 and np.shape(weight)[-1] == 1:
        return given | {"sample_weight": weight[..., 0]}
    return given


@dtypes
@reductions
@pytest.mark.parametrize(
    ("spec", "which"),
    # Only elementwise losses take weights per element.
    [(s, w) for s in SPECS for w in WEIGHTINGS if s.kind == "map" or "element" not in w],
    ids=describe,
)
def test_weighted_reduction_is_composed_from_the_losses(
    spec: LossSpec, which: str, reduction: str | None, dtype: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, SHAPE, dtype, rng)
    values = value_shape(spec, options, SHAPE)
    given = weighting(which, values, SHAPE, rng)
    call = Call(spec, t, p, options, reduction, **oracle_view(given, values))
    loss = make(spec, options, reduction=reduction)
    value, gradient = loss.value_and_grad(t, p, **given)
    assert_close(value, call.value(), dtype, factor=2, scale=call.value_scale())
    assert_close(gradient, call.gradient("y_pred"), dtype, factor=2)
    if spec.labels == "dense":
        gradient = loss.value_and_grad(t, p, wrt="y_true", **given)[1]
        assert_close(gradient, call.gradient("y_true"), dtype, factor=2)


@reductions
@pytest.mark.parametrize("which", ["none", "sample", "sample mask"])
@pytest.mark.parametrize("ignore_class", [0, 5, -1])
def test_ignored_class_drops_out_of_every_reduction(
    ignore_class: int, which: str, reduction: str | None, rng: Any
) -> None:
    spec = fastloss.SparseCategoricalCrossentropy.spec
    options = {"ignore_class": ignore_class}
    t, p = draw(spec, options, (40, 6), np.float64, rng)
    t[::5] = ignore_class
    given = weighting(which, (40,), (40, 6), rng)
    call = Call(spec, t, p, options, reduction, **given)
    value, gradient = make(spec, options, reduction=reduction).value_and_grad(t, p, **given)
    assert_close(value, call.value(), np.float64)
    assert_close(gradient, call.gradient("y_pred"), np.float64)
    assert not gradient[::5].any()


@reductions
@losses
def test_a_single_value_comes_back_unreduced(
    spec: LossSpec, reduction: str | None, rng: Any
) -> None:
    t, p = draw(spec, {}, (9,), np.float64, rng)
    value = make(spec, {}, reduction=reduction)(t, p)
    assert np.shape(value) == ()
    assert value == getattr(fastloss, spec.name)(t, p)


@reductions
@losses
def test_everything_masked_gives_zero(spec: LossSpec, reduction: str | None, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (5, 4), np.float32, rng)
    loss = make(spec, options, reduction=reduction)
    value, gradient = loss.value_and_grad(t, p, mask=np.zeros(5, bool))
    assert not np.any(value)
    assert not gradient.any()


@losses
def test_mask_may_hold_numbers(spec: LossSpec, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (5, 4), np.float64, rng)
    loss = make(spec, options)
    numbers = np.array([0, 2, 0.5, 0, -1])
    assert loss(t, p, mask=numbers) == loss(t, p, mask=numbers != 0)


def test_weight_that_begins_the_values_weighs_samples_even_where_it_fits_the_end() -> None:
    # Trailing-axis broadcasting would weigh time steps when there are as many as samples.
    t, p = np.zeros((2, 2, 1)), np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    loss = fastloss.MeanAbsoluteError(reduction="none")
    np.testing.assert_array_equal(loss(t, p, sample_weight=[1, 10]), [[1, 2], [30, 40]])


def test_mean_with_sample_weight_divides_by_the_weights_as_they_were_spread() -> None:
    loss = fastloss.MeanAbsoluteError(reduction="mean_with_sample_weight")
    weight = np.array([[1.0], [2.0], [3.0]])
    assert loss(np.zeros((3, 4, 1)), np.ones((3, 4, 1)), sample_weight=weight) == 1.0


def test_mask_divides_by_what_counts_and_weight_by_everything() -> None:
    t, p = np.zeros((4, 1)), np.array([[1.0], [2.0], [3.0], [4.0]])
    loss = fastloss.MeanAbsoluteError()
    counts = [True, True, False, False]
    assert loss(t, p, mask=counts) == 1.5
    assert loss(t, p, sample_weight=counts) == 0.75
    assert loss(t, p, sample_weight=[2, 2, 2, 2], mask=counts) == 3.0


def test_mask_of_elements_divides_by_what_counts_in_a_single_value_too() -> None:
    mask = np.array([True, True, False, False])
    loss = fastloss.MeanAbsoluteError()
    errors = np.array([1.0, 2.0, 4.0, 8.0])
    assert loss(np.zeros((1, 4)), errors[None], mask=mask[None]) == 1.5
    assert loss(np.zeros(4), errors, mask=mask) == 1.5


def test_weights_of_elements_divide_their_weighted_mean_in_a_single_value_too() -> None:
    loss = fastloss.MeanAbsoluteError(reduction="mean_with_sample_weight")
    weight, errors = np.array([1.0, 3.0]), np.array([2.0, 4.0])
    assert loss(np.zeros((1, 2)), errors[None], sample_weight=weight[None]) == 3.5
    assert loss(np.zeros(2), errors, sample_weight=weight) == 3.5


@dtypes
@pytest.mark.parametrize("shape", [(70000, 2), (3, 32000)], ids=str)
@losses
def test_weighted_mean_over_many_blocks(
    spec: LossSpec, shape: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, shape, dtype, rng)
    given = weighting("sample and value mask", shape[:1], shape, rng)
    given["mask"][0] = True
    for reduction in ("mean", "mean_with_sample_weight"):
        call = Call(spec, t, p, options, reduction, **given)
        value = make(spec, options, reduction=reduction)(t, p, **given)
        assert_close(value, call.value(), dtype, scale=call.value_scale())


def test_mean_of_many_equal_losses_is_exact() -> None:
    ones = np.ones((1_000_003, 1), np.float32)
    assert fastloss.MeanAbsoluteError()(np.zeros_like(ones), ones) == 1.0


@pytest.mark.parametrize("cols", [1, 3, 300, 5000])
def test_rows_have_weights_and_upstream_of_their_own(cols: int) -> None:
    rng = np.random.default_rng(cols)
    t, p = rng.normal(size=(2, 7, cols))
    weight, upstream = rng.uniform(1, 2, (2, 7))
    weight[2], upstream[4], p[2] = 0, 0, np.nan
    loss = fastloss.MeanSquaredError(reduction=None)
    values, grad = loss.value_and_grad(t, p, sample_weight=weight, upstream=upstream)
    errors = np.where(weight[:, None] == 0, 0, p - t)
    np.testing.assert_allclose(values, weight * np.mean(errors**2, 1), rtol=1e-13)
    slopes = (2 / cols * weight * upstream)[:, None] * errors
    np.testing.assert_allclose(grad, slopes, rtol=1e-13)
    assert not grad[[2, 4]].any()
