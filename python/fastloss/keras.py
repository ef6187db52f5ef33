"""The losses as Keras ``Loss`` classes and functions: Keras's names, arguments and semantics.

Use them in ``model.compile(loss=fastloss.keras.Huber())``, or let `patch` make Keras's own names
use them. The Keras backend must be TensorFlow.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

# First, because it says clearly what to install when TensorFlow is missing.
from fastloss.tensorflow import per_sample, value_and_gradients  # isort: skip

import keras
import keras.src.losses as keras_losses
from keras.src.losses.loss import squeeze_or_expand_to_same_rank

from fastloss._algebra import check_same, flattened, formula, number
from fastloss._build import ConstructorSignature, assign_arguments, class_members, make_function
from fastloss._evaluate import REDUCTIONS, Wrt, check_wrt
from fastloss._keras_call import call_loss, call_sum, loss_values
from fastloss._keras_monitor import LossMonitor
from fastloss._keras_patch import patch, unpatch
from fastloss._registry import ALIASES, REGISTRY, LossSpec
from fastloss._sum import Summable

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "fastloss.keras: expected the Keras backend 'tensorflow', got "
        f"{keras.backend.backend()!r}; set KERAS_BACKEND=tensorflow before Keras is imported"
    )

__all__ = ["Combination", "FusedLoss", "LossMonitor", "get", "patch", "unpatch"]


def _options(spec: LossSpec) -> dict[str, Any]:
    """The constructor's arguments with their defaults: Keras's in its order, then others."""
    own = {p.name: p.default for p in spec.class_parameters}
    own |= {"reduction": "sum_over_batch_size", "name": spec.object_name, "dtype": None}
    own |= {"weight": None}
    theirs = getattr(keras.losses, spec.class_name, None)
    order = list(inspect.signature(theirs).parameters) if theirs else []
    return {name: own[name] for name in [*order, *own] if name in own}


class _Differentiable(Summable, keras.losses.Loss):  # type: ignore[misc]
    """A loss that gives its gradient, too, and can be added to others."""

    _takes_labels: bool

    def _summed(self, *terms: tuple[Any, Any]) -> Combination:
        return Combination(terms)

    def value_and_grad(
        self,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any = None,
        *,
        upstream: Any = 1.0,
        wrt: Wrt = "y_pred",
    ) -> tuple[Any, Any]:
        """The reduced loss and its gradient as tensors, in one pass over memory.

        For loops and custom gradients of one's own; under a tape the loss itself is enough.

        Parameters
        ----------
        y_true, y_pred, sample_weight
            As for calling the loss.
        upstream : float or tensor, optional
            What the gradient is multiplied by: the derivative of something with respect to this
            loss.
        wrt : {"y_pred", "y_true", "both"}, optional
            What to differentiate with respect to.

        Returns
        -------
        value : tensor
            As for calling the loss.
        grad : tensor or (tensor, tensor)
            The derivative of ``value * upstream``; a pair (y_pred, y_true) for ``wrt="both"``.

        Raises
        ------
        ValueError, TypeError
            As for calling the loss, and for what has no gradient.
        """
        check_wrt(wrt, self._takes_labels)
        value, grad_pred, grad_true = value_and_gradients(
            lambda y_true, y_pred: self(y_true, y_pred, sample_weight),
            y_true,
            y_pred,
            upstream,
            wrt,
        )
        if wrt == "both":
            return value, (grad_pred, grad_true)
        return value, grad_pred if wrt == "y_pred" else grad_true


class FusedLoss(_Differentiable):
    """Base class of the losses of this module."""

    spec: ClassVar[LossSpec]
    weight: Any = None
    _options: ClassVar[dict[str, Any]]
    _in_config: ClassVar[set[str]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = assign_arguments(self.spec, list(self._options), args, kwargs)
        self.weight = given.pop("weight", None)
        common = {k: given.pop(k, self._options[k]) for k in ("reduction", "name", "dtype")}
        super().__init__(**common)
        self._given_dtype = None if common["dtype"] is None else self.dtype
        self._parameters = self.spec.bind(given)
        for parameter in self.spec.class_parameters:
            setattr(self, parameter.name, self._parameters[parameter.name])

    @property
    def is_fused(self) -> bool:
        """Whether the compiled kernels compute it: it is no subclass with a formula of its own."""
        return type(self).call is FusedLoss.call

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the loss by name."""
        return self._parameters

    @property
    def _takes_labels(self) -> bool:  # type: ignore[override]
        return self.spec.labels == "integer"

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss, as a tensor; arguments as for the losses of Keras."""
        if not self.is_fused:
            return super().__call__(y_true, y_pred, sample_weight)
        return call_loss(self, self.spec, self._parameters, y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The losses of the samples, unweighted."""
        # As in Keras, nested structures are brought to the same ranks leaf by leaf.
        pairs = keras.tree.map_structure(squeeze_or_expand_to_same_rank, y_true, y_pred)
        y_true = keras.tree.map_structure_up_to(y_true, lambda pair: pair[0], pairs)
        y_pred = keras.tree.map_structure_up_to(y_pred, lambda pair: pair[1], pairs)
        return loss_values(self.spec, self._parameters, y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments by name: Keras's config, and what else is not the default.

        So Keras's own class understands it as far as it has the parameters.
        """
        own = {p.name: self._parameters[p.name] for p in self.spec.class_parameters}
        plain = getattr(self.weight, "tolist", None)  # of an array
        own |= {"dtype": self._given_dtype, "weight": plain() if plain else self.weight}
        changed = {k: v for k, v in own.items() if k in self._in_config or v != self._options[k]}
        return {**super().get_config(), **changed}


if TYPE_CHECKING:  # the names are made below, from the registry

    def __getattr__(name: str) -> Any: ...


def _function(spec: LossSpec) -> Callable[..., Any]:
    names = [a.name for a in spec.arrays] + [p.name for p in spec.parameters]

    def function(y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
        return loss_values(spec, assign_arguments(spec, names, args, kwargs), y_true, y_pred)

    # The name, the documentation and the signature are those of the function on tensors.
    return functools.update_wrapper(function, make_function(spec, __name__, per_sample))


def _class(spec: LossSpec) -> type[FusedLoss]:
    members = class_members(spec, __name__)
    members["_options"] = options = _options(spec)
    theirs = getattr(keras.losses, spec.class_name, None)
    members["_in_config"] = set(theirs().get_config() if theirs else options) - {"weight"}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, default=value) for name, value in options.items()]
    members["__signature__"] = ConstructorSignature(inspect.Signature(parameters))
    return type(spec.class_name, (FusedLoss,), members)


# Registered, so that Keras saves and loads them: as "fastloss>Huber" and "fastloss>huber".
_register = keras.saving.register_keras_serializable(package="fastloss")

for _spec in REGISTRY:
    globals()[_spec.name] = _register(_function(_spec))
    globals()[_spec.class_name] = _register(_class(_spec))
    __all__ += [_spec.name, _spec.class_name]
    # Keras looks up strings in this table alone, as in compile(loss="fastloss>huber").
    for _name in (_spec.name, _spec.class_name):
        keras_losses.ALL_OBJECTS_DICT[f"fastloss>{_name}"] = globals()[_name]


@_register
class Combination(_Differentiable):
    """A sum of losses of this module, each times a number: a loss like any other.

    What ``0.7 * MeanSquaredError() + 0.3 * MeanAbsoluteError()`` makes; see `fastloss.Combination`.
    Terms that take the same tensors are computed in one pass. They do not where Keras takes one of
    them from the logits behind a softmax or sigmoid, or fits ``y_true`` otherwise for one: then
    each takes a pass.

    Parameters
    ----------
    terms : iterable of (float, loss)
        The coefficients, finite, and the losses, with the same reduction and dtype.
    name : str, default "combination"
        A name for messages and logs.

    Raises
    ------
    ValueError
        If the terms differ in their reduction or dtype, or there are none.
    TypeError
        If a coefficient is no number, or a term no loss of this module.
    """

    def __init__(self, terms: Any, name: str | None = None) -> None:
        pairs = [(number("coefficient", c), loss) for c, loss in terms]
        self.terms = tuple(flattened(pairs, Combination))
        losses = [loss for _, loss in self.terms]
        for loss in losses:
            if not isinstance(loss, FusedLoss):
                raise TypeError(f"terms: expected losses of fastloss.keras, got {loss!r}")
        if not losses:
            raise ValueError("terms: expected at least one pair (number, loss), got none")
        if len({REDUCTIONS[loss.reduction] for loss in losses}) > 1:
            check_same("reduction", [loss.reduction for loss in losses], losses)
        check_same("dtype", [loss.dtype for loss in losses], losses)
        first = losses[0]
        super().__init__(
            name=name or "combination", reduction=first.reduction, dtype=first._given_dtype
        )

    @property
    def _takes_labels(self) -> bool:  # type: ignore[override]
        return any(loss._takes_labels for _, loss in self.terms)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss, as a tensor; arguments as for the losses of Keras."""
        return call_sum(self, y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The losses of the samples, unweighted."""
        values = [c * loss.call(y_true, y_pred) for c, loss in self.terms]
        return sum(values[1:], start=values[0])

    def get_config(self) -> dict[str, Any]:
        """The terms, as pairs of a coefficient and what Keras saves a loss as."""
        save = keras.saving.serialize_keras_object
        return {"terms": [[c, save(loss)] for c, loss in self.terms], "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Combination:
        """The loss that `get_config` described."""
        load = keras.saving.deserialize_keras_object
        return cls([(c, load(loss)) for c, loss in config["terms"]], config.get("name"))

    def __repr__(self) -> str:
        return formula((c, _Shown(loss)) for c, loss in self.terms)


class _Shown:
    """A loss as it is written, which Keras's own losses do not show."""

    def __init__(self, loss: FusedLoss) -> None:
        changed = {k: v for k, v in loss.get_config().items() if v != loss._options.get(k, v)}
        options = ", ".join(f"{k}={v!r}" for k, v in changed.items())
        self.text = f"{type(loss).__name__}({options})"

    def __repr__(self) -> str:
        return self.text


keras_losses.ALL_OBJECTS_DICT["fastloss>Combination"] = Combination


def get(identifier: Any) -> Any:
    """The loss that an identifier names, as ``keras.losses.get`` finds it, but ours.

    Parameters
    ----------
    identifier : str, dict, callable or None
        The name of a function or a class (Keras's, one of its older spellings, or with "fastloss>"
        before it); a config with "class_name" and "config"; a class; a loss, which is returned as
        it is; or None. What only Keras has comes from Keras.

    Returns
    -------
    Loss, function or None
        A function for the name of a function, an instance for that of a class.

    Raises
    ------
    ValueError
        If nothing has that name.

    Examples
    --------
    >>> import fastloss.keras  # doctest: +SKIP
    >>> fastloss.keras.get({"class_name": "Huber", "config": {"delta": 2.0}})  # doctest: +SKIP
    """
    if isinstance(identifier, str):
        spec = ALIASES.get(identifier.removeprefix("fastloss>"))
        if spec is not None:
            by_class = identifier.endswith(spec.class_name)
            return globals()[spec.class_name]() if by_class else globals()[spec.name]
    if isinstance(identifier, dict):
        name, config = identifier.get("class_name"), identifier.get("config")
        if name == "function":
            return get(config)
        spec = ALIASES.get(str(name).removeprefix("fastloss>"))
        if spec is not None:
            return globals()[spec.class_name].from_config(config or {})
    return keras.losses.get(identifier)
