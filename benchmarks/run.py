"""Every loss, timed beside its peers and beside the floor, on a ladder of sizes.

    python benchmarks/run.py [--device cpu] [--loss huber ...] [--size 1M 4096x1000 ...]
                             [--peer keras torch ...] [--threads 2] [--quick] [--output FOLDER]

Everyone computes the same values and gradients, which is checked before anything is timed. Prints
tables, and writes results.json, RESULTS.md and charts into the output folder. Peers that are not
installed are left out. The exit status is 1 if anyone computed something else.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from sides import Side
    from workload import Case

PARTS = ("time", "memory", "fit")
QUICK_SECONDS = 130  # after which no case is begun; one may take twenty more
TABLE_WIDTH = 170  # where there is no terminal to ask
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--loss", nargs="+", default=[], help="names; all are measured otherwise")
    parser.add_argument("--size", nargs="+", default=[], help="such as 100k, 16M or 4096x1000")
    parser.add_argument("--peer", nargs="+", default=[], help="keras, torch, jax or a side's name")
    parser.add_argument("--threads", type=int, default=cores, help="for everyone alike")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="few losses and sizes, times alone")
    parser.add_argument("--seconds", type=float, default=2.0, help="for the timing of each case")
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"))
    options = parser.parse_args(arguments)
    if options.device == "cuda":
        parser.error("--device cuda needs CuPy and a GPU; fastloss has no CUDA kernels yet")
    if not 1 <= options.threads <= cores:
        parser.error(f"--threads: expected 1 to {cores}, got {options.threads}")
    if options.quick:
        options.parts, options.seconds = ["time"], 0.5
    return options


def prepare_process(threads: int) -> None:
    """Give everyone the same cores, before anyone is imported who counts them.

    Freed memory stays with the process, so that those who allocate their gradient do not pay for
    the pages of each one anew; for 16M elements that is as much as the loss itself.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of processes beside what is measured
    }
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def set_threads(sides: list[Side], threads: int) -> None:
    """Those who have a setting of their own; the others count the cores of the process."""
    import threadpoolctl

    import fastloss

    fastloss.set_num_threads(threads)
    packages = {side.package for side in sides}
    if "torch" in packages:
        import torch

        torch.set_num_threads(threads)
    if "keras" in packages:
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")  # a function per case is no retracing
        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    threadpoolctl.threadpool_limits(threads)  # every OpenMP and BLAS library that was loaded


def choose(sides: list[Side], peers: list[str], console: Console) -> tuple[list[Side], list[str]]:
    """Those who were asked for and are installed, and lines about those who are not."""
    wanted = [p.lower() for p in peers]
    for name in wanted:
        if not any(name in (s.package, s.name.lower(), s.name.lower().split()[0]) for s in sides):
            raise SystemExit(f"--peer: {name} is none of {', '.join(s.name for s in sides)}")

    def asked_for(side: Side) -> bool:
        names = {side.package, side.name.lower(), side.name.lower().split()[0]}
        always = side.package == "fastloss" or side.is_floor
        return always or not wanted or bool(names & set(wanted))

    asked = [side for side in sides if asked_for(side)]
    missing = [side for side in asked if not side.is_installed]
    lines = [
        f"{side.name} is left out: "
        + ("no C++ compiler" if side.is_floor else f"{side.package} is not installed")
        for side in missing
    ]
    for line in lines:
        console.print(line)
    return [side for side in asked if side.is_installed], lines


class Benchmark:
    """What is measured so far."""

    def __init__(self, sides: list[Side], seconds: float) -> None:
        from timing import CpuTimer

        self.sides, self.seconds, self.timer = sides, seconds, CpuTimer()
        self.timings: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        """Keep a line for the report, once."""
        if line not in self.notes:
            self.notes.append(line)

    def measure(self, case: Case) -> None:
        """Check and time everyone on one case, with the gradient and without."""
        from timing import summary, time_in_turns
        from workload import Inputs

        inputs = Inputs(case)
        for gradient in (True, False):
            calls = self.checked_calls(case, inputs, gradient)
            samples = time_in_turns(self.timer, calls, len(inputs), self.seconds)
            for side, taken in samples.items():
                self.timings.append(
                    {
                        "loss": case.loss,
                        "shape": list(case.shape),
                        "gradient": gradient,
                        "side": side,
                        "bytes": case.bytes(gradient),
                        **summary(taken),
                    }
                )

    def checked_calls(self, case: Case, inputs: Any, gradient: bool) -> dict[str, Any]:
        """A call for each side that computes what fastloss computes in double precision."""
        import fastloss
        from sides import as_arrays
        from timing import GRADIENT_TOLERANCE, SEQUENCE_TOLERANCE, DifferentError, check

        t, p = inputs.numpy[0]
        wide = (t if case.has_labels else t.astype("float64"), p.astype("float64"))
        loss = getattr(fastloss, case.spec.class_name)(**case.options)
        reference = as_arrays(loss.value_and_grad(*wide) if gradient else (loss(*wide),))
        sequence = case.spec.kind == "sequence"
        tolerance = SEQUENCE_TOLERANCE if sequence else GRADIENT_TOLERANCE
        calls = {}
        for side in self.sides:
            where = f"{side.name}, {case.loss}, {'x'.join(map(str, case.shape))}"
            try:
                call = side.make(case, inputs, gradient)
                if call is None:
                    continue
                if not side.is_floor:
                    check(as_arrays(call(0)), reference, tolerance)
                calls[side.name] = call
            except DifferentError as error:
                self.failures.append(f"{where}: {error}")
            except Exception as error:
                if not (side.is_peer or isinstance(error, NotImplementedError)):
                    raise
                self.note(f"{side.name} cannot compute {case.loss}: {type(error).__name__}")
        return calls


def select(options: argparse.Namespace) -> list[Case]:
    """The cases that were asked for."""
    from workload import LADDERS, QUICK_LADDERS, QUICK_LOSSES, cases, shape_of

    losses, ladders = options.loss, LADDERS
    if options.quick:
        losses, ladders = losses or QUICK_LOSSES, QUICK_LADDERS
    try:
        selected = list(cases(losses, [shape_of(size) for size in options.size], ladders))
    except ValueError as error:
        raise SystemExit(f"--{error}") from None
    if not selected:
        raise SystemExit(f"--size: nothing to measure at {', '.join(options.size) or 'any size'}")
    return selected


def gather(
    benchmark: Benchmark,
    selected: list[Case],
    options: argparse.Namespace,
    progress: Progress,
    results: dict[str, Any],
) -> None:
    """Measure the parts that were asked for, and put what they find into the results."""
    import fit
    import memory
    from timing import DifferentError
    from workload import QUICK_LOSSES, size_name

    began = time.monotonic()
    if "time" in options.parts:
        task = progress.add_task("", total=len(selected))
        for case in selected:
            title = f"{case.loss}, {size_name(case.shape)}"
            if options.quick and time.monotonic() - began > QUICK_SECONDS:
                benchmark.note(f"{title} is left out: no time left")
                continue
            progress.update(task, description=title)
            benchmark.measure(case)
            progress.advance(task)
        progress.update(task, description="times")
    if "memory" in options.parts:
        few = [case for case in selected if options.loss or case.name in QUICK_LOSSES]
        chosen = memory.pairs(benchmark.sides, few)
        task = progress.add_task("memory", total=len(chosen))
        results["memory"] = memory.measure(chosen, options.threads, partial(progress.advance, task))
    if "fit" in options.parts and any(side.package == "keras" for side in benchmark.sides):
        networks = fit.networks()
        task = progress.add_task("fit", total=fit.steps(networks))
        try:
            results["fit"] = fit.measure(networks, partial(progress.advance, task))
        except DifferentError as error:
            benchmark.failures.append(str(error))


def main(arguments: list[str]) -> int:
    """Measure what was asked for, show it and write it."""
    began = time.monotonic()
    options = parse(arguments)
    prepare_process(options.threads)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    import report
    from sides import all_sides

    selected = select(options)
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    sides, left_out = choose(all_sides(options.threads), options.peer, console)
    set_threads(sides, options.threads)
    benchmark = Benchmark(sides, options.seconds)
    # What fastloss says of itself, such as that it leaves a call to Keras, belongs in the report.
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", message="fastloss")
    warnings.showwarning = lambda message, *_: benchmark.note(str(message))
    results: dict[str, Any] = {
        "command": " ".join(["python benchmarks/run.py", *arguments]),
        "device": options.device,
        "threads": options.threads,
        **report.surroundings(),
        "left_out": left_out,
        "failures": benchmark.failures,
        "notes": benchmark.notes,
        "timings": benchmark.timings,
        "memory": [],
        "fit": [],
    }
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            gather(benchmark, selected, options, progress, results)
    finally:  # also what was measured before it was interrupted
        results["minutes"] = round((time.monotonic() - began) / 60, 1)
        report.write(results, options.output)
    report.show(results, console)
    console.print(f"results.json, RESULTS.md and charts are in {options.output}", soft_wrap=True)
    for failure in benchmark.failures:
        console.print(f"[bold red]NOT EQUAL, and not timed:[/] {failure}", soft_wrap=True)
    return 1 if benchmark.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
