"""Every way of TensorFlow and Keras to run a loss gives the same numbers, in the fewest passes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tensorflow.python.eager import context

import fastloss
import fastloss.keras as fk
import fastloss.tensorflow as ft
from fastloss import _tensorflow_ops
from fastloss._core import TENSORFLOW_LOSS_OP, TENSORFLOW_SCALE_OP
from frameworks import assert_agrees, compiled, keras, modes, small_model, tf

Loss = Callable[..., Any]


def eager(function: Any) -> Any:
    return function


def value_and_gradient(loss: Loss, t: Any, p: Any, upstream: Any = None, **given: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(p)
        value = loss(t, p, **given)
    return value, tape.gradient(value, p, upstream)


def same_bits(ours: Any, expected: Any) -> None:
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


BATCHES = (fk.Circle, fk.CTC)


def same_by_kernels(loss: Loss, ours: Any, expected: Any) -> None:
    """The same bits, but for losses of batches: what they add up and multiply, XLA adds its way."""
    if not isinstance(loss, BATCHES):
        return same_bits(ours, expected)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    return None


def agree(ours: Any, theirs: Any) -> None:
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        assert_agrees(a, b)


def weighted(module: Any) -> Loss:
    loss = module.Huber()

    def call(t: Any, p: Any, w: Any, mask: Any) -> Any:
        p._keras_mask = mask
        return loss(t, p, sample_weight=w)

    return call


def arrays(rng: Any, shape: tuple[int, ...] = (6, 5)) -> list[Any]:
    return [tf.constant(a.astype("f4")) for a in rng.normal(size=(2, *shape))]


@pytest.fixture(params=["sparse", "huber", "unreduced", "circle", "ctc"])
def case(request: Any, rng: Any) -> tuple[Loss, Loss, Any, Any]:
    """Our loss, Keras's, y_true and y_pred."""
    t, p = arrays(rng, (6, 5))
    labels = tf.constant(rng.integers(0, 5, 6))
    if request.param == "sparse":
        options = {"from_logits": True, "reduction": "sum"}
        name: Any = "SparseCategoricalCrossentropy"
        return getattr(fk, name)(**options), getattr(keras.losses, name)(**options), labels, p
    if request.param == "huber":
        return fk.Huber(), keras.losses.Huber(), t, p
    if request.param == "unreduced":
        return ft.log_cosh, keras.losses.log_cosh, t, p
    if request.param == "circle":
        labels = tf.constant([0, 0, 1, 1, 2, 2])
        return fk.Circle(gamma=4), keras.losses.Circle(gamma=4), labels, p / 4
    labels = tf.constant(rng.integers(1, 4, (6, 2)))
    return fk.CTC(), keras.losses.CTC(), labels, tf.constant(rng.normal(size=(6, 7, 4)), tf.float32)


# ---- traces ----


@modes
def test_modes_agree_with_keras_and_each_other(case: Any, mode: Any) -> None:
    ours, theirs, t, p = case
    result = mode(lambda t, p: value_and_gradient(ours, t, p))(t, p)
    assert all(a.dtype == tf.float32 for a in result)
    for a, b in zip(result, value_and_gradient(theirs, t, p), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    same_by_kernels(ours, result, value_and_gradient(ours, t, p))


@pytest.mark.parametrize("known", ["batch", "rank", "nothing"])
@pytest.mark.parametrize("mode", [tf.function, compiled], ids=["graph", "xla"])
def test_traces_for_unknown_shapes(case: Any, known: str, mode: Any) -> None:
    ours, _, *tensors = case
    shapes = {
        "batch": [tf.TensorShape([None, *x.shape[1:]]) for x in tensors],
        "rank": [tf.TensorShape([None] * x.shape.rank) for x in tensors],
        "nothing": [tf.TensorShape(None)] * 2,
    }
    specs = [tf.TensorSpec(s, x.dtype) for s, x in zip(shapes[known], tensors, strict=True)]

    def step(t: Any, p: Any) -> Any:
        return value_and_gradient(ours, t, p)

    traced = tf.function(step, input_signature=specs, jit_compile=mode is compiled)
    for n in (6, 4):
        given = [x[:n] for x in tensors]
        if known == "nothing" and mode is compiled:
            # What XLA is given at last has a rank; the trace is where it is missing.
            with pytest.raises(ValueError, match="rank"):
                traced(*given)
        elif known == "nothing" and isinstance(ours, BATCHES):
            with pytest.raises(ValueError, match="unknown rank"):  # by Keras
                traced(*given)
        else:
            same_by_kernels(ours, traced(*given), step(*given))


@modes
def test_weights_and_masks(mode: Any, rng: Any) -> None:
    t, p = arrays(rng)
    w = tf.constant(rng.uniform(0.5, 2, 6).astype("f4"))
    mask = tf.constant([True, False, True, True, False, True])

    def step(loss: Loss) -> Any:
        return lambda t, p, w, mask: value_and_gradient(loss, t, p, w=w, mask=mask)

    result = mode(step(weighted(fk)))(t, p, w, mask)
    same_bits(result, step(weighted(fk))(t, p, w, mask))
    agree(result, step(weighted(keras.losses))(t, p, w, mask))
    assert not np.any(result[1][1])


@modes
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint16", "float32"])
def test_dtypes_of_labels(dtype: str, mode: Any, rng: Any) -> None:
    _, p = arrays(rng)
    labels = tf.cast(rng.integers(0, 5, 6), dtype)
    loss = fk.SparseCategoricalCrossentropy(from_logits=True)
    expected = value_and_gradient(loss, tf.cast(labels, tf.int64), p)
    same_bits(mode(lambda t, p: value_and_gradient(loss, t, p))(labels, p), expected)
    dense = tf.cast(tf.cast(labels, tf.int32) % 2, dtype)[:, None] * tf.ones((1, 5), dtype)
    if dtype != "float32":
        result = mode(lambda t, p: value_and_gradient(ft.squared_hinge, t, p))(dense, p)
        expected = value_and_gradient(keras.losses.squared_hinge, tf.cast(dense, tf.float32), p)
        agree(result, expected)


@modes
@pytest.mark.parametrize("reduction", ["sum", None])
def test_upstream_of_values_and_rows(reduction: str | None, mode: Any, rng: Any) -> None:
    t, p = (tf.cast(a, tf.float64) for a in arrays(rng, (6, 4, 5)))
    upstream = tf.constant(rng.normal(size=() if reduction else (6, 4)))
    results = [
        m(lambda t, p, u, loss=loss: value_and_gradient(loss, t, p, u))(t, p, upstream)
        for loss in (c.LogCosh(reduction=reduction, dtype="float64") for c in (fk, keras.losses))
        for m in (eager, mode)
    ]
    for a, b in zip(results[0], results[1], strict=True):  # XLA may multiply in another order
        np.testing.assert_allclose(a, b, rtol=1e-15)
    for a, b in zip(results[1], results[2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)  # Keras has log 2 as a float32


# ---- control flow and functions of functions ----


def loop(loss: Loss, t: Any, p: Any) -> Any:
    """Gradient descent in a loop, with a tape in its body."""

    def body(i: Any, total: Any, p: Any) -> Any:
        value, gradient = value_and_gradient(loss, t, p)
        return i + 1, total + value, p - 0.5 * gradient

    return tf.while_loop(lambda i, *_: i < 3, body, (0, 0.0, p))[1:]


def tape_around_loop(loss: Loss, t: Any, p: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(p)
        _, total = tf.while_loop(
            lambda i, _: i < 3,
            lambda i, total: (i + 1, total + loss(t, p * tf.cast(i, p.dtype))),
            (0, 0.0),
            maximum_iterations=3,
        )
    return total, tape.gradient(total, p)


def branch(loss: Loss, t: Any, p: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(p)
        value = tf.cond(tf.reduce_sum(p) > -1e9, lambda: loss(t, p), lambda: 0.0)
    return value, tape.gradient(value, p)


def recomputed(loss: Loss, t: Any, p: Any) -> Any:
    return value_and_gradient(
        lambda t, p: tf.recompute_grad(lambda p: loss(t, tf.tanh(p)))(p), t, p
    )


def three_gradients_of_one_tape(loss: Loss, t: Any, p: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(p)
        value = loss(t, p)
        double, triple = 2.0 * value, 3.0 * value
    return [tape.gradient(v, p) for v in (double, value, triple, double)]


def mapped(loss: Loss, t: Any, p: Any) -> Any:
    return tf.map_fn(lambda x: value_and_gradient(loss, *x), (t, p), (tf.float32, tf.float32))


def jacobian(loss: Loss, t: Any, p: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(p)
        values = tf.stack([loss(t, p), loss(p, t)])
    return tape.jacobian(values, p)


@modes
@pytest.mark.parametrize(
    "use",
    [
        loop, tape_around_loop, branch, recomputed, three_gradients_of_one_tape, mapped, jacobian,
    ],
)  # fmt: skip
def test_control_flow(use: Any, mode: Any, rng: Any) -> None:
    t, p = arrays(rng, (6, 2, 5) if use is mapped else (6, 5))
    ours, theirs = (
        m(lambda t, p, loss=loss: use(loss, t, p))(t, p)
        for m, loss in ((mode, fk.Huber()), (eager, keras.losses.Huber()))
    )
    agree(ours, theirs)


def test_vectorized_map_runs_as_a_loop(rng: Any, caplog: Any) -> None:
    t, p = arrays(rng, (6, 2, 5))

    def one(x: Any) -> Any:
        return value_and_gradient(ft.huber, *x)

    tf.get_logger().propagate = True
    try:
        with caplog.at_level(logging.WARNING):
            ours = tf.vectorized_map(one, (t, p))
    finally:
        tf.get_logger().propagate = False
    assert f"Using a while_loop for converting {TENSORFLOW_LOSS_OP}" in caplog.text
    agree(ours, tf.vectorized_map(lambda x: value_and_gradient(keras.losses.huber, *x), (t, p)))
    with pytest.raises(ValueError, match=f"No pfor vectorization defined for {TENSORFLOW_LOSS_OP}"):
        tf.vectorized_map(one, (t, p), fallback_to_while_loop=False)


def test_function_that_was_traced_before_xla_compiles_it(rng: Any) -> None:
    # TensorFlow does not trace it again; so it says which op XLA lacks, and where it comes from.
    t, p = arrays(rng)
    plain = tf.function(lambda t, p: fk.Huber()(t, p))
    value = plain(t, p)
    outer = tf.function(lambda t, p: plain(t, p), jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError) as failed:
        outer(t, p)
    assert "unsupported operations when trying to compile graph" in str(failed.value)
    assert TENSORFLOW_LOSS_OP in str(failed.value)
    assert "fastloss_traced_outside_jit_compile" in str(failed.value)
    # Traced by XLA first, it does in both.
    plain = tf.function(lambda t, p: fk.Huber()(t, p))
    outer = tf.function(lambda t, p: plain(t, p), jit_compile=True)
    same_bits([outer(t, p), plain(t, p)], [value, value])


def test_compiled_calls_in_a_row_look_at_their_own_arrays(rng: Any) -> None:
    # What was fitted for a call is kept for the next one, which brings other arrays.
    loss = fk.SparseCategoricalCrossentropy(from_logits=True)

    def step(t: Any, p: Any, w: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = loss(t, p, sample_weight=w)
        return value, tape.gradient(value, p)

    xla, kept = compiled(step), []
    for n in (3, 3, 423, 3, 3):
        t, w = rng.integers(0, 5, n), rng.random(n).astype("f4")
        inputs = [tf.constant(x) for x in (t, rng.normal(size=(n, 5)).astype("f4"), w)]
        kept.append(inputs)  # so that their memory is not given to the next
        agree(xla(*inputs), step(*inputs))
    for labels in (tf.constant([0, 7, 1], tf.int64), tf.constant([0, 7, 1])):
        inputs[0] = labels
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"y_true\[1\]: .* got 7"):
            xla(*inputs)
        agree(xla(*kept[0]), step(*kept[0]))


# Shapes and types in an order in which each differs from the last in one way, or not at all.
CALLS_IN_A_ROW = [
    ("f4", (6, 5)), ("f4", (6, 5)), ("f4", (6, 7)), ("f4", (7, 6)), ("f8", (7, 6)),
    ("f4", (7, 6)), ("f4", (300, 200)), ("f4", (300, 200)), ("f4", (300, 201)),
]  # fmt: skip


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", None])
@pytest.mark.parametrize("name", ["LogCosh", "CategoricalCrossentropy", "MeanSquare"])
def test_compiled_calls_in_a_row_look_at_every_array_anew(
    name: str, reduction: Any, weighted: bool, rng: Any
) -> None:
    loss = getattr(fastloss, name)(reduction=reduction)
    wrt = "y_pred" if name == "MeanSquare" else "both"
    step = compiled(lambda t, p, **given: loss.value_and_grad(t, p, wrt=wrt, **given))
    kept, earlier = [], []
    for dtype, shape in CALLS_IN_A_ROW:
        t, p = rng.uniform(0.1, 0.9, (2, *shape)).astype(dtype)
        given = {}
        if weighted:
            given["sample_weight"] = rng.random(shape[0]).astype(dtype)
            given["mask"] = rng.random(shape[0]) < 0.7
        expected = loss.value_and_grad(t, p, wrt=wrt, **given)
        tensors = [tf.constant(t), tf.constant(p)]
        given = {k: tf.constant(a) for k, a in given.items()}
        made = step(*tensors, **given)
        kept.append((tensors, given))  # so that their memory is not given to the next
        earlier.append((made, expected))
    for made, expected in earlier:  # none was written over by a later call
        agree(made, expected)


def test_compiled_calls_of_many_threads_keep_their_arrays_apart(
    any_threads: None, rng: Any
) -> None:
    # So large that most of the time is spent in the kernels, where they meet.
    fastloss.set_num_threads(1)
    loss = fastloss.LogCosh()
    step = compiled(lambda t, p: loss.value_and_grad(t, p))
    arrays = [rng.normal(size=(2, n, 3000)).astype("f4") for n in (100, 100, 100, 101)]
    tensors = [[tf.constant(x) for x in pair] for pair in arrays]
    expected = [step(*pair) for pair in tensors]
    for ours, pair in zip(expected, arrays, strict=True):
        agree(ours, loss.value_and_grad(*pair))

    def work(k: int) -> None:
        for _ in range(30):
            same_bits(step(*tensors[k]), expected[k])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


# ---- passes ----


@pytest.fixture
def calls(monkeypatch: Any) -> list[str]:
    """The outputs that each eager call of the kernels was asked for."""
    seen: list[str] = []
    run_now = _tensorflow_ops._run_now

    def recorded(line: str, *arguments: Any) -> Any:
        seen.append(line.split()[2])
        return run_now(line, *arguments)

    monkeypatch.setattr(_tensorflow_ops, "_run_now", recorded)
    return seen


def test_one_pass_while_recording_and_a_value_only_otherwise(calls: list[str], rng: Any) -> None:
    t, p = arrays(rng)
    loss = fk.MeanSquaredError()
    loss(t, p)
    assert calls == ["value"]
    calls.clear()
    w = tf.Variable(p)
    with tf.GradientTape(persistent=True) as tape:
        value = loss(t, w)
        doubled = 2 * value
    for v in (value, doubled):
        tape.gradient(v, w)
    assert calls == ["value,grad_pred"]


def executed(step: Any, *tensors: Any) -> list[tuple[str, list[str]]]:
    """The ops of ours that a graph runs after optimization: what they make."""
    context.enable_graph_collection()
    try:
        step(*tensors)
    finally:
        metadata = context.export_run_metadata()
        context.disable_graph_collection()
    nodes = [
        n
        for graph in metadata.partition_graphs
        for n in [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    ]
    made = [n.attr["call"].s.decode().split()[2] for n in nodes if n.op == TENSORFLOW_LOSS_OP]
    return sorted(made + ["scale" for n in nodes if n.op == TENSORFLOW_SCALE_OP])


@pytest.mark.parametrize("name", ["Huber", "SparseCategoricalCrossentropy", "Dice", "CTC"])
def test_passes_of_a_graph(name: str, rng: Any) -> None:
    t, p = arrays(rng, (6, 5, 4) if name == "CTC" else (6, 5))
    t = tf.constant(rng.integers(1, 4, 6)) if name.startswith("Sparse") else tf.nn.sigmoid(t)
    t = tf.constant(rng.integers(1, 4, (6, 2))) if name == "CTC" else t
    loss = getattr(fk, name)()
    step = tf.function(lambda t, p: value_and_gradient(loss, t, tf.nn.softmax(p)))
    assert [x for x in executed(step, t, p) if x != "scale"] == ["value,grad_pred"]
    assert executed(tf.function(lambda t, p: loss(t, tf.nn.softmax(p))), t, p) == ["value"]


def test_fit_makes_one_pass_per_step_and_evaluate_a_value(rng: Any) -> None:
    x, y = rng.normal(size=(8, 8)).astype("f4"), rng.normal(size=(8, 2)).astype("f4")
    model = small_model(2, fk.MeanSquaredError(), jit_compile=False)
    passes = executed(lambda: model.fit(x, y, batch_size=8, verbose=0))
    assert [x for x in passes if x != "scale"] == ["value,grad_pred"]
    assert executed(lambda: model.evaluate(x, y, verbose=0)) == ["value"]


def address(tensor: Any) -> int:
    return int(np.asarray(memoryview(tensor)).__array_interface__["data"][0])


def test_upstream_of_one_hands_on_the_saved_gradient(rng: Any) -> None:
    t, p = arrays(rng, (64, 32))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(p)
        total = fk.Huber()(t, p)
        triple = 3.0 * total
    first, second = tape.gradient(total, p), tape.gradient(total, p)
    assert address(first) == address(second)
    # The tape holds the gradient still: what is scaled is a copy.
    kept = first.numpy().copy()
    scaled = tape.gradient(triple, p)
    assert address(scaled) != address(first)
    np.testing.assert_array_equal(first, kept)
    agree(scaled, 3 * kept)
