"""The same losses as others compute them: value and gradients of elements or rows.

Keras's own functions on TensorFlow; PyTorch's functions where their definition is Keras's; and JAX
expressions as users write them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from exact import Array
from sweeps import Case

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

Results = dict[str, Array]  # value, d_pred, d_true
EPSILON = 1e-7


def keras(case: Case, t: Array, p: Array) -> Results | None:
    import keras as k
    import tensorflow as tf

    function = getattr(k.losses, case.name, None)
    if function is None or "smooth" in case.options:
        return None
    options = {"q": 0.5} | dict(case.options) if "generalized" in case.name else case.options
    sparse = case.spec.labels == "integer"
    true, pred = tf.constant(t.argmax(axis=1) if sparse else t), tf.constant(p)
    with tf.GradientTape() as tape:
        watched = [pred] if sparse else [pred, true]
        tape.watch(watched)
        value = function(true, pred, **options)
    slopes = tape.gradient(value, watched, unconnected_gradients="zero")
    return dict(
        zip(("value", "d_pred", "d_true"), [np.asarray(x) for x in (value, *slopes)], strict=False)
    )


def torch(case: Case, t: Array, p: Array) -> Results | None:
    import torch as th
    from torch.nn import functional as f

    def classes(true: Any, pred: Any) -> Any:
        return f.cross_entropy(pred, true, reduction="none")

    functions: dict[str, Callable[..., Any]] = {
        "mean_squared_error": lambda t, p: f.mse_loss(p, t, reduction="none"),
        "mean_absolute_error": lambda t, p: f.l1_loss(p, t, reduction="none"),
        "huber": lambda t, p: f.huber_loss(
            p, t, reduction="none", delta=case.options.get("delta", 1.0)
        ),
        "poisson": lambda t, p: f.poisson_nll_loss(
            p, t, log_input=False, eps=EPSILON, reduction="none"
        ),
    }
    if case.options.get("from_logits") and not case.options.get("label_smoothing"):
        functions |= {
            "binary_crossentropy": lambda t, p: f.binary_cross_entropy_with_logits(
                p, t, reduction="none"
            ),
            "categorical_crossentropy": classes,
            "sparse_categorical_crossentropy": lambda t, p: classes(t.argmax(dim=1), p),
        }
    if case.name not in functions:
        return None
    true, pred = th.tensor(t), th.tensor(p, requires_grad=True)
    value = functions[case.name](true, pred)
    (slope,) = th.autograd.grad(value.sum(), pred)
    return {"value": value.detach().numpy().reshape(len(p)), "d_pred": slope.numpy()}


def _binary(t: Any, p: Any, o: dict[str, Any]) -> Any:
    import jax
    import jax.numpy as jnp

    smoothing = o.get("label_smoothing", 0.0)
    t = t * (1 - smoothing) + smoothing / 2
    if o.get("from_logits"):
        return t, jax.nn.sigmoid(p), jax.nn.relu(p) - p * t + jnp.log1p(jnp.exp(-jnp.abs(p)))
    q = jnp.clip(p, EPSILON, 1 - EPSILON)
    return t, p, -(t * jnp.log(q) + (1 - t) * jnp.log(1 - q))


def _focal(t: Any, p: Any, o: dict[str, Any]) -> Any:
    t, q, crossentropy = _binary(t, p, o)
    factor = (1 - (t * q + (1 - t) * (1 - q))) ** o["gamma"]
    if o.get("apply_class_balancing"):
        factor = factor * (t * o["alpha"] + (1 - t) * (1 - o["alpha"]))
    return factor * crossentropy


def _class_loss(t: Any, p: Any, o: dict[str, Any], gamma: float = 0.0, alpha: float = 1.0) -> Any:
    import jax
    import jax.numpy as jnp

    if o.get("from_logits"):
        log_q = jax.nn.log_softmax(p)
    else:
        log_q = jnp.log(jnp.clip(p / p.sum(-1, keepdims=True), EPSILON, 1 - EPSILON))
    return -(alpha * (1 - jnp.exp(log_q)) ** gamma * t * log_q).sum(-1)


def _expressions() -> dict[str, Callable[[Any, Any, dict[str, Any]], Any]]:
    import jax.numpy as jnp

    def unit(x: Any) -> Any:
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), EPSILON)

    def huber(t: Any, p: Any, o: dict[str, Any]) -> Any:
        e, delta = jnp.abs(p - t), o.get("delta", 1.0)
        return jnp.where(e <= delta, 0.5 * e**2, delta * (e - 0.5 * delta))

    def kl(t: Any, p: Any, _: Any) -> Any:
        t, p = jnp.clip(t, EPSILON, 1), jnp.clip(p, EPSILON, 1)
        return t * jnp.log(t / p)

    def dice(t: Any, p: Any, o: dict[str, Any]) -> Any:
        smooth = o.get("smooth")
        above, below = (0.0, EPSILON) if smooth is None else (smooth, smooth)
        return 1 - (2 * (t * p).sum(-1) + above) / (t.sum(-1) + p.sum(-1) + below)

    def iou(t: Any, p: Any, _: Any) -> Any:
        both = (t * p).sum(-1)
        return 1 - (both + 1) / (t.sum(-1) + p.sum(-1) - both + 1)

    def tversky(t: Any, p: Any, o: dict[str, Any]) -> Any:
        both = (t * p).sum(-1)
        missed, added = (t * (1 - p)).sum(-1), (p * (1 - t)).sum(-1)
        size = both + o.get("alpha", 0.5) * missed + o.get("beta", 0.5) * added
        return 1 - both / (size + EPSILON)

    return {
        "mean_squared_error": lambda t, p, _: (p - t) ** 2,
        "mean_absolute_error": lambda t, p, _: jnp.abs(p - t),
        "mean_absolute_percentage_error": lambda t, p, _: (
            100 * jnp.abs((t - p) / jnp.maximum(jnp.abs(t), EPSILON))
        ),
        "mean_squared_logarithmic_error": lambda t, p, _: (
            (jnp.log1p(jnp.maximum(p, EPSILON)) - jnp.log1p(jnp.maximum(t, EPSILON))) ** 2
        ),
        "huber": huber,
        "log_cosh": lambda t, p, _: jnp.logaddexp(p - t, t - p) - jnp.log(2.0).astype(p.dtype),
        "hinge": lambda t, p, _: jnp.maximum(1 - t * p, 0),
        "squared_hinge": lambda t, p, _: jnp.maximum(1 - t * p, 0) ** 2,
        "kl_divergence": kl,
        "poisson": lambda t, p, _: p - t * jnp.log(p + EPSILON),
        "binary_crossentropy": lambda t, p, o: _binary(t, p, o)[2],
        "binary_focal_crossentropy": _focal,
        "categorical_crossentropy": _class_loss,
        "categorical_focal_crossentropy": lambda t, p, o: _class_loss(
            t, p, o, o.get("gamma", 2.0), 0.25
        ),
        "categorical_generalized_cross_entropy": lambda t, p, o: (
            (1 - (t * p).sum(-1) ** o.get("q", 0.5)) / o.get("q", 0.5)
        ),
        "categorical_hinge": lambda t, p, _: jnp.maximum(
            ((1 - t) * p).max(-1) - (t * p).sum(-1) + 1, 0
        ),
        "cosine_similarity": lambda t, p, _: -(unit(t) * unit(p)).sum(-1),
        "dice": dice,
        "iou": iou,
        "tversky": tversky,
    }


def jax(case: Case, t: Array, p: Array) -> Results | None:
    import jax as j

    j.config.update("jax_enable_x64", True)
    options = dict(case.options)
    name = case.name
    if name == "sparse_categorical_crossentropy" and options.get("from_logits"):
        name = "categorical_crossentropy"
    expression = _expressions().get(name)
    if expression is None:
        return None
    value, pull_back = j.vjp(
        lambda t, p: expression(t, p, options), j.numpy.asarray(t), j.numpy.asarray(p)
    )
    d_true, d_pred = pull_back(j.numpy.ones_like(value))
    return {
        "value": np.asarray(value).reshape(len(p)),
        "d_pred": np.asarray(d_pred),
        "d_true": np.asarray(d_true),
    }


PEERS = {"Keras": keras, "PyTorch": torch, "JAX": jax}
