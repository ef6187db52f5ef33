"""The command line: ``python -m fastloss demo``, ``info`` and ``list``."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from pathlib import Path

import fastloss
from fastloss import _core
from fastloss._registry import REGISTRY


def demo(arguments: argparse.Namespace) -> int:
    """Train a network with Keras's loss and with fastloss's; compare and time them."""
    try:
        from fastloss import _demo
    except ImportError as error:
        print(
            f"python -m fastloss demo: {error}\n"
            'What it needs comes with: pip install "fastloss[demo,tensorflow]"',
            file=sys.stderr,
        )
        return 1
    return _demo.main(arguments.output)


def info(_: argparse.Namespace) -> int:
    """Show versions, the instruction set and the number of threads."""
    rows = [
        ("fastloss", fastloss.__version__),
        ("instruction set", _core.instruction_set()),
        ("threads", str(_core.num_threads())),
        ("Python", platform.python_version()),
        ("platform", platform.platform()),
    ]
    for package in ("numpy", "tensorflow", "tensorflow-cpu", "keras"):
        found = next(iter(importlib.metadata.distributions(name=package)), None)
        rows.append((package, found.version if found else "not installed"))
    for name, value in rows:
        print(f"{name:16} {value}")
    return 0


def list_losses(_: argparse.Namespace) -> int:
    """Show every loss: its class, its function, its options and its other names."""
    for spec in REGISTRY:
        options = ", ".join(f"{p.name}={p.default!r}" for p in spec.parameters)
        print(f"{spec.class_name}({options})")
        print(f"    {', '.join((spec.name, *spec.aliases))}")
        print(f"    {spec.summary}")
    return 0


def main() -> int:
    """Run the command that the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastloss", description=fastloss.__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, command in (("demo", demo), ("info", info), ("list", list_losses)):
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(run=command)
        if name == "demo":
            sub.add_argument(
                "--output",
                type=Path,
                default=Path("fastloss-demo.png"),
                help="where to write the plot of both loss curves (default: %(default)s)",
            )
    arguments = parser.parse_args()
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
