"""Sums of losses: in one pass over memory where all terms are losses of a grid, else one by one."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fastloss import _core
from fastloss._evaluate import CompiledPlan, GridPlan, Plan, Wrt, front_end, predictions

Terms: TypeAlias = tuple[tuple[float, Any], ...]
"""Losses of any front end, or `Term`, each with its coefficient."""


@dataclass(frozen=True)
class Term:
    """A plan without a loss around it, for the sums of other front ends."""

    _plan: Plan
    _weighs = False


class Summable:
    """What losses of every front end have in common: sums and multiples of them are losses."""

    __array_ufunc__ = None  # NumPy's numbers leave arithmetic with losses to these operators

    def _summed(self, *terms: tuple[Any, Any]) -> Any:
        """The sum of losses, each times a number; TypeError for what is none."""
        raise NotImplementedError

    def _is_like(self, other: Any) -> bool:
        return isinstance(other, Summable) and type(self)._summed is type(other)._summed

    def __add__(self, other: Any) -> Any:
        return self._summed((1, self), (1, other)) if self._is_like(other) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        return self._summed((1, self), (-1, other)) if self._is_like(other) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return self if type(other) is int and other == 0 else NotImplemented  # as sum() begins

    def __neg__(self) -> Any:
        return self._summed((-1, self))

    def __mul__(self, other: Any) -> Any:
        return self._summed((other, self)) if isinstance(other, numbers.Real) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return (
            self._summed((1 / other, self)) if isinstance(other, numbers.Real) else NotImplemented
        )


def add_values(total: Any, coefficient: float, value: Any) -> Any:
    """``total + coefficient * value``, in the dtype of the value; zero hides what it multiplies."""
    kind = value.dtype.type
    scaled = kind(coefficient) * value if coefficient else (value == value) * kind(0)
    if total is None:
        return scaled
    if np.shape(total) != np.shape(value):
        raise ValueError(
            f"reduction: values of shapes {np.shape(total)} and {np.shape(value)} cannot be added "
            "unreduced"
        )
    return total + scaled


class SumPlan(Plan):
    """Losses of the same arrays, each times its coefficient, added up."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        plans = [loss._plan for _, loss in terms]
        self.name = "the sum of " + ", ".join(dict.fromkeys(plan.name for plan in plans))
        self.takes_labels = any(plan.takes_labels for plan in plans)
        self.uses_target = any(plan.uses_target for plan in plans)
        self.arrays = tuple(dict.fromkeys(a for plan in plans for a in plan.arrays))

    def axes(self, ndim: int) -> list[int]:
        plan: Plan = self.terms[0][1]._plan
        return plan.axes(ndim)

    def term_values(self, y_true: Any, y_pred: Any, **given: Any) -> Any:
        """The sum of what the losses return, for arrays that differentiate themselves."""
        factors = {name: given.pop(name) for name in ("sample_weight", "mask")}
        self.check_arrays(given)
        values = []
        for coefficient, loss in self.terms:
            own = {name: given[name] for name in loss._plan.arrays if name in given}
            values.append(coefficient * loss(y_true, y_pred, **factors, **own))
        return sum(values[1:], start=values[0])

    def check_arrays(self, arrays: dict[str, Any]) -> None:
        if unknown := arrays.keys() - set(self.arrays):
            raise TypeError(f"{min(unknown)}: no term of the sum takes such an array")

    def by_terms(
        self,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any,
        mask: Any,
        upstream: Any,
        wrt: Wrt | None,
        out: Any,
        check: bool,
        arrays: dict[str, Any],
    ) -> tuple[Any, Any, Any]:
        """One term after the other; the gradient of each is added to that of those before."""
        self.check_arrays(arrays)
        stored = y_pred.dtype
        if stored.itemsize == 2:  # rounded once, as if in one pass
            y_pred = y_pred.astype(np.float32)
        if not isinstance(upstream, (int, float)) and not hasattr(upstream, "dtype"):
            upstream = np.asarray(upstream)
        value: Any = None
        gradients: dict[str, Any] = {}
        for coefficient, loss in self.terms:
            plan = loss._plan
            own = {name: arrays[name] for name in plan.arrays if name in arrays}
            if loss._weighs:
                own["weight"] = loss._own_weight(y_true)
            asked = wrt
            if not plan.uses_target and self.uses_target:  # it adds nothing to that of y_true
                asked = "y_pred" if wrt in ("y_pred", "both") else None
            v, *found = plan.evaluate(
                y_true, y_pred, loss.reduction, sample_weight, mask, coefficient * upstream, asked,
                None, check, **own,
            )  # fmt: skip
            value = add_values(value, coefficient, v)
            for name, gradient in zip(("y_pred", "y_true"), found, strict=True):
                if gradient is None:
                    continue
                if name in gradients:
                    gradients[name] += gradient
                else:
                    gradients[name] = gradient
        grad_pred, grad_true = (
            None if name not in gradients else gradients[name].astype(stored, copy=False)
            for name in ("y_pred", "y_true")
        )
        if out is not None:
            out[...] = grad_pred
            grad_pred = out
        return value, grad_pred, grad_true


class FusedSum(SumPlan, CompiledPlan):
    """A sum whose terms the compiled kernels do together, panel by panel."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.compiled = _core.Plan(
            [(c, loss._plan.compiled) for c, loss in terms if isinstance(loss._plan, CompiledPlan)]
        )

    @classmethod
    def of_plans(cls, coefficients: Sequence[float], plans: Sequence[GridPlan]) -> FusedSum:
        """The sum of plans, each times its coefficient."""
        return cls(tuple((c, Term(p)) for c, p in zip(coefficients, plans, strict=True)))


class TermByTerm(SumPlan):
    """A sum with a term that is no loss of a grid: each takes its own passes over memory."""

    def evaluate(
        self,
        y_true: Any,
        y_pred: Any,
        reduction: str | None,
        sample_weight: Any = None,
        mask: Any = None,
        upstream: Any = 1.0,
        wrt: Wrt | None = None,
        out: Any = None,
        check: bool = False,
        **arrays: Any,
    ) -> tuple[Any, Any, Any]:
        if (elsewhere := front_end(y_pred)) is not None:
            return elsewhere.evaluate(
                self, y_true, y_pred, reduction, sample_weight, mask, upstream, wrt, out, check,
                **arrays,
            )  # fmt: skip
        y_pred = predictions(y_pred)
        if out is not None:
            _core.check_out(out, y_pred)
        return self.by_terms(y_true, y_pred, sample_weight, mask, upstream, wrt, out, check, arrays)


def make_sum(terms: Terms) -> SumPlan:
    """The plan of the sum of the losses, each times its coefficient."""
    fuses = all(isinstance(loss._plan, GridPlan) for _, loss in terms)
    return FusedSum(terms) if fuses else TermByTerm(terms)
