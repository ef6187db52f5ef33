"""The losses as users of PyTorch and JAX write them: for the accuracy tables and the benchmark.

One set of expressions serves both; `jax_numbers` and `torch_numbers` hold the functions they are
made of. An expression gives the loss of every element or row: (y_true, y_pred, options) -> values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

EPSILON = 1e-7

Options = dict[str, Any]
Expression = Callable[[Any, Any, Options], Any]


def jax_numbers() -> SimpleNamespace:
    """The functions of JAX that the expressions call."""
    import jax
    import jax.numpy as jnp

    return SimpleNamespace(
        abs=jnp.abs, clip=jnp.clip, exp=jnp.exp, log=jnp.log, log1p=jnp.log1p, where=jnp.where,
        logaddexp=jnp.logaddexp, maximum=jnp.maximum, relu=jax.nn.relu, sigmoid=jax.nn.sigmoid,
        log_softmax=jax.nn.log_softmax, logsumexp=lambda x: jax.nn.logsumexp(x, axis=-1),
        largest=lambda x: jnp.max(x, axis=-1),
        norm=lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True),
        total=lambda x: jnp.sum(x, axis=-1, keepdims=True),
        at_label=lambda x, label: jnp.take_along_axis(x, label[:, None], axis=-1)[:, 0],
    )  # fmt: skip


def torch_numbers() -> SimpleNamespace:
    """The functions of PyTorch that the expressions call."""
    import torch

    return SimpleNamespace(
        abs=torch.abs, clip=torch.clamp, exp=torch.exp, log=torch.log, log1p=torch.log1p,
        where=torch.where, logaddexp=torch.logaddexp,
        maximum=lambda x, low: torch.clamp(x, min=low), relu=torch.relu, sigmoid=torch.sigmoid,
        log_softmax=lambda x: torch.log_softmax(x, dim=-1),
        logsumexp=lambda x: torch.logsumexp(x, dim=-1),
        largest=lambda x: torch.amax(x, dim=-1),
        norm=lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True),
        total=lambda x: torch.sum(x, dim=-1, keepdim=True),
        at_label=lambda x, label: torch.gather(x, -1, label[:, None])[:, 0],
    )  # fmt: skip


def expressions(xp: SimpleNamespace) -> dict[str, Expression]:
    """Every loss that has an expression; integer labels are given as one-hot rows."""

    def unit(x: Any) -> Any:
        return x / xp.maximum(xp.norm(x), EPSILON)

    def huber(t: Any, p: Any, o: Options) -> Any:
        e, delta = xp.abs(p - t), o.get("delta", 1.0)
        return xp.where(e <= delta, 0.5 * e**2, delta * (e - 0.5 * delta))

    def kl(t: Any, p: Any, _: Options) -> Any:
        t, p = xp.clip(t, EPSILON, 1), xp.clip(p, EPSILON, 1)
        return t * xp.log(t / p)

    def binary(t: Any, p: Any, o: Options) -> tuple[Any, Any, Any]:
        """The smoothed target, the probability and the cross-entropy."""
        smoothing = o.get("label_smoothing", 0.0)
        t = t * (1 - smoothing) + smoothing / 2
        if o.get("from_logits"):
            return t, xp.sigmoid(p), xp.relu(p) - p * t + xp.log1p(xp.exp(-xp.abs(p)))
        q = xp.clip(p, EPSILON, 1 - EPSILON)
        return t, p, -(t * xp.log(q) + (1 - t) * xp.log(1 - q))

    def binary_focal(t: Any, p: Any, o: Options) -> Any:
        t, q, crossentropy = binary(t, p, o)
        factor = (1 - (t * q + (1 - t) * (1 - q))) ** o.get("gamma", 2.0)
        if o.get("apply_class_balancing"):
            factor = factor * (t * o["alpha"] + (1 - t) * (1 - o["alpha"]))
        return factor * crossentropy

    def log_classes(p: Any, o: Options) -> Any:
        if o.get("from_logits"):
            return xp.log_softmax(p)
        return xp.log(xp.clip(p / xp.total(p), EPSILON, 1 - EPSILON))

    def categorical_focal(t: Any, p: Any, o: Options) -> Any:
        log_q = log_classes(p, o)
        factor = (1 - xp.exp(log_q)) ** o.get("gamma", 2.0)
        return -(o.get("alpha", 0.25) * factor * t * log_q).sum(-1)

    def dice(t: Any, p: Any, o: Options) -> Any:
        smooth = o.get("smooth")
        above, below = (0.0, EPSILON) if smooth is None else (smooth, smooth)
        return 1 - (2 * (t * p).sum(-1) + above) / (t.sum(-1) + p.sum(-1) + below)

    def iou(t: Any, p: Any, _: Options) -> Any:
        both = (t * p).sum(-1)
        return 1 - (both + 1) / (t.sum(-1) + p.sum(-1) - both + 1)

    def tversky(t: Any, p: Any, o: Options) -> Any:
        both = (t * p).sum(-1)
        missed, added = (t * (1 - p)).sum(-1), (p * (1 - t)).sum(-1)
        size = both + o.get("alpha", 0.5) * missed + o.get("beta", 0.5) * added
        return 1 - both / (size + EPSILON)

    return {
        "mean_squared_error": lambda t, p, _: (p - t) ** 2,
        "mean_absolute_error": lambda t, p, _: xp.abs(p - t),
        "mean_absolute_percentage_error": lambda t, p, _: (
            100 * xp.abs((t - p) / xp.maximum(xp.abs(t), EPSILON))
        ),
        "mean_squared_logarithmic_error": lambda t, p, _: (
            (xp.log1p(xp.maximum(p, EPSILON)) - xp.log1p(xp.maximum(t, EPSILON))) ** 2
        ),
        "huber": huber,
        "log_cosh": lambda t, p, _: xp.logaddexp(p - t, t - p) - math.log(2.0),
        "hinge": lambda t, p, _: xp.maximum(1 - t * p, 0),
        "squared_hinge": lambda t, p, _: xp.maximum(1 - t * p, 0) ** 2,
        "kl_divergence": kl,
        "poisson": lambda t, p, _: p - t * xp.log(p + EPSILON),
        "binary_crossentropy": lambda t, p, o: binary(t, p, o)[2],
        "binary_focal_crossentropy": binary_focal,
        "categorical_crossentropy": lambda t, p, o: -(t * log_classes(p, o)).sum(-1),
        "categorical_focal_crossentropy": categorical_focal,
        "categorical_generalized_cross_entropy": lambda t, p, o: (
            (1 - (t * p).sum(-1) ** o.get("q", 0.5)) / o.get("q", 0.5)
        ),
        "categorical_hinge": lambda t, p, _: xp.maximum(
            xp.largest((1 - t) * p) - (t * p).sum(-1) + 1, 0
        ),
        "cosine_similarity": lambda t, p, _: -(unit(t) * unit(p)).sum(-1),
        "dice": dice,
        "iou": iou,
        "tversky": tversky,
    }


def label_expressions(xp: SimpleNamespace) -> dict[str, Expression]:
    """The losses of integer labels, with one label per row."""

    def sparse(t: Any, p: Any, o: Options) -> Any:
        if o.get("from_logits"):
            return xp.logsumexp(p) - xp.at_label(p, t)
        q = xp.at_label(p, t) / xp.total(p)[:, 0]
        return -xp.log(xp.clip(q, EPSILON, 1 - EPSILON))

    return {
        "sparse_categorical_crossentropy": sparse,
        "categorical_generalized_cross_entropy": lambda t, p, o: (
            (1 - xp.at_label(p, t) ** o.get("q", 0.5)) / o.get("q", 0.5)
        ),
    }


def torch_functions(options: Options) -> dict[str, Callable[..., Any]]:
    """PyTorch's own functions whose definition is Keras's: (y_true, y_pred, reduction=)."""
    from torch.nn import functional as f

    functions: dict[str, Callable[..., Any]] = {
        "mean_squared_error": lambda t, p, **r: f.mse_loss(p, t, **r),
        "mean_absolute_error": lambda t, p, **r: f.l1_loss(p, t, **r),
        "huber": lambda t, p, **r: f.huber_loss(p, t, delta=options.get("delta", 1.0), **r),
        "poisson": lambda t, p, **r: f.poisson_nll_loss(p, t, log_input=False, eps=EPSILON, **r),
    }
    if options.get("from_logits") and not options.get("label_smoothing"):
        functions |= {
            "binary_crossentropy": lambda t, p, **r: f.binary_cross_entropy_with_logits(p, t, **r),
            "categorical_crossentropy": lambda t, p, **r: f.cross_entropy(p, t, **r),
            "sparse_categorical_crossentropy": lambda t, p, **r: f.cross_entropy(p, t, **r),
        }
    return functions


def array_expressions(xp: Any) -> dict[str, Callable[[Any, Any, bool], Any]]:
    """The mean of a loss as users of NumPy or CuPy write it, who have to derive its gradient.

    (y_true, y_pred, gradient wanted) -> (value, gradient) or (value,).
    """

    def of_elements(loss: Callable[[Any, Any], Any], slope: Callable[[Any, Any], Any]) -> Any:
        def both(t: Any, p: Any, gradient: bool) -> Any:
            value = loss(t, p).mean()
            return (value, slope(t, p) / p.size) if gradient else (value,)

        return both

    def huber(t: Any, p: Any) -> Any:
        e = xp.abs(p - t)
        return xp.where(e <= 1, 0.5 * e**2, e - 0.5)

    def sparse(t: Any, p: Any, gradient: bool) -> Any:
        rows = xp.arange(len(t))
        p = p - p.max(axis=-1, keepdims=True)
        exponentials = xp.exp(p)
        total = exponentials.sum(axis=-1, keepdims=True)
        value = (xp.log(total[:, 0]) - p[rows, t]).mean()
        if not gradient:
            return (value,)
        grad = exponentials / total
        grad[rows, t] -= 1
        return value, grad / len(t)

    return {
        "mean_squared_error": of_elements(lambda t, p: (p - t) ** 2, lambda t, p: 2 * (p - t)),
        "huber": of_elements(huber, lambda t, p: xp.clip(p - t, -1, 1)),
        "binary_crossentropy (logits)": of_elements(
            lambda t, p: xp.maximum(p, 0) - p * t + xp.log1p(xp.exp(-xp.abs(p))),
            lambda t, p: 1 / (1 + xp.exp(-p)) - t,
        ),
        "sparse_categorical_crossentropy (logits)": sparse,
    }
