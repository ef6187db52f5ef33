"""What fastloss finds to run GPU arrays on."""

from __future__ import annotations

from fastloss._cupy import kernels

__all__ = ["info"]


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}" if number else "none"


def info() -> str:
    """The CUDA kernels of this installation, the driver, and the devices, one line each.

    Returns
    -------
    str
        Text for people.

    Raises
    ------
    RuntimeError
        If fastloss was built without CUDA kernels.
    """
    cuda = kernels()
    lines = [
        f"kernels: {cuda.ARCHITECTURES}",
        f"runtime: {_version(cuda.runtime_version())}",
        f"driver: {_version(cuda.driver_version())}",
    ]
    try:
        devices = cuda.devices()
    except RuntimeError as error:
        return "\n".join([*lines, f"devices: none ({error})"])
    for i, (name, (major, minor), multiprocessors, memory) in enumerate(devices):
        lines.append(
            f"device {i}: {name}, compute capability {major}.{minor}, {multiprocessors} "
            f"multiprocessors, {memory / 2**30:.0f} GiB"
        )
    return "\n".join(lines)
