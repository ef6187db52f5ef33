"""Every intended difference from Keras: what Keras does, and what we do instead.

The whole list. Anywhere else, another value than Keras's is a fault of ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss
import fastloss.keras as fk
from fastloss._keras_functions import ORIGINAL
from frameworks import keras, tf


def pair(name: str) -> list[Any]:
    """Keras's function or class, then ours."""
    return [ORIGINAL[name] if name in ORIGINAL else getattr(keras.losses, name), getattr(fk, name)]


def gradient(loss: Any, t: Any, p: Any) -> Any:
    p = tf.constant(p)
    with tf.GradientTape() as tape:
        tape.watch(p)
        value = loss(tf.constant(t), p)
    return tape.gradient(value, p).numpy()


@pytest.mark.parametrize(
    ("name", "t", "keras_says"),
    [
        ("binary_crossentropy", [[0, 1]], np.nan),
        ("binary_crossentropy", [[1, 0]], np.inf),
        ("kl_divergence", [[1, 0]], np.inf),
    ],
)
def test_exact_probabilities_in_float16(name: str, t: Any, keras_says: float) -> None:
    # float16 rounds 1 - 1e-7 to 1, and 1e7 to infinity.
    keras_value, our_value = (
        np.asarray(f(np.array(t, "f2"), np.array([[0, 1]], "f2"))) for f in pair(name)
    )
    np.testing.assert_array_equal(keras_value, [keras_says])
    exact = np.asarray(ORIGINAL[name](np.array(t, "f4"), np.array([[0, 1]], "f4")))
    np.testing.assert_allclose(our_value, exact, rtol=1e-3, atol=1e-6)


def test_mean_of_many_values_in_float16() -> None:
    t, p = np.zeros((70_000, 1), "f2"), np.ones((70_000, 1), "f2")
    keras_value, our_value = (float(c(dtype="float16")(t, p)) for c in pair("MeanSquaredError"))
    assert np.isnan(keras_value)
    assert our_value == 1


def test_log_cosh_of_small_errors() -> None:
    t, p = np.zeros((1, 1), "f4"), np.full((1, 1), 1e-4, "f4")
    keras_value, our_value = (float(f(t, p)[0]) for f in pair("log_cosh"))
    assert abs(keras_value - 5e-9) > 4e-9
    np.testing.assert_allclose(our_value, 5e-9, rtol=1e-6)


def test_gradient_of_binary_crossentropy_at_large_logits() -> None:
    # In a graph, TensorFlow takes sigmoid - t: nothing is left of a confident, right prediction.
    t, logit = np.ones((1, 1), "f4"), np.full((1, 1), 20, "f4")

    def slope(loss: Any) -> float:
        @tf.function
        def traced(t: Any, p: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(p)
                value = loss(t, p, from_logits=True)
            return tape.gradient(value, p)

        return float(traced(tf.constant(t), tf.constant(logit))[0, 0])

    keras_slope, our_slope = map(slope, pair("binary_crossentropy"))
    assert keras_slope == 0
    np.testing.assert_allclose(our_slope, -1 / (1 + np.exp(20.0)), rtol=1e-5)


def test_gradient_of_focal_loss_at_large_logits() -> None:
    t, logit = np.ones((1, 1), "f4"), np.full((1, 1), 30, "f4")
    keras_slope, our_slope = (
        float(gradient(lambda t, p, f=f: f(t, p, gamma=0.5, from_logits=True), t, logit)[0, 0])
        for f in pair("binary_focal_crossentropy")
    )
    assert not np.isfinite(keras_slope)
    assert np.isfinite(our_slope)
    np.testing.assert_allclose(our_slope, -1.5 * np.exp(-45.0), rtol=1e-4)


def test_focal_loss_of_a_wrong_prediction_from_logits() -> None:
    t, logits = np.array([[1, 0]], "f4"), np.array([[-40, 40]], "f4")
    values, slopes = [], []
    for f in pair("categorical_focal_crossentropy"):
        values.append(float(f(t, logits, from_logits=True, alpha=1.0)[0]))
        slopes.append(gradient(lambda t, p, f=f: f(t, p, from_logits=True), t, logits))
    np.testing.assert_allclose(values, [-np.log(1e-7), 80], rtol=1e-5)
    assert not slopes[0].any()  # beyond the clip
    assert slopes[1].all()


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", None])
@pytest.mark.parametrize("hidden_by", ["weight", "mask"])
def test_nan_that_is_hidden(hidden_by: str, reduction: str | None) -> None:
    t = np.zeros((2, 3), "f4")
    p = np.array([[1, 1, 1], [np.nan, 1, 1]], "f4")
    weight = np.array([1, 0], "f4") if hidden_by == "weight" else None
    values = []
    for cls in pair("MeanSquaredError"):
        with tf.GradientTape() as tape:
            prediction = tf.constant(p)
            tape.watch(prediction)
            if hidden_by == "mask":
                prediction._keras_mask = tf.constant([True, False])
            value = cls(reduction=reduction)(t, prediction, sample_weight=weight)
        values.append((np.asarray(value), tape.gradient(value, prediction).numpy()))
    assert np.isnan(values[0][0]).any()
    assert np.isfinite(values[1][0]).all()
    assert not values[1][1][1].any()
    assert values[1][1][0].all()


def test_mean_with_weights_that_are_broadcast() -> None:
    # Keras divides by the sum of the three weights, not by that of the twelve they stand for.
    t, p = np.zeros((3, 4, 2), "f4"), np.ones((3, 4, 2), "f4")
    keras_value, our_value = (
        float(c(reduction="mean_with_sample_weight")(t, p, sample_weight=np.ones((3, 1), "f4")))
        for c in pair("MeanSquaredError")
    )
    assert keras_value == 4
    assert our_value == 1


def test_one_weight_per_sample_on_a_square_of_values() -> None:
    # Values of shape (samples, steps) = (2, 2): Keras lays the weights along the steps.
    t = np.zeros((2, 2, 1), "f4")
    p = np.array([[[1], [1]], [[3], [3]]], "f4")
    keras_values, our_values = (
        np.asarray(c(reduction=None)(t, p, sample_weight=np.array([1, 0], "f4")))
        for c in pair("MeanSquaredError")
    )
    np.testing.assert_array_equal(keras_values, [[1, 0], [9, 0]])
    np.testing.assert_array_equal(our_values, [[1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("Huber", {"delta": 3.0}),
        ("CosineSimilarity", {"axis": 1}),
        ("SparseCategoricalCrossentropy", {"axis": 1}),
        ("MeanSquaredError", {"dtype": "float64"}),
    ],
)
def test_what_keras_leaves_out_of_a_config(name: str, option: dict[str, Any]) -> None:
    theirs, ours = (cls(**option).get_config() for cls in pair(name))
    assert not option.items() <= theirs.items()
    assert ours == theirs | option
    pair(name)[0].from_config(ours)  # which Keras itself understands


def test_labels_that_the_dtype_of_the_loss_does_not_hold() -> None:
    # bfloat16 has no 257: Keras takes the loss of class 256.
    p = np.full((1, 300), 1e-3, "f4")
    p[0, 257] = 0.5
    keras_value, our_value = (
        float(c(dtype="bfloat16")(np.array([257]), p))
        for c in pair("SparseCategoricalCrossentropy")
    )
    exact = -np.log(0.5 / p.sum())
    assert keras_value > 4
    np.testing.assert_allclose(our_value, exact, rtol=0.01)


def test_second_derivatives() -> None:
    # Keras's are right, and ours. What this field writes by hand, numpy_function in
    # custom_gradient, loses what the gradient itself depends on.
    x = tf.constant([2.0, 3.0])

    def second(loss: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(loss(tf.zeros((2, 1)), tf.reshape(x * x, (2, 1))))
            first = inner.gradient(value, x)
        return outer.gradient(first, x)

    numpy_loss = fastloss.MeanSquaredError(reduction=None)

    @tf.custom_gradient
    def by_hand(t: Any, p: Any) -> Any:
        value, slope = tf.numpy_function(numpy_loss.value_and_grad, [t, p], [tf.float32] * 2)
        return value, lambda upstream: (None, upstream[:, None] * slope)

    keras_loss, ours = pair("mean_squared_error")
    np.testing.assert_allclose(second(keras_loss), [48, 108])  # 12 x^2
    np.testing.assert_allclose(second(by_hand), [16, 36])  # 4 x^2
    np.testing.assert_allclose(second(ours), [48, 108])


def test_gradient_of_targets_that_do_not_sum_to_one() -> None:
    t, logits = np.array([[0.5, 0.25, 0.0]], "f4"), np.array([[0.1, -0.2, 0.3]], "f4")
    softmax = np.exp(logits) / np.exp(logits).sum()
    keras_loss, our_loss = pair("categorical_crossentropy")
    keras_slope, our_slope = (
        gradient(lambda t, p, f=f: f(t, p, from_logits=True), t, logits)
        for f in (keras_loss, our_loss)
    )
    np.testing.assert_allclose(keras_slope, softmax - t, atol=1e-6)
    np.testing.assert_allclose(our_slope, 0.75 * softmax - t, atol=1e-6)
    step = 1e-3 * np.eye(3, dtype="f8")
    f8 = [np.float64(a) for a in (t, logits)]
    values = [keras_loss(f8[0], f8[1] + s, from_logits=True) for s in step]
    centre = keras_loss(*f8, from_logits=True)
    slopes = [(float(v[0]) - float(centre[0])) / 1e-3 for v in values]
    np.testing.assert_allclose(our_slope[0], slopes, atol=1e-3)  # the derivative of Keras's value


def test_smoothing_divides_by_the_number_of_classes() -> None:
    # Keras divides by the size of the last axis, whichever axis the classes are on.
    t, logits = np.zeros((1, 2, 5), "f4"), np.zeros((1, 2, 5), "f4")
    keras_values, our_values = (
        np.asarray(f(t, logits, from_logits=True, label_smoothing=0.5, axis=1))
        for f in pair("categorical_crossentropy")
    )
    np.testing.assert_allclose(keras_values, np.full((1, 5), 2 * 0.5 / 5 * np.log(2)), rtol=1e-6)
    np.testing.assert_allclose(our_values, np.full((1, 5), 2 * 0.5 / 2 * np.log(2)), rtol=1e-6)


def test_labels_outside_the_classes() -> None:
    # Keras takes the loss of a class of probability 0, with no gradient.
    keras_loss, ours = pair("categorical_generalized_cross_entropy")
    p = np.full((1, 2), 0.5, "f4")
    assert float(keras_loss(np.array([2]), p, q=0.5)[0]) == 2
    message = r"labels must be in \[0, 2\), got 2"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ours(np.array([2]), p, q=0.5)


def test_integer_predictions() -> None:
    # Keras computes in the integers: half a square is 0, and bytes wrap around.
    t, p = np.array([[0]]), np.array([[1]])
    assert [float(f(t, p)[0]) for f in pair("huber")] == [0, 0.5]
    t, p = np.array([[0]], "u1"), np.array([[1]], "u1")
    assert [float(f(t, p)[0]) for f in pair("mean_absolute_error")] == [255, 1]
