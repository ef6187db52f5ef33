"""Values at the ends of the number range."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

import fastloss
from cases import DTYPES, SPECS, by_sample, describe, dtypes, flushes_results, losses, make
from fastloss._registry import LossSpec

LOGIT_LOSSES = [s for s in SPECS if any(p.name == "from_logits" for p in s.parameters)]
SUBNORMAL = {d: np.nextafter(d(0), d(1)) for d in DTYPES}


def ulps(actual: Any, exact: Any, dtype: Any) -> float:
    """The error in units of the dtype's precision at the exact value."""
    exact = mpmath.mpf(exact)
    if exact == 0:
        return 0.0 if actual == 0 else np.inf
    return float(abs(mpmath.mpf(float(actual)) - exact) / abs(exact) / float(np.finfo(dtype).eps))


def one(loss: fastloss.Loss, t: Any, p: Any, dtype: Any) -> tuple[float, float]:
    value, gradient = loss.value_and_grad(np.array([[t]], dtype), np.array([[p]], dtype))
    return value, gradient[0, 0]


# ---- Logits ----


@dtypes
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("logit", [0.0, 1e-30, 20.0, 40.0, 100.0, 745.0, 1e4, 1e30])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_binary_losses_are_finite_at_any_logit(
    target: float, logit: float, gamma: float, dtype: Any
) -> None:
    for z in (logit, -logit):
        for loss in (
            fastloss.BinaryCrossentropy(from_logits=True),
            fastloss.BinaryFocalCrossentropy(from_logits=True, gamma=gamma),
        ):
            for wrt in ("y_pred", "y_true"):
                value, gradient = loss.value_and_grad(
                    np.array([[target]], dtype), np.array([[z]], dtype), wrt=wrt
                )
                assert np.isfinite(value)
                assert np.isfinite(gradient).all()


@dtypes
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_focal_loss_has_a_slope_at_the_largest_logit(
    target: float, gamma: float, dtype: Any
) -> None:
    loss = fastloss.BinaryFocalCrossentropy(from_logits=True, gamma=gamma)
    for z in (np.finfo(dtype).max, np.finfo(dtype).min):
        value, slope = one(loss, target, z, dtype)
        assert np.isfinite(value)
        assert np.isfinite(slope)


@dtypes
@pytest.mark.parametrize("logit", [5.0, 17.0, 40.0, 90.0])
def test_binary_crossentropy_of_a_confident_logit_keeps_its_digits(
    logit: float, dtype: Any
) -> None:
    loss = fastloss.BinaryCrossentropy(from_logits=True)
    with mpmath.workdps(60):
        tail = mpmath.exp(-mpmath.mpf(logit))
        right, wrong = mpmath.log1p(tail), mpmath.mpf(logit) + mpmath.log1p(tail)
        slope = tail / (1 + tail)
        value, gradient = one(loss, 1, logit, dtype)
        if tail > np.finfo(dtype).tiny:
            assert ulps(value, right, dtype) < 4
            assert ulps(gradient, -slope, dtype) < 4
        value, gradient = one(loss, 0, logit, dtype)
        assert ulps(value, wrong, dtype) < 4
        assert ulps(gradient, 1 - slope, dtype) < 4


@dtypes
@pytest.mark.parametrize("logit", [5.0, 17.0, 30.0])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_a_confident_logit_keeps_its_digits(
    gamma: float, logit: float, dtype: Any
) -> None:
    loss = fastloss.BinaryFocalCrossentropy(from_logits=True, gamma=gamma)
    with mpmath.workdps(60):
        share = 1 / (1 + mpmath.exp(mpmath.mpf(logit)))
        right = share**gamma * -mpmath.log(1 - share)
        wrong = (1 - share) ** gamma * -mpmath.log(share)
        if right > np.finfo(dtype).tiny:
            assert ulps(one(loss, 1, logit, dtype)[0], right, dtype) < 16
        assert ulps(one(loss, 0, logit, dtype)[0], wrong, dtype) < 16


@dtypes
@pytest.mark.parametrize("logit", [30.0, 1e3, 1e4, 1e30])
@pytest.mark.parametrize("spec", [s for s in LOGIT_LOSSES if s.kind == "row"], ids=describe)
def test_softmax_losses_are_finite_at_any_logit(spec: LossSpec, logit: float, dtype: Any) -> None:
    p = np.array([[logit, 0, -logit], [logit, logit, 0], [-logit, -logit, -logit]], dtype)
    for label in range(3):
        t = np.full(3, label)
        given = t if spec.labels == "integer" else np.eye(3)[t]
        value, gradient = make(spec, {"from_logits": True}).value_and_grad(given, p)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@dtypes
@pytest.mark.parametrize("margin", [5.0, 17.0, 40.0, 80.0])
def test_softmax_crossentropy_of_a_confident_row_keeps_its_digits(
    margin: float, dtype: Any
) -> None:
    p = np.array([[margin, 0, 0]], dtype)
    dense = fastloss.CategoricalCrossentropy(from_logits=True).value_and_grad([[1, 0, 0]], p)
    sparse = fastloss.SparseCategoricalCrossentropy(from_logits=True).value_and_grad([0], p)
    with mpmath.workdps(60):
        tail = 2 * mpmath.exp(-mpmath.mpf(margin))
        for value, gradient in (dense, sparse):
            assert ulps(value, mpmath.log1p(tail), dtype) < 4
            assert ulps(gradient[0, 0], -tail / (1 + tail), dtype) < 4
            assert ulps(gradient[0, 1], tail / 2 / (1 + tail), dtype) < 4


@dtypes
@pytest.mark.parametrize("spec", [s for s in LOGIT_LOSSES if s.kind == "row"], ids=describe)
def test_class_with_logit_minus_infinity_is_left_out(spec: LossSpec, dtype: Any) -> None:
    loss = make(spec, {"from_logits": True})
    p = np.array([[0.3, -np.inf, 0.7]], dtype)
    t, short_t = ([2], [1]) if spec.labels == "integer" else ([[0.0, 0.0, 1.0]], [[0.0, 1.0]])
    value, gradient = loss.value_and_grad(t, p)
    short_value, short_gradient = loss.value_and_grad(short_t, p[:, [0, 2]])
    assert value == pytest.approx(short_value, rel=4 * float(np.finfo(dtype).eps))
    assert gradient[0, 1] == 0
    np.testing.assert_allclose(gradient[:, [0, 2]], short_gradient, rtol=4 * np.finfo(dtype).eps)


# ---- Probabilities ----


@dtypes
@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("spec", LOGIT_LOSSES, ids=describe)
def test_certain_probabilities_give_finite_losses(
    spec: LossSpec, gamma: float | None, dtype: Any
) -> None:
    has_gamma = any(p.name == "gamma" for p in spec.parameters)
    options = {"gamma": gamma} if has_gamma and gamma is not None else {}
    p = np.array([[0, 1], [1, 0], [SUBNORMAL[dtype], 1], [0.5, 0.5]], dtype)
    for label in (0, 1):
        t = np.full(4, label)
        given = t if spec.labels == "integer" else np.eye(2)[t]
        value, gradient = make(spec, options).value_and_grad(given, p)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@dtypes
@pytest.mark.parametrize("q", [0.01, 0.5, 0.99])
def test_generalized_crossentropy_of_an_impossible_class_is_finite(q: float, dtype: Any) -> None:
    loss = fastloss.CategoricalGeneralizedCrossEntropy(q=q)
    for p_label in (dtype(0), SUBNORMAL[dtype]):
        value, gradient = loss.value_and_grad([0], np.array([[p_label, 1]], dtype))
        assert value == pytest.approx((1 - float(p_label) ** q) / q, rel=1e-5)
        assert np.isfinite(gradient).all()
        assert gradient[0, 0] == pytest.approx(-(1e-7 ** (q - 1)), rel=1e-5)
    value, gradient = loss.value_and_grad([0], np.array([[1, 0]], dtype))
    assert value == 0
    np.testing.assert_array_equal(gradient, [[-1, 0]])


@dtypes
def test_divergence_of_certain_distributions_is_finite(dtype: Any) -> None:
    certain = np.array([[0, 1], [1, 0], [SUBNORMAL[dtype], 1]], dtype)
    for t in (certain, certain[::-1]):
        value, pair = fastloss.KLDivergence().value_and_grad(t, certain, wrt="both")
        assert np.isfinite(value)
        assert np.isfinite(pair).all()
    assert fastloss.KLDivergence()(certain, certain) == 0


@dtypes
def test_poisson_rate_of_zero_is_finite_and_a_negative_one_is_nan(dtype: Any) -> None:
    value, gradient = one(fastloss.Poisson(), 2, 0, dtype)
    assert value == pytest.approx(-2 * np.log(1e-7), rel=1e-6)
    assert gradient == pytest.approx(1 - 2e7, rel=1e-6)
    assert np.isnan(one(fastloss.Poisson(), 2, -1, dtype)[0])


# ---- Errors ----

ERRORS = [0.0, 1e-30, 1e-15, 1e-7, 1e-4, 1e-2, 0.5, 0.999, 1.0, 1.001, 3.0, 20.0, 100.0, 1e4, 1e30]


@dtypes
@pytest.mark.parametrize("error", ERRORS)
def test_log_cosh_is_exact_for_errors_of_any_size(error: float, dtype: Any) -> None:
    e = dtype(error)
    with mpmath.workdps(120):
        exact = mpmath.mpf(float(e))
        # cosh overflows no exponent of mpmath; below 1e-30 sinh^2 needs the digits asked for.
        large = exact > 1e3
        value_exact = exact - mpmath.log(2) if large else mpmath.log(mpmath.cosh(exact))
        slope_exact = mpmath.mpf(1) if large else mpmath.tanh(exact)
        for sign in (1, -1):
            value, slope = one(fastloss.LogCosh(), 0, sign * e, dtype)
            underflows = value_exact < np.finfo(dtype).tiny
            assert underflows or ulps(value, value_exact, dtype) < 8
            assert ulps(slope, sign * slope_exact, dtype) < 8


@dtypes
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    "loss", [fastloss.MeanAbsoluteError(), fastloss.Huber(), fastloss.Huber(delta=1e3)], ids=repr
)
def test_linear_losses_are_finite_for_errors_of_any_size(
    loss: fastloss.Loss, error: float, dtype: Any
) -> None:
    for e in (error, -error):
        value, gradient = one(loss, 0, e, dtype)
        assert np.isfinite(value)
        assert abs(gradient) <= getattr(loss, "delta", 1)
        assert gradient == 0 or np.sign(gradient) == np.sign(e)


@dtypes
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-6, 1.0, 1e6, 1e15])
def test_cosine_stays_in_its_range_and_finite(size: float, dtype: Any) -> None:
    x = np.array([[3, -4, 0]], dtype) * dtype(size)
    for other in (x, -x, x[:, ::-1].copy(), np.ones_like(x)):
        value, pair = fastloss.CosineSimilarity().value_and_grad(x, other, wrt="both")
        assert abs(value) <= 1 + 4 * np.finfo(dtype).eps
        assert np.isfinite(pair).all()


@dtypes
def test_cosine_of_vectors_whose_squares_overflow_is_in_its_range(dtype: Any) -> None:
    x = np.array([[3, -4, 0]], dtype) * np.sqrt(np.finfo(dtype).max)
    value, gradient = fastloss.CosineSimilarity().value_and_grad(x, x)
    assert abs(value) <= 1 + 4 * np.finfo(dtype).eps
    assert np.isfinite(gradient).all()


@losses
def test_unit_in_the_last_place_does_not_depend_on_the_neighbours(spec: LossSpec) -> None:
    """A block's leftover elements go through the same arithmetic as full vectors."""
    options = by_sample(spec)
    loss = make(spec, options, reduction=None)
    p = np.linspace(0.1, 0.9, 3, dtype=np.float32)
    t = np.float32(1) if spec.labels == "integer" else np.array([0, 1, 0], np.float32)
    alone = loss.value_and_grad(t, p)[1]
    for copies in (2, 5, 33, 700):
        many_t = np.broadcast_to(t, (copies, *np.shape(t))).copy()
        gradient = loss.value_and_grad(many_t, np.broadcast_to(p, (copies, 3)).copy())[1]
        np.testing.assert_array_equal(gradient, np.broadcast_to(alone, gradient.shape))


# ---- Results that are too small to be normal ----


@pytest.mark.skipif(not flushes_results, reason="this processor keeps subnormal results")
@dtypes
@pytest.mark.parametrize("rows", [1, 64, 100_000])  # one by one, in lanes, and on a team
def test_results_below_the_smallest_normal_number_are_zero(
    rows: int, dtype: Any, any_threads: None
) -> None:
    fastloss.set_num_threads(4)
    loss = fastloss.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    tiny = np.finfo(dtype).tiny

    def share_of_the_other(logit: float) -> Any:
        logits = np.tile(np.array([0, logit], dtype), (rows, 1))
        return loss.value_and_grad(np.zeros(rows, int), logits)[1][:, 1]

    assert (share_of_the_other(np.log(tiny) - 1) == 0).all()
    np.testing.assert_allclose(share_of_the_other(np.log(tiny) + 1), np.e * tiny, rtol=1e-4)
    assert dtype(tiny) / dtype(2) > 0  # what is computed elsewhere is left alone
