"""From arrays and options to one call of the compiled kernels."""

from __future__ import annotations

import operator
import os
import warnings
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastloss import _core
from fastloss._registry import BY_NAME, LossSpec

Array: TypeAlias = NDArray[Any]
Wrt: TypeAlias = Literal["y_pred", "y_true", "both"]

EPSILON = 1e-7
"""What clips and denominators use unless told otherwise; Keras's default."""

REDUCTIONS: dict[str | None, int] = {
    None: 0,
    "none": 0,
    "sum": 1,
    "sum_over_batch_size": 2,
    "mean": 2,
    "mean_with_sample_weight": 3,
}

_KERNELS = {name: (i, params) for i, (name, _, _, params) in enumerate(_core.losses())}
_num_threads = int(os.environ.get("FASTLOSS_NUM_THREADS", "0")) or _core.max_threads()


def set_num_threads(n: int) -> None:
    """Sets how many threads a call may use from now on.

    Small calls use one thread whatever the number. Results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    ValueError
        If ``n`` is below 1.

    Notes
    -----
    The initial number is the environment variable ``FASTLOSS_NUM_THREADS``, else what OpenMP
    finds (``OMP_NUM_THREADS``, or the processors of this process).

    Examples
    --------
    >>> import fastloss
    >>> fastloss.set_num_threads(2)
    """
    global _num_threads
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    _num_threads = operator.index(n)


def check_reduction(reduction: str | None) -> None:
    if not (reduction is None or isinstance(reduction, str)) or reduction not in REDUCTIONS:
        names = ", ".join(repr(r) for r in REDUCTIONS)
        raise ValueError(f"reduction: expected one of {names}, got {reduction!r}")


class Plan:
    """A loss with checked parameters, ready to be called: all that does not depend on arrays."""

    def __init__(self, spec: LossSpec, given: dict[str, Any], epsilon: float = EPSILON) -> None:
        self.spec = spec
        self.parameters = p = spec.bind(given)
        kernel = spec.name + ("_from_logits" if p.get("from_logits") else "")
        self.kernel, names = _KERNELS[kernel]
        known = {"epsilon": epsilon, **p}
        self.kernel_parameters = [np.nan if known[n] is None else float(known[n]) for n in names]
        self.sparse = spec.labels == "integer"
        self.smoothing: float = p.get("label_smoothing", 0.0)
        self.ignore_class: int | None = p.get("ignore_class")
        # The alpha of a row loss weighs classes; that of a map loss is in its formula.
        alpha = p.get("alpha") if spec.kind == "row" else None
        self.class_weight = None if alpha is None else np.asarray(alpha, np.float64)
        self._axes: dict[int, list[int]] = {}

    def axes(self, ndim: int) -> list[int]:
        """The axes of y_pred that one loss value is taken over, as indices from 0."""
        found = self._axes.get(ndim)
        if found is None:
            found = self._axes[ndim] = self._find_axes(ndim)
        return found

    def _find_axes(self, ndim: int) -> list[int]:
        axis = self.parameters.get("axis", -1)
        if axis is None:
            return list(range(ndim))
        if ndim == 0:
            raise ValueError("y_pred: expected at least one dimension, got a scalar")
        out = []
        for a in axis if isinstance(axis, tuple) else (axis,):
            if not -ndim <= a < ndim:
                raise ValueError(f"axis: {a} is out of range for y_pred with {ndim} dimensions")
            out.append(a % ndim)
        if len(set(out)) < len(out):
            raise ValueError(f"axis: expected distinct axes, got {axis}")
        return sorted(out)


def _host_array(x: Any, argument: str) -> Array:
    if type(x) is not np.ndarray and hasattr(x, "__cuda_array_interface__"):
        raise TypeError(
            f"{argument}: GPU arrays are not supported by this build; pass a NumPy array"
        )
    a = np.asarray(x)
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def _predictions(x: Any) -> Array:
    a = _host_array(x, "y_pred")
    if a.dtype == np.float32 or a.dtype == np.float64:
        return a
    if a.dtype.kind in "biu":
        return a.astype(np.float64)
    raise TypeError(f"y_pred: expected float32 or float64 (integers become float64), got {a.dtype}")


def _numbers(x: Any, argument: str) -> Array:
    """Targets or weights: any real dtype that the kernels convert while they load."""
    a = _host_array(x, argument)
    if a.dtype.kind in "biu" or a.dtype == np.float32 or a.dtype == np.float64:
        return a
    if a.dtype == np.float16:
        return a.astype(np.float32)
    raise TypeError(f"{argument}: expected real numbers, got dtype {a.dtype}")


def _fit_target(y_true: Array, y_pred: Array, axes: list[int], plan: Plan) -> tuple[Array, Array]:
    """Both arrays with the shapes that the kernels expect.

    The only adjustment to dense targets is Keras's: ranks that differ by one, where the last
    dimension of the longer is 1. Integer labels may keep a class axis of size 1.
    """
    t, p = y_true.shape, y_pred.shape
    if plan.sparse:
        axis = axes[0]
        rows = p[:axis] + p[axis + 1 :]
        if t == rows:
            return y_true, y_pred
        if t == rows[:axis] + (1,) + rows[axis:]:
            return y_true.reshape(rows), y_pred
        raise ValueError(
            f"y_true: expected labels of shape {rows} for y_pred of shape {p} with its classes on "
            f"axis {axis}, got shape {t}"
        )
    if t == p:
        return y_true, y_pred
    if len(t) == len(p) + 1 and t[-1] == 1 and t[:-1] == p:
        return (y_true, y_pred[:, None]) if len(p) == 1 else (y_true[..., 0], y_pred)
    if len(p) == len(t) + 1 and p[-1] == 1 and p[:-1] == t:
        return (y_true[:, None], y_pred) if len(t) == 1 else (y_true, y_pred[..., 0])
    raise ValueError(f"y_true: expected the shape of y_pred, {p}, got {t}")


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(
        a == b or a == 1 for a, b in zip(reversed(shape), reversed(to), strict=False)
    )


def _fit_weight(
    w: Array, argument: str, rows: tuple[int, ...], grid: tuple[int, ...], kind: str
) -> Array:
    """``w`` broadcast to the loss values (``rows``) or, for map losses, to y_pred (``grid``).

    A weight whose shape begins the shape of the values weighs samples, whatever else would fit.
    """
    if w.shape == rows:
        return w
    if w.ndim < len(rows) and w.shape == rows[: w.ndim]:
        return np.broadcast_to(w.reshape(w.shape + (1,) * (len(rows) - w.ndim)), rows)
    if w.ndim == len(rows) + 1 and w.shape[-1] == 1 and _broadcasts(w.shape[:-1], rows):
        return np.broadcast_to(w[..., 0], rows)
    if _broadcasts(w.shape, rows):
        return np.broadcast_to(w, rows)
    if kind == "map" and _broadcasts(w.shape, grid):
        return np.broadcast_to(w, grid)
    also = f" or to y_pred, {grid}" if kind == "map" else ""
    raise ValueError(
        f"{argument}: expected a shape that broadcasts to the loss values, {rows}{also}, "
        f"got {w.shape}"
    )


def _check_out(out: Any, like: Array, argument: str = "out") -> Array:
    if type(out) is not np.ndarray:
        raise TypeError(f"{argument}: expected a NumPy array, got {type(out).__name__}")
    if out.shape != like.shape:
        raise ValueError(f"{argument}: expected shape {like.shape}, got {out.shape}")
    if out.dtype != like.dtype:
        raise TypeError(f"{argument}: expected dtype {like.dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{argument}: the array is read-only")
    if any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True)):
        raise ValueError(f"{argument}: elements of the array share memory")
    return out


def _same_elements(a: Array, b: Array) -> bool:
    return (
        a.ctypes.data == b.ctypes.data
        and a.shape == b.shape
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


def evaluate(
    plan: Plan,
    y_true: Any,
    y_pred: Any,
    *,
    reduction: str | None,
    sample_weight: Any = None,
    mask: Any = None,
    upstream: Any = 1.0,
    wrt: Wrt | None = None,
    out: Array | None = None,
) -> tuple[Any, Array | None, Array | None]:
    """The reduced value (or the values), and the gradients asked for by ``wrt``.

    See ``Loss.value_and_grad`` for the arguments.
    """
    prediction = _predictions(y_pred)
    target = _numbers(y_true, "y_true")
    given_p, given_t = prediction.shape, target.shape
    target, prediction = _fit_target(target, prediction, plan.axes(prediction.ndim), plan)
    axes = plan.axes(prediction.ndim)
    grid = prediction.shape
    rows = tuple(n for d, n in enumerate(grid) if d not in axes)
    cols = [grid[d] for d in axes]
    if 0 in cols:
        raise ValueError(f"y_pred: the axes of the loss are empty, shape {given_p}")
    dtype = prediction.dtype

    kind = plan.spec.kind
    weight = None
    if sample_weight is not None:
        weight = _fit_weight(
            _numbers(sample_weight, "sample_weight"), "sample_weight", rows, grid, kind
        )
    if mask is not None:
        mask = _numbers(mask, "mask")
        mask = _fit_weight(mask if mask.dtype == bool else mask != 0, "mask", rows, grid, kind)

    shift = 0.0
    if plan.smoothing:
        shift = plan.smoothing / (2 if kind == "map" else cols[0])
    class_weight = plan.class_weight
    if class_weight is not None:
        if class_weight.ndim and class_weight.shape[0] != cols[0]:
            raise ValueError(
                f"alpha: expected one number per class, {cols[0]}, got {class_weight.shape[0]}"
            )
        class_weight = np.broadcast_to(class_weight, (cols[0],))
    if "label_smoothing" in plan.parameters and kind == "row" and cols[0] == 1:
        warnings.warn(
            f"y_pred: {plan.spec.name} expects more than one class on its class axis, got shape "
            f"{given_p}; for two classes given as one number use binary_crossentropy",
            SyntaxWarning,
            stacklevel=4,
        )

    # As in Keras, an empty batch of values comes back as it is.
    how = 0 if rows == (0,) else REDUCTIONS[reduction]
    values = np.empty(rows, dtype) if how == 0 else None
    scalar_upstream, row_upstream = 1.0, None
    if wrt is not None and not (type(upstream) is float):
        scalar_upstream, row_upstream = _fit_upstream(upstream, rows, how)
    elif wrt is not None:
        scalar_upstream = upstream

    grad_pred = grad_true = target_out = None
    if wrt is not None:
        if wrt not in ("y_pred", "y_true", "both"):
            raise ValueError(f"wrt: expected 'y_pred', 'y_true' or 'both', got {wrt!r}")
        if plan.sparse and wrt != "y_pred":
            raise ValueError(f"wrt: integer labels have no gradient, got {wrt!r}")
        if out is not None and wrt != "y_pred":
            raise ValueError("out: only with wrt='y_pred'")
        if wrt != "y_true":
            grad_pred = np.empty(grid, dtype)
            if out is not None:
                target_out = _check_out(out, np.broadcast_to(prediction, grid).reshape(given_p))
                fitted = target_out.reshape(grid) if grid != given_p else target_out
                inputs = [x for x in (prediction, target, weight, mask, row_upstream) if x is not None]
                safe = all(
                    _same_elements(fitted, x) or not np.may_share_memory(fitted, x) for x in inputs
                )
                if safe and np.may_share_memory(fitted, target_out):
                    grad_pred, target_out = fitted, None
        if wrt != "y_pred":
            grad_true = np.empty(grid, dtype)

    value: Any = _core.run(
        plan.kernel,
        plan.kernel_parameters,
        target,
        prediction,
        axes,
        1.0 - plan.smoothing,
        shift,
        class_weight,
        plan.ignore_class,
        weight,
        mask,
        how,
        scalar_upstream,
        row_upstream,
        values,
        grad_pred,
        grad_true,
        _num_threads,
    )
    value = dtype.type(value) if values is None else values[()]
    if grad_pred is not None:
        grad_pred = grad_pred.reshape(given_p)
        if target_out is not None:
            target_out[...] = grad_pred
        if out is not None:
            grad_pred = out
    if grad_true is not None:
        grad_true = grad_true.reshape(given_t)
    return value, grad_pred, grad_true


def _fit_upstream(upstream: Any, rows: tuple[int, ...], how: int) -> tuple[float, Array | None]:
    a = _numbers(upstream, "upstream")
    if a.ndim == 0:
        return float(a), None
    if how != 0:
        raise ValueError(f"upstream: expected a number, or an array with reduction=None; got {a.shape}")
    if a.shape != rows:
        raise ValueError(f"upstream: expected the shape of the loss values, {rows}, got {a.shape}")
    return 1.0, a


def plan_for(name: str, given: dict[str, Any], epsilon: float = EPSILON) -> Plan:
    """The plan of the loss called ``name`` (its function's name)."""
    return Plan(BY_NAME[name], given, epsilon)
