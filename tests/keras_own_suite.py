"""Runs Keras's own tests of its losses, out of the installed Keras, against fastloss.

As a program: ``python keras_own_suite.py shim|patch RESULTS.xml``. ``shim`` gives the tests a
``losses`` module made of `fastloss.keras`, with Keras's own objects only where there are none here
yet; ``patch`` leaves them Keras's module, patched. ``--spoil NAME`` doubles the values of a loss,
which the tests must notice.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras.src.losses as keras_losses
import pytest

import fastloss.keras

MODULES = ["losses_test", "loss_test"]

# What these names stand for in the two test files.
SUBJECTS = {"losses_test": "losses", "loss_test": "losses_module"}


def shim(original: types.ModuleType) -> types.ModuleType:
    """``original`` with every name that `fastloss.keras` has taken from there."""
    module = types.ModuleType(original.__name__)
    vars(module).update(vars(original))
    for name in fastloss.keras.__all__:
        if hasattr(original, name):
            setattr(module, name, getattr(fastloss.keras, name))
    return module


class UseFastloss:
    """The plugin that exchanges the losses under test once the tests are collected."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.mode == "patch":
            fastloss.keras.patch()
            return
        for module in {item.module for item in items}:
            subject = SUBJECTS[module.__name__.rpartition(".")[2]]
            setattr(module, subject, shim(getattr(module, subject)))


def spoil(name: str) -> None:
    """Makes a loss of fastloss wrong, in a way that only its values show."""
    from fastloss import _keras_call

    def spoiled(right: Any) -> Any:
        def wrong(plan: Any, *args: Any, **kwargs: Any) -> Any:
            value = right(plan, *args, **kwargs)
            return value * 2 if plan.spec.name == name else value

        return wrong

    for route in ("fused_loss", "per_sample"):
        setattr(_keras_call, route, spoiled(getattr(_keras_call, route)))


def main(mode: str, results: str, *options: str) -> int:
    if options[:1] == ("--spoil",):
        spoil(options[1])
    folder = Path(keras_losses.__file__).parent
    files = [str(folder / f"{module}.py") for module in MODULES]
    # Nothing of ours configures the run: no configuration file, no conftest.
    isolated = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={folder}"]
    return int(pytest.main([*isolated, f"--junitxml={results}", *files], [UseFastloss(mode)]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
