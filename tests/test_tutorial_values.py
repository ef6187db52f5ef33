"""Numbers that textbooks and documentation print, and the corners of the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss
from cases import DTYPES

close = {np.float32: 2e-7, np.float64: 1e-15}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)


@pytest.mark.parametrize(
    ("name", "t", "p", "value"),
    [
        ("mae", [1.0, 0.0], [2.0, 3.0], 2.0),
        ("mse", [1.0, 0.0], [2.0, 3.0], 5.0),
        ("mse", [1.0, 2.0, 3.0], [1.1, 2.2, 3.3], 0.14 / 3),
        ("mae", [1.0, 2.0, 3.0], [1.1, 2.2, 3.3], 0.2),
        ("mape", [2.0, 4.0], [1.0, 5.0], 37.5),
        ("mape", [0.0], [1.0], 1e9),
        ("huber", [[0.0, 1.0], [0.0, 0.0]], [[0.6, 0.4], [0.4, 0.6]], 0.155),
        ("hinge", [[0.0, 1.0], [0.0, 0.0]], [[0.6, 0.4], [0.4, 0.6]], 1.3),
        ("squared_hinge", [[0.0, 1.0], [0.0, 0.0]], [[0.6, 0.4], [0.4, 0.6]], 1.86),
        ("categorical_hinge", [[0.0, 1.0], [0.0, 0.0]], [[0.6, 0.4], [0.4, 0.6]], 1.4),
        ("poisson", [[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]], 0.5 - 0.25e-7),
    ],
)
def test_documented_value(name: str, t: Any, p: Any, value: float) -> None:
    assert fastloss.get(name)(np.array(t), np.array(p)) == pytest.approx(value, rel=1e-9)


@dtypes
def test_crossentropy_of_three_classes_in_both_label_encodings(dtype: Any) -> None:
    p = np.array([[0.15, 0.75, 0.1], [0.75, 0.15, 0.1]], dtype)
    one_hot = fastloss.CategoricalCrossentropy()([[0, 1, 0], [1, 0, 0]], p)
    sparse = fastloss.SparseCategoricalCrossentropy()([1, 0], p)
    assert one_hot == pytest.approx(-np.log(0.75), rel=close[dtype])
    assert sparse == pytest.approx(-np.log(0.75), rel=close[dtype])


def test_binary_crossentropy_at_the_clip_of_float32() -> None:
    loss = fastloss.BinaryCrossentropy()
    ones, zeros = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    value, gradient = loss.value_and_grad(zeros, ones)
    assert value == pytest.approx(15.942385, abs=1e-5)
    assert gradient == 0
    value, gradient = loss.value_and_grad(ones, zeros)
    assert value == pytest.approx(16.118095, abs=1e-5)
    assert gradient == 0
    for right in (ones, zeros):
        assert loss(right, right) == pytest.approx(1.19e-7, rel=0.2)


@pytest.mark.parametrize("outside", [-1.0, -1e-9, 5e-8, 1 - 5e-8, 1.5])
def test_clip_of_probabilities_stops_the_gradient(outside: float) -> None:
    p = np.array([[outside]])
    for loss in (fastloss.BinaryCrossentropy(), fastloss.KLDivergence()):
        if loss.name == "kl_divergence" and 0.5 < outside < 1:
            continue
        assert loss.value_and_grad([[0.5]], p)[1] == 0
    inside = fastloss.BinaryCrossentropy().value_and_grad([[0.5]], np.array([[2e-7]]))[1]
    assert inside < -1e6


def test_kl_divergence_clip_stops_the_gradient_of_the_target() -> None:
    for outside in (0.0, 5e-8, 1.5):
        by_true = fastloss.KLDivergence().value_and_grad([[outside]], [[0.5]], wrt="y_true")[1]
        assert by_true == 0


def test_squared_logarithmic_error_is_flat_below_epsilon() -> None:
    value, gradient = fastloss.MeanSquaredLogarithmicError().value_and_grad([[1.0]], [[-3.0]])
    assert value == pytest.approx((np.log(2) - np.log1p(1e-7)) ** 2)
    assert gradient == 0


def test_absolute_error_has_slope_zero_at_zero() -> None:
    gradient = fastloss.MeanAbsoluteError().value_and_grad([[1.0, 1.0]], [[1.0, 2.0]])[1]
    np.testing.assert_array_equal(gradient, [[0, 0.5]])


@dtypes
def test_huber_is_continuous_where_it_turns_linear(dtype: Any) -> None:
    at = np.array([[2.0]], dtype)
    past = np.nextafter(at, dtype(3))
    loss = fastloss.Huber(delta=2.0)
    value, slope = loss.value_and_grad(np.zeros_like(at), at)
    assert value == 2.0
    assert slope == 2.0
    value, slope = loss.value_and_grad(np.zeros_like(at), past)
    assert value == pytest.approx(2.0, rel=4 * float(np.finfo(dtype).eps))
    assert slope == 2.0


def test_hinge_slope_at_the_tie_is_that_of_the_margin() -> None:
    gradient = fastloss.Hinge().value_and_grad([[1.0, -1.0]], [[1.0, -1.0]])[1]
    np.testing.assert_array_equal(gradient, [[-0.5, 0.5]])


def test_categorical_hinge_shares_the_slope_of_a_tie() -> None:
    t, p = np.array([[0.0, 0.0, 1.0]]), np.array([[0.5, 0.5, 0.2]])
    value, gradient = fastloss.CategoricalHinge().value_and_grad(t, p)
    assert value == pytest.approx(1.3)
    np.testing.assert_array_equal(gradient, [[0.5, 0.5, -1.0]])


def test_categorical_hinge_counts_the_zero_of_the_true_class() -> None:
    value = fastloss.CategoricalHinge()([[0.0, 1.0]], [[-5.0, 0.25]])
    assert value == 0.75


@pytest.mark.parametrize("loss", [fastloss.Dice(), fastloss.Tversky()], ids=repr)
def test_overlap_of_empty_regions_is_one(loss: fastloss.Loss) -> None:
    empty = np.zeros((2, 3))
    value, gradient = loss.value_and_grad(empty, empty)
    assert value == 1
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [fastloss.Dice(smooth=1.0), fastloss.IoU()], ids=repr)
def test_smoothing_makes_empty_regions_agree(loss: fastloss.Loss) -> None:
    assert loss(np.zeros((2, 3)), np.zeros((2, 3))) == 0


def test_overlap_of_everything_includes_the_batch() -> None:
    t = np.array([[[[1.0], [1.0]], [[0.0], [0.0]]]] * 2)
    p = np.array([[[[0.0], [1.0]], [[0.0], [1.0]]], [[[0.4], [0.0]], [[0.0], [0.9]]]])
    values = fastloss.dice(t, p, axis=(1, 2, 3))
    np.testing.assert_allclose(values, [0.5, 0.75757575], rtol=1e-7)
    assert fastloss.dice(t, p) == pytest.approx(0.6164384, rel=1e-6)


def test_tversky_weighs_missed_by_alpha_and_added_by_beta() -> None:
    t, p = np.array([[1.0, 1.0, 0.0]]), np.array([[1.0, 0.0, 0.0]])
    assert fastloss.Tversky(alpha=1.0, beta=0.0)(t, p) == pytest.approx(0.5)
    assert fastloss.Tversky(alpha=0.0, beta=1.0)(t, p) == pytest.approx(0.0, abs=1e-6)


@dtypes
def test_cosine_of_parallel_vectors_is_minus_one_and_of_a_zero_vector_zero(dtype: Any) -> None:
    x = np.array([[3.0, 4.0]], dtype)
    assert fastloss.CosineSimilarity()(x, x) == pytest.approx(-1, rel=close[dtype])
    assert fastloss.CosineSimilarity()(x, -2 * x) == pytest.approx(1, rel=close[dtype])
    value, (by_pred, by_true) = fastloss.CosineSimilarity().value_and_grad(x, 0 * x, wrt="both")
    assert value == 0
    assert np.isfinite(by_pred).all()
    assert np.isfinite(by_true).all()


def test_class_axis_of_one_warns() -> None:
    with pytest.warns(SyntaxWarning, match="more than one class"):
        fastloss.CategoricalCrossentropy()([[1.0]], [[0.5]])
    with pytest.warns(SyntaxWarning, match="more than one class"):
        fastloss.CategoricalFocalCrossentropy()([[1.0]], [[0.5]])
