"""Values of every loss against the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import (
    LARGE_SHAPES,
    SMALL_SHAPES,
    SPECS,
    accepts_axis,
    assert_close,
    cases,
    describe,
    draw,
    dtypes,
    function,
    losses,
    one_class_is_allowed,
    resolved,
    value_shape,
)
from composition import Call
from fastloss._registry import LossSpec

pytestmark = one_class_is_allowed


def check(
    spec: LossSpec, options: dict[str, Any], shape: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, dtype, rng)
    value = function(spec)(t, p, **options)
    assert np.shape(value) == value_shape(spec, options, shape)
    assert_close(value, Call(spec, t, p, options, reduction=None).value(), dtype)


@dtypes
@pytest.mark.parametrize("shape", SMALL_SHAPES, ids=str)
@cases
def test_value_is_the_oracles(
    spec: LossSpec, options: dict[str, Any], shape: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    check(spec, options, shape, dtype, rng)


@dtypes
@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
@losses
def test_value_of_many_blocks_is_the_oracles(
    spec: LossSpec, shape: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    check(spec, {}, shape, dtype, rng)


@dtypes
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -4])
@pytest.mark.parametrize("spec", [s for s in SPECS if accepts_axis(s)], ids=describe)
def test_axis_names_what_a_value_is_taken_over(
    spec: LossSpec, axis: int, dtype: Any, rng: Any
) -> None:
    check(spec, {"axis": axis}, (4, 3, 5, 6), dtype, rng)


@dtypes
@pytest.mark.parametrize("axis", [(1, 2), (0, 3), (3, 1), (-1, 0, 2), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("spec", [s for s in SPECS if s.kind == "region"], ids=describe)
def test_region_may_span_several_axes(
    spec: LossSpec, axis: tuple[int, ...], dtype: Any, rng: Any
) -> None:
    check(spec, {"axis": axis}, (4, 3, 5, 6), dtype, rng)


@losses
def test_float64_is_not_rounded_to_float32_on_the_way(spec: LossSpec, rng: Any) -> None:
    t, p = draw(spec, {}, (5, 8), np.float64, rng)
    value = function(spec)(t, p)
    exact = Call(spec, t, p, reduction=None).value()
    assert np.asarray(value).dtype == np.float64
    assert not np.array_equal(value, np.asarray(value).astype(np.float32))
    assert_close(value, exact, np.float64)
