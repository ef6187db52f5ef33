"""From arrays and options to one call of the compiled kernels."""

from __future__ import annotations

import operator
import warnings
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastloss import _core
from fastloss._registry import LossSpec

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

_KERNELS = {name: (i, sparse, params) for i, (name, _, sparse, params) in enumerate(_core.losses())}


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
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    _core.set_num_threads(operator.index(n))


def check_reduction(reduction: Any) -> None:
    if not isinstance(reduction, (str, type(None))) or reduction not in REDUCTIONS:
        names = ", ".join(repr(r) for r in REDUCTIONS)
        raise ValueError(f"reduction: expected one of {names}, got {reduction!r}")


class Plan:
    """A loss with checked parameters, ready to be called: all that does not depend on arrays."""

    def __init__(self, spec: LossSpec, given: dict[str, Any]) -> None:
        self.spec = spec
        self.parameters = spec.bind(given)

    def axes(self, ndim: int) -> list[int]:
        """The axes of y_pred that one loss value is taken over, as indices from 0."""
        raise NotImplementedError

    def evaluate(
        self, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, Array | None, Array | None]:
        """The reduced value (or the values), and the gradients asked for by ``wrt``.

        See ``Loss.value_and_grad`` for the arguments: ``reduction``, ``sample_weight``, ``mask``,
        ``upstream``, ``wrt``, ``out``, and the arrays of the kind of loss.
        """
        raise NotImplementedError


class GridPlan(Plan):
    """A loss of y_true and y_pred at the same places, or of labels along an axis of y_pred."""

    def __init__(self, spec: LossSpec, given: dict[str, Any], epsilon: float = EPSILON) -> None:
        super().__init__(spec, given)
        p = self.parameters
        kernel = spec.name + ("_from_logits" if p.get("from_logits") else "")
        self.kernel, self.sparse, names = _KERNELS[kernel]
        weights = p.get("class_weight")
        known = {"epsilon": epsilon, **p}
        if "pos_weight" in p:  # a binary loss
            known["negative_weight"], positive = weights or (1.0, 1.0)
            known["positive_weight"] = positive * p["pos_weight"]
        self.kernel_parameters = [np.nan if known[n] is None else float(known[n]) for n in names]
        self.smoothing: float = p.get("label_smoothing", 0.0)
        self.ignore_class: int | None = p.get("ignore_class")
        self.warns_of_one_class = spec.kind == "row" and "label_smoothing" in p
        # The alpha and class weights of a row loss scale its targets; those of a map loss are in
        # its formula.
        self.class_weight: Array | None = None
        given_per_class = [p[n] for n in ("alpha", "class_weight") if p.get(n) is not None]
        if spec.kind == "row" and given_per_class:
            lengths = [len(w) for w in given_per_class if isinstance(w, tuple)]
            if len(set(lengths)) > 1:
                raise ValueError(
                    "class_weight: expected as many numbers as alpha has, {}, got {}".format(
                        *lengths
                    )
                )
            self.class_weight = np.prod(np.broadcast_arrays(*given_per_class), axis=0)
        self._axes: dict[int, list[int]] = {}

    def evaluate(
        self,
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
        prediction, target = predictions(y_pred), real_numbers(y_true, "y_true")
        x = _fit_operands(self, target, prediction, sample_weight, mask)
        dtype = prediction.dtype
        if out is not None:
            fit_out(out, prediction.shape, dtype)
        scale, shift, class_weight = self.target_transform(x.prediction.shape, x.axes)

        # As in Keras, an empty batch of values comes back as it is.
        how = 0 if x.rows == (0,) else REDUCTIONS[reduction]
        scalar_upstream, row_upstream = fit_upstream(upstream, x.rows, how)
        compute = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        values = np.empty(x.rows, compute) if how == 0 else None
        grad_pred = grad_true = None
        if wrt in ("y_pred", "both"):
            in_place = out is not None and row_upstream is None and _may_write_to(out, x)
            grad_pred = out if in_place else np.empty(x.prediction.shape, dtype)
        if wrt in ("y_true", "both"):
            grad_true = np.empty(x.prediction.shape, dtype)

        value: Any = _core.run(
            self.kernel,
            self.kernel_parameters,
            x.target,
            x.prediction,
            x.axes,
            scale,
            shift,
            class_weight,
            self.ignore_class,
            x.weight,
            x.mask,
            how,
            scalar_upstream,
            row_upstream,
            values,
            grad_pred,
            grad_true,
        )
        value = compute.type(value) if values is None else values[()]
        if grad_pred is not None:
            grad_pred = grad_pred.reshape(prediction.shape)
            if out is not None:
                if grad_pred is not out:
                    out[...] = grad_pred
                grad_pred = out
        if grad_true is not None:
            grad_true = grad_true.reshape(target.shape)
        return value, grad_pred, grad_true

    def axes(self, ndim: int) -> list[int]:
        found = self._axes.get(ndim)
        if found is None:
            found = self._axes[ndim] = self._find_axes(ndim)
        return found

    def target_transform(
        self, grid: tuple[int, ...], axes: list[int]
    ) -> tuple[float, float, Array | None]:
        """(scale, shift, class weights): the formula sees (scale t + shift) times class weight."""
        classes = grid[axes[0]]
        scale, shift, weight = 1.0, 0.0, self.class_weight
        if self.smoothing:
            scale = 1.0 - self.smoothing
            shift = self.smoothing / (2 if self.spec.kind == "map" else classes)
        if weight is not None:
            if weight.ndim and weight.shape[0] != classes:
                name = "class_weight" if self.parameters.get("class_weight") else "alpha"
                raise ValueError(
                    f"{name}: expected one number per class, {classes}, got {weight.shape[0]}"
                )
            weight = np.broadcast_to(weight, (classes,))
        if self.warns_of_one_class and classes == 1:
            warnings.warn(
                f"y_pred: {self.spec.name} expects more than one class on its class axis, got "
                f"shape {grid}; for two classes given as one number use binary_crossentropy",
                SyntaxWarning,
                stacklevel=5,
            )
        return scale, shift, weight

    def _find_axes(self, ndim: int) -> list[int]:
        if ndim == 0:
            raise ValueError("y_pred: expected at least one dimension, got a scalar")
        axis = self.parameters.get("axis", -1)
        if axis is None:
            return list(range(ndim))
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
            f"{argument}: expected a NumPy array or a sequence, got a GPU array, which this "
            "version does not support"
        )
    a = np.asarray(x)
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def _is_supported_float(dtype: np.dtype[Any]) -> bool:
    # bfloat16 is not NumPy's own; ml_dtypes registers it by this name.
    return dtype.char in "efd" or dtype.name == "bfloat16"


def predictions(x: Any, argument: str = "y_pred") -> Array:
    """An array of a dtype that the kernels compute in or store."""
    a = _host_array(x, argument)
    if _is_supported_float(a.dtype):
        return a
    if a.dtype.kind in "biu":
        return a.astype(np.float64)
    raise TypeError(
        f"{argument}: expected float16, bfloat16, float32 or float64 (integers become float64), "
        f"got {a.dtype}"
    )


def real_numbers(x: Any, argument: str) -> Array:
    """Targets or weights: any real dtype that the kernels convert while they load."""
    a = _host_array(x, argument)
    if a.dtype.kind in "biu" or _is_supported_float(a.dtype):
        return a
    raise TypeError(f"{argument}: expected real numbers, got dtype {a.dtype}")


def integer_labels(x: Any, argument: str) -> Array:
    """Labels or lengths as integers; floating ones must be integral, as Keras casts them."""
    a = real_numbers(x, argument)
    if a.dtype.kind in "iub":
        return a
    fits = (np.abs(a) < 9e15) & (a == np.floor(a))
    if not fits.all():
        raise ValueError(f"{argument}: expected integers, got {a[~fits][0]}")
    return a.astype(np.int64)


def _fit_target(
    y_true: Array, y_pred: Array, axes: list[int], plan: GridPlan
) -> tuple[Array, Array]:
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


def fit_weight(
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


@dataclass
class _Operands:
    """The inputs of a call, with the shapes that the kernels expect."""

    prediction: Array
    target: Array
    axes: list[int]
    rows: tuple[int, ...]
    weight: Array | None
    mask: Array | None

    def arrays(self) -> list[Array]:
        given = (self.prediction, self.target, self.weight, self.mask)
        return [a for a in given if a is not None]


def _fit_operands(
    plan: GridPlan, target: Array, prediction: Array, sample_weight: Any, mask: Any
) -> _Operands:
    target, prediction = _fit_target(target, prediction, plan.axes(prediction.ndim), plan)
    axes = plan.axes(prediction.ndim)
    grid = prediction.shape
    rows = tuple(n for d, n in enumerate(grid) if d not in axes)
    if any(grid[d] == 0 for d in axes):
        raise ValueError(f"y_pred: the axes of the loss are empty, got shape {grid}")
    if sample_weight is not None:
        w = real_numbers(sample_weight, "sample_weight")
        sample_weight = fit_weight(w, "sample_weight", rows, grid, plan.spec.kind)
    if mask is not None:
        m = real_numbers(mask, "mask")
        mask = fit_weight(m if m.dtype == bool else m != 0, "mask", rows, grid, plan.spec.kind)
    return _Operands(prediction, target, axes, rows, sample_weight, mask)


def fit_out(out: Any, like: tuple[int, ...], dtype: Any) -> Array:
    if type(out) is not np.ndarray:
        raise TypeError(f"out: expected a NumPy array, got {type(out).__name__}")
    if out.shape != like:
        raise ValueError(f"out: expected the shape of y_pred, {like}, got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"out: expected the dtype of y_pred, {dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out: expected a writable array, got a read-only one")
    if any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True)):
        raise ValueError("out: expected an array whose elements do not share memory")
    return out


def _same_elements(a: Array, b: Array) -> bool:
    return a is b or (
        a.__array_interface__["data"] == b.__array_interface__["data"]
        and a.shape == b.shape
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


def _may_write_to(out: Array, x: _Operands) -> bool:
    """Whether a kernel may fill ``out`` while it reads the operands.

    It reads each element before it writes the element at the same place, so an input itself will
    do, but not one that overlaps it in another way.
    """
    return out.shape == x.prediction.shape and all(
        _same_elements(out, a) or not np.may_share_memory(out, a) for a in x.arrays()
    )


def check_wrt(wrt: Any, spec: LossSpec, out: Array | None = None) -> None:
    if wrt not in ("y_pred", "y_true", "both"):
        raise ValueError(f"wrt: expected 'y_pred', 'y_true' or 'both', got {wrt!r}")
    if spec.labels == "integer" and wrt != "y_pred":
        raise ValueError(f"wrt: integer labels have no gradient, expected 'y_pred', got {wrt!r}")
    if out is not None and wrt != "y_pred":
        raise ValueError(f"out: expected only with wrt='y_pred', got wrt={wrt!r}")


def fit_upstream(upstream: Any, rows: tuple[int, ...], how: int) -> tuple[float, Array | None]:
    if type(upstream) is float:
        return upstream, None
    a = real_numbers(upstream, "upstream")
    if a.ndim == 0:
        return float(a), None
    if how != 0:
        raise ValueError(
            f"upstream: expected a number, or an array with reduction=None, got shape {a.shape}"
        )
    if a.shape != rows:
        raise ValueError(f"upstream: expected the shape of the loss values, {rows}, got {a.shape}")
    return 1.0, a
