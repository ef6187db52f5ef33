"""Arrays as they come and arrays converted first give the same results, errors and warnings."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastloss
from cases import SPECS, cases, draw, function, losses, make, one_class_is_allowed, resolved
from fastloss import _core
from fastloss._registry import LossSpec

pytestmark = one_class_is_allowed

REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight", None]
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)


class Converting:
    """A compiled plan that asks for a conversion of whatever it is given first."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.asked = False

    def run(self, *args: Any) -> Any:
        self.asked = not self.asked
        return None if self.asked else self.compiled.run(*args)


class Direct:
    """A compiled plan that must not ask for one."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def run(self, *args: Any) -> Any:
        result = self.compiled.run(*args)
        assert result is not None
        return result


def with_plan(kind: type, loss: Any) -> Any:
    loss._plan.compiled = kind(loss._plan.compiled)
    return loss


def described(x: Any) -> Any:
    """All that can be told from a result."""
    if isinstance(x, tuple):
        return tuple(described(item) for item in x)
    if not isinstance(x, np.ndarray | np.generic):
        return x
    held = x.tolist() if x.dtype == object else x.tobytes()
    return type(x), x.dtype, x.shape, held, x.flags.writeable, x.flags.c_contiguous


def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result or the error, the warnings, and what the arguments hold then."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = described(call(*args, **kwargs))
        except (TypeError, ValueError) as error:
            result = type(error), str(error)
    held = described((*args, *kwargs.values()))
    return result, held, [(w.category, str(w.message)) for w in caught]


@all_dtypes
@pytest.mark.parametrize("reduction", REDUCTIONS)
@cases
def test_result_is_the_same(
    spec: LossSpec, options: dict[str, Any], reduction: Any, dtype: Any, rng: Any
) -> None:
    shape = (4, 6, 3)
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, dtype, rng)
    plain = with_plan(Direct, make(spec, options, reduction=reduction))
    slow = with_plan(Converting, make(spec, options, reduction=reduction))
    assert outcome(plain, t, p) == outcome(slow, t, p)
    for upstream in (1.0, -2.5, float("nan")):
        expected = outcome(slow.value_and_grad, t, p, upstream=upstream)
        assert outcome(plain.value_and_grad, t, p, upstream=upstream) == expected
    out = [np.full_like(p, np.nan) for _ in range(2)]
    assert outcome(plain.value_and_grad, t, p, out=out[0]) == outcome(
        slow.value_and_grad, t, p, out=out[1]
    )
    values = make(spec, options, reduction=None)
    assert described(function(spec)(t, p, **options)) == described(values(t, p))


class Subclass(np.ndarray):
    pass


def big_endian(a: Any) -> Any:
    return a.astype(a.dtype.newbyteorder(">"))


def read_only(a: Any) -> Any:
    a.flags.writeable = False
    return a


def interleaved(a: Any) -> Any:
    """The same numbers, and an array in the gaps between them."""
    both = np.stack([a, a], -1)
    return both[..., 0], both[..., 1]


def shifted(a: Any) -> Any:
    """The same numbers, and an array that is ahead of them by one element."""
    memory = np.zeros(a.size + 1, a.dtype)
    memory[:-1] = a.ravel()
    return memory[:-1].reshape(a.shape), memory[1:].reshape(a.shape)


# What becomes of y_true and y_pred; the second may come with an `out`.
ARGUMENTS: dict[str, Callable[[Any, Any], tuple[Any, ...]]] = {
    "lists": lambda t, p: (t.tolist(), p.tolist()),
    "a list of targets": lambda t, p: (t.tolist(), p),
    "no dimensions": lambda t, p: (t.reshape(-1)[0], p.reshape(-1)[0]),
    "arrays of no dimensions": lambda t, p: (np.array(t.item(0)), np.array(p.item(0))),
    "a subclass of targets": lambda t, p: (t.view(Subclass), p),
    "a subclass of predictions": lambda t, p: (t, p.view(Subclass)),
    "a subclass of out": lambda t, p: (t, p, p.copy().view(Subclass)),
    "masked arrays": lambda t, p: (np.ma.array(t), np.ma.array(p)),
    "other byte order": lambda t, p: (big_endian(t), big_endian(p)),
    "other byte order of out": lambda t, p: (t, p, big_endian(p)),
    "read-only": lambda t, p: (read_only(t), read_only(p)),
    "read-only out": lambda t, p: (t, p, read_only(p.copy())),
    "steps": lambda t, p: (t.repeat(2, 0)[::2], p.repeat(2, -1)[..., ::2]),
    "reversed": lambda t, p: (t[::-1], p[::-1]),
    "Fortran order": lambda t, p: (np.asfortranarray(t), np.asfortranarray(p)),
    "broadcast": lambda t, p: (np.broadcast_to(t[:1], t.shape), np.broadcast_to(p[:1], p.shape)),
    "double targets": lambda t, p: (t.astype(np.float64), p),
    "half targets": lambda t, p: (t.astype(np.float16), p),
    "bfloat16 predictions": lambda t, p: (t, p.astype(ml_dtypes.bfloat16)),
    "integers": lambda t, p: (t.astype(np.int32), np.sign(p).astype(np.int8)),
    "small unsigned targets": lambda t, p: (t.astype(np.uint8), p),
    "Boolean targets": lambda t, p: (t.astype(bool), p),
    "targets of no number": lambda t, p: (t.astype(object), p),
    "complex predictions": lambda t, p: (t, p.astype(complex)),
    "long double predictions": lambda t, p: (t, p.astype(np.longdouble)),
    "float8 predictions": lambda t, p: (t, p.astype(ml_dtypes.float8_e4m3fn)),
    "strings": lambda t, p: (t.astype(str), p),
    "dates": lambda t, p: (t.astype("m8[s]"), p),
    "records": lambda t, p: (t.astype([("x", "f4")]), p),
    "None": lambda t, p: (None, p),
    "labels that keep their axis": lambda t, p: (t[..., None], p),
    "labels out of range": lambda t, p: (t * 0 + 99, p),
    "negative labels": lambda t, p: (t * 0 - 1, p),
    "labels between classes": lambda t, p: (t + 0.5, p),
    "labels that are NaN": lambda t, p: (t * np.float32("nan"), p),
    "NaN": lambda t, p: (t, p * np.float32("nan")),
    "rows that do not match": lambda t, p: (t[1:], p),
    "columns that do not match": lambda t, p: (t, p[..., 1:]),
    "no rows": lambda t, p: (t[:0], p[:0]),
    "no columns": lambda t, p: (t[..., :0], p[..., :0]),
    "one class": lambda t, p: (t[..., :1] if t.ndim == p.ndim else t * 0, p[..., :1]),
    "one sample": lambda t, p: (t[0], p[0]),
    "in place": lambda t, p: (t, p, p),
    "out in the gaps of predictions": lambda t, p: (t, *interleaved(p)),
    "out ahead of predictions": lambda t, p: (t, *shifted(p)),
    "out ahead of targets": lambda t, p: ((both := shifted(t.astype(p.dtype)))[0], p, both[1]),
    "out reversed": lambda t, p: (t, p, p[::-1]),
    "out in steps": lambda t, p: (t, p, np.zeros((*p.shape[:-1], 2 * p.shape[-1]), "f4")[..., ::2]),
    "out in Fortran order": lambda t, p: (t, p, np.asfortranarray(np.zeros_like(p))),
    "out of another shape": lambda t, p: (t, p, p[1:].copy()),
    "out of another rank": lambda t, p: (t, p, p.ravel().copy()),
    "out of another dtype": lambda t, p: (t, p, p.astype(np.float64)),
    "out that shares its rows": lambda t, p: (
        t, p, np.lib.stride_tricks.as_strided(p.copy(), p.shape, (0, p.strides[1])),
    ),
    "a list for out": lambda t, p: (t, p, p.tolist()),
}  # fmt: skip


@pytest.mark.parametrize("arguments", ARGUMENTS)
@losses
def test_ugly_arguments_end_the_same(spec: LossSpec, arguments: str, rng: Any) -> None:
    seed = rng.integers(2**32)
    outcomes = []
    for loss in (with_plan(Converting, make(spec, {})), make(spec, {})):
        t, p = draw(spec, {}, (4, 6), np.float32, np.random.default_rng(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the conversions here
            try:
                t, p, *out = ARGUMENTS[arguments](t, p)
            except (ValueError, IndexError):
                pytest.skip("labels cannot be made so")
        given = {"out": out[0]} if out else {}
        outcomes.append((outcome(loss.value_and_grad, t, p, **given), outcome(loss, t, p)))
    assert outcomes[0] == outcomes[1]


KEYWORDS: dict[str, dict[str, Any]] = {
    "integer upstream": {"upstream": 2},
    "NumPy upstream": {"upstream": np.float64(2)},
    "upstream array": {"upstream": np.arange(4.0)},
    "upstream text": {"upstream": "2"},
    "weight": {"sample_weight": [0.0, 1.0, 2.0, 0.5]},
    "mask": {"mask": np.array([True, False, True, True])},
    "weight that does not fit": {"sample_weight": np.ones(5)},
    "both": {"wrt": "both"},
    "targets": {"wrt": "y_true"},
    "nothing": {"wrt": None},
    "out for targets": {"wrt": "y_true", "out": np.empty((4, 6), np.float32)},
    "an unknown argument": {"weights": 1},
}


@pytest.mark.parametrize("keywords", KEYWORDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@losses
def test_other_arguments_end_the_same(
    spec: LossSpec, keywords: str, reduction: Any, rng: Any
) -> None:
    t, p = draw(spec, {}, (4, 6), np.float32, rng)
    slow = with_plan(Converting, make(spec, {}, reduction=reduction))
    ours = make(spec, {}, reduction=reduction)
    expected = outcome(slow.value_and_grad, t, p, **KEYWORDS[keywords])
    assert outcome(ours.value_and_grad, t, p, **KEYWORDS[keywords]) == expected


def test_overflow_of_a_sum_is_warned_of_the_same() -> None:
    t, p = np.zeros((3, 2), np.float32), np.full((3, 2), 2e38, np.float32)
    loss = fastloss.MeanAbsoluteError(reduction="sum")
    expected = outcome(with_plan(Converting, fastloss.MeanAbsoluteError(reduction="sum")), t, p)
    assert expected[2] == [(RuntimeWarning, "overflow encountered in cast")]
    assert outcome(loss, t, p) == expected


@pytest.mark.parametrize("axis", [0, 1, -3, 2, -4, (0, 1), (0, 0), (1, -1), None], ids=str)
@pytest.mark.parametrize(
    "spec", [s for s in SPECS if any(p.name == "axis" for p in s.parameters)], ids=lambda s: s.name
)
def test_axes_end_the_same(spec: LossSpec, axis: Any, rng: Any) -> None:
    p = rng.uniform(0.1, 0.9, (3, 4, 5))
    try:
        ours, slow = make(spec, {"axis": axis}), with_plan(Converting, make(spec, {"axis": axis}))
    except (TypeError, ValueError):
        pytest.skip("refused for every array")
    for t in (rng.uniform(0.1, 0.9, (3, 4, 5)), np.zeros((4, 5), int), np.zeros((3, 5), int)):
        assert outcome(ours.value_and_grad, t, p) == outcome(slow.value_and_grad, t, p)


@pytest.mark.parametrize("name", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_one_class_weight_is_not_for_all_classes(name: str, rng: Any) -> None:
    spec = next(s for s in SPECS if s.name == name)
    t, p = draw(spec, {}, (4, 3), np.float32, rng)
    with pytest.raises(ValueError, match="class_weight: expected one number per class, 3, got 1"):
        make(spec, {"class_weight": (2.0,)})(t, p)


@pytest.mark.parametrize("arguments", [n for n in ARGUMENTS if n.startswith(("out ", "in "))])
@pytest.mark.parametrize("spec", [s for s in SPECS if s.labels == "dense"], ids=lambda s: s.name)
def test_out_holds_the_gradient_or_nothing_is_written(
    spec: LossSpec, arguments: str, rng: Any
) -> None:
    t, p, out = ARGUMENTS[arguments](*draw(spec, {}, (4, 6), np.float32, rng))
    expected = make(spec, {}).value_and_grad(t.copy(), p.copy())[1]
    before = out.copy()
    try:
        make(spec, {}).value_and_grad(t, p, out=out)
    except (TypeError, ValueError):
        expected = before
    np.testing.assert_array_equal(out, expected)


# ---- Where results lie ----


def address(a: Any) -> int:
    return int(a.__array_interface__["data"][0])


@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (10, 10), (7, 1001), (2, 1_100_000)], ids=str)
@losses
def test_results_are_aligned(spec: LossSpec, shape: Any, rng: Any) -> None:
    t = np.zeros(shape[:1], int) if spec.labels == "integer" else np.ones(shape, np.float32)
    p = np.full(shape, 0.5, np.float32)
    loss = make(spec, {"axis": -1} if spec.kind == "region" else {}, reduction=None)
    keep = [loss.value_and_grad(t, p) for _ in range(3)]
    keep += [loss.value_and_grad(t, p, sample_weight=np.ones(shape[0]))]
    if spec.labels == "dense":
        value, gradients = loss.value_and_grad(t, p, wrt="both")
        keep += [(value, gradient) for gradient in gradients]
    for value, gradient in keep:
        assert address(value) % 64 == address(gradient) % 64 == 0
        assert gradient.flags.writeable


def test_results_of_batched_losses_are_aligned(rng: Any) -> None:
    p = rng.normal(size=(5, 9)).astype(np.float32)
    results = [fastloss.Circle(reduction=None).value_and_grad(np.arange(5) % 2, p)]
    logits = rng.normal(size=(3, 7, 4)).astype(np.float32)
    results += [fastloss.CTC(reduction=None).value_and_grad(np.ones((3, 2), int), logits)]
    for value, gradient in results:
        assert address(value) % 64 == address(gradient) % 64 == 0


@pytest.mark.parametrize("rows", [1000, 3000, 9000])
def test_memory_of_results_is_seen_and_given_back(rows: int) -> None:
    p = np.ones((rows, 1000), np.float32)
    loss = fastloss.MeanSquaredError()
    loss.value_and_grad(p, p)  # the memory of its gradient is kept, if it is large
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value, gradient = loss.value_and_grad(p, p)
        view = gradient[1:]
        del gradient
        assert tracemalloc.get_traced_memory()[0] - before >= p.nbytes
        assert not view.any()
        del value, view
        assert tracemalloc.get_traced_memory()[0] - before < p.nbytes // 10
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rows", [3000, 9000])
def test_memory_of_a_large_gradient_is_used_again(rows: int) -> None:
    p = np.ones((rows, 1000), np.float32)  # of 4 MiB or more
    t = np.zeros_like(p)
    loss = fastloss.MeanSquaredError(reduction="sum")

    def gradient(n: int, factor: float = 1) -> Any:
        return loss.value_and_grad(t[:n], factor * p[:n])[1]

    first, second = gradient(rows), gradient(rows, 2)
    assert not np.shares_memory(first, second)
    row = second[-1]  # keeps all of it
    freed = address(first)
    del first, second
    third = gradient(rows - 100, 3)
    assert address(third) == freed
    np.testing.assert_array_equal(row, gradient(1, 2)[0])
    np.testing.assert_array_equal(third[0], gradient(1, 3)[0])
    del third
    larger = np.ones((rows + 1, 1000), np.float32)
    assert address(loss.value_and_grad(larger, larger)[1]) != freed
    assert address(gradient(rows)) == freed


MEMORY = np.zeros(60, np.float32)

OVERLAPS = {
    "itself": (MEMORY[:10], MEMORY[:10], True),
    "itself reshaped": (MEMORY[:10], MEMORY[:10].reshape(5, 2), False),
    "itself transposed": (MEMORY[:9].reshape(3, 3), MEMORY[:9].reshape(3, 3).T, False),
    "itself as another dtype": (MEMORY[:10], MEMORY[:10].view(np.int32), False),
    "neighbours": (MEMORY[:10], MEMORY[10:20], True),
    "one shared": (MEMORY[:10], MEMORY[9:19], False),
    "neighbours, one reversed": (MEMORY[9::-1], MEMORY[10:20], True),
    "one shared, both reversed": (MEMORY[9::-1], MEMORY[19:8:-1], False),
    "reversed": (MEMORY[:10], MEMORY[9::-1], False),
    "columns that interleave": (MEMORY.reshape(6, 10)[:, :5], MEMORY.reshape(6, 10)[:, 5:], False),
    "an empty one inside": (MEMORY, MEMORY[5:5], True),
    "a scalar inside": (MEMORY, MEMORY[5:6].reshape(()), False),
    "a scalar behind": (MEMORY[:5], MEMORY[5:6].reshape(()), True),
    "part of a byte": (MEMORY[:5], MEMORY.view(np.uint8)[19:20], False),
}


@pytest.mark.parametrize("a, b, expected", OVERLAPS.values(), ids=OVERLAPS)  # noqa: PT006
def test_may_fill(a: Any, b: Any, expected: bool) -> None:
    assert _core.may_fill(a, b) is expected
    assert _core.may_fill(b, a) is expected
