"""fastloss.tensorflow: values and gradients on tensors, against Keras's functions under a tape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tensorflow.python.eager import context

import fastloss
import fastloss.tensorflow as ft
from cases import cases, draw, dtypes, one_class_is_allowed, resolved
from fastloss._core import TENSORFLOW_LOSS_OP
from fastloss._registry import LossSpec
from frameworks import (
    KERAS_LACKS,
    assert_agrees,
    distributions,
    keras,
    modes,
    tf,
    value_and_gradients,
)

pytestmark = one_class_is_allowed

FROM_LOGITS_FOCAL = {"binary_focal_crossentropy", "categorical_focal_crossentropy"}


def as_keras_takes(spec: LossSpec, options: dict[str, Any], dtype: Any) -> dict[str, Any]:
    if spec.name == "categorical_generalized_cross_entropy":
        return {"q": 0.5, **options}  # it has no default in Keras
    if isinstance(options.get("alpha"), tuple):  # Keras would round the numbers to float32
        return options | {"alpha": tf.constant(options["alpha"], dtype)}
    return options


def keras_twin(spec: LossSpec, options: dict[str, Any]) -> Any:
    """Keras's function with these options, or None where it has none."""
    theirs = getattr(keras.losses, spec.name, None)
    if theirs is None or KERAS_LACKS & options.keys():
        return None
    return lambda t, p: theirs(t, p, **as_keras_takes(spec, options, p.dtype))


@modes
@dtypes
@cases
def test_function_agrees_with_keras(
    spec: LossSpec, options: dict[str, Any], dtype: Any, mode: Any, rng: Any
) -> None:
    shape = (5, 4, 3)
    options = resolved(spec, options, shape)
    theirs = keras_twin(spec, options)
    t, p = draw(spec, options, shape, dtype, rng)
    if options.get("from_logits") and spec.name in FROM_LOGITS_FOCAL:
        p = p / 2  # Keras clips the sigmoid; stay away from there
    t = distributions(spec, t)
    ours = value_and_gradients(lambda t, p: getattr(ft, spec.name)(t, p, **options), mode, t, p)
    if theirs is None:
        loss = getattr(fastloss, spec.class_name)(**options, reduction=None)
        value, grad_pred = loss.value_and_grad(t, p)
        expected = [value, grad_pred]
        if spec.labels == "dense":
            expected.insert(1, loss.value_and_grad(t, p, wrt="y_true")[1])
    else:
        expected = value_and_gradients(theirs, tf.function, t, p)
    if (spec.name, dtype) == ("log_cosh", np.float64):
        # Keras subtracts a log 2 that was rounded to float32.
        np.testing.assert_allclose(ours.pop(0), expected.pop(0), rtol=0, atol=2e-9)
    for a, b in zip(ours, expected, strict=True):
        assert_agrees(a, b)


@modes
def test_upstream_gradient_is_folded_in(mode: Any, rng: Any) -> None:
    t, p = rng.normal(size=(2, 6, 5)).astype("f4")
    upstream = tf.constant(rng.normal(size=6).astype("f4"))
    ours = value_and_gradients(ft.huber, mode, t, p, upstream=upstream)
    theirs = value_and_gradients(keras.losses.huber, mode, t, p, upstream=upstream)
    for a, b in zip(ours, theirs, strict=True):
        assert_agrees(a, b)


def test_function_traced_for_any_batch_size(rng: Any) -> None:
    spec = tf.TensorSpec([None, 3], tf.float32)

    @tf.function(input_signature=[spec, spec])
    def step(t: Any, p: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = ft.mean_squared_error(t, p)
        assert value.shape.as_list() == [None]
        return value, tape.gradient(value, p)

    for n in (1, 4, 7):
        t, p = rng.normal(size=(2, n, 3)).astype("f4")
        value, gradient = step(tf.constant(t), tf.constant(p))
        expected, expected_gradient = fastloss.MeanSquaredError(reduction=None).value_and_grad(t, p)
        np.testing.assert_array_equal(value, expected)
        np.testing.assert_array_equal(gradient, expected_gradient)


def test_trace_without_a_tape_can_be_differentiated_later(rng: Any) -> None:
    t, p = (tf.constant(a.astype("f4")) for a in rng.normal(size=(2, 6, 5)))
    traced = tf.function(lambda t, p: ft.log_cosh(t, p))
    traced(t, p)
    ours = value_and_gradients(traced, lambda f: f, t, p)
    for a, b in zip(
        ours, value_and_gradients(keras.losses.log_cosh, tf.function, t, p), strict=True
    ):
        assert_agrees(a, b)


def test_unused_gradient_is_not_computed_in_a_graph(rng: Any) -> None:
    t, p = (tf.constant(a.astype("f4")) for a in rng.normal(size=(2, 6, 5)))

    @tf.function
    def step(t: Any, p: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = ft.mean_squared_error(t, p)
        return value, tape.gradient(value, p)

    def ours(graph: Any) -> list[str]:
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        return [n.attr["call"].s.decode().split()[2] for n in nodes if n.op == TENSORFLOW_LOSS_OP]

    assert "grad_true" in ours(step.get_concrete_function(t, p).graph.as_graph_def())
    context.enable_graph_collection()
    try:
        step(t, p)
    finally:
        metadata = context.export_run_metadata()
        context.disable_graph_collection()
    ran = [x for graph in metadata.partition_graphs for x in ours(graph)]
    assert ran == ["value,grad_pred"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype: str, rng: Any) -> None:
    t, p = (tf.cast(a, dtype) for a in rng.uniform(0.1, 0.9, (2, 6, 5)))
    with tf.GradientTape() as tape:
        tape.watch(p)
        value = ft.binary_crossentropy(t, p)
    gradient = tape.gradient(value, p)
    assert value.dtype == gradient.dtype == p.dtype
    exact, exact_gradient = fastloss.BinaryCrossentropy(reduction=None).value_and_grad(
        tf.cast(t, tf.float32).numpy(), tf.cast(p, tf.float32).numpy()
    )
    assert (tf.cast(exact, dtype) == value).numpy().all()
    assert (tf.cast(exact_gradient, dtype) == gradient).numpy().all()


@modes
@pytest.mark.parametrize("rows", [100, 2**16])  # on the thread that calls, and on a team
def test_every_float16_counts_in_every_mode(mode: Any, rows: int) -> None:
    # TensorFlow's threads take subnormal operands for zero, and float16 is widened through some.
    every = np.arange(2**16, dtype=np.uint16)[:: 2**16 // rows].view(np.float16)
    x = every[np.isfinite(every)][:, None]
    value, _, slope = value_and_gradients(ft.mean_squared_error, mode, np.zeros_like(x), x)
    wide = x.astype(np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(value, (wide[:, 0] ** 2).astype(np.float16))
        np.testing.assert_array_equal(slope, (2 * wide).astype(np.float16))


@modes
def test_label_out_of_range_is_an_error_in_every_mode(mode: Any) -> None:
    labels, logits = tf.constant([0, 3]), tf.zeros((2, 3))
    message = r"y_true\[1\]: labels must be in \[0, 3\), got 3"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        mode(ft.sparse_categorical_crossentropy)(labels, logits)


@modes
def test_shapes_that_do_not_fit_are_a_value_error_where_they_are_static(mode: Any) -> None:
    message = r"y_true: expected the shape of y_pred, \(2, 3\), got \(3, 2\)"
    with pytest.raises(ValueError, match=message):
        mode(ft.huber)(tf.zeros((3, 2)), tf.zeros((2, 3)))


def test_users_own_custom_gradient_can_use_the_numpy_loss(rng: Any) -> None:
    loss = fastloss.Huber(delta=0.5)

    @tf.custom_gradient
    def huber(t: Any, p: Any) -> Any:
        value, gradient = tf.numpy_function(loss.value_and_grad, [t, p], [tf.float32, tf.float32])
        return value, lambda d_value: (None, d_value * gradient)

    t, p = (tf.constant(a.astype("f4")) for a in rng.normal(size=(2, 6, 5)))
    for mode in (lambda f: f, tf.function):

        def step(t: Any, p: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(p)
                value = 3.0 * huber(t, p)
            return value, tape.gradient(value, p)

        value, gradient = mode(step)(t, p)
        expected = loss.value_and_grad(t.numpy(), p.numpy(), upstream=3.0)
        assert_agrees(value, np.float32(3) * expected[0])
        assert_agrees(gradient, expected[1])
