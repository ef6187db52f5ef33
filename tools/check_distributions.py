"""Checks what the wheel and the source archive in the given folder hold."""

import sys
import tarfile
import zipfile
from pathlib import Path

IN_BOTH = [
    "fastloss/py.typed", "fastloss/_core.pyi", "fastloss/losses.pyi", "fastloss/_demo.py",
    "fastloss/_reference.npz",
]  # fmt: skip
IN_ARCHIVE = ["csrc/losses/list.h", "tests/", "CMakeLists.txt", "Makefile", ".ci/run"]
IN_WHEEL = ["fastloss/_core.", ".dist-info/licenses/LICENSE"]
NOT_IN_ARCHIVE = ["build/", ".so", ".pyc"]
NOT_IN_WHEEL = ["csrc/", "tests/", ".pyc", "CMake"]


def complaints(name: str, files: list[str], wanted: list[str], unwanted: list[str]) -> list[str]:
    """What is missing from, and what does not belong into, the distribution called ``name``."""
    missing = [w for w in wanted if not any(w in f for f in files)]
    surplus = [f for f in files if any(u in f for u in unwanted)]
    return [f"{name}: no {w}" for w in missing] + [f"{name}: holds {f}" for f in surplus]


def main(folder: Path) -> int:
    """Print what is wrong; returns the exit status."""
    (wheel,) = folder.glob("*.whl")
    (archive,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as z:
        found = complaints(wheel.name, z.namelist(), IN_BOTH + IN_WHEEL, NOT_IN_WHEEL)
    with tarfile.open(archive) as t:
        found += complaints(archive.name, t.getnames(), IN_BOTH + IN_ARCHIVE, NOT_IN_ARCHIVE)
    print("\n".join(found) or f"{wheel.name} and {archive.name} hold what they should")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
