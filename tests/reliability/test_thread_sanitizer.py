"""What the thread sanitizer sees of teams: nothing, unless bodies of a loop race."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest

from test_teams import compilation


@pytest.fixture(scope="module", params=["race", "team"])
def program(request: Any, tmp_path_factory: Any) -> list[str]:
    compiler, setarch = shutil.which("g++"), shutil.which("setarch")
    if not compiler or not setarch or "san.so" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("needs g++ and setarch, and no other sanitizer")
    binary = tmp_path_factory.mktemp(request.param) / request.param
    command = compilation(compiler, binary, "-O2", "-fsanitize=thread")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("g++ has no thread sanitizer")
    return [setarch, "--addr-no-randomize", str(binary)]


def run(program: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSAN_OPTIONS": "exitcode=66"}
    return subprocess.run(
        program, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_threads_of_a_loop_are_no_race(program: list[str]) -> None:
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("10000000 0\n" if program[-1].endswith("race") else "")


@pytest.mark.parametrize("program", ["race"], indirect=True)
def test_race_between_bodies_is_seen(program: list[str]) -> None:
    done = run([*program, "race"])
    assert "data race" in done.stderr
    assert done.returncode == 66
