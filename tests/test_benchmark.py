"""The benchmark: what it writes, whom it refuses to time, and what its floor moves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss
import floor
import goals
import memory
import run
from card import CardInputs
from fastloss._registry import REGISTRY
from sides import Side, all_sides
from summaries import lines_of
from timing import DifferentError, check
from workload import Case, Inputs, cases, shape_of

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_command_writes_results_report_and_charts(tmp_path: Path) -> None:
    for package in ("keras", "matplotlib", "rich", "threadpoolctl"):
        pytest.importorskip(package)
    losses = ["huber", "sparse_categorical_crossentropy"]
    arguments = ["--loss", *losses, "--size", "3x50", "--peer", "keras", "--parts", "time"]
    done = benchmark(*arguments, "--seconds", "0", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["failures"] == []
    assert results["machine"].keys() >= {"processor", "cores", "memory", "caches"}
    assert results["versions"].keys() >= {"Python", "fastloss", "numpy", "keras"}
    tensorflow = [f"{who} {how}" for who in ("fastloss TF", "Keras") for how in ("eager", "graph")]
    for loss in [*losses, "sparse_categorical_crossentropy (logits)"]:
        for gradient in (True, False):
            timings = {
                timing["side"]: timing
                for timing in results["timings"]
                if (timing["loss"], timing["gradient"]) == (loss, gradient)
            }
            assert timings.keys() >= {"fastloss NumPy", *tensorflow}
            for timing in timings.values():
                assert timing["shape"] == [3, 50]
                assert timing["bytes"] == 600 * ((1 if "sparse" in loss else 2) + gradient)
                assert 0 < timing["best"] <= timing["q25"] <= timing["median"] <= timing["q75"]
    report = (tmp_path / "RESULTS.md").read_text()
    for image in tmp_path.glob("*.png"):
        assert f"]({image.name})" in report
        assert image.read_bytes()[25] == 3  # the colour type: a palette, a quarter of the bytes
    assert len(list(tmp_path.glob("time-*.png"))) == 2
    assert {"overview.png", "floor.png"} <= {image.name for image in tmp_path.glob("*.png")}
    assert "sparse_categorical_crossentropy (logits)" in done.stdout


def test_device_cuda_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = benchmark("--device", "cuda")
    assert done.returncode == 2
    assert "--device cuda needs CuPy and a GPU" in done.stderr


def test_device_cuda_with_the_host_for_a_card(emulation: Path, tmp_path: Path) -> None:
    for package in ("matplotlib", "rich", "threadpoolctl"):
        pytest.importorskip(package)
    script = Path(__file__).with_name("benchmark_on_host.py")
    options = ["--loss", "huber", "sparse_categorical_crossentropy", "--size", "6x50"]
    options += ["--peer", "cupy", "jax", "--seconds", "0", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(script), str(emulation), "--device", "cuda", *options],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["failures"] == []
    timings = {(t["loss"], t["gradient"], t["side"]): t for t in results["timings"]}
    for loss in ("huber", "huber (bfloat16)", "sparse_categorical_crossentropy (logits)"):
        for side in ("fastloss CuPy", "fastloss CuPy, graph", "floor, copy"):
            for gradient in (True, False):
                assert timings[loss, gradient, side]["warm"] > 0
    for loss in ("huber", "sparse_categorical_crossentropy (logits)"):
        assert (loss, True, "CuPy expressions") in timings
    assert timings["huber (bfloat16)", True, "floor, copy"]["bytes"] == 6 * 50 * 2 * 3
    assert results["calls"][0]["call"] == "an empty kernel"
    report = (tmp_path / "RESULTS.md").read_text()
    for title in ("% of copy", "fastloss on CuPy arrays", "warm L2 cache", "What a call takes"):
        assert title in report


@pytest.mark.parametrize(("rows", "classes"), [(64, 10), (7, 3_000_000), (8192, 1000)])
def test_inputs_of_a_card_are_rows_that_repeat(
    rows: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark_on_host import HostCard

    inputs = CardInputs(Case("categorical_crossentropy", (rows, classes), dtype="bf16"), HostCard())
    t, p = (a.held for a in inputs.cupy[0])
    drawn = inputs.numpy[0][1]
    assert t.shape == p.shape == (rows, classes)
    assert drawn.shape[0] * inputs.repeats == rows
    assert drawn.size <= max(4_000_000, classes)
    np.testing.assert_array_equal(p[-len(drawn) :], drawn)
    loss = fastloss.CategoricalCrossentropy()
    wide = [a.astype(np.float32) for a in (t, p)]
    few = [a.astype(np.float32) for a in inputs.numpy[0]]
    value, grad = inputs.comparable(loss.value_and_grad(*wide))
    expected = loss.value_and_grad(*few)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-5)


@pytest.mark.parametrize("peer", ["nobody", "keras torches"])
def test_unknown_peer_is_an_error(peer: str) -> None:
    with pytest.raises(SystemExit, match=r"--peer: .* is none of"):
        run.choose(all_sides(threads=1), peer.split(), print_nothing())


def print_nothing() -> Any:
    from rich.console import Console

    return Console(quiet=True)


def test_peer_that_is_not_installed_is_left_out_with_a_line() -> None:
    absent = Side("Absent eager", "no_such_package", lambda *_: None)
    sides, lines = run.choose([*all_sides(threads=1), absent], [], print_nothing())
    assert absent not in sides
    assert "Absent eager is left out: no_such_package is not installed" in lines


def spoiled(what: str, by: Any) -> Side:
    """A side that computes what fastloss computes, but for one result."""
    numpy_side = all_sides(threads=1)[0]

    def make(case: Case, inputs: Inputs, gradient: bool) -> Any:
        call = numpy_side.make(case, inputs, gradient)
        assert call is not None

        def wrong(i: int) -> Any:
            value, *grad = call(i)
            if what == "value":
                return (value * np.float32(by), *grad)
            grad[0].flat[-1] *= by
            return (value, *grad)

        return wrong

    return Side("wrong", "numpy", make)


@pytest.mark.parametrize("what", ["value", "gradient"])
@pytest.mark.parametrize("by", [1.001, -1, np.nan])
def test_wrong_side_is_reported_and_not_timed(what: str, by: float) -> None:
    numpy_side, case = all_sides(threads=1)[0], Case("mean_squared_error", (2, 30))
    calls = run.Benchmark([numpy_side, spoiled(what, 1)], 0, 1).checked_calls(
        case, Inputs(case), True
    )
    assert calls.keys() == {numpy_side.name, "wrong"}  # the spoiling alone is no error
    found = run.Benchmark([numpy_side, spoiled(what, by)], 0, 1)
    found.measure(case)
    assert {timing["side"] for timing in found.timings if timing["gradient"]} == {numpy_side.name}
    message = f"wrong, mean_squared_error, 2x30: {what}"
    assert any(line.startswith(message) for line in found.failures)


class Clock:
    """By which every call takes three seconds."""

    warming_seconds = 0.0

    def seconds(self, call: Callable[[int], Any], sets: list[int]) -> float:
        call(sets[0])
        return 3.0


def test_what_the_cache_does_not_hold_is_timed_in_parts_that_it_does() -> None:
    found = run.Benchmark([all_sides(threads=1)[0]], 0, threads=2)
    found.timer = Clock()
    for rows in (40, 430):
        found.measure(Case("mean_squared_error", (rows, 1000)))
    computing = {
        timing["shape"][0]: timing.get("computing")
        for timing in found.timings
        if timing["gradient"]
    }
    # Of half a megabyte, 43 rows of 12,000 bytes: a tenth, on one of two threads.
    assert computing == {40: None, 430: pytest.approx(3 * 10 / 2)}
    line = lines_of([t | {"computing": 0.005} for t in timings(0.01, 0.02, 0.004)])[0]
    assert line.share_in_cache == pytest.approx(80)
    assert Case("huber", (3, 1000)).part(11_999) is None


def test_results_of_another_shape_or_number_are_different() -> None:
    value, grad = np.array(1.0), np.ones((2, 3))
    check([value, grad], [value, grad])
    for wrong in ([value], [value, grad[:1]], [grad, grad]):
        with pytest.raises(DifferentError):
            check(wrong, [value, grad])


@pytest.mark.skipif(floor.compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("elements", [1, 15, 16, 1000, 100_003])
@pytest.mark.parametrize("loss", ["mean_squared_error", "sparse_categorical_crossentropy"])
def test_floor_reads_and_writes_every_element_once(
    loss: str, elements: int, threads: int, streaming: bool
) -> None:
    case = Case(loss, (1, elements))
    inputs = Inputs(case)
    t, p = inputs.numpy[1]
    p[...] = np.arange(elements) % 251  # small integers: their sums are exact
    expected = p.copy()
    if case.reads_targets:
        t[...] = 1000 * (np.arange(elements) % 7)
        expected += t
    inputs.gradients[1][...] = np.nan
    options = {"threads": threads, "streaming": streaming}
    assert floor.make(case, inputs, False, **options)(1) == expected.sum(dtype=np.float64)
    assert np.isnan(inputs.gradients[1]).all()
    floor.make(case, inputs, True, **options)(1)
    np.testing.assert_array_equal(inputs.gradients[1], expected)


def test_bytes_are_those_of_the_arrays_that_must_be_moved() -> None:
    case = Case("huber", (3, 5))
    t, p = Inputs(case).numpy[0]
    assert (case.bytes(True), case.bytes(False)) == (t.nbytes + 2 * p.nbytes, t.nbytes + p.nbytes)
    labels = Case("sparse_categorical_crossentropy", (3, 5))
    assert (labels.bytes(True), labels.bytes(False)) == (2 * p.nbytes, p.nbytes)
    region = Case("dice", (3, 5))
    assert (region.bytes(True), region.bytes(False)) == (5 * p.nbytes, 2 * p.nbytes)


def test_inputs_start_at_a_cache_line_and_are_several() -> None:
    inputs = Inputs(Case("huber", (3, 5)))
    assert len(inputs) > 2
    for (t, p), g in zip(inputs.numpy, inputs.gradients, strict=True):
        assert [x.ctypes.data % 64 for x in (t, p, g)] == [0, 0, 0]


def test_pairs_of_very_many_embeddings_are_left_out() -> None:
    assert [case.shape for case in cases(["circle"], [(512, 128), (65536, 10)])] == [(512, 128)]


def test_every_loss_of_the_registry_is_measured_in_all_its_modes() -> None:
    assert {case.name for case in cases()} == {spec.name for spec in REGISTRY}
    with_logits = {s.name for s in REGISTRY if any(p.name == "from_logits" for p in s.parameters)}
    assert {case.name for case in cases() if case.from_logits} == with_logits


@pytest.mark.parametrize(
    ("text", "shape"),
    [("100", (1, 100)), ("10k", (10, 1000)), ("16M", (16000, 1000)), ("512x32k", (512, 32000))],
)
def test_size_of_the_command_line(text: str, shape: tuple[int, ...]) -> None:
    assert shape_of(text) == shape


@pytest.mark.parametrize("text", ["", "0", "x", "10x", "-3", "1e5", "ten"])
def test_size_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="size: expected"):
        shape_of(text)


def test_loss_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="loss: there is no 'hubert'"):
        list(cases(["huber", "hubert"]))


def timings(ours: float, peer: float, moving: float) -> list[dict[str, Any]]:
    common = {"loss": "huber", "shape": (16000, 1000), "gradient": True, "bytes": 192_000_000}
    sides = {"fastloss NumPy": ours, "JAX jit": peer, "floor": moving, "floor, 1 thread": 1.0}
    return [common | {"side": side, "median": median} for side, median in sides.items()]


def test_goals_are_met_or_missed_by_what_was_measured() -> None:
    def met(*seconds: float) -> dict[str, bool]:
        found = goals.outcomes(lines_of(timings(*seconds)))
        return {o.goal.text: not o.missed for o in found if o.worst is not None}

    assert set(met(0.010, 0.021, 0.0091).values()) == {True}
    assert met(0.010, 0.019, 0.0089) == {
        "% of floor, 16M: MSE, MAE, MAPE, Huber, hinges": False,
        "% of floor, 16M: any loss": True,
        "times the fastest peer, from 1M elements": False,
        "times the fastest peer, any size": True,
    }


@pytest.mark.skipif(not (memory.PROCESS / "clear_refs").exists(), reason="needs Linux's /proc")
def test_growth_of_the_process_is_what_a_call_allocates() -> None:
    size = 1 << 27
    assert abs(memory.growth(lambda: np.ones(size, np.uint8)) - size) < size / 10
    assert memory.growth(lambda: None) < size / 10
