"""Measures a case: the worst error of each result, ours and our peers', and where ours lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import exact
import fastloss
import oracle
from exact import Array
from peers import PEERS, Results
from sweeps import Case
from units import error_in_units, least_unit

RESULTS = ("value", "d_pred", "d_true")
HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class Row:
    """A line of the table: worst errors in units in the last place, by who computed."""

    case: Case
    dtype: str
    columns: int
    result: str
    worst: dict[str, float]
    where: str


def ours(case: Case, t: Array, p: Array) -> Results:
    sparse = case.spec.labels == "integer"
    labels = t.argmax(axis=1) if sparse else t
    cls = getattr(fastloss, case.spec.class_name)
    total = cls(**case.options, reduction="sum")
    value = cls(**case.options, reduction=None)(labels, p)
    if sparse:
        return {"value": value, "d_pred": total.value_and_grad(labels, p)[1]}
    _, (d_pred, d_true) = total.value_and_grad(labels, p, wrt="both")
    return {"value": value, "d_pred": d_pred, "d_true": d_true}


def place(case: Case, result: str, errors: Array, t: Array, p: Array, columns: int) -> str:
    row, *column = np.unravel_index(int(np.argmax(errors)), errors.shape)
    if columns == 1:
        return f"t={t[row, 0]:.9g}, p={p[row, 0]:.9g}"
    if result == "value":
        return f"row {row}"
    t_at, p_at, most = t[row, column[0]], p[row, column[0]], p[row].max()
    return f"t={t_at:.6g}, p={p_at:.6g}, largest p={most:.6g}"


def measure(case: Case, dtype: str, shape: tuple[int, int], *, peers: bool = True) -> list[Row]:
    storage = np.dtype(dtype)
    compute = "float32" if dtype in HALF else dtype
    if not exact.is_known(case.name, compute, shape[1]):
        return []
    t, p = case.inputs(shape, storage)
    wide_t, wide_p = t.astype(compute), p.astype(compute)
    options = {q.name: q.default for q in case.spec.parameters} | dict(case.options)
    with np.errstate(all="ignore"):
        known = exact.evaluate(case.name, wide_t, wide_p, compute, options)
        found = {"fastloss": ours(case, t, p)}
        if peers and dtype not in HALF:
            found |= {who: r for who, f in PEERS.items() if (r := f(case, t, p)) is not None}
        terms = case.value_terms
        value_terms = None if terms is None else terms(wide_t.astype(np.longdouble), wide_p)
    sizes = {"value": value_terms, "d_pred": known.d_pred_terms, "d_true": known.d_true_terms}
    rows = []
    for result in RESULTS:
        truth = getattr(known, result)
        size = sizes[result] if result in case.cancels else None
        if size is not None and np.isnan(size).any():
            continue
        units_of = compute if result == "value" else dtype
        errors = {
            who: np.where(
                np.isnan(truth),
                0,
                error_in_units(
                    r[result].reshape(truth.shape), truth, units_of, size, least_unit(units_of)
                ),
            )
            for who, r in found.items()
            if result in r
        }
        if "fastloss" in errors:
            at = place(case, result, errors["fastloss"], t, p, shape[1])
            worst = {who: float(e.max()) for who, e in errors.items()}
            rows.append(Row(case, dtype, shape[1], result, worst, at))
    return rows


def shape_of(case: Case, columns: int, samples: int) -> tuple[int, int]:
    """Many single elements of a map loss; a few rows of the others."""
    if case.name in oracle.ELEMENTS:
        return (samples, 1)
    return (max(1, min(60, samples * 5 // columns)) if columns < 5000 else 1, columns)
