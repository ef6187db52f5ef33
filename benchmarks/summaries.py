"""From timings to the figures of the report: one line per loss, size and kind of call."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sides import CUPY, FLOOR, NUMPY, OURS

Timing = dict[str, Any]


@dataclass
class Line:
    """All sides of one case."""

    loss: str
    shape: tuple[int, ...]
    gradient: bool
    bytes: int
    sides: dict[str, Timing]
    with_gradient: Line | None = None

    @property
    def name(self) -> str:
        """The loss without its mode."""
        return self.loss.split()[0]

    @property
    def size(self) -> str:
        """The shape as text."""
        return "x".join(str(n) for n in self.shape)

    @property
    def elements(self) -> int:
        """Of y_pred."""
        return math.prod(self.shape)

    def _fastest(self, names: Iterable[str]) -> Timing | None:
        timings = [self.sides[name] for name in names]
        return min(timings, key=lambda timing: float(timing["median"]), default=None)

    @property
    def best_of_ours(self) -> Timing | None:
        """Ours on NumPy's or CuPy's arrays, whether the gradient goes into a given array or not."""
        return self._fastest(name for name in self.sides if name.startswith((NUMPY, CUPY)))

    @property
    def fastest_peer(self) -> Timing | None:
        """The fastest of the others, in any mode."""
        return self._fastest(name for name in self.sides if not name.startswith((FLOOR, OURS)))

    @property
    def ours(self) -> float | None:
        """Seconds of fastloss on NumPy's or CuPy's arrays."""
        return self.best_of_ours["median"] if self.best_of_ours else None

    @property
    def floor(self) -> float | None:
        """Seconds of the fastest way to move the bytes."""
        fastest = self._fastest(name for name in self.sides if name.startswith(FLOOR))
        return fastest["median"] if fastest else None

    @property
    def rate(self) -> float | None:
        """GB/s of what has to be moved."""
        return self.bytes / self.ours / 1e9 if self.ours else None

    @property
    def floor_share(self) -> float | None:
        """Percent of the floor's speed."""
        return 100 * self.floor / self.ours if self.ours and self.floor else None

    @property
    def share_in_cache(self) -> float | None:
        """Percent of the floor's speed that fastloss would have, were everything in the cache."""
        seconds = self.sides.get(NUMPY, {}).get("computing")
        return 100 * self.floor / seconds if seconds and self.floor else None

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the fastest peer."""
        peer = self.fastest_peer
        return peer["median"] / self.ours if peer and self.ours else None

    @property
    def value_gain(self) -> float | None:
        """How many times as fast as with the gradient."""
        other = self.with_gradient
        return other.ours / self.ours if other and other.ours and self.ours else None

    @property
    def floor_gain(self) -> float | None:
        """What the floor makes of that."""
        other = self.with_gradient
        return other.floor / self.floor if other and other.floor and self.floor else None


def lines_of(timings: list[Timing]) -> list[Line]:
    """The timings, gathered by what was computed."""
    lines: dict[tuple[Any, ...], Line] = {}
    for timing in timings:
        shape = tuple(timing["shape"])
        key = (timing["loss"], shape, timing["gradient"])
        if key not in lines:
            lines[key] = Line(*key, timing["bytes"], {})
        lines[key].sides[timing["side"]] = timing
    for (loss, shape, gradient), line in lines.items():
        if not gradient:
            line.with_gradient = lines.get((loss, shape, True))
    return list(lines.values())
