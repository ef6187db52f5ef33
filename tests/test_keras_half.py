"""Half types in Keras: mixed-precision training, and losses with a dtype of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastloss.keras as fk
from frameworks import keras, quiet_fit, tf

# Half of a unit in the last place, relative, and a few roundings of it.
ROUNDING = {"float16": 2**-10, "bfloat16": 2**-7}


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("MeanSquaredError", None),
        ("BinaryCrossentropy", "sigmoid"),
        ("CategoricalCrossentropy", "softmax"),
        ("SparseCategoricalCrossentropy", "softmax"),
    ],
)
def test_mixed_precision_fit(policy: str, name: str, activation: Any, rng: Any) -> None:
    x = rng.normal(size=(128, 8)).astype("f4")
    classes = rng.integers(0, 5, 128)
    y = classes if name.startswith("Sparse") else np.eye(5, dtype="f4")[classes]
    curves = []
    for module in (fk, keras.losses):
        keras.utils.set_random_seed(11)
        model = keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(5, activation)]
        )
        optimizer = keras.optimizers.SGD(0.05)
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer=optimizer, loss=getattr(module, name)())
        curves.append(quiet_fit(model, x, y, epochs=4))
        assert all(np.isfinite(w).all() for w in model.get_weights())
    assert curves[0][-1] < curves[0][0]
    tolerance = 4 * ROUNDING[policy.removeprefix("mixed_")]
    np.testing.assert_allclose(curves[0], curves[1], rtol=tolerance)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", None])
@pytest.mark.parametrize("weighted", [False, True])
def test_half_loss_is_the_rounded_float32_loss(
    weighted: bool, reduction: Any, dtype: str, rng: Any
) -> None:
    t, p = (tf.cast(a, dtype) for a in rng.normal(size=(2, 64, 5)))
    weight = rng.uniform(0.5, 2, 64).astype("f4") if weighted else None
    half = fk.Huber(dtype=dtype, reduction=reduction)(t, p, sample_weight=weight)
    full = fk.Huber(reduction=reduction)(t, p, sample_weight=weight)
    assert half.dtype.name == keras.losses.Huber(dtype=dtype)(t, p).dtype.name == dtype
    assert (half == tf.cast(full, dtype)).numpy().all()


def test_weights_of_higher_rank_do_not_overflow_in_float16() -> None:
    # Weighed by TensorFlow, into an array of their rank: still added up in float32.
    t, p = np.zeros((70_000, 1), "f2"), np.ones((70_000, 1), "f2")
    weight = np.ones((70_000, 1), "f4")
    assert float(fk.MeanSquaredError(dtype="float16")(t, p, sample_weight=weight)) == 1
