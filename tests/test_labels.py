"""What y_true may be: integers of any width, floats, booleans, and the label rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss
from cases import SPECS, describe, draw, losses, make, same_bits
from fastloss._registry import LossSpec

INTEGERS = [
    np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
]  # fmt: skip
SPARSE = [s for s in SPECS if s.labels == "integer"]

sparse_losses = pytest.mark.parametrize("spec", SPARSE, ids=lambda s: s.name)


@pytest.mark.parametrize("kind", [*INTEGERS, np.float16, np.float32, np.float64])
@sparse_losses
def test_labels_of_any_type_mean_the_same(spec: LossSpec, kind: Any, rng: Any) -> None:
    _, p = draw(spec, {}, (50, 100), np.float32, rng)
    labels = rng.integers(0, 100, 50)
    expected = make(spec, {}).value_and_grad(labels, p)
    value, gradient = make(spec, {}).value_and_grad(labels.astype(kind), p)
    assert value == expected[0]
    assert same_bits(gradient, expected[1])


@sparse_losses
def test_boolean_labels_are_classes_0_and_1(spec: LossSpec) -> None:
    p = np.array([[0.25, 0.75], [0.5, 0.5]])
    assert make(spec, {})([True, False], p) == make(spec, {})([1, 0], p)


@sparse_losses
def test_label_past_the_precision_of_float32_is_exact(spec: LossSpec) -> None:
    classes = 2**24 + 2
    p = np.full((1, classes), 0.5, np.float32)
    label = 2**24 + 1  # float32 would make it 2^24
    gradient = make(spec, {}).value_and_grad([label], p)[1]
    assert int(np.argmin(gradient)) == label


@sparse_losses
def test_labels_may_keep_the_class_axis(spec: LossSpec, rng: Any) -> None:
    t, p = draw(spec, {}, (4, 3, 5), np.float64, rng)
    kept = make(spec, {}).value_and_grad(t[..., None], p)
    dropped = make(spec, {}).value_and_grad(t, p)
    assert kept[0] == dropped[0]
    assert same_bits(kept[1], dropped[1])


def test_labels_belong_to_the_class_axis(rng: Any) -> None:
    p = rng.normal(size=(4, 5, 3))
    t = rng.integers(0, 5, (4, 3))
    loss = fastloss.SparseCategoricalCrossentropy(from_logits=True, axis=1, reduction=None)
    last = fastloss.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    moved = np.ascontiguousarray(np.moveaxis(p, 1, -1))
    np.testing.assert_allclose(loss(t, p), last(t, moved), rtol=1e-15)
    np.testing.assert_allclose(loss(t[:, None], p), last(t, moved), rtol=1e-15)


@pytest.mark.parametrize("kind", [bool, *INTEGERS, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("spec", [s for s in SPECS if s.labels == "dense"], ids=describe)
def test_dense_targets_of_any_type_mean_the_same(spec: LossSpec, kind: Any, rng: Any) -> None:
    _, p = draw(spec, {}, (40, 60), np.float32, rng)
    t = rng.integers(0, 2, (40, 60))
    expected = make(spec, {}).value_and_grad(t.astype(np.float32), p, wrt="both")
    value, (by_pred, by_true) = make(spec, {}).value_and_grad(t.astype(kind), p, wrt="both")
    assert value == expected[0]
    assert value.dtype == by_true.dtype == np.float32
    assert same_bits(by_pred, expected[1][0])
    assert same_bits(by_true, expected[1][1])


@losses
def test_integer_predictions_become_float64(spec: LossSpec) -> None:
    t = np.array([1, 0]) if spec.labels == "integer" else np.array([[1, 0, 1], [0, 1, 1]])
    p = np.array([[1, 1, 1], [2, 1, 1]])
    value, gradient = make(spec, {}).value_and_grad(t, p)
    assert value.dtype == gradient.dtype == np.float64
    assert value == make(spec, {})(t, p.astype(np.float64))


@losses
def test_lists_are_arrays(spec: LossSpec, rng: Any) -> None:
    t, p = draw(spec, {}, (3, 4), np.float64, rng)
    assert make(spec, {})(t.tolist(), p.tolist()) == make(spec, {})(t, p)


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if "hinge" in s.name and s.kind == "map"], ids=describe
)
class TestHingeLabels:
    def test_zeros_and_ones_stand_for_signs(self, spec: LossSpec, rng: Any) -> None:
        p = rng.normal(size=(30, 200))
        t = rng.integers(0, 2, (30, 200))
        binary = make(spec, {}).value_and_grad(t, p, wrt="both")
        signs = make(spec, {}).value_and_grad(2 * t - 1, p, wrt="both")
        assert binary[0] == signs[0]
        assert same_bits(binary[1][0], signs[1][0])
        np.testing.assert_array_equal(binary[1][1], 2 * signs[1][1])

    @pytest.mark.parametrize("where", [0, 2999, 5999])
    def test_one_other_label_anywhere_turns_the_rule_off(
        self, spec: LossSpec, where: int, rng: Any
    ) -> None:
        p = rng.normal(size=(30, 200))
        t = rng.integers(0, 2, (30, 200)).astype(float)
        t.flat[where] = -1
        margin = np.maximum(1 - t * p, 0) ** (2 if spec.name == "squared_hinge" else 1)
        np.testing.assert_allclose(make(spec, {})(t, p), margin.mean(), rtol=1e-13)

    def test_rule_looks_at_the_whole_call_not_at_a_row(self, spec: LossSpec) -> None:
        values = make(spec, {}, reduction=None)([[0.0, 1.0], [-1.0, 1.0]], np.zeros((2, 2)))
        np.testing.assert_array_equal(values, [1.0, 1.0])
        values = make(spec, {}, reduction=None)([[0.0, 1.0], [-1.0, 1.0]], np.full((2, 2), 0.5))
        exponent = 2 if spec.name == "squared_hinge" else 1
        expected = [(1 + 0.5**exponent) / 2, (1.5**exponent + 0.5**exponent) / 2]
        np.testing.assert_array_equal(values, expected)

    def test_constant_labels_are_binary_too(self, spec: LossSpec) -> None:
        assert make(spec, {})([[0, 0]], [[2.0, -2.0]]) == make(spec, {})([[-1, -1]], [[2.0, -2.0]])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", [None, "sum"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BinaryCrossentropy", {}),
        ("BinaryCrossentropy", {"class_weight": (0.5, 3.0)}),
        ("BinaryFocalCrossentropy", {}),
        ("BinaryFocalCrossentropy", {"gamma": 0.5, "apply_class_balancing": True}),
        ("BinaryFocalCrossentropy", {"class_weight": (0.5, 3.0), "gamma": 3.0}),
    ],
)
def test_labels_of_0_and_1_give_what_they_give_among_others(
    name: str, options: Any, reduction: Any, dtype: Any, weighted: bool, rng: Any
) -> None:
    # Blocks of nothing but labels have a loop of their own.
    p = rng.random(5000).astype(dtype)
    edges = [0, 1, 1e-8, 1e-7, 1 - 1e-7, 0.5, 2, -1, np.finfo(dtype).tiny, 0.29289, 0.70711, np.nan]
    p[: len(edges)] = p[-len(edges) :] = edges
    t = rng.integers(0, 2, 5000).astype(dtype)
    t[: len(edges)], t[-len(edges) :] = 0, 1
    weight = rng.random(5000).astype(dtype) if weighted else None

    mixed = t.copy()
    mixed[20::50] = 0.25
    own = mixed == t
    loss = getattr(fastloss, name)(reduction=reduction, **options)
    (value, gradient), (value_among, gradient_among) = (
        loss.value_and_grad(x[:, None], p[:, None], sample_weight=weight) for x in (t, mixed)
    )
    rtol = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(gradient[own], gradient_among[own], rtol=rtol, atol=0)
    if reduction is None:
        np.testing.assert_allclose(value[own], value_among[own], rtol=rtol, atol=0)
