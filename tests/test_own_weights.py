"""Weights that a loss holds: an array, or a function of the targets."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import SPECS, by_sample, describe, draw, dtypes, losses, make, same_bits
from fastloss._registry import LossSpec

REDUCTIONS = ["mean", "sum", "mean_with_sample_weight", None]


@dtypes
@pytest.mark.parametrize("reduction", REDUCTIONS)
@losses
def test_array_is_a_sample_weight_of_every_call(
    spec: LossSpec, reduction: Any, dtype: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (6, 5), dtype, rng)
    weight = rng.uniform(0, 2, 6) * (rng.random(6) < 0.8)
    own = make(spec, options, reduction=reduction, weight=weight).value_and_grad(t, p)
    given = make(spec, options, reduction=reduction).value_and_grad(t, p, sample_weight=weight)
    assert all(map(same_bits, own, given))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@losses
def test_sample_weight_multiplies_it(spec: LossSpec, reduction: Any, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (6, 5), np.float64, rng)
    own, weight = rng.uniform(0, 2, 6), rng.uniform(0, 2, 6)
    both = make(spec, options, reduction=reduction, weight=own).value_and_grad(
        t, p, sample_weight=weight
    )
    product = make(spec, options, reduction=reduction).value_and_grad(
        t, p, sample_weight=own * weight
    )
    for a, b in zip(both, product, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.parametrize("spec", [s for s in SPECS if s.kind == "map"], ids=describe)
def test_function_of_the_targets_weighs_elements(spec: LossSpec, rng: Any) -> None:
    t, p = draw(spec, {}, (6, 5), np.float64, rng)
    loss = make(spec, {}, weight=lambda y: 1 + np.abs(y))
    value, gradient = loss.value_and_grad(t, p)
    expected = make(spec, {}).value_and_grad(t, p, sample_weight=1 + np.abs(t))
    assert same_bits(value, expected[0])
    assert same_bits(gradient, expected[1])
    # A list of targets is an array when the function sees it.
    assert loss(t.tolist(), p) == loss(t, p)
    per_sample = rng.uniform(0, 2, 6)
    both = loss(t, p, sample_weight=per_sample)
    assert np.isclose(
        both, make(spec, {})(t, p, sample_weight=(1 + np.abs(t)) * per_sample[:, None])
    )


def test_batches_have_own_weights_too(rng: Any) -> None:
    p, t = rng.normal(size=(12, 5)), rng.integers(0, 3, 12)
    weight = rng.uniform(0, 2, 12)
    own = fastloss.Circle(weight=weight).value_and_grad(t, p)
    assert all(map(same_bits, own, fastloss.Circle().value_and_grad(t, p, sample_weight=weight)))
    p, t = rng.normal(size=(3, 20, 7)), rng.integers(1, 7, (3, 4))
    own = fastloss.CTC(weight=[1, 0, 2]).value_and_grad(t, p, sample_weight=[3, 1, 0.5])
    given = fastloss.CTC().value_and_grad(t, p, sample_weight=[3, 0, 1])
    assert all(map(same_bits, own, given))


def test_every_term_of_a_sum_has_its_own(rng: Any) -> None:
    t, p = rng.random((6, 5)), rng.random((6, 5))
    by_value = fastloss.MeanSquaredError(weight=lambda y: 1 + y)
    by_place = fastloss.MeanAbsoluteError(weight=rng.random(5)[None] * np.ones((6, 1)))
    loss = by_value + 0.5 * by_place + 0.25 * fastloss.LogCosh()
    weight = rng.random(6)
    value, gradient = loss.value_and_grad(t, p, sample_weight=weight)
    apart = [x.value_and_grad(t, p, sample_weight=weight, upstream=c) for c, x in loss.terms]
    assert np.isclose(value, sum(c * v for (c, _), (v, _) in zip(loss.terms, apart, strict=True)))
    np.testing.assert_allclose(gradient, sum(g for _, g in apart), rtol=1e-13)


def test_weight_that_does_not_fit_is_named() -> None:
    zeros = np.zeros((4, 3))
    with pytest.raises(ValueError, match=r"weight: expected a shape that broadcasts .* got \(2,\)"):
        fastloss.MeanSquaredError(weight=[1.0, 2.0])(zeros, zeros)
    with pytest.raises(TypeError, match="weight: expected real numbers"):
        fastloss.MeanSquaredError(weight="heavy")
    with pytest.raises(ValueError, match=r"weight: .* got \(4, 3\)"):
        fastloss.CategoricalCrossentropy(weight=np.ones((4, 3)))(zeros, zeros + 0.5)


@pytest.mark.parametrize(
    "copied",
    [
        lambda x: type(x).from_config(json.loads(json.dumps(x.get_config()))),
        lambda x: pickle.loads(pickle.dumps(x)),
        copy.deepcopy,
        lambda x: eval(repr(x), vars(fastloss).copy()),
    ],
)
def test_copies_hold_the_array(copied: Any) -> None:
    loss = fastloss.Huber(delta=2.0, weight=[1, 2.5])
    twin = copied(loss)
    assert twin.get_config() == loss.get_config()
    assert twin(np.zeros((2, 1)), np.ones((2, 1))) == loss(np.zeros((2, 1)), np.ones((2, 1)))


def test_config_holds_a_function_itself() -> None:
    def heavier(y: Any) -> Any:
        return 1 + y

    loss = fastloss.Huber(weight=heavier)
    assert type(loss).from_config(loss.get_config()).weight is heavier
