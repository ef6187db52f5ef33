"""Prints the coefficients of the series in ``csrc/core/math.h`` and their largest errors.

    python tools/fit_series.py

Each is the polynomial whose largest error, relative to the function that is made of it, is least:
least squares on Chebyshev nodes, weighted anew until the errors are alike (Lawson's algorithm). The
coefficients are rounded one after the other, and those that follow make up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath
from mpmath import mpf

DIGITS = {"float": 24, "double": 53}  # binary


@dataclass(frozen=True)
class Series:
    """A polynomial of `terms` coefficients near `of`, whose errors count `weight` times."""

    name: str
    type: str
    terms: int
    low: mpf
    high: mpf
    of: Callable[[mpf], mpf]
    weight: Callable[[mpf], mpf]


def series() -> list[Series]:
    """All of them."""
    mpmath.mp.dps = 50
    root = mpmath.sqrt(2)
    half = mpmath.log(2) / 2 * mpf("1.0001")  # where an exponential is reduced to
    most = ((root - 1) / (root + 1)) ** 2  # of s^2, as in log_tail

    def log_cosh_of_root(z: mpf) -> mpf:
        return mpmath.log(mpmath.cosh(mpmath.sqrt(z)))

    def log_of_root(z: mpf) -> mpf:
        return 2 * mpmath.atanh(mpmath.sqrt(z))

    logarithm = Series(
        "(log(1 + f) - f) / f^2", "float", 9, 1 / root - 1, root - 1,
        lambda f: (mpmath.log1p(f) - f) / f**2, lambda f: f**2 / mpmath.log1p(f),
    )  # fmt: skip
    share = Series(
        "(log(1 + x) - x) / x^2", "float", 9, mpf(0), mpf(1),
        lambda x: (mpmath.log1p(x) - x) / x**2, lambda x: x**2 / mpmath.log1p(x),
    )  # fmt: skip
    small_share = Series(
        "(log(1 + w) - w) / w^2, in log(cosh(x)) for w = e^-2|x|, |x| >= 1", "float", 4, mpf(0),
        mpmath.exp(-2), lambda w: (mpmath.log1p(w) - w) / w**2,
        lambda w: w**2 / (mpmath.log1p(w) - mpmath.log(w) / 2 - mpmath.log(2)),
    )  # fmt: skip
    rest = Series(
        "(log(1 - x) + x) / x^2", "float", 9, mpf(0), mpf(1) / 2,
        lambda x: (mpmath.log1p(-x) + x) / x**2, lambda x: x**2 / mpmath.log1p(-x),
    )  # fmt: skip
    return [logarithm, share, small_share, rest] + [
        s
        for kind, exp_terms, cosh_terms, atanh_terms in (("float", 5, 7, 4), ("double", 10, 16, 8))
        for s in (
            Series("(e^r - 1 - r) / r^2", kind, exp_terms, -half, half,
                   lambda r: (mpmath.expm1(r) - r) / r**2, lambda r: r**2 / mpmath.exp(r)),
            Series("log(cosh(sqrt z)) / z", kind, cosh_terms, mpf(0), mpf(1),
                   lambda z: log_cosh_of_root(z) / z, lambda z: z / log_cosh_of_root(z)),
            Series("(2 atanh(s) - 2 s) / (s z), z = s^2", kind, atanh_terms, mpf(0), most,
                   lambda z: (log_of_root(z) / mpmath.sqrt(z) - 2) / z,
                   lambda z: z * mpmath.sqrt(z) / log_of_root(z)),
        )
    ]  # fmt: skip


def rounded(x: mpf, digits: int) -> mpf:
    """To so many binary digits."""
    with mpmath.workprec(digits):
        return +x


def best(s: Series, known: list[mpf]) -> list[mpf]:
    """The coefficients, if the first of them are given."""
    n, unknown = 8 * s.terms, range(len(known), s.terms)
    nodes = [(s.low + s.high + (s.high - s.low) * mpmath.cos(mpmath.pi * (k + mpf(0.5)) / n)) / 2
             for k in range(n)]  # fmt: skip
    rest = [s.of(x) - mpmath.polyval(known[::-1] or [0], x) for x in nodes]
    scale = [s.weight(x) for x in nodes]
    weights = [mpf(1)] * n
    for _ in range(30):
        roots = [c * mpmath.sqrt(w) for c, w in zip(scale, weights, strict=True)]
        a = mpmath.matrix([[r * x**j for j in unknown] for r, x in zip(roots, nodes, strict=True)])
        b = mpmath.matrix([r * y for r, y in zip(roots, rest, strict=True)])
        found = list(mpmath.lu_solve(a.T * a, a.T * b))
        errors = [abs(c * (y - sum(f * x**j for f, j in zip(found, unknown, strict=True))))
                  for c, y, x in zip(scale, rest, nodes, strict=True)]  # fmt: skip
        weights = [w * e for w, e in zip(weights, errors, strict=True)]
        weights = [w * n / sum(weights) for w in weights]
    return known + found


def main() -> None:
    """Fit and print."""
    for s in series():
        digits = DIGITS[s.type]
        known: list[mpf] = []
        while len(known) < s.terms:
            known.append(rounded(best(s, known)[len(known)], digits))
        points = [s.low + (s.high - s.low) * (mpf(k) + 0.5) / 1000 for k in range(1000)]
        worst = max(abs(s.weight(x) * (mpmath.polyval(known[::-1], x) - s.of(x))) for x in points)
        print(f"{s.type} {s.name}: within {float(worst * 2**digits):.2g} units")
        print("   ", ", ".join(mpmath.nstr(c, 9 if s.type == "float" else 17) for c in known))


if __name__ == "__main__":
    main()
