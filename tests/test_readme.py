"""The README and the documentation: their Python runs, and a table lists the registry."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastloss._registry import REGISTRY

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
BLOCKS = [
    (page, match)
    for page in PAGES
    for match in re.finditer(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(
    ("page", "block"), BLOCKS, ids=[f"{page.stem}-{i}" for i, (page, _) in enumerate(BLOCKS)]
)
def test_python_block_runs_by_itself(
    page: Path, block: re.Match[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for package in ("tensorflow", "keras", "sklearn", "matplotlib"):
        if package in block[1] or (package == "matplotlib" and "fastloss.plot" in block[1]):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)  # where a block may write
    monkeypatch.setitem(sys.modules, "cupy", np)  # so the same loop runs without a GPU
    run(page, block)


@pytest.mark.gpu
def test_cupy_block_runs_on_a_card() -> None:
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    names = run(*next(b for b in BLOCKS if b[0].name == "README.md" and "import cupy" in b[1][1]))
    assert isinstance(names["grad"], cupy.ndarray)


def run(page: Path, block: re.Match[str]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    lines_before = "\n" * block.string.count("\n", 0, block.start(1))  # for tracebacks
    exec(compile(lines_before + block[1], page.name, "exec"), names)
    return names


def test_there_are_blocks_to_run() -> None:
    assert {page.name for page, _ in BLOCKS} >= {"README.md", "quickstart.md", "tools.md"}
    assert sum(page.name == "README.md" for page, _ in BLOCKS) >= 4


@pytest.mark.parametrize("spec", REGISTRY, ids=lambda spec: spec.name)
def test_table_lists_the_loss_and_its_options(spec: Any) -> None:
    options = ", ".join(f"`{p.name}={p.default!r}`" for p in spec.parameters) or "-"
    assert f"\n| `{spec.class_name}` | `{spec.name}` | {options} |\n" in README


def test_table_lists_nothing_else() -> None:
    assert len(re.findall(r"^\| `[A-Z]\w+` \| `\w+` \|", README, re.MULTILINE)) == len(REGISTRY)


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", README):
        assert (ROOT / target).exists(), target
