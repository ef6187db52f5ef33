"""The losses: a function and a class for every row of the registry, and `get`.

The names are made from the registry when this module is imported; ``losses.pyi`` lists them for
type checkers and editors.
"""

from __future__ import annotations

from typing import Any

from fastloss._algebra import Combination, Sliced, sliced
from fastloss._build import Loss, class_members, get_spec, make_function
from fastloss._evaluate import Call, Plan
from fastloss._registry import REGISTRY

__all__ = ["Combination", "Loss", "Sliced", "get", "sliced"]


def _per_sample(plan: Plan, y_true: Any, y_pred: Any, **arrays: Any) -> Any:
    check = arrays.pop("check", False)
    done = plan.run(y_true, y_pred, 0, None, None, 1.0, None, None, None)
    if done is None:
        done = plan.evaluate(Call(y_true, y_pred, None, check=check, arrays=arrays))
    return done[0]


for _spec in REGISTRY:
    globals()[_spec.name] = make_function(
        _spec,
        __name__,
        _per_sample,
        example=f"fastloss.{_spec.name}",
        takes_check=_spec.labels == "integer",
    )
    globals()[_spec.class_name] = type(
        _spec.class_name,
        (Loss,),
        class_members(_spec, __name__, example=f"fastloss.{_spec.class_name}()"),
    )
    __all__ += [_spec.name, _spec.class_name]


def get(identifier: Any) -> Loss:
    """The loss that a string or a config names, with default parameters unless the config has them.

    Parameters
    ----------
    identifier : str, dict, Loss or a subclass of Loss
        A function name, class name or short name (``"mse"``); ``{"class_name": ..., "config":
        ...}``; a class; or a loss, which is returned as it is.

    Returns
    -------
    Loss

    Raises
    ------
    ValueError
        If no loss has that name.
    TypeError
        If ``identifier`` is none of the above.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.get("mse")
    MeanSquaredError()
    >>> fastloss.get({"class_name": "Huber", "config": {"delta": 2.0}})
    Huber(delta=2.0)
    """
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Loss):
        return identifier()
    if isinstance(identifier, str):
        return get({"class_name": identifier, "config": {}})
    if isinstance(identifier, dict) and identifier.keys() >= {"class_name"}:
        made_of_losses = {cls.__name__: cls for cls in (Combination, Sliced)}
        cls: type[Loss] | None = made_of_losses.get(identifier["class_name"])
        if cls is None:
            cls = globals()[get_spec(identifier["class_name"]).class_name]
        assert cls is not None
        return cls.from_config(identifier.get("config") or {})
    raise TypeError(
        f"identifier: expected a name, a config with 'class_name', or a loss, got {identifier!r}"
    )
