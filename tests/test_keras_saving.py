"""fastloss.keras by name: strings, configs, registered names, and saved models."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import fastloss.keras as fk
from cases import losses
from fastloss._registry import REGISTRY, LossSpec
from frameworks import keras, quiet_fit, small_model

quiet_keras = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAMES = [(spec, name) for spec in REGISTRY for name in (spec.name, *sorted(spec.aliases))]


@pytest.mark.parametrize(("spec", "name"), NAMES, ids=[name for _, name in NAMES])
def test_name_of_a_function_gives_the_function(spec: LossSpec, name: str) -> None:
    function = getattr(fk, spec.name)
    assert fk.get(name) is function
    assert fk.get(f"fastloss>{spec.name}") is function
    assert pickle.loads(pickle.dumps(function)) is function


@losses
def test_everything_else_that_names_a_loss(spec: LossSpec) -> None:
    cls, config = getattr(fk, spec.class_name), {"reduction": "sum"}
    for identifier in (
        spec.class_name,
        f"fastloss>{spec.class_name}",
        cls,
        {"class_name": spec.class_name, "config": config},
        {"class_name": f"fastloss>{spec.class_name}", "config": config},
        keras.losses.serialize(cls(reduction="sum")),
    ):
        loss = fk.get(identifier)
        assert type(loss) is cls
        assert loss.reduction == ("sum" if isinstance(identifier, dict) else "sum_over_batch_size")
    loss = cls()
    assert fk.get(loss) is loss
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert type(copied) is cls
        assert copied.get_config() == loss.get_config()


@losses
def test_registered_names_are_known_to_keras(spec: LossSpec) -> None:
    cls, function = getattr(fk, spec.class_name), getattr(fk, spec.name)
    assert keras.losses.get(f"fastloss>{spec.name}") is function
    assert type(keras.losses.get(f"fastloss>{spec.class_name}")) is cls
    assert keras.losses.deserialize(f"fastloss>{spec.name}") is function
    assert keras.losses.deserialize(keras.losses.serialize(function)) is function
    config = {"class_name": f"fastloss>{spec.class_name}", "config": {"reduction": "sum"}}
    for get in (keras.losses.get, keras.losses.deserialize):
        loss = get(config)
        assert type(loss) is cls
        assert loss.reduction == "sum"


def test_keras_keeps_its_own_names() -> None:
    assert keras.losses.get("mse") is keras.losses.mean_squared_error
    assert type(keras.losses.get("Huber")) is keras.losses.Huber
    with pytest.raises(ValueError, match="Could not interpret loss identifier: iou"):
        keras.losses.get("iou")


def test_config_of_keras_gives_our_loss() -> None:
    theirs = keras.losses.BinaryCrossentropy(label_smoothing=0.25)
    ours = fk.get(keras.losses.serialize(theirs))
    assert type(ours) is fk.BinaryCrossentropy
    assert ours.label_smoothing == 0.25
    assert fk.get(keras.losses.serialize(keras.losses.huber)) is fk.huber


def test_what_only_keras_has_comes_from_keras() -> None:
    wrapper = type(keras.losses.Huber()).__mro__[1](keras.losses.huber, name="mine")
    assert type(fk.get(keras.losses.serialize(wrapper))) is type(wrapper)


@pytest.mark.parametrize("identifier", ["typo", "fastloss>typo", 5, {"class_name": "Typo"}, {}])
def test_error_is_that_of_keras(identifier: Any) -> None:
    errors = []
    for get in (keras.losses.get, fk.get):
        with pytest.raises((ValueError, TypeError, KeyError)) as caught:
            get(identifier)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]
    assert fk.get(None) is None


@quiet_keras
@pytest.mark.parametrize(
    "loss",
    ["fastloss>huber", "fastloss>Huber", fk.huber, fk.CosineSimilarity(axis=1, dtype="float64")],
    ids=["function name", "class name", "function", "object"],
)
def test_saved_model_keeps_our_loss(loss: Any, tmp_path: Any, rng: Any) -> None:
    x, y = rng.normal(size=(16, 8)).astype("f4"), rng.normal(size=(16, 2)).astype("f4")
    model = small_model(2, loss)
    quiet_fit(model, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    if isinstance(loss, keras.losses.Loss):
        assert type(loaded.loss) is type(loss)
        assert loaded.loss.get_config() == loss.get_config()
        assert (loaded.loss.axis, loaded.loss.dtype) == (1, "float64")
    else:
        # Keras turns the string into the class when it loads, and makes an object of it later.
        restored = fk.get(loaded.loss)
        assert restored is fk.huber or type(restored) is fk.Huber
