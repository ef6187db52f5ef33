"""The floor: kernels that move the bytes of a loss and nothing else, compiled when they are needed.

They are tried on one thread, on all, and with stores that go past the cache. The fastest of these
is the floor of a case.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from workload import Case, Inputs

SOURCE = Path(__file__).with_name("floor.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")


def compiler() -> str | None:
    """The system's C++ compiler, if there is one."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++"))), None)


@cache
def library() -> Any:
    """The compiled kernels."""
    found = compiler()
    if found is None:
        raise FileNotFoundError("no C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "floor.so"
        subprocess.run([found, *FLAGS, str(SOURCE), "-o", str(path)], check=True)
        loaded = ctypes.CDLL(str(path))
    address, size = ctypes.c_void_p, ctypes.c_size_t
    loaded.move_bytes.argtypes = [address, address, address, size, ctypes.c_int, ctypes.c_int]
    loaded.move_bytes.restype = ctypes.c_double
    return loaded


def make(case: Case, inputs: Inputs, gradient: bool, threads: int, streaming: bool) -> Any:
    """A call that moves the bytes of a set: (set) -> sum of what was read, or 0.

    The gradient of a region needs sums over all of it, so that everything is read twice.
    """
    move = library().move_bytes
    arguments = []
    for (t, p), g in zip(inputs.numpy, inputs.gradients, strict=True):
        addresses = (
            t.ctypes.data if case.reads_targets else None,
            p.ctypes.data,
            g.ctypes.data if gradient else None,
        )
        arguments.append((*addresses, case.elements, threads, streaming))
    if case.reads_twice(gradient):
        reading = [(t, p, None, *others) for t, p, _, *others in arguments]
        return lambda i: move(*reading[i]) + move(*arguments[i])
    return lambda i: move(*arguments[i])
