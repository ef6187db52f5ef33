"""Devices that tests of GPU arrays run on: a card with CuPy, or the emulation of one on the host.

The emulation is the device code of ``csrc/cuda`` with the host's memory, ``tests/cuda``, and a
stand-in for the part of CuPy that fastloss uses.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import sysconfig
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    "csrc/bind/cuda.cpp", "csrc/bind/xla.cpp", "csrc/bind/xla_cuda.cpp", "csrc/cuda/driver.cpp",
    "csrc/cuda/cuts.cpp", "csrc/operation.cpp", "csrc/plan.cpp", "csrc/plan_sum.cpp",
    "csrc/losses.cpp", "csrc/cpu/view.cpp", "tests/cuda/emulation.cpp",
    "tests/cuda/xla_on_host.cpp",
]  # fmt: skip
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that keeps its elements where NumPy may not look, as a GPU does.

    As with CuPy's, arithmetic is enqueued; whatever needs an element, such as ``if`` or ``float``,
    would wait for the GPU, and is an error.
    """

    def __init__(self, held: Any, device: int = 0) -> None:
        self.held = held
        self.device = types.SimpleNamespace(id=device)

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self.held.__array_interface__["data"][0])

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.held.__array_interface__, "version": 3}

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if "out" in options:
            options["out"] = tuple(x.held for x in options["out"])
        made = getattr(ufunc, method)(*_held(inputs), **options)
        if "out" in options:
            options["out"][0][...] = made
            return self
        return self._like(made)

    def _like(self, made: Any) -> DeviceArray:
        return DeviceArray(np.asarray(made), self.device.id)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "strides", "ndim", "size"):
            return getattr(self.held, name)
        raise AttributeError(name)

    def _waits(self) -> Any:
        raise AssertionError("this waits for the GPU")

    __bool__ = __float__ = __int__ = __index__ = __iter__ = item = tolist = _waits

    @property
    def T(self) -> DeviceArray:  # noqa: N802 - NumPy's name
        return self._like(self.held.T)

    def __getitem__(self, key: Any) -> DeviceArray:
        if isinstance(key, DeviceArray):
            self._waits()
        return self._like(self.held[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, DeviceArray):
            self._waits()
        self.held[key] = _held([value])[0]

    def get(self) -> Any:
        return self.held

    def astype(self, dtype: Any, copy: bool = True) -> DeviceArray:
        return self._like(self.held.astype(dtype, copy=copy))

    def copy(self) -> DeviceArray:
        return self._like(self.held.copy())

    def reshape(self, *shape: Any) -> DeviceArray:
        return self._like(self.held.reshape(*shape))

    def sum(self, **options: Any) -> DeviceArray:
        return self._like(self.held.sum(**options))


def _held(arguments: Any) -> list[Any]:
    """Arguments of CuPy's functions as NumPy's; CuPy takes no arrays of the host."""
    for x in arguments:
        if isinstance(x, np.ndarray):
            raise TypeError(f"Unsupported type {type(x)}")
    return [x.held if isinstance(x, DeviceArray) else x for x in arguments]


class Foreign:
    """The array of another library on a GPU, which shows itself by one of the protocols."""

    def __init__(self, held: Any, protocol: str, device: int = 0) -> None:
        self.held = held
        if protocol == "interface":
            self.__cuda_array_interface__ = {**held.__array_interface__, "version": 3}
        else:
            self.__dlpack_device__ = lambda: (2, device)  # kDLCUDA
            self.__dlpack__ = self._dlpack

    def _dlpack(self, **_: Any) -> Any:
        return self.held.__dlpack__()


class _OnHost:
    """What a CUDA array of DLPack is in the emulation."""

    def __init__(self, foreign: Any) -> None:
        self.foreign = foreign

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: Any) -> Any:
        return self.foreign.__dlpack__(stream=1)


def _from_interface(x: Any) -> DeviceArray:
    shown = types.SimpleNamespace(__array_interface__=x.__cuda_array_interface__)
    return DeviceArray(np.asarray(shown))


def _from_dlpack(x: Any) -> DeviceArray:
    return DeviceArray(np.from_dlpack(_OnHost(x)), x.__dlpack_device__()[1])


def _copyto(to: DeviceArray, x: Any, where: DeviceArray) -> None:
    np.copyto(to.held, x, where=where.held)


def empty(shape: Any, dtype: Any) -> DeviceArray:
    """Memory full of what would spoil a result: NaN, or all bits set."""
    held = np.empty(shape, dtype)
    held.reshape(-1).view(np.uint8)[...] = 0xFF
    return DeviceArray(held)


def stand_in() -> types.ModuleType:
    """A module with the part of CuPy that fastloss uses."""
    cupy = types.ModuleType("cupy")

    def wrapped(function: Any) -> Any:
        def call(*arguments: Any) -> DeviceArray:
            return DeviceArray(np.asarray(function(*_held(arguments))))

        return call

    for name in ("abs", "broadcast_to", "equal", "floor", "logical_not", "ones", "where"):
        setattr(cupy, name, wrapped(getattr(np, name)))

    def asnumpy(x: DeviceArray) -> Any:
        cupy.waits += 1
        return x.held

    cupy.__dict__.update(
        waits=0,
        ndarray=DeviceArray,
        asarray=lambda x: DeviceArray(x) if isinstance(x, np.ndarray) else _from_interface(x),
        asnumpy=asnumpy,
        copyto=_copyto,
        from_dlpack=_from_dlpack,
        empty=empty,
        full=lambda shape, x: DeviceArray(np.full(shape, x)),
        cuda=types.SimpleNamespace(
            Device=lambda _: nullcontext(),
            get_current_stream=lambda: types.SimpleNamespace(ptr=0, is_capturing=lambda: False),
        ),
    )
    return cupy


def build_emulation(folder: Path, extra: list[str] | None = None) -> Path:
    """The extension module ``_cuda`` with the kernels running on the host."""
    import pybind11

    compiler = os.environ.get("CXX", "g++")
    library = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [ROOT / "csrc", pybind11.get_include(), sysconfig.get_paths()["include"]]
    command = [
        compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden",
        "-ffp-contract=fast", "-fno-strict-aliasing", *(extra or []),
        '-DFASTLOSS_CUDA_ARCHITECTURES="emulated"', *(f"-I{i}" for i in includes),
        *(str(ROOT / s) for s in SOURCES), "-o", str(library),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def load(library: Path) -> types.ModuleType:
    loader = importlib.machinery.ExtensionFileLoader("fastloss._cuda", str(library))
    spec = importlib.util.spec_from_file_location("fastloss._cuda", library, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Device:
    """Where the arrays of a test are."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.is_emulated = cupy.ndarray is DeviceArray

    def put(self, host: Any) -> Any:
        """The array on the device, with the same strides."""
        if self.is_emulated:
            return DeviceArray(host)
        base = host
        while isinstance(base.base, np.ndarray):
            base = base.base
        offset = host.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        memory = self.cupy.asarray(base.ravel(order="K"))
        return self.cupy.ndarray(host.shape, host.dtype, memory.data + offset, strides=host.strides)

    def get(self, array: Any) -> Any:
        """The elements of a device's array."""
        if array is None or isinstance(array, tuple):
            return array and tuple(self.get(a) for a in array)
        return array.held if self.is_emulated else array.get()


def install(library: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Lets fastloss find the emulation in place of CuPy and its own CUDA module."""
    import fastloss
    from fastloss import _cupy

    cupy, module = stand_in(), load(library)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "fastloss._cuda", module)
    monkeypatch.setattr(fastloss, "_cuda", module, raising=False)
    _cupy._device_plans.clear()
    return Device(cupy)


def emulation() -> ctypes.CDLL:
    """The functions of the emulation that is installed, for tests."""
    return ctypes.CDLL(str(sys.modules["fastloss._cuda"].__file__))


def counted(what: str, call: Callable[[], Any]) -> int:
    """How many of those, such as ``emulated_launches``, the call takes."""
    count = getattr(emulation(), what)
    count.restype = ctypes.c_size_t
    before = count()
    call()
    return int(count() - before)
