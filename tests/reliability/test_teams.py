"""Teams of threads: what they learn from a busy core, not how long it takes, and many at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


def compilation(compiler: str, program: Path, *flags: str) -> list[str]:
    """The command for the program whose source has its name, with the sources of teams."""
    sources = [HERE / f"{program.name}.cpp"]
    sources += [ROOT / "csrc" / "cpu" / name for name in ("parallel.cpp", "team.cpp")]
    always = ["-std=c++17", "-fopenmp", f"-I{ROOT / 'csrc'}", "-o", str(program)]
    return [compiler, *flags, *always, *map(str, sources)]


@pytest.mark.parametrize("name", ["crowded", "team"])
def test_nothing_of_teams_is_not_so(name: str, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if not compiler or "san.so" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("needs g++, and no sanitizer")
    program = tmp_path / name
    subprocess.run(compilation(compiler, program, "-O1"), check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")
