"""Random calls of sums of losses: what the terms give alone, added up; bits and memory."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

import fastloss
from calls import one_in, pick, random_options, random_shape
from cases import CASES, assert_close, make, resolved, same_bits, value_shape
from composition import Call
from guarded import Choose, Placed

DENSE = [case for case in CASES if case[0].labels == "dense"]
# With labels only penalties go, and what takes the same labels.
SPARSE = [case for case in CASES if case[0].labels == "integer" or not case[0].uses_target]
COEFFICIENTS = [1.0, 1.0, 0.25, -0.5, 2.0, 0.0]


def random_terms(choose: Choose, shape: tuple[int, ...], sparse: bool) -> list[Any]:
    terms = []
    for _ in range(choose(1, 4)):
        spec, options = pick(choose, SPARSE if sparse else DENSE)
        if sparse:  # labels leave out the last axis
            options = resolved(spec, options, shape)
        else:
            options = random_options(choose, spec, options, shape)
        terms.append((pick(choose, COEFFICIENTS), spec, options))
    return terms


def random_factors(choose: Choose, terms: list[Any], shape: Any, rng: Any) -> dict[str, Any]:
    rows = {value_shape(spec, options, shape) for _, spec, options in terms}
    factors: dict[str, Any] = {"upstream": pick(choose, [1.0, -1.5])}
    if len(rows) == 1:
        (values,) = rows
        if one_in(choose, 3):
            factors["sample_weight"] = rng.uniform(0, 2, values) * (rng.random(values) < 0.8)
        if one_in(choose, 3):
            factors["mask"] = np.asarray(rng.random(values) < 0.7)
    return factors


def check_sum(choose: Choose) -> None:
    """Makes a call of a sum; AssertionError says what is wrong with what it does."""
    shape = random_shape(choose)
    if not shape or 0 in shape:
        shape = (3, 5)
    if one_in(choose, 12):  # more than a panel
        shape = pick(choose, [(2, 2053), (41, 300), (700, 7)])
    rng = np.random.default_rng(choose(0, 2**32 - 1))
    sparse = one_in(choose, 3)
    terms = random_terms(choose, shape, sparse)
    factors = random_factors(choose, terms, shape, rng)
    dtype = np.dtype(pick(choose, "fd"))
    t = rng.integers(0, shape[-1], shape[:-1]) if sparse else rng.uniform(0.05, 0.95, shape)
    t = t if sparse else t.astype(dtype)
    p = rng.uniform(0.05, 0.95, shape).astype(dtype)
    reduction = pick(choose, ["sum", "mean", "mean_with_sample_weight"])
    what = f"{terms} {shape} {dtype} {factors} {reduction}"

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*more than one class", SyntaxWarning)
        losses = [(c, make(spec, options, reduction=reduction)) for c, spec, options in terms]
        alone = [(c, *loss.value_and_grad(t, p, **factors)) for c, loss in losses]
        value, gradient = fastloss.Combination(losses).value_and_grad(t, p, **factors)
        others = {k: v for k, v in factors.items() if k != "upstream"}
        size = sum(
            abs(c) * Call(spec, t, p, options, reduction, **others).value_scale()
            for c, spec, options in terms
        )
        total = sum(np.longdouble(c) * v for c, v, _ in alone)
        slopes = [c * g.astype(np.longdouble) for c, _, g in alone]
        try:
            assert_close(value, total, value.dtype, factor=4, scale=size)
            # Terms may cancel, also at one element alone, such as that of a label.
            sizes = sum(np.abs(s) for s in slopes)
            scale = sizes + sizes.mean()
            assert_close(gradient, sum(slopes), dtype, factor=4, scale=scale)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error

        placed = {"y_true": Placed(t, choose), "y_pred": Placed(p, choose)}
        placed |= {k: Placed(v, choose) for k, v in factors.items() if k != "upstream"}
        owner = placed["y_pred"]
        if one_in(choose, 2) or not owner.view.dtype.isnative:
            owner = Placed(np.zeros(shape, dtype), choose, native=True)
        views = {k: v.view for k, v in placed.items()}
        again, written = fastloss.Combination(losses).value_and_grad(
            **views, upstream=factors["upstream"], out=owner.view
        )
    assert written is owner.view, f"{what}: another array than out"
    assert same_bits(again, value), f"{what}: {again} is not {value}"
    assert same_bits(np.ascontiguousarray(written).reshape(shape), gradient), what
    for x in placed.values():
        assert x is owner or x.unchanged(), f"{what}: an input was written"
    assert owner.only_view_changed(), f"{what}: something beside out was written"
    assert math.isfinite(value), what
