"""Pictures: what is drawn is the loss, its slope is that of the curve, and all is labelled."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import fastloss
import fastloss.plot
from cases import describe
from fastloss._registry import REGISTRY, LossSpec

CASES = [
    (spec, options)
    for spec in REGISTRY
    for options in ({}, {"from_logits": True})
    if options.keys() <= {p.name for p in spec.class_parameters}
]
cases = pytest.mark.parametrize(("spec", "options"), CASES, ids=describe)


def make(spec: LossSpec, options: Any) -> fastloss.Loss:
    return getattr(fastloss, spec.class_name)(**options)


@cases
def test_slope_is_the_derivative_of_the_curve(spec: LossSpec, options: Any) -> None:
    figure = fastloss.plot.curves(make(spec, options))
    left, right = figure.axes
    assert len(left.lines) == len(right.lines)
    for curve, slope in zip(left.lines, right.lines, strict=True):
        x, y = curve.get_data()
        _, drawn = slope.get_data()
        rise = np.diff(y) / np.diff(x)
        between = (drawn[1:] + drawn[:-1]) / 2
        # The trapezium is off where the slope bends; at a kink it jumps.
        bend = np.abs(np.diff(drawn)) + 0.02 * np.abs(drawn).max() + 1e-9
        assert (np.abs(rise - between) <= bend).all()
        assert np.abs(rise - between).mean() <= 0.02 * np.abs(between).mean() + 1e-9


@cases
def test_everything_is_labelled_and_in_range(spec: LossSpec, options: Any) -> None:
    figure = fastloss.plot.curves(make(spec, options))
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert "loss" in axes.get_ylabel()
        for line in axes.lines:
            assert np.isfinite(line.get_ydata()).all()
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == len(figure.axes[0].lines)
    assert all(label.startswith(spec.class_name) for label in labels)


def test_curve_is_the_loss() -> None:
    figure = fastloss.plot.curves(fastloss.Huber(delta=0.5))
    x, y = figure.axes[0].lines[0].get_data()
    np.testing.assert_allclose(y, fastloss.huber(0 * x[:, None], x[:, None], delta=0.5))


def test_losses_that_overlap_are_told_apart_by_colour_and_dashes() -> None:
    names = ["mse", "mae", fastloss.Huber(), fastloss.Huber(delta=2.0), "logcosh"]
    figure = fastloss.plot.curves(*names)
    left = figure.axes[0]
    assert len({line.get_color() for line in left.lines}) == len(names)
    assert len({(line.get_color(), line.get_linestyle()) for line in left.lines}) == len(names)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[2:4] == ["Huber", "Huber(delta=2.0)"]


def test_targets_of_one_loss_are_told_apart_in_every_loss() -> None:
    figure = fastloss.plot.curves("bce", "binary_focal_crossentropy")
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 4


def test_losses_of_different_axes_do_not_share_a_picture() -> None:
    with pytest.raises(ValueError, match=r"^given: expected losses .* MeanSquaredError .* Poisson"):
        fastloss.plot.curves("mse", "poisson")
    with pytest.raises(ValueError, match=r"^given: expected at least one loss"):
        fastloss.plot.curves()


def test_variants_are_all_combinations_of_the_options() -> None:
    given = [("gamma", 1), ("gamma", 2), ("alpha", 0.5), ("delta", 3)]
    made = fastloss.plot.variants(["binary_focal_crossentropy", "huber", "mse"], given)
    assert [repr(loss) for loss in made] == [
        "BinaryFocalCrossentropy(alpha=0.5, gamma=1.0)",
        "BinaryFocalCrossentropy(alpha=0.5)",
        "Huber(delta=3.0)",
        "MeanSquaredError()",
    ]


# ---- Histories ----


def test_history_has_a_panel_for_each_metric() -> None:
    run = types.SimpleNamespace(
        history={"loss": [3.0, 2.0, 1.0], "val_loss": [3.5, 2.5, 2.0], "accuracy": [0.1, 0.5, 0.9]}
    )
    figure = fastloss.plot.history(run)
    loss, accuracy = figure.axes
    assert [loss.get_ylabel(), accuracy.get_ylabel()] == ["loss", "accuracy"]
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    for line, key in zip(loss.lines, ("loss", "val_loss"), strict=True):
        np.testing.assert_array_equal(line.get_data(), [[1, 2, 3], run.history[key]])
    assert loss.lines[0].get_linestyle() != loss.lines[1].get_linestyle()
    assert loss.get_xlabel() == "epoch"


def test_runs_have_names_and_colours() -> None:
    runs = [{"loss": [1.0, 0.5]}, {"loss": [1.0, 0.001, np.nan]}]
    figure = fastloss.plot.history(*runs, labels=["ours", "theirs"])
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["ours, training", "theirs, training"]
    assert len({line.get_color() for line in axes.lines}) == 2
    assert axes.get_yscale() == "log"


def test_history_of_nothing_is_an_error() -> None:
    for nothing in ((), ({},)):
        with pytest.raises(ValueError, match=r"^histories: expected at least one epoch"):
            fastloss.plot.history(*nothing)
    with pytest.raises(ValueError, match=r"^labels: expected one per run, 1, got 2"):
        fastloss.plot.history({"loss": [1.0]}, labels=["a", "b"])
