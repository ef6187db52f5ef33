"""The losses as Keras ``Loss`` classes: Keras's names, arguments and semantics.

Use them in ``model.compile(loss=fastloss.keras.Huber())``. The Keras backend must be TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

# First, because it says clearly what to install when TensorFlow is missing.
from fastloss.tensorflow import fused_loss, in_xla, keras_values, per_sample  # isort: skip

import keras
import tensorflow as tf
from keras.src.backend import get_keras_mask
from keras.src.losses.loss import reduce_weighted_values, scale_loss_for_distribution
from tensorflow.python.eager import record

from fastloss._build import assign_arguments, class_members, make_function
from fastloss._evaluate import Plan
from fastloss._registry import REGISTRY, LossSpec

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "fastloss.keras: expected the Keras backend 'tensorflow', got "
        f"{keras.backend.backend()!r}; set KERAS_BACKEND=tensorflow before Keras is imported"
    )

_KERAS_VERSION = tuple(int(n) for n in keras.__version__.split(".")[:2])


def _as_keras_means(spec: LossSpec, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters of the installed Keras, translated to those of the registry."""
    if spec.name == "tversky" and _KERAS_VERSION >= (3, 16):  # it exchanged alpha and beta
        full = {"alpha": 0.5, "beta": 0.5, **given}
        return {**full, "alpha": full["beta"], "beta": full["alpha"]}
    return given


def _plan(spec: LossSpec, given: dict[str, Any]) -> Plan:
    return Plan(spec, _as_keras_means(spec, given), epsilon=keras.config.epsilon())


class FusedLoss(keras.losses.Loss):  # type: ignore[misc]
    """Base class of the losses of this module."""

    spec: ClassVar[LossSpec]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = [p.name for p in self.spec.parameters] + ["reduction", "name", "dtype"]
        given = assign_arguments(self.spec, names, args, kwargs)
        super().__init__(
            reduction=given.pop("reduction", "sum_over_batch_size"),
            name=given.pop("name", None) or self.spec.object_name,
            dtype=given.pop("dtype", None),
        )
        self._parameters = self.spec.bind(given)
        for parameter, value in self._parameters.items():
            setattr(self, parameter, value)
        self._plans: dict[float, Plan] = {}

    def _current_plan(self) -> Plan:
        """The plan for Keras's epsilon of this moment."""
        epsilon = keras.config.epsilon()
        if epsilon not in self._plans:
            self._plans[epsilon] = _plan(self.spec, self._parameters)
        return self._plans[epsilon]

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss, weighted as Keras does."""
        mask = get_keras_mask(y_pred)
        with keras.name_scope(self.name):
            y_pred = keras.ops.convert_to_tensor(y_pred, dtype=self.dtype)
            # Labels stay integers: a float cast would change large ones.
            y_true = keras.ops.convert_to_tensor(
                y_true, dtype=None if self.spec.labels == "integer" else self.dtype
            )
            if sample_weight is not None:
                sample_weight = keras.ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            if self._fuses_reduction(y_pred, sample_weight, mask):
                value = fused_loss(
                    self._current_plan(), y_true, y_pred,
                    reduction=self.reduction, sample_weight=sample_weight, mask=mask,
                )  # fmt: skip
                return value if self.reduction == "sum" else scale_loss_for_distribution(value)
            values = self.call(y_true, y_pred)
            return reduce_weighted_values(
                values,
                sample_weight=sample_weight,
                mask=self._joint_mask(mask, y_true, values),
                reduction=self.reduction,
                dtype=self.dtype,
            )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The losses of the samples."""
        if in_xla():
            return keras_values(self.spec, y_true, y_pred, self._parameters)
        return per_sample(self._current_plan(), y_true, y_pred)

    def _fuses_reduction(self, y_pred: Any, sample_weight: Any, mask: Any) -> bool:
        """Whether one kernel call can do what Keras does: weigh, mask and reduce."""
        if self.reduction in (None, "none") or in_xla() or y_pred.shape.rank is None:
            return False
        rank = y_pred.shape.rank - len(self._current_plan().axes(y_pred.shape.rank))
        # Keras returns a scalar or an empty batch unreduced, and multiplies values by weights of a
        # higher rank into an array of that rank.
        if rank == 0 or y_pred.shape[0] == 0:
            return False
        for factor in (sample_weight, mask):
            if factor is not None and (factor.shape.rank is None or factor.shape.rank > rank):
                return False
        # A weight that somebody differentiates goes through TensorFlow's own multiplication.
        return sample_weight is None or not record.should_record_backprop([sample_weight])

    def _joint_mask(self, mask: Any, y_true: Any, values: Any) -> Any:
        """The mask of y_pred and that of the ignored class."""
        if getattr(self, "ignore_class", None) is None:
            return mask
        valid = tf.reshape(y_true != tf.cast(self.ignore_class, y_true.dtype), tf.shape(values))
        return valid if mask is None else tf.cast(mask, tf.bool) & valid

    def get_config(self) -> dict[str, Any]:
        """Every constructor argument by name."""
        return {
            **super().get_config(),
            **self._parameters,
            "dtype": self.dtype,
        }


if TYPE_CHECKING:  # the names are made below, from the registry

    def __getattr__(name: str) -> Any: ...


__all__ = ["FusedLoss"]


def _per_sample(plan: Plan, y_true: Any, y_pred: Any) -> Any:
    current = _plan(plan.spec, plan.parameters)
    return per_sample(current, y_true, y_pred)


for _spec in REGISTRY:
    globals()[_spec.name] = make_function(_spec, __name__, _per_sample)
    globals()[_spec.class_name] = keras.saving.register_keras_serializable(package="fastloss")(
        type(_spec.class_name, (FusedLoss,), class_members(_spec, __name__))
    )
    __all__ += [_spec.name, _spec.class_name]
