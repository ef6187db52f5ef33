"""Keras's own tests of its losses, run out of the installed Keras, hold for fastloss."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import fastloss.keras as fk
from frameworks import keras
from keras_own_suite import MODULES

MODES = ["shim", "patch"]

# Tests of Keras that must fail in a mode, each with the reason. One that passes after all fails.
EXPECTED_FAILURES = {
    "shim": {
        "CosineSimilarityTest.test_config": "pins that Keras's config forgets axis=2; ours keeps it"
    },
    "patch": {},
}

Outcomes = dict[str, tuple[str, str]]


def their_tests() -> list[str]:
    """The tests in Keras's modules, as "Class.method"."""
    names = []
    for module in MODULES:
        found = importlib.import_module(f"keras.src.losses.{module}")
        for cls in vars(found).values():
            if inspect.isclass(cls) and issubclass(cls, unittest.TestCase):
                methods = unittest.defaultTestLoader.getTestCaseNames(cls)
                names += [f"{cls.__name__}.{method}" for method in methods]
    return names


THEIRS = their_tests()


def run_suite(results: Path, mode: str, *options: str) -> Outcomes:
    """("passed", "skipped" or "failed", what was said) of each test, from one run of them all."""
    program = Path(__file__).with_name("keras_own_suite.py")
    command = [sys.executable, program, mode, results, *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert results.exists(), run.stdout + run.stderr
    outcomes = {}
    for case in ElementTree.parse(results).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        outcomes[name] = ("passed", "")
        for trouble in case:
            if trouble.tag in ("failure", "error", "skipped"):
                what = "skipped" if trouble.tag == "skipped" else "failed"
                outcomes[name] = (what, f"{trouble.get('message')}\n{trouble.text}")
    return outcomes


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def outcomes(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return run_suite(tmp_path_factory.mktemp("keras") / f"{mode}.xml", mode)


def failures(outcomes: Outcomes) -> set[str]:
    return {name for name, (what, _) in outcomes.items() if what == "failed"}


@pytest.mark.parametrize("name", THEIRS)
def test_of_keras(name: str, mode: str, outcomes: Outcomes, request: pytest.FixtureRequest) -> None:
    if name in EXPECTED_FAILURES[mode]:
        request.applymarker(pytest.mark.xfail(reason=EXPECTED_FAILURES[mode][name], strict=True))
    what, said = outcomes[name]
    if what == "skipped":
        pytest.skip(said)
    assert what == "passed", said


def test_every_test_of_keras_is_run(mode: str, outcomes: Outcomes) -> None:
    assert len(set(THEIRS)) == len(THEIRS) >= 181  # as of Keras 3.15
    assert outcomes.keys() == set(THEIRS)
    assert sum(what == "skipped" for what, _ in outcomes.values()) <= 1
    assert EXPECTED_FAILURES[mode].keys() <= set(THEIRS)


def test_a_wrong_loss_does_not_get_past_them(mode: str, outcomes: Outcomes, tmp_path: Path) -> None:
    spoiled = run_suite(tmp_path / "results.xml", mode, "--spoil", "huber")
    assert spoiled.keys() == outcomes.keys()
    # The others of its tests look at a config, at zero losses, or at the dtype.
    assert failures(spoiled) - failures(outcomes) == {
        "HuberLossTest.test_non_default_delta",
        "HuberLossTest.test_sample_weighted",
        "HuberLossTest.test_scalar_weighted",
        "HuberLossTest.test_timestep_weighted",
        "HuberLossTest.test_unweighted",
    }


def test_every_class_of_keras_is_there() -> None:
    def is_loss(x: Any) -> bool:
        return inspect.isclass(x) and issubclass(x, keras.losses.Loss)

    theirs = {name for name, _ in inspect.getmembers(keras.losses, is_loss)} - {"Loss"}
    assert theirs <= set(fk.__all__)
