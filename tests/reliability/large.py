"""Sizes beyond what an int counts, and what memory a call takes: run by `make test-large`.

Inputs are broadcast where they can be, so that 12 GB of memory suffice.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import fastloss
from test_concurrency import run_python

BEYOND = 2**31 + 5
ROWS = 2**23 + 3  # times 256 columns


def test_map_loss_of_more_than_2_31_elements() -> None:
    t, p = (np.broadcast_to(np.float32(x), (BEYOND,)) for x in (0.25, 0.75))
    assert fastloss.MeanSquaredError()(t, p) == 0.25
    for name in ("Hinge", "LogCosh"):
        loss = getattr(fastloss, name)()
        assert loss(t, p) == pytest.approx(loss(t[:1000], p[:1000]), rel=1e-6)


def test_gradient_of_more_than_2_31_elements_is_filled_to_the_end() -> None:
    p = np.empty((ROWS, 256), np.float16)
    p[:] = np.float16(0.75)
    t = np.broadcast_to(np.float16(0.25), p.shape)
    weight = np.ones(ROWS, np.uint8)
    weight[-2] = 0
    _, out = fastloss.MeanAbsoluteError(reduction="sum").value_and_grad(
        t, p, sample_weight=weight, out=p
    )
    slope = np.float16(1 / 256)
    for rows in (slice(0, 3), slice(ROWS // 2, ROWS // 2 + 3), slice(-5, -2), slice(-1, None)):
        assert (out[rows] == slope).all()
    assert not out[-2].any()
    assert np.count_nonzero(out) == (ROWS - 1) * 256


def test_labels_of_more_than_2_31_rows_are_all_looked_at() -> None:
    labels = np.zeros(BEYOND, np.uint8)
    labels[1::2] = 1
    p = np.broadcast_to(np.array([0.25, 0.75], np.float32), (BEYOND, 2))
    value = fastloss.SparseCategoricalCrossentropy()(labels, p)
    assert value == pytest.approx(-(np.log(0.25) + np.log(0.75)) / 2, rel=1e-6)
    labels[BEYOND - 2] = 2
    with pytest.raises(ValueError, match=rf"y_true\[{BEYOND - 2}\].*got 2"):
        fastloss.SparseCategoricalCrossentropy()(labels, p)


def test_rows_of_256_classes_beyond_2_31_elements() -> None:
    labels = (np.arange(ROWS) % 256).astype(np.uint8)
    p = np.broadcast_to(np.linspace(-1, 1, 256, dtype=np.float16), (ROWS, 256))
    loss = fastloss.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    values, gradient = loss.value_and_grad(labels, p)
    small, small_gradient = loss.value_and_grad(labels[-256:], p[-256:])
    assert np.array_equal(values[-256:], small)
    assert np.array_equal(gradient[-256:], small_gradient)
    assert np.array_equal(gradient[:256], loss.value_and_grad(labels[:256], p[:256])[1])


# What a call adds to the memory of its inputs and its result, at most, in MiB beside what is named.
# Another loss has made the threads before; what they keep for this one is not there yet. Linux
# forgets the largest size of the process when asked, so that what was freed before hides nothing.
# The pages of the module that are read for the first time, up to 2 MiB, are none of it.
PEAK = """
import numpy as np, fastloss
def memory(which):
    (line,) = (l for l in open("/proc/self/status") if l.startswith(which))
    return int(line.split()[1]) / 1024
fastloss.set_num_threads(THREADS)
fastloss.MeanSquaredError().value_and_grad(np.zeros((400, 400)), np.ones((400, 400)))
rng = np.random.default_rng(0)
loss, t, p = CALL
with open("/proc/self/clear_refs", "w") as largest:
    largest.write("5")
before = memory("VmRSS") - memory("RssFile")
value, gradient = loss.value_and_grad(t, p)
peak = memory("VmHWM") - memory("RssFile")
assert np.isfinite(value)
print(peak - before - gradient.nbytes / 2**20, p.shape[1] * 4 / 2**20)
"""
UNIFORM = "rng.random((ROWS, COLS), dtype='f4')"
STRIDED = "rng.random((ROWS, 2 * COLS), dtype='f4')[:, ::2]"
THREADS = 2
BLOCKS = 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read in /proc")
@pytest.mark.parametrize(
    ("loss", "labels", "predictions", "rows", "cols", "kept_rows"),
    [
        ("MeanSquaredError()", UNIFORM, UNIFORM, 16000, 2000, 0),
        ("BinaryCrossentropy()", UNIFORM, UNIFORM, 16000, 2000, 0),
        ("KLDivergence()", UNIFORM, UNIFORM, 1000, 32000, 0),
        ("CosineSimilarity()", UNIFORM, UNIFORM, 1000, 32000, 0),
        ("Dice(axis=-1)", UNIFORM, UNIFORM, 1000, 32000, 0),
        ("CategoricalCrossentropy(from_logits=True)", UNIFORM, UNIFORM, 1000, 32000, 0),
        ("SparseCategoricalCrossentropy()", "rng.integers(0, COLS, ROWS)", UNIFORM, 10**6, 2, 0),
        # Threads share rows.
        ("SparseCategoricalCrossentropy(from_logits=True)", "np.array([5])", UNIFORM, 1, 10**8, 1),
        ("SparseCategoricalCrossentropy()", "np.array([5])", UNIFORM, 1, 10**8, 1),
        ("MeanSquaredError()", UNIFORM, UNIFORM, 1, 10**8, 0),
        ("CategoricalCrossentropy(from_logits=True)", STRIDED, STRIDED, 15, 2**20, 1),
        ("CategoricalCrossentropy(from_logits=True)", UNIFORM, UNIFORM, 16, 2**20 + 1, 1),
        # Threads have a row each: what is kept of it, and copies of what has gaps.
        ("CosineSimilarity()", UNIFORM, UNIFORM, 16, 2**20, 0),
        ("CategoricalCrossentropy(from_logits=True)", UNIFORM, UNIFORM, 16, 2**20, THREADS),
        ("CategoricalCrossentropy(from_logits=True)", STRIDED, STRIDED, 16, 2**20, 3 * THREADS),
        ("CosineSimilarity()", STRIDED, STRIDED, 64, 2**20, 2 * THREADS),
    ],
)
def test_memory_is_inputs_outputs_and_blocks_of_threads(
    loss: str, labels: str, predictions: str, rows: int, cols: int, kept_rows: int, capsys: Any
) -> None:
    names = {"ROWS": str(rows), "COLS": str(cols), "THREADS": str(THREADS)}
    code = PEAK.replace("CALL", f"fastloss.{loss}, {labels}, {predictions}")
    for name, number in names.items():
        code = code.replace(name, number)
    more, row = map(float, run_python(code).split())
    with capsys.disabled():
        print(f"{more:.1f} MiB beside arrays ({kept_rows} rows of {row:.1f} MiB)", end=" ")
    assert more <= BLOCKS + kept_rows * row


def test_a_million_rows_of_two_classes_are_what_a_thousand_are(rng: Any) -> None:
    labels, p = rng.integers(0, 2, 1_000_000), rng.normal(size=(1_000_000, 2))
    loss = fastloss.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    value, gradient = loss.value_and_grad(labels, p)
    parts = [loss.value_and_grad(labels[i::1000], p[i::1000]) for i in range(1000)]
    assert value == pytest.approx(sum(part for part, _ in parts), rel=1e-12)
    for i, (_, part) in enumerate(parts):
        assert np.array_equal(gradient[i::1000], part)
