"""The losses as differentiable functions on TensorFlow tensors: eager, in graphs, and under XLA.

Every function of `fastloss` exists here under the same name, with the same options; tensors go in
and one value per sample comes out, with gradients for y_pred and, where it is not integer, y_true.
Second derivatives come from Keras's own functions. These also run where the compiled losses cannot:
on a GPU without CUDA kernels, and with a TensorFlow that lacks what they need; see `backend`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError(
        "fastloss.tensorflow needs TensorFlow: pip install 'fastloss[tensorflow]'"
    ) from error
from tensorflow.python.eager import forwardprop_util, record

from fastloss._algebra import SlicedPlan
from fastloss._build import make_function
from fastloss._evaluate import Call, CompiledPlan, Plan, Wrt
from fastloss._pairwise import PairwisePlan
from fastloss._registry import REGISTRY
from fastloss._sequence import SequencePlan
from fastloss._sum import SumPlan, TermByTerm
from fastloss._tensorflow_ops import (
    Operation,
    Output,
    backend,
    in_xla,
    may_be_on_gpu,
    obstacle,
    placed_with,
    scale_gradient,
)

__all__ = ["backend", *(spec.name for spec in REGISTRY)]

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

    While something records, value and gradient are made in one pass. Otherwise there is a value
    only, and the gradient, should it be asked for, is a pass of its own.
    """
    y_pred = tf.convert_to_tensor(y_pred)
    if plan.ignores(y_true):
        y_true = tf.zeros([0], tf.float32)
    y_true = tf.convert_to_tensor(y_true)
    for name, x in (("y_true", y_true), ("y_pred", y_pred)):
        if not (x.dtype.is_floating or x.dtype.is_integer or x.dtype.is_bool):
            raise TypeError(f"{name}: expected real numbers, got dtype {x.dtype.name}")
    y_pred = y_pred if y_pred.dtype.is_floating else tf.cast(y_pred, tf.float32)
    y_true, y_pred = _same_rank(plan, y_true, y_pred)
    factors = {"sample_weight": sample_weight, "mask": mask, **arrays}
    factors = {name: tf.convert_to_tensor(x) for name, x in factors.items() if x is not None}
    if mask is not None:
        factors["mask"] = tf.cast(factors["mask"], tf.bool)
    if isinstance(plan, SequencePlan):
        y_true, factors = _with_lengths(plan, y_true, y_pred, factors)
    given = {"y_true": y_true, "y_pred": y_pred, **factors}
    reason = obstacle(y_pred)
    if reason or _differentiated_forward_in_graph(given.values()):
        warn_of_fallback(reason)
        return keras_loss(plan, reduction, given)
    if may_be_on_gpu(y_pred):  # whose kernels do one loss at a time, with one weight
        if isinstance(plan, SumPlan):
            return _sum_of_terms(
                plan, given, lambda term, own: fused_loss(term, **own, reduction=reduction)
            )
        if (own := factors.pop("weight0", None)) is not None:
            factors["sample_weight"] = _product(plan, y_pred, own, factors.get("sample_weight"))
    fused = _Fused(plan, reduction, list(factors))
    return tf.cast(fused.differentiable(y_true, y_pred, *factors.values()), y_pred.dtype)


class _Fused:
    """A loss and its derivatives, as functions of (y_true, y_pred, *factors)."""

    def __init__(self, plan: Plan, reduction: str | None, factors: list[str]) -> None:
        self.plan = plan
        self.reduction = None if reduction == "none" else reduction
        self.names = ["y_true", "y_pred", *factors]

    def differentiable(self, *tensors: Any) -> Any:
        """The value, with the gradients that follow."""
        with placed_with(tensors[1]):
            return tf.custom_gradient(self._value)(*tensors)

    def _value(self, *tensors: Any) -> Any:
        y_true, y_pred = tensors[:2]
        operation = self._operation(tensors)
        # Halves would lose digits of a gradient that a loss scale is still to multiply.
        kept = tf.float64 if y_pred.dtype == tf.float64 else tf.float32
        rank = y_pred.shape.rank
        one_pass = self._may_be_differentiated(y_pred) and (rank is not None or self.reduction)
        grad = None
        if one_pass:
            value, grad = operation(
                self._value_output(y_pred), Output("grad_pred", kept, y_pred.shape)
            )
        else:
            (value,) = operation(self._value_output(y_pred))
        # Eager TensorFlow would compute what nobody asks for; a graph prunes it.
        watched = [not tf.executing_eagerly() or _is_followed(x) for x in tensors]

        def backward(d_value: Any) -> list[Any]:
            with placed_with(y_pred):
                return gradients_of(d_value)

        def gradients_of(d_value: Any) -> list[Any]:
            gradients: list[Any] = [None] * len(tensors)
            if watched[1] and grad is not None:
                axes = [] if self.reduction else self.plan.axes(rank)
                gradients[1] = scale_gradient(grad, d_value, axes, y_pred.dtype)
            elif watched[1]:
                output = Output("grad_pred", y_pred.dtype, y_pred.shape)
                (gradients[1],) = operation(output, upstream=d_value)
            if watched[0] and not self.plan.uses_target:
                gradients[0] = tf.zeros_like(y_true)
            elif watched[0] and not self.plan.takes_labels and y_true.dtype.is_floating:
                output = Output("grad_true", y_true.dtype, y_true.shape)
                (gradients[0],) = operation(output, upstream=d_value)
            for i in (0, 1):
                if gradients[i] is not None and (i == 1 or self.plan.uses_target):
                    gradients[i] = self._differentiable_again(i, gradients[i], d_value, tensors)
            if "sample_weight" in self.names:
                i = self.names.index("sample_weight")
                if watched[i] and tensors[i].dtype.is_floating:
                    gradients[i] = self._weight_gradient(d_value, tensors)
            return gradients

        return value, backward

    def _operation(self, tensors: Any) -> Operation:
        return Operation(self.plan, self.reduction, dict(zip(self.names, tensors, strict=True)))

    @staticmethod
    def _may_be_differentiated(y_pred: Any) -> bool:
        if tf.executing_eagerly():
            return _is_followed(y_pred)
        return bool(record.could_possibly_record())

    def _value_output(self, y_pred: Any) -> Output:
        dtype = tf.float64 if y_pred.dtype == tf.float64 else tf.float32
        rank = y_pred.shape.rank
        axes: tuple[int, ...] | None = () if self.reduction else None
        if not self.reduction and rank is not None:
            axes = tuple(d for d in range(rank) if d not in self.plan.axes(rank))
        return Output("value", dtype, self._value_shape(y_pred.shape), axes)

    def _value_shape(self, shape: Any) -> Any:
        if self.reduction:
            return tf.TensorShape([])
        if shape.rank is None:
            return tf.TensorShape(None)
        axes = self.plan.axes(shape.rank)
        return tf.TensorShape([n for d, n in enumerate(shape) if d not in axes])

    def _differentiable_again(self, which: int, gradient: Any, d_value: Any, tensors: Any) -> Any:
        """``gradient``, with its own derivatives from Keras's function."""
        if _differentiated_forward_in_graph([d_value]):
            raise NotImplementedError(
                f"fastloss: a graph has no forward-mode derivative of the gradient of "
                f"{self.plan.name} by what multiplies the loss: take it eagerly, or nest two tapes"
            )
        second = _second_derivatives(self.plan, self.reduction, tuple(self.names), which, in_xla())

        def with_derivatives(gradient: Any, *given: Any) -> Any:
            def backward(direction: Any) -> list[Any]:
                derivatives = iter(second(direction, *given))
                return [None, *(next(derivatives) if x.dtype.is_floating else None for x in given)]

            return tf.identity(gradient), backward

        return tf.custom_gradient(with_derivatives)(gradient, d_value, *tensors)

    def _weight_gradient(self, d_value: Any, tensors: Any) -> Any:
        given = dict(zip(self.names, tensors, strict=True))
        if isinstance(self.plan, SumPlan):
            return _sum_of_terms(
                self.plan,
                given,
                lambda term, own: _Fused(term, self.reduction, list(own)[2:])._weight_gradient(
                    d_value, list(own.values())
                ),
            )
        weight, mask = given.pop("sample_weight"), given.pop("mask", None)
        if "weight0" in given and self.reduction == "mean_with_sample_weight":
            raise NotImplementedError(
                "fastloss: no gradient of sample_weight in a mean over a loss's own weights"
            )
        values = fused_loss(self.plan, **given, reduction=None)
        return _weight_gradient(self.reduction)(d_value, values, weight, mask)


def _function(python_function: Any) -> Any:
    """A function with tapes in it that may itself be differentiated, also forward.

    A forward accumulator that is at work sees a call of it only, and its tapes no accumulator.
    """

    def alone(*arguments: Any) -> Any:
        with forwardprop_util.push_forwardprop_state():
            return python_function(*arguments)

    return tf.function(alone, autograph=False)


@functools.lru_cache(maxsize=512)
def _second_derivatives(
    plan: Plan, reduction: str | None, names: tuple[str, ...], which: int, in_xla: bool
) -> Callable[..., list[Any]]:
    """The product of a direction and the gradient's derivatives by all floating arguments.

    XLA gets its own, because TensorFlow traces conditions otherwise for it.
    """

    def second(direction: Any, d_value: Any, *tensors: Any) -> list[Any]:
        with tf.GradientTape() as outer:
            watched = [x for x in (d_value, *tensors) if x.dtype.is_floating]
            outer.watch(watched)
            with tf.GradientTape() as inner:
                inner.watch(tensors[which])
                value = keras_loss(plan, reduction, dict(zip(names, tensors, strict=True)))
            first = inner.gradient(value, tensors[which], tf.cast(d_value, value.dtype))
        derivatives: list[Any] = outer.gradient(first, watched, direction)
        return derivatives

    return _function(second)  # type: ignore[no-any-return]


@functools.cache
def _weight_gradient(reduction: str | None) -> Callable[..., Any]:
    """The gradient of the reduction by its weights."""
    from fastloss._keras_functions import reduce_losses

    def gradient(d_value: Any, values: Any, weight: Any, mask: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weight)
            value = reduce_losses(values, weight, mask, reduction, weight.dtype)
        return tape.gradient(value, weight, tf.cast(d_value, value.dtype))

    return _function(gradient)  # type: ignore[no-any-return]


def _is_followed(x: Any) -> bool:
    """Whether a tape or a forward accumulator watches the eager tensor."""
    return bool(record.should_record_backprop([x]) or forwardprop_util.pack_tangents([x]).tangents)


def _differentiated_forward_in_graph(tensors: Iterable[Any]) -> bool:
    """Whether a forward accumulator follows where it does not heed `tf.custom_gradient`."""
    return not tf.executing_eagerly() and bool(forwardprop_util.pack_tangents([*tensors]).tangents)


def _same_rank(plan: Plan, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Keras's rule where ranks differ by one, by operations that TensorFlow differentiates."""
    t, p = y_true.shape, y_pred.shape
    if (
        plan.takes_labels
        or not plan.uses_target
        or t.rank is None
        or p.rank is None
        or abs(t.rank - p.rank) != 1
    ):
        return y_true, y_pred
    is_vector = min(t.rank, p.rank) == 1
    if t.rank > p.rank and t[-1] == 1:
        return (y_true, y_pred[:, None]) if is_vector else (tf.squeeze(y_true, -1), y_pred)
    if p.rank > t.rank and p[-1] == 1:
        return (y_true[:, None], y_pred) if is_vector else (y_true, tf.squeeze(y_pred, -1))
    return y_true, y_pred


def _with_lengths(plan: Plan, y_true: Any, y_pred: Any, given: Any) -> tuple[Any, Any]:
    """Labels and lengths of CTC as the kernel takes them; lengths are found as in NumPy."""
    labels = tf.cast(y_true, tf.int64)
    shape = tf.shape(y_pred, tf.int64)
    label_length, logit_length = given.get("label_length"), given.get("logit_length")
    if label_length is None:
        blank = plan.parameters["blank"] % shape[2]
        label_length = tf.math.count_nonzero(labels != blank, axis=1)
    if logit_length is None:
        logit_length = tf.fill(shape[:1], shape[1])
    lengths = {"label_length": label_length, "logit_length": logit_length}
    return labels, given | {name: tf.cast(x, tf.int64) for name, x in lengths.items()}


def keras_loss(plan: Plan, reduction: str | None, given: dict[str, Any]) -> Any:
    """The loss as Keras's own functions compute it, which TensorFlow can differentiate again."""
    from fastloss._keras_functions import compute, reduce_losses

    if isinstance(plan, SumPlan):
        return _sum_of_terms(plan, given, lambda term, own: keras_loss(term, reduction, own))
    if plan.spec.kind == "pairwise":
        raise NotImplementedError(
            f"fastloss: {plan.spec.name} is differentiated once, and by the compiled kernels: "
            "avoid a tape around its gradient, and forward accumulators in graphs"
        )
    given = dict(given)
    y_true, y_pred = given.pop("y_true"), given.pop("y_pred")
    weight, mask = given.pop("sample_weight", None), given.pop("mask", None)
    if (own := given.pop("weight0", None)) is not None:
        weight = _product(plan, y_pred, own, weight)
    if plan.spec.kind == "sequence":
        given = {}  # Keras finds the lengths itself
    values = compute(plan.spec, y_true, y_pred, plan.parameters, **given)
    return reduce_losses(values, weight, mask, reduction, values.dtype)


def _sum_of_terms(plan: SumPlan, given: dict[str, Any], value: Callable[..., Any]) -> Any:
    """The sum of ``value(plan, arrays)`` over the terms of a sum in one pass."""
    common = {name: x for name, x in given.items() if not name.startswith("weight")}
    total = None
    for k, (coefficient, loss) in enumerate(plan.terms):
        own = {"weight0": given[f"weight{k}"]} if f"weight{k}" in given else {}
        term = coefficient * value(loss._plan, common | own)
        total = term if total is None else total + term
    return total


def _product(plan: Plan, y_pred: Any, own: Any, weight: Any) -> Any:
    """The own weight of a loss and that of a call, which may fit the values in different ways."""
    if weight is None:
        return own
    axes = plan.axes(y_pred.shape.rank)
    rows = [d for d in range(y_pred.shape.rank) if d not in axes]

    def spread(w: Any) -> Any:
        w = tf.convert_to_tensor(w)
        if w.shape.rank < len(rows) and all(
            a in (b, None) or b is None
            for a, b in zip(w.shape, (y_pred.shape[d] for d in rows), strict=False)
        ):
            ones = tf.ones([len(rows) - w.shape.rank], tf.int32)
            return tf.reshape(w, tf.concat([tf.shape(w), ones], 0))
        return w

    own, weight = spread(own), spread(weight)
    return tf.math.multiply_no_nan(tf.cast(own, weight.dtype), weight)


@functools.cache
def warn_of_fallback(reason: str) -> None:
    """Warns, once per reason, that Keras's own functions run; of nothing if there is no reason."""
    if reason:
        warnings.warn(
            f"fastloss: {reason}; Keras's own losses run instead", RuntimeWarning, stacklevel=3
        )


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
    if ref_embeddings is None and in_xla():
        return pairs, _products_of_pairs(embeddings)
    return pairs, tf.matmul(embeddings, reference, transpose_b=True)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _products_of_pairs(rows: Any) -> Any:
    """``rows @ rows.T``, with one product for the gradient.

    TensorFlow's own takes two, which outside XLA run at once, and sooner than a sum and a product.
    """

    def gradient(upstream: Any) -> Any:
        return tf.matmul(upstream + tf.transpose(upstream), rows)

    return tf.matmul(rows, rows, transpose_b=True), gradient


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def per_sample(plan: Plan, y_true: Any, y_pred: Any, **arrays: Any) -> Any:
    """One value per sample."""
    if not isinstance(plan, PairwisePlan):
        return fused_loss(plan, y_true, y_pred, reduction=None, **arrays)
    y_pred = tf.convert_to_tensor(y_pred)
    if reason := obstacle(y_pred):
        from fastloss._keras_functions import compute

        warn_of_fallback(reason)
        return compute(plan.spec, y_true, y_pred, plan.parameters, **arrays)
    pairs, similarity = _similarities(
        y_true, y_pred, **arrays, remove_diagonal=plan.parameters["remove_diagonal"]
    )
    values = fused_loss(plan.rows, pairs, similarity, reduction=None)
    return tf.cast(values, y_pred.dtype) if y_pred.dtype.is_floating else values


def value_and_gradients(
    loss: Callable[..., Any], y_true: Any, y_pred: Any, upstream: Any, wrt: Wrt
) -> tuple[Any, Any, Any]:
    """The value, and its gradients for y_pred and y_true, as far as ``wrt`` asks for them."""
    names = ["y_pred", "y_true"] if wrt == "both" else [wrt]
    given = {"y_true": y_true, "y_pred": y_pred}
    given |= {name: tf.convert_to_tensor(given[name]) for name in names}
    for name in names:
        if not given[name].dtype.is_floating:
            raise TypeError(
                f"{name}: expected a floating dtype, as wrt={wrt!r} asks for its gradient, got "
                f"{given[name].dtype.name}"
            )
    with tf.GradientTape() as tape:
        tape.watch([given[name] for name in names])
        value = loss(**given)
    upstream = tf.broadcast_to(tf.cast(upstream, value.dtype), tf.shape(value))
    found = tape.gradient(value, {name: given[name] for name in names}, upstream)
    return value, found.get("y_pred"), found.get("y_true")


def cast(y_pred: Any, dtype: str) -> Any:
    """``y_pred`` in another dtype."""
    return tf.cast(y_pred, dtype)


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def evaluate(plan: Plan, call: Call) -> tuple[Any, Any, Any]:
    """For tensors what `Plan.evaluate` gives for arrays; the kernels check labels in any case."""
    if call.out is not None:
        raise TypeError(
            f"out: expected None, tensors cannot be written to; got {type(call.out).__name__}"
        )

    def loss(y_true: Any, y_pred: Any) -> Any:
        return _value(plan, call._replace(y_true=y_true, y_pred=y_pred))

    if call.wrt is None:
        return loss(call.y_true, call.y_pred), None, None
    return value_and_gradients(loss, call.y_true, call.y_pred, call.upstream, call.wrt)


def _value(plan: Plan, call: Call) -> Any:
    y_true, y_pred, mask = call.y_true, call.y_pred, call.mask
    if isinstance(plan, (SlicedPlan, TermByTerm)):
        return plan.term_values(call)
    if isinstance(plan, CompiledPlan):
        weights = call.weight if isinstance(call.weight, tuple) else (call.weight,)
        arrays = {f"weight{k}": w for k, w in enumerate(weights) if w is not None}
        return fused_loss(
            plan, y_true, y_pred, reduction=call.reduction, sample_weight=call.sample_weight,
            mask=mask, **arrays,
        )  # fmt: skip
    from fastloss._keras_functions import reduce_losses

    values = per_sample(plan, y_true, y_pred, **call.arrays)
    sample_weight = call.sample_weight
    if call.weight is not None:
        y_pred = tf.convert_to_tensor(y_pred)
        sample_weight = _product(plan, y_pred, call.weight, sample_weight)
    if isinstance(plan, PairwisePlan):  # the mean is over the samples with a loss; a NaN is one
        counts = values != 0
        mask = counts if mask is None else tf.logical_and(counts, tf.cast(mask, tf.bool))
    return reduce_losses(values, sample_weight, mask, call.reduction, values.dtype)


for _spec in REGISTRY:
    globals()[_spec.name] = make_function(_spec, __name__, per_sample)
