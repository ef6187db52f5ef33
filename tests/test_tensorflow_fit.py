"""Training by Keras, in every way that it and a user have, follows the losses of Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss.keras as fk
from frameworks import keras, modes, quiet_fit, small_model, tf, two_devices
from test_tensorflow_modes import Loss, agree, arrays, value_and_gradient

FITS = [
    {},
    {"jit_compile": True},
    {"jit_compile": False},
    {"run_eagerly": True},
    {"steps_per_execution": 3},
    {"steps_per_execution": 3, "jit_compile": True},
]


@pytest.mark.parametrize("options", FITS, ids=str)
def test_fit_evaluate_predict(options: dict[str, Any], rng: Any) -> None:
    x, y = rng.normal(size=(40, 8)).astype("f4"), rng.normal(size=(40, 2)).astype("f4")
    w = rng.uniform(0.5, 2, 40).astype("f4")
    results = []
    for module in (fk, keras.losses):
        model = small_model(2, module.LogCosh(), **options)
        curve = quiet_fit(model, x, y, batch_size=16, epochs=2, sample_weight=w)
        score = model.evaluate(x, y, batch_size=16, verbose=0)
        results.append([*curve, score, float(module.LogCosh()(y, model.predict(x, verbose=0)))])
    np.testing.assert_allclose(*results, rtol=1e-5)
    np.testing.assert_allclose(results[0][-1], results[0][-2], rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_gradient_accumulation_of_the_optimizer(jit_compile: bool, rng: Any) -> None:
    x, y = rng.normal(size=(48, 8)).astype("f4"), rng.normal(size=(48, 2)).astype("f4")
    curves = []
    for module in (fk, keras.losses):
        model = small_model(2, None)
        optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
        model.compile(optimizer, module.Huber(), jit_compile=jit_compile)
        curves.append(quiet_fit(model, x, y, batch_size=8, epochs=2))
    np.testing.assert_allclose(*curves, rtol=1e-5)


@modes
def test_gradient_accumulation_by_hand(mode: Any, rng: Any) -> None:
    t, p = arrays(rng, (8, 5))

    def accumulated(loss: Loss, t: Any, p: Any) -> Any:
        parts = [value_and_gradient(loss, t[i : i + 4], p[i : i + 4])[1] for i in (0, 4)]
        return parts[0] + parts[1]

    ours = mode(lambda t, p: accumulated(fk.Huber(), t, p))(t, p)
    agree(ours, accumulated(keras.losses.Huber(), t, p))


def test_two_devices(rng: Any) -> None:
    strategy = two_devices()
    x, y = rng.normal(size=(64, 8)).astype("f4"), rng.integers(0, 5, 64)
    results = []
    for module in (fk, keras.losses):
        with strategy.scope():
            loss = module.SparseCategoricalCrossentropy(from_logits=True)
            model = small_model(5, loss)
        results.append([*quiet_fit(model, x, y, epochs=2), model.evaluate(x, y, verbose=0)])
    np.testing.assert_allclose(*results, rtol=1e-5)


@modes
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_that_underflow_before_they_are_scaled(dtype: str, mode: Any) -> None:
    # 2e-3 / 4096 as a float16 has three bits; 2^15 times as much has all.
    t, p = tf.zeros((4096, 1), dtype), tf.fill((4096, 1), tf.cast(1e-3, dtype))
    scale = tf.constant(2.0**15)

    def step(loss: Loss, t: Any, p: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = loss(t, p) * tf.cast(scale, dtype)
        return value, tape.gradient(value, p)

    _, gradient = mode(lambda t, p: step(fk.MeanSquaredError(dtype=dtype), t, p))(t, p)
    assert gradient.dtype == p.dtype
    exact = 2 * tf.cast(p, tf.float32) * 2.0**15 / 4096
    np.testing.assert_array_equal(
        tf.cast(gradient, tf.float32), tf.cast(tf.cast(exact, dtype), tf.float32)
    )
    assert np.all(tf.cast(2 * tf.cast(p, tf.float32) / 4096, tf.float16) < 1e-6)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fit_in_mixed_precision(dtype: str, options: Any, rng: Any) -> None:
    x, y = rng.normal(size=(32, 8)).astype("f4"), rng.integers(0, 5, 32)
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(f"mixed_{dtype}")
    try:
        curves = []
        for module in (fk, keras.losses):
            model = small_model(5, None)
            optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05))
            loss = module.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, loss, **options)
            curves.append(quiet_fit(model, x, y, batch_size=16, epochs=3))
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    np.testing.assert_allclose(*curves, rtol=5e-3)
    assert curves[0][-1] < curves[0][0]
