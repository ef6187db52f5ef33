"""Random calls of any loss: what the property tests, the soak and the fuzzer have in common.

Every call is made twice: with plain arrays, which is held against the oracle, and with the same
numbers in awkward places, which must give the same bits, leave inputs alone and write nothing but
the result. Some calls are spoiled on purpose; they must raise an error that names the argument, and
write nothing at all.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from cases import (
    CASES,
    accepts_axis,
    assert_close,
    draw,
    loss_axes,
    make,
    resolved,
    same_bits,
    value_shape,
)
from composition import Call
from fastloss._evaluate import REDUCTIONS
from fastloss._registry import LossSpec
from guarded import Choose, Placed

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
LONG = [17, 70, 130, 423]
MOST_ELEMENTS = 3000
KINKED = {"mean_absolute_error", "mean_absolute_percentage_error", "hinge", "categorical_hinge"}
# Ranges in which the oracle's tolerance holds.
NUMBERS = {
    "delta": (0.05, 5), "gamma": (0, 4), "label_smoothing": (0, 1), "q": (0.05, 0.95),
    "beta": (0.1, 2), "pos_weight": (0, 4),
}  # fmt: skip


def pick(choose: Choose, things: Any) -> Any:
    return things[choose(0, len(things) - 1)]


def one_in(choose: Choose, n: int) -> bool:
    return choose(1, n) == 1


@dataclass
class RandomCall:
    spec: LossSpec
    options: dict[str, Any]
    reduction: str | None
    y_true: Any
    y_pred: Any
    factors: dict[str, Any] = field(default_factory=dict)
    wrt: str = "y_pred"
    out: str = "none"
    spoiled: str = ""
    invalid: str = ""  # the argument that makes it an error

    def __str__(self) -> str:
        shapes = {k: getattr(v, "shape", v) for k, v in self.factors.items()}
        return (
            f"{self.spec.name}({self.options}) {self.reduction} {self.y_pred.dtype} "
            f"{self.y_true.dtype}{self.y_true.shape} {self.y_pred.shape} {shapes} wrt={self.wrt} "
            f"out={self.out} spoiled={self.spoiled}"
        )


def random_shape(choose: Choose) -> tuple[int, ...]:
    shape = [pick(choose, (1, 2, 3, 4, 5, 7)) for _ in range(choose(0, 6))]
    if shape and one_in(choose, 3):
        shape[choose(0, len(shape) - 1)] = pick(choose, LONG)
    if shape and one_in(choose, 10):
        shape[choose(0, len(shape) - 1)] = 0
    for d in range(len(shape)):
        if math.prod(shape) > MOST_ELEMENTS:
            shape[d] = 1
    return tuple(shape)


def random_options(choose: Choose, spec: LossSpec, options: dict[str, Any], shape: Any) -> Any:
    options = dict(options)
    for p in spec.parameters:
        if p.name in NUMBERS and one_in(choose, 3):
            low, high = NUMBERS[p.name]
            options[p.name] = low + (high - low) * choose(0, 64) / 64
    if shape and accepts_axis(spec) and one_in(choose, 2):
        options["axis"] = choose(-len(shape), len(shape) - 1)
        if spec.kind == "region":
            axes = [d for d in range(len(shape)) if one_in(choose, 2)]
            options["axis"] = tuple(axes) or None
    per_class = [name for name, value in options.items() if value == "per class"]
    if per_class and (not shape or shape[loss_axes(spec, options, len(shape))[0]] == 0):
        options = {k: v for k, v in options.items() if k not in per_class}
    return resolved(spec, options, shape) if shape else options


def random_arrays(
    choose: Choose, spec: LossSpec, options: Any, shape: Any, rng: Any
) -> tuple[Any, Any]:
    dtype = pick(choose, DTYPES)
    if not shape:
        return np.zeros((), int if spec.labels == "integer" else dtype), np.ones((), dtype)
    columns = [shape[a] for a in loss_axes(spec, options, len(shape))]
    if 0 in shape:
        integer = spec.labels == "integer"
        t_shape = value_shape(spec, options, shape) if integer else shape
        return np.zeros(t_shape, int if integer else dtype), np.ones(shape, dtype)
    t, p = draw(spec, options, shape, dtype, rng)
    if spec.labels == "integer":
        fitting = [d for d in "bBhHiIlLqQd" if t.size == 0 or t.max() <= np.iinfo("b").max]
        t = t.astype(pick(choose, fitting or ["h", "i", "q", "d"]))
        if one_in(choose, 4):
            t = np.expand_dims(t, columns and loss_axes(spec, options, len(shape))[0])
    elif one_in(choose, 3):
        t = t.astype(pick(choose, [np.float16, ml_dtypes.bfloat16, np.float32]))
        if np.dtype(dtype).itemsize == 2:
            t = t.astype(np.float32)
    return t, p


def constant_along_an_axis(choose: Choose, a: Any) -> Any:
    """The same, but with a stride of zero."""
    if not isinstance(a, np.ndarray) or a.size == 0 or a.ndim == 0 or not one_in(choose, 6):
        return a
    return np.broadcast_to(a.take([0], axis=choose(0, a.ndim - 1)), a.shape)


def random_factors(
    choose: Choose, spec: LossSpec, values: Any, shape: Any, reduction: Any, rng: Any
) -> dict[str, Any]:
    factors: dict[str, Any] = {}
    with_ones = tuple(1 if one_in(choose, 2) else n for n in values)
    shapes = [values, values[:1], with_ones] + ([shape] if spec.kind == "map" else [])
    if one_in(choose, 3):
        size = pick(choose, shapes)
        weight = rng.uniform(0, 2, size) * (rng.random(size) < 0.8)
        factors["sample_weight"] = np.asarray(weight).astype(pick(choose, "fd"))
    if one_in(choose, 3):
        factors["mask"] = np.asarray(rng.random(pick(choose, shapes)) < 0.7)
    if one_in(choose, 2):
        factors["upstream"] = pick(choose, [1.0, -0.5, 3])
        if reduction in (None, "none") and one_in(choose, 2):
            factors["upstream"] = np.asarray(rng.normal(size=values).astype(np.float32))
    return factors


def random_call(choose: Choose) -> RandomCall:
    spec, options = pick(choose, CASES)
    shape = random_shape(choose)
    options = random_options(choose, spec, options, shape)
    rng = np.random.default_rng(choose(0, 2**32 - 1))
    t, p = random_arrays(choose, spec, options, shape, rng)
    reduction = pick(choose, list(REDUCTIONS))
    call = RandomCall(spec, options, reduction, t, p)
    columns = [shape[a] for a in loss_axes(spec, options, len(shape))] if shape else []
    if not shape or 0 in columns:
        call.invalid = "y_pred"
        return call
    values = value_shape(spec, options, shape)
    call.factors = random_factors(choose, spec, values, shape, reduction, rng)
    call.y_true = constant_along_an_axis(choose, t)
    call.y_pred = constant_along_an_axis(choose, p)
    for name, factor in call.factors.items():
        call.factors[name] = constant_along_an_axis(choose, factor)
    if spec.labels == "dense":
        call.wrt = pick(choose, ["y_pred", "y_true", "both"])
    if call.wrt == "y_pred":
        call.out = pick(choose, ["none", "fresh", "y_pred", "shifted", "y_true"])
    if one_in(choose, 6):
        spoil(choose, call)
    return call


def spoil(choose: Choose, call: RandomCall) -> None:
    """Makes it a call that must be refused."""
    call.out = "fresh" if call.wrt == "y_pred" else "none"
    ways = ["dtype", "weight", "text", "wrt", "upstream"]
    if call.y_pred.size and call.wrt == "y_pred":
        ways += ["out shape", "out dtype", "out read-only", "target"]
        if call.spec.labels == "integer" and not call.factors.keys() & {"sample_weight", "mask"}:
            ways.append("label")
    call.spoiled = pick(choose, ways)
    if call.spoiled == "dtype":
        call.y_pred, call.invalid = call.y_pred.astype(np.complex128), "y_pred"
    elif call.spoiled == "weight":
        call.factors["sample_weight"] = np.ones((*call.y_pred.shape, 2))
        call.invalid = "sample_weight"
    elif call.spoiled == "text":
        call.factors["mask"], call.invalid = np.array("yes"), "mask"
    elif call.spoiled == "wrt":
        call.wrt, call.out, call.invalid = "weights", "none", "wrt"
    elif call.spoiled == "upstream":
        call.factors["upstream"] = np.ones((*call.y_pred.shape, 2))
        call.invalid = "upstream"
    elif call.spoiled == "target":
        call.y_true = np.ones((*call.y_pred.shape, 2), int)
        call.invalid = "y_true" if call.spec.uses_target else ""  # penalties take any
    elif call.spoiled == "label":
        t = call.y_true.astype(np.int64)
        t.flat[choose(0, t.size - 1)] = pick(choose, [-2, call.y_pred.size, 2**40, -(2**62)])
        call.y_true, call.invalid = t, "y_true"
    else:
        call.invalid = "out"


def evaluate(call: RandomCall, t: Any, p: Any, factors: Any, **extra: Any) -> tuple[Any, list[Any]]:
    loss = make(call.spec, call.options, reduction=call.reduction)
    value, gradient = loss.value_and_grad(t, p, wrt=call.wrt, **factors, **extra)
    return value, list(gradient) if call.wrt == "both" else [gradient]


def plain(a: Any, dtype: Any = None) -> Any:
    return np.array(a, dtype=dtype, order="C") if isinstance(a, np.ndarray) else a


def expected_result(call: RandomCall, oracle: bool) -> tuple[Any, list[Any]]:
    """From plain arrays, in the dtype that is computed in."""
    stored = call.y_pred.dtype
    compute = np.dtype(np.float64 if stored == np.float64 else np.float32)
    t = plain(call.y_true, None if call.spec.labels == "integer" else compute)
    p = plain(call.y_pred, compute)
    factors = {k: plain(v) for k, v in call.factors.items()}
    value, gradients = evaluate(call, t, p, factors)
    if p.size and oracle:
        try:
            check_against_oracle(call, t, p, factors, value, gradients)
        except AssertionError as error:
            raise AssertionError(f"{call}: {error}") from error
    return value, [g.astype(stored) for g in gradients]


def meets_a_tie(exact: Call) -> bool:
    """Whether the maximum of a categorical hinge is there twice, as in broadcast arrays.

    Its slope is then shared; the oracle takes that of one of them.
    """
    others = np.sort((1 - exact.targets()) * exact.predictions(), axis=1)
    return others.shape[1] > 1 and bool((others[:, -1] == others[:, -2]).any())


def check_against_oracle(
    call: RandomCall, t: Any, p: Any, factors: Any, value: Any, gradients: Any
) -> None:
    if call.spec.labels == "integer":
        t = t.astype(np.int64)
    exact = Call(call.spec, t, p, call.options, call.reduction, **factors)
    # As in test_properties: classes and targets are few, a cancelled sum has no neighbours.
    scale = exact.value_scale()
    if call.spec.name == "cosine_similarity":  # a cosine near zero is a sum that cancels
        scale = scale + np.abs(exact.coefficients()).sum()
    assert_close(value, exact.value(), p.dtype, factor=4, scale=scale)
    for name, gradient in zip(
        ["y_pred", "y_true"] if call.wrt == "both" else [call.wrt], gradients, strict=True
    ):
        if call.spec.name in KINKED and 2 in (call.y_pred.itemsize, call.y_true.itemsize):
            continue  # halves meet the kink itself
        if call.spec.name == "categorical_hinge" and meets_a_tie(exact):
            continue
        right = exact.gradient(name)
        scale = np.abs(right).mean() + np.abs(exact.gradient_coefficients()).mean()
        if call.spec.name == "cosine_similarity":  # of which a slope is a fraction of 1 / |x|
            scale /= min(np.sqrt((exact.on_grid(x) ** 2).sum(axis=1)).min() for x in (t, p))
        assert_close(gradient, right, p.dtype, factor=4, scale=scale)


def make_out(choose: Choose, call: RandomCall, t: Placed, p: Placed) -> tuple[Any, list[Placed]]:
    """The array to write to, and the memory that it may write to."""
    if call.out == "none":
        return None, []
    same = t.view.shape == p.view.shape and t.dtype == p.dtype
    if call.out in ("y_pred", "shifted") or (call.out == "y_true" and same):
        owner = t if call.out == "y_true" else p
        out = owner.shifted(choose(1, 3)) if call.out == "shifted" else owner.view
        shares = any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True))
        if out.dtype.isnative and out.flags.writeable and not shares:
            return out, [owner]
    shape, dtype = call.y_pred.shape, call.y_pred.dtype
    if call.spoiled == "out shape":
        shape = (*shape, 2)
    if call.spoiled == "out dtype":
        dtype = np.dtype(np.int32)
    fresh = Placed(np.zeros(shape, dtype), choose, native=True)
    if call.spoiled == "out read-only":
        fresh.view.flags.writeable = False
    return fresh.view, [fresh]


def place(choose: Choose, a: Any) -> Any:
    """A copy elsewhere; what has a stride of zero keeps it."""
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "biufV":
        return a
    if a.size and 0 in a.strides and a.ndim:
        axis = a.strides.index(0)
        small = Placed(a.take([0], axis=axis), choose)
        small.view = np.broadcast_to(small.view, a.shape)
        return small
    return Placed(a, choose)


def view_of(x: Any) -> Any:
    return x.view if isinstance(x, Placed) else x


def check(choose: Choose, call: RandomCall, *, oracle: bool = True) -> None:
    """Makes the call; AssertionError says what is wrong with what it does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*more than one class", SyntaxWarning)
        expected = None if call.invalid else expected_result(call, oracle)
        t, p = place(choose, call.y_true), place(choose, call.y_pred)
        factors = {k: place(choose, v) for k, v in call.factors.items()}
        out, written = None, []
        if isinstance(t, Placed) and isinstance(p, Placed):
            out, written = make_out(choose, call, t, p)
        arrays = [x for x in (t, p, *factors.values()) if isinstance(x, Placed)]
        if one_in(choose, 3):
            for x in arrays:
                if x not in written:
                    x.view.flags.writeable = False
        views = {k: view_of(v) for k, v in factors.items()}
        error = None
        try:
            result = evaluate(call, view_of(t), view_of(p), views, out=out)
        except (ValueError, TypeError) as caught:
            error = caught
    if error:
        assert call.invalid, f"{call}: {error!r}"
        assert str(error).startswith(call.invalid), f"{call}: {error!r}"
        assert all(x.unchanged() for x in [*arrays, *written]), f"{call}: written, {error!r}"
        return
    assert not call.invalid, f"{call}: no error"
    assert expected is not None
    value, gradients = result
    assert same_bits(value, expected[0]), f"{call}: {value} is not {expected[0]}"
    for ours, right in zip(gradients, expected[1], strict=True):
        assert same_bits(np.ascontiguousarray(ours).reshape(ours.shape), right), f"{call}: {ours}"
    if out is not None:
        assert gradients[0] is out, f"{call}: another array than out"
    for x in arrays:
        assert x in written or x.unchanged(), f"{call}: an input was written"
    if call.out != "shifted":
        for x in written:
            assert x.only_view_changed(), f"{call}: something beside out was written"
