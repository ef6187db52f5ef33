"""Writes ``docs/errors.md`` from the messages that the tests provoke; ``--check`` compares.

    python tools/make_errors.py [--check]

Runs the tests that expect errors, and keeps what their ``pytest.raises`` caught from fastloss: one
example of each message, whatever numbers and names are in it. Takes half a minute of one core, and
as much of another to compile the emulation of a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import re
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fastloss
from fastloss._registry import REGISTRY

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
PACKAGE = str(Path(fastloss.__file__).parent)

HEADER = """\
# Error messages

Written by `tools/make_errors.py` from the messages that the tests provoke. Most start with the name
of the argument, then say what was expected and what came. Those of something that cannot be done,
or is not installed, say what to do instead. They are raised before anything is computed or written.
Numbers and names in the examples are those of the tests."""

# Of each section: heading, what is to be said, the tests. A message is listed once, in the first.
SECTIONS = [
    (
        "With arrays of every kind",
        "From NumPy's arrays, and from the others wherever they share the checks.",
        [
            "test_errors.py", "test_labels.py", "test_out.py", "test_circle.py", "test_ctc.py",
            "test_objects.py", "test_reductions.py", "test_threads.py", "test_plot.py",
            "test_sums.py", "test_sliced.py", "test_own_weights.py", "test_plain_calls.py",
            "test_installation.py",
        ],
    ),
    (
        "In TensorFlow and Keras",
        "What the shapes and dtypes of tensors tell is a `ValueError` or a `TypeError`, in a graph "
        "where it is traced. What their elements tell, and what only a running graph knows, is "
        "TensorFlow's `InvalidArgumentError`, which puts the place in the graph around the text.",
        [
            "test_keras.py", "test_keras_exact.py", "test_keras_monitor.py", "test_tensorflow.py",
            "test_tensorflow_modes.py", "test_tensorflow_robust.py",
            "test_tensorflow_second_order.py", "test_tensorflow_sums.py",
            "test_tensorflow_value_and_grad.py",
        ],
    ),
    (
        "With arrays on a GPU",
        "Beside these, what CUDA itself reports is a `RuntimeError` that begins with `CUDA: `.",
        ["test_cuda.py", "test_cuda_arrays.py", "test_tensorflow_gpu.py"],
    ),
]  # fmt: skip
# Provoke nothing that others do not, at length.
SKIPPED = "test_second_derivatives_agree_with_keras_or_are_refused"
ARGUMENT = r"[\w.]+(\[[\d, ]+\])?: "


class Recorder:
    """Keeps the exceptions that tests expect, by the file of the test."""

    def __init__(self) -> None:
        self.caught: list[tuple[str, BaseException]] = []
        self.file = ""
        self.raises = pytest.raises

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, name: str, obj: object) -> list[pytest.Item] | None:
        """Only tests that expect an error, found by their source."""
        if not inspect.isfunction(obj) or not name.startswith("test_"):
            return None
        expects = re.search("raises|rejects", inspect.getsource(obj))
        return None if expects and name != SKIPPED else []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Nothing on a card, which not every machine has."""
        items[:] = [item for item in items if item.get_closest_marker("gpu") is None]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note the file."""
        self.file = item.path.name

    @contextlib.contextmanager
    def record(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """What takes the place of ``pytest.raises``."""
        with self.raises(*args, **kwargs) as info:
            yield info
        self.caught.append((self.file, info.value))


def own_text(error: BaseException) -> str | None:
    """What fastloss says in it; None if the error is somebody else's."""
    message = str(error)
    if type(error).__name__ == "InvalidArgumentError":  # of an op, whose text has others around it
        found = re.findall(rf"(?:^|\n|}}}} )({ARGUMENT}.*?)(?: \[Op:|\n|$)", message)
        return next((whole for whole, _ in found if whole.startswith("y_")), None)
    if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE):
        return None
    # Where TensorFlow traces a function, it puts the stack before the text.
    return message.rpartition(f" {type(error).__name__}: ")[2].strip()


def kind_of(error: BaseException) -> str:
    """The name that a user would catch."""
    if type(error).__name__ == "InvalidArgumentError":
        return "InvalidArgumentError"
    return next(c.__name__ for c in type(error).__mro__ if c.__module__ == "builtins")


def template(message: str) -> str:
    """A message without what differs from call to call."""
    message = re.sub(rf"\b({'|'.join(spec.name for spec in REGISTRY)})\b", "loss", message)
    message = re.sub(r"^\w+: not an option", "...: not an option", message)
    message = re.sub(r"a call of \w+: [^;]*", "a call of ...", message)
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", message)
    message = re.sub(r"[\[(][^()\[\]]*[\])]", "(...)", message)
    message = re.sub(r"(options|parameters) are: .*", r"\1 are: ...", message)
    message = re.sub(r"\b(not an? (option|parameter) of) \w+", r"\1 ...", message)
    message = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?|\binf\b|\bnan\b", "N", message)
    message = re.sub(r"got .*", "got ...", message)
    return re.sub(r"\s+", " ", message)


def provoked() -> list[tuple[str, BaseException]]:
    """(file of the test, exception) of each that a test expected."""
    sys.path.insert(0, str(ROOT / "tests"))
    import device

    recorder, said = Recorder(), io.StringIO()
    files = [str(ROOT / "tests" / name) for _, _, names in SECTIONS for name in names]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        emulation = pool.submit(device.build_emulation, Path(folder), ["-O0"])
        device.build_emulation = lambda *_: emulation.result()
        pytest.raises = recorder.record  # type: ignore[assignment]
        try:
            with contextlib.redirect_stdout(said):
                status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *files], [recorder])
        finally:
            pytest.raises = recorder.raises
    if status != 0:
        raise SystemExit(said.getvalue())
    return recorder.caught


def collect() -> list[list[tuple[str, str]]]:
    """(type, example) of each message, a list for each section."""
    examples: list[dict[tuple[str, str], str]] = [{} for _ in SECTIONS]
    section_of = {name: n for n, (_, _, names) in enumerate(SECTIONS) for name in names}
    for file, error in provoked():
        kind, message = kind_of(error), own_text(error)
        if message is None:
            continue
        named = re.match(f"{ARGUMENT}|arrays on a GPU: ", message)
        if kind in ("TypeError", "ValueError") and not named:
            raise SystemExit(f"a message that does not begin with an argument: {message}")
        key = kind, template(message)
        kept = examples[section_of[file]]
        if key not in kept or (len(message), message) < (len(kept[key]), kept[key]):
            kept[key] = message
    listed: set[tuple[str, str]] = set()
    for kept in examples:
        for key in listed & kept.keys():
            del kept[key]
        listed |= kept.keys()
    return [
        sorted(((kind, text) for (kind, _), text in kept.items()), key=lambda x: x[::-1])
        for kept in examples
    ]


def page() -> str:
    """The tables, by argument."""
    parts = [HEADER]
    for (heading, text, _), messages in zip(SECTIONS, collect(), strict=True):
        rows = []
        for kind, message in messages:
            shown = re.sub(r"\s+", " ", message).replace("|", "\\|").replace("<", "&lt;")
            argument = re.match(ARGUMENT, message)
            named = f"`{argument[0][:-2]}`" if argument and argument[0] != "fastloss: " else "-"
            rows.append(f"| {named} | {kind} | {shown} |")
        table = ["| argument | error | for example |", "| --- | --- | --- |", *rows]
        # The class is the style sheet's, which narrow screens need.
        parts += [
            f"\n## {heading}\n",
            textwrap.fill(text, 100),
            '\n<div class="messages" markdown>\n',
        ]
        parts += [*table, "\n</div>"]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Write the page, or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    check = parser.parse_args().check
    began = time.monotonic()
    text = page()
    print(f"{text.count('Error |')} messages, in {time.monotonic() - began:.0f} s")
    if not check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        print(f"{PAGE.name} is out of date: run tools/make_errors.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
