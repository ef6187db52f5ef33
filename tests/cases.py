"""What the losses are tried on: options, shapes, inputs from their domains, and tolerances."""

from __future__ import annotations

import math
import platform
from typing import Any

import numpy as np
import pytest

import fastloss
from fastloss._registry import REGISTRY, LossSpec
from oracle import Array, Options

# Options to try beside the defaults; a loss that is not listed is tried with its defaults.
VARIANTS: dict[str, list[Options]] = {
    "huber": [{"delta": 0.3}, {"delta": 5.0}],
    "binary_crossentropy": [
        {"from_logits": True},
        {"label_smoothing": 0.2},
        {"from_logits": True, "label_smoothing": 1.0},
        {"class_weight": (0.5, 3.0), "label_smoothing": 0.1},
        {"from_logits": True, "class_weight": (0.5, 3.0), "pos_weight": 0.25},
    ],
    "binary_focal_crossentropy": [
        {"gamma": 0.0},
        {"gamma": 0.5},
        {"gamma": 1.0, "from_logits": True},
        {"gamma": 0.5, "from_logits": True, "label_smoothing": 0.1},
        {"apply_class_balancing": True, "alpha": 0.8, "label_smoothing": 0.2},
        {"apply_class_balancing": True, "from_logits": True},
        {"class_weight": (0.5, 3.0)},
        {"from_logits": True, "pos_weight": 4.0, "apply_class_balancing": True},
    ],
    "categorical_crossentropy": [
        {"from_logits": True},
        {"label_smoothing": 0.2},
        {"from_logits": True, "label_smoothing": 0.3},
        {"class_weight": "per class", "label_smoothing": 0.1},
        {"class_weight": "per class", "from_logits": True},
    ],
    "categorical_focal_crossentropy": [
        {"gamma": 0.0, "alpha": 1.5},
        {"gamma": 0.5},
        {"gamma": 1.0, "from_logits": True},
        {"from_logits": True, "label_smoothing": 0.2, "gamma": 2.5},
        {"alpha": "per class", "label_smoothing": 0.1},
        {"alpha": "per class", "from_logits": True},
        {"alpha": "per class", "class_weight": "per class", "from_logits": True},
    ],
    "sparse_categorical_crossentropy": [
        {"from_logits": True},
        {"ignore_class": 0},
        {"ignore_class": -1, "from_logits": True},
        {"class_weight": "per class", "ignore_class": 0},
        {"class_weight": "per class", "from_logits": True},
    ],
    "categorical_generalized_cross_entropy": [
        {"q": 0.1},
        {"q": 0.9, "class_weight": "per class"},
    ],
    "confidence_penalty": [{"from_logits": True}],
    "dice": [{"axis": -1}, {"smooth": 1.0}],
    "iou": [{"axis": -1, "smooth": 0.25}],
    "tversky": [{"alpha": 0.2, "beta": 1.5}, {"axis": -1}],
}

SMALL_SHAPES = [(1,), (3,), (1, 1), (7, 1), (423,), (3, 423), (5, 3, 17), (2, 4, 3, 10)]

# Kernels get blocks of 2048 elements, small calls run on one thread, and rows of more than 65536
# columns are split between threads.
LARGE_SHAPES = [
    (3, 2048), (2, 2049), (5, 4096), (3, 32000), (70000, 2), (257, 1000), (2, 70001),
]  # fmt: skip

# Relative errors, against the size of the exact result and of its neighbours (see assert_close).
# A float has a unit roundoff of 6e-8; losses and slopes take some ten roundings, each of which may
# be amplified a few times where a formula nears a zero. A double's is 1.1e-16; inputs are drawn so
# that the conditioning stays below about a thousand.
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 2e-14}

DTYPES = [np.float32, np.float64]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
# What these tests draw is for one sample at a time; losses of batches have tests of their own.
SPECS = [spec for spec in REGISTRY if not spec.batched]

losses = pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)

one_class_is_allowed = pytest.mark.filterwarnings(
    "ignore:.*more than one class on its class axis:SyntaxWarning"
)


def variants(spec: LossSpec) -> list[Options]:
    return [{}, *VARIANTS.get(spec.name, [])]


CASES = [(spec, options) for spec in SPECS for options in variants(spec)]


def describe(value: Any) -> str:
    if isinstance(value, LossSpec):
        return value.name
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"
    return str(value)


cases = pytest.mark.parametrize(("spec", "options"), CASES, ids=describe)


def accepts_axis(spec: LossSpec) -> bool:
    return any(p.name == "axis" for p in spec.parameters)


def loss_axes(spec: LossSpec, options: Options, ndim: int) -> tuple[int, ...]:
    default = next((p.default for p in spec.parameters if p.name == "axis"), -1)
    axis = options.get("axis", default)
    given = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(a % ndim for a in given))


def by_sample(spec: LossSpec) -> Options:
    """Options that give every loss a value per sample; a region is everything by default."""
    return {"axis": -1} if spec.kind == "region" else {}


def value_shape(spec: LossSpec, options: Options, shape: tuple[int, ...]) -> tuple[int, ...]:
    axes = loss_axes(spec, options, len(shape))
    return tuple(n for d, n in enumerate(shape) if d not in axes)


def resolved(spec: LossSpec, options: Options, shape: tuple[int, ...]) -> Options:
    """Options with what depends on the shape filled in; weights of classes are exact in float32."""
    per_class = [name for name, value in options.items() if value == "per class"]
    if not per_class:
        return options
    (axis,) = loss_axes(spec, options, len(shape))
    step = {"alpha": 0.0625, "class_weight": 0.25}
    numbers = {
        name: tuple(0.125 + step[name] * (k % 17) for k in range(shape[axis])) for name in per_class
    }
    return options | numbers


def draw(
    spec: LossSpec,
    options: Options,
    shape: tuple[int, ...],
    dtype: Any,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """y_true and y_pred from the domain of a loss, away from clips, kinks and singularities."""
    name = spec.name
    logits = rng.normal(0, 3, shape)
    probabilities = rng.uniform(0.02, 0.98, shape)
    soft = rng.uniform(0, 1, shape)
    if spec.labels == "integer":
        rows = value_shape(spec, options, shape)
        (axis,) = loss_axes(spec, options, len(shape))
        t = rng.integers(0, shape[axis], rows)
        return t, (logits if options.get("from_logits") else probabilities).astype(dtype)
    if not spec.uses_target:
        t = rng.normal(0, 1, shape)
        p = probabilities if spec.parameters and not options.get("from_logits") else logits
        p = logits if name == "z_loss" else p
        if name == "confidence_penalty" and options.get("from_logits"):
            # A slope is a difference from the mean of the logits, which grows with them.
            p = logits / 3
    elif "from_logits" in {p.name for p in spec.parameters}:
        t, p = soft, logits if options.get("from_logits") else probabilities
    elif name in ("kl_divergence", "dice", "iou", "tversky"):
        t, p = rng.uniform(0.05, 0.95, shape), probabilities
    elif name in ("mean_squared_logarithmic_error", "poisson"):
        t, p = rng.uniform(0.1, 5, shape), rng.uniform(0.1, 5, shape)
    elif name in ("hinge", "squared_hinge"):
        t, p = rng.choice([-1.0, 1.0], shape), rng.normal(0, 1, shape)
    elif name == "categorical_hinge":
        # Targets of a few per row, so that the margin is flat in some rows only.
        t, p = soft * min(1, 3 / shape[-1]), rng.normal(0, 2, shape)
    elif name == "mean_absolute_percentage_error":
        t, p = rng.choice([-1.0, 1.0], shape) * (0.2 + soft), rng.normal(0, 1, shape)
    else:
        t, p = rng.normal(0, 1, shape), rng.normal(0, 1, shape)
    return t.astype(dtype), p.astype(dtype)


def make(spec: LossSpec, options: Options, **extra: Any) -> fastloss.Loss:
    return getattr(fastloss, spec.class_name)(**options, **extra)


def function(spec: LossSpec) -> Any:
    return getattr(fastloss, spec.name)


def assert_close(
    actual: Any, exact: Any, dtype: Any, *, factor: float = 1.0, scale: Any = None
) -> None:
    """Each element within the tolerance of its own size plus the mean size of all.

    The mean stands for what an element near a zero of its formula was subtracted from: an absolute
    tolerance that follows the magnitudes, wherever they lie.
    """
    actual, exact = np.asarray(actual), np.asarray(exact)
    assert actual.shape == exact.shape
    assert actual.dtype == np.dtype(dtype)
    if exact.size == 0:
        return
    scale = np.abs(exact).mean() if scale is None else scale
    error = np.abs(actual.astype(np.longdouble) - exact)
    allowed = factor * TOLERANCE[np.dtype(dtype)] * (np.abs(exact) + scale)
    within = (error <= allowed) | (actual == exact)
    if not within.all():
        at = np.unravel_index(np.argmax(np.where(within, 0, error)), exact.shape)
        raise AssertionError(
            f"{(~within).sum()} of {within.size} elements are off; at {tuple(map(int, at))}: "
            f"{actual[at]!r}, exact {float(exact[at])!r}, error {float(error[at]):.3g}, "
            f"allowed {float(np.broadcast_to(allowed, exact.shape)[at]):.3g}"
        )


# On other processors subnormal results stay.
flushes_results = platform.machine() in ("x86_64", "AMD64")


def flushed(x: Any) -> Any:
    """A result as kernels leave it: zero where it is below the smallest normal number."""
    return (
        np.where(np.abs(x) < np.finfo(x.dtype).tiny, x.dtype.type(0), x) if flushes_results else x
    )


def same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
