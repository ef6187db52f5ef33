"""Builds the wheel twice, in two places, and says what differs."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from check_distributions import paths_of_builder

ROOT = Path(__file__).parents[1]


def members(wheel: Path) -> dict[str, str]:
    """The hash of every file in a wheel."""
    with zipfile.ZipFile(wheel) as z:
        return {name: hashlib.sha256(z.read(name)).hexdigest() for name in z.namelist()}


def build(folder: Path) -> Path:
    """The wheel of a copy of the sources in a folder."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    source = folder / "source"
    for name in filter(None, names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-qq", "--no-deps",
         "--no-build-isolation", "-w", str(folder), str(source)],
        env=environment, check=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


def main() -> int:
    """Print what differs; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        # Of different lengths, so that a path would show in what is built.
        wheels = [build(Path(folder) / name) for name in ("first", "the/second")]
        hashes = [members(w) for w in wheels]
        names = sorted(hashes[0] | hashes[1])
        differing = [n for n in names if hashes[0].get(n) != hashes[1].get(n)]
        complaints = [f"{n}: differs between two builds" for n in differing]
        if not complaints and wheels[0].read_bytes() != wheels[1].read_bytes():
            complaints = ["the same files are packed differently"]
        complaints += paths_of_builder(wheels[0])
        print("\n".join(complaints) or f"{wheels[0].name}: the same bits from two builds")
        return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
