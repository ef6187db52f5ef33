"""Builds the public functions and classes from the registry."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastloss._evaluate import (
    REDUCTIONS,
    Array,
    Call,
    Plan,
    Wrt,
    check_reduction,
    check_wrt,
    front_end,
    predictions,
    real_numbers,
)
from fastloss._parameters import Parameter
from fastloss._plans import kept_plan, make_plan
from fastloss._registry import ALIASES, REGISTRY, LossSpec
from fastloss._sum import Summable


def assign_arguments(
    spec: LossSpec, names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Positional and keyword arguments as one dict; raises TypeError as Python itself would."""
    if len(args) > len(names):
        raise TypeError(f"{spec.name}: expected at most {len(names)} options, got {len(args)}")
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            raise TypeError(f"{spec.name}: got two values for {name!r}")
        if name not in names:
            raise TypeError(f"{name}: not an option of {spec.name}, whose options are: "
                            f"{', '.join(names) or 'none'}")  # fmt: skip
        given[name] = value
    return given


def _checked_weight(given: Any) -> Any:
    if given is None or callable(given) or front_end(given):
        return given
    return real_numbers(given, "weight")


class Loss(Summable):
    """Base class of the losses: parameters, a reduction, and the two ways to call them.

    Use one of its subclasses, such as `fastloss.MeanSquaredError`, or `fastloss.get`.
    """

    spec: ClassVar[LossSpec]
    reduction: str | None
    name: str
    dtype: str | None
    weight: Any = None
    _plan: Plan
    _weighs = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not hasattr(self, "spec"):
            raise TypeError(
                "Loss: the base class computes nothing; use one of its subclasses, or "
                "fastloss.get(name)"
            )
        names = [p.name for p in self.spec.class_parameters] + [
            "reduction",
            "name",
            "dtype",
            "weight",
        ]
        given = assign_arguments(self.spec, names, args, kwargs)
        self.reduction = given.pop("reduction", "sum_over_batch_size")
        check_reduction(self.reduction)
        self.name = given.pop("name", None) or self.spec.object_name
        self.dtype = given.pop("dtype", None)
        if self.dtype not in (None, "float16", "bfloat16", "float32", "float64"):
            raise ValueError(
                "dtype: expected None, 'float16', 'bfloat16', 'float32' or 'float64', got "
                f"{self.dtype!r}"
            )
        if self.dtype == "bfloat16":
            import ml_dtypes  # noqa: F401  (registers the name with NumPy)
        self.weight = _checked_weight(given.pop("weight", None))
        self._weighs = self.weight is not None
        self._plan = make_plan(self.spec, given)
        for parameter in self.spec.class_parameters:
            setattr(self, parameter.name, self._plan.parameters[parameter.name])

    def __call__(
        self,
        y_true: Any,
        y_pred: Any,
        *,
        sample_weight: Any = None,
        mask: Any = None,
        check: bool = False,
        **arrays: Any,
    ) -> Any:
        """The reduced loss.

        Parameters
        ----------
        y_true : array_like
            Targets: the shape of ``y_pred``, any real dtype; or, for the losses that take class
            indices, its shape without the class axis (or with size 1 there), integers.
        y_pred : array_like
            Predictions, float16, bfloat16, float32 or float64 (integers become float64). Not
            copied, whatever its strides.
        sample_weight : array_like, optional
            Weights of the loss values. A shape that begins the shape of the values weighs samples;
            else it broadcasts to the values or, for elementwise losses, to ``y_pred``. What has
            weight zero contributes exactly zero, even where its loss is NaN.
        mask : array_like, optional
            What counts (true) and what does not; shaped as ``sample_weight``. The mean is taken
            over what counts.
        check : bool, optional
            Whether labels on a GPU are looked at first, which waits for the GPU. Otherwise a label
            outside the classes gives NaN, and a gradient of zero. On the host they always are.
        **arrays : array_like, optional
            What the function of the loss takes beside these: ``ref_labels`` and ``ref_embeddings``
            of the circle loss, ``label_length`` and ``logit_length`` of CTC.

        Returns
        -------
        NumPy scalar or ndarray
            The value, in the dtype of ``y_pred``; with ``reduction=None`` one value per sample.

        Raises
        ------
        ValueError
            For shapes that do not fit, or labels outside the classes; names the argument.
        TypeError
            For dtypes that are not supported.
        """
        if arrays:
            self._check_arrays(arrays)
        if self.dtype is not None:
            y_pred = self._cast(y_pred)
        weight = self._own_weight(y_true) if self._weighs else None
        done = self._plan.run(
            y_true, y_pred, REDUCTIONS[self.reduction], sample_weight, mask, 1.0, None, None,
            weight if weight is None or type(weight) is tuple else (weight,),
        )  # fmt: skip
        if done is None:
            call = Call(y_true, y_pred, self.reduction, sample_weight, mask)
            done = self._plan.evaluate(call._replace(check=check, weight=weight, arrays=arrays))
        return done[0]

    def value_and_grad(
        self,
        y_true: Any,
        y_pred: Any,
        *,
        sample_weight: Any = None,
        mask: Any = None,
        upstream: Any = 1.0,
        out: Array | None = None,
        wrt: Wrt = "y_pred",
        check: bool = False,
        **arrays: Any,
    ) -> tuple[Any, Any]:
        """The reduced loss and its gradient, in one pass over memory.

        Parameters
        ----------
        y_true, y_pred, sample_weight, mask, check, **arrays
            As for calling the loss.
        upstream : float or array_like, optional
            What the gradient is multiplied by: the derivative of something with respect to this
            loss. With ``reduction=None`` it may be an array shaped like the value.
        out : ndarray, optional
            Where to write the gradient: an array with the shape and dtype of ``y_pred``, which it
            may itself be.
        wrt : {"y_pred", "y_true", "both"}, optional
            What to differentiate with respect to.

        Returns
        -------
        value : NumPy scalar or ndarray
            As for calling the loss.
        grad : ndarray or (ndarray, ndarray)
            The derivative of ``value * upstream`` (of its sum, with ``reduction=None``), shaped
            like what it is with respect to, in the dtype of ``y_pred``. A pair (y_pred, y_true)
            for ``wrt="both"``.

        Raises
        ------
        ValueError, TypeError
            As for calling the loss. Nothing is written then.
        KeyboardInterrupt
            Also in the middle of a long call; ``out`` may then be half written.
        """
        if wrt != "y_pred":
            check_wrt(wrt, self._plan.takes_labels, out)
        if arrays:
            self._check_arrays(arrays)
        if self.dtype is not None:
            y_pred = self._cast(y_pred)
        weight = self._own_weight(y_true) if self._weighs else None
        done = self._plan.run(
            y_true, y_pred, REDUCTIONS[self.reduction], sample_weight, mask, upstream, wrt, out,
            weight if weight is None or type(weight) is tuple else (weight,),
        )  # fmt: skip
        if done is None:
            done = self._plan.evaluate(
                Call(
                    y_true, y_pred, self.reduction, sample_weight, mask, upstream, wrt, out, check,
                    weight, arrays,
                )
            )  # fmt: skip
        value, grad_pred, grad_true = done
        if wrt == "both":
            return value, (grad_pred, grad_true)
        return value, grad_pred if wrt == "y_pred" else grad_true

    def _check_arrays(self, arrays: dict[str, Any]) -> None:
        known = self._plan.arrays
        for name in arrays:
            if name not in known:
                raise TypeError(
                    f"{name}: expected an argument of a call of {type(self).__name__}: y_true, "
                    f"y_pred, {', '.join([*known, 'sample_weight', 'mask'])}; what is "
                    "an option of the loss is given when it is made"
                )

    def _cast(self, y_pred: Any) -> Any:
        assert self.dtype is not None
        if elsewhere := front_end(y_pred):
            return elsewhere.cast(y_pred, self.dtype)
        return predictions(y_pred).astype(self.dtype, copy=False)

    def _own_weight(self, y_true: Any) -> Any:
        """The weight of the loss itself, for these targets."""
        if not callable(self.weight):
            return self.weight
        return self.weight(y_true if front_end(y_true) else np.asarray(y_true))

    def _summed(self, *terms: tuple[Any, Any]) -> Loss:
        from fastloss._algebra import Combination

        return Combination(terms)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        given = {p.name: state[p.name] for p in self.spec.class_parameters}
        self._plan = make_plan(self.spec, given)

    def get_config(self) -> dict[str, Any]:
        """Every constructor argument by name, as plain Python values; a function is itself."""
        return {
            **{p.name: self._plan.parameters[p.name] for p in self.spec.class_parameters},
            "reduction": self.reduction,
            "name": self.name,
            "dtype": self.dtype,
            "weight": self.weight.tolist() if isinstance(self.weight, np.ndarray) else self.weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        """The loss that `get_config` described."""
        return cls(**config)

    def __repr__(self) -> str:
        options = {k: v for k, v in self.get_config().items() if k in self._changed()}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"

    def _changed(self) -> set[str]:
        defaults = {p.name: p.default for p in self.spec.class_parameters}
        defaults |= {
            "reduction": "sum_over_batch_size",
            "name": self.spec.object_name,
            "dtype": None,
            "weight": None,
        }
        return {k for k, v in self.get_config().items() if v != defaults[k]}


_FLOATS = "float16, bfloat16, float32 or float64\n    (integers become float64)."
# What y_true and y_pred hold, by kind, and for the others by labels.
_ARRAYS_TEXT = {
    "dense": ("Targets, the shape of ``y_pred``; any real dtype.", "Predictions"),
    "integer": (
        "Class indices: the shape of ``y_pred`` without its class axis; integers.", "Predictions",
    ),
    "pairwise": (
        "Labels, (samples,); integers.", "Embeddings of length one, (samples, features)",
    ),
    "sequence": ("Labels, (batch, labels); integers.", "Logits, (batch, time, classes)"),
}  # fmt: skip


_CHECK_TEXT = """\
check : bool, default False
    Whether labels on a GPU are looked at first, which waits for the GPU. Otherwise one outside the
    classes gives NaN. On the host they always are.
"""


def _parameter_lines(parameters: tuple[Parameter, ...]) -> str:
    return "".join(
        f"{p.name} : {p.annotation}, default {p.default!r}\n    {p.doc}\n" for p in parameters
    )


def _arrays_text(spec: LossSpec) -> str:
    true, pred = _ARRAYS_TEXT.get(spec.kind) or _ARRAYS_TEXT[spec.labels]
    if not spec.uses_target:
        true = "Not looked at; may be None."
    more = (f"{a.name} : array_like, optional\n    {a.doc}\n" for a in spec.arrays)
    return (
        f"y_true : array_like\n    {true}\ny_pred : array_like\n    {pred}: {_FLOATS}\n"
        + "".join(more)
    )


def _document(spec: LossSpec, parameters: str, returns: str, call: str, *, index: str = "") -> str:
    true, pred, value = spec.example
    raises = (
        "ValueError\n    For shapes that do not fit, labels outside the classes, or an option "
        "outside its range.\nTypeError\n    For a dtype or an option of the wrong type.\n"
    )
    shown = f"{call}({true}, {pred}){index}"
    example = f">>> import fastloss\n>>> print(f'{{{shown}:#.7g}}')\n{_seven(value)}\n"
    sections = {
        "Parameters": parameters,
        "Returns": returns,
        "Raises": raises,
        "Notes": f"With t = y_true, p = y_pred::\n\n    {spec.formula}\n\nSource: {spec.source}.\n",
        "Examples": example if call else "",
    }
    return f"{spec.summary}\n\n" + "\n".join(
        f"{title}\n{'-' * len(title)}\n{body}" for title, body in sections.items() if body
    )


def _seven(value: str) -> str:
    return f"{float(value):#.7g}"


def _signature(parameters: list[tuple[str, Any]], *, lead: tuple[str, ...]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    given = [inspect.Parameter(name, kind) for name in lead]
    options = [inspect.Parameter(name, kind, default=default) for name, default in parameters]
    return inspect.Signature(given + options)


def make_function(
    spec: LossSpec,
    module: str,
    call: Callable[..., Any],
    example: str = "",
    *,
    takes_check: bool = False,
) -> Callable[..., Any]:
    """The function of a loss: ``(y_true, y_pred, *options)`` to one value per sample.

    ``call`` computes, from a plan and arrays; ``example`` is how the docstring's example names the
    function, if it has one. ``takes_check`` adds the keyword of that name.
    """
    arrays = [a.name for a in spec.arrays]
    names = arrays + [p.name for p in spec.parameters]
    default_plan = kept_plan(spec, {})

    # One look-up for options that were given before, in the same words.
    @functools.lru_cache(maxsize=64, typed=True)
    def plan_of(*args: Any, **kwargs: Any) -> Plan:
        return kept_plan(spec, assign_arguments(spec, names, args, kwargs))

    def function(y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
        if not args and not kwargs:
            return call(default_plan, y_true, y_pred)
        if not arrays and "check" not in kwargs:
            try:
                plan = plan_of(*args, **kwargs)
            except TypeError:  # something has no hash, or a wrong type, which is told below
                plan = None
            if plan is not None:
                return call(plan, y_true, y_pred)
        more = {"check": kwargs.pop("check")} if takes_check and "check" in kwargs else {}
        given = assign_arguments(spec, names, args, kwargs)
        more |= {name: given.pop(name) for name in arrays if name in given}
        return call(kept_plan(spec, given), y_true, y_pred, **more)

    function.__name__ = function.__qualname__ = spec.name
    function.__module__ = module
    function.__doc__ = _document(
        spec,
        _arrays_text(spec)
        + _parameter_lines(spec.parameters)
        + (_CHECK_TEXT if takes_check else ""),
        "array\n    The loss of each sample: the shape of ``y_pred`` without the axes of the loss, "
        "in its dtype.\n",
        example,
        index="[0]" if spec.batched else "",
    )
    signature = _signature(
        [(a, None) for a in arrays] + [(p.name, p.default) for p in spec.parameters],
        lead=("y_true", "y_pred"),
    )
    if takes_check:
        last = inspect.Parameter("check", inspect.Parameter.KEYWORD_ONLY, default=False)
        signature = signature.replace(parameters=[*signature.parameters.values(), last])
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


class ConstructorSignature:
    """The ``__signature__`` of a class, which its instances do not have.

    They are callable too, with the signature of ``__call__``, and tf.function asks for theirs.
    """

    def __init__(self, signature: inspect.Signature) -> None:
        self._signature = signature

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        return self._signature


def class_members(spec: LossSpec, module: str, example: str = "") -> dict[str, Any]:
    """What a class of a loss has beside its base class: the row, the docstring, the signature."""
    names = ", ".join(repr(r) for r in REDUCTIONS if r is not None)
    common = (
        f"reduction : {{{names}}} or None"
        "\n    How the losses of the samples become one value.\n"
        f"name : str, default {spec.object_name!r}\n    A name for messages and logs.\n"
        "dtype : str, optional\n    What to cast y_pred to.\n"
        "weight : callable or array_like, optional\n    What the loss is weighted by beside the "
        "``sample_weight`` of a call: an array, or a\n    function of y_true that returns one. It "
        "fits as a ``sample_weight`` does.\n"
    )
    signature = _signature(
        [(p.name, p.default) for p in spec.class_parameters]
        + [
            ("reduction", "sum_over_batch_size"),
            ("name", spec.object_name),
            ("dtype", None),
            ("weight", None),
        ],
        lead=(),
    )
    return {
        "spec": spec,
        "__doc__": _document(spec, _parameter_lines(spec.class_parameters) + common, "", example),
        "__module__": module,
        "__signature__": ConstructorSignature(signature),
    }


def get_spec(identifier: str) -> LossSpec:
    """The registry row that a string names."""
    if identifier not in ALIASES:
        known = ", ".join(spec.name for spec in REGISTRY)
        raise ValueError(f"identifier: no loss is called {identifier!r}; the losses are: {known}")
    return ALIASES[identifier]
