"""Teams become smaller for a while where a core is busy; what they learn, not how long it takes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_teams_that_wait_become_smaller_for_a_while(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if not compiler or "san.so" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("needs g++, and no sanitizer")
    sources = [Path(__file__).with_name("crowded.cpp"), ROOT / "csrc" / "cpu" / "parallel.cpp"]
    program = tmp_path / "crowded"
    flags = ["-std=c++17", "-O1", "-fopenmp", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *flags, *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
