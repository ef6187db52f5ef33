"""The elementary functions of ``csrc/core/math.h``: worst errors, per dtype and instruction set.

A small program is compiled for every instruction set that this processor has, with the flags that
the kernels are compiled with.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpmath
import numpy as np

from exact import Array, extended
from sweeps import mixed, powers, signs
from units import error_in_units

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ("float32", "float64")
LEVELS = {
    "x86-64-v2": {"sse4_2"},
    "x86-64-v3": {"avx2", "fma", "bmi2"},
    "x86-64-v4": {"avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}

Sample = Callable[[np.random.Generator, tuple[int, int], float], tuple[Array, Any]]


def compiler() -> str | None:
    return shutil.which("c++") or shutil.which("g++")


def instruction_sets() -> list[str]:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", info.read_text() if info.exists() else "", re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return [level for level, needs in LEVELS.items() if needs <= flags] or ["baseline"]


def compile_for(level: str, folder: Path) -> Path:
    """The program for an instruction set, with the flags of the kernels in CMakeLists.txt."""
    flags = re.search(r"set\(kernel_flags (.*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert flags is not None
    program, source = folder / level, Path(__file__).with_suffix(".cpp")
    march = [] if level == "baseline" else [f"-march={level}"]
    command = [compiler(), "-std=c++17", *flags[1].split(), *march, f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, str(source), "-o", str(program)], check=True)
    return program


@dataclass(frozen=True)
class Function:
    """An elementary function: its exact self, the range as text, and inputs from that range.

    ``sample`` gets the largest exponent of e that the dtype holds.
    """

    name: str
    range: str
    exact: Callable[[Any, Any], Any]
    sample: Sample


def anywhere(most: float) -> Callable[[Any, tuple[int, int]], Array]:
    """Positive numbers of every size, and some near one."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        near = 1 + signs(rng, shape) * powers(rng, shape, -16, -0.01)
        low = np.log10(5e-324) if most > 100 else np.log10(1.5e-45)
        return mixed(
            rng, shape, powers(rng, shape, low, most / 2.31), near, rng.uniform(0, 4, shape)
        )

    return draw


def both_signs(rng: np.random.Generator, shape: tuple[int, int], most: float) -> Array:
    size = mixed(
        rng,
        shape,
        powers(rng, shape, -30, 0),
        rng.uniform(0, most, shape),
        rng.uniform(0, 2, shape),
    )
    return signs(rng, shape) * size


FUNCTIONS = (
    Function("exp", "all finite results", lambda x, _: mpmath.exp(x),
             lambda rng, n, most: (both_signs(rng, n, 1.18 * most), 0)),
    Function("exp_of_negative", "not above 0", lambda x, _: mpmath.exp(x),
             lambda rng, n, most: (-np.abs(both_signs(rng, n, 1.18 * most)), 0)),
    Function("expm1", "up to 88 (float32), 709 (float64)", lambda x, _: mpmath.expm1(x),
             lambda rng, n, most: (np.minimum(both_signs(rng, n, most), np.floor(most)), 0)),
    Function("log_cosh_near_zero", "[-1, 1]",
             lambda x, _: mpmath.log1p(2 * mpmath.sinh(x / 2) ** 2),
             lambda rng, n, _: (both_signs(rng, n, 1) / 2, 0)),
    Function("log", "all positive", lambda x, _: mpmath.log(x),
             lambda rng, n, most: (anywhere(most)(rng, n), 0)),
    Function("log_of_normal", "all normal positive", lambda x, _: mpmath.log(x),
             lambda rng, n, most: (
                 np.maximum(anywhere(most)(rng, n), 1.2e-38 if most < 100 else 2.3e-308), 0)),
    Function("log1p", "(-1, all]", lambda x, _: mpmath.log1p(x),
             lambda rng, n, most: (
                 mixed(rng, n, anywhere(most)(rng, n), -powers(rng, n, -30, -0.001)), 0)),
    Function("log1p_of_share", "[0, 1]", lambda x, _: mpmath.log1p(x),
             lambda rng, n, _: (mixed(rng, n, powers(rng, n, -30, 0), rng.random(n)), 0)),
    Function("log_of_rest", "[0, 1/2]", lambda x, _: mpmath.log1p(-x),
             lambda rng, n, _: (mixed(rng, n, powers(rng, n, -30, 0), rng.random(n)) / 2, 0)),
    Function("pow", "x in [0, 1], y in {-1/2, 1/2, 2, 8}", lambda x, y: x**y,
             lambda rng, n, _: (rng.random(n) ** 4, rng.choice([-0.5, 0.5, 2.0, 8.0], n))),
    Function("exp_difference", "x - y of two logits up to 10000", lambda x, y: mpmath.exp(x - y),
             lambda rng, n, most: (
                 (y := rng.normal(0, 3000, n)) - rng.uniform(0, 1.1 * most, n), y)),
    Function("log_sum", "x + 1e-7, x positive", lambda x, y: mpmath.log(x + y),
             lambda rng, n, most: (anywhere(most)(rng, n), 1e-7)),
    Function("log_quotient", "probabilities above 1e-7", lambda x, y: mpmath.log(x / y),
             lambda rng, n, _: (powers(rng, n, -7, 0), powers(rng, n, -7, 0))),
    Function("sigmoid", "all", lambda x, _: 1 / (1 + mpmath.exp(-x)),
             lambda rng, n, most: (both_signs(rng, n, 1.1 * most), 0)),
    Function("precise_sigmoid", "all", lambda x, _: 1 / (1 + mpmath.exp(-x)),
             lambda rng, n, most: (both_signs(rng, n, 1.1 * most), 0)),
    Function("log1p_exp", "log(1 + exp(-|x|)), all", lambda x, _: mpmath.log1p(mpmath.exp(-abs(x))),
             lambda rng, n, most: (both_signs(rng, n, 1.1 * most), 0)),
)  # fmt: skip


def measure(
    function: Function, dtype: str, programs: dict[str, Path], samples: int
) -> dict[str, float]:
    """Worst error in units in the last place, by instruction set."""
    rng = np.random.default_rng(list(function.name.encode()))
    most = float(np.log(np.finfo(dtype).max))
    x, y = function.sample(rng, (samples, 1), most)
    pairs = np.hstack([x, np.broadcast_to(y, x.shape)]).astype(dtype)
    with mpmath.workdps(60):
        exact = extended(
            [function.exact(*map(mpmath.mpf, map(float, xy))) for xy in pairs], (samples,)
        )
    worst = {}
    for level, program in programs.items():
        out = subprocess.run(
            [program, function.name, dtype], input=pairs.tobytes(), capture_output=True, check=True
        )
        worst[level] = float(error_in_units(np.frombuffer(out.stdout, dtype), exact, dtype).max())
    return worst
