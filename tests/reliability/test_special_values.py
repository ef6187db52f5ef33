"""NaN, infinities and subnormal numbers: the table of docs/reliability.md is what happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import SPECS, accepts_axis, by_sample, draw, dtypes, losses, make, same_bits
from fastloss._registry import LossSpec

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

SPECIAL = {"NaN": np.nan, "+inf": np.inf, "-inf": -np.inf, "subnormal": None}

CASES = [
    (spec, logits)
    for spec in SPECS
    for logits in (False, True)
    if not logits or any(p.name == "from_logits" for p in spec.parameters)
]


def row_name(spec: LossSpec, logits: bool) -> str:
    return f"`{spec.name}`" + (", from logits" if logits else "")


def table() -> dict[str, list[str]]:
    rows = [line.strip("| \n").split("|") for line in PAGE.read_text().splitlines() if "`" in line]
    return {cells[0].strip(): [c.strip() for c in cells[1:]] for cells in rows if len(cells) == 6}


def word(x: Any) -> str:
    if np.isnan(x):
        return "NaN"
    return "finite" if np.isfinite(x) else "inf" if x > 0 else "-inf"


def outcome(spec: LossSpec, logits: bool, where: str, bad: Any, dtype: Any) -> str:
    """The value of a sample, and the slope at the element that is special."""
    options = by_sample(spec) | ({"from_logits": True} if logits else {})
    t, p = draw(spec, options, (2, 3), dtype, np.random.default_rng(1))
    if spec.labels == "integer":
        t[:] = 1
    (p if where == "y_pred" else t)[0, 1] = np.nextafter(dtype(0), dtype(1)) if bad is None else bad
    values, gradient = make(spec, options, reduction=None).value_and_grad(t, p)
    assert np.isfinite(values[1]), "the neighbour"
    assert np.isfinite(gradient[1]).all(), "the neighbour"
    return f"{word(values[0])}, {word(gradient[0, 1])}"


def outcomes(spec: LossSpec, logits: bool, dtype: Any) -> list[str]:
    cells = [outcome(spec, logits, "y_pred", bad, dtype) for bad in SPECIAL.values()]
    integer = spec.labels == "integer"
    return [*cells, "error" if integer else outcome(spec, logits, "y_true", np.nan, dtype)]


@dtypes
@pytest.mark.parametrize(("spec", "logits"), CASES, ids=lambda x: getattr(x, "name", str(x)))
def test_special_numbers_give_what_the_table_says(spec: LossSpec, logits: bool, dtype: Any) -> None:
    assert outcomes(spec, logits, dtype) == table()[row_name(spec, logits)]


@pytest.mark.parametrize("spec", [s for s in SPECS if s.labels == "integer"], ids=lambda s: s.name)
def test_label_that_is_nan_is_an_error(spec: LossSpec) -> None:
    with pytest.raises(ValueError, match=r"y_true\[1\].*nan"):
        make(spec, {})(np.array([0.0, np.nan]), np.full((2, 3), 0.3))


@dtypes
@pytest.mark.parametrize("argument", ["sample_weight", "mask"])
@pytest.mark.parametrize(
    "reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight", None]
)
@losses
def test_nothing_that_counts_gives_exact_zeros_whatever_stands_there(
    spec: LossSpec, reduction: Any, argument: str, dtype: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (4, 3), dtype, rng)
    p[:3] = np.array([[np.nan], [np.inf], [-np.inf]])
    loss = make(spec, options, reduction=reduction)
    for shape in [(4,)] + ([(4, 3)] if spec.kind == "map" else []):
        value, gradient = loss.value_and_grad(t, p, **{argument: np.zeros(shape)})
        assert same_bits(value, np.zeros_like(value))
        assert same_bits(gradient, np.zeros_like(gradient))


@dtypes
@losses
def test_subnormal_weights_and_upstream_do_not_make_nan(
    spec: LossSpec, dtype: Any, rng: Any
) -> None:
    options = {"axis": -1} if accepts_axis(spec) else {}
    t, p = draw(spec, options, (4, 3), dtype, rng)
    # One over a sum of subnormal doubles has no number.
    smallest = np.nextafter(dtype(0), dtype(1)) if dtype is np.float32 else np.finfo(dtype).tiny
    tiny = np.full(4, smallest)
    loss = make(spec, options, reduction="mean_with_sample_weight")
    value, gradient = loss.value_and_grad(t, p, sample_weight=tiny, upstream=float(tiny[0]))
    assert not np.isnan(value)
    assert not np.isnan(gradient).any()


def test_losses_of_batches_hide_what_does_not_count(rng: Any) -> None:
    p = rng.normal(size=(3, 6, 4))
    p[1] = np.nan
    value, gradient = fastloss.CTC().value_and_grad([[1, 2]] * 3, p, sample_weight=[1, 0, 1])
    assert np.isfinite(value)
    assert not gradient[1].any()
    assert np.isnan(fastloss.CTC()([[1, 2]] * 3, p))
    value, gradient = fastloss.CTC().value_and_grad([[1, 2]] * 3, p, mask=[False] * 3)
    assert value == 0
    assert not gradient.any()
