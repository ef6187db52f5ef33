"""Keras's own loss functions, whatever `fastloss.keras.patch` does to the ones that users see."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import keras
import keras.src.losses.losses as keras_losses
import tensorflow as tf
from keras.src.losses.loss import apply_mask, reduce_values, squeeze_or_expand_to_same_rank

from fastloss._registry import REGISTRY, LossSpec

PUBLIC: dict[str, types.FunctionType] = {
    spec.name: getattr(keras_losses, spec.name)
    for spec in REGISTRY
    if hasattr(keras_losses, spec.name)
}
"""The function objects of Keras, by name: every reference to a loss in Keras is to one of these."""


def _copy(function: types.FunctionType) -> Callable[..., Any]:
    copied = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.__module__ = function.__module__
    return copied


# Patching exchanges the code of the public objects. A copy made here, before anybody can patch,
# keeps the code of Keras.
ORIGINAL = {name: _copy(function) for name, function in PUBLIC.items()}
"""What the functions of Keras compute, patched or not."""


def _mean_square(y_true: Any, y_pred: Any) -> Any:
    return tf.reduce_mean(tf.square(y_pred), axis=-1)


def _mean_absolute(y_true: Any, y_pred: Any) -> Any:
    return tf.reduce_mean(tf.abs(y_pred), axis=-1)


def _confidence_penalty(y_true: Any, y_pred: Any, from_logits: bool, axis: int) -> Any:
    if from_logits:
        log_q = tf.nn.log_softmax(y_pred, axis)
        return tf.reduce_sum(tf.math.multiply_no_nan(log_q, tf.exp(log_q)), axis)
    q = tf.clip_by_value(y_pred, tf.cast(1e-7, y_pred.dtype), 1)
    return tf.reduce_sum(q * tf.math.log(q), axis)


def _z_loss(y_true: Any, y_pred: Any, axis: int) -> Any:
    return tf.square(tf.reduce_logsumexp(y_pred, axis))


# Keras has no penalties, and a term that cannot be differentiated again would keep the sums that it
# is in from it, so they are written down here as well; tests hold them to the kernels' gradients.
_DIFFERENTIABLE: dict[str, Callable[..., Any]] = {
    **ORIGINAL,
    "mean_square": _mean_square,
    "mean_absolute": _mean_absolute,
    "confidence_penalty": _confidence_penalty,
    "z_loss": _z_loss,
}


def compute(
    spec: LossSpec, y_true: Any, y_pred: Any, parameters: dict[str, Any], **arrays: Any
) -> Any:
    """The losses of the samples as Keras's own function, or TensorFlow's operations, compute them.

    Parameters that Keras does not have are left out as long as they have their default.
    """
    function = _DIFFERENTIABLE.get(spec.name)
    known = inspect.signature(function).parameters if function else {}
    defaults = {p.name: p.default for p in spec.parameters}
    for name, value in parameters.items():
        if name not in known and value != defaults[name]:
            function = None
    if any(name not in known for name in arrays):
        function = None
    if function is None:
        raise NotImplementedError(
            f"fastloss: Keras has no {spec.name} with these options, and the compiled one takes "
            "dense tensors on the CPU and is differentiated once: avoid a tape around its "
            "gradient, forward accumulators in graphs, GPUs, and symbolic or sparse tensors"
        )
    given = {k: v for k, v in parameters.items() if k in known}
    return function(y_true, y_pred, **arrays, **given)


def _check_weight(argument: str, weight: Any, values: Any) -> None:
    """Raises where what is known of the shapes does not broadcast; TensorFlow names no argument."""
    try:
        tf.broadcast_static_shape(weight.shape, values.shape)
    except ValueError:
        raise ValueError(
            f"{argument}: expected a shape that broadcasts to the loss values, {values.shape}, "
            f"got {weight.shape}"
        ) from None


def reduce_losses(
    values: Any, sample_weight: Any, mask: Any, reduction: str | None, dtype: Any
) -> Any:
    """Keras's ``reduce_weighted_values``, except that what has weight zero is zero.

    And except that weights count as often as they are broadcast, and a vector weighs samples.
    """
    values = keras.ops.convert_to_tensor(values, dtype=dtype)
    if mask is not None:
        mask = keras.ops.convert_to_tensor(mask, dtype=dtype)
    weight = apply_mask(sample_weight, mask, dtype=dtype, reduction=reduction)
    if weight is not None:
        shape = weight.shape
        if 0 < shape.rank < values.shape.rank and shape == values.shape[: shape.rank]:
            ones = [1] * (values.shape.rank - shape.rank)
            weight = tf.reshape(weight, tf.concat([tf.shape(weight), ones], 0))
        values, weight = squeeze_or_expand_to_same_rank(values, weight)
        _check_weight("mask" if sample_weight is None else "sample_weight", weight, values)
        values = tf.math.multiply_no_nan(values, weight)
        if reduction == "mean_with_sample_weight":
            weight = tf.broadcast_to(weight, tf.shape(values))
    return reduce_values(values, weight, reduction)
