"""The compiled losses as operations on tensors: TensorFlow's ops, and custom calls under XLA."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.compiler.mlir.stablehlo import stablehlo
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.eager import context, execute, record
from tensorflow.python.framework import op_def_library, ops
from tensorflow.python.ops import control_flow_util

from fastloss import _core
from fastloss._evaluate import CompiledPlan, Plan

_OLDEST, _NEWEST = (2, 18), (2, 21)


def _register(register: Any, library: str) -> str:
    """Why TensorFlow cannot run the compiled losses; empty if it can."""
    version = tuple(int(n) for n in tf.__version__.split(".")[:2])
    if not _OLDEST <= version <= _NEWEST:
        return f"TensorFlow {tf.__version__} has not been tried; 2.18 to 2.21 have"
    name = f"{library}.2.dylib" if sys.platform == "darwin" else f"{library}.so.2"
    try:
        register(os.path.join(tf.sysconfig.get_lib(), name))
    except RuntimeError as error:
        return str(error)
    return ""


def _register_xla(platform: str, handler: Any) -> str:
    def register(path: str) -> None:
        _core.register_xla_handler(path, _core.XLA_TARGET, platform, handler)

    return _register(register, "libtensorflow_cc")


_NO_OPS = _register(_core.register_tensorflow_ops, "libtensorflow_framework")
_NO_XLA = _register_xla("Host", _core.XLA_HANDLER)


@functools.cache
def _no_cuda() -> str:
    """Why tensors on a GPU cannot take the compiled losses; empty if they can.

    Asked when the first of them is seen, because it loads the CUDA kernels.
    """
    try:
        from fastloss import _cuda
    except ImportError:
        return "y_pred is on a GPU, and fastloss was built without CUDA kernels"
    return _NO_XLA or _register_xla("CUDA", _cuda.XLA_HANDLER)


# What portable artifacts are written for; every supported TensorFlow reads it.
_STABLEHLO = "1.3.0"


def backend() -> str:
    """What computes the losses of tensors.

    Returns
    -------
    str
        ``"fastloss"``; or ``"fastloss, and Keras under XLA: <reason>"`` or ``"Keras: <reason>"``
        where TensorFlow lacks what the compiled losses need.

    Notes
    -----
    Where TensorFlow has a GPU, it also says whether tensors there take Keras's own functions.
    """
    if _NO_OPS:
        return f"Keras: {_NO_OPS}"
    text = f"fastloss, and Keras under XLA: {_NO_XLA}" if _NO_XLA else "fastloss"
    if _has_gpu() and _no_cuda():
        text += f"; on a GPU Keras: {_no_cuda()}"
    return text


def in_xla() -> bool:
    """Whether the current trace will be compiled by XLA."""
    return not tf.executing_eagerly() and bool(
        control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())
    )


def obstacle(y_pred: Any) -> str:
    """Why the compiled losses cannot be used here; empty if they can."""
    if may_be_on_gpu(y_pred):
        return _no_cuda()
    return _NO_XLA if in_xla() else _NO_OPS


def _has_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def placed_with(x: Any) -> AbstractContextManager[Any]:
    """Where eager operations stay on the GPU of a tensor, rather than go to the first."""
    if tf.executing_eagerly() and may_be_on_gpu(x):
        device: AbstractContextManager[Any] = tf.device(x.device)
        return device
    return nullcontext()


def may_be_on_gpu(x: Any) -> bool:
    """Whether the tensor is on a GPU, or its trace, which does not say where, may run on one."""
    device = getattr(x, "device", "")
    return "GPU" in device if device else _has_gpu()


class Output(NamedTuple):
    """An output of an operation: its name, its dtype, and its shape as far as it is known."""

    name: str
    dtype: Any
    shape: Any
    axes: tuple[int, ...] | None = None
    """The axes of y_true (for grad_true) or y_pred that the shape consists of; None is all."""


class Operation:
    """A plan with a reduction, applied to the same tensors once or several times."""

    def __init__(self, plan: Plan, reduction: str | None, inputs: dict[str, Any]) -> None:
        self._plan = _plan_text(plan)
        self._reduction = _REDUCTION[reduction]
        self._inputs = inputs
        self._on_gpu = may_be_on_gpu(inputs["y_pred"])
        self._check_static_shapes()

    def __call__(self, *outputs: Output, upstream: Any = None) -> list[Any]:
        """The outputs; ``upstream`` multiplies gradients."""
        inputs = self._inputs if upstream is None else {**self._inputs, "upstream": upstream}
        line = self._line(inputs, [o.name for o in outputs])
        tensors = list(inputs.values())
        if tf.executing_eagerly() and not self._on_gpu:
            return _run_now(line, tensors, outputs)
        # Whoever called has the derivatives: a forward accumulator is not to look for its own.
        with record.stop_recording():
            if not (self._on_gpu or in_xla()):
                return _add(line, tensors, outputs)
            # TensorFlow hands the stream of a GPU to nobody but XLA.
            return _custom_call(line, tensors, outputs)

    def _line(self, inputs: Any, outputs: list[str]) -> str:
        return f"{self._reduction} {','.join(inputs)} {','.join(outputs)} {self._plan}"

    def _check_static_shapes(self) -> None:
        """Raises ValueError for what the kernel would refuse, as far as shapes are known."""
        inputs = self._inputs
        checks_itself = tf.executing_eagerly() and not self._on_gpu
        if not checks_itself and all(x.shape.is_fully_defined() for x in inputs.values()):
            _check(
                self._line(inputs, ["value"]),
                tuple((x.dtype.name, tuple(x.shape)) for x in inputs.values()),
            )


_REDUCTION = {
    None: "none", "none": "none", "sum": "sum", "mean": "mean", "sum_over_batch_size": "mean",
    "mean_with_sample_weight": "mean_with_sample_weight",
}  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _check(line: str, inputs: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    _core.check_operation(line, [(dtype, list(shape)) for dtype, shape in inputs])


def _plan_text(plan: Plan) -> str:
    if isinstance(plan, CompiledPlan):
        return plan.compiled.line()
    return f"ctc blank={plan.parameters['blank']}"


def _run_now(line: str, inputs: list[Any], outputs: tuple[Output, ...]) -> list[Any]:
    attributes = (
        "call", line,
        "Tin", [x.dtype.as_datatype_enum for x in inputs],
        "Tout", [o.dtype.as_datatype_enum for o in outputs],
    )  # fmt: skip
    try:
        results: list[Any] = execute.execute(
            _core.TENSORFLOW_LOSS_OP.encode(), len(outputs), inputs, attributes, context.context()
        )
    except tf.errors.InvalidArgumentError:
        # Shapes are static here: what is wrong with them is a ValueError, as in a trace.
        without_upstream = line.replace(",upstream ", " ", 1)
        shapes = [(x.dtype.name, tuple(x.shape)) for x in inputs]
        _check(without_upstream, tuple(shapes[: len(shapes) - (without_upstream != line)]))
        raise
    return results


# What XLA's error shows if the function that is traced is compiled after all, as a part of another.
_GRAPH_NODE = "fastloss_traced_outside_jit_compile"


def _add(line: str, inputs: list[Any], outputs: tuple[Output, ...]) -> list[Any]:
    """The op in the graph that is being traced."""
    _, _, _, results = op_def_library._apply_op_helper(
        _core.TENSORFLOW_LOSS_OP,
        name=_GRAPH_NODE,
        inputs=inputs,
        call=line,
        Tout=[o.dtype for o in outputs],
    )
    for tensor, output in zip(results, outputs, strict=True):
        tensor.set_shape(output.shape)
    return list(results)


def scale_gradient(grad: Any, upstream: Any, axes: list[int], dtype: Any) -> Any:
    """``grad * upstream`` as ``dtype``; ``upstream`` is a scalar or lacks the axes of ``grad``."""
    if upstream.shape.rank == 0 and grad.dtype == dtype and tf.get_static_value(upstream) == 1:
        return grad
    if in_xla() or may_be_on_gpu(grad):  # XLA merges it with what else it finds
        if upstream.shape.rank != 0:
            for axis in axes:
                upstream = tf.expand_dims(upstream, axis)
        return tf.cast(tf.math.multiply_no_nan(grad, tf.cast(upstream, grad.dtype)), dtype)
    line = " ".join(map(str, axes))
    if tf.executing_eagerly():
        types = [t.as_datatype_enum for t in (grad.dtype, upstream.dtype, dtype)]
        attributes = ("axes", line, "T", types[0], "U", types[1], "S", types[2])
        return execute.execute(
            _core.TENSORFLOW_SCALE_OP.encode(), 1, [grad, upstream], attributes, context.context()
        )[0]
    _, _, _, results = op_def_library._apply_op_helper(
        _core.TENSORFLOW_SCALE_OP, name="scale", grad=grad, upstream=upstream, axes=line, S=dtype
    )
    return results[0] if isinstance(results, list) else results


# ---- XLA ----

_MLIR = {
    tf.bool: "i1", tf.int8: "i8", tf.int16: "i16", tf.int32: "i32", tf.int64: "i64",
    tf.uint8: "ui8", tf.uint16: "ui16", tf.uint32: "ui32", tf.uint64: "ui64",
    tf.float16: "f16", tf.bfloat16: "bf16", tf.float32: "f32", tf.float64: "f64",
}  # fmt: skip


def _mlir_type(dtype: Any, shape: Any) -> str:
    return f"tensor<{''.join('?x' if n is None else f'{n}x' for n in shape)}{_MLIR[dtype]}>"


def _custom_call(line: str, inputs: list[Any], outputs: tuple[Output, ...]) -> list[Any]:
    """The call in the graph that XLA will compile."""
    if any(x.shape.rank is None for x in inputs):
        where = "under XLA" if in_xla() else "on a GPU"
        raise ValueError(
            f"fastloss: {where} the rank of every tensor must be known; write it into the "
            "input_signature, as in tf.TensorSpec([None, None]), or call tf.ensure_shape"
        )
    module = _module(
        line,
        tuple((x.dtype, tuple(x.shape)) for x in inputs),
        tuple((o.name, o.dtype, tuple(o.shape), o.axes) for o in outputs),
    )
    results = gen_xla_ops.xla_call_module(
        args=inputs,
        version=9,
        module=module,
        Sout=[o.shape for o in outputs],
        Tout=[o.dtype for o in outputs],
        # The name stands for any: XLA takes the handler of the device that it compiles for.
        platforms=["CPU"],
        disabled_checks=["platform"],
    )
    return list(results)


def _shape_operand(name: str, of: str, of_type: str, axes: tuple[int, ...]) -> str:
    """Statements that define ``name`` as the sizes of an array along the axes."""
    if not axes:
        return f"{name} = stablehlo.constant dense<> : tensor<0xi32>\n"
    lines, parts = [], [f"{name}d{axis}" for axis in axes]
    for part, axis in zip(parts, axes, strict=True):
        lines += [
            f"{part}s = stablehlo.get_dimension_size {of}, dim = {axis} : "
            f"({of_type}) -> tensor<i32>",
            f"{part} = stablehlo.reshape {part}s : (tensor<i32>) -> tensor<1xi32>",
        ]
    types = ", ".join(["tensor<1xi32>"] * len(axes))
    lines.append(
        f"{name} = stablehlo.concatenate {', '.join(parts)}, dim = 0 : ({types}) -> "
        f"tensor<{len(axes)}xi32>"
    )
    return "\n    ".join(lines) + "\n"


@functools.lru_cache(maxsize=4096)
def _module(line: str, inputs: Any, outputs: Any) -> bytes:
    """A StableHLO module that calls the compiled handler; a size of None is found at run time."""
    arguments = [f"%a{i}" for i in range(len(inputs))]
    types = [_mlir_type(dtype, shape) for dtype, shape in inputs]
    results = ", ".join(_mlir_type(dtype, shape) for _, dtype, shape, _ in outputs)
    statements, attributes = [], f'call = "{line}"'
    operands, operand_types = list(arguments), list(types)
    more = ""
    if any(None in shape for _, _, shape, _ in outputs):
        for i, (name, _, shape, axes) in enumerate(outputs):
            source = 0 if name == "grad_true" else 1
            axes = tuple(range(len(shape))) if axes is None else axes
            statements.append(_shape_operand(f"%s{i}", arguments[source], types[source], axes))
            operands.append(f"%s{i}")
            operand_types.append(f"tensor<{len(axes)}xi32>")
        places = list(range(len(arguments), len(operands)))
        more = f", indices_of_shape_operands = dense<{places}> : tensor<{len(places)}xi64>"
    many = len(outputs) > 1
    returned = ", ".join(f"%r#{i}" if many else "%r" for i in range(len(outputs)))
    parameters = ", ".join(f"{a}: {t}" for a, t in zip(arguments, types, strict=True))
    result = f"%r:{len(outputs)}" if many else "%r"
    text = f"""
module @fastloss attributes {{jax.uses_shape_polymorphism = true}} {{
  func.func public @main({parameters}) -> ({results}) {{
    {"    ".join(statements)}
    {result} = stablehlo.custom_call @{_core.XLA_TARGET}({", ".join(operands)}) {{
      api_version = 4 : i32, backend_config = {{{attributes}}}{more}
    }} : ({", ".join(operand_types)}) -> ({results})
    return {returned} : {results}
  }}
}}"""
    module: bytes = stablehlo.serialize_portable_artifact_str(text, _STABLEHLO)
    return module
