"""The README: its Python runs, and its table lists the registry."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastloss._registry import REGISTRY

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = list(re.finditer(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_block_runs_by_itself(block: re.Match[str], monkeypatch: Any) -> None:
    for framework in ("tensorflow", "keras", "sklearn"):
        if framework in block[1]:
            pytest.importorskip(framework)
    monkeypatch.setitem(sys.modules, "cupy", np)  # so the same loop runs without a GPU
    run(block)


@pytest.mark.gpu
def test_cupy_block_runs_on_a_card() -> None:
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    names = run(next(block for block in BLOCKS if "import cupy" in block[1]))
    assert isinstance(names["grad"], cupy.ndarray)


def run(block: re.Match[str]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    lines_before = "\n" * README.count("\n", 0, block.start(1))  # for tracebacks
    exec(compile(lines_before + block[1], "README.md", "exec"), names)
    return names


def test_there_are_blocks_to_run() -> None:
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("spec", REGISTRY, ids=lambda spec: spec.name)
def test_table_lists_the_loss_and_its_options(spec: Any) -> None:
    options = ", ".join(f"`{p.name}={p.default!r}`" for p in spec.parameters) or "-"
    assert f"\n| `{spec.class_name}` | `{spec.name}` | {options} |\n" in README


def test_table_lists_nothing_else() -> None:
    assert len(re.findall(r"^\| `[A-Z]\w+` \| `\w+` \|", README, re.MULTILINE)) == len(REGISTRY)
