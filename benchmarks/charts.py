"""The charts: everyone's times of a few losses, time by size, and percent of the floor."""

from __future__ import annotations

import io
import math
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from fastloss._registry import BY_NAME
from sides import CUPY, NUMPY
from summaries import Line

# Okabe and Ito's colours, which the colour-blind can tell apart, one per framework; line style and
# marker tell its modes apart.
LOOKS = {
    NUMPY: ("#0072B2", "-", "o"),
    CUPY: ("#0072B2", "-", "o"),
    "fastloss TF eager": ("#56B4E9", "-", "s"),
    "fastloss TF graph": ("#56B4E9", "--", "^"),
    "fastloss TF XLA": ("#56B4E9", ":", "D"),
    "Keras eager": ("#E69F00", "-", "s"),
    "Keras graph": ("#E69F00", "--", "^"),
    "Keras XLA": ("#E69F00", ":", "D"),
    "PyTorch eager": ("#D55E00", "-", "s"),
    "PyTorch compile": ("#D55E00", ":", "D"),
    "JAX jit": ("#CC79A7", ":", "D"),
    "CuPy expressions": ("#009E73", "-", "s"),
    "Liger-Kernel": ("#F0E442", "-", "v"),
    "floor": ("#000000", "-", None),
}
SHADES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # behind the figures of bars

KINDS = {
    "elementwise": ("map",),
    "rows": ("row",),
    "regions-and-batches": ("region", "pairwise", "sequence"),
}

# What most people train with, for the chart that is seen first.
COMMON = (
    "mean_squared_error", "huber", "binary_crossentropy (logits)",
    "sparse_categorical_crossentropy (logits)", "dice",
)  # fmt: skip
COMMON_ROWS = "4096x1000"


def draw(lines: list[Line], folder: Path) -> list[tuple[Path, str]]:
    """Write the charts; their paths, with a text each."""
    written = []
    both = [line for line in lines if line.gradient]
    common = _common(both)
    if common and any(line.fastest_peer for line in common):
        path = folder / "overview.png"
        _overview(common, path)
        written.append((path, "Times of a few losses, in those of fastloss"))
    for name, kinds in KINDS.items():
        chosen = [line for line in both if BY_NAME[line.name].kind in kinds]
        if chosen:
            path = folder / f"time-{name}.png"
            _times(chosen, path)
            written.append((path, f"Time of value and gradient by size: {name}"))
    if any(line.floor_share for line in both):
        path = folder / "floor.png"
        _shares(both, path)
        written.append((path, "Percent of the floor"))
    return written


def _save(figure: Figure, path: Path) -> None:
    """As PNG of 64 colours, which look like all of them, in a quarter of the bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=90)
    plt.close(figure)
    colors = Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    colors.save(path, optimize=True)


def _seconds(line: Line, side: str) -> float:
    if side == "floor":
        return line.floor or math.nan
    if side in (NUMPY, CUPY):  # in the fastest of its modes
        return line.ours if line.ours and side in line.sides else math.nan
    return line.sides[side]["median"] if side in line.sides else math.nan


def _common(lines: list[Line]) -> list[Line]:
    """Those for the overview, each at its largest size; rows at the one of COMMON_ROWS."""
    chosen = []
    for loss in COMMON:
        own = [line for line in lines if line.loss == loss and line.ours]
        rows = [line for line in own if line.size == COMMON_ROWS]
        chosen += rows or sorted(own, key=lambda line: line.elements)[-1:]
    return chosen


def _overview(lines: list[Line], path: Path) -> None:
    """A row per loss, a mark per side."""
    figure, ax = plt.subplots(figsize=(9, 1.7 + 0.42 * len(lines)), layout="constrained")
    rows = range(len(lines))
    for side, (color, _, marker) in LOOKS.items():
        x = [_seconds(line, side) / (line.ours or math.nan) for line in lines]
        if not all(map(math.isnan, x)):
            ax.scatter(x, rows, color=color, marker=marker or "|", s=46, label=side, zorder=3)
    ax.axvline(1, color=SHADES[0], linewidth=1, zorder=1)
    ax.set_yticks(rows, [f"{line.loss}\n{line.size}" for line in lines], fontsize=8)
    ax.invert_yaxis()
    ax.margins(y=0.12)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:g}"[0] in "25" else "")
    ax.set_xlabel("time of value and gradient, as a multiple of that of fastloss on NumPy arrays")
    ax.grid(axis="x", which="both", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    _save(figure, path)


def _times(lines: list[Line], path: Path) -> None:
    """A panel per loss: log-log by elements or, for rows, by shape from the smallest."""
    losses = list(dict.fromkeys(line.loss for line in lines))
    across = min(len(losses), 4)
    down = math.ceil(len(losses) / across)
    figure, axes = plt.subplots(
        down, across, figsize=(4.4 * across, 3.5 * down + 1.2), squeeze=False, layout="constrained"
    )
    handles = {}
    for ax, loss in zip(axes.flat, losses, strict=False):
        chosen = sorted((line for line in lines if line.loss == loss), key=lambda x: x.elements)
        by_elements = BY_NAME[chosen[0].name].kind in ("map", "region")
        x = [line.elements if by_elements else n for n, line in enumerate(chosen)]
        for side, (color, style, marker) in LOOKS.items():
            y = [1e3 * _seconds(line, side) for line in chosen]
            if all(map(math.isnan, y)):
                continue
            bold = side in (NUMPY, CUPY, "floor")
            (handles[side],) = ax.plot(
                x, y, color=color, linestyle=style, marker=marker or "", markersize=4.5,
                linewidth=2.4 if bold else 1.3, zorder=3 if bold else 2, label=side,
            )  # fmt: skip
        ax.set_title(loss, fontsize=10)
        ax.set_yscale("log")
        ax.grid(alpha=0.3)
        if by_elements:
            ax.set_xscale("log")
            ax.set_xlabel("elements")
        else:
            ax.set_xticks(x, [line.size for line in chosen], rotation=30, ha="right", fontsize=8)
            ax.margins(x=0.08)
    for ax in axes.flat[len(losses) :]:
        ax.axis("off")
    for ax in axes[:, 0]:
        ax.set_ylabel("milliseconds")
    ordered = [side for side in LOOKS if side in handles]
    figure.legend(
        [handles[side] for side in ordered], ordered, loc="outside lower center",
        ncols=min(len(ordered), 2 * across), fontsize=9,
    )  # fmt: skip
    _save(figure, path)


def _shares(lines: list[Line], path: Path) -> None:
    """Bars: elementwise losses and regions at their largest size, rows at the four largest."""
    flat: dict[str, float] = {}
    rows: dict[str, dict[str, float]] = {}
    for line in sorted(lines, key=lambda line: line.elements):
        if line.floor_share is None:
            continue
        if BY_NAME[line.name].kind == "row":
            rows.setdefault(line.loss, {})[line.size] = line.floor_share
        else:
            flat[line.loss] = line.floor_share  # the largest comes last
    largest = {line.loss: line.size for line in sorted(lines, key=lambda line: line.elements)}
    sizes = list(dict.fromkeys(size for shares in rows.values() for size in shares))[-4:]
    heights = [len(flat), len(rows) * max(len(sizes), 1) * 0.6]
    panels = [n for n, height in enumerate(heights) if height]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(10, 2 + 0.32 * sum(heights)), squeeze=False, layout="constrained",
        height_ratios=[heights[n] + 2 for n in panels],
    )  # fmt: skip
    for ax, panel in zip(axes.flat, panels, strict=True):
        if panel == 0:
            names = [f"{loss}, {largest[loss]}" for loss in flat]
            bars = ax.barh(names, list(flat.values()), color=SHADES[0], height=0.7)
            ax.bar_label(bars, fmt="%.0f", padding=3, fontsize=8, bbox=BOX)
            ax.set_title("Elementwise losses, regions and batches, at the largest size")
        else:
            step = 0.84 / len(sizes)
            for n, size in enumerate(sizes):
                at = [i + (n - (len(sizes) - 1) / 2) * step for i in range(len(rows))]
                shares = [rows[loss].get(size, 0) for loss in rows]
                bars = ax.barh(at, shares, height=step, color=SHADES[n % len(SHADES)], label=size)
                ax.bar_label(bars, fmt="%.0f", padding=3, fontsize=7, bbox=BOX)
            ax.set_yticks(range(len(rows)), list(rows))
            ax.set_title("Losses of rows, rows x classes")
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        ax.invert_yaxis()
        ax.axvline(100, color="black", linewidth=1, zorder=1)
        ax.margins(x=0.08, y=0.02)
        ax.set_xlabel("percent of the floor (fastloss, value and gradient)")
        ax.grid(axis="x", alpha=0.3)
    _save(figure, path)
