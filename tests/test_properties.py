"""Random combinations of everything a call can be given, against the oracle's composition."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cases import CASES, assert_close, draw, make, one_class_is_allowed, resolved, value_shape
from composition import Call
from fastloss._evaluate import REDUCTIONS

pytestmark = one_class_is_allowed

everything = settings(
    max_examples=400,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def calls(draw_from: st.DrawFn) -> tuple[Call, int]:
    """A call, and the seed of its numbers."""
    spec, options = draw_from(st.sampled_from(CASES))
    shape = tuple(draw_from(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    if any(p.name == "axis" for p in spec.parameters) and draw_from(st.booleans()):
        options = options | {"axis": draw_from(st.integers(-len(shape), len(shape) - 1))}
    options = resolved(spec, options, shape)
    dtype = draw_from(st.sampled_from([np.float32, np.float64]))
    seed = draw_from(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    t, p = draw(spec, options, shape, dtype, rng)
    values = value_shape(spec, options, shape)

    def factor(number: Any) -> Any:
        shapes = [None, values, values[:1]] + ([shape] if spec.kind == "map" else [])
        chosen = draw_from(st.sampled_from(shapes))
        return None if chosen is None else number(chosen)

    weight = factor(lambda size: rng.uniform(0, 2, size) * (rng.random(size) < 0.8))
    mask = factor(lambda size: rng.random(size) < 0.7)
    reduction = draw_from(st.sampled_from(list(REDUCTIONS)))
    upstream: Any = draw_from(st.sampled_from([1.0, -0.5, 3]))
    if reduction in (None, "none") and draw_from(st.booleans()):
        upstream = rng.normal(size=values)
    return Call(spec, t, p, options, reduction, weight, mask, upstream), seed


@everything
@given(calls())
def test_any_call_is_what_the_oracle_composes(drawn: tuple[Call, int]) -> None:
    call, _ = drawn
    dtype = call.y_pred.dtype
    loss = make(call.spec, call.options, reduction=call.reduction)
    factors = {"sample_weight": call.sample_weight, "mask": call.mask}
    before = [a.copy() for a in (call.y_true, call.y_pred)]
    value = loss(call.y_true, call.y_pred, **factors)
    # Classes and targets are few: a cancelled sum has no neighbours to be measured by.
    assert_close(value, call.value(), dtype, factor=4, scale=call.value_scale())
    for wrt in ("y_pred",) if call.spec.labels == "integer" else ("y_pred", "y_true"):
        again, gradient = loss.value_and_grad(
            call.y_true, call.y_pred, upstream=call.upstream, wrt=wrt, **factors
        )
        assert_close(again, call.value(), dtype, factor=4, scale=call.value_scale())
        exact = call.gradient(wrt)
        scale = np.abs(exact).mean() + np.abs(call.gradient_coefficients()).mean()
        assert_close(gradient, exact, dtype, factor=4, scale=scale)
    for array, copy in zip((call.y_true, call.y_pred), before, strict=True):
        assert np.array_equal(array, copy)


@everything
@given(calls(), st.data())
def test_any_layout_of_any_call_gives_the_same_bits(
    drawn: tuple[Call, int], data: st.DataObject
) -> None:
    call, _ = drawn
    loss = make(call.spec, call.options, reduction=call.reduction)
    factors = {"sample_weight": call.sample_weight, "mask": call.mask, "upstream": call.upstream}
    expected = loss.value_and_grad(call.y_true, call.y_pred, **factors)

    def rearranged(a: Any) -> Any:
        if not isinstance(a, np.ndarray) or a.ndim == 0:
            return a
        order = data.draw(st.permutations(range(a.ndim)))
        steps = data.draw(st.tuples(*[st.sampled_from([1, -1, 2, -3])] * a.ndim))
        large = np.zeros([abs(s) * n for s, n in zip(steps, a.shape, strict=True)], a.dtype)
        large = np.ascontiguousarray(large.transpose(order)).transpose(np.argsort(order))
        view = large[tuple(slice(None, None, s) for s in steps)]
        view[...] = a
        return view

    arrays = [rearranged(a) for a in (call.y_true, call.y_pred)]
    value, gradient = loss.value_and_grad(*arrays, **{k: rearranged(v) for k, v in factors.items()})
    assert np.array_equal(value, expected[0])
    assert np.array_equal(gradient, expected[1])
