"""Keras's own loss functions, whatever `fastloss.keras.patch` does to the ones that users see."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import keras.src.losses.losses as keras_losses

from fastloss._registry import REGISTRY, LossSpec

PUBLIC: dict[str, types.FunctionType] = {
    spec.name: getattr(keras_losses, spec.name)
    for spec in REGISTRY
    if hasattr(keras_losses, spec.name)
}
"""The function objects of Keras, by name: every reference to a loss in Keras is to one of these."""


def _copy(function: types.FunctionType) -> Callable[..., Any]:
    copied = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.__module__ = function.__module__
    return copied


# Patching exchanges the code of the public objects. A copy made here, before anybody can patch,
# keeps the code of Keras.
ORIGINAL = {name: _copy(function) for name, function in PUBLIC.items()}
"""What the functions of Keras compute, patched or not."""


def compute(
    spec: LossSpec, y_true: Any, y_pred: Any, parameters: dict[str, Any], **arrays: Any
) -> Any:
    """The losses of the samples as Keras's own function computes them.

    Parameters that Keras does not have are left out as long as they have their default.
    """
    function = ORIGINAL.get(spec.name)
    known = inspect.signature(function).parameters if function else {}
    defaults = {p.name: p.default for p in spec.parameters}
    for name, value in parameters.items():
        if name not in known and value != defaults[name]:
            function = None
    if any(name not in known for name in arrays):
        function = None
    if function is None:
        raise NotImplementedError(
            f"fastloss: Keras has no {spec.name} with these options to fall back on: it does not "
            "run under XLA (compile with jit_compile=False), nor on symbolic or sparse tensors"
        )
    given = {k: v for k, v in parameters.items() if k in known}
    return function(y_true, y_pred, **arrays, **given)
