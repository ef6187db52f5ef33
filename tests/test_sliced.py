"""Losses of parts of the predictions."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import dtypes, same_bits

HEAD, TAIL = np.s_[..., :3], np.s_[..., 3:]


def two_tasks(**options: Any) -> fastloss.Loss:
    return fastloss.sliced(
        [(HEAD, fastloss.CategoricalCrossentropy(from_logits=True)), (TAIL, fastloss.Huber())],
        weights=[0.5, 2.0],
        **options,
    )


def apart(t: Any, p: Any, **given: Any) -> tuple[Any, Any]:
    first = fastloss.CategoricalCrossentropy(from_logits=True).value_and_grad(
        t[HEAD], p[HEAD], upstream=0.5, **given
    )
    second = fastloss.Huber().value_and_grad(t[TAIL], p[TAIL], upstream=2.0, **given)
    return 0.5 * first[0] + 2 * second[0], np.concatenate([first[1], second[1]], axis=-1)


@dtypes
@pytest.mark.parametrize("shape", [(1, 4), (7, 423), (4, 3, 5), (3000, 10)], ids=str)
def test_parts_have_their_losses_and_one_gradient(shape: Any, dtype: Any, rng: Any) -> None:
    t, p = rng.random(shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    weight, mask = rng.random(shape[0]), rng.random(shape[0]) < 0.7
    for given in ({}, {"sample_weight": weight}, {"sample_weight": weight, "mask": mask}):
        value, gradient = two_tasks().value_and_grad(t, p, **given)
        expected = apart(t, p, **given)
        assert value == expected[0]
        assert same_bits(gradient, expected[1])
        assert two_tasks()(t, p, **given) == pytest.approx(value, rel=1e-6)


def test_gradient_goes_to_out_which_may_be_the_predictions(rng: Any) -> None:
    t, p = rng.random((50, 8)), rng.normal(size=(50, 8))
    value, gradient = two_tasks().value_and_grad(t, p, upstream=-3.0)
    np.testing.assert_allclose(gradient, -3 * apart(t, p)[1], rtol=1e-14)
    again, over = two_tasks().value_and_grad(t, p, upstream=-3.0, out=p)
    assert over is p
    assert same_bits(again, value)
    assert same_bits(over, gradient)


def test_unreduced_values_of_the_parts_are_added(rng: Any) -> None:
    t, p = rng.random((6, 5)), rng.normal(size=(6, 5))
    mse, mae = (x(reduction=None) for x in (fastloss.MeanSquaredError, fastloss.MeanAbsoluteError))
    loss = fastloss.sliced([(HEAD, mse), (TAIL, mae)])
    upstream = rng.normal(size=6)
    value, gradient = loss.value_and_grad(t, p, upstream=upstream)
    np.testing.assert_allclose(value, mse(t[HEAD], p[HEAD]) + mae(t[TAIL], p[TAIL]))
    np.testing.assert_allclose(
        gradient[TAIL], mae.value_and_grad(t[TAIL], p[TAIL], upstream=upstream)[1]
    )


def test_targets_may_be_one_array_for_each_part(rng: Any) -> None:
    p = rng.normal(size=(9, 7)).astype(np.float32)
    labels, numbers = rng.integers(0, 3, 9), rng.normal(size=(9, 4))
    data = fastloss.SparseCategoricalCrossentropy(from_logits=True)
    loss = fastloss.sliced([(HEAD, data), (TAIL, fastloss.MeanSquaredError())])
    value, gradient = loss.value_and_grad((labels, numbers), p)
    first = data.value_and_grad(labels, p[HEAD])
    second = fastloss.MeanSquaredError().value_and_grad(numbers, p[TAIL])
    assert value == first[0] + second[0]
    assert same_bits(gradient, np.concatenate([first[1], second[1]], axis=1))


def test_weights_of_the_elements_are_sliced_with_them(rng: Any) -> None:
    t, p, w = rng.random((4, 5)), rng.random((4, 5)), rng.random((4, 5))
    mse = fastloss.MeanSquaredError()
    loss = fastloss.sliced([(HEAD, mse), (TAIL, mse)])
    value = loss(t, p, sample_weight=w)
    assert value == mse(t[HEAD], p[HEAD], sample_weight=w[HEAD]) + mse(
        t[TAIL], p[TAIL], sample_weight=w[TAIL]
    )


def test_parts_may_be_cut_on_several_axes(rng: Any) -> None:
    t, p = rng.random((6, 5, 4)), rng.random((6, 5, 4))
    mse = fastloss.MeanSquaredError(reduction="sum")
    quarters = [np.s_[:, :2, :3], np.s_[:, 2:, :3], np.s_[:, :2, 3:], np.s_[:, 2:, 3:]]
    value, gradient = fastloss.sliced([(q, mse) for q in quarters]).value_and_grad(t, p)
    assert np.isclose(value, sum(mse(t[q], p[q]) for q in quarters))
    for q in quarters:
        assert same_bits(gradient[q], mse.value_and_grad(t[q], p[q])[1])
    every_other = np.s_[..., ::2], np.s_[..., 1::2]
    _, gradient = fastloss.sliced([(part, mse) for part in every_other]).value_and_grad(t, p)
    for part in every_other:
        assert same_bits(gradient[part], mse.value_and_grad(t[part], p[part])[1])


def test_gaps_are_an_error_unless_allowed_and_have_gradient_zero(rng: Any) -> None:
    t, p = rng.random((6, 5)), rng.random((6, 5))
    parts = [(np.s_[..., :2], fastloss.MeanSquaredError()), (np.s_[..., 3:], fastloss.Huber())]
    with pytest.raises(ValueError, match=r"parts: the slices leave out y_pred\[:, 2\] of shape"):
        fastloss.sliced(parts)(t, p)
    loss = fastloss.sliced(parts, allow_gaps=True)
    for out in (None, np.full((6, 5), 7.0), p.copy()):
        _, gradient = loss.value_and_grad(t, p, out=out)
        assert not gradient[:, 2].any()
        assert gradient[:, [0, 1, 3, 4]].all()


@pytest.mark.parametrize("allow_gaps", [False, True])
def test_overlapping_parts_are_an_error(allow_gaps: bool) -> None:
    mse = fastloss.MeanSquaredError()
    loss = fastloss.sliced([(np.s_[..., :4], mse), (np.s_[..., 3:], mse)], allow_gaps=allow_gaps)
    with pytest.raises(
        ValueError, match=r"parts: the slices overlap at y_pred\[:, 3\] of shape \(2, 6\)"
    ):
        loss(np.zeros((2, 6)), np.zeros((2, 6)))


def test_bad_arguments_are_named() -> None:
    mse = fastloss.MeanSquaredError()
    with pytest.raises(TypeError, match="parts: expected slices"):
        fastloss.sliced([(0, mse)])
    with pytest.raises(ValueError, match="parts: expected one Ellipsis at most"):
        fastloss.sliced([(np.s_[..., ...], mse)])
    with pytest.raises(TypeError, match=r"parts: expected pairs \(slices, loss\)"):
        fastloss.sliced([mse])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="parts: expected at least one pair"):
        fastloss.sliced([])
    with pytest.raises(TypeError, match="allow_gaps: expected a bool, got 1"):
        fastloss.sliced([(HEAD, mse)], allow_gaps=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="parts: expected losses of fastloss"):
        fastloss.sliced([(HEAD, "mse")])
    with pytest.raises(
        TypeError, match="parts: expected losses that take a part of y_pred alone, got ctc"
    ):
        fastloss.sliced([(HEAD, fastloss.CTC())])
    with pytest.raises(ValueError, match="weights: expected one per part, 1, got 2"):
        fastloss.sliced([(HEAD, mse)], weights=[1, 2])
    with pytest.raises(ValueError, match="reduction: "):
        fastloss.sliced([(HEAD, mse), (TAIL, fastloss.Huber(reduction="sum"))])
    with pytest.raises(ValueError, match=r"y_true: expected the shape of y_pred, \(2, 6\), or"):
        two_tasks()(np.zeros(2), np.zeros((2, 6)))
    with pytest.raises(
        ValueError, match=r"y_true: expected one array, or a tuple of 2, .* got a tuple of 1"
    ):
        two_tasks()((np.zeros(2),), np.zeros((2, 6)))
    with pytest.raises(ValueError, match="y_pred: expected at least 3 dimensions, got 2"):
        fastloss.sliced([(np.s_[:, :, :2], mse)])(np.zeros((2, 6)), np.zeros((2, 6)))
    with pytest.raises(ValueError, match="wrt: sliced losses have a gradient of y_pred alone"):
        two_tasks().value_and_grad(np.zeros((2, 6)), np.zeros((2, 6)), wrt="both")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="slices cannot be keys before Python 3.12")
def test_slices_may_be_keys() -> None:
    mse = fastloss.MeanSquaredError()
    loss = fastloss.sliced({HEAD: mse, TAIL: mse}, weights=[0.5, 0.5])
    assert loss(np.zeros((2, 6)), np.ones((2, 6))) == 1


def test_sliced_loss_may_be_a_term_of_a_sum(rng: Any) -> None:
    t, p = rng.random((4, 5)), rng.random((4, 5))
    loss = 2 * two_tasks() + 0.1 * fastloss.MeanSquare()
    value, gradient = loss.value_and_grad(t, p)
    tasks, penalty = two_tasks().value_and_grad(t, p), fastloss.MeanSquare().value_and_grad(t, p)
    assert np.isclose(value, 2 * tasks[0] + 0.1 * penalty[0])
    np.testing.assert_allclose(gradient, 2 * tasks[1] + 0.1 * penalty[1])


COPIES = {
    "config": lambda x: type(x).from_config(x.get_config()),
    "JSON config": lambda x: type(x).from_config(json.loads(json.dumps(x.get_config()))),
    "get": lambda x: fastloss.get({"class_name": type(x).__name__, "config": x.get_config()}),
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "deepcopy": copy.deepcopy,
    "repr": lambda x: eval(repr(x), vars(fastloss) | {"np": np}),
}


@pytest.mark.parametrize("way", COPIES)
def test_copy_is_the_same_loss(way: str, rng: Any) -> None:
    original = two_tasks(allow_gaps=True, name="tasks")
    twin = COPIES[way](original)
    assert twin.get_config() == original.get_config()
    t, p = rng.random((4, 5)), rng.random((4, 5))
    assert twin(t, p) == original(t, p)
