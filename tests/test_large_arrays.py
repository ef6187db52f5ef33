"""Gradients that are large enough to be written past the caches are those of small ones."""

from __future__ import annotations

import numpy as np
import pytest

import fastloss
from fastloss._registry import REGISTRY, LossSpec

ELEMENTS = 8_200_000  # 33 MB of float32: caches count as filled from 32 MB on
PARTS = 4  # 25 MB of targets, predictions and gradients each

SPECS = [spec for spec in REGISTRY if not spec.batched and spec.kind != "region"]


def draw(
    rng: np.random.Generator, spec: LossSpec, rows: int, cols: int
) -> tuple[np.ndarray, np.ndarray]:
    p = rng.uniform(0.01, 0.99, (rows, cols)).astype(np.float32)
    if spec.labels == "integer":
        return rng.integers(0, cols, rows), p
    return rng.uniform(0.01, 0.99, (rows, cols)).astype(np.float32), p


def array_at(
    offset: int, shape: tuple[int, int], dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """An array whose first element lies so many elements behind the start of a cache line."""
    size = int(np.prod(shape))
    memory = np.full(size + 32, np.nan, dtype)
    first = -memory.ctypes.data % 64 // memory.itemsize + offset
    return memory[first : first + size].reshape(shape)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("cols", [3, 423, 32000])
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_large_gradient_is_that_of_its_parts(
    spec: LossSpec, cols: int, offset: int, rng: np.random.Generator
) -> None:
    rows = ELEMENTS // cols + 1
    t, p = draw(rng, spec, rows, cols)
    loss = getattr(fastloss, spec.class_name)(reduction="sum")
    whole = array_at(offset, p.shape)
    value, _ = loss.value_and_grad(t, p, out=whole)
    step = rows // PARTS + 1
    total = 0.0
    for first in range(0, rows, step):
        part = slice(first, first + step)
        part_value, grad = loss.value_and_grad(t[part], p[part])
        np.testing.assert_array_equal(whole[part], grad)
        total += float(part_value)
    assert value == pytest.approx(total, rel=1e-6)
    assert loss(t, p) == value


@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS if spec.labels != "integer"], ids=lambda s: s.name
)
def test_large_gradients_by_both_arguments_are_those_of_their_parts(
    spec: LossSpec, rng: np.random.Generator
) -> None:
    rows = ELEMENTS // 423 + 1  # begin at every element of a cache line
    t, p = draw(rng, spec, rows, 423)
    loss = getattr(fastloss, spec.class_name)(reduction="sum")
    _, whole = loss.value_and_grad(t, p, wrt="both")
    step = rows // PARTS + 1
    for first in range(0, rows, step):
        part = slice(first, first + step)
        _, grads = loss.value_and_grad(t[part], p[part], wrt="both")
        np.testing.assert_array_equal(np.stack(whole)[:, part], np.stack(grads))


@pytest.mark.parametrize(
    "loss",
    [
        fastloss.MeanSquaredError(),
        fastloss.CategoricalCrossentropy(),
        fastloss.MeanSquaredError() + fastloss.MeanAbsoluteError(),
        fastloss.LogCosh() + fastloss.MeanSquaredError() + fastloss.Huber(),
        fastloss.Poisson() + fastloss.MeanSquare(),
        fastloss.Dice() + fastloss.MeanAbsolute(),
    ],
    ids=repr,
)
def test_value_does_not_depend_on_where_the_gradient_lies(
    loss: fastloss.Loss, rng: np.random.Generator
) -> None:
    t, p = rng.uniform(0.01, 0.99, (2, ELEMENTS // 846, 423))  # float64, whose sums show any order
    value, grad = loss.value_and_grad(t, p)
    for offset in range(8):
        out = array_at(offset, p.shape, np.float64)
        assert loss.value_and_grad(t, p, out=out)[0] == value
        np.testing.assert_array_equal(out, grad)


SUMS = [
    0.7 * fastloss.MeanSquaredError(reduction="sum") + fastloss.MeanAbsoluteError(reduction="sum"),
    fastloss.CategoricalCrossentropy(reduction="sum") + fastloss.MeanSquare(reduction="sum"),
]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("cols", [3, 423])
@pytest.mark.parametrize("loss", SUMS, ids=repr)
def test_large_gradient_of_a_sum_is_that_of_its_parts(
    loss: fastloss.Loss, cols: int, offset: int, rng: np.random.Generator
) -> None:
    t, p = rng.uniform(0.01, 0.99, (2, ELEMENTS // cols + 1, cols)).astype(np.float32)
    whole = array_at(offset, p.shape)
    loss.value_and_grad(t, p, out=whole)
    step = len(p) // PARTS + 1
    for first in range(0, len(p), step):
        part = slice(first, first + step)
        _, grad = loss.value_and_grad(t[part], p[part])
        np.testing.assert_allclose(whole[part], grad, rtol=1e-6, atol=1e-6)
