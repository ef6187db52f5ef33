"""The rules of docs/accuracy.md, on a part of the sweeps that its tables are made from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import elementary
import peers
from fastloss._registry import REGISTRY
from measure import HALF, measure, shape_of
from sweeps import CASES, MAPS, Case
from table import HALF_LIMIT

SAMPLES = 300
LENGTHS = (2, 10, 300)
MAY_BE_WORSE_BY, IF_IT_CANCELS = 2.0, 4.0

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
    for length in lengths(case):
        for row in measure(case, dtype, shape_of(case, length, SAMPLES)):
            if row.result in case.exempt:
                continue
            ours = row.worst["fastloss"]
            best = min([e for who, e in row.worst.items() if who != "fastloss"], default=ours)
            assert ours <= case.limit, (row.result, length, row.where)
            margin = IF_IT_CANCELS if row.result in case.cancels else MAY_BE_WORSE_BY
            assert ours <= best + margin, (row.result, length, row.where)


@pytest.mark.parametrize("dtype", HALF)
@cases
def test_half_gradients_are_rounded_once(case: Case, dtype: str) -> None:
    for length in lengths(case):
        for row in measure(case, dtype, shape_of(case, length, SAMPLES // 2)):
            if row.result in case.exempt:
                continue
            limit = case.limit if row.result == "value" else HALF_LIMIT
            assert row.worst["fastloss"] <= limit, (row.result, length, row.where)


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
