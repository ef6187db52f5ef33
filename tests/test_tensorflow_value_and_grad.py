"""``value_and_grad`` on tensors: what it gives for arrays, in every mode, and differentiable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss
import fastloss.keras as fk
from cases import cases, draw, make, one_class_is_allowed, resolved
from fastloss._registry import LossSpec
from frameworks import assert_agrees, modes, tf

pytestmark = one_class_is_allowed

SHAPE = (6, 5)


@modes
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", None])
@cases
def test_tensors_give_the_bits_of_arrays(
    spec: LossSpec, options: dict[str, Any], reduction: Any, mode: Any, rng: Any
) -> None:
    options = resolved(spec, options, SHAPE)
    t, p = draw(spec, options, SHAPE, np.float32, rng)
    loss = make(spec, options, reduction=reduction)
    value, gradient = mode(loss.value_and_grad)(tf.constant(t), tf.constant(p))
    expected_value, expected_gradient = loss.value_and_grad(t, p)
    assert tf.is_tensor(value)
    np.testing.assert_array_equal(value, expected_value)
    assert_agrees(gradient, expected_gradient)
    np.testing.assert_array_equal(mode(loss)(tf.constant(t), tf.constant(p)), loss(t, p))


@modes
def test_weights_masks_and_upstream(mode: Any, rng: Any) -> None:
    t, p = rng.normal(size=(2, *SHAPE)).astype("f4")
    given = {
        "sample_weight": rng.uniform(size=6).astype("f4"),
        "mask": rng.random(6) < 0.7,
        "upstream": rng.normal(size=6).astype("f4"),
    }
    loss = fastloss.LogCosh(reduction=None)
    expected, (d_pred, d_true) = loss.value_and_grad(t, p, wrt="both", **given)

    def call(t: Any, p: Any, **given: Any) -> Any:
        return loss.value_and_grad(t, p, wrt="both", **given)

    tensors = {name: tf.constant(x) for name, x in given.items()}
    value, gradients = mode(call)(tf.constant(t), tf.constant(p), **tensors)
    assert_agrees(value, expected)
    assert_agrees(gradients[0], d_pred)
    assert_agrees(gradients[1], d_true)


@modes
def test_a_gradient_may_be_differentiated(mode: Any, rng: Any) -> None:
    t, p = (tf.constant(a.astype("f4")) for a in rng.normal(size=(2, *SHAPE)))
    loss = fastloss.MeanSquaredError(reduction="sum")

    def second(t: Any, p: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            _, gradient = loss.value_and_grad(t, p)
        return tape.gradient(gradient, p)

    np.testing.assert_allclose(mode(second)(t, p), np.full(SHAPE, 2 / 5), rtol=1e-6)


@modes
def test_losses_of_keras_have_it_too(mode: Any, rng: Any) -> None:
    t, p = (tf.constant(a.astype("f4")) for a in rng.normal(size=(2, *SHAPE)))
    weight = tf.constant(rng.uniform(size=6).astype("f4"))
    loss = fk.Huber(delta=0.5)
    value, gradient = mode(lambda t, p: loss.value_and_grad(t, p, weight, upstream=3.0))(t, p)
    expected = fastloss.Huber(delta=0.5).value_and_grad(
        t.numpy(), p.numpy(), sample_weight=weight.numpy(), upstream=3.0
    )
    assert_agrees(value, expected[0])
    assert_agrees(gradient, expected[1])


def test_a_loss_with_a_dtype_casts_tensors() -> None:
    value, gradient = fastloss.Huber(dtype="float64").value_and_grad(tf.zeros(3), tf.ones(3))
    assert value.dtype == gradient.dtype == tf.float64


def test_what_tensors_cannot_do() -> None:
    t, p = tf.zeros((2, 3)), tf.ones((2, 3))
    with pytest.raises(
        TypeError, match="out: expected None, tensors cannot be written to; got ndarray"
    ):
        fastloss.Huber().value_and_grad(t, p, out=np.empty((2, 3), "f4"))
    with pytest.raises(TypeError, match=r"y_true: expected a floating dtype, .* got int32"):
        fastloss.Huber().value_and_grad(tf.cast(t, tf.int32), p, wrt="y_true")
    with pytest.raises(ValueError, match="wrt: integer labels have no gradient"):
        fk.SparseCategoricalCrossentropy().value_and_grad(tf.constant([0, 1]), p, wrt="y_true")
