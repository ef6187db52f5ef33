"""LossMonitor: the loss, the gradient norm, and what is not finite, of every way to train."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

import fastloss.keras  # noqa: E402
from fastloss.keras import LossMonitor  # noqa: E402

MODES = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "XLA": {"jit_compile": True},
    "several steps": {"jit_compile": False, "steps_per_execution": 3},
}
modes = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)

BATCHES, BATCH = 6, 8


def linear(optimizer: Any = None, loss: Any = None, **options: Any) -> Any:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    loss = fastloss.keras.MeanSquaredError() if loss is None else loss
    optimizer = keras.optimizers.SGD(0.0) if optimizer is None else optimizer
    model.compile(optimizer, loss, **options)
    return model


def batches(rng: Any) -> tuple[Any, Any]:
    n = BATCHES * BATCH
    return rng.normal(size=(n, 3)).astype("float32"), rng.normal(size=(n, 2)).astype("float32")


def fit(model: Any, x: Any, y: Any, monitor: Any, **options: Any) -> Any:
    given = {"batch_size": BATCH, "epochs": 1, "shuffle": False, "verbose": 0} | options
    return model.fit(x, y, callbacks=[monitor], **given)


@modes
def test_gradient_norm_is_that_of_the_batches(mode: Any, rng: Any) -> None:
    x, y = batches(rng)
    model = linear(**mode)
    w = model.get_weights()[0]
    norms = []
    for i in range(0, len(x), BATCH):
        a, t = x[i : i + BATCH], y[i : i + BATCH]
        norms.append(np.linalg.norm(a.T @ (a @ w - t) * 2 / t.size))
    monitor = LossMonitor(report=None)
    history = fit(model, x, y, monitor, epochs=2).history
    assert len(monitor.epochs) == 2
    for found, loss, norm in zip(
        monitor.epochs, history["loss"], history["gradient_norm"], strict=True
    ):
        np.testing.assert_allclose(found["gradient_norm"], np.mean(norms), rtol=1e-5)
        np.testing.assert_allclose(found["largest_gradient_norm"], np.max(norms), rtol=1e-5)
        assert found["loss"] == loss
        assert found["gradient_norm"] == norm
        assert all(found[f"nonfinite_{name}"] == 0 for name in ("predictions", "loss", "gradients"))
        assert found["first_nonfinite_loss"] is None


@modes
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_first_batch_with_a_bad_input_is_named(mode: Any, bad: float, rng: Any) -> None:
    x, y = batches(rng)
    x[4 * BATCH + 2, 1] = bad
    lines: list[str] = []
    monitor = LossMonitor(report=lines.append)
    fit(linear(**mode), x, y, monitor)  # with a learning rate of 0 inf * 0 spoils what follows
    (found,) = monitor.epochs
    assert [found[f"first_nonfinite_{n}"] for n in ("predictions", "loss", "gradients")] == [4] * 3
    assert "first in batch 4" in lines[0]
    assert "predictions" in lines[0]
    assert np.isfinite(found["gradient_norm"])


@modes
def test_a_bad_target_is_seen_in_the_loss_and_not_in_the_predictions(mode: Any, rng: Any) -> None:
    x, y = batches(rng)
    y[-1, 0] = np.nan
    monitor = LossMonitor(report=None)
    fit(linear(**mode), x, y, monitor)
    (found,) = monitor.epochs
    assert found["nonfinite_predictions"] == 0
    assert found["first_nonfinite_predictions"] is None
    assert found["nonfinite_loss"] == 1
    assert found["first_nonfinite_loss"] == found["first_nonfinite_gradients"] == BATCHES - 1


def test_gradient_alone_can_be_at_fault(rng: Any) -> None:
    # The square root of 0 is finite and its slope is not.
    x, y = (a[:BATCH] for a in batches(rng))
    model = linear(loss=lambda t, p: tf.sqrt(tf.abs(p - tf.stop_gradient(p))))
    monitor = LossMonitor(report=None)
    fit(model, x, y, monitor)
    (found,) = monitor.epochs
    assert found["nonfinite_loss"] == 0
    assert found["first_nonfinite_gradients"] == 0
    assert found["nonfinite_gradients"] == 6
    assert np.isnan(found["gradient_norm"])


def test_validation_is_not_watched(rng: Any) -> None:
    x, y = batches(rng)
    monitor = LossMonitor(report=None)
    fit(linear(), x, y, monitor, epochs=2, validation_data=(x * np.nan, y))
    assert [found["nonfinite_predictions"] for found in monitor.epochs] == [0, 0]


@pytest.mark.parametrize("before", [False, True], ids=["new model", "model that was trained"])
def test_weights_are_those_of_a_training_without_it(before: bool, rng: Any) -> None:
    x, y = batches(rng)
    weights = []
    for callbacks in ([], [LossMonitor(report=None)]):
        keras.utils.set_random_seed(3)
        model = linear(keras.optimizers.Adam(0.1))
        if before:
            model.fit(x, y, epochs=1, shuffle=False, verbose=0)
        model.fit(x, y, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights()[0])
        assert not callbacks or len(callbacks[0].epochs) == 2
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-6)


def test_model_is_left_as_it_was(rng: Any) -> None:
    x, y = batches(rng)
    model = linear()
    methods = [model.train_step, model.compute_loss, model.optimizer.apply]
    monitor = LossMonitor(report=None)
    fit(model, x, y, monitor)
    assert [model.train_step, model.compute_loss, model.optimizer.apply] == methods
    seen = [dict(e) for e in monitor.epochs]
    model.fit(x * np.nan, y, verbose=0)
    assert monitor.epochs == seen
    keras.models.clone_model(model)


def test_norm_under_a_loss_scale_is_that_without(rng: Any) -> None:
    x, y = batches(rng)
    monitors = [LossMonitor(report=None), LossMonitor(report=None)]
    optimizers = [
        keras.optimizers.SGD(0.0),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=64.0),
    ]
    for monitor, optimizer in zip(monitors, optimizers, strict=True):
        keras.utils.set_random_seed(3)
        fit(linear(optimizer), x, y, monitor)
    a, b = (m.epochs[0]["gradient_norm"] for m in monitors)
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_models_of_several_outputs_and_of_keras_losses(rng: Any) -> None:
    inputs = keras.Input((3,))
    outputs = [keras.layers.Dense(2)(inputs), keras.layers.Dense(1)(inputs)]
    model = keras.Model(inputs, outputs)
    model.compile("adam", [fastloss.keras.Huber(), "mse"])
    x, y = batches(rng)
    y = [y, y[:, :1].copy()]
    y[1][BATCH] = np.inf
    monitor = LossMonitor(report=None)
    fit(model, x, y, monitor)
    (found,) = monitor.epochs
    assert found["first_nonfinite_loss"] == 1
    assert found["gradient_norm"] > 0


def test_report_is_a_line_for_each_epoch(rng: Any, capsys: Any) -> None:
    x, y = batches(rng)
    fit(linear(), x, y, LossMonitor(), epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 0", "epoch 1"]
    assert all("loss " in line and "gradient norm " in line for line in lines)


def test_several_replicas_are_refused() -> None:
    strategy = types.SimpleNamespace(num_replicas_in_sync=2)
    monitor = LossMonitor()
    monitor.set_model(types.SimpleNamespace(distribute_strategy=strategy))
    with pytest.raises(NotImplementedError, match=r"^LossMonitor: expected one replica, got 2"):
        monitor.on_train_begin()
