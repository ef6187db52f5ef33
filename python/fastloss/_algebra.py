"""Losses made of losses: sums, and parts of the predictions with a loss each."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np

from fastloss._build import Loss
from fastloss._evaluate import REDUCTIONS, Call
from fastloss._samples import BatchPlan, Host
from fastloss._sum import add_values, make_sum

Index: TypeAlias = "slice | EllipsisType | tuple[slice | EllipsisType, ...]"


def number(name: str, value: Any) -> float:
    """A finite coefficient; raises what is wrong with any other."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


def flattened(terms: Iterable[tuple[float, Any]], kind: type[Any]) -> list[tuple[float, Any]]:
    """The terms with the terms of those that are of ``kind``, sums themselves, in their place."""
    out: list[tuple[float, Any]] = []
    for coefficient, loss in terms:
        if isinstance(loss, kind):
            out += [(coefficient * c, term) for c, term in loss.terms]
        else:
            out.append((coefficient, loss))
    return out


def formula(terms: Iterable[tuple[float, Any]]) -> str:
    """``0.7 * A() - B()``; a single term keeps its coefficient, so that it reads as a sum."""
    text = ""
    terms = list(terms)
    for coefficient, loss in terms:
        size = abs(coefficient)
        term = repr(loss) if size == 1 and len(terms) > 1 else f"{size!r} * {loss!r}"
        if coefficient < 0:
            text += f" - {term}" if text else f"-{term}"
        else:
            text += f" + {term}" if text else term
    return text


def check_same(name: str, values: list[Any], losses: list[Any]) -> None:
    """Raises if the losses differ in something that a sum has once."""
    for value, loss in zip(values, losses, strict=True):
        if value != values[0]:
            raise ValueError(
                f"{name}: the terms of a sum have one {name}, got {losses[0].name} with "
                f"{values[0]!r} and {loss.name} with {value!r}"
            )


class Combination(Loss):
    """A sum of losses, each times a number: a loss like any other.

    What ``0.7 * MeanSquaredError() + 0.3 * MeanAbsoluteError()`` makes. Its value and gradient are
    made in one pass over memory: each block of ``y_true`` and ``y_pred`` is loaded once, every term
    is computed on it, and the gradient is written once.

    Parameters
    ----------
    terms : iterable of (float, Loss)
        The coefficients, finite, and the losses, which must have the same ``reduction`` and
        ``dtype``. Sums among them are taken apart.
    name : str, default "combination"
        A name for messages and logs.

    Raises
    ------
    ValueError
        If the terms differ in their reduction or dtype, or there are none.
    TypeError
        If a coefficient is no number, or a term no loss.

    Notes
    -----
    Losses in the same pass must see the elements in the same order: losses over trailing axes do,
    whatever their number. Losses over other axes, `Circle`, `CTC` and `sliced` losses are computed
    one after the other and their gradients are added; that takes a pass for each.

    Examples
    --------
    >>> import fastloss
    >>> loss = 0.7 * fastloss.MeanSquaredError() + 0.3 * fastloss.MeanAbsoluteError()
    >>> loss
    0.7 * MeanSquaredError() + 0.3 * MeanAbsoluteError()
    >>> print(f"{loss([1., 0.], [2., 3.]):.3f}")
    4.100
    """

    terms: tuple[tuple[float, Loss], ...]

    def __init__(self, terms: Iterable[Any], name: str | None = None) -> None:
        checked = []
        for pair in terms:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"terms: expected pairs (number, loss), got {pair!r}")
            if not isinstance(pair[1], Loss):
                raise TypeError(f"terms: expected losses of fastloss, got {pair[1]!r}")
            checked.append((number("coefficient", pair[0]), pair[1]))
        self.terms = tuple(flattened(checked, Combination))
        if not self.terms:
            raise ValueError("terms: expected at least one pair (number, loss), got none")
        losses = [loss for _, loss in self.terms]
        kinds = [REDUCTIONS[loss.reduction] for loss in losses]
        if len(set(kinds)) > 1:
            check_same("reduction", [loss.reduction for loss in losses], losses)
        check_same("dtype", [loss.dtype for loss in losses], losses)
        self.reduction, self.dtype = losses[0].reduction, losses[0].dtype
        self.name = name or "combination"
        self._prepare()

    def _prepare(self) -> None:
        self._plan = make_sum(self.terms)
        self._weighs = any(loss._weighs for _, loss in self.terms)

    def _own_weight(self, y_true: Any) -> Any:
        return tuple(loss._own_weight(y_true) if loss._weighs else None for _, loss in self.terms)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def get_config(self) -> dict[str, Any]:
        """The terms, as pairs of a coefficient and a config that `fastloss.get` takes."""
        return {"terms": [[c, described(loss)] for c, loss in self.terms], "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        """The loss that `get_config` described."""
        from fastloss.losses import get

        return cls([(c, get(loss)) for c, loss in config["terms"]], config.get("name"))

    def __repr__(self) -> str:
        text = formula(self.terms)
        return text if self.name == "combination" else f"Combination({self.terms!r}, {self.name!r})"


def described(loss: Loss) -> dict[str, Any]:
    """What `fastloss.get` makes the loss of."""
    return {"class_name": type(loss).__name__, "config": loss.get_config()}


class Part:
    """A part of the predictions: an index of slices."""

    def __init__(self, index: Any) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(p, (slice, EllipsisType)) for p in parts):
            raise TypeError(f"parts: expected slices, as np.s_[..., :10] makes them, got {index!r}")
        if sum(p is Ellipsis for p in parts) > 1:
            raise ValueError(f"parts: expected one Ellipsis at most, got {index!r}")
        self.index: tuple[slice | EllipsisType, ...] = parts

    def along(self, ndim: int) -> tuple[slice, ...]:
        """One slice for each axis."""
        given = [p for p in self.index if p is not Ellipsis]
        if len(given) > ndim:
            raise ValueError(f"y_pred: expected at least {len(given)} dimensions, got {ndim}")
        rest = [slice(None)] * (ndim - len(given))
        at = self.index.index(Ellipsis) if Ellipsis in self.index else len(given)
        return (*given[:at], *rest, *given[at:])

    def __repr__(self) -> str:
        def text(s: slice | EllipsisType) -> str:
            if isinstance(s, EllipsisType):
                return "..."
            ends = f"{'' if s.start is None else s.start}:{'' if s.stop is None else s.stop}"
            return ends if s.step is None else f"{ends}:{s.step}"

        return f"np.s_[{', '.join(map(text, self.index))}]"


def check_parts(parts: list[Part], shape: tuple[int, ...], allow_gaps: bool) -> None:
    """Raises if the parts overlap, or leave something out that they may not."""
    slices = [part.along(len(shape)) for part in parts]
    whole = [all(range(*s[d].indices(n)) == range(n) for s in slices) for d, n in enumerate(shape)]
    # How many parts every place lies in; axes that no part cuts are one place.
    count = np.zeros([1 if w else n for n, w in zip(shape, whole, strict=True)], np.int64)
    for s in slices:
        count[tuple(slice(None) if w else x for x, w in zip(s, whole, strict=True))] += 1
    for wrong, what in ((count > 1, "overlap at"), (count == 0, "leave out")):
        if not wrong.any() or (what == "leave out" and allow_gaps):
            continue
        first = np.unravel_index(int(wrong.argmax()), count.shape)
        place = ", ".join(":" if w else str(int(i)) for i, w in zip(first, whole, strict=True))
        hint = "" if what == "overlap at" else "; allow_gaps=True permits it"
        raise ValueError(f"parts: the slices {what} y_pred[{place}] of shape {shape}{hint}")


class SlicedPlan(BatchPlan):
    """Losses of parts of the predictions, each times its weight, added up."""

    def __init__(self, parts: list[tuple[Part, float, Loss]], allow_gaps: bool) -> None:
        self.parts, self.allow_gaps = parts, allow_gaps
        self.name = "sliced"
        self.takes_labels = any(loss._plan.takes_labels for _, _, loss in parts)
        self.uses_target = any(loss._plan.uses_target for _, _, loss in parts)
        self.arrays = ()
        self._fits: tuple[int, ...] | None = None  # the last shape that was checked

    def axes(self, ndim: int) -> list[int]:
        return self.parts[0][2]._plan.axes(ndim)

    def _split(self, x: Any, shape: tuple[int, ...], where: tuple[slice, ...]) -> Any:
        """What belongs to a part of a weight or mask: all of it, unless it is as y_pred."""
        if x is None:
            return None
        if not hasattr(x, "shape"):
            x = np.asarray(x)
        return x[where] if tuple(x.shape) == shape else x

    def each(
        self, y_true: Any, y_pred: Any, sample_weight: Any, mask: Any
    ) -> Iterator[tuple[float, Loss, tuple[slice, ...], dict[str, Any]]]:
        """The weight, the loss, the place, and the arguments of every part."""
        shape = tuple(y_pred.shape)
        if shape != self._fits:
            check_parts([part for part, _, _ in self.parts], shape, self.allow_gaps)
            self._fits = shape
        if isinstance(y_true, tuple) and len(y_true) != len(self.parts):
            raise ValueError(
                f"y_true: expected one array, or a tuple of {len(self.parts)}, one for each part, "
                f"got a tuple of {len(y_true)}"
            )
        if not isinstance(y_true, tuple) and y_true is not None:
            if not hasattr(y_true, "shape"):
                y_true = np.asarray(y_true)
            if tuple(y_true.shape) != shape:
                raise ValueError(
                    f"y_true: expected the shape of y_pred, {shape}, or a tuple with an array for "
                    f"each part, got {tuple(y_true.shape)}"
                )
        for k, (part, weight, loss) in enumerate(self.parts):
            where = part.along(len(shape))
            own = y_true[k] if isinstance(y_true, tuple) else y_true
            yield weight, loss, where, {
                "y_true": own if own is None or isinstance(y_true, tuple) else own[where],
                "y_pred": y_pred[where],
                "sample_weight": self._split(sample_weight, shape, where),
                "mask": self._split(mask, shape, where),
            }  # fmt: skip

    def term_values(self, call: Call) -> Any:
        """The sum of what the losses return, for arrays that differentiate themselves."""
        values = [
            weight * loss(given.pop("y_true"), given.pop("y_pred"), **given)
            for weight, loss, _, given in self.each(
                call.y_true, call.y_pred, call.sample_weight, call.mask
            )
        ]
        return sum(values[1:], start=values[0])

    def compute(self, place: Host, call: Call) -> tuple[Any, Any, Any]:
        wrt, out, y_true = call.wrt, call.out, call.y_true
        if wrt in ("y_true", "both"):
            raise ValueError(
                "wrt: sliced losses have a gradient of y_pred alone, expected 'y_pred', got "
                f"{wrt!r}"
            )
        y_pred = place.predictions(call.y_pred)
        if out is not None:
            place.check_out(out, y_pred)
        if y_true is not None and not isinstance(y_true, tuple):
            y_true = place.real_numbers(y_true, "y_true")
        upstream = place.number_or_array(call.upstream, "upstream")
        grad = None if wrt is None else place.empty(y_pred.shape, y_pred.dtype)
        if grad is not None and self.allow_gaps:
            grad[...] = 0
        value: Any = None
        for weight, loss, where, given in self.each(y_true, y_pred, call.sample_weight, call.mask):
            part = Call(
                **given,
                reduction=loss.reduction,
                upstream=weight * upstream,
                wrt=wrt,
                out=None if grad is None else grad[where],
                check=call.check,
                weight=loss._own_weight(given["y_true"]) if loss._weighs else None,
            )
            value = add_values(value, weight, loss._plan.evaluate(part)[0])
        # Not before, because a later part may raise, and out may lie over an input.
        if out is not None:
            out[...] = grad
            grad = out
        return value, grad, None


class Sliced(Loss):
    """Losses of parts of the predictions; `sliced` makes it.

    Examples
    --------
    >>> import fastloss, numpy as np
    >>> fastloss.sliced([(np.s_[..., :2], fastloss.Hinge()), (np.s_[..., 2:], fastloss.Huber())])
    sliced([(np.s_[..., :2], Hinge()), (np.s_[..., 2:], Huber())])
    """

    def __init__(
        self,
        parts: Iterable[Any],
        weights: Iterable[float] | None = None,
        allow_gaps: bool = False,
        name: str | None = None,
    ) -> None:
        pairs = list(parts)
        if not pairs:
            raise ValueError("parts: expected at least one pair (slices, loss), got none")
        for pair in pairs:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"parts: expected pairs (slices, loss), got {pair!r}")
            if not isinstance(pair[1], Loss):
                raise TypeError(f"parts: expected losses of fastloss, got {pair[1]!r}")
            if pair[1]._plan.arrays:
                raise TypeError(
                    f"parts: expected losses that take a part of y_pred alone, got {pair[1].name}"
                )
        given = [1.0] * len(pairs) if weights is None else list(weights)
        if len(given) != len(pairs):
            raise ValueError(f"weights: expected one per part, {len(pairs)}, got {len(given)}")
        if not isinstance(allow_gaps, bool):
            raise TypeError(f"allow_gaps: expected a bool, got {allow_gaps!r}")
        self.parts = [Part(index) for index, _ in pairs]
        self.losses = [loss for _, loss in pairs]
        self.weights = [number("weights", w) for w in given]
        self.allow_gaps = allow_gaps
        if len({REDUCTIONS[loss.reduction] for loss in self.losses}) > 1:
            check_same("reduction", [loss.reduction for loss in self.losses], self.losses)
        check_same("dtype", [loss.dtype for loss in self.losses], self.losses)
        self.reduction, self.dtype = self.losses[0].reduction, self.losses[0].dtype
        self.name = name or "sliced"
        self._prepare()

    def _prepare(self) -> None:
        parts = list(zip(self.parts, self.weights, self.losses, strict=True))
        self._plan = SlicedPlan(parts, self.allow_gaps)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def get_config(self) -> dict[str, Any]:
        """The arguments by name; a slice is a list of start, stop and step, an Ellipsis "..."."""

        def plain(s: Any) -> Any:
            return "..." if s is Ellipsis else [s.start, s.stop, s.step]

        indices = [[plain(s) for s in part.index] for part in self.parts]
        return {
            "parts": [[i, described(x)] for i, x in zip(indices, self.losses, strict=True)],
            "weights": self.weights,
            "allow_gaps": self.allow_gaps,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        """The loss that `get_config` described."""
        from fastloss.losses import get

        def index(plain: Any) -> Any:
            return tuple(Ellipsis if s == "..." else slice(*s) for s in plain)

        given = dict(config)
        return cls([(index(i), get(loss)) for i, loss in given.pop("parts")], **given)

    def __repr__(self) -> str:
        pairs = ", ".join(f"({p!r}, {x!r})" for p, x in zip(self.parts, self.losses, strict=True))
        options = f", weights={self.weights!r}" if set(self.weights) != {1.0} else ""
        options += ", allow_gaps=True" if self.allow_gaps else ""
        options += f", name={self.name!r}" if self.name != "sliced" else ""
        return f"sliced([{pairs}]{options})"


def sliced(
    parts: Mapping[Any, Loss] | Iterable[tuple[Any, Loss]],
    weights: Iterable[float] | None = None,
    *,
    allow_gaps: bool = False,
    name: str | None = None,
) -> Sliced:
    """A loss for each part of the predictions, as models with several tasks have them.

    The losses of the parts are added. There is one gradient, of the shape of ``y_pred``; the parts
    are views, and nothing of them is copied.

    Parameters
    ----------
    parts : mapping or iterable of pairs
        Which loss each part has: ``[(np.s_[..., :10], A), (np.s_[..., 10:], B)]``. From Python 3.12
        on, slices may be keys: ``{np.s_[..., :10]: A, np.s_[..., 10:]: B}``.
    weights : iterable of float, optional
        What each loss is multiplied by; 1 if not given.
    allow_gaps : bool, default False
        Whether the parts may leave something out, which then has gradient 0.
    name : str, default "sliced"
        A name for messages and logs.

    Returns
    -------
    Loss
        Called with ``y_true`` of the shape of ``y_pred``, which is sliced alike, or with a tuple of
        arrays, one for each part, as for labels. Weights and masks of that shape are sliced, too;
        others, of samples, go to every part.

    Raises
    ------
    ValueError
        When it is called: if parts overlap, or leave something out without ``allow_gaps``.
    TypeError
        If a part is given by something else than slices.

    Examples
    --------
    >>> import fastloss, numpy as np
    >>> loss = fastloss.sliced(
    ...     [(np.s_[..., :2], fastloss.CategoricalCrossentropy()),
    ...      (np.s_[..., 2:], fastloss.MeanSquaredError())],
    ...     weights=[0.5, 0.25],
    ... )
    >>> print(f"{loss([[0., 1., 3.]], [[0.5, 0.5, 1.]]):.4f}")
    1.3466
    """
    pairs = parts.items() if isinstance(parts, Mapping) else parts
    return Sliced(pairs, weights, allow_gaps, name)
