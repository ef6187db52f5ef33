"""What comes out: tables on the terminal, results.json, RESULTS.md and charts."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import fastloss.cuda
import floor
from fastloss import _core
from goals import Outcome, outcomes
from sides import FLOOR
from summaries import Line, lines_of

Cells = Sequence[str]
Rows = Sequence[Cells]

METHOD = """\
Every side gets the same float32 inputs and computes the same value and gradient: before it is
timed, it is checked against fastloss in double precision. Then the sides are called in turns of
random order, each on the next of several sets of inputs, so that nobody finds in the cache what
another left there. Each turn begins with calls that do not count, for 10 ms, which wake the side's
own threads while those of the side before stop spinning. Calls shorter than a millisecond are
repeated for that long. Times are medians, with the quartiles of the rounds.

The floor is what it takes to move the bytes and do nothing else: read y_true (unless it holds
labels) and y_pred, write the gradient. It is the fastest of three kernels: one thread, all threads,
and stores that go past the cache. More than 100 % of the floor means that fewer bytes are needed:
GCE reads one entry of each row.

"In cache" is the percentage of the floor's speed at which fastloss computes, were it to wait for no
memory: one thread, again and again on as many rows as fit the L2 cache, times the threads. Where it
is no more than a goal asks for, only fewer instructions would reach it.

JAX writes its gradient where the last one was; fastloss on NumPy arrays is measured with a given
array (`out=`) and without, and the faster counts. The others allocate, from memory that the process
keeps. PyTorch compile is one graph of value and gradient
(`torch.func.grad_and_value`), which is faster than to compile the loss alone; PyTorch eager is
`backward()`."""

CUDA_METHOD = """\
Every side gets the same inputs on the card, and computes the same value and gradient: before it is
timed, it is checked against fastloss in double precision. Inputs are rows that were drawn on the
host and repeated. The sides are called in turns of random order, each on the next of several sets
of inputs, which together are four times the L2 cache; before each sample, other memory is written
that is twice the cache. Times are those between two events of the device, divided by the calls
between them, which together take at least a millisecond: a call that takes the device less time
than Python to enqueue shows the latter, except in the mode "graph", where a CUDA graph replays it.
JAX works on a stream of its own: it is timed by the clock, until its result is there. Times are
medians, with the quartiles of the rounds. "Warm" is the same without new sets or writing.

The floor is a copy on the card that reads and writes, together, as many bytes as have to be moved.
More than 100 % of it is possible where more is read than written.

PyTorch compile is one graph of value and gradient; Liger-Kernel writes its gradient over its input;
CuPy expressions are what users write, with a gradient that they have derived."""


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().splitlines()[0].strip()
    except OSError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def surroundings(device: str) -> dict[str, Any]:
    """The machine, the versions and the date."""
    caches = []
    for index in range(4):
        folder = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
        level, kind = _first_line(f"{folder}/level"), _first_line(f"{folder}/type")
        if level and kind != "Instruction":
            caches.append(f"L{level} {_first_line(f'{folder}/size')}")
    compiler = floor.compiler()
    version = ""
    if compiler:
        command = [compiler, "--version"]
        version = subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]
    packages = (
        "fastloss", "numpy", "tensorflow-cpu", "tensorflow", "keras", "torch", "jax",
        "cupy-cuda12x", "cupy-cuda13x", "cupy", "liger_kernel",
    )  # fmt: skip
    versions = {
        found.name: found.version
        for package in packages
        for found in importlib.metadata.distributions(name=package)
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "caches": ", ".join(caches),
            "memory": f"{memory / 2**30:.0f} GiB",
            "system": platform.platform(),
            "instruction set of fastloss": _core.instruction_set(),
            "compiler of the floor": version,
            **({"CUDA": fastloss.cuda.info().replace("\n", "; ")} if device == "cuda" else {}),
        },
        "versions": {"Python": platform.python_version(), **versions},
    }


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _spread(timing: dict[str, Any]) -> str:
    return f"{_time(timing['q25'])} - {_time(timing['q75'])}"


ARRAYS = {"cpu": "NumPy arrays", "cuda": "CuPy arrays"}

SUMMARY = (
    "loss", "size", "fastloss", "quartiles", "GB/s", "% of floor", "fastest peer", "its time",
    "times as fast", "value alone", "% of floor (value)",
)  # fmt: skip


def summary_rows(lines: list[Line]) -> Rows:
    """Ours beside the floor and the fastest peer."""
    alone = {(line.loss, line.shape): line for line in lines if not line.gradient}
    rows = []
    for line in lines:
        best = line.best_of_ours
        if not line.gradient or best is None:
            continue
        peer, value = line.fastest_peer, alone.get((line.loss, line.shape))
        rows.append(
            (
                line.loss,
                line.size,
                _time(line.ours),
                _spread(best),
                _number(line.rate, 1),
                _number(line.floor_share, 0),
                peer["side"] if peer else "",
                _time(peer["median"]) if peer else "",
                _number(line.speedup),
                _time(value.ours) if value else "",
                _number(value.floor_share, 0) if value else "",
            )
        )
    return rows


TENSORFLOW = ("loss", "size", "eager", "graph", "XLA")


def tensorflow_rows(lines: list[Line]) -> Rows:
    """Ours in Keras beside keras.losses in the same mode: how many times as fast."""
    rows = []
    for line in (line for line in lines if line.gradient):
        ratios = []
        for mode in ("eager", "graph", "XLA"):
            ours, theirs = line.sides.get(f"fastloss TF {mode}"), line.sides.get(f"Keras {mode}")
            ratios.append(_number(theirs["median"] / ours["median"]) if ours and theirs else "")
        if any(ratios):
            rows.append((line.loss, line.size, *ratios))
    return rows


GOALS = ("goal", "at least", "measured at worst", "where", "met by")
MISSED = ("goal", "at least", "loss", "size", "measured", "in cache")


def goal_rows(found: Iterable[Outcome]) -> Rows:
    """Goals, and what was measured where they are missed by most or met by least."""
    rows = []
    for outcome in found:
        goal, worst = outcome.goal, outcome.worst
        figures = (_number(outcome.measured), f"{worst.loss} {worst.size}") if worst else ("", "")
        met = f"{outcome.count - len(outcome.missed)} of {outcome.count}"
        rows.append((goal.text, f"{goal.least:g}", *figures, met if worst else "not measured"))
    return rows


def missed_rows(found: Iterable[Outcome]) -> Rows:
    """All that misses a goal."""
    return [
        (
            o.goal.text,
            f"{o.goal.least:g}",
            line.loss,
            line.size,
            _number(o.goal.figure(line)),
            _number(line.share_in_cache, 0),
        )
        for o in found
        for line in o.missed
    ]


def memory_table(results: dict[str, Any]) -> tuple[Cells, Rows]:
    """Peak memory in sizes of the gradient, a column per side."""
    sides = list(dict.fromkeys(row["side"] for row in results["memory"]))
    by_loss: dict[tuple[str, str], dict[str, str]] = {}
    for row in results["memory"]:
        key = (row["loss"], "x".join(map(str, row["shape"])))
        by_loss.setdefault(key, {})[row["side"]] = _number(row["bytes"] / row["gradient_bytes"], 1)
    rows = [(*key, *(cells.get(side, "") for side in sides)) for key, cells in by_loss.items()]
    return ("loss", "size", *sides), rows


FIT = ("network", "jit_compile", "Keras", "quartiles", "fastloss", "quartiles", "times as fast")


def fit_rows(results: dict[str, Any]) -> Rows:
    """Seconds of an epoch with each loss."""
    pairs: dict[tuple[str, bool], dict[str, dict[str, Any]]] = {}
    for row in results["fit"]:
        pairs.setdefault((row["network"], row["jit_compile"]), {})[row["side"]] = row
    rows = []
    for (network, jit_compile), pair in pairs.items():
        theirs, ours = pair["Keras"], pair["fastloss"]
        rows.append(
            (
                network,
                str(jit_compile),
                _time(theirs["median"]),
                _spread(theirs),
                _time(ours["median"]),
                _spread(ours),
                _number(theirs["median"] / ours["median"]),
            )
        )
    return rows


def median_table(lines: list[Line], *, gradient: bool) -> tuple[Cells, Rows]:
    """The medians of everyone, a column per side."""
    chosen = [line for line in lines if line.gradient == gradient]
    names = dict.fromkeys(name for line in chosen for name in line.sides)
    sides = [name for name in names if not name.startswith(FLOOR)]
    rows = []
    for line in chosen:
        medians = [_time(line.sides[s]["median"]) if s in line.sides else "" for s in sides]
        rows.append((line.loss, line.size, *medians, _time(line.floor)))
    return ("loss", "size", *sides, FLOOR), rows


def warm_table(results: dict[str, Any]) -> tuple[Cells, Rows]:
    """Value and gradient with everything in the L2 cache, a column per side."""
    timings = [t for t in results["timings"] if t["gradient"] and "warm" in t]
    sides = list(dict.fromkeys(t["side"] for t in timings))
    by_case: dict[tuple[str, str], dict[str, str]] = {}
    for t in timings:
        key = (t["loss"], "x".join(map(str, t["shape"])))
        by_case.setdefault(key, {})[t["side"]] = _time(t["warm"])
    rows = [(*key, *(cells.get(side, "") for side in sides)) for key, cells in by_case.items()]
    return ("loss", "size", *sides), rows


CALLS = ("call from Python, until the device is through", "time")


def _tables(results: dict[str, Any]) -> list[tuple[str, Cells, Rows]]:
    """Title, columns and rows of what the terminal and the report show, if there are any."""
    lines = lines_of(results["timings"])
    full = [
        ("Goals", GOALS, goal_rows(outcomes(lines, results["device"])) if lines else []),
        (f"Value and gradient, fastloss on {ARRAYS[results['device']]}", SUMMARY,
         summary_rows(lines)),
        (
            "Times as fast as Keras's own loss, in TensorFlow, value and gradient",
            TENSORFLOW,
            tensorflow_rows(lines),
        ),
        ("Peak memory of value and gradient, in sizes of the gradient", *memory_table(results)),
        ("An epoch of fit", FIT, fit_rows(results)),
        ("Value and gradient in a warm L2 cache", *warm_table(results)),
        ("What a call takes", CALLS, [(c["call"], _time(c["median"])) for c in results["calls"]]),
    ]  # fmt: skip
    return [table for table in full if table[2]]


TEXTS = ("loss", "goal", "network", "fastest peer", "where")


def show(results: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    for title, columns, rows in _tables(results):
        table = Table(title=title)
        for column in columns:
            text = column in TEXTS
            table.add_column(column, justify="left" if text else "right", no_wrap=column == "size")
        for n, row in enumerate(rows):
            if n and row[0] != rows[n - 1][0] and columns is SUMMARY:
                table.add_section()
            table.add_row(*row)
        console.print(table)
    for line in results["notes"]:
        console.print(line, soft_wrap=True)


def _markdown(columns: Cells, rows: Rows) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell or " " for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _json(results: dict[str, Any]) -> str:
    """One line per timing, so that two runs can be compared by a diff."""
    entries = []
    for key, value in results.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
        entries.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def write(results: dict[str, Any], folder: Path) -> None:
    """Write results.json, the charts and RESULTS.md, which shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(_json(results))
    lines = lines_of(results["timings"])
    images = []
    if importlib.util.find_spec("matplotlib") is not None:
        import charts

        images = charts.draw(lines, folder)
    machine = {
        **results["machine"],
        "threads": results["threads"],
        "versions": ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
        "date": results["date"],
        "command": f"`{results['command'].strip()}`, {results['minutes']} minutes",
    }
    parts = ["# Benchmark", _markdown(("", ""), [(k, str(v)) for k, v in machine.items()])]
    parts.append(CUDA_METHOD if results["device"] == "cuda" else METHOD)
    remarks = [*results["left_out"], *results["notes"]]
    remarks += [f"Not equal, and not timed: {line}" for line in results["failures"]]
    if remarks:
        parts.append("\n".join(f"- {line}" for line in remarks))
    tables = _tables(results)
    for n, (title, columns, rows) in enumerate(tables):
        parts += [f"## {title}", _markdown(columns, rows)]
        if n == min(1, len(tables) - 1):
            parts += [f"![{text}]({path.name})" for path, text in images]
    missed = missed_rows(outcomes(lines, results["device"]))
    if missed:
        parts += ["## Where goals are missed", _markdown(MISSED, missed)]
    for what, gradient in (("value and gradient", True), ("value alone", False)):
        if lines:
            table = median_table(lines, gradient=gradient)
            parts += [f"## Medians of everyone, {what}", _markdown(*table)]
    (folder / "RESULTS.md").write_text("\n\n".join(parts) + "\n")
