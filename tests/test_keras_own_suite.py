"""Keras's own tests of its losses, run out of the installed Keras, hold for fastloss."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import fastloss.keras as fk
from frameworks import keras

# Tests of Keras that must fail here, each with the reason. One that passes after all fails ours.
EXPECTED_FAILURES = {
    "CosineSimilarityTest.test_config": "it pins that Keras's config forgets axis=2; ours keeps it",
}


def run_suite(results: Path, mode: str, *options: str) -> dict[str, str]:
    """The outcome of each test: "passed", "skipped", or the message of the failure."""
    program = Path(__file__).with_name("keras_own_suite.py")
    command = [sys.executable, program, mode, results, *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert results.exists(), run.stdout + run.stderr
    outcomes = {}
    for case in ElementTree.parse(results).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        trouble = [e for e in case if e.tag in ("failure", "error", "skipped")]
        if not trouble:
            outcomes[name] = "passed"
        elif trouble[0].tag == "skipped":
            outcomes[name] = "skipped"
        else:
            outcomes[name] = trouble[0].get("message", trouble[0].tag)
    return outcomes


def check(outcomes: dict[str, str], expected: dict[str, str]) -> None:
    failed = {name for name, what in outcomes.items() if what not in ("passed", "skipped")}
    report = [f"{name}: {outcomes[name]}" for name in sorted(failed - expected.keys())]
    report += [f"{name}: expected to fail, passed" for name in sorted(expected.keys() - failed)]
    assert not report, "\n".join(report)


@pytest.mark.parametrize("mode", ["shim", "patch"])
def test_keras_own_tests_hold(mode: str, tmp_path: Path) -> None:
    outcomes = run_suite(tmp_path / "results.xml", mode)
    assert len(outcomes) >= 181  # as of Keras 3.15
    assert list(outcomes.values()).count("skipped") <= 1
    check(outcomes, EXPECTED_FAILURES if mode == "shim" else {})


@pytest.mark.parametrize("mode", ["shim", "patch"])
def test_a_wrong_loss_does_not_get_past_them(mode: str, tmp_path: Path) -> None:
    outcomes = run_suite(tmp_path / "results.xml", mode, "--spoil", "huber")
    with pytest.raises(AssertionError, match=r"HuberLossTest\.test_unweighted"):
        check(outcomes, EXPECTED_FAILURES if mode == "shim" else {})
    assert {name.split(".")[0] for name, what in outcomes.items() if "violations" in what} == {
        "HuberLossTest"
    }


def test_an_unexpected_pass_is_reported() -> None:
    with pytest.raises(AssertionError, match=r"A\.test: expected to fail, passed"):
        check({"A.test": "passed"}, {"A.test": "a reason"})


def test_every_class_of_keras_is_there() -> None:
    def is_loss(x: Any) -> bool:
        return inspect.isclass(x) and issubclass(x, keras.losses.Loss)

    theirs = {name for name, _ in inspect.getmembers(keras.losses, is_loss)} - {"Loss"}
    assert theirs <= set(fk.__all__)
