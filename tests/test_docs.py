"""The generated pages are those that the registry gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parent.parent / "tools"


def test_page_of_losses_is_up_to_date() -> None:
    command = [sys.executable, str(TOOLS / "make_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
