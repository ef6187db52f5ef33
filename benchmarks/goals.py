"""The goals that fastloss has set itself, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastloss._registry import BY_NAME
from summaries import Line

LARGE = 16_000_000  # elements of the cases that goals are set for
ROW_SHAPES = ("65536x10", "4096x1000", "512x32000", "16x256000")

STREAMING = (
    "mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "huber",
    "hinge", "squared_hinge", "categorical_hinge",
)  # fmt: skip
COMPUTING = (
    "mean_squared_logarithmic_error", "log_cosh", "binary_crossentropy",
    "binary_focal_crossentropy", "kl_divergence", "poisson",
)  # fmt: skip
REDUCING = ("dice", "iou", "tversky", "cosine_similarity")


@dataclass(frozen=True)
class Goal:
    """A figure that every line of a selection has to reach."""

    text: str
    least: float
    selects: Callable[[Line], bool]
    figure: Callable[[Line], float | None]


@dataclass(frozen=True)
class Outcome:
    """How many lines a goal is for, the worst of them, and those that miss it."""

    goal: Goal
    count: int
    worst: Line | None
    missed: list[Line]

    @property
    def measured(self) -> float | None:
        """The figure of the worst line."""
        return None if self.worst is None else self.goal.figure(self.worst)


def _share(line: Line) -> float | None:
    return line.floor_share


def _large(names: Iterable[str]) -> Callable[[Line], bool]:
    return lambda line: line.gradient and line.elements >= LARGE and line.name in names


def _rows(name: str, *, logits_only: bool = False) -> Callable[[Line], bool]:
    return lambda line: (
        line.gradient
        and line.name == name
        and line.size in ROW_SHAPES
        and (line.loss != name or not logits_only)
    )


GOALS = (
    Goal("% of floor, 16M: MSE, MAE, MAPE, Huber, hinges", 90, _large(STREAMING), _share),
    Goal("% of floor, 16M: MSLE, LogCosh, BCE, binary focal, KL, Poisson", 75, _large(COMPUTING),
         _share),
    Goal("% of floor, 16M: Dice, IoU, Tversky, cosine", 80, _large(REDUCING), _share),
    # Less than this is a loop that the compiler has left out of vectors.
    Goal("% of floor, 16M: any loss", 25,
         lambda line: line.gradient and line.elements >= LARGE, _share),
    Goal("% of floor: sparse CE from logits", 80,
         _rows("sparse_categorical_crossentropy", logits_only=True), _share),
    Goal("% of floor: dense CE", 80, _rows("categorical_crossentropy"), _share),
    Goal("% of floor: categorical focal", 60, _rows("categorical_focal_crossentropy"), _share),
    Goal("times the fastest peer, from 1M elements", 2,
         lambda line: line.gradient and line.elements >= 1_000_000, lambda line: line.speedup),
    Goal("times the fastest peer, any size", 1, lambda line: line.gradient,
         lambda line: line.speedup),
    Goal("value alone, times value + gradient, where the floor says 1.3", 1.3,
         lambda line: not line.gradient and (line.floor_gain or 0) >= 1.3,
         lambda line: line.value_gain),
)  # fmt: skip


# Of the speed of a copy on the same GPU.
CUDA_LARGE = 64_000_000


def _of_kind(kind: str) -> Callable[[Line], bool]:
    return lambda line: (
        line.gradient and line.elements >= CUDA_LARGE and BY_NAME[line.name].kind == kind
    )


CUDA_GOALS = (
    Goal("% of copy, 64M: elementwise losses", 95, _of_kind("map"), _share),
    Goal("% of copy: sparse CE from logits, 4096x32000 and 8192x128256", 95,
         lambda line: line.gradient and line.size in ("4096x32000", "8192x128256")
         and line.loss.startswith("sparse_categorical_crossentropy (logits"), _share),
    Goal("% of copy, 64M: Dice, IoU, Tversky", 90, _of_kind("region"), _share),
    Goal("times the fastest peer, 64M", 1,
         lambda line: line.gradient and line.elements >= CUDA_LARGE, lambda line: line.speedup),
)  # fmt: skip


def outcomes(lines: list[Line], device: str = "cpu") -> list[Outcome]:
    """Every goal against what was measured."""
    found = []
    for goal in CUDA_GOALS if device == "cuda" else GOALS:
        figures = [
            (figure, line)
            for line in lines
            if goal.selects(line) and (figure := goal.figure(line)) is not None
        ]
        worst = min(figures, key=lambda pair: pair[0])[1] if figures else None
        missed = [line for figure, line in figures if figure < goal.least]
        found.append(Outcome(goal, len(figures), worst, missed))
    return found
