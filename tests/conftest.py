"""Fixtures of all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastloss
from fastloss import _core

# The helper modules beside this file are imported by name, whatever pytest's import mode is.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's own name only, so that a failure repeats alone."""
    return np.random.default_rng(list(request.node.name.encode()))


@pytest.fixture
def any_threads() -> Iterator[None]:
    """Puts the number of threads back after a test that sets it."""
    before = _core.num_threads()
    yield
    fastloss.set_num_threads(before)


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA module with its kernels running on the host."""
    from device import build_emulation

    return build_emulation(tmp_path_factory.mktemp("emulation"))
