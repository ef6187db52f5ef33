"""Writes ``python/fastloss/losses.pyi`` from the registry; ``--check`` tells whether it is current.

Type checkers and editors read that file, because ``losses.py`` makes its names at import time.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from fastloss._parameters import Parameter
from fastloss._registry import REGISTRY, LossSpec

STUBS = Path(__file__).parent.parent / "python" / "fastloss" / "losses.pyi"

HEADER = """\
# Written by tools/make_stubs.py from the registry: `make stubs`.
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from numpy.typing import ArrayLike

from fastloss._algebra import Combination as Combination
from fastloss._algebra import Sliced as Sliced
from fastloss._algebra import sliced as sliced
from fastloss._build import Loss as Loss

_Reduction: TypeAlias = (
    Literal["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none"] | None
)
_DType: TypeAlias = Literal["float32", "float64"] | None
_Weight: TypeAlias = Callable[[Any], Any] | ArrayLike | None

__all__ = [  # noqa: RUF022 - in the order of the registry
{names}
]

def get(identifier: str | dict[str, Any] | Loss | type[Loss]) -> Loss: ...
"""


def _signature(name: str, arguments: list[str], returns: str, indent: str) -> str:
    lines = "".join(f"{indent}    {argument},\n" for argument in arguments)
    return f"{indent}def {name}(\n{lines}{indent}) -> {returns}: ...\n"


def _options(parameters: tuple[Parameter, ...]) -> list[str]:
    return [f"{p.name}: {p.annotation} = {p.default!r}" for p in parameters]


def function_stub(spec: LossSpec) -> str:
    """The function of a loss."""
    arrays = [f"{a.name}: ArrayLike | None = None" for a in spec.arrays]
    true = "y_true: ArrayLike" if spec.uses_target else "y_true: ArrayLike | None"
    arguments = [true, "y_pred: ArrayLike", *arrays, *_options(spec.parameters)]
    if spec.labels == "integer":
        arguments += ["*", "check: bool = False"]
    return _signature(spec.name, arguments, "Any", "")


def class_stub(spec: LossSpec) -> str:
    """The class of a loss."""
    attributes = "".join(f"    {p.name}: {p.annotation}\n" for p in spec.class_parameters)
    arguments = [
        "self",
        *_options(spec.class_parameters),
        'reduction: _Reduction = "sum_over_batch_size"',
        f'name: str | None = "{spec.object_name}"',
        "dtype: _DType = None",
        "weight: _Weight = None",
    ]
    constructor = _signature("__init__", arguments, "None", "    ")
    return f"class {spec.class_name}(Loss):\n{attributes}{constructor}"


def stubs() -> str:
    """The whole file, formatted."""
    names = [
        "Combination",
        "Loss",
        "Sliced",
        "get",
        "sliced",
        *(n for s in REGISTRY for n in (s.name, s.class_name)),
    ]
    header = HEADER.format(names="\n".join(f'    "{name}",' for name in names))
    text = "\n".join([header, *(f(s) for s in REGISTRY for f in (function_stub, class_stub))])
    formatter = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(STUBS), "-"]
    return subprocess.run(formatter, input=text, text=True, check=True, capture_output=True).stdout


def main() -> int:
    """Write the file, or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    text = stubs()
    if not parser.parse_args().check:
        STUBS.write_text(text)
    elif not STUBS.exists() or STUBS.read_text() != text:
        print(f"{STUBS.name} is out of date: run `make stubs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
