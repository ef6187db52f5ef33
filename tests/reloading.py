"""Modules of the package, run anew: what they say where something is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import fastloss


def load_again(name: str) -> None:
    """Runs a module of the package, whether it was imported or not, and keeps nothing of it."""
    path = Path(fastloss.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"fastloss.{name}_again", path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
