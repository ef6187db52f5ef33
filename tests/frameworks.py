"""TensorFlow and Keras for the tests: imported once, quietly, with the modes that losses run in."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import pytest
import tensorflow as tf

from fastloss._registry import LossSpec

# Two devices, for what distribution strategies do; operations stay on the first unless told.
_two_devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], _two_devices)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled by XLA."""
    return tf.function(function, jit_compile=True)


modes = pytest.mark.parametrize(
    "mode", [lambda f: f, tf.function, compiled], ids=["eager", "graph", "xla"]
)

# Options that no loss of Keras has: such variants are held against the oracle, in NumPy.
KERAS_LACKS = {"smooth", "class_weight", "pos_weight"}

# Both sides compute in the dtype under test, so each may be off by its own roundings. Keras's
# probability losses cancel a little near 0 and 1, where float32 loses two more digits.
AGREEMENT = {np.dtype(np.float32): 5e-6, np.dtype(np.float64): 1e-12}


@functools.cache
def two_devices() -> Any:
    """A strategy over two devices; a second in one process would number its messages alike."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def assert_agrees(ours: Any, theirs: Any) -> None:
    """Equal within the roundings of both, relative to each element and to the size of all."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    allowed = AGREEMENT[theirs.dtype] * (np.abs(theirs) + np.abs(theirs).mean())
    np.testing.assert_array_less(np.abs(ours - theirs), allowed + np.finfo(theirs.dtype).tiny)


def distributions(spec: LossSpec, t: Any) -> Any:
    """Targets that sum to one where TensorFlow takes it for granted.

    The gradient of its softmax cross-entropy is softmax - t, which is the derivative of its value
    only then; ours is sum(t) softmax - t.
    """
    if spec.name != "categorical_crossentropy":
        return t
    return t / t.sum(-1, keepdims=True)


def value_and_gradients(
    loss: Callable[..., Any], mode: Callable[..., Any], *arguments: Any, upstream: Any = None
) -> list[Any]:
    """[value, gradient of each floating argument] as arrays; others have no gradient."""
    tensors = [tf.convert_to_tensor(a) for a in arguments]
    watched = [t for t in tensors if t.dtype.is_floating]

    def step(*tensors: Any) -> Any:
        watched = [t for t in tensors if t.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            value = loss(*tensors)
        return value, tape.gradient(value, watched, output_gradients=upstream)

    value, gradients = mode(step)(*tensors)
    assert len(gradients) == len(watched)
    return [value.numpy(), *(g.numpy() for g in gradients)]


def quiet_fit(model: Any, x: Any, y: Any, **options: Any) -> list[float]:
    history = model.fit(x, y, verbose=0, shuffle=False, **options)
    return list(history.history["loss"])


def small_model(outputs: int, loss: Any, **compile_options: Any) -> Any:
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(outputs)]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss=loss, **compile_options)
    return model
