"""The losses as differentiable functions on TensorFlow tensors: eager and in ``tf.function``.

Every function of `fastloss` exists here under the same name, with the same options; tensors go in
and one value per sample comes out, with gradients for y_pred and, where it is not integer, y_true.
Second derivatives raise ``NotImplementedError``. Under XLA (``jit_compile=True``) Keras's own
function runs instead, with one warning.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError(
        "fastloss.tensorflow needs TensorFlow: pip install 'fastloss[tensorflow]'"
    ) from error
from tensorflow.python.eager import record
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

from fastloss._build import make_function
from fastloss._evaluate import Array, Plan, evaluate
from fastloss._registry import REGISTRY, LossSpec

__all__ = [spec.name for spec in REGISTRY]


def fused_loss(
    plan: Plan,
    y_true: Any,
    y_pred: Any,
    *,
    reduction: str | None,
    sample_weight: Any = None,
    mask: Any = None,
) -> Any:
    """The loss as a tensor that TensorFlow differentiates by the compiled gradient.

    While something records, a reduced loss makes its value and gradient in one pass. Otherwise
    there is a value only, and the gradient, should it be asked for, is a pass of its own that folds
    in what flows back.
    """
    y_pred = tf.convert_to_tensor(y_pred)
    y_true = tf.convert_to_tensor(y_true)
    own_dtype = y_pred.dtype
    if own_dtype in (tf.float16, tf.bfloat16):
        y_pred = tf.cast(y_pred, tf.float32)
    elif not own_dtype.is_floating:
        y_pred = tf.cast(y_pred, tf.float32)
        own_dtype = tf.float32
    if y_true.dtype in (tf.float16, tf.bfloat16):
        y_true = tf.cast(y_true, tf.float32)
    factors = [tf.convert_to_tensor(x) for x in (sample_weight, mask) if x is not None]
    factors = [
        tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x for x in factors
    ]
    one_pass = reduction not in (None, "none") and record.could_possibly_record()
    value_shape = _value_shape(plan, y_pred.shape) if reduction in (None, "none") else ()

    def compute(wrt: Any, *arrays: Array) -> list[Any]:
        """Value and gradients of arrays (y_true, y_pred, factors ..., upstream if wrt)."""
        true, pred, *rest = arrays
        upstream: Any = 1.0 if wrt is None or one_pass else rest.pop()
        weight = rest.pop(0) if sample_weight is not None else None
        return list(
            evaluate(
                plan,
                true,
                pred,
                reduction=reduction,
                sample_weight=weight,
                mask=rest.pop(0) if mask is not None else None,
                upstream=upstream,
                wrt=wrt,
            )
        )

    def gradient(wrt: str, arrays: list[Any], like: Any) -> Any:
        def one(*x: Array) -> list[Any]:
            return [compute(wrt, *x)[1 if wrt == "y_pred" else 2]]

        return _bridge(one, arrays, [(y_pred.dtype, like.shape)])[0]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def fused(y_true: Any, y_pred: Any, *factors: Any) -> Any:
        inputs = [y_true, y_pred, *factors]
        grad_pred = None
        if one_pass:
            value, grad_pred = _bridge(
                lambda *x: compute("y_pred", *x)[:2],
                inputs,
                [(y_pred.dtype, value_shape), (y_pred.dtype, y_pred.shape)],
            )
        else:
            value = _bridge(
                lambda *x: compute(None, *x)[:1], inputs, [(y_pred.dtype, value_shape)]
            )[0]
        # Eager TensorFlow would compute what nobody asks for; a graph prunes it.
        wants_true = (
            not plan.sparse
            and y_true.dtype.is_floating
            and (not tf.executing_eagerly() or record.should_record_backprop([y_true]))
        )

        def backward(d_value: Any) -> list[Any]:
            if grad_pred is not None:
                pred = grad_pred * d_value
            else:
                pred = gradient("y_pred", [*inputs, d_value], y_pred)
            true = None
            if wants_true:
                upstream = [] if one_pass else [d_value]
                true = gradient("y_true", [*inputs, *upstream], y_true)
                true = tf.cast(true * d_value if one_pass else true, y_true.dtype)
            return [true, _differentiable_once(pred, plan.spec, y_pred), *(None for _ in factors)]

        return value, backward

    return tf.cast(fused(y_true, y_pred, *factors), own_dtype)


def _bridge(
    function: Callable[..., list[Any]], inputs: list[Any], outputs: list[tuple[Any, Any]]
) -> list[Any]:
    """Calls ``function`` on the inputs as arrays; the outputs are (dtype, static shape) pairs."""
    if tf.executing_eagerly():
        return [tf.convert_to_tensor(x) for x in function(*map(_as_array, inputs))]
    # Stateless, so that a gradient nobody uses is pruned.
    tensors = tf.numpy_function(function, inputs, [dtype for dtype, _ in outputs], stateful=False)
    for tensor, (_, shape) in zip(tensors, outputs, strict=True):
        tensor.set_shape(shape)
    return list(tensors)


def _as_array(tensor: Any) -> Array:
    """The memory of an eager tensor, without the copy that ``.numpy()`` makes on the CPU."""
    if "GPU" in tensor.device:
        return np.asarray(tensor.numpy())
    return np.asarray(memoryview(tensor))


def _value_shape(plan: Plan, shape: Any) -> Any:
    if shape.rank is None:
        return None
    axes = plan.axes(shape.rank)
    return [n for d, n in enumerate(shape) if d not in axes]


def _differentiable_once(gradient: Any, spec: LossSpec, y_pred: Any) -> Any:
    """``gradient``, refusing to be differentiated: TensorFlow would take it for a constant."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def guarded(gradient: Any, y_pred: Any) -> Any:
        def refuse(_: Any) -> Any:
            raise NotImplementedError(
                f"fastloss: second derivatives of {spec.name} are not available; use "
                f"keras.losses.{spec.class_name} where a loss is differentiated twice"
            )

        return tf.identity(gradient), refuse

    return guarded(gradient, y_pred)


def in_xla() -> bool:
    """Whether the current trace will be compiled by XLA, which cannot call back into Python."""
    return not tf.executing_eagerly() and bool(
        control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())
    )


@functools.cache
def _warn_of_fallback() -> None:
    warnings.warn(
        "fastloss: XLA (jit_compile=True) is not supported yet; Keras's own losses run instead",
        RuntimeWarning,
        stacklevel=2,
    )


def keras_values(spec: LossSpec, y_true: Any, y_pred: Any, parameters: dict[str, Any]) -> Any:
    """The losses of the samples from Keras's own function: what runs under XLA."""
    import keras

    function = getattr(keras.losses, spec.name, None)
    if function is None:
        raise NotImplementedError(
            f"fastloss: {spec.name} does not run under XLA; compile with jit_compile=False"
        )
    _warn_of_fallback()
    known = {k: v for k, v in parameters.items() if not (k == "smooth" and v is None)}
    return function(y_true, y_pred, **known)


def per_sample(plan: Plan, y_true: Any, y_pred: Any) -> Any:
    """One value per sample, by the route that the current trace allows."""
    if in_xla():
        return keras_values(plan.spec, y_true, y_pred, plan.parameters)
    return fused_loss(plan, y_true, y_pred, reduction=None)


for _spec in REGISTRY:
    globals()[_spec.name] = make_function(_spec, __name__, per_sample)
