"""Pictures of losses and of trainings, with matplotlib: ``pip install "fastloss[plot]"``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("fastloss.plot needs matplotlib: pip install 'fastloss[plot]'") from error

from fastloss import losses
from fastloss._build import Loss, get_spec
from fastloss._evaluate import Array
from fastloss._registry import LossSpec

__all__ = ["COLORS", "curves", "history", "variants"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's colours, which readers with any kind of colour vision tell apart."""

_DASHES = ("-", "--", "-.", ":")
_POINTS = 241


@dataclass(frozen=True)
class _Line:
    """What a loss is drawn along: predictions that depend on one number, and fixed targets."""

    x_label: str
    low: float
    high: float
    predictions: Callable[[Array], Array]
    targets: tuple[tuple[str, Any], ...]
    is_batch: bool = False  # whether a prediction is a batch, rather than a sample


def _column(x: Array) -> Array:
    return x[:, None]


def _rest_is_shared(x: Array) -> Array:
    return np.stack([x, (1 - x) / 2, (1 - x) / 2], axis=1)


def _rest_is_zero(x: Array) -> Array:
    return np.stack([x, 0 * x, 0 * x], axis=1)


def _complement(x: Array) -> Array:
    return np.stack([x, 1 - x], axis=1)


def _on_circle(x: Array) -> Array:
    return np.stack([np.cos(np.radians(x)), np.sin(np.radians(x))], axis=1)


def _triplet(x: Array) -> Array:
    """An embedding, one of its kind at an angle of x, and another kind's at right angles."""
    fixed = np.broadcast_to([[[1.0, 0.0]]], (len(x), 1, 2))
    return np.concatenate([fixed, _on_circle(x)[:, None], fixed[..., ::-1]], axis=1)


def _frames(x: Array) -> Array:
    """Two frames with the logits (0, x)."""
    return np.repeat(np.stack([0 * x, x], axis=1)[:, None], 2, axis=1)


def _elements(low: float, high: float, *targets: float, x_label: str = "y_pred") -> _Line:
    return _Line(x_label, low, high, _column, tuple((f"y_true = {t:g}", [t]) for t in targets))


_DISTRIBUTION = _Line(
    "y_pred = (x, 1 - x)", 0.03, 0.97, _complement, (("y_true = (0.7, 0.3)", [0.7, 0.3]),)
)
_REGIONS = _Line(
    "y_pred = x inside the region, 1 - x outside", 0, 1, _complement, (("", [1.0, 0.0]),)
)
_LINES = {
    "mean_absolute_percentage_error": _elements(-1, 3, 1),
    "mean_squared_logarithmic_error": _elements(0, 5, 1),
    "poisson": _elements(0.1, 6, 2),
    "hinge": _elements(-2.5, 2.5, 1, -1),
    "squared_hinge": _elements(-2.5, 2.5, 1, -1),
    "kl_divergence": _DISTRIBUTION,
    "cosine_similarity": _Line(
        "angle between y_true and y_pred, degrees", 0, 180, _on_circle, (("", [1.0, 0.0]),)
    ),
    "categorical_hinge": _Line(
        "score of the true class, two others at 0", -2, 3, _rest_is_zero, (("", [1.0, 0.0, 0.0]),)
    ),
    "circle": _Line(
        "angle to its like, degrees; another label at 90",
        0, 180, _triplet, (("", [0, 0, 1]),), is_batch=True,
    ),
    "ctc": _Line("logit of the label in two frames, blank at 0", -6, 6, _frames, (("", [1]),)),
}  # fmt: skip


def _line(loss: Loss) -> _Line:
    """What a loss is drawn along."""
    line = _line_of_kind(loss)
    if getattr(loss.spec, "uses_target", True):
        return line
    label = line.x_label.replace("the true class", "one class")
    return replace(line, x_label=label, targets=(("", line.targets[0][1]),))


def _line_of_kind(loss: Loss) -> _Line:
    """By the name of a loss or, for one without an entry, by what it takes."""
    spec = loss.spec
    if spec.name in _LINES:
        return _LINES[spec.name]
    if spec.kind == "region":
        return _REGIONS
    options = {p.name for p in spec.parameters}
    by_logits = getattr(loss, "from_logits", "from_logits" not in options)
    if spec.kind == "map":
        if "from_logits" not in options:
            return _elements(-3, 3, 0)
        return _elements(-6, 6, 1, 0, x_label="logit") if by_logits else _elements(0.03, 0.97, 1, 0)
    # The classes of a row. A loss of labels without logits takes probabilities.
    target: Any = 0 if spec.labels == "integer" else [1.0, 0.0, 0.0]
    if by_logits and (spec.labels == "dense" or "from_logits" in options):
        label = "logit of the true class, two others at 0"
        return _Line(label, -6, 6, _rest_is_zero, (("", target),))
    label = "probability of the true class of three"
    return _Line(label, 0.03, 0.97, _rest_is_shared, (("", target),))


def _evaluate(loss: Loss, line: _Line, target: Any, x: Array) -> tuple[Array, Array]:
    """The loss along the line and its slope there, from the gradient that fastloss computes."""
    step = 1e-6 * (line.high - line.low)
    y_pred = line.predictions(x)
    direction = (line.predictions(x + step) - line.predictions(x - step)) / (2 * step)
    y_true = np.asarray(target)
    values, slopes = np.empty(len(x)), np.empty(len(x))
    for i, (p, along) in enumerate(zip(y_pred, direction, strict=True)):
        # Each point is a call of its own, so that the batch is one sample, or that of the line.
        t, p, along = (y_true, p, along) if line.is_batch else (y_true[None], p[None], along[None])
        value, grad = loss.value_and_grad(t, p)
        values[i], slopes[i] = np.sum(value), np.sum(grad * along)
    return values, slopes


def _label(loss: Loss) -> str:
    return repr(loss).removesuffix("()")


def curves(*given: Loss | str, figure: Any = None) -> Any:
    """Draw losses, and their slopes beside them, against the prediction.

    A loss of several entries is drawn along a line through them, which the horizontal axis
    describes; its slope is the derivative along that line.

    Parameters
    ----------
    *given : Loss or str
        Losses, or their names. They share a picture, so they have to take the same predictions.
    figure : matplotlib.figure.Figure, optional
        What to draw into; a new one otherwise.

    Returns
    -------
    matplotlib.figure.Figure
        Its ``savefig`` writes the picture.

    Raises
    ------
    ValueError
        Without losses, for an unknown name, or for losses that are drawn along different lines.

    Examples
    --------
    >>> import fastloss.plot  # doctest: +SKIP
    >>> figure = fastloss.plot.curves("mse", fastloss.Huber(delta=0.5))  # doctest: +SKIP
    >>> figure.savefig("losses.png")  # doctest: +SKIP
    """
    chosen = [losses.get(loss) for loss in given]
    if not chosen:
        raise ValueError("given: expected at least one loss, got none")
    line = _line(chosen[0])
    for loss in chosen[1:]:
        if _line(loss) != line:
            raise ValueError(
                f"given: expected losses that are drawn against the same axis; {_label(chosen[0])} "
                f"is drawn from {line.low:g} to {line.high:g} of '{line.x_label}', {_label(loss)} "
                f"from {_line(loss).low:g} to {_line(loss).high:g} of '{_line(loss).x_label}'"
            )
    figure = Figure(figsize=(9, 3.6), layout="constrained") if figure is None else figure
    left, right = figure.subplots(1, 2)
    x = np.linspace(line.low, line.high, _POINTS)
    for i, loss in enumerate(chosen):
        for j, (of_target, target) in enumerate(line.targets):
            value, slope = _evaluate(loss, line, target, x)
            # Colour tells the losses apart, dashes the targets; one loss has a colour for each.
            key = i if len(chosen) > 1 else j
            style = {
                "color": COLORS[key % len(COLORS)],
                "linestyle": _DASHES[(j if len(line.targets) > 1 else i) % len(_DASHES)],
                "linewidth": 2,
            }
            label = ", ".join([_label(loss), *([of_target] if line.targets[1:] else [])])
            left.plot(x, value, label=label, **style)
            right.plot(x, slope, **style)
    left.set_ylabel("loss")
    right.set_ylabel("slope of the loss")
    (of_target, _), *others = line.targets
    x_label = line.x_label if others or not of_target else f"{line.x_label}, for {of_target}"
    for axes in (left, right):
        axes.set_xlabel(x_label)
        axes.set_xlim(line.low, line.high)
        low, high = axes.dataLim.intervaly
        if high - low < 1e-6 * abs(high):  # a constant: no picture of its rounding errors
            axes.set_ylim(low - abs(low) / 2, high + abs(high) / 2)
    _finish(left, right)
    labels = left.get_legend_handles_labels()[1]
    widest = max(map(len, labels))
    figure.legend(loc="outside upper center", ncols=min(len(labels), max(1, 100 // widest)))
    return figure


def history(*histories: Any, labels: Sequence[str] = (), figure: Any = None) -> Any:
    """Draw what Keras recorded while it trained: a panel for each metric, a colour for each run.

    Parameters
    ----------
    *histories : keras.callbacks.History or dict
        What ``fit`` returned, or its ``history``. Validation is drawn dashed.
    labels : sequence of str, optional
        What to call the runs.
    figure : matplotlib.figure.Figure, optional
        What to draw into; a new one otherwise.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        Without anything recorded, or for another number of labels than of runs.
    """
    runs: list[Mapping[str, Sequence[float]]] = [getattr(h, "history", h) for h in histories]
    metrics = list(dict.fromkeys(key.removeprefix("val_") for run in runs for key in run))
    if not metrics:
        raise ValueError("histories: expected at least one epoch of a run, got nothing recorded")
    if labels and len(labels) != len(runs):
        raise ValueError(f"labels: expected one per run, {len(runs)}, got {len(labels)}")
    names = list(labels) or ([f"run {i + 1}" for i in range(len(runs))] if runs[1:] else [""])
    if figure is None:
        figure = Figure(figsize=(4.5 * len(metrics), 3.6), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        drawn: list[float] = []
        for i, (run, name) in enumerate(zip(runs, names, strict=True)):
            for key, part, dashes in (
                (metric, "training", "-"),
                (f"val_{metric}", "validation", "--"),
            ):
                if key not in run:
                    continue
                values = [float(v) for v in run[key]]
                drawn += values
                axes.plot(
                    range(1, len(values) + 1), values, dashes, color=COLORS[i % len(COLORS)],
                    linewidth=2, label=", ".join(filter(None, [name, part])),
                    marker="o" if len(values) == 1 else None,
                )  # fmt: skip
        finite = [v for v in drawn if np.isfinite(v)]
        if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel(metric.replace("_", " "))
        axes.xaxis.get_major_locator().set_params(integer=True)
    _finish(*panels)
    panels[0].legend(frameon=False)
    return figure


def _finish(*panels: Any) -> None:
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)


def variants(names: Sequence[str], options: Sequence[tuple[str, Any]]) -> list[Loss]:
    """The losses of these names, each with every combination of the options' values that it takes.

    ``[("delta", 1), ("delta", 2)]`` gives two Huber losses and one of each loss without a delta.
    """
    values: dict[str, list[Any]] = {}
    for name, value in options:
        values.setdefault(name, []).append(value)
    specs: list[LossSpec] = [get_spec(name) for name in names]
    for name in values:
        if not any(p.name == name for spec in specs for p in spec.class_parameters):
            known = sorted({p.name for spec in specs for p in spec.class_parameters})
            raise ValueError(
                f"--param: expected an option of these losses, {', '.join(known) or 'none'}, "
                f"got {name!r}"
            )
    made = []
    for spec in specs:
        taken = [p.name for p in spec.class_parameters if p.name in values]
        for combination in itertools.product(*(values[name] for name in taken)):
            config = dict(zip(taken, combination, strict=True))
            made.append(losses.get({"class_name": spec.class_name, "config": config}))
    return made
