"""Every loss, timed beside its peers and beside the floor, on a ladder of sizes.

    python benchmarks/run.py [--device cpu|cuda] [--loss huber ...] [--size 1M 4096x1000 ...]
                             [--peer keras torch ...] [--threads 2] [--quick] [--output FOLDER]

On a GPU (`--device cuda`, which needs CuPy) the floor is a copy of as many bytes, and half types
are measured, too.

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

    from card import Card
    from sides import Side
    from timing import Timer
    from workload import Case

PARTS = ("time", "memory", "fit")
QUICK_MINUTES = 2.2  # after which no case is begun; one may take twenty seconds more
WARM_SECONDS = 0.1  # for the timing of each case in a warm cache
CACHED_BYTES = 512 << 10  # what the L2 cache of most cores holds
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
    parser.add_argument("--minutes", type=float, help="after which no case is begun")
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"))
    options = parser.parse_args(arguments)
    if options.device == "cuda":
        if reason := no_card():
            parser.error(f"--device cuda needs CuPy and a GPU: {reason}")
        options.parts = ["time"]  # memory and fit look at the host
    if not 1 <= options.threads <= cores:
        parser.error(f"--threads: expected 1 to {cores}, got {options.threads}")
    if options.quick:
        options.parts, options.seconds = ["time"], 0.5
        options.minutes = options.minutes or QUICK_MINUTES
    return options


def no_card() -> str:
    """Why nothing can be measured on a GPU; empty if it can."""
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy has its own for a missing driver
        return str(error)
    return ""


def prepare_process(threads: int, device: str) -> None:
    """Give everyone the same cores, before anyone is imported who counts them.

    Freed memory stays with the process, so that those who allocate their gradient do not pay for
    the pages of each one anew; for 16M elements that is as much as the loss itself.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PLATFORMS": device,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # a GPU's memory is for everyone
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
        + ("no C++ compiler" if side.package == "floor" else f"{side.package} is not installed")
        for side in missing
    ]
    for line in lines:
        console.print(line)
    return [side for side in asked if side.is_installed], lines


class Benchmark:
    """What is measured so far."""

    def __init__(
        self, sides: list[Side], seconds: float, threads: int, card: Card | None = None
    ) -> None:
        from card import CudaTimer
        from timing import CpuTimer

        self.sides, self.seconds, self.threads, self.card = sides, seconds, threads, card
        self.timer: Timer = CudaTimer(card, evicts=True) if card else CpuTimer()
        self.timings: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        """Keep a line for the report, once."""
        if line not in self.notes:
            self.notes.append(line)

    def measure(self, case: Case) -> None:
        """Check and time everyone on one case, with the gradient and without."""
        from card import CardInputs, CudaTimer
        from sides import NUMPY
        from timing import summary, time_in_turns
        from workload import Inputs

        inputs = CardInputs(case, self.card) if self.card else Inputs(case)
        for gradient in (True, False):
            calls = self.checked_calls(case, inputs, gradient)
            samples = time_in_turns(self.timer, calls, len(inputs), self.seconds)
            warm = {}
            if self.card and case.bytes(gradient) <= self.card.l2:  # the rest is never warm
                timer = CudaTimer(self.card, evicts=False)
                warm = time_in_turns(timer, calls, 1, WARM_SECONDS)
            computing = None
            if not self.card and gradient and case.bytes(gradient) > CACHED_BYTES:
                computing = self.seconds_in_cache(case)
            for side, taken in samples.items():
                self.timings.append(
                    {
                        "loss": case.loss,
                        "shape": list(case.shape),
                        "gradient": gradient,
                        "side": side,
                        "bytes": case.bytes(gradient),
                        **summary(taken),
                        **({"warm": summary(warm[side])["median"]} if side in warm else {}),
                        **({"computing": computing} if computing and side == NUMPY else {}),
                    }
                )
            del calls
            if self.card:
                self.card.free()

    def seconds_in_cache(self, case: Case) -> float | None:
        """What all threads of fastloss would take for the case, were everything in their caches.

        It is what one of them takes for as many rows as fit, again and again.
        """
        import fastloss
        from sides import NUMPY, numpy_out
        from timing import summary, time_in_turns
        from workload import Inputs

        part = case.part(CACHED_BYTES)
        call = part and numpy_out(part, Inputs(part), gradient=True)
        if not (part and call):
            return None
        fastloss.set_num_threads(1)
        samples = time_in_turns(self.timer, {NUMPY: call}, 1, WARM_SECONDS)
        fastloss.set_num_threads(self.threads)
        seconds = summary(samples[NUMPY])["median"]
        return seconds * case.elements / part.elements / self.threads

    def checked_calls(self, case: Case, inputs: Any, gradient: bool) -> dict[str, Any]:
        """A call for each side that computes what fastloss computes in double precision."""
        import numpy as np

        import fastloss
        from timing import DifferentError, check

        t, p = inputs.numpy[0]
        wide = (t if case.has_labels else t.astype("float64"), p.astype("float64"))
        loss = getattr(fastloss, case.spec.class_name)(**case.options)
        results = loss.value_and_grad(*wide) if gradient else (loss(*wide),)
        reference = [np.asarray(x) for x in results]
        calls = {}
        for side in self.sides:
            where = f"{side.name}, {case.loss}, {'x'.join(map(str, case.shape))}"
            try:
                call = side.make(case, inputs, gradient)
                if call is None:
                    continue
                if not side.is_floor:
                    tolerances = tolerances_of(case, side)
                    check(inputs.comparable(call(0)), reference, *tolerances)
                calls[side.name] = call
            except DifferentError as error:
                self.failures.append(f"{where}: {error}")
            except Exception as error:
                out_of_memory = type(error).__name__ == "OutOfMemoryError"  # CuPy's
                if not (side.is_peer or out_of_memory or isinstance(error, NotImplementedError)):
                    raise
                self.note(f"{side.name} cannot compute {case.loss}: {type(error).__name__}")
        return calls


def tolerances_of(case: Case, side: Side) -> tuple[float, float]:
    """How far the gradient and the value of a side may be off."""
    import timing

    if case.dtype != "float32":
        half = timing.HALF_TOLERANCE if side.is_ours else timing.HALF_TOLERANCE_OF_PEERS
        return half, half
    sequence = case.spec.kind == "sequence"
    gradient = timing.SEQUENCE_TOLERANCE if sequence else timing.GRADIENT_TOLERANCE
    return gradient, timing.VALUE_TOLERANCE


def select(options: argparse.Namespace, card: Card | None) -> list[Case]:
    """The cases that were asked for."""
    import workload

    losses, ladders = options.loss, workload.CUDA_LADDERS if card else workload.LADDERS
    if options.quick:
        losses = losses or workload.QUICK_LOSSES
        ladders = workload.QUICK_CUDA_LADDERS if card else workload.QUICK_LADDERS
    dtypes = ["float32", *([card.half.name] if card else [])]
    try:
        sizes = [workload.shape_of(size) for size in options.size]
        selected = list(workload.cases(losses, sizes, ladders, dtypes))
    except ValueError as error:
        raise SystemExit(f"--{error}") from None
    if card:
        selected = [c for c in selected if c.bytes(True) <= workload.MOST_CUDA_BYTES]
    if card and options.quick:  # what people train with, and first what has goals of its own
        selected = [c for c in selected if c.from_logits or not c.takes_logits]
        selected.sort(key=lambda c: c.spec.kind != "row")
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
    from card import launch_costs
    from timing import DifferentError
    from workload import QUICK_LOSSES, size_name

    began = time.monotonic()
    if "time" in options.parts:
        task = progress.add_task("", total=len(selected))
        for case in selected:
            title = f"{case.loss}, {size_name(case.shape)}"
            if options.minutes and time.monotonic() - began > 60 * options.minutes:
                benchmark.note(f"{title} is left out: no time left")
                continue
            progress.update(task, description=title)
            benchmark.measure(case)
            progress.advance(task)
        progress.update(task, description="times")
        if benchmark.card:
            results["calls"] = launch_costs(benchmark.card, WARM_SECONDS)
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
    prepare_process(options.threads, options.device)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    import report
    from card import Card, card_sides
    from sides import all_sides

    card = Card() if options.device == "cuda" else None
    selected = select(options, card)
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    everyone = card_sides() if card else all_sides(options.threads)
    sides, left_out = choose(everyone, options.peer, console)
    if not card:
        set_threads(sides, options.threads)
    benchmark = Benchmark(sides, options.seconds, options.threads, card)
    # What fastloss says of itself, such as that it leaves a call to Keras, belongs in the report.
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", message="fastloss")
    warnings.showwarning = lambda message, *_: benchmark.note(str(message))
    results: dict[str, Any] = {
        "command": " ".join(["python benchmarks/run.py", *arguments]),
        "device": options.device,
        "threads": options.threads,
        **report.surroundings(options.device),
        "left_out": left_out,
        "failures": benchmark.failures,
        "notes": benchmark.notes,
        "timings": benchmark.timings,
        "memory": [],
        "fit": [],
        "calls": [],
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
