"""What each loss is, from its definition alone: forward values, no gradient formulas.

Everything is written for NumPy's extended precision (64-bit mantissas where the platform has them),
real or complex. float64 would do for most values; extended precision makes the reference's own
rounding negligible against a float64 result, and keeps `p + 1`, `1 - q` and sums of many terms
accurate in their plain textbook forms. The only rewritten forms are those whose definition cancels
beyond that: the logarithm of cosh, and one minus a softmax.

Gradients come from the complex step, Im f(x + ih) / h. It has no truncation error for functions
that are analytic around the real point, so comparisons, clips and maxima below look at the real
part only, and the point must not sit on a kink.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

STEP = np.longdouble("1e-40")

Array = np.ndarray[Any, np.dtype[Any]]
Options = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """The clip bounds as a dtype rounds them: float32's 1 - 1e-7 is 1 - 1.19e-7."""

    low: np.longdouble
    high: np.longdouble

    @classmethod
    def of(cls, dtype: Any) -> Limits:
        kind = np.dtype(dtype).type
        return cls(np.longdouble(kind(1e-7)), np.longdouble(kind(1) - kind(1e-7)))


def clip(x: Array, low: Any, high: Any) -> Array:
    return np.where(x.real < low, low, np.where(x.real > high, high, x))


def at_least(x: Array, low: Any) -> Array:
    return np.where(x.real < low, low, x)


def absolute(x: Array) -> Array:
    return np.where(x.real < 0, -x, x)


def power(x: Array, exponent: float) -> Array:
    return np.ones_like(x) if exponent == 0 else x ** np.longdouble(exponent)


def softplus(x: Array) -> Array:
    return at_least(x, 0) + np.log1p(np.exp(-absolute(x)))


def largest(x: Array) -> Array:
    """The entry with the largest real part of each row."""
    return np.take_along_axis(x, np.argmax(x.real, axis=-1)[..., None], axis=-1)[..., 0]


def total(x: Array) -> Array:
    return x.sum(axis=-1)


def smoothed(t: Array, options: Options, classes: int) -> Array:
    share = np.longdouble(options.get("label_smoothing", 0.0))
    return t * (1 - share) + share / classes


def class_weights(options: Options) -> Any:
    weights = options.get("class_weight")
    return np.longdouble(1) if weights is None else np.asarray(weights, np.longdouble)


# ---- Losses of one element; a row is their mean, or their sum for those in SUMMED ----


def mean_squared_error(t: Array, p: Array, _: Limits, __: Options) -> Array:
    return (t - p) ** 2


def mean_absolute_error(t: Array, p: Array, _: Limits, __: Options) -> Array:
    return absolute(t - p)


def mean_absolute_percentage_error(t: Array, p: Array, limits: Limits, _: Options) -> Array:
    return 100 * absolute((t - p) / at_least(absolute(t), limits.low))


def mean_squared_logarithmic_error(t: Array, p: Array, limits: Limits, _: Options) -> Array:
    return (np.log(at_least(p, limits.low) + 1) - np.log(at_least(t, limits.low) + 1)) ** 2


def huber(t: Array, p: Array, _: Limits, options: Options) -> Array:
    e, delta = absolute(t - p), np.longdouble(options["delta"])
    return np.where(e.real <= delta, e * e / 2, delta * e - delta * delta / 2)


def log_cosh(t: Array, p: Array, _: Limits, __: Options) -> Array:
    # e + softplus(-2e) - log 2 cancels for small e; cosh e = 1 + 2 sinh^2(e/2) does not.
    e = absolute(p - t)
    small = np.where(e.real < 1, e, 0)
    return np.where(
        e.real < 1,
        np.log1p(2 * np.sinh(small / 2) ** 2),
        e + np.log1p(np.exp(-2 * e)) - np.log(np.longdouble(2)),
    )


def signed_labels(t: Array) -> Array:
    return 2 * t - 1 if np.isin(t.real, (0, 1)).all() else t


def hinge(t: Array, p: Array, _: Limits, __: Options) -> Array:
    return at_least(1 - signed_labels(t) * p, 0)


def squared_hinge(t: Array, p: Array, limits: Limits, options: Options) -> Array:
    return hinge(t, p, limits, options) ** 2


def kl_divergence(t: Array, p: Array, limits: Limits, _: Options) -> Array:
    t, p = clip(t, limits.low, 1), clip(p, limits.low, 1)
    return t * np.log(t / p)


def poisson(t: Array, p: Array, limits: Limits, _: Options) -> Array:
    return p - t * np.log(p + limits.low)


def binary_crossentropy(t: Array, p: Array, limits: Limits, options: Options) -> Array:
    t = smoothed(t, options, 2)
    negative, positive = class_weights(options) * np.ones(2, np.longdouble)
    positive = positive * np.longdouble(options["pos_weight"])
    if options["from_logits"]:
        return negative * (1 - t) * softplus(p) + positive * t * softplus(-p)
    q = clip(p, limits.low, limits.high)
    return -positive * t * np.log(q) - negative * (1 - t) * np.log(1 - q)


def binary_focal_crossentropy(t: Array, p: Array, limits: Limits, options: Options) -> Array:
    crossentropy = binary_crossentropy(t, p, limits, options)
    t = smoothed(t, options, 2)
    if options["from_logits"]:
        missed = t * np.exp(-softplus(p)) + (1 - t) * np.exp(-softplus(-p))
    else:
        missed = t * (1 - p) + (1 - t) * p
    alpha = np.longdouble(options["alpha"])
    weight = t * alpha + (1 - t) * (1 - alpha) if options["apply_class_balancing"] else 1
    return weight * power(missed, options["gamma"]) * crossentropy


def mean_square(_: Array, p: Array, __: Limits, ___: Options) -> Array:
    return p**2


def mean_absolute(_: Array, p: Array, __: Limits, ___: Options) -> Array:
    return absolute(p)


# ---- Losses of a row (the last axis) ----


def distribution(p: Array, limits: Limits, options: Options) -> tuple[Array, Array, Array]:
    """q, 1 - q and log q of rows of probabilities (normalized, then clipped) or logits."""
    if not options["from_logits"]:
        q = clip(p / total(p)[..., None], limits.low, limits.high)
        return q, 1 - q, np.log(q)
    z = p - largest(p)[..., None]
    e = np.exp(z)
    size = total(e)[..., None]
    # One minus a softmax loses digits as it nears one; the sum of the others does not. The matrix
    # that sums the others is only affordable for few classes.
    classes = p.shape[-1]
    others = e @ (1 - np.eye(classes, dtype=e.real.dtype)) if classes <= 64 else size - e
    return e / size, others / size, z - np.log(size)


def categorical_crossentropy(t: Array, p: Array, limits: Limits, options: Options) -> Array:
    _, _, log_q = distribution(p, limits, options)
    return -total(class_weights(options) * smoothed(t, options, p.shape[-1]) * log_q)


def categorical_focal_crossentropy(t: Array, p: Array, limits: Limits, options: Options) -> Array:
    _, complement, log_q = distribution(p, limits, options)
    alpha = np.asarray(options["alpha"], np.longdouble) * class_weights(options)
    t = smoothed(t, options, p.shape[-1])
    return -total(alpha * power(complement, options["gamma"]) * t * log_q)


def sparse_categorical_crossentropy(t: Array, p: Array, limits: Limits, options: Options) -> Array:
    if options["from_logits"]:
        log_q = distribution(p, limits, options)[2]
    else:  # clipped first, then normalized: the order of the dense loss the other way round
        q = clip(p, limits.low, limits.high)
        log_q = np.log(q / total(q)[..., None])
    return -total(class_weights(options) * t * log_q)


def categorical_generalized_cross_entropy(t: Array, p: Array, _: Limits, options: Options) -> Array:
    q = np.longdouble(options["q"])
    return total(class_weights(options) * t) * (1 - total(t * p) ** q) / q


def categorical_hinge(t: Array, p: Array, _: Limits, __: Options) -> Array:
    return at_least(largest((1 - t) * p) - total(t * p) + 1, 0)


def cosine_similarity(t: Array, p: Array, limits: Limits, _: Options) -> Array:
    def unit(x: Array) -> Array:
        return x / at_least(np.sqrt(total(x * x)), limits.low)[..., None]

    return -total(unit(t) * unit(p))


def confidence_penalty(_: Array, p: Array, limits: Limits, options: Options) -> Array:
    if options["from_logits"]:
        q, _, log_q = distribution(p, limits, options)
        return total(q * log_q)
    q = clip(p, limits.low, 1)
    return total(q * np.log(q))


def z_loss(_: Array, p: Array, __: Limits, ___: Options) -> Array:
    peak = largest(p)
    return (peak + np.log(total(np.exp(p - peak[..., None])))) ** 2


def dice(t: Array, p: Array, limits: Limits, options: Options) -> Array:
    smooth = options["smooth"]
    above, below = (0, limits.low) if smooth is None else (np.longdouble(smooth),) * 2
    return 1 - (2 * total(t * p) + above) / (total(t) + total(p) + below)


def iou(t: Array, p: Array, _: Limits, options: Options) -> Array:
    smooth, both = np.longdouble(options["smooth"]), total(t * p)
    return 1 - (both + smooth) / (total(t) + total(p) - both + smooth)


def tversky(t: Array, p: Array, limits: Limits, options: Options) -> Array:
    both = total(t * p)
    missed = np.longdouble(options["alpha"]) * total(t * (1 - p))
    added = np.longdouble(options["beta"]) * total(p * (1 - t))
    return 1 - both / (both + missed + added + limits.low)


Forward = Callable[[Array, Array, Limits, Options], Array]

ELEMENTS: dict[str, Forward] = {
    f.__name__: f
    for f in (
        mean_squared_error, mean_absolute_error, mean_absolute_percentage_error,
        mean_squared_logarithmic_error, huber, log_cosh, hinge, squared_hinge, kl_divergence,
        poisson, binary_crossentropy, binary_focal_crossentropy, mean_square, mean_absolute,
    )
}  # fmt: skip

SUMMED = {"kl_divergence"}

ROWS: dict[str, Forward] = {
    f.__name__: f
    for f in (
        categorical_crossentropy, categorical_focal_crossentropy, sparse_categorical_crossentropy,
        categorical_generalized_cross_entropy, categorical_hinge, cosine_similarity,
        confidence_penalty, z_loss, dice, iou, tversky,
    )
}  # fmt: skip


def complex_step(f: Forward, t: Array, p: Array, direction: Array, wrt: str, *rest: Any) -> Array:
    """The derivative of f along a direction in y_pred or y_true."""
    move = direction * (1j * STEP)
    moved = (t, p + move) if wrt == "y_pred" else (t + move, p)
    return f(*moved, *rest).imag / STEP


def jacobian(name: str, t: Array, p: Array, limits: Limits, options: Options, wrt: str) -> Array:
    """d loss[i] / d x[i, j] for a map loss's elements or a row loss's rows; shaped like p."""
    if name in ELEMENTS:
        return complex_step(ELEMENTS[name], t, p, np.ones_like(p), wrt, limits, options)
    out = np.empty_like(p)
    for j in range(p.shape[-1]):
        direction = np.zeros_like(p)
        direction[:, j] = 1
        out[:, j] = complex_step(ROWS[name], t, p, direction, wrt, limits, options)
    return out
