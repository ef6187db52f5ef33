"""What is not installed is named, with the command that installs it."""

from __future__ import annotations

import sys

import pytest

from reloading import load_again


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [("plot", "matplotlib.figure", "plot"), ("tensorflow", "tensorflow", "tensorflow")],
)
def test_missing_package(
    module: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"^fastloss.{module} needs .*fastloss\[{extra}\]"):
        load_again(module)
