"""The rules of docs/accuracy.md, on a part of the sweeps that its tables are made from."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import batched
import elementary
import fastloss
import peers
from fastloss._registry import REGISTRY
from measure import HALF, Row, measure, shape_of
from sweeps import CASES, EXCEPTIONS, MAP_LIMIT, MAPS, Case, powers, signs
from table import HALF_LIMIT, worst_of
from units import error_in_units

SAMPLES = 300
LENGTHS = (2, 10, 300)
MAY_BE_WORSE_BY = 2.0

cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.title)

PEER_PACKAGES = {"Keras": "tensorflow", "PyTorch": "torch", "JAX": "jax"}


@pytest.fixture(autouse=True)
def only_installed_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for who, package in PEER_PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            monkeypatch.delitem(peers.PEERS, who)


def lengths(case: Case) -> tuple[int, ...]:
    return (1,) if case in MAPS else LENGTHS


def test_every_loss_has_a_case_with_each_of_its_kernels() -> None:
    for spec in (spec for spec in REGISTRY if not spec.batched):
        expected = {False, True} if "from_logits" in {p.name for p in spec.parameters} else {False}
        found = {bool(c.options.get("from_logits")) for c in CASES if c.spec is spec}
        assert found == expected, spec.name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@cases
def test_errors_are_within_the_limit_and_those_of_the_best_peer(case: Case, dtype: str) -> None:
    found: dict[str, list[Row]] = defaultdict(list)
    for length in lengths(case):
        for row in measure(case, dtype, shape_of(case, length, SAMPLES)):
            found[row.result].append(row)
    for result, rows in found.items():
        if (case.title, result) in EXCEPTIONS:
            continue
        worst, row = worst_of(rows)
        ours = worst.pop("fastloss")
        assert ours <= case.limit, (result, row.columns, row.where)
        best = min(worst.values(), default=ours)
        assert ours <= best + MAY_BE_WORSE_BY, (result, row.columns, row.where)


@pytest.mark.parametrize("dtype", HALF)
@cases
def test_half_gradients_are_rounded_once(case: Case, dtype: str) -> None:
    for length in lengths(case):
        for row in measure(case, dtype, shape_of(case, length, SAMPLES // 2)):
            if (case.title, row.result) in EXCEPTIONS:
                continue
            limit = case.limit if row.result == "value" else HALF_LIMIT
            assert row.worst["fastloss"] <= limit, (row.result, length, row.where)


def test_exceptions_are_of_the_sweeps() -> None:
    titles = {case.title for case in CASES}
    assert {title for title, _ in EXCEPTIONS} <= titles


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_of_batches(dtype: str) -> None:
    for batch in batched.batches(dtype):
        for result, worst in batched.measure(batch, dtype, set(peers.PEERS)).items():
            ours = worst.pop("fastloss")
            limit = batched.EXCEPTIONS.get((batch.title, result, dtype))
            if limit is not None:
                assert ours <= limit, (batch.title, result)
                continue
            assert ours <= batched.LIMIT, (batch.title, result)
            best = min(worst.values(), default=ours)
            assert ours <= best + MAY_BE_WORSE_BY, (batch.title, result)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="exact results need more digits")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_squared_logarithms_of_neighbours(dtype: str) -> None:
    """Where t and p agree in most digits, 1 + t and 1 + p hold but a few others."""
    rng, shape = np.random.default_rng(0), (300_000, 1)
    t = rng.uniform(0.001, 4, shape).astype(dtype)
    step = signs(rng, shape) * powers(rng, shape, np.log10(np.finfo(dtype).eps), -0.5)
    p = (t * (1 + step)).astype(dtype)
    loss = fastloss.MeanSquaredLogarithmicError(reduction=None)
    value, slope = loss.value_and_grad(t, p)
    difference, one = p.astype(np.longdouble) - t, np.longdouble(1)
    log = np.log1p(difference / (one + t))
    some = difference[:, 0] != 0
    for found, exact in ((value, log[:, 0] ** 2), (slope[:, 0], 2 * log[:, 0] / (one + p[:, 0]))):
        assert error_in_units(found[some], exact[some], dtype).max() <= MAP_LIMIT


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if elementary.compiler() is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("elementary")
    return {level: elementary.compile_for(level, folder) for level in elementary.instruction_sets()}


@pytest.mark.parametrize("dtype", elementary.DTYPES)
@pytest.mark.parametrize("function", elementary.FUNCTIONS, ids=lambda f: f.name)
def test_elementary_functions(
    function: elementary.Function, dtype: str, programs: dict[str, Path]
) -> None:
    worst = elementary.measure(function, dtype, programs, 2000)
    assert max(worst.values()) <= 2.5, worst
