"""What Keras does around a loss: conversions, ranks, broadcasting, masks, weights, reductions."""

from __future__ import annotations

import functools
import warnings
from typing import Any

# First, because it says clearly what to install when TensorFlow is missing.
from fastloss.tensorflow import fused_loss, per_sample, warn_of_fallback  # isort: skip

import keras
import tensorflow as tf
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.backend.tensorflow.nn import _get_logits
from keras.src.losses.loss import scale_loss_for_distribution, squeeze_or_expand_to_same_rank

from fastloss._evaluate import GridPlan, Plan
from fastloss._keras_functions import compute, reduce_losses
from fastloss._plans import make_plan
from fastloss._registry import BY_NAME, LossSpec
from fastloss._sum import FusedSum
from fastloss._tensorflow_ops import obstacle

_KERAS_VERSION = tuple(int(n) for n in keras.__version__.split(".")[:2])

# The functions that apply the rank rule themselves; as objects, all losses do.
_RANK_RULE = {
    "mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error", "cosine_similarity", "huber", "log_cosh",
}  # fmt: skip

# The losses that Keras refuses to broadcast.
_SAME_SHAPE = {"binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy"}

# The losses that reduce y_true or y_pred alone, for which broadcasting first is not the same.
_SUMS_BEFORE_BROADCASTING = {"cosine_similarity", "categorical_focal_crossentropy", "dice", "iou"}
_NOT_OUR_BROADCAST = _SUMS_BEFORE_BROADCASTING | {"categorical_generalized_cross_entropy"}

# What an activation leaves behind its output when Keras takes the loss from the logits instead.
_ACTIVATION = {
    "binary_crossentropy": "Sigmoid",
    "binary_focal_crossentropy": "Sigmoid",
    "categorical_crossentropy": "Softmax",
    "sparse_categorical_crossentropy": "Softmax",
}

_WARNS_OF_ONE_CLASS = {"categorical_crossentropy", "categorical_focal_crossentropy"}


def _as_keras_means(spec: LossSpec, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters of the installed Keras, translated to those of the registry."""
    if spec.name == "tversky" and _KERAS_VERSION >= (3, 16):  # it exchanged alpha and beta
        full = {"alpha": 0.5, "beta": 0.5, **given}
        return {**full, "alpha": full["beta"], "beta": full["alpha"]}
    return given


def _new_plan(spec: LossSpec, given: dict[str, Any], epsilon: float) -> Plan:
    plan = make_plan(spec, _as_keras_means(spec, given), epsilon=epsilon)
    if isinstance(plan, GridPlan):  # as Keras, `_warn_of_one_class` warns where the loss is traced
        plan.compiled.warn_of_one_class(False)
    return plan


@functools.lru_cache(maxsize=512)
def _kept_plan(name: str, given: tuple[tuple[str, Any], ...], epsilon: float) -> Plan:
    return _new_plan(BY_NAME[name], dict(given), epsilon)


def _plan(spec: LossSpec, given: dict[str, Any]) -> Plan:
    """The plan for Keras's epsilon of this moment."""
    epsilon = keras.config.epsilon()
    try:
        return _kept_plan(spec.name, tuple(given.items()), epsilon)
    except TypeError:  # a list or an array among the parameters, or one of a wrong type
        return _new_plan(spec, given, epsilon)


def _tensors(spec: LossSpec, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Both as tensors of the dtypes that Keras computes in, except that integers stay integers."""
    y_pred = keras.ops.convert_to_tensor(y_pred)
    if spec.name == "mean_squared_logarithmic_error" and y_pred.dtype in (tf.float16, tf.bfloat16):
        y_pred = tf.cast(y_pred, tf.float32)  # as Keras, whose epsilon is a float32 here alone
    if spec.labels == "integer":
        y_true = keras.ops.convert_to_tensor(y_true)
        if y_true.dtype.is_floating:
            y_true = tf.cast(y_true, tf.int64)
    elif not tf.is_tensor(y_true):
        y_true = keras.ops.convert_to_tensor(y_true, dtype=y_pred.dtype)
    elif y_true.dtype.is_floating or not y_pred.dtype.is_floating:
        y_true = tf.cast(y_true, y_pred.dtype)
    if not y_pred.dtype.is_floating:
        y_pred = tf.cast(y_pred, tf.float32)
    return y_true, y_pred


def _check_shapes(spec: LossSpec, given: dict[str, Any], y_true: Any, y_pred: Any) -> None:
    """Raises where Keras does; its words stand in ours, for who matches on them."""
    t, p = y_true.shape, y_pred.shape
    if spec.name in _SAME_SHAPE:
        if t.rank != p.rank:
            raise ValueError(f"y_true: y_true and y_pred must have the same rank, got {t} and {p}")
        if not t.is_compatible_with(p):
            raise ValueError(f"y_true: y_true and y_pred must have the same shape, got {t} and {p}")
    if spec.name == "sparse_categorical_crossentropy":
        axis = given.get("axis", -1)
        if axis not in (-1, p.rank - 1):
            raise ValueError(f"axis: Only axis=-1 is currently supported. Received: axis={axis}")
    if spec.kind == "sequence" and t.rank != 2:
        raise ValueError(
            "y_true: Targets `y_true` are expected to be a tensor of shape `(batch_size, "
            f"max_length)` in integer format. Received: y_true.shape={t}"
        )
    if spec.kind == "sequence" and p.rank != 3:
        raise ValueError(
            "y_pred: Logits `y_pred` are expected to be a tensor of shape `(batch_size, "
            f"max_length, num_classes)`. Received: y_pred.shape={p}"
        )


def _warn_of_one_class(spec: LossSpec, y_pred: Any) -> None:
    if spec.name in _WARNS_OF_ONE_CLASS and y_pred.shape.rank and y_pred.shape[-1] == 1:
        warnings.warn(
            f"In loss {spec.name}, expected y_pred.shape to be (batch_size, num_classes) with "
            f"num_classes > 1. Received: y_pred.shape={y_pred.shape}. Consider using "
            "'binary_crossentropy' if you only have 2 classes.",
            SyntaxWarning,
            stacklevel=4,
        )


def _broadcast(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Both with the shape that Keras's elementwise operations give their result."""
    t, p = y_true.shape, y_pred.shape
    # An unknown batch size is taken to be one for both: looking at run time would cost every step
    # of a fit, for a y_true of one row that meets many. The kernels refuse that one.
    if t.as_list() == p.as_list() and t[1:].is_fully_defined():
        return y_true, y_pred
    shape = tf.broadcast_static_shape(t, p)
    target = shape
    if not shape.is_fully_defined():
        target = tf.broadcast_dynamic_shape(tf.shape(y_true), tf.shape(y_pred))
    out = []
    for x in (y_true, y_pred):
        # TensorFlow hands on a tensor that has the shape already.
        wide = x if shape.is_fully_defined() and x.shape == shape else tf.broadcast_to(x, target)
        out.append(tf.ensure_shape(wide, shape) if wide.shape.rank is None else wide)
    return out[0], out[1]


def _operands(
    spec: LossSpec, given: dict[str, Any], y_true: Any, y_pred: Any, *arrays: Any
) -> tuple[Plan, Any, Any] | None:
    """A plan with y_true and y_pred for it; None if only Keras's own function takes them."""
    strange = (keras.KerasTensor, tf.SparseTensor, tf.RaggedTensor)
    if obstacle(y_pred) or any(isinstance(x, strange) for x in (y_true, y_pred, *arrays)):
        return None
    if any(tf.is_tensor(v) or isinstance(v, keras.Variable) for v in given.values()):
        return None  # it may be learned
    if not spec.uses_target:
        y_pred = _tensors(spec, y_pred, y_pred)[1]
        y_true = None
    else:
        y_true, y_pred = _tensors(spec, y_true, y_pred)
    if y_true is None:
        return (_plan(spec, given), y_true, y_pred) if y_pred.shape.rank != 0 else None
    if y_true.shape.rank is None or y_pred.shape.rank is None:
        return _plan(spec, given), y_true, y_pred  # the kernels look at run time
    if spec.name in _RANK_RULE:
        y_true, y_pred = squeeze_or_expand_to_same_rank(y_true, y_pred)
    if y_pred.shape.rank == 0:
        return None
    _check_shapes(spec, given, y_true, y_pred)
    if spec.labels == "dense" and spec.name not in _SAME_SHAPE | _SUMS_BEFORE_BROADCASTING:
        y_true, y_pred = _broadcast(y_true, y_pred)
    values_shape = y_pred.shape[:-1] if spec.labels == "integer" else y_pred.shape
    if spec.name in _NOT_OUR_BROADCAST and not y_true.shape.is_compatible_with(values_shape):
        return None
    if spec.name in _ACTIVATION and given.get("ignore_class") is None:
        from_logits = given.get("from_logits", False)
        activation = _ACTIVATION[spec.name]
        y_pred, from_logits = _get_logits(y_pred, from_logits, activation, spec.name)
        given = {**given, "from_logits": from_logits}
    plan = _plan(spec, given)
    if any(y_pred.shape[axis] == 0 for axis in plan.axes(y_pred.shape.rank)):
        return None  # our kernels refuse it; Keras has a NaN, a zero or a one for it
    return plan, y_true, y_pred


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def loss_values(spec: LossSpec, given: dict[str, Any], y_true: Any, y_pred: Any) -> Any:
    """One value per sample, as Keras's function of that name returns it."""
    names = {a.name for a in spec.arrays}
    arrays = {k: v for k, v in given.items() if k in names and v is not None}
    given = {k: v for k, v in given.items() if k not in names}
    operands = _operands(spec, given, y_true, y_pred, *arrays.values())
    if operands is None:
        warn_of_fallback(obstacle(y_pred))
        return compute(spec, y_true, y_pred, given, **arrays)
    plan, y_true, y_pred = operands
    _warn_of_one_class(spec, y_pred)
    values = per_sample(plan, y_true, y_pred, **arrays)
    ignored = plan.parameters.get("ignore_class")
    if ignored is not None:
        valid = y_true != tf.cast(ignored, y_true.dtype)
        set_keras_mask(values, tf.reshape(valid, tf.shape(values)))
    if spec.kind == "pairwise":
        set_keras_mask(values, values > 0)
    return values


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def call_loss(
    loss: Any, spec: LossSpec, given: dict[str, Any], y_true: Any, y_pred: Any, sample_weight: Any
) -> Any:
    """What calling a ``Loss`` of Keras gives; one kernel call does all of it wherever it can.

    ``loss`` has the reduction, the dtype, and the method ``call`` for where it cannot.
    """
    mask = get_keras_mask(y_pred)
    with keras.name_scope(loss.name):
        y_true, y_pred = _converted(loss, spec, y_true, y_pred)
        dtype, sample_weight = _weights(loss, sample_weight)
        operands = _whole_operands(spec, given, y_true, y_pred)
        own = _own_weight(loss, y_true)
        if operands is not None and _fuses(operands, loss.reduction, sample_weight, mask):
            _warn_of_one_class(spec, y_pred)
            plan, y_true, y_pred = operands
            return _reduced(loss, plan, y_true, y_pred, sample_weight, mask, [own])

        values = loss.call(y_true, y_pred)
        if own is not None:
            own = keras.ops.convert_to_tensor(own, dtype=values.dtype)
            values = tf.math.multiply_no_nan(values, tf.broadcast_to(own, tf.shape(values)))
        out_mask = get_keras_mask(values)
        if mask is None or out_mask is None:
            mask = out_mask if mask is None else mask
        else:
            mask = mask & out_mask
        value = reduce_losses(values, sample_weight, mask, loss.reduction, dtype)
        return tf.cast(value, loss.dtype)


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def call_sum(loss: Any, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
    """The same for a sum of losses, ``loss.terms``: one kernel call, or one for each term."""
    mask = get_keras_mask(y_pred)
    with keras.name_scope(loss.name):
        converted = [_converted(loss, term.spec, y_true, y_pred) for _, term in loss.terms]
        _, weight = _weights(loss, sample_weight)
        operands: list[Any] = []
        if all(term.is_fused for _, term in loss.terms):
            first = converted[0][1]
            operands = [
                _whole_operands(term.spec, term.parameters, true, first)
                for (_, term), (true, _) in zip(loss.terms, converted, strict=True)
            ]
        plans = _shared_pass(loss, operands, weight, mask)
        if plans is not None:
            targets = [true for _, true, _ in operands if true is not None]
            own = [_own_weight(term, y_true) for _, term in loss.terms]
            for _, term in loss.terms:
                _warn_of_one_class(term.spec, operands[0][2])
            true = targets[0] if targets else None
            return _reduced(loss, plans, true, operands[0][2], weight, mask, own)
    values = [c * term(y_true, y_pred, sample_weight) for c, term in loss.terms]
    return sum(values[1:], start=values[0])


def _shared_pass(loss: Any, operands: list[Any], weight: Any, mask: Any) -> FusedSum | None:
    """One plan for all terms, if they take the same tensors and one kernel call can reduce them."""
    if not operands or any(
        o is None or not _fuses(o, loss.reduction, weight, mask) for o in operands
    ):
        return None
    plans, all_targets, predictions = zip(*operands, strict=True)
    targets = [t for t in all_targets if t is not None]
    if any(p is not predictions[0] for p in predictions) or any(
        t is not targets[0] for t in targets
    ):
        return None
    return _kept_sum(tuple(c for c, _ in loss.terms), plans)


@functools.lru_cache(maxsize=128)
def _kept_sum(coefficients: tuple[float, ...], plans: tuple[GridPlan, ...]) -> FusedSum:
    return FusedSum.of_plans(coefficients, plans)


def _converted(loss: Any, spec: LossSpec, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Both as tensors; labels stay integers, because a float cast would change large ones."""
    if spec.uses_target:
        y_true = _convert(y_true, None if spec.labels == "integer" else loss.dtype)
    return y_true, _convert(y_pred, loss.dtype)


def _weights(loss: Any, sample_weight: Any) -> tuple[Any, Any]:
    """The dtype that Keras rounds weights to and adds up in, and weights in it; halves wait."""
    dtype = "float32" if loss.dtype in ("float16", "bfloat16") else loss.dtype
    if sample_weight is None:
        return dtype, None
    return dtype, keras.ops.convert_to_tensor(sample_weight, dtype=dtype)


def _own_weight(loss: Any, y_true: Any) -> Any:
    weight = getattr(loss, "weight", None)
    return weight(y_true) if callable(weight) else weight


def _whole_operands(
    spec: LossSpec, given: dict[str, Any], y_true: Any, y_pred: Any
) -> tuple[Any, ...] | None:
    if keras.tree.is_nested(y_true) or keras.tree.is_nested(y_pred):
        return None
    if spec.uses_target:
        y_true, y_pred = _same_rank(y_true, y_pred)
    return _operands(spec, given, y_true, y_pred)


def _reduced(
    loss: Any, plan: Plan, y_true: Any, y_pred: Any, weight: Any, mask: Any, own: list[Any]
) -> Any:
    arrays = {f"weight{k}": w for k, w in enumerate(own) if w is not None}
    value = fused_loss(
        plan, y_true, y_pred, reduction=loss.reduction, sample_weight=weight, mask=mask, **arrays
    )
    value = tf.cast(value, loss.dtype)
    if loss.reduction in (None, "none", "sum"):
        return value
    return scale_loss_for_distribution(value)


def _convert(x: Any, dtype: Any) -> Any:
    return keras.tree.map_structure(lambda a: keras.ops.convert_to_tensor(a, dtype=dtype), x)


def _same_rank(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    if y_true.shape.rank is None or y_pred.shape.rank is None:
        return y_true, y_pred
    out: tuple[Any, Any] = squeeze_or_expand_to_same_rank(y_true, y_pred)
    return out


def _fuses(operands: tuple[Any, ...], reduction: str | None, sample_weight: Any, mask: Any) -> bool:
    """Whether one kernel call can do what Keras does: weigh, mask and reduce."""
    plan, _, y_pred = operands
    if not isinstance(plan, GridPlan):  # its kernel reduces nothing
        return False
    rank = y_pred.shape.rank
    if rank is None:
        return reduction not in (None, "none")
    axes = plan.axes(rank)
    rows = [n for d, n in enumerate(y_pred.shape) if d not in axes]
    # Keras returns a scalar or an empty batch unreduced, and multiplies values by weights of a
    # higher rank into an array of that rank.
    if rows in ([], [0]):
        return False
    for factor in (sample_weight, mask):
        if factor is None or factor.shape.rank == 0:
            continue
        if factor.shape.rank is None or not _fits(list(factor.shape), rows):
            return False
        # Unreduced, it shows that Keras drops a last dimension of 1 to meet the weights.
        if reduction in (None, "none") and 1 < factor.shape.rank == len(rows) - 1 and rows[-1] == 1:
            return False
    return True


def _fits(shape: list[int | None], rows: list[int | None]) -> bool:
    """Whether weights of that shape leave the values their shape, as far as is known."""

    def agree(a: int | None, b: int | None) -> bool:
        return a is None or b is None or a == b

    if len(shape) > len(rows):
        return False
    weighs_samples = all(map(agree, shape, rows))
    trailing = rows[len(rows) - len(shape) :]
    broadcasts = all(a == 1 or agree(a, b) for a, b in zip(shape, trailing, strict=True))
    return weighs_samples or broadcasts
