"""The notebooks run from their first cell to their last; their own assertions hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def cells(notebook: Path) -> list[str]:
    found = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


@pytest.mark.notebooks
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    if "skimage" in notebook.read_text():
        pytest.importorskip("skimage")
    # The last expression of a cell is what a notebook shows; a program drops it.
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(cells(notebook))],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_without_outputs(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert cell["cell_type"] in ("markdown", "code")


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"digits", "imbalance", "outliers", "segmentation"}
