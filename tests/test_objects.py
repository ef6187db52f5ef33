"""Loss objects: configs, names, repr, copies."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import SPECS, describe, draw, losses, make, resolved, variants
from fastloss._registry import ALIASES, LossSpec


def every_option(spec: LossSpec) -> list[dict[str, Any]]:
    """The variants, and one config with every parameter away from its default."""
    away: dict[str, Any] = {
        "delta": 2.5, "axis": 0, "from_logits": True, "label_smoothing": 0.25, "gamma": 3.5,
        "alpha": 0.75, "beta": 1.25, "apply_class_balancing": True, "smooth": 2.0, "q": 0.3,
        "ignore_class": -1, "class_weight": (0.5, 2.0, 1.5), "pos_weight": 3.0,
    }  # fmt: skip
    if spec.kind == "map":
        away["class_weight"] = (0.5, 2.0)
    changed = {p.name: away[p.name] for p in spec.parameters}
    assert all(changed[p.name] != p.default for p in spec.parameters)
    return [*(resolved(spec, v, (3, 3)) for v in variants(spec)), changed]


CONFIGS = [(spec, options) for spec in SPECS for options in every_option(spec)]
configs = pytest.mark.parametrize(("spec", "options"), CONFIGS, ids=describe)

COPIES = {
    "config": lambda loss: type(loss).from_config(loss.get_config()),
    "JSON config": lambda loss: type(loss).from_config(json.loads(json.dumps(loss.get_config()))),
    "get": lambda loss: fastloss.get(
        {"class_name": type(loss).__name__, "config": loss.get_config()}
    ),
    "pickle": lambda loss: pickle.loads(pickle.dumps(loss)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "repr": lambda loss: eval(repr(loss), vars(fastloss).copy()),
}


@pytest.mark.parametrize("way", COPIES)
@configs
def test_copy_is_the_same_loss(spec: LossSpec, options: dict[str, Any], way: str) -> None:
    original = make(spec, options, reduction="sum", name="a name", dtype="float64")
    twin = COPIES[way](original)
    assert type(twin) is type(original)
    assert twin.get_config() == original.get_config()
    for parameter in spec.parameters:
        assert getattr(twin, parameter.name) == getattr(original, parameter.name)
    data = np.random.default_rng(0)
    t, p = draw(spec, {}, (3, 3), np.float32, data)
    assert twin(t, p) == original(t, p)
    assert twin(t, p).dtype == np.float64


@configs
def test_config_holds_every_argument(spec: LossSpec, options: dict[str, Any]) -> None:
    config = make(
        spec, options, reduction=None, name="n", dtype="float32", weight=[2.0]
    ).get_config()
    expected = {p.name: p.default for p in spec.parameters} | options
    common = {"reduction": None, "name": "n", "dtype": "float32", "weight": [2.0]}
    assert config == expected | common


@losses
def test_defaults(spec: LossSpec) -> None:
    loss = make(spec, {})
    assert loss.name == spec.object_name
    assert loss.reduction == "sum_over_batch_size"
    assert loss.dtype is None
    assert repr(loss) == f"{spec.class_name}()"


def test_repr_shows_what_differs_from_the_defaults() -> None:
    loss = fastloss.Huber(2.0, reduction=None)
    assert repr(loss) == "Huber(delta=2.0, reduction=None)"
    assert repr(fastloss.Dice(axis=(1, 2), name="d")) == "Dice(axis=(1, 2), name='d')"


@pytest.mark.parametrize("name", ALIASES)
def test_get_knows_every_name(name: str) -> None:
    assert type(fastloss.get(name)) is getattr(fastloss, ALIASES[name].class_name)


KERAS_STRINGS = {
    "bce": "BinaryCrossentropy", "BCE": "BinaryCrossentropy", "kld": "KLDivergence",
    "KLD": "KLDivergence", "mae": "MeanAbsoluteError", "MAE": "MeanAbsoluteError",
    "mse": "MeanSquaredError", "MSE": "MeanSquaredError",
    "mape": "MeanAbsolutePercentageError", "MAPE": "MeanAbsolutePercentageError",
    "msle": "MeanSquaredLogarithmicError", "MSLE": "MeanSquaredLogarithmicError",
    "logcosh": "LogCosh", "huber_loss": "Huber", "kullback_leibler_divergence": "KLDivergence",
}  # fmt: skip


@pytest.mark.parametrize(("name", "class_name"), KERAS_STRINGS.items())
def test_get_knows_keras_short_and_older_names(name: str, class_name: str) -> None:
    assert type(fastloss.get(name)).__name__ == class_name


def test_get_takes_classes_and_losses() -> None:
    loss = fastloss.Huber(3.0)
    assert fastloss.get(loss) is loss
    assert type(fastloss.get(fastloss.Huber)) is fastloss.Huber


@pytest.mark.parametrize("unknown", ["nothing", "", "Loss"])
def test_get_of_an_unknown_name_lists_the_known(unknown: str) -> None:
    with pytest.raises(ValueError, match=f"identifier.*{unknown!r}.*mean_squared_error"):
        fastloss.get(unknown)


@pytest.mark.parametrize("wrong", [None, 3, {}, {"config": {}}, int, fastloss.mean_squared_error])
def test_get_of_something_else_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="identifier"):
        fastloss.get(wrong)


def test_base_class_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="Loss"):
        fastloss.Loss()


def test_dtype_decides_what_is_computed_and_returned(rng: Any) -> None:
    t, p = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    single = fastloss.MeanSquaredError(dtype="float32").value_and_grad(t, p)
    assert single[0].dtype == single[1].dtype == np.float32
    double = fastloss.MeanSquaredError(dtype="float64").value_and_grad(
        t.astype(np.float32), p.astype(np.float32)
    )
    assert double[0].dtype == double[1].dtype == np.float64


def test_options_may_be_positional_in_keras_order() -> None:
    loss = fastloss.BinaryFocalCrossentropy(True, 0.5, 1.0, True, 0.1, 0)
    config = loss.get_config()
    assert [config[k] for k in list(config)[:6]] == [True, 0.5, 1.0, True, 0.1, 0]
    t, p = np.array([[1.0, 0.0]]), np.array([[0.5, -2.0]])
    by_position = fastloss.binary_crossentropy(t, p, True, 0.2)
    assert by_position == fastloss.binary_crossentropy(t, p, from_logits=True, label_smoothing=0.2)
