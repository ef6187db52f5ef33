"""Circle loss and CTC: what they are of, many embeddings or many frames, makes them tables apart.

Exact is the definition of ``tests/definitions.py`` in extended precision, for circle loss with the
complex step. The slopes of a sample are sums over pairs or alignments that cancel, so they are
judged in units of the largest slope of the sample.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

import definitions
import fastloss
from exact import Array
from units import error_in_units, least_unit

Results = tuple[Array, Array]  # value and d_pred

LIMIT = 8.0

# What does not keep the rules: the most units it may be off by. See WHY.
EXCEPTIONS = {
    ("circle(), 40 embeddings", "d_pred", "float32"): 120,
    ("circle(), 12 embeddings", "d_pred", "float64"): 8,
    ("circle(), 40 embeddings", "d_pred", "float64"): 30,
    ("ctc, 60 frames of 20 classes, 12 labels, logits of size 30", "d_pred", "float64"): 25,
}
WHY = """\
The similarities of embeddings are matrix products, rounded in an order that is BLAS's, and circle
loss multiplies what that has lost by up to 2 gamma; of given similarities it keeps the rules. CTC
keeps its sums as logarithms, whose errors grow with the number of frames and the size of the
logits."""


@dataclass(frozen=True)
class Batch:
    """Inputs, what is exact, and who computes it (None: not their definition)."""

    title: str
    exact: Results
    by: dict[str, Callable[[], Results]]


def circle(dtype: str, samples: int, references: int | None = None, **options: float) -> Batch:
    """Of embeddings and each other; or of as many axes, so that y_pred are the similarities."""
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(samples)
    labels, p = rng.integers(0, 4, samples), rng.normal(size=(samples, references or 8))
    p = (p / np.linalg.norm(p, axis=1, keepdims=True)).astype(dtype)
    given: dict[str, Array] = {}
    if references:
        given = {"ref_labels": rng.integers(0, 4, references), "ref_embeddings": np.eye(references)}
    wide = p.astype(np.longdouble)
    slopes = np.empty_like(wide)
    for i in np.ndindex(wide.shape):
        moved = wide.astype(np.clongdouble)
        moved[i] += np.longdouble("1e-40") * 1j
        shifted = definitions.circle(labels, moved, **given, **options)
        slopes[i] = shifted.imag.sum() / np.longdouble("1e-40")

    if references:
        given["ref_embeddings"] = given["ref_embeddings"].astype(dtype)

    def ours() -> Results:
        loss = fastloss.Circle(reduction=None, **options)
        return loss.value_and_grad(labels, p, **given)  # type: ignore[no-any-return]

    def theirs() -> Results:
        x = tf.constant(p)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = keras.losses.circle(labels, x, **given, **options)
        return value.numpy(), np.asarray(tape.gradient(value, x))

    named = ", ".join(f"{k}={v:g}" for k, v in options.items())
    title = f"circle({named}), {samples} " + (
        f"x {references} similarities" if references else "embeddings"
    )
    return Batch(title, (definitions.circle(labels, wide, **given, **options), slopes),
                 {"fastloss": ours, "Keras": theirs})  # fmt: skip


def ctc(dtype: str, frames: int, classes: int, length: int, spread: float) -> Batch:
    import tensorflow as tf

    rng = np.random.default_rng(frames)
    batch = 3
    x = (spread * rng.normal(size=(batch, frames, classes))).astype(dtype)
    labels = rng.integers(1, classes, (batch, length))
    found = [definitions.ctc(a, b) for a, b in zip(x, labels, strict=True)]
    exact = np.array([v for v, _ in found]), np.array([g for _, g in found])
    lengths = np.full(batch, length), np.full(batch, frames)

    def ours() -> Results:
        return fastloss.CTC(reduction=None).value_and_grad(labels, x)  # type: ignore[no-any-return]

    def theirs() -> Results:
        logits = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.nn.ctc_loss(labels.astype(np.int32), logits, *lengths,
                                   logits_time_major=False, blank_index=0)  # fmt: skip
        return value.numpy(), np.asarray(tape.gradient(value, logits))

    def torch() -> Results:
        import torch as th

        logits = th.tensor(x, requires_grad=True)
        value = th.nn.functional.ctc_loss(
            logits.log_softmax(2).transpose(0, 1), th.tensor(labels),
            *map(th.tensor, lengths[::-1]), reduction="none")  # fmt: skip
        (slope,) = th.autograd.grad(value.sum(), logits)
        return value.detach().numpy(), slope.numpy()

    by = {"fastloss": ours, "PyTorch": torch}
    if dtype == "float32":  # TensorFlow's kernel has no other
        by["Keras"] = theirs
    title = f"ctc, {frames} frames of {classes} classes, {length} labels, logits of size {spread:g}"
    return Batch(title, exact, by)


def batches(dtype: str) -> Iterator[Batch]:
    yield circle(dtype, 12)
    yield circle(dtype, 40)
    yield circle(dtype, 40, gamma=5.0, margin=0.25)
    yield circle(dtype, 40, 30)
    yield circle(dtype, 40, 30, gamma=512.0, margin=0.25)
    yield ctc(dtype, 10, 5, 3, 1.0)
    yield ctc(dtype, 60, 20, 12, 1.0)
    yield ctc(dtype, 60, 20, 12, 30.0)


def measure(batch: Batch, dtype: str, peers: set[str]) -> dict[str, dict[str, float]]:
    """Worst error in units in the last place, by result and by who computed it."""
    worst: dict[str, dict[str, float]] = {"value": {}, "d_pred": {}}
    least = least_unit(dtype)
    exact_value, exact_slope = batch.exact
    axes = tuple(range(1, exact_slope.ndim))
    largest = np.abs(exact_slope).max(axis=axes, keepdims=True)
    for who, compute in batch.by.items():
        if who in peers | {"fastloss"}:
            value, slope = compute()
            errors = error_in_units(value, exact_value, dtype, least=least)
            worst["value"][who] = float(errors.max())
            size = np.broadcast_to(largest, slope.shape)
            worst["d_pred"][who] = float(
                error_in_units(slope, exact_slope, dtype, size, least).max()
            )
    return worst
