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
from typing import TYPE_CHECKING, Any

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
from fastloss._evaluate import Array, Plan
from fastloss._pairwise import PairwisePlan
from fastloss._registry import REGISTRY, LossSpec

__all__ = [spec.name for spec in REGISTRY]

if TYPE_CHECKING:  # the names are made below, from the registry

    def __getattr__(name: str) -> Any: ...


def fused_loss(
    plan: Plan,
    y_true: Any,
    y_pred: Any,
    *,
    reduction: str | None,
    sample_weight: Any = None,
    mask: Any = None,
    **arrays: Any,
) -> Any:
    """The loss as a tensor that TensorFlow differentiates by the compiled gradient.

    While something records, a reduced loss makes its value and gradient in one pass. Otherwise
    there is a value only, and the gradient, should it be asked for, is a pass of its own that folds
    in what flows back.
    """
    y_pred = tf.convert_to_tensor(y_pred)
    own_dtype = y_pred.dtype if y_pred.dtype.is_floating else tf.float32
    y_pred = _widened(y_pred if y_pred.dtype.is_floating else tf.cast(y_pred, tf.float32))
    y_true = _widened(tf.convert_to_tensor(y_true))
    more = {"sample_weight": sample_weight, "mask": mask, **arrays}
    more = {n: _widened(tf.convert_to_tensor(x)) for n, x in more.items() if x is not None}
    factors = list(more.values())
    one_pass = reduction not in (None, "none") and record.could_possibly_record()
    value_shape = _value_shape(plan, y_pred.shape) if reduction in (None, "none") else ()

    def compute(wrt: Any, *inputs: Array) -> list[Any]:
        """Value and gradients of arrays (y_true, y_pred, factors ..., upstream if wrt)."""
        true, pred, *rest = inputs
        upstream: Any = 1.0 if wrt is None or one_pass else rest.pop()
        given = dict(zip(more, rest, strict=True))
        value, *gradients = plan.evaluate(
            true, pred, reduction=reduction, upstream=upstream, wrt=wrt, **given
        )
        if reduction not in (None, "none") and np.ndim(value):
            # An empty batch, which a trace cannot tell from others: as Keras, its sum is 0.
            value = value.sum()
        return [value, *gradients]

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
            plan.spec.labels == "dense"
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


def _widened(tensor: Any) -> Any:
    """Half types as float32, which is what their losses are computed in."""
    return tf.cast(tensor, tf.float32) if tensor.dtype in (tf.float16, tf.bfloat16) else tensor


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


def keras_values(
    spec: LossSpec, y_true: Any, y_pred: Any, parameters: dict[str, Any], **arrays: Any
) -> Any:
    """The losses of the samples from Keras's own function: what runs under XLA."""
    from fastloss._keras_functions import ORIGINAL, compute

    if spec.name not in ORIGINAL:
        raise NotImplementedError(
            f"fastloss: {spec.name} does not run under XLA; compile with jit_compile=False"
        )
    _warn_of_fallback()
    if spec.kind == "sequence":  # Keras's function takes tensors alone
        y_true, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
    return compute(spec, y_true, y_pred, parameters, **arrays)


def _similarities(
    y_true: Any, y_pred: Any, ref_labels: Any = None, ref_embeddings: Any = None,
    *, remove_diagonal: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """What `PairwisePlan.rows` takes, by operations that TensorFlow itself differentiates."""

    def full(x: Any) -> Any:
        x = tf.convert_to_tensor(x)
        return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)

    def integers(x: Any) -> Any:
        x = tf.reshape(tf.convert_to_tensor(x), [-1])
        return tf.cast(x, tf.int64) if x.dtype.is_floating else x

    embeddings = full(y_pred)
    reference = embeddings if ref_embeddings is None else full(ref_embeddings)
    labels = integers(y_true)
    others = labels if ref_labels is None else tf.cast(integers(ref_labels), labels.dtype)
    pairs = tf.cast(labels[:, None] == others, tf.uint8)
    if remove_diagonal:
        same = tf.eye(tf.size(labels), tf.size(others), dtype=tf.uint8)
        pairs *= 1 + same  # as `_pairwise.membership`
    return pairs, tf.matmul(embeddings, reference, transpose_b=True)


def per_sample(plan: Plan, y_true: Any, y_pred: Any, **arrays: Any) -> Any:
    """One value per sample, by the route that the current trace allows."""
    if in_xla():
        return keras_values(plan.spec, y_true, y_pred, plan.parameters, **arrays)
    if isinstance(plan, PairwisePlan):
        y_pred = tf.convert_to_tensor(y_pred)
        remove_diagonal = plan.parameters["remove_diagonal"]
        pairs, similarity = _similarities(y_true, y_pred, **arrays, remove_diagonal=remove_diagonal)
        values = fused_loss(plan.rows, pairs, similarity, reduction=None)
        return tf.cast(values, y_pred.dtype) if y_pred.dtype.is_floating else values
    return fused_loss(plan, y_true, y_pred, reduction=None, **arrays)


for _spec in REGISTRY:
    globals()[_spec.name] = make_function(_spec, __name__, per_sample)
