"""What is generated is what the registry and the oracle give, and the examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / "tools"
CUSTOM_LOSSES = (ROOT / "docs" / "custom_losses.md").read_text()
EXAMPLES = re.findall(
    r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", CUSTOM_LOSSES, re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize("tool", ["make_docs.py", "make_reference.py"])
def test_generated_file_is_up_to_date(tool: str) -> None:
    command = [sys.executable, str(TOOLS / tool), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_example_of_a_custom_loss_runs_by_itself(title: str, code: str) -> None:
    for framework in ("tensorflow", "keras"):
        if framework in code:
            pytest.importorskip(framework)
    exec(compile(code, f"custom_losses.md: {title}", "exec"), {})


def test_every_section_has_an_example() -> None:
    assert len(EXAMPLES) == len(re.findall(r"^## ", CUSTOM_LOSSES, re.MULTILINE)) >= 11
