"""What has no weight contributes exactly zero, whatever stands there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss
from cases import SPECS, by_sample, cases, describe, draw, dtypes, losses, make, resolved, same_bits
from fastloss._registry import LossSpec

BAD = [np.nan, np.inf, -np.inf]


@dtypes
@pytest.mark.parametrize("hidden_by", ["sample_weight", "mask"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_with_sample_weight", None])
@cases
def test_zero_weight_hides_nan_and_infinity(
    spec: LossSpec, options: dict[str, Any], reduction: Any, hidden_by: str, dtype: Any, rng: Any
) -> None:
    options = resolved(spec, options | by_sample(spec), (6, 5))
    t, p = draw(spec, options, (6, 5), dtype, rng)
    weight = np.array([1, 0, 1, 1, 0, 0])
    loss = make(spec, options, reduction=reduction)
    clean_value, clean_gradient = loss.value_and_grad(t, p, **{hidden_by: weight})
    for row, bad in zip((1, 4, 5), BAD, strict=True):
        p[row] = bad
        if spec.labels == "dense":
            t[row] = bad
    if spec.name in ("hinge", "squared_hinge"):
        t[0, 0] = -1  # keeps the label rule's answer the same: it looks at every label of the call
    value, gradient = loss.value_and_grad(t, p, **{hidden_by: weight})
    assert not gradient[weight == 0].any()
    if spec.name not in ("hinge", "squared_hinge"):
        assert same_bits(value, clean_value)
        assert same_bits(gradient, clean_gradient)
    assert np.isfinite(value).all()


@dtypes
@pytest.mark.parametrize("hidden_by", ["sample_weight", "mask"])
@pytest.mark.parametrize("spec", [s for s in SPECS if s.kind == "map"], ids=describe)
def test_zero_element_weight_hides_nan_and_infinity(
    spec: LossSpec, hidden_by: str, dtype: Any, rng: Any
) -> None:
    t, p = draw(spec, {}, (60, 50), dtype, rng)
    weight = (rng.random((60, 50)) < 0.5).astype(dtype)
    p[weight == 0] = rng.choice(BAD, int((weight == 0).sum()))
    loss = make(spec, {})
    for wrt in ("y_pred", "y_true") if spec.uses_target else ("y_pred",):
        value, gradient = loss.value_and_grad(t, p, wrt=wrt, **{hidden_by: weight})
        assert np.isfinite(value)
        assert not gradient[weight == 0].any()
        assert gradient[weight == 1].any()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_with_sample_weight", None])
@losses
def test_mask_hides_what_the_weight_is(
    spec: LossSpec, reduction: Any, bad: float, rng: Any
) -> None:
    t, p = draw(spec, by_sample(spec), (4, 3), np.float64, rng)
    loss = make(spec, by_sample(spec), reduction=reduction)
    mask = np.array([True, False, True, True])
    clean = loss.value_and_grad(t, p, sample_weight=np.array([1.0, 1, 2, 3]), mask=mask)
    by_row = np.array([1.0, bad, 2, 3])
    by_element = np.repeat(by_row[:, None], 3, axis=1)
    for weight in (by_row, by_element) if spec.kind == "map" else (by_row,):
        value, gradient = loss.value_and_grad(t, p, sample_weight=weight, mask=mask)
        np.testing.assert_allclose(value, clean[0], rtol=1e-15)
        np.testing.assert_allclose(gradient, clean[1], rtol=1e-15)


@pytest.mark.parametrize("bad", BAD)
@losses
def test_zero_weight_hides_what_the_upstream_is(spec: LossSpec, bad: float, rng: Any) -> None:
    t, p = draw(spec, by_sample(spec), (4, 3), np.float64, rng)
    loss = make(spec, by_sample(spec), reduction=None)
    upstream = np.array([1.0, bad, 2.0, 3.0])
    gradient = loss.value_and_grad(t, p, sample_weight=[1, 0, 1, 1], upstream=upstream)[1]
    assert not gradient[1].any()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_with_sample_weight", None])
def test_ignored_class_hides_nan(reduction: Any) -> None:
    p = np.array([[0.5, 0.5], [np.nan, np.inf], [0.25, 0.75]])
    loss = fastloss.SparseCategoricalCrossentropy(ignore_class=7, reduction=reduction)
    value, gradient = loss.value_and_grad([0, 7, 1], p)
    assert np.isfinite(value).all()
    assert not gradient[1].any()
    assert gradient[[0, 2]].any(axis=1).all()


@pytest.mark.parametrize("hidden_by", ["sample_weight", "mask"])
@pytest.mark.parametrize("label", [-1, 99, 2**40, -(2**62)])
@pytest.mark.parametrize("spec", [s for s in SPECS if s.labels == "integer"], ids=describe)
def test_row_without_weight_may_hold_any_label(spec: LossSpec, label: int, hidden_by: str) -> None:
    p = np.full((3, 4), 0.25)
    loss = make(spec, {})
    weight = [1, 0, 1]
    value, gradient = loss.value_and_grad([0, label, 3], p, **{hidden_by: weight})
    clean, _ = loss.value_and_grad([0, 1, 3], p, **{hidden_by: weight})
    assert value == clean
    assert not gradient[1].any()


@pytest.mark.parametrize("hidden_by", ["sample_weight", "mask"])
@pytest.mark.parametrize("label", [np.nan, np.inf, 1.5])
@pytest.mark.parametrize("spec", [s for s in SPECS if s.labels == "integer"], ids=describe)
def test_row_without_weight_may_hold_any_float_label(
    spec: LossSpec, label: float, hidden_by: str
) -> None:
    weight = {hidden_by: [1, 0, 1]}
    value = make(spec, {})(np.array([0, label, 3]), np.full((3, 4), 0.25), **weight)
    assert value == make(spec, {})([0, 1, 3], np.full((3, 4), 0.25), **weight)


@losses
def test_nan_prediction_that_counts_reaches_the_value(spec: LossSpec, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (6, 5), np.float64, rng)
    p[2] = np.nan
    values = make(spec, options, reduction=None)(t, p)
    np.testing.assert_array_equal(np.isnan(values), np.arange(6) == 2)
    assert np.isnan(make(spec, options)(t, p))


@losses
def test_one_nan_among_the_columns_reaches_the_value(spec: LossSpec, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (1, 5000), np.float32, rng)
    if spec.labels == "integer":
        t[0] = 4321
    p[0, 4321] = np.nan
    assert np.isnan(make(spec, options)(t, p))


@pytest.mark.parametrize("from_logits", [False, True])
def test_nan_beside_the_label_makes_a_softmax_nan(from_logits: bool) -> None:
    p = np.array([[0.5, np.nan, 0.5]])
    value = fastloss.sparse_categorical_crossentropy([0], p, from_logits=from_logits)
    assert np.isnan(value).all()
