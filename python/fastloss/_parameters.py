"""Parameters of losses, and the checks that given values pass."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Check = Callable[[str, Any], Any]


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {value!r}")
    return bool(value)


def real(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_ends: bool = False,
    optional: bool = False,
) -> Check:
    """A check for a real number in [low, high], or in (low, high) with ``open_ends``."""
    brackets = "({}, {})" if open_ends or math.isinf(high) else "[{}, {}]"
    if math.isinf(high) and not open_ends:
        brackets = "[{}, {})"
    expected = "a number in " + brackets.format(f"{low:g}", f"{high:g}")
    if optional:
        expected += ", or None"

    def check(name: str, value: Any) -> float | None:
        if value is None and optional:
            return None
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name}: expected {expected}, got {value!r}")
        number = float(value)
        inside = low < number < high if open_ends else low <= number <= high
        if not inside or math.isinf(number):
            raise ValueError(f"{name}: expected {expected}, got {value!r}")
        return number

    return check


def optional_integer(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an integer or None, got {value!r}")
    return int(value)


def integer(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    return int(value)


def axes(name: str, value: Any) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        if not value:
            raise ValueError(f"{name}: expected None or at least one axis, got {value!r}")
        return tuple(integer(name, a) for a in value)
    return integer(name, value)


def numbers_per_class(name: str, value: Any, count: int | None = None) -> tuple[float, ...]:
    array = np.asarray(value)
    fits = array.ndim == 1 and array.dtype.kind in "iuf" and np.isfinite(array).all()
    if not fits or array.size == 0 or count not in (None, array.size):
        expected = "one finite number per class" + (f", {count} in all" if count else "")
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return tuple(float(a) for a in array)


def class_alpha(name: str, value: Any) -> float | tuple[float, ...]:
    if isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value) > 0:
        return numbers_per_class(name, value)
    number = real()(name, value)
    assert isinstance(number, float)
    return number


def class_weight(count: int | None = None) -> Check:
    def check(name: str, value: Any) -> tuple[float, ...] | None:
        return None if value is None else numbers_per_class(name, value, count)

    return check


@dataclass(frozen=True)
class Parameter:
    """A parameter of a loss: its name, default, text, and the check that a given value passes."""

    name: str
    default: Any
    doc: str
    annotation: str
    check: Check


@dataclass(frozen=True)
class ArrayArgument:
    """An array that a call may take beside y_true and y_pred."""

    name: str
    doc: str
