"""From arrays and options to one call of the compiled kernels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

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

# DLPack's numbers for the memory of a CUDA device, and for memory that it shares with the host.
_CUDA_MEMORY = (2, 13)

_KERNELS = {name: (i, params) for i, (name, *_, params) in enumerate(_core.losses())}


class Call(NamedTuple):
    """What a loss is called with; see ``Loss.value_and_grad``."""

    y_true: Any
    y_pred: Any
    reduction: str | None
    sample_weight: Any = None
    mask: Any = None
    upstream: Any = 1.0
    wrt: Wrt | None = None
    """What to differentiate with respect to, if anything."""
    out: Any = None
    check: bool = False
    weight: Any = None
    """The own weight of the loss; of a sum, a tuple with one for each term."""
    arrays: Mapping[str, Any] = MappingProxyType({})
    """What the kind of loss takes beside these."""


class FrontEnd(NamedTuple):
    """What computes losses of arrays that are not NumPy's."""

    evaluate: Callable[[Plan, Call], tuple[Any, Any, Any]]
    cast: Callable[[Any, str], Any]  # y_pred in another dtype


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
    TypeError
        If it is no integer.

    Notes
    -----
    Until it is set, the number is the environment variable ``FASTLOSS_NUM_THREADS``, else what
    OpenMP says at each call (``OMP_NUM_THREADS``, or the processors of this process). A limit that
    threadpoolctl sets for the calling thread holds in any case.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.set_num_threads(2)
    """
    try:
        number = operator.index(n)
    except TypeError:
        raise TypeError(f"n: expected an integer, got {n!r}") from None
    if number < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    _core.set_num_threads(number)


def check_reduction(reduction: Any) -> None:
    if not isinstance(reduction, (str, type(None))) or reduction not in REDUCTIONS:
        names = ", ".join(repr(r) for r in REDUCTIONS)
        raise ValueError(f"reduction: expected one of {names}, got {reduction!r}")


class Plan:
    """A loss with checked parameters, ready to be called: all that does not depend on arrays."""

    name: str
    takes_labels: bool
    """Whether y_true are integers, which have no gradient."""
    uses_target: bool
    arrays: tuple[str, ...]
    """What a call may take beside y_true and y_pred."""
    run: Callable[..., tuple[Any, Any, Any] | None] = staticmethod(lambda *_: None)
    """`evaluate` for arguments that compiled kernels take as they are, those of ``_core.Plan.run``.

    None where they do not. Because they come one by one, this is the fastest call.
    """

    def __init__(self, spec: LossSpec, given: dict[str, Any]) -> None:
        self.spec = spec
        self.parameters = spec.bind(given)
        self.name = spec.name
        self.takes_labels = spec.labels == "integer"
        self.uses_target = spec.uses_target
        self.arrays = tuple(a.name for a in spec.arrays)

    def axes(self, ndim: int) -> list[int]:
        """The axes of y_pred that one loss value is taken over, as indices from 0."""
        raise NotImplementedError

    def ignores(self, y_true: Any) -> bool:
        """Whether y_true is missing, and nobody looks at it."""
        return y_true is None and not self.uses_target

    def evaluate(self, call: Call) -> tuple[Any, Any, Any]:
        """The reduced value (or the values), and the gradients asked for by ``call.wrt``."""
        raise NotImplementedError


class CompiledPlan(Plan):
    """What one call of the compiled kernels evaluates."""

    compiled: _core.Plan

    def _take(self, compiled: _core.Plan) -> None:
        self.compiled, self.run = compiled, compiled.run

    def evaluate(self, call: Call) -> tuple[Any, Array | None, Array | None]:
        if elsewhere := front_end(call.y_pred):
            return elsewhere.evaluate(self, call)
        y_pred = predictions(call.y_pred)
        y_true = y_pred if self.ignores(call.y_true) else real_numbers(call.y_true, "y_true")
        sample_weight, mask, upstream, own = (
            call.sample_weight, call.mask, call.upstream, call.weight,
        )  # fmt: skip
        if sample_weight is not None:
            sample_weight = real_numbers(sample_weight, "sample_weight")
        if mask is not None:
            mask = real_numbers(mask, "mask")
            mask = mask if mask.dtype == bool else mask != 0
        if type(upstream) is not float:
            upstream = real_numbers(upstream, "upstream")
        if own is not None:
            own = own if type(own) is tuple else (own,)
            own = tuple(None if w is None else real_numbers(w, "weight") for w in own)
        how = REDUCTIONS[call.reduction]
        result = self.run(
            y_true, y_pred, how, sample_weight, mask, upstream, call.wrt, call.out, own
        )
        assert result is not None
        return result

    def axes(self, ndim: int) -> list[int]:
        return self.compiled.axes_of(ndim)


class GridPlan(CompiledPlan):
    """A loss of y_true and y_pred at the same places, or of labels along an axis of y_pred."""

    def __init__(self, spec: LossSpec, options: dict[str, Any], epsilon: float = EPSILON) -> None:
        super().__init__(spec, options)
        p = self.parameters
        kernel = spec.name + ("_from_logits" if p.get("from_logits") else "")
        index, names = _KERNELS[kernel]
        weights = p.get("class_weight")
        known = {"epsilon": epsilon, **p}
        if "pos_weight" in p:  # a binary loss
            known["negative_weight"], positive = weights or (1.0, 1.0)
            known["positive_weight"] = positive * p["pos_weight"]
        # The alpha and class weights of a row loss scale its targets; those of a map loss are in
        # its formula.
        given = [p[n] for n in ("alpha", "class_weight") if p.get(n) is not None]
        target_weight: list[float] = []
        if spec.kind == "row" and given:
            lengths = [len(w) for w in given if isinstance(w, tuple)]
            if len(set(lengths)) > 1:
                raise ValueError(
                    "class_weight: expected as many numbers as alpha has, {}, got {}".format(
                        *lengths
                    )
                )
            product = np.prod(np.broadcast_arrays(*given), axis=0)
            target_weight = product.reshape(-1).tolist()
        axis = p.get("axis", -1)
        compiled = _core.Plan(
            index,
            [np.nan if known[n] is None else float(known[n]) for n in names],
            [axis] if isinstance(axis, int) else axis,
            p.get("label_smoothing", 0.0),
            target_weight,
            "class_weight" if weights else "alpha",
            p.get("ignore_class"),
            any(isinstance(w, tuple) for w in given),
        )
        compiled.warn_of_one_class(spec.kind == "row" and "label_smoothing" in p)
        self._take(compiled)


def front_end(y_pred: Any) -> FrontEnd | None:
    """The front end of y_pred, where it is not for NumPy."""
    if type(y_pred).__module__.startswith("tensorflow."):
        from fastloss import tensorflow

        return FrontEnd(tensorflow.evaluate, tensorflow.cast)
    if is_on_gpu(y_pred):
        from fastloss import _cupy

        return FrontEnd(_cupy.evaluate, _cupy.cast)
    return None


def is_on_gpu(x: Any) -> bool:
    """Whether the elements of x are in the memory of a CUDA device."""
    if type(x) is np.ndarray:
        return False
    if dlpack := getattr(x, "__dlpack_device__", None):
        try:
            return dlpack()[0] in _CUDA_MEMORY
        except (BufferError, RuntimeError, TypeError, ValueError):
            return False  # no single place, as of JAX's arrays on several devices
    return hasattr(x, "__cuda_array_interface__")


def _host_array(x: Any, argument: str) -> Array:
    if is_on_gpu(x):
        raise TypeError(
            f"{argument}: expected a NumPy array or a sequence, as y_pred is one, got a GPU array"
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


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(
        a == b or a == 1 for a, b in zip(reversed(shape), reversed(to), strict=False)
    )


def fit_weight(
    w: Any, argument: str, rows: tuple[int, ...], grid: tuple[int, ...], kind: str, xp: Any = np
) -> Any:
    """``w`` broadcast to the loss values (``rows``) or, for map losses, to y_pred (``grid``).

    A weight whose shape begins the shape of the values weighs samples, whatever else would fit.
    """
    if w.shape == rows:
        return w
    if w.ndim < len(rows) and w.shape == rows[: w.ndim]:
        return xp.broadcast_to(w.reshape(w.shape + (1,) * (len(rows) - w.ndim)), rows)
    if w.ndim == len(rows) + 1 and w.shape[-1] == 1 and _broadcasts(w.shape[:-1], rows):
        return xp.broadcast_to(w[..., 0], rows)
    if _broadcasts(w.shape, rows):
        return xp.broadcast_to(w, rows)
    if kind == "map" and _broadcasts(w.shape, grid):
        return xp.broadcast_to(w, grid)
    also = f" or to y_pred, {grid}" if kind == "map" else ""
    raise ValueError(
        f"{argument}: expected a shape that broadcasts to the loss values, {rows}{also}, "
        f"got {w.shape}"
    )


def check_wrt(wrt: Any, takes_labels: bool, out: Array | None = None) -> None:
    if wrt not in ("y_pred", "y_true", "both"):
        raise ValueError(f"wrt: expected 'y_pred', 'y_true' or 'both', got {wrt!r}")
    if takes_labels and wrt != "y_pred":
        raise ValueError(f"wrt: integer labels have no gradient, expected 'y_pred', got {wrt!r}")
    if out is not None and wrt != "y_pred":
        raise ValueError(f"out: expected only with wrt='y_pred', got wrt={wrt!r}")
