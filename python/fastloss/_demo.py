"""The demonstration: one network trained with Keras's loss and with fastloss's, then timings."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up messages

import keras
import matplotlib as mpl

mpl.use("agg")
import numpy as np
import tensorflow as tf
from matplotlib import pyplot as plt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits

import fastloss
import fastloss.keras
from fastloss import _core
from fastloss._evaluate import Array

EPOCHS = 20
BATCH = 32
SEED = 7
LARGEST_DIFFERENCE = 1e-5
"""Between the losses of an epoch, relative. Both sides compute in float32, and what they round
differently is fed back by training."""

SECONDS_PER_CASE = 4.0


Call = Callable[[], tuple[Any, Any]]


@dataclass
class Run:
    """A training: the loss after each epoch, the final accuracy, and how long it took."""

    losses: list[float]
    accuracy: float
    seconds: float


def train(loss: keras.losses.Loss, after_epoch: Callable[[], None]) -> Run:
    """Train the network from the same start, on the same batches, whatever the loss."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: after_epoch())
    start = time.perf_counter()
    history = model.fit(
        images, labels, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[callback]
    ).history
    return Run(history["loss"], history["accuracy"][-1], time.perf_counter() - start)


def train_both(console: Console) -> tuple[Run, Run]:
    """The run with Keras's loss and the run with fastloss's."""
    sides = [
        ("keras.losses", keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        ("fastloss.keras", fastloss.keras.SparseCategoricalCrossentropy(from_logits=True)),
    ]
    columns = (
        TextColumn("{task.description:15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeElapsedColumn(),
    )
    runs = []
    with Progress(*columns, console=console) as progress:
        for name, loss in sides:
            task = progress.add_task(name, total=EPOCHS)
            runs.append(train(loss, lambda task=task: progress.advance(task)))  # type: ignore[misc]
    return runs[0], runs[1]


def differences(reference: Run, ours: Run) -> list[float]:
    """The relative difference between the losses of each epoch."""
    return [abs(b - a) / a for a, b in zip(reference.losses, ours.losses, strict=True)]


def training_table(reference: Run, ours: Run) -> Table:
    """Losses of a few epochs side by side, and how both runs ended."""
    table = Table(title=f"Digits, 1,797 images, 64-64-10, batch {BATCH}: training loss")
    for column in ("epoch", "keras.losses", "fastloss.keras", "relative difference"):
        table.add_column(column, justify="right")
    apart = differences(reference, ours)
    for epoch in sorted({*range(0, EPOCHS, 4), EPOCHS - 1}):
        a, b = reference.losses[epoch], ours.losses[epoch]
        table.add_row(str(epoch + 1), f"{a:.8f}", f"{b:.8f}", f"{apart[epoch]:.1e}")
    table.add_section()
    table.add_row("accuracy", f"{reference.accuracy:.4f}", f"{ours.accuracy:.4f}", "")
    table.add_row("seconds", f"{reference.seconds:.1f}", f"{ours.seconds:.1f}", "")
    return table


def plot(reference: Run, ours: Run, path: Path) -> None:
    """Write both loss curves, and the difference between them, as an image."""
    epochs = range(1, EPOCHS + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    left.plot(epochs, reference.losses, color="#f2a65a", linewidth=6, label="keras.losses")
    left.plot(epochs, ours.losses, color="#1b4f72", linestyle="--", label="fastloss.keras")
    left.set_yscale("log")
    left.set_title("Training loss, the same network from the same start")
    left.set_ylabel("sparse categorical cross-entropy")
    left.legend()
    equal = 1e-9  # where 0 is drawn; float32 losses that differ do so by more than 1e-8
    apart = np.maximum(differences(reference, ours), equal)
    right.semilogy(epochs, apart, "o", color="#1b4f72", markersize=5)
    right.axhline(LARGEST_DIFFERENCE, color="#b03a2e", linestyle=":")
    right.annotate("largest allowed", (1, LARGEST_DIFFERENCE), (0, 5), textcoords="offset points")
    right.set_ylim(equal / 3, 5 * LARGEST_DIFFERENCE)
    ticks = [equal, 1e-8, 1e-7, 1e-6, 1e-5]
    right.set_yticks(ticks, ["equal", *(f"{tick:.0e}" for tick in ticks[1:])])
    right.set_title("Difference between the two")
    right.set_ylabel("relative difference of the losses")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.set_xticks(range(0, EPOCHS + 1, 4))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


@dataclass
class Case:
    """What is timed: a loss, on arrays of a size."""

    title: str
    keras_loss: keras.losses.Loss
    fused_loss: keras.losses.Loss
    numpy_loss: fastloss.Loss
    y_true: Array
    y_pred: Array

    def calls(self) -> dict[str, Call]:
        """Every way to compute the loss and its gradient; the first is the reference."""
        y_true, y_pred = tf.constant(self.y_true), tf.constant(self.y_pred)

        def by(loss: keras.losses.Loss) -> Callable[[Any, Any], tuple[Any, Any]]:
            def value_and_grad(t: Any, p: Any) -> tuple[Any, Any]:
                with tf.GradientTape() as tape:
                    tape.watch(p)
                    value = loss(t, p)
                return value, tape.gradient(value, p)

            return value_and_grad

        theirs, ours = by(self.keras_loss), by(self.fused_loss)
        their_graph, our_graph = tf.function(theirs), tf.function(ours)
        their_xla = tf.function(theirs, jit_compile=True)
        return {
            "Keras, tf.function": lambda: their_graph(y_true, y_pred),
            "Keras, eager": lambda: theirs(y_true, y_pred),
            "Keras, XLA": lambda: their_xla(y_true, y_pred),
            "fastloss.keras, tf.function": lambda: our_graph(y_true, y_pred),
            "fastloss.keras, eager": lambda: ours(y_true, y_pred),
            "fastloss, NumPy": lambda: self.numpy_loss.value_and_grad(self.y_true, self.y_pred),
        }


def cases() -> list[Case]:
    """The sizes that are timed."""
    rng = np.random.default_rng(SEED)
    out = []
    for rows, classes in ((32, 10), (256, 10), (4096, 1000), (1024, 32000)):
        case = Case(
            f"cross-entropy, {rows} x {classes}",
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            fastloss.keras.SparseCategoricalCrossentropy(from_logits=True),
            fastloss.SparseCategoricalCrossentropy(from_logits=True),
            rng.integers(0, classes, rows).astype("int32"),
            rng.standard_normal((rows, classes), "float32"),
        )
        out.append(case)
    case = Case(
        "squared error, 1024 x 1024",
        keras.losses.MeanSquaredError(),
        fastloss.keras.MeanSquaredError(),
        fastloss.MeanSquaredError(),
        rng.standard_normal((1024, 1024), "float32"),
        rng.standard_normal((1024, 1024), "float32"),
    )
    return [*out, case]


def check_equal(calls: dict[str, Call]) -> None:
    """Raise AssertionError unless all calls give the value and the gradient of the first."""
    value, grad = (np.asarray(x) for x in next(iter(calls.values()))())
    for name, call in calls.items():
        other_value, other_grad = (np.asarray(x) for x in call())
        np.testing.assert_allclose(other_value, value, rtol=1e-5, err_msg=name)
        tolerance = 1e-5 * float(np.abs(grad).max())
        np.testing.assert_allclose(other_grad, grad, rtol=1e-4, atol=tolerance, err_msg=name)


def measure(calls: dict[str, Call]) -> dict[str, list[float]]:
    """Seconds of many calls of each, taken in turns so that a busy moment meets all alike."""

    def one_round() -> dict[str, float]:
        seconds = {}
        for name, call in calls.items():
            start = time.perf_counter()
            float(call()[0])  # which waits for the value
            seconds[name] = time.perf_counter() - start
        return seconds

    one_round()
    warm = sum(one_round().values())
    rounds = min(max(int(SECONDS_PER_CASE / warm), 9), 500)
    taken = [one_round() for _ in range(rounds)]
    return {name: [seconds[name] for seconds in taken] for name in calls}


def time_all(console: Console) -> Table:
    """Check and time every case; the table of the results."""
    table = Table(
        title="Time of a loss and its gradient, float32",
        caption="cross-entropy: sparse, from logits; ratio: of medians, to Keras in tf.function",
    )
    table.add_column("", no_wrap=True)
    for column in ("median", "q25", "q75", "ratio"):
        table.add_column(column, justify="right")
    all_cases = cases()
    columns = (TextColumn("timing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for case in progress.track(all_cases):
            calls = case.calls()
            check_equal(calls)
            table.add_section()
            table.add_row(f"[bold]{case.title}")
            reference = None
            for name, seconds in measure(calls).items():
                low, median, high = statistics.quantiles(seconds, n=4)
                reference = reference or median
                table.add_row(
                    f"  {name}",
                    _time(median),
                    _time(low),
                    _time(high),
                    f"{median / reference:.2f}",
                )
    return table


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def main(output: Path) -> int:
    """Run the demonstration; the exit status says whether both trainings agree."""
    console = Console()
    tf.config.set_visible_devices([], "GPU")  # fastloss computes on the CPU
    console.print(
        f"fastloss {fastloss.__version__} ({_core.instruction_set()}, "
        f"{_core.num_threads()} threads), Keras {keras.__version__}, "
        f"TensorFlow {tf.__version__}\n"
    )
    reference, ours = train_both(console)
    console.print(training_table(reference, ours))
    plot(reference, ours, output)
    console.print(f"Both curves are in {output}\n", soft_wrap=True)

    console.print(time_all(console))
    console.print("Values and gradients of all sides were found equal before they were timed.\n")

    largest = max(differences(reference, ours))
    agree = largest < LARGEST_DIFFERENCE
    console.print(
        f"Largest relative difference of an epoch's loss: {largest:.1e}, "
        f"{'below' if agree else 'NOT below'} {LARGEST_DIFFERENCE:.0e}."
    )
    return 0 if agree else 1
