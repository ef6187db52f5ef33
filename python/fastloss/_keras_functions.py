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


def compute(
    spec: LossSpec, y_true: Any, y_pred: Any, parameters: dict[str, Any], **arrays: Any
) -> Any:
    """The losses of the samples as Keras's own function computes them.

    Parameters that Keras does not have are left out as long as they have their default.
    """
    function = ORIGINAL.get(spec.name)
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
        values = tf.math.multiply_no_nan(values, weight)
        if reduction == "mean_with_sample_weight":
            weight = tf.broadcast_to(weight, tf.shape(values))
    return reduce_values(values, weight, reduction)
