"""fastloss.keras does as Keras with unusual shapes, containers, dtypes, weights and masks."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest

import fastloss.keras as fk
from cases import SPECS, one_class_is_allowed
from fastloss._keras_functions import ORIGINAL
from fastloss._registry import BY_NAME, LossSpec
from frameworks import keras, modes, tf, value_and_gradients

pytestmark = one_class_is_allowed

IN_KERAS = [spec for spec in SPECS if spec.name in ORIGINAL]
losses_of_keras = pytest.mark.parametrize("spec", IN_KERAS, ids=lambda s: s.name)
routes = pytest.mark.parametrize("route", ["function", "class"])


def twins(spec: LossSpec, route: str, **options: Any) -> tuple[Any, Any]:
    """Ours and Keras's; GCE's function has no default in Keras."""
    if route == "class":
        pair = getattr(fk, spec.class_name), getattr(keras.losses, spec.class_name)
        return pair[0](**options), pair[1](**options)
    if spec.name == "categorical_generalized_cross_entropy":
        options = {"q": 0.5, **options}
    ours, theirs = getattr(fk, spec.name), ORIGINAL[spec.name]
    return lambda t, p: ours(t, p, **options), lambda t, p: theirs(t, p, **options)


def outcome(loss: Any, mode: Any, *arguments: Any) -> list[Any] | Exception:
    """[value, gradients ...], or the error. What has no gradient has None."""
    tensors = [tf.constant(a) for a in arguments]
    watched = [x for x in tensors if x.dtype.is_floating]
    try:
        with tf.GradientTape() as tape:
            tape.watch(watched)
            value = mode(loss)(*tensors)
        gradients = tape.gradient(value, watched)
    except Exception as error:
        return error
    return [value.numpy(), *(None if g is None else g.numpy() for g in gradients)]


def eagerly(loss: Any) -> Any:
    return loss


def attempt(loss: Any, *arguments: Any) -> list[Any] | Exception:
    """[value], or the error."""
    try:
        return [np.asarray(loss(*arguments))]
    except Exception as error:
        return error


def difference(ours: Any, theirs: Any, rtol: float = 3e-5) -> str:
    """What is different, or nothing. Where Keras raises, we may know better."""
    if isinstance(theirs, Exception):
        return ""
    if isinstance(ours, Exception):
        return f"raises {ours!r}"
    for a, b in zip(ours, theirs, strict=True):
        if (a is None) != (b is None):
            return "a gradient is missing"
        if a is None:
            continue
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"{a.dtype}{a.shape} instead of {b.dtype}{b.shape}"
        if not np.allclose(a, b, rtol=rtol, atol=rtol / 10, equal_nan=True):
            return f"{a.ravel()[:3]} instead of {b.ravel()[:3]}"
    return ""


def draw(spec: LossSpec, true: tuple[int, ...], pred: tuple[int, ...], rng: Any) -> tuple[Any, Any]:
    p = rng.uniform(0.1, 0.9, pred).astype("f4")
    if spec.labels == "integer":
        return rng.integers(0, max(1, pred[-1] if pred else 1), true), p
    return rng.uniform(0.1, 0.9, true).astype("f4"), p


SHAPES = [
    (), (3,), (1,), (0,), (3, 1), (1, 3), (3, 3), (0, 3), (1, 1), (2, 3, 1), (2, 1, 3), (2, 3, 3),
]  # fmt: skip


@routes
@losses_of_keras
def test_any_pair_of_shapes_gives_what_keras_gives(spec: LossSpec, route: str, rng: Any) -> None:
    ours, theirs = twins(spec, route)
    wrong = {}
    for shapes in itertools.product(SHAPES, SHAPES):
        t, p = draw(spec, *shapes, rng)
        results = [outcome(loss, lambda f: f, t, p) for loss in (ours, theirs)]
        if what := difference(*results):
            wrong[shapes] = what
    assert not wrong


SAME_SHAPE = ["binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy"]
REFUSED_LATE = ["cosine_similarity", "categorical_focal_crossentropy", "dice"]
SHAPES_IN_A_GRAPH = [((3, 1), (3, 4)), ((4,), (3, 4)), ((3,), (3, 1)), ((3, 4), (3, 4))]


@routes
@losses_of_keras
def test_shapes_known_at_run_time_only(spec: LossSpec, route: str, rng: Any) -> None:
    ours, theirs = twins(spec, route)
    for true, pred in SHAPES_IN_A_GRAPH:
        if true != pred and spec.name in SAME_SHAPE:
            continue  # refused by both where the shapes are known
        if spec.labels == "integer":
            true = pred[:-1]
        if true != pred and spec.name in REFUSED_LATE:
            continue  # refused by us, since broadcasting first would be another value
        t, p = draw(spec, true, pred, rng)
        unknown = [tf.TensorSpec([None] * a.ndim, a.dtype) for a in (t, p)]

        mode = functools.partial(tf.function, input_signature=unknown)
        what = difference(*(outcome(loss, mode, t, p) for loss in (ours, theirs)))
        assert not what, (true, pred, what)


@losses_of_keras
def test_unknown_rank(spec: LossSpec, rng: Any) -> None:
    loss, _ = twins(spec, "class")
    t, p = draw(spec, (3,) if spec.labels == "integer" else (3, 4), (3, 4), rng)
    unknown = [tf.TensorSpec(None, a.dtype) for a in (t, p)]
    traced = outcome(loss, functools.partial(tf.function, input_signature=unknown), t, p)
    assert not difference(traced, outcome(loss, lambda f: f, t, p))


# A batch without samples has no region.
WITH_SAMPLES = [spec for spec in IN_KERAS if spec.kind != "region"]


@pytest.mark.parametrize("spec", WITH_SAMPLES, ids=lambda s: s.name)
def test_empty_batch_of_a_trace_is_zero(spec: LossSpec) -> None:
    t = np.zeros((0,), "i4") if spec.labels == "integer" else np.zeros((0, 3), "f4")
    unknown = [tf.TensorSpec([None, *t.shape[1:]], t.dtype), tf.TensorSpec([None, 3], tf.float32)]
    results = [
        outcome(
            loss,
            functools.partial(tf.function, input_signature=unknown),
            t,
            np.zeros((0, 3), "f4"),
        )
        for loss in twins(spec, "class")
    ]
    assert results[1][0] == 0
    assert not difference(*results)


@losses_of_keras
def test_loss_object_can_be_a_tf_function(spec: LossSpec, rng: Any) -> None:
    # tf.function asks the object for its signature, and must not get the constructor's.
    t, p = draw(spec, (3,) if spec.labels == "integer" else (3, 4), (3, 4), rng)
    results = [outcome(loss, tf.function, t, p) for loss in twins(spec, "class")]
    assert not difference(*results)


# Values of this shape come from mean_squared_error on predictions with one more axis.
VALUE_SHAPES = [(), (3,), (3, 4), (3, 1), (1, 4), (3, 3)]
FACTOR_SHAPES = [
    (), (1,), (3,), (4,), (1, 1), (3, 1), (1, 4), (3, 4), (3, 3), (3, 4, 1), (3, 1, 1), (2, 3, 4),
]  # fmt: skip
REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight", None]


def weighs_samples(weight: tuple[int, ...], values: tuple[int, ...]) -> bool:
    """Whether these are the weights of samples that Keras lays along the last axis, or refuses."""
    return len(weight) < len(values) and weight == values[: len(weight)] and values[-1] != 1


def product_size(weight: tuple[int, ...], values: tuple[int, ...]) -> int:
    """How many numbers the weighted values are, or 0 if the shapes do not fit."""
    if len(weight) == len(values) + 1 and weight[-1] == 1:
        values = (*values, 1) if len(values) == 1 else values
        weight = weight if len(values) == len(weight) else weight[:-1]
    try:
        return math.prod(np.broadcast_shapes(weight, values))
    except ValueError:
        return 0


WEIGHINGS = [
    *((values, reduction, eagerly) for values in VALUE_SHAPES for reduction in REDUCTIONS),
    *(((3, 4), reduction, tf.function) for reduction in REDUCTIONS),
]


@pytest.mark.parametrize(
    ("values", "reduction", "mode"), WEIGHINGS, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_weights_of_any_shape(values: Any, reduction: str | None, mode: Any, rng: Any) -> None:
    ours, theirs = twins(BY_NAME["mean_squared_error"], "class", reduction=reduction)
    t, p = rng.normal(size=(2, *values, 5)).astype("f4")
    for shape in FACTOR_SHAPES:
        if weighs_samples(shape, values):
            continue  # we read them as such
        by_weights = reduction == "mean_with_sample_weight"
        if by_weights and math.prod(shape) < product_size(shape, values):
            continue  # Keras divides by the sum before the weights are broadcast
        weight = rng.uniform(0.5, 2, shape).astype("f4")
        results = [
            outcome(lambda t, p, loss=loss, w=weight: loss(t, p, sample_weight=w), mode, t, p)
            for loss in (ours, theirs)
        ]
        assert not difference(*results), shape


MASKINGS = [
    (mask, weight, reduction)
    for mask in [(3, 4), (3, 1), (1, 4), (3, 4, 1), ()]
    for weight in [None, (), (3, 1), (3, 4), (2, 3, 4)]
    for reduction in REDUCTIONS
    # Keras divides by the sum before the weights are broadcast.
    if reduction != "mean_with_sample_weight" or mask == weight == (3, 4)
]


@pytest.mark.parametrize(("mask", "weight", "reduction"), MASKINGS, ids=str)
def test_masks_of_any_shape(mask: Any, weight: Any, reduction: str | None, rng: Any) -> None:
    t, p = rng.normal(size=(2, 3, 4, 5)).astype("f4")
    w = None if weight is None else rng.uniform(0.5, 2, weight).astype("f4")
    m = np.asarray(rng.uniform(size=mask) < 0.6) if mask else np.asarray(True)

    def call(loss: Any, t: Any, p: Any) -> Any:
        p._keras_mask = tf.constant(m)
        return loss(t, p, sample_weight=w)

    results = [
        outcome(lambda t, p, loss=loss: call(loss, t, p), lambda f: f, t, p)
        for loss in twins(BY_NAME["mean_squared_error"], "class", reduction=reduction)
    ]
    assert not difference(*results)


CONTAINERS = {
    "NumPy": lambda x: x,
    "lists": lambda x: x.tolist(),
    "tuple of arrays": tuple,
    "dict": lambda x: [{"a": row} for row in x],
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@losses_of_keras
def test_containers(spec: LossSpec, container: Any, rng: Any) -> None:
    t, p = draw(spec, (3,) if spec.labels == "integer" else (3, 4), (3, 4), rng)
    for route in ("function", "class"):
        results = [attempt(loss, container(t), container(p)) for loss in twins(spec, route)]
        assert not difference(*results)


DTYPES = ["float16", "bfloat16", "float32", "float64", "int32", "uint8"]


@routes
@losses_of_keras
def test_dtypes_of_the_arguments(spec: LossSpec, route: str) -> None:
    for true, pred in itertools.product(DTYPES, DTYPES):
        if spec.labels == "integer" and "float" in true and route == "function":
            continue
        t = np.array([1, 2] if spec.labels == "integer" else [[0, 1, 1], [1, 0, 1]])
        if pred == "uint8" or (pred == "int32" and spec.name == "huber"):
            continue  # Keras's differences wrap around, and its half of a square is 0
        p = np.array([[0, 1, 2], [1, 2, 1]]) if "int" in pred else np.array([[0.25, 0.5, 0.25]] * 2)
        t, p = tf.cast(t, true), tf.cast(p, pred)
        results = [attempt(loss, t, p) for loss in twins(spec, route)]
        if isinstance(results[1], Exception) or not np.isfinite(results[1][0]).all():
            continue
        assert not isinstance(results[0], Exception), (true, pred, results[0])
        (ours,), (theirs,) = results
        assert ours.dtype == theirs.dtype, (true, pred)
        assert ours.shape == theirs.shape
        # Half types hold three digits, bfloat16 two, and Keras rounds each step to them.
        rtol = {"bfloat16": 0.04, "float16": 0.006}.get(theirs.dtype.name, 2e-6)
        a, b = (x.astype("f8") for x in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol, atol=rtol, err_msg=f"{true}, {pred}")


LOSS_DTYPES = [
    "float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16", "policy", None,
]  # fmt: skip


@pytest.mark.parametrize("dtype", LOSS_DTYPES)
def test_dtype_of_a_loss(dtype: Any, rng: Any) -> None:
    dtype = keras.DTypePolicy("mixed_bfloat16") if dtype == "policy" else dtype
    t, p = rng.normal(size=(2, 6, 5))
    ours, theirs = twins(BY_NAME["huber"], "class", dtype=dtype)
    assert ours.dtype == theirs.dtype
    assert ours(t, p).dtype == theirs(t, p).dtype
    restored = fk.Huber.from_config(ours.get_config())
    assert restored.dtype == ours.dtype


def test_mask_of_an_ignored_class_is_handed_on() -> None:
    labels, p = tf.constant([[0], [2], [-1]]), tf.fill((3, 4), 0.25)
    name = "sparse_categorical_crossentropy"
    for function in (getattr(fk, name), ORIGINAL[name]):
        values = function(labels, p, ignore_class=-1)
        np.testing.assert_array_equal(keras.src.backend.get_keras_mask(values), [True, True, False])


@modes
@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("binary_crossentropy", "sigmoid"),
        ("categorical_crossentropy", "softmax"),
        ("sparse_categorical_crossentropy", "softmax"),
    ],
)
def test_loss_of_an_activation_is_taken_from_the_logits(
    name: str, activation: str, scale: float, mode: Any, rng: Any
) -> None:
    # Far out, the probabilities are exactly 0 and 1: clipped, they would have no gradient.
    spec = BY_NAME[name]
    logits = (scale * rng.normal(size=(6, 4))).astype("f4")
    labels = rng.integers(0, 4, 6)
    t = labels if spec.labels == "integer" else np.eye(4, dtype="f4")[labels]
    activate = keras.activations.get(activation)
    for route in ("function", "class"):
        results = [
            value_and_gradients(lambda p, loss=loss: loss(t, activate(p)), mode, logits)
            for loss in twins(spec, route)
        ]
        assert not difference(*results)
        assert np.abs(results[0][1]).max() > 1e-3


@pytest.mark.parametrize("name", ["CategoricalCrossentropy", "CategoricalFocalCrossentropy"])
def test_one_class_is_warned_of_where_keras_warns(name: str) -> None:
    t = p = np.ones((3, 1), "f4")
    for module in (fk, keras.losses):
        with pytest.warns(SyntaxWarning, match="num_classes > 1") as caught:
            tf.function(getattr(module, name)())(t, p)
        assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fk.SparseCategoricalCrossentropy()(np.zeros(3, "i4"), p)
        fk.BinaryCrossentropy()(t, p)


@losses_of_keras
def test_arguments_stand_in_keras_order(spec: LossSpec) -> None:
    for ours, theirs in (
        (getattr(fk, spec.class_name), getattr(keras.losses, spec.class_name)),
        (getattr(fk, spec.name), ORIGINAL[spec.name]),
    ):
        mine = inspect.signature(ours).parameters
        names = list(inspect.signature(theirs).parameters)
        assert list(mine)[: len(names)] == names
        for name, parameter in inspect.signature(theirs).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                assert mine[name].default == parameter.default


def test_positional_arguments_are_keras_positions() -> None:
    loss = fk.SparseCategoricalCrossentropy(True, -1, "sum", -1, "mine", "float64")
    assert (loss.from_logits, loss.ignore_class, loss.axis) == (True, -1, -1)
    assert (loss.reduction, loss.name, loss.dtype) == ("sum", "mine", "float64")


def test_subclass_with_its_own_formula_is_used() -> None:
    class Mine(fk.Huber):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return 2 * super().call(y_true, y_pred)

    t, p = np.zeros((2, 3), "f4"), np.ones((2, 3), "f4")
    assert float(Mine()(t, p)) == 2 * float(fk.Huber()(t, p)) == 1


@pytest.mark.parametrize("name", SAME_SHAPE)
def test_refused_shapes_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"must have the same shape, got \(2, 1\) and \(2, 3\)"):
        getattr(fk, name)(np.ones((2, 1), "f4"), np.ones((2, 3), "f4"))
    with pytest.raises(
        ValueError, match=r"must have the same rank, got \(2, 3, 1, 1\) and \(2, 3\)"
    ):
        getattr(fk, name)(np.ones((2, 3, 1, 1), "f4"), np.ones((2, 3), "f4"))
