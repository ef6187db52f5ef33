"""Writes ``docs/errors.md`` from the messages that the tests provoke; ``--check`` compares.

    python tools/make_errors.py [--check]

Runs the tests that expect errors, and keeps what their ``pytest.raises`` caught: one example of
each message, whatever numbers and names are in it.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastloss._registry import REGISTRY

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
TESTS = [
    "test_errors.py", "test_labels.py", "test_out.py", "test_circle.py", "test_ctc.py",
    "test_objects.py", "test_reductions.py", "test_threads.py", "test_plot.py",
]  # fmt: skip

HEADER = """\
# Error messages

Written by `tools/make_errors.py` from the messages that the tests provoke. An error starts with the
name of the argument, then says what was expected and what came. It is raised before anything is
computed or written. Numbers and names in the examples are those of the tests.

"""


class Recorder:
    """Keeps the exceptions that tests expect."""

    def __init__(self) -> None:
        self.caught: list[BaseException] = []
        self.raises = pytest.raises

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Only tests that expect an error, found by their source."""
        items[:] = [i for i in items if re.search("raises|rejects", inspect.getsource(i.function))]  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def record(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """What takes the place of ``pytest.raises``."""
        with self.raises(*args, **kwargs) as info:
            yield info
        self.caught.append(info.value)


def template(message: str) -> str:
    """A message without what differs from call to call."""
    message = re.sub(rf"^({'|'.join(spec.name for spec in REGISTRY)}):", "loss:", message)
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", message)
    message = re.sub(r"[\[(][^()\[\]]*[\])]", "(...)", message)
    message = re.sub(r"(options|parameters) are: .*", r"\1 are: ...", message)
    message = re.sub(r"\b(not an? (option|parameter) of) \w+", r"\1 ...", message)
    message = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?|\binf\b|\bnan\b", "N", message)
    message = re.sub(r"got .*", "got ...", message)
    return re.sub(r"\s+", " ", message)


def collect() -> list[tuple[str, str]]:
    """(type, example) of each message."""
    recorder = Recorder()
    pytest.raises = recorder.record  # type: ignore[assignment]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            files = [str(ROOT / "tests" / name) for name in TESTS]
            status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *files], [recorder])
    finally:
        pytest.raises = recorder.raises
    if status != 0:
        raise SystemExit(said.getvalue())
    examples: dict[tuple[str, str], str] = {}
    for error in recorder.caught:
        message = str(error)
        if not re.match(r"[\w.]+(\[[\d, ]+\])?: ", message):
            raise SystemExit(f"a message that does not begin with an argument: {message}")
        kind = next(c.__name__ for c in type(error).__mro__ if c.__module__ == "builtins")
        key = (kind, template(message))
        if key not in examples or (len(message), message) < (len(examples[key]), examples[key]):
            examples[key] = message
    return sorted(((kind, text) for (kind, _), text in examples.items()), key=lambda x: x[::-1])


def page() -> str:
    """The table, by argument."""
    rows = []
    for kind, message in collect():
        shown = re.sub(r"\s+", " ", message).replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{message.partition(':')[0]}` | {kind} | {shown} |")
    return (
        HEADER
        + "\n".join(["| argument | error | for example |", "| --- | --- | --- |", *rows])
        + "\n"
    )


def main() -> int:
    """Write the page, or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    text = page() if not parser.parse_args().check else None
    if text is not None:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != page():
        print(f"{PAGE.name} is out of date: run tools/make_errors.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
