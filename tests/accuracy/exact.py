"""Losses and derivatives to hundreds of digits, from the definitions in ``tests/oracle.py``.

The oracle's formulas are written for arrays, so they also run on arrays of ``Number``: an mpmath
number that records what was done with it, and from that record gets its derivatives (reverse mode).
With enough digits, no formula cancels. Beside each derivative stands the sum of the absolute values
of the terms it was added up from: what its rounding error is relative to where they nearly cancel.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpmath
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

import oracle

Array = np.ndarray[Any, np.dtype[Any]]

# Digits that hold 1 - x for the smallest positive x of the compute type, and its digits beyond.
DIGITS = {"float32": 120, "float64": 360}

# Longer rows would take minutes. Only their values and a few slopes are known, in extended
# precision, for losses whose definition does not cancel beyond it.
LONG_ROW = 5000
SLOPES_OF_LONG_ROWS = 5
CANCEL_IN_EXTENDED_PRECISION = {"dice", "iou", "tversky"}


def mpf(x: Any) -> Any:
    if isinstance(x, Number):
        return x.value
    return x if isinstance(x, (int, mpmath.mpf)) else mpmath.mpf(float(x))


class Number:
    """An mpmath number with the operands it was made from and its derivatives by them."""

    __array_ufunc__ = None  # NumPy's scalars leave arithmetic with it to this class
    tape: list[Number] = []  # noqa: RUF012

    def __init__(self, value: Any, *sources: tuple[Any, Any]) -> None:
        self.value = value
        self.sources = [(x, d) for x, d in sources if isinstance(x, Number)]
        self.slope = self.terms = mpmath.mpf(0)
        self.tape.append(self)

    def __add__(self, other: Any) -> Number:
        return Number(self.value + mpf(other), (self, 1), (other, 1))

    def __sub__(self, other: Any) -> Number:
        return Number(self.value - mpf(other), (self, 1), (other, -1))

    def __rsub__(self, other: Any) -> Number:
        return Number(mpf(other) - self.value, (self, -1))

    def __mul__(self, other: Any) -> Number:
        return Number(self.value * mpf(other), (self, mpf(other)), (other, self.value))

    def __truediv__(self, other: Any) -> Number:
        a, b = self.value, mpf(other)
        return Number(a / b, (self, mpmath.mpf(1) / b), (other, -a / b / b))

    def __pow__(self, exponent: Any) -> Number:
        x, y = self.value, mpf(exponent)
        # 0^y has slope 0 for y > 1; fastloss uses 0 also for y < 1, where there is none.
        slope = y * x ** (y - 1) if x or y == 1 else mpmath.mpf(0)
        return Number(x**y, (self, slope))

    def __neg__(self) -> Number:
        return Number(-self.value, (self, -1))

    __radd__, __rmul__ = __add__, __mul__

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < mpf(other))

    def __le__(self, other: Any) -> bool:
        return bool(self.value <= mpf(other))

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > mpf(other))

    def __eq__(self, other: object) -> bool:
        return bool(self.value == mpf(other))

    __hash__ = None  # type: ignore[assignment]

    # The names that NumPy's functions look for in the elements of an array of objects.

    def exp(self) -> Number:
        power = mpmath.exp(self.value)
        return Number(power, (self, power))

    def log(self) -> Number:
        return Number(mpmath.log(self.value), (self, mpmath.mpf(1) / self.value))

    def log1p(self) -> Number:
        return (self + 1).log()

    def sqrt(self) -> Number:
        root = mpmath.sqrt(self.value)
        return Number(root, (self, 1 / (2 * root) if root else mpmath.mpf(0)))


def _numbers(x: Array) -> Array:
    out = np.empty(x.shape, object)
    out.flat = [Number(mpmath.mpf(float(v))) for v in x.flat]
    return out


def extended(values: list[Any], shape: tuple[int, ...]) -> Array:
    """As extended precision, whose own error is far below a unit of any dtype measured here."""
    high = [float(v) for v in values]
    low = [float(v - h) if np.isfinite(h) else 0.0 for v, h in zip(values, high, strict=True)]
    return (np.array(high, np.longdouble) + np.array(low, np.longdouble)).reshape(shape)


@dataclass
class Exact:
    """The loss (of each element or row) and its derivatives; the ``_terms`` as in the module text.

    NaN stands for what is not known.
    """

    value: Array
    d_pred: Array
    d_true: Array
    d_pred_terms: Array
    d_true_terms: Array


def is_known(name: str, dtype: Any, columns: int) -> bool:
    """Whether there is an exact evaluation of rows of this length."""
    needs_digits = name in CANCEL_IN_EXTENDED_PRECISION and np.dtype(dtype) == np.float64
    return columns <= LONG_ROW or not needs_digits


def log_cosh(t: Array, p: Array, *_: Any) -> Array:
    """As defined; the oracle's form, for fewer digits, puts plain numbers beside small errors."""
    e = p - t
    return np.log((np.exp(e) + np.exp(-e)) / 2)


FORWARD = oracle.ELEMENTS | oracle.ROWS | {"log_cosh": log_cosh}


def evaluate(name: str, t: Array, p: Array, dtype: Any, options: dict[str, Any]) -> Exact:
    """Of every element of a map loss, or every row of the others."""
    parts = []
    # One row at a time: the record of a long row takes gigabytes.
    for row in range(len(p)) if name in oracle.ROWS else [slice(None)]:
        of_row = _evaluate_long if p.shape[-1] > LONG_ROW else _evaluate
        parts.append(of_row(name, np.atleast_2d(t[row]), np.atleast_2d(p[row]), dtype, options))
    fields = Exact.__dataclass_fields__
    return Exact(*(np.concatenate([getattr(part, f) for part in parts]) for f in fields))


def _evaluate_long(name: str, t: Array, p: Array, dtype: Any, options: dict[str, Any]) -> Exact:
    t, p, limits = t.astype(np.longdouble), p.astype(np.longdouble), oracle.Limits.of(dtype)
    unknown = np.full_like(p, np.nan)
    slopes = {"y_pred": unknown.copy(), "y_true": unknown.copy()}
    places = [t.argmax(), p.argmax(), p.argmin(), *range(SLOPES_OF_LONG_ROWS - 3)]
    for wrt, slope in slopes.items():
        for place in places:
            direction = np.zeros_like(p)
            direction[0, place] = 1
            args = (t, p, direction, wrt, limits, options)
            slope[0, place] = oracle.complex_step(oracle.ROWS[name], *args)[0]
    value = oracle.ROWS[name](t, p, limits, options)
    return Exact(value, slopes["y_pred"], slopes["y_true"], unknown, unknown)


def _evaluate(name: str, t: Array, p: Array, dtype: Any, options: dict[str, Any]) -> Exact:
    Number.tape.clear()
    with mpmath.workdps(DIGITS[np.dtype(dtype).name]):
        true, pred = _numbers(t), _numbers(p)
        bounds = oracle.Limits.of(dtype)
        # As arrays of objects, so that also what is clipped has the methods that NumPy calls.
        limits = oracle.Limits(*(_numbers(np.array(x)) for x in (bounds.low, bounds.high)))
        loss = FORWARD[name](true, pred, limits, options)
        for x in loss.flat:
            if isinstance(x, Number):
                x.slope = x.terms = mpmath.mpf(1)
        for x in reversed(Number.tape):
            if x.terms:
                for source, derivative in x.sources:
                    source.slope += x.slope * derivative
                    source.terms += x.terms * abs(derivative)
        return Exact(
            extended([mpf(x) for x in loss.flat], loss.shape),
            extended([x.slope for x in pred.flat], p.shape),
            extended([x.slope for x in true.flat], p.shape),
            extended([x.terms for x in pred.flat], p.shape),
            extended([x.terms for x in true.flat], p.shape),
        )
