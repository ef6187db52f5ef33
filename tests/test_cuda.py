"""The losses on GPU arrays: on the host's emulation of the device code always, on a card if any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastloss
from cases import (
    SPECS,
    assert_close,
    by_sample,
    cases,
    describe,
    draw,
    dtypes,
    losses,
    make,
    one_class_is_allowed,
    resolved,
    same_bits,
    value_shape,
)
from composition import Call
from device import ROOT, SANITIZERS, Device, DeviceArray, build_emulation, counted
from fastloss._registry import LossSpec

pytestmark = one_class_is_allowed

REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight", None]


def both(spec: LossSpec) -> Any:
    return "y_pred" if spec.labels == "integer" else "both"


def agree(
    device: Device, spec: LossSpec, options: Any, reduction: Any, t: Any, p: Any, **arrays: Any
) -> None:
    """Value and gradients on the device are those of the CPU."""
    loss = make(spec, options, reduction=reduction)
    value, grads = loss.value_and_grad(t, p, wrt=both(spec), **arrays)
    on_device = {k: device.put(a) if isinstance(a, np.ndarray) else a for k, a in arrays.items()}
    ours, our_grads = loss.value_and_grad(device.put(t), device.put(p), wrt=both(spec), **on_device)
    assert isinstance(ours, device.cupy.ndarray)
    weights = {k: arrays[k] for k in ("sample_weight", "mask") if k in arrays}
    call = Call(spec, t, p, options, reduction=reduction, **weights)
    # The terms of a cosine cancel; they are of the order of one.
    scale = 1 if spec.name == "cosine_similarity" else call.value_scale()
    assert_close(device.get(ours), value, value.dtype, scale=scale)
    pairs = [(our_grads, grads)] if both(spec) == "y_pred" else zip(our_grads, grads, strict=True)
    for ours, theirs in pairs:
        slopes = np.abs(theirs).mean() if theirs.size else 0
        # A row of one class: a difference that may be exactly zero, as in test_gradients.
        alone = 4 * np.abs(call.coefficients()).mean() if call.grid[1] == 1 else 0
        assert_close(device.get(ours), theirs, p.dtype, scale=slopes + alone)


@dtypes
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", None])
@pytest.mark.parametrize("shape", [(1,), (3,), (423,), (3, 423), (5, 3, 17)], ids=str)
@cases
def test_value_and_gradients_are_the_cpus(
    device: Device,
    spec: LossSpec,
    options: Any,
    shape: Any,
    reduction: Any,
    dtype: Any,
    rng: Any,
) -> None:
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, dtype, rng)
    agree(device, spec, options, reduction, t, p)


# Teams of every size, rows in parts, several parts per sum, more rows than blocks hold at once.
LONG_SHAPES = [
    (700, 8), (300, 13), (200, 30), (99, 60), (40, 127), (9, 1024), (5, 1025), (3, 16385),
    (3, 32000), (2, 40003), (1, 70001),
]  # fmt: skip


@pytest.mark.parametrize("reduction", ["sum", None])
@pytest.mark.parametrize("shape", LONG_SHAPES, ids=str)
@losses
def test_rows_of_any_length_agree(
    device: Device, spec: LossSpec, shape: Any, reduction: Any, rng: Any
) -> None:
    t, p = draw(spec, by_sample(spec), shape, np.float32, rng)
    agree(device, spec, by_sample(spec), reduction, t, p)


@pytest.mark.parametrize("shape", [(2, 40003), (4, 3, 6)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@losses
def test_weights_and_masks_agree(
    device: Device, spec: LossSpec, reduction: Any, shape: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, shape, np.float64, rng)
    p.reshape(-1)[0] = np.nan  # hidden by the zero weight of the first row
    rows = shape[:-1]
    weight = rng.uniform(0.5, 2, rows)
    weight.reshape(-1)[0] = 0
    mask = rng.random(rows) < 0.7
    mask.reshape(-1)[-1] = True
    agree(device, spec, options, reduction, t, p, sample_weight=weight)
    agree(device, spec, options, reduction, t, p, sample_weight=weight, mask=mask)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("spec", [s for s in SPECS if s.kind == "map"], ids=describe)
def test_weights_of_elements_agree(
    device: Device, spec: LossSpec, reduction: Any, rng: Any
) -> None:
    t, p = draw(spec, {}, (7, 29), np.float64, rng)
    weight, mask = rng.uniform(0.5, 2, (7, 29)), rng.random((7, 29)) < 0.7
    agree(device, spec, {}, reduction, t, p, sample_weight=weight, mask=mask)
    agree(device, spec, {}, reduction, t, p, sample_weight=weight[:, 0].copy(), mask=mask)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ignored_class_does_not_count(device: Device, reduction: Any, rng: Any) -> None:
    spec = next(s for s in SPECS if s.name == "sparse_categorical_crossentropy")
    options = {"from_logits": True, "ignore_class": -1}
    t, p = draw(spec, options, (50, 11), np.float64, rng)
    t[::3] = -1
    agree(device, spec, options, reduction, t, p, sample_weight=rng.uniform(0.5, 2, 50))


@pytest.mark.parametrize("shape", [(6, 5), (2, 40003)], ids=str)
@losses
def test_upstream_multiplies_the_gradient(
    device: Device, spec: LossSpec, shape: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, shape, np.float64, rng)
    upstream = rng.normal(size=value_shape(spec, options, shape))
    agree(device, spec, options, None, t, p, upstream=upstream)
    agree(device, spec, options, None, t, p, upstream=-2.5)
    agree(device, spec, options, "sum_over_batch_size", t, p, upstream=np.array(-2.5))


@pytest.mark.parametrize(
    "stored", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=lambda d: d.__name__
)
@losses
def test_halves_are_widened_and_gradients_rounded_once(
    device: Device, spec: LossSpec, stored: Any, rng: Any
) -> None:
    if not device.is_emulated and stored is ml_dtypes.bfloat16:
        pytest.importorskip("cupy", minversion="14", reason="CuPy has bfloat16 since 14")
    options = by_sample(spec)
    t, p = draw(spec, options, (37, 24), np.float32, rng)
    t, p = (t if spec.labels == "integer" else t.astype(stored)), p.astype(stored)
    loss = make(spec, options)
    value, grad = loss.value_and_grad(t, p)
    ours, our_grad = loss.value_and_grad(device.put(t), device.put(p))
    assert device.get(ours).dtype == value.dtype
    assert device.get(our_grad).dtype == stored
    units = {2: 2**-7 if stored is ml_dtypes.bfloat16 else 2**-10}.get(p.itemsize, 2e-6)
    np.testing.assert_allclose(device.get(ours), value, rtol=2e-6)
    theirs = grad.astype(np.float64)
    error = np.abs(device.get(our_grad).astype(np.float64) - theirs)
    assert (error <= units * (np.abs(theirs) + np.abs(theirs).mean())).all()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "int32", "uint32", "int64"])
def test_targets_of_any_real_dtype_are_converted(device: Device, dtype: str, rng: Any) -> None:
    spec = next(s for s in SPECS if s.name == "mean_squared_error")
    t, p = rng.integers(0, 2, (9, 21)).astype(dtype), rng.normal(size=(9, 21))
    loss = make(spec, {})
    value, grad = loss.value_and_grad(t, p)
    ours, our_grad = loss.value_and_grad(device.put(t), device.put(p))
    assert_close(device.get(ours), value, np.float64)
    assert_close(device.get(our_grad), grad, np.float64)


@pytest.mark.parametrize("labels", [(0, 1), (-1, 1), (0, 1, -1)], ids=str)
@pytest.mark.parametrize("shape", [(5, 8), (1, 40003)], ids=str)
@pytest.mark.parametrize("name", ["hinge", "squared_hinge"])
def test_labels_0_and_1_stand_for_signs(
    device: Device, name: str, shape: Any, labels: Any, rng: Any
) -> None:
    spec = next(s for s in SPECS if s.name == name)
    t, p = rng.choice(labels, shape).astype(np.float64), rng.normal(size=shape)
    t[-1, -1] = labels[-1]
    agree(device, spec, {}, "sum_over_batch_size", t, p)


@pytest.mark.parametrize(
    "layout",
    [
        lambda a: np.repeat(a, 2, -1)[..., ::2],
        lambda a: a[::-1].copy()[::-1],
        np.asfortranarray,
        lambda a: np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 3)])[..., :-3],
    ],
    ids=["every other", "reversed", "fortran", "padded"],
)
@losses
def test_layout_does_not_change_a_bit(
    device: Device, spec: LossSpec, layout: Any, rng: Any
) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (7, 5, 24), np.float32, rng)
    loss = make(spec, options)
    expected = loss.value_and_grad(device.put(t), device.put(p))
    actual = loss.value_and_grad(device.put(layout(t)), device.put(layout(p)))
    for a, b in zip(actual, expected, strict=True):
        assert same_bits(device.get(a), device.get(b))


@pytest.mark.parametrize("shape", [(4099, 9), (3, 70001)], ids=str)
@losses
def test_results_have_the_same_bits_every_time(
    device: Device, spec: LossSpec, shape: Any, rng: Any
) -> None:
    # The emulation runs the blocks in another order each time.
    t, p = (device.put(a) for a in draw(spec, {}, shape, np.float32, rng))
    loss = make(spec, {})
    first, again = loss.value_and_grad(t, p), loss.value_and_grad(t, p)
    for a, b in zip(first, again, strict=True):
        assert same_bits(device.get(a), device.get(b))


@losses
def test_out_may_be_y_pred_itself(device: Device, spec: LossSpec, rng: Any) -> None:
    t, p = draw(spec, {}, (5, 423), np.float32, rng)
    loss = make(spec, {})
    expected = device.get(loss.value_and_grad(device.put(t), device.put(p))[1])
    y_pred = device.put(p.copy())
    grad = loss.value_and_grad(device.put(t), y_pred, out=y_pred)[1]
    assert grad is y_pred
    assert same_bits(device.get(y_pred), expected)


@losses
def test_out_that_overlaps_another_input_is_filled_last(
    device: Device, spec: LossSpec, rng: Any
) -> None:
    t, p = draw(spec, {}, (4, 30), np.float32, rng)
    loss = make(spec, {})
    expected = device.get(loss.value_and_grad(device.put(t), device.put(p))[1])
    memory = np.zeros((6, 30), np.float32)
    memory[:4] = p
    y_pred, out = memory[:4], memory[1:5]
    if device.is_emulated:
        arrays = device.put(y_pred), device.put(out)
    else:
        whole = device.cupy.asarray(memory)
        arrays = whole[:4], whole[1:5]
    grad = loss.value_and_grad(device.put(t), arrays[0], out=arrays[1])[1]
    assert grad is arrays[1]
    assert same_bits(device.get(grad), expected)


@pytest.mark.parametrize("label", [-1, 6, 2**31, 2.5, np.nan])
@pytest.mark.parametrize("shape", [(3, 6), (3, 40000)], ids=str)
def test_label_out_of_range_is_nan_with_a_zero_gradient(
    device: Device, label: Any, shape: Any, rng: Any
) -> None:
    if label == 6:
        label = shape[-1]
    t = np.array([0, label, 1], np.float64 if isinstance(label, float) else np.int64)
    p = rng.normal(size=shape)
    loss = fastloss.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    values, grad = (device.get(a) for a in loss.value_and_grad(device.put(t), device.put(p)))
    good = loss.value_and_grad(t[::2].astype(np.int64), p[::2].copy())
    np.testing.assert_array_equal(np.isnan(values), [False, True, False])
    np.testing.assert_allclose(values[::2], good[0], rtol=1e-13)
    assert (grad[1] == 0).all()
    np.testing.assert_allclose(grad[::2], good[1], rtol=1e-12, atol=1e-15)


@losses
def test_empty_batches_are_as_on_the_cpu(device: Device, spec: LossSpec) -> None:
    options = by_sample(spec)
    for lead in [(0,), (0, 3)]:
        p = np.zeros((*lead, 4), np.float32)
        t = np.zeros(lead if spec.labels == "integer" else p.shape, np.float32)
        value, grad = make(spec, options).value_and_grad(t, p)
        ours, our_grad = make(spec, options).value_and_grad(device.put(t), device.put(p))
        np.testing.assert_array_equal(device.get(ours), value)
        assert device.get(our_grad).shape == grad.shape


def test_functions_take_gpu_arrays(device: Device, rng: Any) -> None:
    t, p = rng.normal(size=(2, 5, 8))
    values = fastloss.huber(device.put(t), device.put(p), delta=0.5)
    np.testing.assert_allclose(device.get(values), fastloss.huber(t, p, delta=0.5), rtol=1e-14)


def test_dtype_casts_y_pred(device: Device, rng: Any) -> None:
    t, p = rng.normal(size=(2, 5, 8))
    value = fastloss.MeanSquaredError(dtype="float32")(device.put(t), device.put(p))
    assert device.get(value).dtype == np.float32


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(8, 10), (2, 70001)], ids=str)
@losses
def test_calls_can_be_captured_in_a_graph(spec: LossSpec, shape: Any, rng: Any) -> None:
    # Which also shows that nothing waits for the device, and that the current stream is used.
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    t, p = (cupy.asarray(a) for a in draw(spec, {}, shape, np.float32, rng))
    loss, out = make(spec, {}), cupy.empty_like(p)
    expected = loss.value_and_grad(t, p)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        loss.value_and_grad(t, p, out=out)  # kernels are loaded at the first call
        stream.synchronize()
        out.fill(np.nan)
        stream.begin_capture()
        value, _ = loss.value_and_grad(t, p, out=out)
        graph = stream.end_capture()
        graph.launch()
        stream.synchronize()
    assert same_bits(value.get(), expected[0].get())
    assert same_bits(out.get(), expected[1].get())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@losses
def test_small_batches_are_one_launch(
    emulated: Device, spec: LossSpec, reduction: Any, rng: Any
) -> None:
    t, p = (emulated.put(a) for a in draw(spec, {}, (32, 10), np.float32, rng))
    loss = make(spec, {}, reduction=reduction)
    # Of a hinge, whether all labels are 0 and 1 has to be known before.
    needed = 2 if spec.name in ("hinge", "squared_hinge") else 1
    assert counted("emulated_launches", lambda: loss.value_and_grad(t, p)) == needed


@pytest.mark.usefixtures("emulated")
def test_info_lists_devices() -> None:
    import fastloss.cuda

    lines = fastloss.cuda.info().splitlines()
    assert lines[:3] == ["kernels: emulated", "runtime: none", "driver: none"]
    assert lines[3].startswith("device 0: emulated, compute capability 0.0, 1 multiprocessors")


def test_without_cuda_kernels_the_error_says_how_to_build_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "fastloss._cuda", None)
    monkeypatch.delattr(fastloss, "_cuda", raising=False)
    p = DeviceArray(np.ones((2, 3)))
    with pytest.raises(RuntimeError, match="built without; build them with FASTLOSS_CUDA=13"):
        fastloss.MeanSquaredError()(p, p)


def test_without_cupy_the_error_says_how_to_install_it(
    emulated: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = emulated.put(np.ones((2, 3)))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"^GPU arrays need CuPy: pip install 'fastloss\[cuda13"):
        fastloss.MeanSquaredError()(p, p)


# ---- The device code itself ----


def test_launches_are_cut_so_that_kernels_can_run_them(tmp_path: Path) -> None:
    program = tmp_path / "cuts"
    sources = [str(ROOT / s) for s in ("tests/cuda/cuts.cpp", "csrc/cuda/cuts.cpp")]
    compiler = os.environ.get("CXX", "g++")
    subprocess.run(
        [compiler, "-std=c++17", "-O1", f"-I{ROOT / 'csrc'}", *sources, "-o", str(program)],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


SANITIZED = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import fastloss, numpy as np, pytest
from pathlib import Path
from cases import CASES, draw, make, resolved, value_shape
from device import install

device = install(Path(sys.argv[2]), pytest.MonkeyPatch())
rng = np.random.default_rng(0)
for shape in [(1,), (3,), (3, 423), (2, 2053), (1, 32000), (1, 32779)]:
    for spec, options in CASES:
        if shape[-1] > 3000 and options:
            continue
        t, p = draw(spec, resolved(spec, options, shape), shape, np.float32, rng)
        weight = np.ones(value_shape(spec, options, shape))
        wrt = "y_pred" if spec.labels == "integer" else "both"
        loss = make(spec, resolved(spec, options, shape))
        put = [device.put(a.copy()) for a in (t, p, weight)]
        loss.value_and_grad(put[0], put[1], wrt=wrt, sample_weight=put[2])
rng = np.random.default_rng(1)
for batch, frames, classes, labels in [(1, 1, 1, 0), (1, 1, 2, 1), (3, 9, 5, 2), (2, 40, 70, 19)]:
    t = rng.integers(0, classes, (batch, labels))
    x = rng.normal(size=(batch, frames, classes)).astype(np.float32)
    loss = fastloss.CTC()
    put = [device.put(a.copy()) for a in (t, x, np.ones(batch), np.full(batch, frames))]
    loss.value_and_grad(put[0], put[1], sample_weight=put[2], logit_length=put[3])
    loss(put[0], put[1])
for n in [1, 3, 423]:
    p = rng.normal(size=(n, 7)).astype(np.float32)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    fastloss.Circle().value_and_grad(device.put(rng.integers(0, 3, n)), device.put(p))
print("clean")
"""


def test_sanitizers_find_nothing_in_the_device_code(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX", "g++")
    found = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("the compiler has no address sanitizer")
    library = build_emulation(tmp_path, SANITIZERS)
    stdcxx = subprocess.run(
        [compiler, "-print-file-name=libstdc++.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(Path(__file__).parent), str(library)],
        env={
            **os.environ,
            "LD_PRELOAD": f"{found}:{stdcxx}",
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "PYTHONMALLOC": "malloc",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "clean\n", done.stderr[-4000:]


ENDS = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
import fastloss, numpy as np, pytest
from pathlib import Path
from device import install

device = install(Path(sys.argv[2]), pytest.MonkeyPatch())
x = device.put(np.ones((64, 400)))
def work():
    while True:
        fastloss.LogCosh().value_and_grad(x, x)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
print("end")
"""


def test_process_may_end_while_a_daemon_enqueues(emulation: Path) -> None:
    command = [sys.executable, "-c", ENDS, str(Path(__file__).parent), str(emulation)]
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr[-4000:]
