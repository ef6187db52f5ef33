"""fastloss.keras: the classes against Keras's own, alone and in model.fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss.keras as fk
from cases import CASES, describe, draw, losses, one_class_is_allowed, resolved
from fastloss._registry import LossSpec
from frameworks import (
    KERAS_LACKS,
    assert_agrees,
    distributions,
    keras,
    modes,
    quiet_fit,
    small_model,
    tf,
    two_devices,
    value_and_gradients,
)  # fmt: skip
from reloading import load_again

pytestmark = [
    one_class_is_allowed,
    pytest.mark.filterwarnings("ignore:fastloss. XLA .* is not supported yet:RuntimeWarning"),
]

REDUCTIONS = ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None]

# Keras saturates where it clips a sigmoid or softmax: kept away from by halving the logits.
SATURATES = {"binary_focal_crossentropy", "categorical_focal_crossentropy"}


def twins(spec: LossSpec, options: dict[str, Any], **common: Any) -> tuple[Any, Any]:
    theirs = getattr(keras.losses, spec.class_name)
    return getattr(fk, spec.class_name)(**options, **common), theirs(**options, **common)


# The losses and options that Keras has too; the others are held against the oracle, in NumPy.
TWINS = [
    (spec, options)
    for spec, options in CASES
    if hasattr(keras.losses, spec.class_name) and not KERAS_LACKS & options.keys()
]
WEIGHTINGS = ["none", "per sample", "per value", "mask", "mask and weight"]
WEIGHTED_TWINS = [
    (spec, reduction, weighting)
    for spec, options in TWINS
    for reduction in REDUCTIONS
    for weighting in WEIGHTINGS
    if not options
    # A loss over the whole batch has one value, which Keras does not weigh.
    and (spec.kind != "region" or weighting == "none")
    # Keras divides by the sum of the weights before they are broadcast.
    and (reduction, weighting) != ("mean_with_sample_weight", "per sample")
]


def with_mask(p: Any, mask: Any) -> Any:
    if mask is not None:
        p._keras_mask = tf.constant(mask)
    return p


@pytest.mark.parametrize(("spec", "reduction", "weighting"), WEIGHTED_TWINS, ids=describe)
def test_class_agrees_with_keras(
    spec: LossSpec, reduction: str | None, weighting: str, rng: Any
) -> None:
    shape = (5, 4, 3)
    ours, theirs = twins(spec, {}, reduction=reduction)
    t, p = draw(spec, {}, shape, np.float32, rng)
    rows = () if spec.kind == "region" else shape[:-1]
    weight = mask = None
    if weighting == "per sample":
        weight = rng.uniform(0.5, 2, (shape[0], 1)).astype("f4")
    elif weighting in ("per value", "mask and weight"):
        weight = rng.uniform(0.5, 2, rows).astype("f4")
    if weighting.startswith("mask"):
        mask = rng.uniform(size=rows) < 0.7
    results = [
        value_and_gradients(
            lambda t, p, loss=loss: loss(t, with_mask(p, mask), sample_weight=weight),
            lambda f: f,
            t,
            p,
        )
        for loss in (ours, theirs)
    ]
    for a, b in zip(*results, strict=True):
        assert_agrees(a, b)


@modes
@pytest.mark.parametrize(("spec", "options"), TWINS, ids=describe)
def test_options_agree_with_keras(
    spec: LossSpec, options: dict[str, Any], mode: Any, rng: Any
) -> None:
    shape = (5, 4, 3)
    options = resolved(spec, options, shape)
    ours, theirs = twins(spec, options)
    t, p = draw(spec, options, shape, np.float32, rng)
    if options.get("from_logits") and spec.name in SATURATES:
        p = p / 2
    t = distributions(spec, t)
    results = [value_and_gradients(loss, mode, t, p) for loss in (ours, theirs)]
    for a, b in zip(*results, strict=True):
        assert_agrees(a, b)


def test_weight_that_is_learned_gets_its_gradient(rng: Any) -> None:
    t, p = rng.normal(size=(2, 6, 5)).astype("f4")
    w = rng.uniform(0.5, 2, 6).astype("f4")
    results = [
        value_and_gradients(
            lambda t, p, w, loss=loss: loss(t, p, sample_weight=w), lambda f: f, t, p, w
        )
        for loss in (fk.MeanSquaredError(), keras.losses.MeanSquaredError())
    ]
    assert len(results[0]) == 4
    for a, b in zip(*results, strict=True):
        assert_agrees(a, b)


@pytest.mark.parametrize(
    "options",
    [{}, {"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 3}],
    ids=str,
)
@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "MeanSquaredError", "Huber"])
def test_fit_follows_the_losses_of_keras(name: str, options: dict[str, Any], rng: Any) -> None:
    x = rng.normal(size=(96, 8)).astype("f4")
    sparse = name.startswith("Sparse")
    y = rng.integers(0, 5, 96) if sparse else rng.normal(size=(96, 5)).astype("f4")
    arguments = {"from_logits": True} if sparse else {}
    weight = rng.uniform(0.5, 2, 96).astype("f4")
    curves, scores = [], []
    for module in (fk, keras.losses):
        model = small_model(5, getattr(module, name)(**arguments), **options)
        curves.append(quiet_fit(model, x, y, epochs=3, sample_weight=weight))
        scores.append(model.evaluate(x, y, verbose=0))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)
    assert curves[0][-1] < curves[0][0]


def test_fit_with_a_masking_layer(rng: Any) -> None:
    x = rng.normal(size=(32, 6, 3)).astype("f4")
    x[:, 4:] = 0
    y = rng.normal(size=(32, 6, 2)).astype("f4")
    curves = []
    for module in (fk, keras.losses):
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [
                keras.Input((6, 3)),
                keras.layers.Masking(),
                keras.layers.GRU(4, return_sequences=True),
                keras.layers.Dense(2),
            ]
        )
        model.compile(optimizer="sgd", loss=module.MeanSquaredError())
        curves.append(quiet_fit(model, x, y, epochs=2))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


def test_two_logical_devices_give_the_losses_of_keras(rng: Any) -> None:
    strategy = two_devices()
    x = rng.normal(size=(64, 8)).astype("f4")
    y = rng.normal(size=(64, 2)).astype("f4")
    curves = []
    for module in (fk, keras.losses):
        with strategy.scope():
            model = small_model(2, module.MeanSquaredError())
        curves.append(quiet_fit(model, x, y, epochs=2))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


@losses
def test_config_brings_the_loss_back(spec: LossSpec) -> None:
    options = {p.name: p.default for p in spec.parameters}
    if "delta" in options:
        options["delta"] = 3.0
    if "alpha" in options and spec.kind == "row":
        options["alpha"] = (0.5, 0.25)
    cls = getattr(fk, spec.class_name)
    loss = cls(**options, reduction="sum", name="mine", dtype="float64")
    restored = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(restored) is cls
    assert {name: getattr(restored, name) for name in options} == options
    assert (restored.reduction, restored.name, restored.dtype) == ("sum", "mine", "float64")
    assert restored.get_config() == loss.get_config()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in Keras
def test_saved_model_keeps_its_loss(tmp_path: Any, rng: Any) -> None:
    model = small_model(2, fk.Huber(delta=0.25))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.loss, fk.Huber)
    assert loaded.loss.delta == 0.25
    x, y = rng.normal(size=(16, 8)).astype("f4"), rng.normal(size=(16, 2)).astype("f4")
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


def test_epsilon_is_keras_epsilon_at_the_time_of_the_call() -> None:
    loss, t, p = fk.BinaryCrossentropy(), tf.ones((1, 1)), tf.zeros((1, 1))
    before = keras.config.epsilon()
    try:
        for epsilon in (1e-7, 1e-3):
            keras.config.set_epsilon(epsilon)
            np.testing.assert_allclose(loss(t, p), -np.log(epsilon), rtol=1e-6)
            np.testing.assert_allclose(fk.binary_crossentropy(t, p), [-np.log(epsilon)], rtol=1e-6)
    finally:
        keras.config.set_epsilon(before)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none"])
def test_ignored_class_drops_out(reduction: str, rng: Any) -> None:
    logits = rng.normal(size=(4, 3, 5)).astype("f4")
    labels = rng.integers(0, 5, (4, 3))
    labels[1] = labels[2, 0] = -1
    weight = rng.uniform(0.5, 2, (4, 3)).astype("f4")
    options = {"from_logits": True, "ignore_class": -1, "reduction": reduction}
    results = [
        value_and_gradients(
            lambda t, p, loss=loss: loss(t, p, sample_weight=weight), lambda f: f, labels, logits
        )
        for loss in (
            fk.SparseCategoricalCrossentropy(**options),
            keras.losses.SparseCategoricalCrossentropy(**options),
        )
    ]
    for a, b in zip(*results, strict=True):
        assert_agrees(a, b)


def test_labels_are_not_rounded_by_the_dtype_of_the_loss() -> None:
    # bfloat16 has no 257: Keras trains that class as 256.
    logits = tf.one_hot([257], 300) * 10
    value = fk.SparseCategoricalCrossentropy(from_logits=True, dtype="bfloat16")(
        tf.constant([257]), logits
    )
    exact = fk.SparseCategoricalCrossentropy(from_logits=True)(tf.constant([257]), logits)
    np.testing.assert_allclose(float(value), float(exact), rtol=2**-8)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="delta: expected a number in"):
        fk.Huber(delta=0)
    with pytest.raises(ValueError, match="reduction"):
        fk.Huber(reduction="median")
    with pytest.raises(TypeError, match="gamma: not an option of huber"):
        fk.Huber(gamma=2)
    with pytest.raises(TypeError, match=r"terms: expected losses of fastloss\.keras, got"):
        fk.Combination([(1.0, "mse")])
    with pytest.raises(ValueError, match="terms: expected at least one pair"):
        fk.Combination([])


@pytest.mark.parametrize(
    ("loss", "t", "p", "words"),
    [
        (fk.SparseCategoricalCrossentropy(axis=1), (2, 4), (2, 3, 4), "axis: Only axis=-1 is"),
        (fk.CTC(), (2,), (2, 9, 4), "y_true: Targets `y_true` are expected to be"),
        (fk.CTC(), (2, 3), (2, 4), "y_pred: Logits `y_pred` are expected to be"),
    ],
    ids=lambda x: str(x) if isinstance(x, tuple) else "",
)
def test_what_keras_refuses_is_refused_in_its_words(loss: Any, t: Any, p: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        loss(np.zeros(t, int), np.zeros(p, "f4"))


def test_another_backend_of_keras_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=r"backend 'tensorflow', got 'jax'; set KERAS_BACKEND="):
        load_again("keras")
