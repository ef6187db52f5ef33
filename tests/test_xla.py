"""The handlers of XLA's custom calls, called by JAX: for the CPU, and by the same tests for CUDA.

Those for CUDA run on the host's emulation of the device code always, on a card if there is one.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import fastloss
from cases import (
    CASES,
    SPECS,
    assert_close,
    by_sample,
    cases,
    draw,
    losses,
    make,
    one_class_is_allowed,
    resolved,
    value_shape,
)
from composition import Call
from device import load
from fastloss import _core, _evaluate
from fastloss._evaluate import REDUCTIONS, GridPlan
from fastloss._plans import make_plan
from fastloss._registry import BY_NAME, LossSpec

jax = pytest.importorskip("jax", reason="JAX, which calls the handlers here, is not installed")

pytestmark = one_class_is_allowed


class Handler(NamedTuple):
    """Custom calls to `target`, compiled for a device of JAX."""

    target: str
    device: Any
    emulation: Any = None

    @property
    def is_host(self) -> bool:
        return self.target == "fastloss_host"

    def __call__(self, call: str, inputs: list[Any], outputs: list[tuple[Any, Any]]) -> list[Any]:
        """The outputs, of these (shape, dtype), as NumPy arrays."""
        results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in outputs]

        @jax.jit
        def step(*arrays: Any) -> Any:
            # Something before and after, so that XLA has to put the call into its order of things.
            arrays = [x if x.dtype == bool else x + np.zeros((), x.dtype) for x in arrays]
            made = jax.ffi.ffi_call(self.target, results)(*arrays, call=call)
            return [x + np.zeros((), x.dtype) for x in made]

        with jax.enable_x64(True):
            return [np.asarray(x) for x in step(*(jax.device_put(a, self.device) for a in inputs))]


_registered: dict[str, Handler] = {}  # JAX takes a name once


def _host() -> Handler:
    jax.ffi.register_ffi_target("fastloss_host", _core.XLA_HANDLER, platform="cpu")
    return Handler("fastloss_host", jax.devices("cpu")[0])


def _emulated(library: Path) -> Handler:
    load(library)  # what it needs of Python
    functions = ctypes.CDLL(str(library))
    functions.xla_scratch_in_use.restype = functions.xla_calls.restype = ctypes.c_size_t
    capsule = jax.ffi.pycapsule(functions.xla_handler_on_host)
    jax.ffi.register_ffi_target("fastloss_emulated", capsule, platform="cpu")
    return Handler("fastloss_emulated", jax.devices("cpu")[0], functions)


def _card() -> Handler:
    cuda = pytest.importorskip("fastloss._cuda", reason="fastloss was built without CUDA")
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError as error:
        pytest.skip(f"JAX finds no GPU: {error}")
    jax.ffi.register_ffi_target("fastloss_cuda", cuda.XLA_HANDLER, platform="CUDA")
    return Handler("fastloss_cuda", device)


@pytest.fixture(params=["host", "emulated", pytest.param("card", marks=pytest.mark.gpu)])
def handler(request: Any) -> Handler:
    if request.param not in _registered:
        if request.param == "emulated":
            made = _emulated(request.getfixturevalue("emulation"))
        else:
            made = {"host": _host, "card": _card}[request.param]()
        _registered[request.param] = made
    return _registered[request.param]


WORDS = {
    None: "none",
    "sum": "sum",
    "mean": "mean",
    "mean_with_sample_weight": "mean_with_sample_weight",
}


def line(plan: GridPlan, reduction: str | None, inputs: str, outputs: str) -> str:
    assert reduction in REDUCTIONS
    return f"{WORDS[reduction]} {inputs} {outputs} {plan.compiled.line()}"


def plan_of(spec: LossSpec, options: Any) -> GridPlan:
    plan = make_plan(spec, dict(options))
    assert isinstance(plan, GridPlan)
    return plan


def compare(
    handler: Handler, spec: LossSpec, options: Any, reduction: Any, t: Any, p: Any, **given: Any
) -> None:
    """Value and gradients of a custom call are those of the CPU."""
    inputs, outputs = ["y_true", "y_pred", *given], ["value", "grad_pred"]
    wide = np.dtype("f8") if p.dtype == np.float64 else np.dtype("f4")
    rows = value_shape(spec, options, p.shape)
    made = [(() if reduction else rows, wide), (p.shape, p.dtype)]
    if spec.labels == "dense":
        outputs.append("grad_true")
        made.append((t.shape, p.dtype))
    call = line(plan_of(spec, options), reduction, ",".join(inputs), ",".join(outputs))
    ours = handler(call, [t, p, *given.values()], made)
    loss = make(spec, options, reduction=reduction)
    wrt = "both" if spec.labels == "dense" else "y_pred"
    value, grads = loss.value_and_grad(t, p, wrt=wrt, **given)
    factors = {k: a for k, a in given.items() if k != "upstream"}
    terms = Call(spec, t, p, options, reduction=reduction, **factors)
    # The terms of a cosine cancel; they are of the order of one.
    scale = 1 if spec.name == "cosine_similarity" else terms.value_scale()
    assert_close(ours[0], value, wide, scale=scale)
    for mine, exact in zip(ours[1:], grads if wrt == "both" else [grads], strict=True):
        # A row of one class: a difference that may be exactly zero, as in test_gradients.
        alone = 4 * np.abs(terms.coefficients()).mean() if terms.grid[1] == 1 else 0
        assert_close(mine, exact, p.dtype, scale=np.abs(exact).mean() + alone)


@pytest.mark.parametrize("reduction", ["mean", None])
@cases
def test_value_and_gradients_are_the_cpus(
    handler: Handler, spec: LossSpec, options: Any, reduction: Any, rng: Any
) -> None:
    options = resolved(spec, options, (5, 3, 17))
    t, p = draw(spec, options, (5, 3, 17), np.float32, rng)
    compare(handler, spec, options, reduction, t, p)


@pytest.mark.parametrize("shape", [(1, 1), (3, 423), (2, 32000)], ids=str)
@losses
def test_rows_of_any_length_agree(handler: Handler, spec: LossSpec, shape: Any, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, shape, np.float64, rng)
    compare(handler, spec, options, "sum", t, p)


@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight", None])
@losses
def test_weights_masks_and_upstream_agree(
    handler: Handler, spec: LossSpec, reduction: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (6, 4, 9), np.float64, rng)
    weight, mask = rng.uniform(0.5, 2, (6, 4)), rng.random((6, 4)) < 0.7
    upstream = np.array(-2.5) if reduction else rng.normal(size=(6, 4))
    compare(
        handler, spec, options, reduction, t, p, sample_weight=weight, mask=mask, upstream=upstream
    )


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", ["huber", "sparse_categorical_crossentropy", "dice"])
def test_halves_have_a_wide_value_and_a_gradient_rounded_once(
    handler: Handler, name: str, stored: Any, rng: Any
) -> None:
    spec = BY_NAME[name]
    t, p = draw(spec, {}, (8, 24), np.float32, rng)
    t, p = (t.astype(np.int32) if spec.labels == "integer" else t.astype(stored)), p.astype(stored)
    value, grad = make(spec, {}).value_and_grad(t, p)
    call = line(plan_of(spec, {}), "mean", "y_true,y_pred", "value,grad_pred")
    ours = handler(call, [t, p], [((), np.float32), (p.shape, stored)])
    np.testing.assert_allclose(ours[0], value, rtol=2e-6)
    error = np.abs(ours[1].astype("f8") - grad.astype("f8"))
    unit = 2.0**-7 if stored is ml_dtypes.bfloat16 else 2.0**-10
    # Below the smallest normal half, a unit is absolute.
    assert (error <= unit * np.abs(grad.astype("f8")) + 2.0**-24).all()


def test_circle_is_a_row_loss_of_similarities(handler: Handler, rng: Any) -> None:
    pairs = (rng.integers(0, 3, 6)[:, None] == rng.integers(0, 3, 7)).astype(np.uint8)
    similarity = rng.uniform(-1, 1, (6, 7))
    plan = GridPlan(BY_NAME["circle"], {"gamma": 4.0})
    call = line(plan, None, "y_true,y_pred", "value,grad_pred")
    ours = handler(call, [pairs, similarity], [((6,), np.float64), ((6, 7), np.float64)])
    values, grad, _ = plan.evaluate(_evaluate.Call(pairs, similarity, None, wrt="y_pred"))
    np.testing.assert_allclose(ours[0], values, rtol=1e-12)
    np.testing.assert_allclose(ours[1], grad, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("outputs", ["value", "grad_pred", "grad_true,grad_pred"])
@pytest.mark.parametrize("reduction", ["mean", None])
@pytest.mark.parametrize("name", ["huber", "categorical_crossentropy", "dice"])
def test_outputs_are_those_that_are_asked_for(
    handler: Handler, name: str, reduction: Any, outputs: str, rng: Any
) -> None:
    spec = BY_NAME[name]
    options = by_sample(spec)
    t, p = draw(spec, options, (5, 31), np.float64, rng)
    loss = make(spec, options, reduction=reduction)
    value, (grad_pred, grad_true) = loss.value_and_grad(t, p, wrt="both")
    expected = {"value": value, "grad_pred": grad_pred, "grad_true": grad_true}
    wanted = outputs.split(",")
    call = line(plan_of(spec, options), reduction, "y_true,y_pred", outputs)
    made = handler(call, [t, p], [(np.shape(expected[o]), np.float64) for o in wanted])
    for mine, o in zip(made, wanted, strict=True):
        np.testing.assert_allclose(mine, expected[o], rtol=1e-12, atol=1e-15)


@losses
def test_empty_batch(handler: Handler, spec: LossSpec) -> None:
    options = by_sample(spec)
    p = np.zeros((0, 4), np.float32)
    t = np.zeros(0, np.int64) if spec.labels == "integer" else p
    for reduction, shape in (("mean", ()), (None, (0,))):
        call = line(plan_of(spec, options), reduction, "y_true,y_pred", "value,grad_pred")
        value, grad = handler(call, [t, p], [(shape, np.float32), ((0, 4), np.float32)])
        np.testing.assert_array_equal(value, np.zeros(shape))
        assert grad.shape == (0, 4)


def test_calls_in_a_row_read_and_write_their_own_arrays(handler: Handler, rng: Any) -> None:
    # On the CPU, what was fitted for a call is kept for the next one.
    loss = fastloss.LogCosh()
    inputs, outputs = "y_true,y_pred,sample_weight,mask", "value,grad_pred,grad_true"
    call = line(plan_of(loss.spec, {}), "mean", inputs, outputs)
    made = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((), (6, 5), (6, 5))]

    @jax.jit
    def step(*arrays: Any) -> Any:
        return jax.ffi.ffi_call(handler.target, made)(*arrays, call=call)

    calls = []
    for _ in range(4):
        t, p = rng.normal(size=(2, 6, 5)).astype("f4")
        weight, mask = rng.random(6).astype("f4"), rng.random(6) < 0.7
        given = [jax.device_put(a, handler.device) for a in (t, p, weight, mask)]
        expected = loss.value_and_grad(t, p, sample_weight=weight, mask=mask, wrt="both")
        calls.append((step(*given), expected, given))
    for ours, (value, gradients), _ in calls:  # all of them are still there
        for mine, exact in zip(ours, (value, *gradients), strict=True):
            assert_close(mine, exact, np.float32)


def test_label_out_of_range(handler: Handler, rng: Any) -> None:
    spec = BY_NAME["sparse_categorical_crossentropy"]
    t, p = np.array([0, 6, 1]), rng.normal(size=(3, 6))
    plan = plan_of(spec, {"from_logits": True})
    call = line(plan, None, "y_true,y_pred", "value,grad_pred")
    made = [((3,), np.float64), ((3, 6), np.float64)]
    if handler.is_host:
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"y_true\[1\]: labels must be in"):
            handler(call, [t, p], made)
        return
    values, grad = handler(call, [t, p], made)
    np.testing.assert_array_equal(np.isnan(values), [False, True, False])
    assert (grad[1] == 0).all()
    assert (grad[::2] != 0).all()


@pytest.mark.parametrize(
    ("call", "shapes", "message"),
    [
        ("{} huber parameters=0x1p+0 axes=-1", [(2, 3), (2, 4)], "y_true: expected the shape of"),
        ("{} no_such_loss parameters=", [(2, 4), (2, 4)], "has no loss no_such_loss"),
        ("{} mean_squared_error parameters= axes=-1", [(2, 3, 1), (2, 3, 4)], "y_true: expected"),
        ("{},upstream_less huber parameters=0x1p+0", [(2, 4), (2, 4)], "other inputs and outputs"),
    ],
    ids=["shape", "loss", "last axis", "outputs"],
)
def test_call_that_does_not_fit_is_an_error(
    handler: Handler, call: str, shapes: Any, message: str
) -> None:
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    text = call.format("mean y_true,y_pred value")
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        handler(text, arrays, [((), np.float32)])


@pytest.mark.parametrize("outputs", ["value,grad_pred", "value", "grad_pred"])
def test_ctc(handler: Handler, outputs: str, rng: Any) -> None:
    labels, logits = rng.integers(1, 5, (3, 3)), rng.normal(size=(3, 8, 5))
    lengths = {"label_length": np.array([3, 1, 2]), "logit_length": np.array([8, 6, 7])}
    upstream = rng.normal(size=3)
    call = f"none y_true,y_pred,label_length,logit_length,upstream {outputs} ctc blank=0"
    shapes = {"value": (3,), "grad_pred": (3, 8, 5)}
    made = [(shapes[o], np.float64) for o in outputs.split(",")]
    ours = handler(call, [labels, logits, *lengths.values(), upstream], made)
    loss = fastloss.CTC(reduction=None)
    value, grad = loss.value_and_grad(labels, logits, upstream=upstream, **lengths)
    expected = {"value": value, "grad_pred": grad}
    for mine, o in zip(ours, outputs.split(","), strict=True):
        np.testing.assert_allclose(mine, expected[o], rtol=1e-11, atol=1e-14)


def test_stream_is_xlas_and_scratch_memory_is_given_back(emulation: Path, rng: Any) -> None:
    if "emulated" not in _registered:
        _registered["emulated"] = _emulated(emulation)
    handler = _registered["emulated"]
    before = handler.emulation.xla_calls()
    few = [(s, o) for s, o in CASES if s in SPECS[:3] or "class_weight" in o]
    for spec, options in few:
        options = resolved(spec, options, (5, 9))
        t, p = draw(spec, options, (5, 9), np.float32, rng)
        compare(handler, spec, options, "mean", t, p)
    assert handler.emulation.xla_calls() == before + len(few)
    assert handler.emulation.xla_scratch_in_use() == 0
