"""Teams of threads: what they learn from a busy core, not how long it takes, and many at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
SOURCES = [ROOT / "csrc" / "cpu" / name for name in ("parallel.cpp", "team.cpp")]


@pytest.mark.parametrize("name", ["crowded", "team"])
def test_nothing_of_teams_is_not_so(name: str, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if not compiler or "san.so" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("needs g++, and no sanitizer")
    program = tmp_path / name
    flags = ["-std=c++17", "-O1", "-fopenmp", f"-I{ROOT / 'csrc'}"]
    command = [compiler, *flags, HERE / f"{name}.cpp", *SOURCES, "-o", program]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")
