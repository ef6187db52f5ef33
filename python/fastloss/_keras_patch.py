"""Making Keras's own losses run on fastloss."""

from __future__ import annotations

import inspect
import threading
import types
from typing import Any

from keras.src.losses.loss import Loss
from keras.src.losses.losses import LossFunctionWrapper

from fastloss._keras_call import call_loss
from fastloss._keras_functions import PUBLIC
from fastloss._registry import BY_NAME

# Keras holds its losses in many places (its API modules, the tables behind strings, modules of
# metrics, objects in compiled models), and so do its users (`from keras.losses import huber`).
# Replacing what these names refer to would miss some, and would break isinstance, pickling and
# saving. So no name is touched: each function of Keras stays the object that it is and gets the
# code of a call to fastloss, and the one class that all loss objects are built on gets a __call__
# that does the reduction in the same pass. What is saved while patched is Keras's, too.


def _redirection(function: types.FunctionType) -> types.CodeType:
    """The code of ``def name(<the same arguments>): return fastloss.keras.name(...)``."""
    name, arguments = function.__name__, ", ".join(inspect.signature(function).parameters)
    source = (
        f"def {name}({arguments}):\n"
        f"    from fastloss.keras import {name} as fused\n"
        f"    return fused({arguments})\n"
    )
    module = compile(source, f"<fastloss.keras.patch: {name}>", "exec")
    return next(c for c in module.co_consts if isinstance(c, types.CodeType))


def _fused_call(self: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    name = getattr(self.fn, "__name__", "")
    is_ours = self.fn is PUBLIC.get(name) and type(self).call is LossFunctionWrapper.call
    if not is_ours:
        return Loss.__call__(self, y_true, y_pred, sample_weight)
    return call_loss(self, BY_NAME[name], self._fn_kwargs, y_true, y_pred, sample_weight)


_OWN_CODE = {name: function.__code__ for name, function in PUBLIC.items()}
_FUSED_CODE = {name: _redirection(function) for name, function in PUBLIC.items()}
_OWN_CALL = vars(LossFunctionWrapper).get("__call__")

_lock = threading.Lock()
_by_call = False
_blocks = 0


def _apply() -> None:
    """Brings Keras into the state that is asked for. The caller holds the lock."""
    active = _by_call or _blocks > 0
    for name, code in (_FUSED_CODE if active else _OWN_CODE).items():
        PUBLIC[name].__code__ = code
    if active:
        LossFunctionWrapper.__call__ = _fused_call
    elif _OWN_CALL is not None:
        LossFunctionWrapper.__call__ = _OWN_CALL
    elif "__call__" in vars(LossFunctionWrapper):
        del LossFunctionWrapper.__call__


class Patch:
    """What `patch` returns: a context manager that ends the patch with its block."""

    def __init__(self, *, began: bool) -> None:
        self._began = began

    def __enter__(self) -> None:
        global _by_call, _blocks
        with _lock:
            _blocks += 1
            if self._began:
                _by_call = False
                self._began = False
            _apply()

    def __exit__(self, *_: object) -> None:
        global _blocks
        with _lock:
            _blocks -= 1
            _apply()


def patch() -> Patch:
    """Makes Keras's own losses run on fastloss: its functions, classes, strings and metrics.

    ``keras.losses.huber``, ``keras.losses.Huber()``, ``compile(loss="huber")`` and
    ``keras.metrics.MeanSquaredError()`` keep their names, types, configs and saved form; what they
    compute runs on fastloss, also in objects made before. A model that was trained or evaluated
    before keeps the step it was compiled to, until it is compiled again.

    Patching twice is patching once. With ``with patch():`` it ends with the block; blocks may be
    nested, and run in several threads: Keras is as it was when the last one has ended.

    Returns
    -------
    context manager

    See Also
    --------
    unpatch : Ends it.

    Examples
    --------
    >>> import keras  # doctest: +SKIP
    >>> import fastloss.keras  # doctest: +SKIP
    >>> with fastloss.keras.patch():  # doctest: +SKIP
    ...     model.compile(loss="mse")
    ...     model.fit(x, y)
    """
    global _by_call
    with _lock:
        began = not _by_call
        _by_call = True
        _apply()
    return Patch(began=began)


def unpatch() -> None:
    """Ends `patch`: Keras computes its losses itself again.

    Blocks of ``with patch():`` that are running stay patched to their end. Without a patch, this
    does nothing.
    """
    global _by_call
    with _lock:
        _by_call = False
        _apply()
