"""What there is on this machine: for reports of bugs and for programs."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path

import fastloss
from fastloss import _core

PACKAGES = (
    "numpy", "tensorflow", "tensorflow-cpu", "keras", "cupy-cuda12x", "cupy-cuda13x", "matplotlib",
)  # fmt: skip


def openmp() -> list[str]:
    """The OpenMP libraries in this process; more than one make their threads compete."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return ["unknown on this system"]
    loaded = re.findall(r"/\S*/(lib\w*omp\w*[-.][^/\s]*)$", maps.read_text(), re.MULTILINE)
    return sorted(set(loaded)) or ["none"]


def cuda() -> list[str]:
    """The CUDA kernels of this build and the devices, or why there are none."""
    from fastloss.cuda import info

    try:
        return info().splitlines()
    except RuntimeError as error:
        return [str(error)]


def tensorflow() -> str:
    """What computes the losses of tensors; in a process of its own, for TensorFlow is talkative."""
    code = "from fastloss.tensorflow import backend; print(backend())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1] if lines else f"nothing: exit status {done.returncode}"


def gather(*, with_tensorflow: bool) -> dict[str, str | list[str]]:
    """All of it, by name."""
    found: dict[str, str | list[str]] = {
        "fastloss": fastloss.__version__,
        "instruction set": _core.instruction_set(),
        "instruction sets": _core.instruction_sets(),
        "threads": str(_core.num_threads()),
        "OpenMP": openmp(),
        "CUDA": cuda(),
        "Python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in PACKAGES:
        distribution = next(iter(importlib.metadata.distributions(name=package)), None)
        if distribution or package == "numpy":
            found[package] = distribution.version if distribution else "without metadata"
    if with_tensorflow:
        found["tensors on"] = tensorflow()
    return found
