"""Sums, parts and own weights of losses on tensors and in Keras."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import fastloss
import fastloss.keras as fk
from cases import one_class_is_allowed
from fastloss import _keras_call
from frameworks import assert_agrees, keras, modes, tf, value_and_gradients
from test_sums import SUMS, Terms, draw, make, sums

pytestmark = one_class_is_allowed
quiet_keras = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@modes
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", None])
@sums
def test_sum_of_tensors_is_that_of_arrays(
    terms: Terms, reduction: Any, mode: Any, rng: Any
) -> None:
    if reduction is None and terms in (
        SUMS["a map and a region of all"], SUMS["regions"], SUMS["rows over different axes"],
    ):  # fmt: skip
        pytest.skip("values of different shapes")
    t, p = draw((5, 4, 3), np.float32, rng)
    loss = make(terms, reduction=reduction)
    upstream = 2.0 if reduction else rng.normal(size=loss(t, p).shape).astype("f4")
    value, (d_pred, d_true) = loss.value_and_grad(t, p, wrt="both", upstream=upstream)
    found = value_and_gradients(loss, mode, t, p, upstream=tf.constant(upstream, tf.float32))
    for a, b in zip(found, (value, d_true, d_pred), strict=True):
        assert_agrees(a, b)


@modes
def test_value_and_grad_of_a_sum_takes_tensors(mode: Any, rng: Any) -> None:
    t, p = draw((6, 5), np.float32, rng)
    w = rng.random(6).astype("f4")
    loss = make(SUMS["a row and a map"])
    expected = loss.value_and_grad(t, p, sample_weight=w, wrt="both")
    found = mode(lambda t, p, w: loss.value_and_grad(t, p, sample_weight=w, wrt="both"))(
        tf.constant(t), tf.constant(p), tf.constant(w)
    )
    assert_agrees(found[0], expected[0])
    for a, b in zip(found[1], expected[1], strict=True):
        assert_agrees(a, b)


def test_weights_of_a_sum_are_differentiated(rng: Any) -> None:
    t, p = draw((6, 5), np.float32, rng)
    loss = make(SUMS["two maps"])
    w = tf.Variable(rng.random(6).astype("f4"))
    with tf.GradientTape() as tape:
        value = loss(tf.constant(t), tf.constant(p), sample_weight=w)
    assert_agrees(tape.gradient(value, w), make(SUMS["two maps"], reduction=None)(t, p) / 6)


def test_second_derivatives_of_a_sum_are_those_of_keras(rng: Any) -> None:
    t, p = draw((6, 5), np.float32, rng)
    loss = 0.5 * fastloss.MeanSquaredError() + 2 * fastloss.LogCosh()
    x = tf.Variable(p)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = loss(tf.constant(t), x)
        first = inner.gradient(value, x)
    assert_agrees(outer.gradient(first, x), (1 + 2 * (1 - np.tanh(p - t) ** 2)) / p.size)


@modes
def test_penalties_take_no_targets(mode: Any, rng: Any) -> None:
    p = rng.uniform(0.1, 0.9, (6, 5)).astype("f4")
    for name in ("MeanSquare", "MeanAbsolute", "ConfidencePenalty", "ZLoss"):
        loss = getattr(fastloss, name)()
        expected = loss.value_and_grad(None, p)
        found = mode(lambda p, loss=loss: loss.value_and_grad(None, p))(tf.constant(p))
        for a, b in zip(found, expected, strict=True):
            assert_agrees(a, b)


@modes
def test_labels_and_penalties_of_logits_on_tensors(mode: Any, rng: Any) -> None:
    p, t = rng.normal(size=(9, 4)).astype("f4"), rng.integers(0, 4, 9)
    loss = fastloss.SparseCategoricalCrossentropy(from_logits=True) + 0.1 * fastloss.ZLoss()
    expected = loss.value_and_grad(t, p)
    found = mode(loss.value_and_grad)(tf.constant(t), tf.constant(p))
    for a, b in zip(found, expected, strict=True):
        assert_agrees(a, b)


def test_circle_in_a_sum_and_parts_on_tensors(rng: Any) -> None:
    p, t = rng.normal(size=(9, 4)).astype("f4"), rng.integers(0, 3, 9)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    circle = fastloss.Circle(gamma=8.0) + 0.1 * fastloss.MeanSquare()
    mse = fastloss.MeanSquaredError()
    parts = fastloss.sliced([(np.s_[..., :3], mse), (np.s_[..., 3:], mse)], weights=[1, 2])
    numbers = rng.normal(size=(9, 4)).astype("f4")
    for loss, y in ((circle, t), (parts, numbers)):
        value, gradient = loss.value_and_grad(tf.constant(y), tf.constant(p))
        expected = loss.value_and_grad(y, p)
        assert_agrees(value, expected[0])
        assert_agrees(gradient, expected[1])


@modes
def test_own_weights_on_tensors(mode: Any, rng: Any) -> None:
    t, p = draw((6, 5), np.float32, rng)
    w = rng.random(6).astype("f4")
    loss = fastloss.MeanSquaredError(weight=lambda y: 1 + y) + 0.5 * fastloss.LogCosh(weight=w)
    given = {"sample_weight": rng.random(6).astype("f4")}
    expected = loss.value_and_grad(t, p, **given)
    found = mode(lambda t, p: loss.value_and_grad(t, p, **given))(tf.constant(t), tf.constant(p))
    for a, b in zip(found, expected, strict=True):
        assert_agrees(a, b)


# ---- Keras ----


def keras_sum() -> Any:
    return 0.7 * fk.MeanSquaredError() + 0.3 * fk.MeanAbsoluteError()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans of the calls that are made."""
    made: list[Any] = []
    fused = _keras_call.fused_loss

    def recorded(plan: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(plan)
        return fused(plan, *args, **kwargs)

    monkeypatch.setattr(_keras_call, "fused_loss", recorded)
    return made


@modes
def test_keras_sum_is_the_sum_of_its_terms_in_one_pass(
    mode: Any, rng: Any, passes: list[Any]
) -> None:
    t, p = draw((6, 5), np.float32, rng)
    w = rng.random(6).astype("f4")
    loss = keras_sum() + 0.1 * fk.MeanSquare() - fk.LogCosh()
    ours = value_and_gradients(lambda t, p: loss(t, p, sample_weight=w), mode, t, p)
    assert len({plan.name for plan in passes}) == 1
    theirs = value_and_gradients(
        lambda t, p: sum(c * x(t, p, sample_weight=w) for c, x in loss.terms), mode, t, p
    )
    for a, b in zip(ours, theirs, strict=True):
        assert_agrees(a, b)


def test_keras_takes_each_term_from_its_own_logits(rng: Any) -> None:
    """Behind a softmax, the cross-entropy is that of the logits, and the penalty that of shares."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    x, y = rng.normal(size=(8, 4)).astype("f4"), np.eye(3, dtype="f4")[rng.integers(0, 3, 8)]
    loss = fk.CategoricalCrossentropy() + 0.1 * fk.MeanSquare()
    p = model(x)
    assert_agrees(loss(y, p), fk.CategoricalCrossentropy()(y, p) + 0.1 * fk.MeanSquare()(y, p))


@quiet_keras
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_model_fits_with_a_sum(jit_compile: bool, rng: Any) -> None:
    x = rng.normal(size=(64, 8)).astype("f4")
    y = x[:, :1] * 2

    def losses(loss: Any) -> Any:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        model.compile("sgd", loss=loss, jit_compile=jit_compile)
        return model.fit(x, y, epochs=3, verbose=0, batch_size=16).history["loss"]

    def by_hand(t: Any, p: Any) -> Any:
        return 0.7 * keras.losses.mean_squared_error(t, p) + 0.3 * keras.losses.mean_absolute_error(
            t, p
        )

    np.testing.assert_allclose(losses(keras_sum()), losses(by_hand), rtol=1e-5)


@quiet_keras
def test_a_saved_model_keeps_its_sum(tmp_path: Any, rng: Any) -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    loss = fk.Huber(delta=2.0) - 0.25 * fk.MeanSquare()
    model.compile("sgd", loss=loss)
    x = rng.normal(size=(16, 8)).astype("f4")
    model.fit(x, x[:, :1], verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert repr(again.loss) == repr(loss) == "Huber(delta=2.0) - 0.25 * MeanSquare()"
    assert again.evaluate(x, x[:, :1], verbose=0) == model.evaluate(x, x[:, :1], verbose=0)


@pytest.mark.parametrize(
    "copied",
    [
        lambda x: type(x).from_config(x.get_config()),
        lambda x: keras.losses.deserialize(keras.losses.serialize(x)),
        lambda x: pickle.loads(pickle.dumps(x)),
    ],
)
def test_copy_of_a_keras_sum_is_the_same(copied: Any, rng: Any) -> None:
    t, p = draw((6, 5), np.float32, rng)
    loss = keras_sum()
    twin = copied(loss)
    assert repr(twin) == repr(loss) == "0.7 * MeanSquaredError() + 0.3 * MeanAbsoluteError()"
    assert float(twin(t, p)) == float(loss(t, p))


def test_keras_sums_have_one_reduction_and_terms_of_ours() -> None:
    with pytest.raises(
        ValueError, match=r"reduction: .* with 'sum_over_batch_size' and huber_loss"
    ):
        fk.MeanSquaredError() + fk.Huber(reduction="sum")
    with pytest.raises(TypeError):
        fk.MeanSquaredError() + fastloss.Huber()
    with pytest.raises(TypeError):
        fk.MeanSquaredError() + keras.losses.Huber()


@quiet_keras
def test_own_weights_of_a_keras_loss(rng: Any) -> None:
    t, p = draw((6, 5), np.float32, rng)
    w = rng.random((1, 5)).astype("f4")
    ours = fk.MeanSquaredError(weight=lambda y: 1 + y)(t, p)
    assert_agrees(ours, fastloss.MeanSquaredError()(t, p, sample_weight=1 + t))
    total = fk.MeanSquaredError(weight=w) + fk.LogCosh()
    expected = fastloss.MeanSquaredError()(t, p, sample_weight=w) + fastloss.LogCosh()(t, p)
    assert_agrees(total(t, p), expected)
