"""Fixtures of all tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastloss
from fastloss import _core

if TYPE_CHECKING:
    from device import Device

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


@pytest.fixture
def emulated(emulation: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """The emulation of a GPU."""
    from device import install

    return install(emulation, monkeypatch)


@pytest.fixture(params=["emulated", pytest.param("card", marks=pytest.mark.gpu)])
def device(request: Any) -> Iterator[Device]:
    """The emulation of a GPU and, where there is one, a card."""
    from device import Device

    if request.param == "emulated":
        yield request.getfixturevalue("emulated")
        return
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    if importlib.util.find_spec("fastloss._cuda") is None:
        pytest.skip("fastloss was built without CUDA")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    before = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(None)  # memory of its own for each array: compute-sanitizer sees more
    yield Device(cupy)
    cupy.cuda.set_allocator(before)
