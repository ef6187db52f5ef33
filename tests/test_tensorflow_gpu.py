"""TensorFlow's tensors on a GPU: in every mode the losses are custom calls of XLA.

The handler for CUDA runs on the host's emulation always, on a card if there is one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss
import fastloss.keras as fk
import fastloss.tensorflow as ft
from cases import by_sample, draw, losses, one_class_is_allowed
from device import load
from fastloss import _core, _tensorflow_ops
from fastloss._registry import BY_NAME, LossSpec
from frameworks import assert_agrees, compiled, keras, modes, quiet_fit, small_model, tf

pytestmark = one_class_is_allowed

# The handler for CUDA, registered for the CPU under a name of its own.
EMULATED = "fastloss_emulated"


def capsule(function: Any) -> Any:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(function, None, None)


@pytest.fixture(scope="module")
def emulated_target(emulation: Path) -> str:
    load(emulation)  # what it needs of Python
    handler = capsule(ctypes.CDLL(str(emulation)).xla_handler_on_host)
    library = os.path.join(tf.sysconfig.get_lib(), "libtensorflow_cc.so.2")
    _core.register_xla_handler(library, EMULATED, "Host", handler)
    return EMULATED


@pytest.fixture(params=["emulated", pytest.param("card", marks=pytest.mark.gpu)])
def gpu(request: Any, monkeypatch: Any) -> Iterator[Callable[[Any], Any]]:
    """Puts an array on the GPU; until the test ends, tensors count as being there."""
    if request.param == "card":
        if not tf.config.list_logical_devices("GPU"):
            pytest.skip("TensorFlow finds no GPU")
        if _tensorflow_ops._no_cuda():
            pytest.skip(_tensorflow_ops._no_cuda())

        def put(array: Any) -> Any:
            with tf.device("GPU:0"):
                return tf.identity(tf.constant(array))

        yield put
        return
    monkeypatch.setattr(_tensorflow_ops, "may_be_on_gpu", lambda x: True)
    monkeypatch.setattr(_tensorflow_ops, "_no_cuda", lambda: "")
    monkeypatch.setattr(_core, "XLA_TARGET", request.getfixturevalue("emulated_target"))
    monkeypatch.setattr(_tensorflow_ops, "_run_now", None)  # the ops are for the CPU
    _tensorflow_ops._module.cache_clear()
    yield tf.constant
    _tensorflow_ops._module.cache_clear()


def value_and_gradients(loss: Callable[..., Any], *tensors: Any) -> Any:
    watched = [t for t in tensors if t.dtype.is_floating]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        value = loss(*tensors)
    return [value, *tape.gradient(value, watched)]


def agree(ours: Any, expected: Any) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert_agrees(np.asarray(a), np.asarray(b))


@modes
@losses
def test_values_and_gradients_are_the_cpus(gpu: Any, spec: LossSpec, mode: Any, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (5, 3, 17), np.float32, rng)
    loss = getattr(fk, spec.class_name)(**options)
    kernels = getattr(fastloss, spec.class_name)(**options)
    wrt = "both" if spec.labels == "dense" and spec.uses_target else "y_pred"
    value, grads = kernels.value_and_grad(t, p, wrt=wrt)
    ours = list(mode(lambda t, p: value_and_gradients(loss, t, p))(gpu(t), gpu(p)))
    if not spec.uses_target:
        assert ours.pop(1) is None
    agree(ours, [value, *(grads[::-1] if wrt == "both" else [grads])])


@modes
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_have_gradients_that_a_loss_scale_does_not_lose(
    gpu: Any, dtype: str, mode: Any, rng: Any
) -> None:
    t, p = (a.astype(tf.as_dtype(dtype).as_numpy_dtype) for a in rng.normal(size=(2, 64, 32)))
    loss = fk.Huber(dtype=dtype)

    def step(t: Any, p: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            scaled = tf.cast(loss(t, p), tf.float32) * 4096.0
        return tape.gradient(scaled, p)

    ours = mode(step)(gpu(t), gpu(p))
    assert ours.dtype == dtype
    _, exact = fastloss.Huber().value_and_grad(t.astype("f4"), p.astype("f4"), upstream=4096.0)
    unit = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
    error = np.abs(np.asarray(ours, np.float32) - exact)
    assert (error <= unit * np.abs(exact) + 2.0**-24).all()


def test_eager_calls_stay_on_the_device_of_y_pred(gpu: Any, rng: Any) -> None:
    if gpu is not tf.constant:
        pytest.skip("with one GPU there is no other")
    with tf.device("CPU:1"):
        t, p = (tf.identity(tf.constant(a)) for a in rng.normal(size=(2, 6, 5)))
    for result in value_and_gradients(fk.Huber(dtype="float64"), t, p):
        assert result.device.endswith("CPU:1")


@modes
def test_unreduced_values_with_weights_mask_and_upstream(gpu: Any, mode: Any, rng: Any) -> None:
    t, p = rng.normal(size=(2, 6, 5)).astype("f4")
    weight, upstream = rng.uniform(0.5, 2, (2, 6)).astype("f4")
    mask = np.array([True, False, True, True, False, True])

    def step(t: Any, p: Any, w: Any, m: Any, u: Any) -> Any:
        p._keras_mask = m
        with tf.GradientTape() as tape:
            tape.watch([t, p, w])
            value = fk.LogCosh(reduction=None)(t, p, sample_weight=w)
        return [value, *tape.gradient(value, [t, p, w], u)]

    ours = mode(step)(*map(gpu, (t, p, weight, mask, upstream)))
    kernels = fastloss.LogCosh(reduction=None)
    given = {"sample_weight": weight, "mask": mask, "upstream": upstream}
    value, (by_pred, by_true) = kernels.value_and_grad(t, p, wrt="both", **given)
    alone = kernels(t, p, mask=mask) * upstream
    agree(ours, [value, by_true, by_pred, alone])


@modes
def test_class_weights_and_ignored_class(gpu: Any, mode: Any, rng: Any) -> None:
    labels, p = np.array([0, 2, 1, 2]), rng.normal(size=(4, 3)).astype("f4")
    options = {"from_logits": True, "ignore_class": 1, "class_weight": (0.5, 2.0, 3.0)}
    spec = BY_NAME["sparse_categorical_crossentropy"]
    kernels = getattr(fastloss, spec.class_name)(**options, reduction=None)
    function = getattr(ft, spec.name)
    ours = mode(lambda t, p: value_and_gradients(lambda t, p: function(t, p, **options), t, p))(
        gpu(labels), gpu(p)
    )
    agree(ours, kernels.value_and_grad(labels, p))


@modes
def test_second_derivatives(gpu: Any, mode: Any, rng: Any) -> None:
    t, p = rng.normal(size=(2, 6, 5)).astype("f4")

    def step(loss: Any) -> Any:
        def second(t: Any, p: Any) -> Any:
            with tf.GradientTape() as outer:
                outer.watch(p)
                gradient = value_and_gradients(loss, t, p)[2]
                total = tf.reduce_sum(gradient**2)
            return [total, outer.gradient(total, p)]

        return second

    agree(mode(step(fk.LogCosh()))(gpu(t), gpu(p)), step(keras.losses.LogCosh())(gpu(t), gpu(p)))


@pytest.mark.parametrize(
    "options", [{}, {"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}], ids=str
)
def test_fit_is_that_of_keras(gpu: Any, options: Any, rng: Any) -> None:
    x, y = rng.normal(size=(24, 8)).astype("f4"), rng.integers(0, 3, 24)
    histories = [
        quiet_fit(small_model(3, loss(from_logits=True), **options), x, y, batch_size=8, epochs=3)
        for loss in (
            fk.SparseCategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy,
        )
    ]  # fmt: skip
    np.testing.assert_allclose(*histories, rtol=1e-5)


@pytest.mark.parametrize("mode", [tf.function, compiled], ids=["graph", "xla"])
def test_traces_for_an_unknown_batch(gpu: Any, mode: Any, rng: Any) -> None:
    specs = [tf.TensorSpec([None, 5])] * 2

    def step(t: Any, p: Any) -> Any:
        return value_and_gradients(fk.Huber(), t, p)

    traced = tf.function(step, input_signature=specs, jit_compile=mode is compiled)
    for n in (6, 4):
        t, p = rng.normal(size=(2, n, 5)).astype("f4")
        value, grads = fastloss.Huber().value_and_grad(t, p, wrt="both")
        agree(traced(gpu(t), gpu(p)), [value, *grads[::-1]])


def test_graph_has_custom_calls_and_no_op_for_the_cpu(gpu: Any) -> None:
    step = tf.function(lambda t, p: value_and_gradients(fk.Huber(), t, p))
    spec = tf.TensorSpec([6, 5])
    types = {op.type for op in step.get_concrete_function(spec, spec).graph.get_operations()}
    assert "XlaCallModule" in types
    assert not types & {_core.TENSORFLOW_LOSS_OP, _core.TENSORFLOW_SCALE_OP}


@modes
def test_label_out_of_range_is_nan_with_a_zero_gradient(gpu: Any, mode: Any, rng: Any) -> None:
    labels, p = np.array([0, 7, 1]), rng.normal(size=(3, 4)).astype("f4")

    def step(t: Any, p: Any) -> Any:
        loss = fk.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
        return value_and_gradients(loss, t, p)

    values, gradient = mode(step)(gpu(labels), gpu(p))
    np.testing.assert_array_equal(np.isnan(values), [False, True, False])
    np.testing.assert_array_equal((gradient.numpy() != 0).all(1), [True, False, True])


@modes
def test_shapes_that_do_not_fit(gpu: Any, mode: Any) -> None:
    with pytest.raises(ValueError, match=r"y_true: expected the shape of y_pred, \(2, 4\), got"):
        mode(lambda t, p: value_and_gradients(ft.huber, t, p))(
            gpu(np.zeros((2, 3), "f4")), gpu(np.zeros((2, 4), "f4"))
        )


@modes
def test_circle_is_a_row_loss_of_similarities(gpu: Any, mode: Any, rng: Any) -> None:
    labels, p = np.array([0, 0, 1, 1, 2, 2]), rng.normal(size=(6, 5)).astype("f4") / 4
    ours, theirs = (
        mode(lambda t, p, loss=loss: value_and_gradients(loss(gamma=4), t, p))(gpu(labels), gpu(p))
        for loss in (fk.Circle, keras.losses.Circle)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@modes
def test_ctc(gpu: Any, mode: Any, rng: Any) -> None:
    labels, p = rng.integers(1, 4, (2, 2)), rng.normal(size=(2, 7, 4)).astype("f4")
    ours = mode(lambda t, p: value_and_gradients(fk.CTC(), t, p))(gpu(labels), gpu(p))
    agree(ours, fastloss.CTC().value_and_grad(labels, p))


def test_trace_of_unknown_rank_is_an_error(gpu: Any) -> None:
    traced = tf.function(fk.Huber().__call__, input_signature=[tf.TensorSpec(None)] * 2)
    with pytest.raises(ValueError, match="on a GPU the rank of every tensor must be known"):
        traced(gpu(np.zeros((6, 5), "f4")), gpu(np.zeros((6, 5), "f4")))


# ---- where tensors are ----


class OnGpu:
    device = "/job:localhost/replica:0/task:0/device:GPU:1"


class Traced:
    device = ""


@pytest.mark.parametrize("reason", ["no kernels", ""])
def test_tensors_on_a_gpu_are_found(reason: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(_tensorflow_ops, "_no_cuda", lambda: reason)
    assert _tensorflow_ops.obstacle(OnGpu()) == reason
    assert _tensorflow_ops.obstacle(tf.ones(3)) == ""
    assert not _tensorflow_ops.may_be_on_gpu(Traced())
    # With a GPU a trace may run there; an eager tensor says where it is.
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert _tensorflow_ops.may_be_on_gpu(Traced())
    assert not _tensorflow_ops.may_be_on_gpu(tf.ones(3))
    assert _tensorflow_ops.obstacle(Traced()) == reason
    more = "; on a GPU Keras: no kernels" if reason else ""
    assert ft.backend() == f"fastloss{more}"


def test_kernels_are_registered_when_the_first_tensor_on_a_gpu_is_seen(monkeypatch: Any) -> None:
    registered: list[Any] = []

    class Kernels:
        XLA_HANDLER = "the handler"

    monkeypatch.setattr(_core, "register_xla_handler", lambda *given: registered.append(given[1:]))
    monkeypatch.setattr(fastloss, "_cuda", Kernels, raising=False)
    monkeypatch.setitem(sys.modules, "fastloss._cuda", Kernels)
    look = _tensorflow_ops._no_cuda.__wrapped__
    assert look() == ""
    assert registered == [(_core.XLA_TARGET, "CUDA", "the handler")]
    monkeypatch.setattr(_tensorflow_ops, "_NO_XLA", "no XLA")
    assert look() == "no XLA"
    monkeypatch.setitem(sys.modules, "fastloss._cuda", None)
    monkeypatch.delattr(fastloss, "_cuda")
    assert look() == "y_pred is on a GPU, and fastloss was built without CUDA kernels"
    assert len(registered) == 1
