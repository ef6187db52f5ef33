"""The same losses as others compute them: value and gradients of elements or rows.

Keras's own functions on TensorFlow; PyTorch's functions where their definition is Keras's; and JAX
expressions as users write them (``benchmarks/formulas.py``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from exact import Array
from sweeps import Case

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import formulas

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

Results = dict[str, Array]  # value, d_pred, d_true


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

    function = formulas.torch_functions(dict(case.options)).get(case.name)
    if function is None:
        return None
    true, pred = th.tensor(t), th.tensor(p, requires_grad=True)
    if case.spec.labels == "integer":
        true = true.argmax(dim=1)
    value = function(true, pred, reduction="none")
    (slope,) = th.autograd.grad(value.sum(), pred)
    return {"value": value.detach().numpy().reshape(len(p)), "d_pred": slope.numpy()}


def jax(case: Case, t: Array, p: Array) -> Results | None:
    import jax as j

    j.config.update("jax_enable_x64", True)
    options = dict(case.options)
    name = case.name
    if name == "sparse_categorical_crossentropy" and options.get("from_logits"):
        name = "categorical_crossentropy"
    expression = formulas.expressions(formulas.jax_numbers()).get(name)
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
