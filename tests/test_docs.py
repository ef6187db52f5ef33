"""What is generated is what the registry and the oracle give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.mark.parametrize("tool", ["make_docs.py", "make_reference.py"])
def test_generated_file_is_up_to_date(tool: str) -> None:
    command = [sys.executable, str(TOOLS / tool), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
