"""Writes the accuracy tables: ``python tests/accuracy/table.py --write docs/accuracy.md``.

Without ``--write`` they are printed. Needs Keras with TensorFlow, PyTorch, JAX and a C++ compiler;
a peer that is not installed has an empty column.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import platform
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import batched
import elementary
from exact import LONG_ROW
from measure import HALF, Row, measure, shape_of
from peers import PEERS
from sweeps import CANCELS, CASES, EXCEPTIONS, MAP_LIMIT, MAPS, ROW_LIMIT, SOFT_TARGETS, Case

LENGTHS = (2, 3, 10, 1000, 32000, 262144)
DTYPES = ("float32", "float64", *HALF)
PACKAGES = ("numpy", "mpmath", "keras", "tensorflow-cpu", "tensorflow", "torch", "jax", "jaxlib")

INTRODUCTION = """\
# Accuracy

Worst errors over wide sweeps, in units in the last place (ULP): the distance between neighbouring
numbers of the dtype at the exact result. A correctly rounded result is off by at most 0.5. The
exact results are the definitions of `tests/oracle.py`, evaluated with 120 digits for float32 and
360 for float64, with gradients by reverse differentiation of the same definitions. Rows of more
than {long} entries are evaluated in extended precision (64-bit mantissas), with a few entries of
their gradients by the complex step. Their marked gradients (*) are not measured, nor long rows in
half types or of soft targets, nor those of dice, iou and tversky in float64, which cancel beyond
it.

On x86-64 numbers below the smallest normal one, 1.2e-38 in float32, become zero while a result is
computed, as in TensorFlow. So a unit is never smaller than that number there.

The sweeps reach from 1e-30 to 1e30 for errors, from the smallest normal number to 1 for
probabilities (with 0, 1 and their neighbours), and to +-10000 for logits; rows have {lengths}
entries.
Losses of single elements are measured element by element; the mean over a row is one correctly
rounded sum more.

## Rules

`tests/accuracy/test_accuracy.py` asserts them on a part of the sweeps:

- {map:g} ULP for the value and both gradients of the losses of single elements,
- {row:g} ULP for the losses of rows and regions, whose sums are judged against exact sums,
- {half} ULP for gradients in float16 and bfloat16, which are computed in float32 and rounded once
  (their values are float32),
- and never more than 2 ULP worse than the best of Keras, PyTorch and JAX.

Marked results (*) are ill-conditioned functions of the inputs somewhere in the sweep: one rounding
of an input moves them by more than their own size, so that no implementation can do it. They are
judged in units of the terms they are the difference of:

{cancels}

Results marked (**) are exceptions:

{exceptions}

Circle loss and CTC stand apart, with exceptions of their own: see "Losses of batches".

Peers are measured on the same inputs, against the same definition, where they have the loss: Keras
on TensorFlow, PyTorch's own function where its definition is the same, and JAX expressions as
users write them. `NaN` stands for NaN, or infinity where the result is a number. Their numbers of
1e6 and above are mostly results that cancel to zero.

"""

HALF_LIMIT = 1.0


def number(x: float | None) -> str:
    if x is None or x == float("inf"):
        return "" if x is None else "NaN"
    if x < 1e4:
        return f"{x:.2f}" if x < 100 else f"{x:.0f}"
    return f"{x:.0e}".replace("e+0", "e").replace("e+", "e")


def bullets(texts: dict[Any, str]) -> str:
    return "\n".join(f"- {text}." for text in texts.values())


def mark(case: Case, result: str) -> str:
    if (case.title, result) in EXCEPTIONS:
        return " **"
    return " *" if result in case.cancels else ""


def worst_of(rows: list[Row]) -> tuple[dict[str, float], Row]:
    """Over all lengths: each one's worst, and the row of ours."""
    names = {who for row in rows for who in row.worst}
    worst = {who: max(row.worst.get(who, 0.0) for row in rows) for who in names}
    return worst, max(rows, key=lambda row: row.worst["fastloss"])


def dtype_table(dtype: str, samples: int) -> str:
    columns = ["fastloss"] if dtype in HALF else ["fastloss", *PEERS]
    head = ["loss", "result", *columns, "length", "worst case of fastloss"]
    lines = [f"## {dtype}\n", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for case in CASES:
        found: dict[str, list[Row]] = defaultdict(list)
        long_rows = dtype not in HALF and case.note != SOFT_TARGETS
        lengths = [n for n in LENGTHS if n <= LONG_ROW or long_rows]
        for length in [1] if case in MAPS else lengths:
            for row in measure(case, dtype, shape_of(case, length, samples)):
                found[row.result].append(row)
        for result, rows in found.items():
            worst, ours = worst_of(rows)
            cells = [case.title, f"{result}{mark(case, result)}".replace("*", "\\*")]
            cells += [number(worst.get(who)) for who in columns]
            length = "" if ours.columns == 1 else str(ours.columns)
            lines.append(f"| {' | '.join([*cells, length, ours.where])} |")
        print(f"{dtype} {case.title}", file=sys.stderr)
    return "\n".join(lines) + "\n"


BATCHES = """\
## Losses of batches

The values in units of their own size, the slopes in units of the largest of the sample, which
they are sums over pairs or alignments of. The rules are those of rows: {limit:g} ULP, and 2 more
than the best peer. The exceptions are marked (**). {why}

"""


def batches_table() -> str:
    head = ["loss", "dtype", "result", "fastloss", *PEERS]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for dtype in ("float32", "float64"):
        for batch in batched.batches(dtype):
            for result, worst in batched.measure(batch, dtype, set(PEERS)).items():
                excepted = (batch.title, result, dtype) in batched.EXCEPTIONS
                cells = [batch.title, dtype, result + " \\*\\*" * excepted]
                cells += [number(worst.get(who)) for who in ("fastloss", *PEERS)]
                lines.append(f"| {' | '.join(cells)} |")
    text = BATCHES.format(limit=batched.LIMIT, why=batched.WHY)
    return text + "\n".join(lines) + "\n"


def elementary_table(samples: int) -> str:
    levels = elementary.instruction_sets()
    columns = [(dtype, level) for dtype in elementary.DTYPES for level in levels]
    head = ["function", "range", *(f"{dtype} {level}" for dtype, level in columns)]
    lines = [
        "## Elementary functions\n",
        "Of `csrc/core/math.h`, which every loss is computed with; max ULP per instruction set.\n",
        f"| {' | '.join(head)} |",
        "|" + " --- |" * len(head),
    ]
    with tempfile.TemporaryDirectory() as folder:
        programs = {level: elementary.compile_for(level, Path(folder)) for level in levels}
        for function in elementary.FUNCTIONS:
            worst = {}
            for dtype in elementary.DTYPES:
                worst[dtype] = elementary.measure(function, dtype, programs, samples)
            cells = [f"{worst[dtype][level]:.2f}" for dtype, level in columns]
            lines.append(f"| {' | '.join([function.name, function.range, *cells])} |")
    return "\n".join(lines) + "\n"


def versions() -> str:
    installed = {d.name: d.version for d in importlib.metadata.distributions()}
    found = [f"{package} {installed[package]}" for package in PACKAGES if package in installed]
    return ", ".join([f"Python {platform.python_version()}", *found])


def page(samples: int) -> str:
    """The whole page as Markdown."""
    start = time.perf_counter()
    from fastloss import _core

    with ProcessPoolExecutor(len(DTYPES), multiprocessing.get_context("spawn")) as pool:
        tables = list(pool.map(dtype_table, DTYPES, [samples] * len(DTYPES)))
    tables += [batches_table(), elementary_table(4 * samples)]
    introduction = INTRODUCTION.format(
        long=LONG_ROW, lengths=", ".join(map(str, LENGTHS)),
        map=MAP_LIMIT, row=ROW_LIMIT, half=HALF_LIMIT,
        cancels=bullets(CANCELS),
        exceptions=bullets({k: f"`{k[0]}`, {k[1]}: {why}" for k, why in EXCEPTIONS.items()}),
    )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    end = (
        "## How this page is made\n\n"
        "    python tests/accuracy/table.py --write docs/accuracy.md\n\n"
        f"took {minutes:.0f} minutes with {versions()}; fastloss used {_core.instruction_set()}, "
        f"and {samples} elements of each loss.\n"
    )
    return introduction + "\n".join([*tables, end])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--samples", type=int, default=4000, help="elements of each map loss")
    options = parser.parse_args()
    text = page(options.samples)
    if options.write:
        options.write.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
