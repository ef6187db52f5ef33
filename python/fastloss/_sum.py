"""Sums of losses: in one pass over memory where all terms are losses of a grid, else one by one."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fastloss import _core
from fastloss._evaluate import Call, CompiledPlan, GridPlan, Plan, front_end, predictions

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
            "unreduced; expected another reduction, or axes that leave values of the same shape"
        )
    return total + scaled


def _arrays_of(loss: Any, call: Call) -> dict[str, Any]:
    """Those of the arrays of a call that the loss takes."""
    return {name: a for name, a in call.arrays.items() if name in loss._plan.arrays}


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

    def term_values(self, call: Call) -> Any:
        """The sum of what the losses return, for arrays that differentiate themselves."""
        factors = {"sample_weight": call.sample_weight, "mask": call.mask}
        values = [
            c * loss(call.y_true, call.y_pred, **factors, **_arrays_of(loss, call))
            for c, loss in self.terms
        ]
        return sum(values[1:], start=values[0])

    def by_terms(self, call: Call) -> tuple[Any, Any, Any]:
        """One term after the other; the gradient of each is added to that of those before."""
        y_pred, upstream, wrt = call.y_pred, call.upstream, call.wrt
        stored = y_pred.dtype
        if stored.itemsize == 2:  # rounded once, as if in one pass
            y_pred = y_pred.astype(np.float32)
        if not isinstance(upstream, (int, float)) and not hasattr(upstream, "dtype"):
            upstream = np.asarray(upstream)
        value: Any = None
        gradients: dict[str, Any] = {}
        for coefficient, loss in self.terms:
            plan = loss._plan
            asked = wrt
            if not plan.uses_target and self.uses_target:  # it adds nothing to that of y_true
                asked = "y_pred" if wrt in ("y_pred", "both") else None
            term = call._replace(
                y_pred=y_pred,
                reduction=loss.reduction,
                upstream=coefficient * upstream,
                wrt=asked,
                out=None,
                weight=loss._own_weight(call.y_true) if loss._weighs else None,
                arrays=_arrays_of(loss, call),
            )
            v, *found = plan.evaluate(term)
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
        if call.out is not None:
            call.out[...] = grad_pred
            grad_pred = call.out
        return value, grad_pred, grad_true


class FusedSum(SumPlan, CompiledPlan):
    """A sum whose terms the compiled kernels do together, panel by panel."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        plans = [(c, loss._plan) for c, loss in terms]
        self._take(_core.Plan([(c, p.compiled) for c, p in plans if isinstance(p, CompiledPlan)]))

    @classmethod
    def of_plans(cls, coefficients: Sequence[float], plans: Sequence[GridPlan]) -> FusedSum:
        """The sum of plans, each times its coefficient."""
        return cls(tuple((c, Term(p)) for c, p in zip(coefficients, plans, strict=True)))


class TermByTerm(SumPlan):
    """A sum with a term that is no loss of a grid: each takes its own passes over memory."""

    def evaluate(self, call: Call) -> tuple[Any, Any, Any]:
        if (elsewhere := front_end(call.y_pred)) is not None:
            return elsewhere.evaluate(self, call)
        y_pred = predictions(call.y_pred)
        if call.out is not None:
            _core.check_out(call.out, y_pred)
        return self.by_terms(call._replace(y_pred=y_pred))


def make_sum(terms: Terms) -> SumPlan:
    """The plan of the sum of the losses, each times its coefficient."""
    fuses = all(isinstance(loss._plan, GridPlan) for _, loss in terms)
    return FusedSum(terms) if fuses else TermByTerm(terms)
