"""The command line: what it prints, writes and returns."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss
import fastloss.__main__ as command_line
from fastloss import _bench, _check, _core, _info
from fastloss._registry import REGISTRY

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Runs a command: its exit status, what it printed, and its complaints."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastloss", *arguments])
        try:
            status: Any = command_line.main()
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_console_script_is_the_module() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert '\n[project.scripts]\nfastloss = "fastloss.__main__:main"\n' in project


def test_version(run: Any) -> None:
    assert run("--version")[:2] == (0, f"fastloss {fastloss.__version__}\n")


def test_unknown_command_names_the_known(run: Any) -> None:
    status, _, err = run("bake")
    assert status == 2
    assert all(name in err for name in ("info", "list", "check", "plot", "bench", "demo"))


# ---- list and info ----


def test_list_as_json_is_the_registry(run: Any) -> None:
    rows = json.loads(run("list", "--json")[1])
    assert [r["class"] for r in rows] == [spec.class_name for spec in REGISTRY]
    huber = next(r for r in rows if r["function"] == "huber")
    assert huber["parameters"] == {"delta": 1.0}
    assert "huber_loss" in huber["aliases"]


def test_list_names_every_loss_and_its_options(run: Any) -> None:
    status, out, _ = run("list")
    assert status == 0
    for spec in REGISTRY:
        assert f"{spec.class_name}({command_line.options_of(spec)})" in out
        assert spec.summary in out


def test_info_as_json_and_as_text(run: Any) -> None:
    found = json.loads(run("info", "--json", "--quick")[1])
    assert found["fastloss"] == fastloss.__version__
    assert found["instruction set"] == _core.instruction_set()
    assert found["instruction set"] in found["instruction sets"]
    assert found["numpy"] == np.__version__
    assert found["CUDA"]
    text = run("info", "--quick")[1]
    assert all(key in text for key in found)


@pytest.mark.skipif(sys.platform != "linux", reason="libraries of a process are listed on Linux")
def test_info_names_the_openmp_library() -> None:
    assert any("omp" in name for name in _info.openmp())


def test_info_says_what_tensors_run_on() -> None:
    pytest.importorskip("tensorflow")
    from fastloss.tensorflow import backend

    assert _info.tensorflow() == backend()


# ---- check ----


def test_check_passes_everywhere_and_covers_every_loss(run: Any) -> None:
    status, out, _ = run("check", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["ok"]
    for isa in _core.instruction_sets():
        checked = {r["loss"] for r in report["results"] if r["where"] == isa}
        assert checked == {spec.name for spec in REGISTRY}
    assert all(0 <= r["worst"] <= 1 and r["cases"] for r in report["results"])


def test_check_covers_every_option() -> None:
    tried = {(case["loss"], name) for case, _ in _check.reference() for name in case["options"]}
    for spec in REGISTRY:
        if not spec.batched:
            parameters = {p.name for p in spec.parameters}
            missing = {name for name in parameters if (spec.class_name, name) not in tried}
            assert missing <= {"axis"}, spec.name


@pytest.mark.parametrize("name", ["value", "grad_pred", "grad_true"])
def test_check_finds_a_wrong_result(
    name: str, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with np.load(_check.REFERENCE) as stored:
        arrays = dict(stored)
    number = next(
        i for i, case in enumerate(json.loads(str(arrays["cases"]))) if case["loss"] == "Huber"
    )
    arrays[f"{number}.{name}"].flat[-1] *= 1 + 1e-12  # of which only float64 can tell
    monkeypatch.setattr(_check, "REFERENCE", tmp_path / "reference.npz")
    np.savez(tmp_path / "reference.npz", **arrays)
    monkeypatch.setattr(_core, "instruction_sets", list)  # other processes read the original
    status, out, _ = run("check")
    assert status == 1
    failures = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert failures
    assert all(", huber: " in line for line in failures)
    report = json.loads(run("check", "--json")[1])
    assert not report["ok"]
    assert [r["loss"] for r in report["results"] if r["failed"]] == ["huber"]


def test_check_finds_nan_and_a_wrong_shape() -> None:
    exact = np.array([1.0, 2.0])
    assert _check.error(exact, exact, 1e-9) == 0
    assert _check.error([1.0, np.nan], exact, 1e9) == np.inf
    assert _check.error([1.0], exact, 1e9) == np.inf


def test_check_reports_an_error_of_a_loss_and_goes_on(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(_check, "check_case", broken)
    monkeypatch.setattr(_core, "instruction_sets", list)
    status, out, _ = run("check")
    assert status == 1
    assert "RuntimeError: no such kernel" in out
    assert all(f", {spec.name}: " in out for spec in REGISTRY)


def test_check_reports_an_instruction_set_that_does_not_start() -> None:
    (result,) = _check.check_instruction_set("mmx")
    assert "FASTLOSS_ISA" in result["failed"][0]
    assert "mmx" in result["failed"][0]


def test_check_runs_on_a_gpu(device: Any) -> None:
    results = _check.check_here("card", device.put)
    assert [r["failed"] for r in results] == [[]] * len(results)
    assert {r["loss"] for r in results} == {spec.name for spec in REGISTRY}


# ---- bench ----


def test_bench_times_the_losses_that_are_asked_for(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bench, "SECONDS", 0.0)
    given = ("bench", "mse", "Huber", "circle", "--shape", "7x5", "--param", "delta=2")
    rows = json.loads(run(*given, "--json")[1])
    assert [r["loss"] for r in rows] == ["mean_squared_error", "huber", "circle"]
    assert all(r["value_and_grad_ms"] > 0 for r in rows)
    status, out, _ = run(*given)
    assert status == 0
    assert "7x5 float32" in out
    rows = json.loads(run("bench", "--shape", "3x4", "--json")[1])
    assert [r["loss"] for r in rows] == [s.name for s in REGISTRY if not s.batched]


# ---- plot ----


def test_plot_writes_the_picture(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    status, out, err = run(
        "plot", "huber", "mae", "--param", "delta=2", "--param", "delta=0.5",
        "-o", str(tmp_path / "x.svg"),
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert out.strip() == str(tmp_path / "x.svg")
    picture = (tmp_path / "x.svg").read_text()
    for label in ("Huber(delta=2.0)", "Huber(delta=0.5)", "MeanAbsoluteError", "slope of the loss"):
        assert f"<!-- {label} -->" in picture


# ---- what is wrong is said in one line ----


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plot", "nope"], "no loss is called 'nope'"),
        (["plot", "huber", "--param", "delta"], "expected NAME=VALUE"),
        (["plot", "huber", "--param", "delta=x"], "delta: expected a number in (0, inf), got 'x'"),
        (["plot", "huber", "--param", "gamma=1"], "expected an option of these losses, delta"),
        (["plot", "mse", "bce"], "same axis"),
        (["plot", "mse", "-o", "no/such/folder/x.png"], "no/such/folder"),
        (["plot", "mse", "-o", "x.unknown"], "unknown"),
        (["bench", "ctc"], "make bench"),
        (["bench", "huber", "--param", "gamma=1"], "'gamma'"),
        (["bench", "--shape", "7"], "expected ROWSxCOLUMNS"),
        (["bench", "--shape", "0x7"], "expected ROWSxCOLUMNS"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_said(run: Any, arguments: list[str], says: str) -> None:
    if arguments[0] == "plot":
        pytest.importorskip("matplotlib")
    status, _, err = run(*arguments)
    assert status == 2
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("command", "extra"), [("plot", "plot"), ("demo", "demo,tensorflow")])
def test_missing_package_names_the_extra(
    command: str, extra: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "keras", "fastloss.plot", "fastloss._demo"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(fastloss, "plot", raising=False)
    monkeypatch.delattr(fastloss, "_demo", raising=False)
    status, _, err = run(command, *(["mse"] if command == "plot" else []))
    assert status == 1
    assert f'pip install "fastloss[{extra}]"' in err


def test_tables_need_no_rich(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_rich(name: str, *rest: Any) -> Any:
        assert not name.startswith("rich")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert run("info", "--quick")[0] == 0


def test_tables_on_a_terminal_keep_brackets(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    command_line.table(("loss", "said"), [("huber", "pip install '.[cuda13]'")])


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
def test_reader_who_has_read_enough_is_no_error() -> None:
    code = (
        "import os, sys; r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w); "
        "sys.argv = ['fastloss', 'list']; from fastloss.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
