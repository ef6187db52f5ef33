"""The NumPy functions and classes against Keras's own, values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss
from cases import (
    CASES,
    DTYPES,
    SPECS,
    by_sample,
    describe,
    draw,
    function,
    make,
    one_class_is_allowed,
    resolved,
    value_shape,
)
from composition import Call
from fastloss._evaluate import REDUCTIONS
from fastloss._registry import LossSpec
from frameworks import KERAS_LACKS, keras, tf

pytestmark = one_class_is_allowed

SHAPES = [(3,), (7, 5), (4, 3, 6), (2, 3, 4, 5)]

IN_KERAS = [s for s in SPECS if hasattr(keras.losses, s.class_name)]


def keras_takes(spec: LossSpec, options: dict[str, Any]) -> bool:
    return spec in IN_KERAS and not KERAS_LACKS & options.keys()


KERAS_CASES = [(s, o) for s, o in CASES if keras_takes(s, o)]

keras_cases = pytest.mark.parametrize(("spec", "options"), KERAS_CASES, ids=describe)


def keras_loss(spec: LossSpec, options: dict[str, Any], dtype: Any, **extra: Any) -> Any:
    given = {k: list(v) if isinstance(v, tuple) and k == "alpha" else v for k, v in options.items()}
    name = np.dtype(dtype).name
    return getattr(keras.losses, spec.class_name)(**given, dtype=name, **extra)


def keras_gradients(call: Any, t: Any, p: Any, labels: str) -> tuple[Any, dict[str, Any]]:
    t, p = tf.constant(t), tf.constant(p)
    with tf.GradientTape() as tape:
        tape.watch(p)
        if labels == "dense":
            tape.watch(t)
        value = call(t, p)
    sources = {"y_pred": p} if labels == "integer" else {"y_pred": p, "y_true": t}
    slopes = tape.gradient(value, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return value.numpy(), {k: v.numpy() for k, v in slopes.items()}


def assert_agree(ours: Any, keras_says: Any, spec: LossSpec) -> None:
    """Keras cancels where we do not, so the tolerance is wide of double precision.

    Its log_cosh subtracts a float32 logarithm of 2 even in float64.
    """
    rtol = 1e-7 if spec.name == "log_cosh" else 1e-9
    scale = np.abs(keras_says).mean() + 1e-6
    assert np.shape(ours) == np.shape(keras_says)
    np.testing.assert_allclose(ours, keras_says, rtol=rtol, atol=rtol * scale)


def fits(spec: LossSpec, shape: tuple[int, ...]) -> bool:
    # Keras's GCE takes two dimensions only.
    return spec.name != "categorical_generalized_cross_entropy" or len(shape) == 2


@pytest.mark.parametrize(
    ("spec", "options", "shape"),
    [(*case, shape) for case in KERAS_CASES for shape in SHAPES if fits(case[0], shape)],
    ids=describe,
)
def test_values_and_gradients_are_keras_own_in_float64(
    spec: LossSpec, options: dict[str, Any], shape: tuple[int, ...], rng: Any
) -> None:
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, np.float64, rng)
    if spec.name == "categorical_crossentropy":
        # TensorFlow's slope of the softmax cross-entropy, q - t, is right for targets that sum to
        # one only; ours is the derivative for any.
        t /= t.sum(-1, keepdims=True)
    if "focal" in spec.name and options.get("from_logits"):
        p /= 2  # Keras clips the probabilities of large logits
    if options.get("ignore_class") == -1:
        t.ravel()[::3] = -1
    theirs = keras_loss(spec, options, np.float64, reduction=None)
    keras_value, slopes = keras_gradients(theirs.call, t, p, spec.labels)
    loss = make(spec, options, reduction=None)
    assert_agree(loss(t, p), keras_value, spec)
    for wrt, slope in slopes.items():
        gradient = loss.value_and_grad(t, p, wrt=wrt)[1]
        assert_agree(gradient, slope, spec)


@keras_cases
def test_float32_error_is_no_larger_than_keras_own(
    spec: LossSpec, options: dict[str, Any], rng: Any
) -> None:
    shape = (300, 40)
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, np.float32, rng)
    theirs = keras_loss(spec, options, np.float32, reduction=None)
    keras_value = theirs(t, p).numpy()
    call = Call(spec, t, p, options, reduction=None)
    exact = call.value()
    ulp = np.finfo(np.float32).eps * call.value_scale()
    ours = np.abs(function(spec)(t, p, **options) - exact).max()
    assert ours <= np.abs(keras_value - exact).max() + 2 * ulp


def weighting(which: str, values: tuple[int, ...], rng: Any) -> Any:
    shapes = {"sample": values[:1], "value": values, "trailing one": (*values[:-1], 1)}
    return None if which == "none" else rng.uniform(0.5, 2, shapes[which])


def same_rule(spec: LossSpec, which: str, reduction: Any) -> bool:
    """False where the rules differ by intention, or Keras has no such values.

    Keras divides by the sum of weights before they are spread. (It also weighs the last axis of the
    values where per-sample weights happen to fit it; those are not among the weightings here.)
    """
    if spec.name == "categorical_generalized_cross_entropy":
        return which != "trailing one"
    return not (which == "trailing one" and reduction == "mean_with_sample_weight")


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize(
    ("spec", "which", "reduction"),
    [
        (spec, which, reduction)
        for spec in IN_KERAS
        for which in ("none", "value", "trailing one")
        for reduction in REDUCTIONS
        if same_rule(spec, which, reduction)
    ],
    ids=describe,
)
def test_reductions_are_keras_own(
    spec: LossSpec, which: str, reduction: Any, masked: bool, rng: Any
) -> None:
    one_dimensional = not fits(spec, (5, 3, 6))
    options = by_sample(spec)
    shape = (5, 6) if one_dimensional else (5, 3, 6)
    t, p = draw(spec, options, shape, np.float64, rng)
    values = value_shape(spec, options, shape)
    weight = weighting(which, values, rng)
    mask = rng.random(values) < 0.6 if masked else None
    theirs = keras_loss(spec, options, np.float64, reduction=reduction)

    def call(t: Any, p: Any) -> Any:
        p = tf.identity(p)
        if mask is not None:
            p._keras_mask = tf.constant(mask)
        return theirs(t, p, sample_weight=weight)

    # A Keras loss finds the mask on the array that it is given.
    keras_value, slopes = keras_gradients(call, t, p, spec.labels)
    loss = make(spec, options, reduction=reduction)
    value, gradient = loss.value_and_grad(t, p, sample_weight=weight, mask=mask)
    if spec.labels == "dense":
        by_true = loss.value_and_grad(t, p, wrt="y_true", sample_weight=weight, mask=mask)[1]
        assert_agree(by_true, slopes["y_true"], spec)
    assert_agree(value, keras_value, spec)
    assert_agree(gradient, slopes["y_pred"], spec)


@pytest.mark.parametrize("spec", IN_KERAS, ids=describe)
def test_constructor_arguments_are_keras_own(spec: LossSpec) -> None:
    ours = make(spec, {}).get_config()
    theirs = keras_loss(spec, {}, np.float32)
    for name, value in theirs.get_config().items():
        if name == "fn":
            continue
        assert ours[name] == value, name


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_log_cosh_differs_from_keras_where_keras_cancels(dtype: Any) -> None:
    p = np.array([[1e-4]], dtype)
    exact = 5e-9
    assert fastloss.log_cosh(0 * p, p) == pytest.approx(exact, rel=1e-6)
    theirs = float(keras.losses.log_cosh(0 * p, p).numpy()[0])
    assert dtype == np.float64 or theirs != pytest.approx(exact, rel=1e-2)


def test_focal_loss_differs_from_keras_where_keras_saturates() -> None:
    p, t = np.array([[40.0]], np.float32), np.array([[0.0]], np.float32)
    loss = fastloss.BinaryFocalCrossentropy(from_logits=True)
    value, gradient = loss.value_and_grad(t, p)
    assert value == pytest.approx(40, rel=1e-6)
    assert gradient == pytest.approx(1, rel=1e-6)
    theirs = keras.losses.BinaryFocalCrossentropy(from_logits=True)
    keras_value, slopes = keras_gradients(theirs, t, p, "dense")
    assert keras_value == pytest.approx(16.118, abs=0.2) or keras_value == pytest.approx(40)
    assert np.isfinite(slopes["y_pred"]).all() or np.isnan(slopes["y_pred"]).all()


def test_nan_under_a_zero_weight_stays_in_keras_and_not_here() -> None:
    p, t = np.array([[1.0], [np.nan]], np.float32), np.zeros((2, 1), np.float32)
    weight = np.array([1, 0], np.float32)
    assert np.isnan(keras.losses.MeanSquaredError()(t, p, sample_weight=weight))
    assert fastloss.MeanSquaredError()(t, p, sample_weight=weight) == 0.5


def test_label_smoothing_counts_the_classes_of_the_class_axis(rng: Any) -> None:
    t, p = np.eye(4)[rng.integers(0, 4, 3)].T, rng.uniform(0.1, 1, (4, 3))
    ours = fastloss.categorical_crossentropy(t, p, label_smoothing=0.2, axis=0)
    theirs = keras.losses.categorical_crossentropy(t.T, p.T, label_smoothing=0.2).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
