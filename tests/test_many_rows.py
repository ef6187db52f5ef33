"""Rows side by side in vector lanes, and rows one by one, on both sides of where they part.

Up to 112 classes, rows are computed 64 at a time (32 of float64) if there are a quarter as many;
longer ones, up to 4096, if the class axis is not the last. All others are computed one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss
from cases import (
    CASES,
    assert_close,
    describe,
    draw,
    dtypes,
    loss_axes,
    make,
    one_class_is_allowed,
    resolved,
    same_bits,
)
from composition import Call
from fastloss._registry import LossSpec

pytestmark = one_class_is_allowed

row_cases = pytest.mark.parametrize(
    ("spec", "options"),
    [
        (spec, options | ({"axis": -1} if spec.kind == "region" else {}))
        for spec, options in CASES
        if spec.kind != "map"
    ],
    ids=describe,
)
AXES = ["sparse_categorical_crossentropy", "categorical_crossentropy"]


def weights(shape: Any, rng: Any) -> tuple[Any, Any]:
    """Weights with zeros and a mask, one of each per row."""
    return rng.choice([0.0, 0.5, 2.0], shape), rng.random(shape) < 0.8


def check(
    spec: LossSpec,
    options: dict[str, Any],
    shape: Any,
    dtype: Any,
    rng: Any,
    reduction: Any,
    nonzero: float = 1.0,
) -> None:
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, dtype, rng)
    if nonzero < 1:
        t = np.where(rng.random(shape) < nonzero, t, -0.0).astype(t.dtype)
    (axis,) = loss_axes(spec, options, len(shape))
    rows = tuple(n for d, n in enumerate(shape) if d != axis)
    weight, mask = weights(rows, rng)
    upstream = rng.uniform(0.5, 2, rows) if reduction is None else 1.5
    wrt = "y_pred" if spec.labels == "integer" else "both"
    value, gradient = make(spec, options, reduction=reduction).value_and_grad(
        t, p, sample_weight=weight, mask=mask, upstream=upstream, wrt=wrt
    )
    call = Call(spec, t, p, options, reduction, weight, mask, upstream)
    scale = call.value_scale() if reduction else None
    assert_close(value, call.value(), dtype, scale=scale)
    if shape[axis] == 1:  # slopes vanish, and rounding is all that is left
        return
    gradients = (gradient,) if wrt == "y_pred" else gradient
    for ours, of in zip(gradients, ("y_pred", "y_true"), strict=False):
        exact = call.gradient(of)
        scale = np.abs(exact).mean()
        if spec.name == "confidence_penalty":  # a difference of logarithms of shares
            scale *= max(1, np.log(shape[axis]))
        assert_close(ours, exact, dtype, scale=scale)


@dtypes
@pytest.mark.parametrize("classes", [1, 2, 3, 5, 17, 112, 113, 300])
@row_cases
def test_rows_of_any_length_are_the_oracles(
    spec: LossSpec, options: dict[str, Any], classes: int, dtype: Any, rng: Any
) -> None:
    check(spec, options, (70, classes), dtype, rng, None)


@dtypes
@pytest.mark.parametrize("rows", [7, 8, 16, 64, 65, 423])
@row_cases
def test_any_number_of_rows_is_the_oracles(
    spec: LossSpec, options: dict[str, Any], rows: int, dtype: Any, rng: Any
) -> None:
    check(spec, options, (rows, 10), dtype, rng, "sum_over_batch_size")


@dtypes
@pytest.mark.parametrize("shape", [(2, 5, 70), (1, 115, 16), (2, 4, 5, 7)], ids=str)
@row_cases
def test_class_axis_anywhere_is_the_oracles(
    spec: LossSpec, options: dict[str, Any], shape: Any, dtype: Any, rng: Any
) -> None:
    if "axis" not in {p.name for p in spec.parameters}:
        pytest.skip("takes no axis")
    check(spec, options | {"axis": 1}, shape, dtype, rng, None)


@dtypes
@pytest.mark.parametrize("classes", [256, 300, 1000])
@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (s, o)
        for s, o in CASES
        if s.name in ("categorical_crossentropy", "categorical_focal_crossentropy")
    ],
    ids=describe,
)
def test_rows_of_few_targets_are_the_oracles(
    spec: LossSpec, options: dict[str, Any], classes: int, dtype: Any, rng: Any
) -> None:
    check(spec, options, (7, classes), dtype, rng, None, nonzero=2 / classes)


@dtypes
@pytest.mark.parametrize(
    ("spec", "options"), [(s, o) for s, o in CASES if s.kind == "row"], ids=describe
)
def test_long_rows_of_a_thread_each_are_those_of_a_team(
    spec: LossSpec, options: dict[str, Any], dtype: Any, any_threads: None, rng: Any
) -> None:
    fastloss.set_num_threads(3)
    shape = (16, 70_001)
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, dtype, rng)
    loss = make(spec, options, reduction=None)
    values, gradients = loss.value_and_grad(t, p)
    for row in range(16):
        one = slice(row, row + 1)
        value, gradient = loss.value_and_grad(t[one], p[one])
        assert_close(values[one], value, dtype)
        assert_close(gradients[one], gradient, dtype, scale=np.abs(gradient).mean())
    # Of rows with gaps, each thread makes a copy.
    t, p = (np.repeat(a, 2, axis=-1)[..., ::2] for a in (t, p))
    assert all(map(same_bits, loss.value_and_grad(t, p), (values, gradients)))


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("shape", [(3, 130, 70), (2, 9, 64), (5, 20, 17)], ids=str)
def test_layout_of_an_inner_class_axis_changes_no_bit(name: str, shape: Any, rng: Any) -> None:
    spec = next(s for s, _ in CASES if s.name == name)
    options = {"axis": 1, "from_logits": True}
    t, p = draw(spec, options, shape, np.float32, rng)
    loss = make(spec, options)
    value, gradient = loss.value_and_grad(t, p)
    for layout in (
        lambda a: np.ascontiguousarray(np.moveaxis(a, 1, -1)),
        lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, 0)), 0, 1),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    ):
        moved = layout(p)
        moved = np.moveaxis(moved, -1, 1) if moved.shape != p.shape else moved
        other_value, other = loss.value_and_grad(t, moved, out=np.empty_like(moved))
        assert value == other_value
        assert same_bits(gradient, np.ascontiguousarray(other))


@dtypes
@pytest.mark.parametrize("shape", [(300, 10), (40, 300), (3, 7, 70)], ids=str)
def test_gradient_over_its_own_input_changes_no_bit(shape: Any, dtype: Any, rng: Any) -> None:
    for options in ({"from_logits": True}, {}):
        axis = {"axis": 1} if len(shape) == 3 else {}
        loss = fastloss.SparseCategoricalCrossentropy(**options, **axis)
        t, p = draw(loss.spec, options | axis, shape, dtype, rng)
        expected = loss.value_and_grad(t, p)
        value, gradient = loss.value_and_grad(t, p, out=p)
        assert value == expected[0]
        assert same_bits(gradient, expected[1])


# Of 24 MiB and more, gradients are written past the caches.
@pytest.mark.parametrize("shape", [(700_001, 10), (7001, 1000), (3, 70, 35_000)], ids=str)
@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", "mean_squared_error", "dice"])
def test_large_gradients_are_those_of_their_parts(name: str, shape: Any, rng: Any) -> None:
    spec = next(s for s, _ in CASES if s.name == name)
    options: dict[str, Any] = {} if spec.kind == "map" else {"axis": 1 if len(shape) == 3 else -1}
    t, p = draw(spec, options, shape, np.float32, rng)
    loss = make(spec, options, reduction="sum")
    _, gradient = loss.value_and_grad(t, p)
    if len(shape) == 3:  # a part has to have as many rows side by side
        parts = [slice(0, 1), slice(1, 2), slice(2, 3)]
    else:
        parts = [slice(0, 1000), slice(shape[0] - 1000, None)]
    for part in parts:
        assert same_bits(gradient[part], loss.value_and_grad(t[part], p[part])[1])
