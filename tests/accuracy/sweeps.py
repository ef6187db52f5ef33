"""The cases of the accuracy tables: which losses, with which options, on which inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from exact import Array
from fastloss._registry import BY_NAME, LossSpec

Draw = Callable[[np.random.Generator, tuple[int, int]], tuple[Array, Array]]
Terms = Callable[[Array, Array], Array]

MAP_LIMIT, ROW_LIMIT = 4.0, 8.0

SOFT_TARGETS = "soft targets"

# Why a result is judged against the size of the terms it is the difference of.
CANCELS = {
    "soft": "the two terms of the slope cancel where the prediction agrees with a soft target",
    "margin": "the margin is a difference of scores, which cancel near its zero",
    "log": "the logarithm of the odds, or of t/p plus one, has a zero inside the domain",
    "poisson": "p - t log(p) and log(p) have zeros inside the domain",
    "entropy": "log(q) and its mean cancel, or log(q) and -1",
    "partition": "the largest logit and the logarithm of the shares of the others cancel",
    "angle": "nearly orthogonal (value) or parallel (gradient) vectors cancel",
    "overlap": "the two terms of the slope cancel where a soft target meets the overlap",
}


# Results that do not keep the rules, by title and result: why.
EXCEPTIONS = {
    ("confidence_penalty(from_logits=True)", "d_pred"):
        "a softmax below the smallest normal number is rounded before a difference of logits "
        "multiplies it, which is about 100 in float32 and 740 in float64",
    ("z_loss", "d_pred"):
        "a softmax below the smallest normal number is rounded before twice the logarithm of the "
        "sum multiplies it",
    ("binary_focal_crossentropy(gamma=0.5, from_logits=True)", "d_true"):
        "beyond logits of 87 (float32) or 708 (float64) the sigmoid underflows, and its square "
        "root with it, whose product with the logit would still be a number",
    ("categorical_focal_crossentropy(from_logits=True): soft targets", "d_pred"):
        "a softmax below the smallest normal number is zero before the sum over the classes, about "
        "100, multiplies it",
    ("categorical_focal_crossentropy(from_logits=True): soft targets", "value"):
        "alpha multiplies the target first, which rounds a subnormal target: 17 units of the "
        "smallest number",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A loss with options, and how its inputs are drawn.

    ``cancels`` names the results that are ill-conditioned functions of the inputs, with the reason.
    ``value_terms`` is the size of the terms of such a value; those of a gradient are known from the
    exact evaluation.
    """

    name: str
    draw: Draw
    options: Mapping[str, Any] = field(default_factory=dict)
    cancels: Mapping[str, str] = field(default_factory=dict)
    value_terms: Terms | None = None
    note: str = ""

    @property
    def spec(self) -> LossSpec:
        return BY_NAME[self.name]

    @property
    def title(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.options.items())
        return (
            self.name
            + (f"({options})" if options else "")
            + (f": {self.note}" if self.note else "")
        )

    @property
    def limit(self) -> float:
        """The most units in the last place that a result may be off by."""
        return MAP_LIMIT if self.spec.kind == "map" else ROW_LIMIT

    def inputs(self, shape: tuple[int, int], dtype: Any) -> tuple[Array, Array]:
        """(y_true, y_pred) as numbers of ``dtype``; integer labels as one-hot rows."""
        rng = np.random.default_rng(list(self.title.encode()))
        most = float(ml_dtypes.finfo(dtype).max)
        t, p = (np.clip(x, -most, most).astype(dtype) for x in self.draw(rng, shape))
        # The absolute errors have no slope at zero.
        if "absolute" in self.name:
            p = np.where(p == t, np.where(t == 0, 1, -t), p).astype(dtype)
        if self.name == "mean_absolute":
            p = np.where(p == 0, 1, p).astype(dtype)
        return t, p


def mixed(rng: np.random.Generator, shape: tuple[int, int], *kinds: Any) -> Array:
    """Each element from one of several arrays (or numbers), chosen at random."""
    stacked = np.stack([np.broadcast_to(np.asarray(k, float), shape) for k in kinds])
    return np.take_along_axis(stacked, rng.integers(0, len(kinds), (1, *shape)), 0)[0]


def powers(rng: np.random.Generator, shape: tuple[int, int], low: float, high: float) -> Array:
    return 10 ** rng.uniform(low, high, shape)


def signs(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.choice([-1.0, 1.0], shape)


# ---- Inputs of map losses ----


def errors(around: float = 1.0) -> Draw:
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
        t = mixed(
            rng,
            shape,
            0,
            1,
            signs(rng, shape) * powers(rng, shape, -30, 30),
            rng.normal(0, 1, shape),
        )
        near = around * (1 + powers(rng, shape, -8, 0) * signs(rng, shape))
        size = mixed(rng, shape, powers(rng, shape, -30, 30), rng.uniform(0, 3, shape), near)
        return t, t + signs(rng, shape) * size

    return draw


def percentages(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    t, p = errors()(rng, shape)
    return np.where(rng.random(shape) < 0.1, signs(rng, shape) * powers(rng, shape, -12, -6), t), p


def positives(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    t = mixed(rng, shape, 0, powers(rng, shape, -12, 30), rng.uniform(0, 5, shape))
    near = t * (1 + powers(rng, shape, -8, 0) * signs(rng, shape))
    return t, mixed(rng, shape, near, -1, powers(rng, shape, -30, 30), rng.uniform(0, 5, shape))


def counts(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    t = mixed(rng, shape, 0, rng.poisson(5, shape), np.floor(powers(rng, shape, 0, 6)))
    near = t * (1 + powers(rng, shape, -8, 0) * signs(rng, shape))
    one = 1 + powers(rng, shape, -9, -1) * signs(rng, shape)
    p = mixed(rng, shape, near, one, powers(rng, shape, -44, 30), rng.uniform(0, 10, shape))
    return t, np.maximum(p, 0)


def margins(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    near = 1 + powers(rng, shape, -8, 0) * signs(rng, shape)
    size = mixed(rng, shape, near, powers(rng, shape, -30, 15), rng.uniform(0, 3, shape))
    return signs(rng, shape), signs(rng, shape) * size


def probabilities(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    tiny = powers(rng, shape, -37, 0)
    edges = mixed(rng, shape, 0, 1, 1e-7, 1 - 1e-7, 1.2e-38, 2.3e-308, 1 - 6e-8, 1 - 1.1e-16)
    return mixed(rng, shape, tiny, 1 - tiny, edges, rng.random(shape), rng.random(shape))


def hard(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.choice([0.0, 1.0], shape)


def soft(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return mixed(rng, shape, 0, 1, rng.random(shape), powers(rng, shape, -7, 0))


def logits(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    size = mixed(
        rng, shape, powers(rng, shape, -30, 4), rng.uniform(0, 20, shape),
        rng.uniform(80, 110, shape), rng.uniform(700, 760, shape), 0,
    )  # fmt: skip
    return signs(rng, shape) * size


def both(target: Any, prediction: Any) -> Draw:
    return lambda rng, shape: (target(rng, shape), prediction(rng, shape))


# ---- Inputs of row losses; a part of the rows each ----


def row_logits(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    spread = np.resize([1.0, 10.0, 30.0, 3000.0], shape[0])
    if shape[1] > 5000:
        spread = np.minimum(spread, 10)
    return rng.normal(0, 1, shape) * spread[:, None]


def row_probabilities(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    z = row_logits(rng, shape)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    # Not quite normalized: else float16 lands on the clip itself, where any rounding decides.
    return 0.75 * e / e.sum(axis=1, keepdims=True)


def one_hot(pick: Draw | Any) -> Draw:
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
        p = pick(rng, shape)
        label = np.where(
            rng.random(shape[0]) < 0.6, p.argmax(axis=1), rng.integers(0, shape[1], shape[0])
        )
        return (label[:, None] == np.arange(shape[1])).astype(float), p

    return draw


def spread_out(pick: Any) -> Draw:
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
        return row_probabilities(rng, shape), pick(rng, shape)

    return draw


def clear_of_zero(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return np.maximum(row_probabilities(rng, shape), 1.1e-7)


def vectors(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    t, p = rng.normal(0, 1, shape), rng.normal(0, 1, shape)
    near = np.arange(shape[0])[:, None] % 3 == 0
    p = np.where(near, t * (1 + powers(rng, shape, -6, -1)), p)
    scale = powers(rng, (shape[0], 1), -5, 12)
    return t, p * scale


def regions(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    share = np.resize([0.5, 0.02, 0.9], shape[0])[:, None]
    t = (rng.random(shape) < share).astype(float)
    blur = np.resize([1e-6, 1e-3, 0.3], shape[0] + 1)[1:, None] * rng.random(shape)
    return t, np.where(rng.random((shape[0], 1)) < 0.6, np.abs(t - blur), rng.random(shape))


def soft_regions(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    return rng.random(shape), rng.random(shape)


# ---- Sizes of the terms of values that cancel ----


def poisson_terms(t: Array, p: Array) -> Array:
    return np.abs(p) + np.abs(t * np.log(p + 1e-7))


def margin_terms(t: Array, p: Array) -> Array:
    return 1 + np.abs((1 - t) * p).max(axis=-1) + np.abs(t * p).sum(axis=-1)


def partition_terms(t: Array, p: Array) -> Array:
    peak = np.abs(p.max(axis=-1))
    rest = np.log(np.exp(p - p.max(axis=-1, keepdims=True)).sum(axis=-1))
    return (peak + rest) ** 2


def product_terms(t: Array, p: Array) -> Array:
    def unit(x: Array) -> Array:
        return x / np.sqrt((x * x).sum(axis=-1, keepdims=True))

    return np.abs(unit(t) * unit(p)).sum(axis=-1)


def focal(note: str, target: Any, gamma: float, **options: Any) -> Case:
    from_logits = options.get("from_logits", False)
    cancels = {"d_true": "log"} if target is hard else {"d_pred": "soft", "d_true": "log"}
    draw = both(target, logits if from_logits else probabilities)
    options = {"gamma": gamma} | options
    return Case("binary_focal_crossentropy", draw, options, cancels, note=note)


def rows(name: str, pick: Any, cancels: Mapping[str, str] | None = None, **options: Any) -> Case:
    """The case of a loss of classes; what cancels there does so for soft targets."""
    return Case(name, pick, options, cancels or {}, note=SOFT_TARGETS if cancels else "")


MAPS = [
    Case("mean_squared_error", errors()),
    Case("mean_absolute_error", errors()),
    Case("mean_absolute_percentage_error", percentages),
    Case("mean_squared_logarithmic_error", positives),
    Case("huber", errors()),
    Case("huber", errors(0.25), {"delta": 0.25}),
    Case("log_cosh", errors()),
    Case("hinge", margins),
    Case("squared_hinge", margins),
    Case("kl_divergence", both(probabilities, probabilities), cancels={"d_true": "log"}),
    Case("poisson", counts, cancels={"value": "poisson"}, value_terms=poisson_terms),
    Case("binary_crossentropy", both(soft, probabilities), cancels={"d_true": "log"}),
    Case("binary_crossentropy", both(hard, logits), {"from_logits": True}),
    Case("binary_crossentropy", both(soft, logits), {"from_logits": True}, {"d_pred": "soft"},
         note=SOFT_TARGETS),
    Case("binary_crossentropy", both(hard, logits), {"from_logits": True, "label_smoothing": 0.25},
         {"d_pred": "soft"}),
    *(focal("", hard, g, from_logits=z) for z in (False, True) for g in (0.0, 0.5, 2.0, 8.0)),
    *(focal(SOFT_TARGETS, soft, 2.0, from_logits=z) for z in (False, True)),
    focal("", hard, 1.5, apply_class_balancing=True, alpha=0.75),
    Case("mean_square", both(soft, logits)),
    Case("mean_absolute", both(soft, logits)),
]  # fmt: skip

SOFT = {"d_pred": "soft"}
ROWS = [
    *(
        rows(name, one_hot(row_logits if z else row_probabilities), from_logits=z, **options)
        for name, options in (
            ("categorical_crossentropy", {}),
            ("sparse_categorical_crossentropy", {}),
            ("categorical_focal_crossentropy", {"gamma": 2.0}),
            ("categorical_focal_crossentropy", {"gamma": 0.5}),
        )
        for z in (False, True)
    ),
    *(
        rows(name, spread_out(row_logits if z else row_probabilities), SOFT, from_logits=z)
        for name in ("categorical_crossentropy", "categorical_focal_crossentropy")
        for z in (False, True)
    ),
    rows("categorical_generalized_cross_entropy", one_hot(clear_of_zero)),
    rows("categorical_generalized_cross_entropy", one_hot(clear_of_zero), q=0.875),
    Case("categorical_hinge", one_hot(row_logits), cancels={"value": "margin"},
         value_terms=margin_terms),
    Case("confidence_penalty", spread_out(row_probabilities), cancels={"d_pred": "entropy"}),
    Case("confidence_penalty", spread_out(row_logits), {"from_logits": True},
         {"d_pred": "entropy"}),
    Case("z_loss", spread_out(row_logits), cancels={"value": "partition", "d_pred": "partition"},
         value_terms=partition_terms),
    Case("cosine_similarity", vectors,
         cancels=dict.fromkeys(("value", "d_pred", "d_true"), "angle"), value_terms=product_terms),
    *(
        Case(name, draw, {"axis": -1} | options,
             dict.fromkeys(("d_true",) if draw is regions else ("d_pred", "d_true"), "overlap"),
             note="" if draw is regions else SOFT_TARGETS)
        for name, options in (("dice", {}), ("dice", {"smooth": 1.0}), ("iou", {}), ("tversky", {}),
                              ("tversky", {"alpha": 0.25, "beta": 1.5}))
        for draw in (regions, soft_regions)
    ),
]  # fmt: skip

CASES = MAPS + ROWS
