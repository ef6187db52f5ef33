"""The command line: ``python -m fastloss``, or ``fastloss``."""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastloss
from fastloss._build import get_spec
from fastloss._registry import REGISTRY, LossSpec


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with rich on a terminal, where that is installed, else as plain columns."""
    try:
        if not sys.stdout.isatty():
            raise ImportError
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        lines = [list(columns), *map(list, rows)] if any(columns) else [*map(list, rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(f"{x:{n}}" for x, n in zip(line, widths, strict=True)).rstrip())
        return
    shown = Table(*columns, show_header=any(columns))
    for row in rows:
        shown.add_row(*(x.replace("[", r"\[") for x in row))
    Console().print(shown)


def options_of(spec: LossSpec) -> str:
    """The parameters of a loss with their defaults."""
    return ", ".join(f"{p.name}={p.default!r}" for p in spec.parameters)


def parameter(text: str) -> tuple[str, Any]:
    """``delta=2`` as a name and a Python value."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, such as delta=2, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def info(arguments: argparse.Namespace) -> int:
    """Show versions, the instruction set, threads, OpenMP, CUDA, and what TensorFlow runs on."""
    from fastloss import _info

    found = _info.gather(with_tensorflow=not arguments.quick)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        table(("", ""), [(k, ", ".join(v) if isinstance(v, list) else v) for k, v in found.items()])
    return 0


def list_losses(arguments: argparse.Namespace) -> int:
    """Show every loss: its names, its options and what it is."""
    if arguments.json:
        rows = [
            {
                "class": spec.class_name,
                "function": spec.name,
                "aliases": list(spec.aliases),
                "kind": spec.kind,
                "labels": spec.labels,
                "parameters": {p.name: p.default for p in spec.parameters},
                "summary": spec.summary,
                "formula": spec.formula,
            }
            for spec in REGISTRY
        ]
        print(json.dumps(rows, indent=2))
        return 0
    for spec in REGISTRY:
        print(f"{spec.class_name}({options_of(spec)})")
        print(f"    {', '.join((spec.name, *spec.aliases))}")
        print(f"    {spec.summary}")
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Train a network with Keras's loss and with fastloss's; compare and time them."""
    from fastloss import _demo

    return _demo.main(arguments.output)


def bench(arguments: argparse.Namespace) -> int:
    """Time losses and their gradients on this machine, beside a copy of as many bytes."""
    from fastloss import _bench

    specs = [get_spec(name) for name in arguments.loss] or None
    results = _bench.run(specs, arguments.shape, arguments.dtype, dict(arguments.param))
    if arguments.json:
        print(json.dumps(results, indent=2))
        return 0
    shape = "x".join(map(str, arguments.shape))
    print(f"{shape} {arguments.dtype}, medians; {_bench.machine()}")
    columns = ("loss", "value, ms", "value and gradient, ms", "GB/s", "times a copy")
    table(
        columns,
        [
            (
                r["loss"],
                f"{r['value_ms']:.3f}",
                f"{r['value_and_grad_ms']:.3f}",
                f"{r['gigabytes_per_second']:.1f}",
                f"{r['times_a_copy']:.2f}",
            )
            for r in results
        ],
    )
    print(
        "GB/s: y_true and y_pred read, and the gradient written. times a copy: the time of value "
        "and\ngradient by that of np.copyto (one thread) of as many bytes. Beside Keras, PyTorch "
        "and JAX:\n`make bench` in the repository."
    )
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Compare every loss with stored results, on every instruction set and GPU there is."""
    from fastloss import _check

    results, notes = _check.check_all()
    failed = [r for r in results if r["failed"]]
    if arguments.json:
        finite = [{**r, "worst": r["worst"] if r["worst"] < 1e300 else None} for r in results]
        print(json.dumps({"ok": not failed, "results": finite, "notes": notes}, indent=2))
        return 1 if failed else 0
    places = list(dict.fromkeys(r["where"] for r in results))
    by_key = {(r["loss"], r["where"]): r for r in results}
    rows = []
    for loss in dict.fromkeys(r["loss"] for r in results):
        found = [by_key.get((loss, where)) for where in places]
        rows.append((loss, *("-" if r is None else _verdict(r) for r in found)))
    table(("loss", *places), rows)
    for r in failed:
        for line in r["failed"]:
            print(f"FAILED  {r['where']}, {r['loss']}: {line}")
    for note in notes:
        print(note)
    cases = sum(r["cases"] for r in results)
    print(
        f"{cases - sum(len(r['failed']) for r in results)} of {cases} cases are right "
        "(numbers: the worst error in units of what is allowed)"
    )
    return 1 if failed else 0


def _verdict(result: dict[str, Any]) -> str:
    return f"FAILED {len(result['failed'])}" if result["failed"] else f"ok {result['worst']:.2f}"


def plot(arguments: argparse.Namespace) -> int:
    """Draw losses and their slopes against y_pred."""
    from fastloss import plot as pictures

    output = arguments.output or Path(f"{get_spec(arguments.loss[0]).name}.png")
    figure = pictures.curves(*pictures.variants(arguments.loss, arguments.param))
    figure.savefig(output, dpi=150)
    print(output)
    return 0


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(n) for n in text.split("x"))
    except ValueError:
        shape = ()
    if len(shape) != 2 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"expected ROWSxCOLUMNS, such as 4096x1000, got {text!r}")
    return shape


def parser() -> argparse.ArgumentParser:
    """The commands and what they take."""
    top = argparse.ArgumentParser(prog="fastloss", description=fastloss.__doc__)
    top.add_argument("--version", action="version", version=f"fastloss {fastloss.__version__}")
    commands = top.add_subparsers(required=True, metavar="command")

    def add(name: str, run: Any, extra: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run, name=name, extra=extra)
        return sub

    sub = add("info", info)
    sub.add_argument("--quick", action="store_true", help="without importing TensorFlow")
    sub.add_argument("--json", action="store_true", help="as JSON, for programs")
    sub = add("list", list_losses)
    sub.add_argument("--json", action="store_true", help="as JSON, for programs")
    sub = add("check", check)
    sub.add_argument("--json", action="store_true", help="as JSON, for programs")
    sub = add("plot", plot, "plot")
    sub.add_argument("loss", nargs="+", help="names; see `fastloss list`")
    sub.add_argument(
        "--param",
        type=parameter,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the losses that have it; one curve for each value given",
    )
    sub.add_argument("-o", "--output", type=Path, help="the picture; its ending chooses the format")
    sub = add("bench", bench)
    sub.add_argument("loss", nargs="*", help="names; all losses of single samples otherwise")
    sub.add_argument("--shape", type=_shape, default=(1024, 1000), help="ROWSxCOLUMNS of y_pred")
    sub.add_argument("--dtype", default="float32", choices=("float16", "float32", "float64"))
    sub.add_argument(
        "--param",
        type=parameter,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the losses that have it",
    )
    sub.add_argument("--json", action="store_true", help="as JSON, for programs")
    sub = add("demo", demo, "demo,tensorflow")
    sub.add_argument(
        "--output",
        type=Path,
        default=Path("fastloss-demo.png"),
        help="where to write the plot of both loss curves (default: %(default)s)",
    )
    return top  # fmt: skip


def main() -> int:
    """Run the command that the arguments name; returns the exit status."""
    arguments = parser().parse_args()
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ImportError as error:
        if not arguments.extra:
            raise
        print(
            f"fastloss {arguments.name}: {error}\n"
            f'What it needs comes with: pip install "fastloss[{arguments.extra}]"',
            file=sys.stderr,
        )
        return 1
    except (ValueError, TypeError, OSError) as error:  # what was asked for cannot be done
        print(f"fastloss {arguments.name}: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
