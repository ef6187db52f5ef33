"""Circle loss: its definition, Keras's loss and gradients, extremes, reductions, errors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import fastloss
import fastloss.keras
import fastloss.tensorflow as ft
from definitions import circle as definition
from frameworks import modes, value_and_gradients

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
shapes = pytest.mark.parametrize("shape", [(2, 3), (7, 4), (64, 16), (300, 33)], ids=str)
options = pytest.mark.parametrize(
    "options",
    [
        {},
        {"gamma": 512.0, "margin": 0.25},
        {"gamma": 1.0, "margin": 0.0},
        {"gamma": 5.0, "margin": -0.3, "remove_diagonal": False},
        {"gamma": 0.5, "margin": 1.5},
    ],
    ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "defaults",
)

unreduced = fastloss.Circle(reduction=None)


def embeddings(rng: Any, n: int, d: int, dtype: Any = np.float64) -> Any:
    x = rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def draw(rng: Any, shape: tuple[int, int], dtype: Any) -> tuple[Any, Any]:
    """Labels and embeddings; the last label is alone, so that its sample has no positives."""
    y = rng.integers(0, 1 + shape[0] // 4, shape[0])
    y[-1] = -1
    return y, embeddings(rng, *shape, dtype)


def assert_near(actual: Any, exact: Any, gamma: float) -> None:
    """Exponents are of the size of gamma; their roundings are relative errors of what follows."""
    actual, exact = np.asarray(actual), np.asarray(exact)
    assert actual.shape == exact.shape
    allowed = 4 * (gamma + 10) * np.finfo(actual.dtype).eps
    assert (
        np.abs(actual - exact) <= allowed * (np.abs(exact) + np.abs(exact).max(initial=0))
    ).all()


@dtypes
@options
def test_is_its_definition(options: dict[str, Any], dtype: Any, rng: Any) -> None:
    y, p = draw(rng, (9, 4), dtype)
    c = rng.random(9)
    loss = fastloss.Circle(reduction=None, **options)
    value, gradient = loss.value_and_grad(y, p, upstream=c)
    assert value.dtype == gradient.dtype == dtype
    exact = p.astype(np.float64)
    gamma = options.get("gamma", 80.0)
    assert_near(value, definition(y, exact, **options), gamma)
    slopes = np.empty((9, 4))
    for i in np.ndindex(9, 4):
        z = exact.astype(complex)
        z[i] += 1e-30j
        slopes[i] = (c * definition(y, z, **options).imag).sum() / 1e-30
    assert_near(gradient, slopes, gamma)


@modes
@dtypes
@shapes
@options
def test_agrees_with_keras(
    options: dict[str, Any], shape: Any, dtype: Any, mode: Any, rng: Any
) -> None:
    y, p = draw(rng, shape, dtype)
    gamma = options.get("gamma", 80.0)
    expected = value_and_gradients(lambda p: keras.losses.circle(y, p, **options), mode, p)
    for loss in (ft.circle, fastloss.keras.circle):
        actual = value_and_gradients(lambda p, loss=loss: loss(y, p, **options), mode, p)
        for own, their in zip(actual, expected, strict=True):
            assert own.dtype == their.dtype
            assert_near(own, their, gamma)
    value, gradient = fastloss.Circle(reduction=None, **options).value_and_grad(y, p)
    assert_near(value, expected[0], gamma)
    assert_near(gradient, expected[1], gamma)


@modes
@dtypes
@pytest.mark.parametrize("remove_diagonal", [True, False])
@pytest.mark.parametrize(("n", "references"), [(5, 8), (8, 5)])
def test_references_agree_with_keras(
    n: int, references: int, remove_diagonal: bool, dtype: Any, mode: Any, rng: Any
) -> None:
    y, r = rng.integers(0, 3, n), rng.integers(0, 3, references)
    p, q = embeddings(rng, n, 6, dtype), embeddings(rng, references, 6, dtype)

    def call(function: Any) -> Any:
        return lambda p, q: function(y, p, r, q, remove_diagonal)

    expected = value_and_gradients(call(keras.losses.circle), mode, p, q)
    for own, their in zip(value_and_gradients(call(ft.circle), mode, p, q), expected, strict=True):
        assert_near(own, their, 80)
    assert_near(fastloss.circle(y, p, r, q, remove_diagonal), expected[0], 80)
    loss = fastloss.Circle(remove_diagonal=remove_diagonal, reduction=None)
    value, gradient = loss.value_and_grad(y, p, ref_labels=r, ref_embeddings=q)
    assert_near(value, expected[0], 80)
    assert_near(gradient, expected[1], 80)


@dtypes
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "reduction", ["sum", "mean", "sum_over_batch_size", "mean_with_sample_weight", "none", None]
)
def test_reductions_are_those_of_keras(
    reduction: Any, weighted: bool, masked: bool, dtype: Any, rng: Any
) -> None:
    y, p = draw(rng, (12, 5), dtype)
    mask = rng.random(12) < 0.7 if masked else None
    weight = rng.random(12).astype(dtype) if weighted else None
    if weighted:
        weight[2] = 0
    upstream = 1.5 if reduction not in (None, "none") else rng.random(12).astype(dtype)

    def run(loss: Any) -> Any:
        def call(p: Any) -> Any:
            if mask is not None:
                keras.src.backend.set_keras_mask(p, tf.constant(mask))
            return loss(reduction=reduction, dtype=dtype.__name__)(y, p, sample_weight=weight)

        return value_and_gradients(call, lambda f: f, p, upstream=tf.constant(upstream, dtype))

    expected = run(keras.losses.Circle)
    for own, their in zip(run(fastloss.keras.Circle), expected, strict=True):
        assert_near(own, their, 80)
    value, gradient = fastloss.Circle(reduction=reduction).value_and_grad(
        y, p, sample_weight=weight, mask=mask, upstream=upstream
    )
    assert_near(value, expected[0], 80)
    assert_near(gradient, expected[1], 80)
    assert np.array_equal(
        fastloss.Circle(reduction=reduction)(y, p, sample_weight=weight, mask=mask), value
    )


@pytest.mark.parametrize("labels", [[3, 3, 3], [1, 2, 3]], ids=["no negatives", "no positives"])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", None])
def test_without_positives_or_negatives_there_is_no_loss(
    labels: Any, reduction: Any, rng: Any
) -> None:
    p = embeddings(rng, 3, 4, np.float32)
    value, gradient = fastloss.Circle(reduction=reduction).value_and_grad(labels, p)
    assert not np.any(value)
    assert not gradient.any()


@dtypes
@pytest.mark.parametrize("gamma", [80.0, 512.0, 1e4])
def test_large_gamma_does_not_overflow(gamma: float, dtype: Any) -> None:
    # Positives are opposite and negatives alike: the worst there is.
    p = np.array([[1, 0], [-1, 0], [1, 0], [-1, 0]], dtype)
    value, gradient = fastloss.Circle(gamma=gamma, reduction=None).value_and_grad([0, 0, 1, 1], p)
    # -(m + 2)(m - 2) + (1 + m)(1 - m) with m = 0.4
    np.testing.assert_allclose(value, gamma * (3.84 + 0.84), rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > gamma


def test_nan_shows(rng: Any) -> None:
    p = embeddings(rng, 4, 3)
    p[0, 0] = np.nan
    assert np.isnan(fastloss.Circle()([0, 0, 1, 1], p))


@dtypes
def test_out(dtype: Any, rng: Any) -> None:
    y, p = draw(rng, (9, 4), dtype)
    value, gradient = fastloss.Circle().value_and_grad(y, p)
    out = np.empty_like(p)
    assert fastloss.Circle().value_and_grad(y, p, out=out)[1] is out
    np.testing.assert_array_equal(out, gradient)
    in_place = p.copy()
    assert fastloss.Circle().value_and_grad(y, in_place, out=in_place)[0] == value
    np.testing.assert_array_equal(in_place, gradient)


def test_inputs_are_not_written(rng: Any) -> None:
    y, p = draw(rng, (9, 4), np.float32)
    y.flags.writeable = p.flags.writeable = False
    before = y.copy(), p.copy()
    fastloss.Circle().value_and_grad(y, p)
    np.testing.assert_array_equal(y, before[0])
    np.testing.assert_array_equal(p, before[1])


def test_labels_of_any_integral_type(rng: Any) -> None:
    y, p = draw(rng, (9, 4), np.float32)
    y = np.abs(y)
    expected = fastloss.Circle()(y, p)
    for same in (y[:, None], y.astype(np.uint8), y.astype(np.float32), y.tolist(), y + 2**40):
        assert fastloss.Circle()(same, p) == expected


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_types_are_storage(name: str, rng: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = np.dtype(np.float16 if name == "float16" else ml_dtypes.bfloat16)
    y, p = draw(rng, (9, 4), half)
    value, gradient = fastloss.Circle().value_and_grad(y, p)
    single, slopes = fastloss.Circle().value_and_grad(y, p.astype(np.float32))
    assert value == single
    assert value.dtype == np.float32
    assert gradient.dtype == half
    np.testing.assert_array_equal(gradient, slopes.astype(half))


def test_empty_batch() -> None:
    value, gradient = fastloss.Circle().value_and_grad(np.empty(0, int), np.empty((0, 3)))
    assert value.shape == (0,)
    assert gradient.shape == (0, 3)


def test_bits_do_not_depend_on_the_number_of_threads(any_threads: None, rng: Any) -> None:
    y, p = draw(rng, (300, 8), np.float32)
    results = set()
    for threads in (1, 2, 8):
        fastloss.set_num_threads(threads)
        for _ in range(3):  # the first wake the threads that help with the others
            value, gradient = fastloss.Circle().value_and_grad(y, p)
            results.add(value.tobytes() + gradient.tobytes())
    assert len(results) == 1


GOOD: dict[str, Any] = {"y_true": [0, 0, 1], "y_pred": np.eye(3)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_true": [0, 1]}, r"y_true: expected one label per embedding, 3, got \(2,\)"),
        ({"y_true": [0, 0.5, 1]}, "y_true: expected integers, got 0.5"),
        ({"y_pred": np.ones(3)}, r"y_pred: expected 2 dimensions, \(samples, features\), got 1"),
        ({"ref_embeddings": np.eye(4)}, r"ref_embeddings: expected shape \(references, 3\)"),
        ({"ref_embeddings": np.empty((0, 3))}, "ref_embeddings: expected shape"),
        ({"ref_labels": [0, 1]}, "ref_labels: expected one label per embedding, 3"),
        ({"ref_embeddings": np.ones((2, 3))}, "ref_labels: expected one label per reference"),
        ({"sample_weight": [1, 2]}, "sample_weight"),
        ({"mask": np.ones((3, 3))}, "mask"),
        ({"upstream": [1.0, 2.0, 3.0]}, "upstream"),
        ({"wrt": "both"}, "wrt: integer labels have no gradient"),
        ({"out": np.eye(4)}, "out: expected the shape"),
    ],
    ids=lambda x: None if isinstance(x, dict) else x[:24],
)
def test_errors_name_the_argument(changed: dict[str, Any], message: str) -> None:
    arguments = GOOD | changed
    with pytest.raises(ValueError, match=message):
        fastloss.Circle().value_and_grad(
            arguments.pop("y_true"), arguments.pop("y_pred"), **arguments
        )


@pytest.mark.parametrize("gamma", [0.0, -1.0, np.inf])
def test_gamma_must_be_above_zero(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        fastloss.Circle(gamma=gamma)


def test_class_and_function_have_the_argument_order_of_keras() -> None:
    loss = fastloss.Circle(64.0, 0.25, False, "sum", "mine")
    assert loss.get_config() == {
        "gamma": 64.0, "margin": 0.25, "remove_diagonal": False, "reduction": "sum",
        "name": "mine", "dtype": None,
        "weight": None,
    }  # fmt: skip
    assert fastloss.Circle.from_config(loss.get_config()).get_config() == loss.get_config()
    assert type(fastloss.get("circle")) is fastloss.Circle
    y, p = GOOD["y_true"], GOOD["y_pred"]
    by_position = fastloss.circle(y, p, None, None, False, 64.0, 0.25)
    by_name = fastloss.circle(y, p, margin=0.25, gamma=64.0, remove_diagonal=False)
    np.testing.assert_array_equal(by_position, by_name)


def test_fit_follows_keras(rng: Any) -> None:
    x, y = rng.normal(size=(64, 8)).astype("f4"), rng.integers(0, 4, 64)
    histories = []
    for loss in (keras.losses.Circle(), fastloss.keras.Circle()):
        keras.utils.set_random_seed(3)
        layers = [keras.Input((8,)), keras.layers.Dense(6), keras.layers.UnitNormalization()]
        model = keras.Sequential(layers)
        model.compile(optimizer=keras.optimizers.SGD(1e-3), loss=loss)
        fit = model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        histories.append(fit.history["loss"])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-4)


def test_patched_keras_runs_on_it(rng: Any) -> None:
    y, p = draw(rng, (9, 4), np.float32)
    r, q = rng.integers(0, 3, 5), embeddings(rng, 5, 4, np.float32)
    losses = [
        lambda p: keras.losses.Circle(gamma=5.0)(y, p),
        lambda p: keras.losses.circle(y, p, r, q, remove_diagonal=False),
    ]
    expected = [value_and_gradients(loss, lambda f: f, p) for loss in losses]
    with fastloss.keras.patch():
        actual = [value_and_gradients(loss, lambda f: f, p) for loss in losses]
    for own, their in zip(actual, expected, strict=True):
        assert not np.array_equal(own[1], their[1])  # equal bits would be Keras's own
        for a, b in zip(own, their, strict=True):
            assert_near(a, b, 80)


@pytest.mark.parametrize("module", [fastloss, fastloss.keras], ids=lambda m: m.__name__)
def test_copies_are_the_same_loss(module: Any, rng: Any) -> None:
    loss = module.Circle(gamma=7.0, margin=0.1, remove_diagonal=False, reduction="sum")
    y, p = draw(rng, (9, 4), np.float32)
    for twin in (
        module.get(loss),
        module.get({"class_name": "Circle", "config": loss.get_config()}),
        pickle.loads(pickle.dumps(loss)),
        copy.deepcopy(loss),
    ):
        assert twin.get_config() == loss.get_config()
        assert twin.gamma == 7.0
        assert twin(y, p) == loss(y, p)
