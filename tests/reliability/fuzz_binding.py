"""A fuzzing target for Atheris: bytes become calls of the compiled module, guided by coverage.

Run as ``make fuzz-binding``; arguments are libFuzzer's, such as ``-runs=100000``. Atheris sees
which Python code ran, but not which C++ code.
"""

from __future__ import annotations

import sys

import atheris
import numpy as np

with atheris.instrument_imports(include=["fastloss"]):
    from calls import check, random_call
    from fastloss import _core
    from guarded import Choose, Placed
    from sum_calls import check_sum

DTYPES = "?bBhHiIlLqQefdgFDOSUm"


def raw_call(choose: Choose) -> None:
    """Arguments of any kind to the entry of the module itself, behind all checks of Python."""

    def array(native: bool = False) -> object:
        kind = choose(0, 9)
        if kind == 0:
            return [None, 1.0, "x", (), object()][choose(0, 4)]
        shape = tuple(choose(0, 4) for _ in range(choose(0, 4)))
        dtype = DTYPES[choose(0, len(DTYPES) - 1)] if kind < 3 else "fdbq"[choose(0, 3)]
        a = np.zeros(shape, dtype)
        if a.dtype.kind in "biuf":
            a[...] = choose(0, 3)
            return Placed(a, choose, native=native).view
        return a

    losses = _core.losses()
    index = choose(-1, len(losses))
    count = len(losses[index][-1]) if 0 <= index < len(losses) else 0
    try:
        plan = _core.Plan(
            index,
            [choose(0, 8) / 4 for _ in range(count + (choose(0, 20) == 0))],
            None if choose(0, 1) else [choose(-3, 3) for _ in range(choose(0, 3))],
            choose(0, 4) / 4,
            [1.0] * choose(0, 4),
            "class_weight",
            None if choose(0, 1) else choose(-1, 3),
            choose(0, 1) == 1,
        )
        t, p = array(), array()
        weight, mask = (None if choose(0, 2) else array() for _ in range(2))
        upstream = 1.0 if choose(0, 2) else array()
        wrt = [None, "y_pred", "y_true", "both", "x"][choose(0, 4)]
        out = None if choose(0, 1) else array(native=True)
        plan.run(t, p, choose(0, 3), weight, mask, upstream, wrt, out)
    except (ValueError, TypeError, OverflowError):
        pass


def one_input(data: bytes) -> None:
    bytes_ = atheris.FuzzedDataProvider(data)
    choose = bytes_.ConsumeIntInRange
    kind = choose(0, 7)
    if kind < 4:
        raw_call(choose)
    elif kind == 4:
        check_sum(choose)
    else:
        check(choose, random_call(choose))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
