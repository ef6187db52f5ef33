"""The README: its Python runs, and its table lists the registry."""

import re
from pathlib import Path
from typing import Any

import pytest

from fastloss._registry import REGISTRY

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = list(re.finditer(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_block_runs_by_itself(block: re.Match[str]) -> None:
    for framework in ("tensorflow", "keras"):
        if framework in block[1]:
            pytest.importorskip(framework)
    lines_before = "\n" * README.count("\n", 0, block.start(1))  # for tracebacks
    exec(compile(lines_before + block[1], "README.md", "exec"), {})


def test_there_are_blocks_to_run() -> None:
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("spec", REGISTRY, ids=lambda spec: spec.name)
def test_table_lists_the_loss_and_its_options(spec: Any) -> None:
    options = ", ".join(f"`{p.name}={p.default!r}`" for p in spec.parameters) or "-"
    assert f"\n| `{spec.class_name}` | `{spec.name}` | {options} |\n" in README


def test_table_lists_nothing_else() -> None:
    assert len(re.findall(r"^\| `[A-Z]\w+` \| `\w+` \|", README, re.MULTILINE)) == len(REGISTRY)
