"""How the device code does rows: kept or not, one after the other, by clusters of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cases import SPECS, by_sample, describe, draw, make, one_class_is_allowed, same_bits
from device import Device, counted, emulation
from fastloss._registry import LossSpec
from test_cuda import agree

pytestmark = one_class_is_allowed

IN_ROWS = [s for s in SPECS if s.kind != "map"]
ROWS = [(s, by_sample(s)) for s in IN_ROWS] + [
    (s, {"from_logits": True})
    for s in IN_ROWS
    if any(p.name == "from_logits" for p in s.parameters)
]
rows = pytest.mark.parametrize(("spec", "options"), ROWS, ids=describe)

# Rows of warps, of blocks and of clusters; the last are too many to be cut into parts.
SHAPES = [(77, 100), (4, 3000), (3, 24000), (20, 32776)]

# A device of every kind: one that keeps no rows, those without clusters, and one more with.
CAPABILITIES = [70, 75, 80, 89, 120]


@pytest.fixture
def emulate(emulated: Device) -> Iterator[Callable[[int, int], None]]:
    """Makes the emulation a device of a compute capability, with so many clusters at most."""
    function = emulation().emulate
    yield function
    function(90, 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@rows
def test_rows_agree_with_the_cpu(
    device: Device, spec: LossSpec, options: Any, shape: Any, rng: Any
) -> None:
    t, p = draw(spec, options, shape, np.float32, rng)
    agree(device, spec, options, None, t, p)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("capability", CAPABILITIES)
@rows
def test_every_kind_of_device_agrees_with_the_cpu(
    emulated: Device, emulate: Any, spec: LossSpec, options: Any, capability: int, shape: Any,
    rng: Any,
) -> None:  # fmt: skip
    emulate(capability, 0)
    t, p = draw(spec, options, shape, np.float32, rng)
    agree(emulated, spec, options, None, t, p)


@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("shape", [(900, 9), (40, 264), (5, 2056), (4, 12000)], ids=str)
@rows
def test_blocks_that_do_many_rows_keep_one_after_the_other(
    emulated: Device, emulate: Any, spec: LossSpec, options: Any, shape: Any, dtype: Any, rng: Any
) -> None:
    t, p = draw(spec, options, shape, np.float32, rng)
    weight = rng.uniform(0.5, 2, shape[0])
    weight[1::3] = 0  # of such a row nothing is kept
    arrays = [a if a.dtype.kind in "iu" else a.astype(dtype) for a in (t, p)]
    on_device = [emulated.put(a) for a in (*arrays, weight)]

    def results() -> Any:
        loss = make(spec, options, reduction=None)
        t, p, weight = on_device
        return loss.value_and_grad(t, p, sample_weight=weight)

    expected = results()
    emulate(90, 1)
    for a, b in zip(results(), expected, strict=True):
        assert same_bits(emulated.get(a), emulated.get(b))


@pytest.mark.parametrize("shape", [(64, 128), (3, 16384)], ids=str)
@rows
def test_what_is_kept_changes_no_bit(
    emulated: Device, emulate: Any, spec: LossSpec, options: Any, shape: Any, rng: Any
) -> None:
    t, p = (emulated.put(a) for a in draw(spec, options, shape, np.float32, rng))
    loss = make(spec, options, reduction=None)
    emulate(70, 0)
    expected = loss.value_and_grad(t, p)
    emulate(80, 0)
    for a, b in zip(loss.value_and_grad(t, p), expected, strict=True):
        assert same_bits(emulated.get(a), emulated.get(b))


@pytest.mark.parametrize("shape", [(64, 128), (3, 16384), (20, 65536)], ids=str)
@rows
def test_rows_that_are_read_again_are_copied_once(
    emulated: Device, emulate: Any, spec: LossSpec, options: Any, shape: Any, rng: Any
) -> None:
    arrays = draw(spec, options, shape, np.float32, rng)
    t, p = (emulated.put(a) for a in arrays)
    loss = make(spec, options)
    has_one_array = spec.labels == "integer" or not spec.uses_target
    words = arrays[1].nbytes // 16 * (1 if has_one_array else 2)
    # How often the value alone reads the classes; the gradient reads them once more.
    if spec.name == "categorical_generalized_cross_entropy":
        sweeps = 0
    elif spec.kind == "region" or (spec.name == "confidence_penalty" and not options):
        sweeps = 1
    else:
        sweeps = 2
    copies = [
        counted("emulated_copies", lambda: loss.value_and_grad(t, p)),
        counted("emulated_copies", lambda: loss(t, p)),
    ]
    assert copies == [words * (sweeps > 0), words * (sweeps > 1)]
    emulate(70, 0)
    assert counted("emulated_copies", lambda: loss.value_and_grad(t, p)) == 0


@rows
def test_rows_of_a_wider_array_are_kept_if_they_are_aligned(
    emulated: Device, spec: LossSpec, options: Any, rng: Any
) -> None:
    t, p = draw(spec, options, (64, 128), np.float32, rng)
    wide = {n: np.pad(p, [(0, 0), (0, n)])[:, :-n] for n in (8, 3)}
    loss = make(spec, options)
    results = {}

    def call(n: int) -> None:
        results[n] = loss.value_and_grad(emulated.put(t), emulated.put(p if n == 0 else wide[n]))

    copies = {n: counted("emulated_copies", partial(call, n)) for n in (0, 8, 3)}
    assert copies[8] == copies[0]
    assert copies[3] < copies[0] or copies[0] == 0
    for n in (8, 3):
        for a, b in zip(results[n], results[0], strict=True):
            assert same_bits(emulated.get(a), emulated.get(b))
