"""Builds the wheel twice, in two places, and compares; says what paths of the builder it carries.

With ``--once`` it only looks for paths, in the wheels of the folder that is given.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What a path on the machine of the builder starts with. Libraries may name their own in /usr.
BUILT_IN = re.compile(rb"/(?:home|root|tmp|work|build|builds|opt|Users)/[\w./+-]+")


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
    folder.mkdir(exist_ok=True)
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


def paths_in(wheel: Path) -> list[str]:
    """What in the files of a wheel looks like a path of who built it."""
    found = []
    with zipfile.ZipFile(wheel) as z:
        for name in z.namelist():
            if name.endswith((".so", ".py", ".pyi")) or "dist-info" in name:
                found += [f"{name}: {p.decode()}" for p in set(BUILT_IN.findall(z.read(name)))]
    return found


def main() -> int:
    """Print what differs; returns the exit status."""
    if sys.argv[1:2] == ["--once"]:
        complaints = [line for w in Path(sys.argv[2]).glob("*.whl") for line in paths_in(w)]
        print("\n".join(complaints) or "no paths of the builder in the wheel")
        return int(bool(complaints))
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        # Two folders of different depth, so that a path would show in what is built.
        wheels = [build(Path(first)), build(Path(second) / "deeper")]
        hashes = [members(w) for w in wheels]
        differing = [
            n for n in sorted(hashes[0] | hashes[1]) if hashes[0].get(n) != hashes[1].get(n)
        ]
        complaints = [f"{n}: differs between two builds" for n in differing] + paths_in(wheels[0])
        same = wheels[0].read_bytes() == wheels[1].read_bytes()
        print(
            "\n".join(complaints)
            or f"{wheels[0].name}: {'the same bits' if same else 'the same files'}"
        )
        return int(bool(complaints) or not same)


if __name__ == "__main__":
    sys.exit(main())
