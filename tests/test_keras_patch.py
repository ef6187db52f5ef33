"""fastloss.keras.patch: Keras's own names run on fastloss, and are themselves again afterwards."""

from __future__ import annotations

import inspect
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from keras.losses import Huber as EarlyHuber
from keras.losses import huber as early_huber
from keras.src.losses.losses import LossFunctionWrapper

import fastloss.keras as fk
from cases import CASES, describe, draw, one_class_is_allowed, resolved
from fastloss import _keras_call, _keras_patch
from fastloss._keras_functions import ORIGINAL, PUBLIC
from fastloss._registry import LossSpec
from frameworks import (
    KERAS_LACKS,
    assert_agrees,
    distributions,
    keras,
    modes,
    quiet_fit,
    small_model,
    tf,
    value_and_gradients,
)  # fmt: skip

pytestmark = one_class_is_allowed

Spy = list[str]
SATURATES = {"binary_focal_crossentropy", "categorical_focal_crossentropy"}
IN_KERAS = [(s, o) for s, o in CASES if s.name in PUBLIC and not KERAS_LACKS & o.keys()]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """The names of the losses that our kernels computed."""
    seen: Spy = []

    def recorded(right: Any) -> Any:
        def recording(plan: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(plan.spec.name)
            return right(plan, *args, **kwargs)

        return recording

    for route in ("fused_loss", "per_sample"):
        monkeypatch.setattr(_keras_call, route, recorded(getattr(_keras_call, route)))
    return seen


@pytest.fixture(autouse=True)
def ends_unpatched() -> Iterator[None]:
    yield
    assert not is_patched(), "a test left Keras patched"


def is_patched() -> bool:
    states = {function.__code__ is _keras_patch._FUSED_CODE[n] for n, function in PUBLIC.items()}
    states.add("__call__" in vars(LossFunctionWrapper))
    assert len(states) == 1
    return states.pop()


def random_pair(rng: Any, shape: tuple[int, ...] = (6, 5)) -> tuple[Any, Any]:
    return rng.normal(size=shape).astype("f4"), rng.normal(size=shape).astype("f4")


@modes
@pytest.mark.parametrize("route", ["function", "class"])
@pytest.mark.parametrize(("spec", "options"), IN_KERAS, ids=describe)
def test_patched_loss_agrees_with_itself(
    spec: LossSpec, options: dict[str, Any], route: str, mode: Any, fused: Spy, rng: Any
) -> None:
    shape = (5, 4, 3)
    options = resolved(spec, options, shape)
    t, p = draw(spec, options, shape, np.float32, rng)
    if options.get("from_logits") and spec.name in SATURATES:
        p = p / 2
    t = distributions(spec, t)
    if route == "class":
        loss = getattr(keras.losses, spec.class_name)(**options)
    else:
        if spec.name == "categorical_generalized_cross_entropy":
            options = {"q": 0.5, **options}
        function = getattr(keras.losses, spec.name)
        loss = lambda t, p: function(t, p, **options)  # noqa: E731
    expected = value_and_gradients(loss, mode, t, p)
    assert not fused
    with fk.patch():
        ours = value_and_gradients(loss, mode, t, p)
    assert set(fused) == {spec.name}
    for a, b in zip(ours, expected, strict=True):
        assert_agrees(a, b)


CALLS: dict[str, Callable[[], Callable[[Any, Any], Any]]] = {
    "function": lambda: keras.losses.huber,
    "function imported before": lambda: early_huber,
    "class": lambda: keras.losses.Huber(),
    "class imported before": lambda: EarlyHuber(),
    "name of a function": lambda: keras.losses.get("huber"),
    "name of a class": lambda: keras.losses.get("Huber"),
    "config": lambda: keras.losses.get({"class_name": "Huber", "config": {"delta": 2.0}}),
    "deserialized": lambda: keras.losses.deserialize(keras.losses.serialize(keras.losses.Huber())),
    "metric function": lambda: keras.metrics.huber,
    "wrapped by hand": lambda: LossFunctionWrapper(keras.losses.huber),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_to_a_loss_is_patched(call: Any, fused: Spy, rng: Any) -> None:
    made_before = call()
    with fk.patch():
        made_inside = call()
        for loss in (made_before, made_inside):
            loss(*random_pair(rng))
            assert fused == ["huber"]
            fused.clear()
    for loss in (made_before, made_inside):
        loss(*random_pair(rng))
    assert not fused


def test_metric_objects_and_strings_are_patched(fused: Spy, rng: Any) -> None:
    metric = keras.metrics.MeanSquaredError()
    with fk.patch():
        metric.update_state(*random_pair(rng))
        assert fused == ["mean_squared_error"]
        keras.metrics.get("mae")(*random_pair(rng))
    assert fused == ["mean_squared_error", "mean_absolute_error"]


@pytest.mark.parametrize("loss", ["mse", "MeanSquaredError", "object"])
def test_fit_is_the_same_while_patched(loss: Any, fused: Spy, rng: Any) -> None:
    x, y = rng.normal(size=(64, 8)).astype("f4"), rng.normal(size=(64, 2)).astype("f4")
    curves = []
    for patched in (False, True):
        if patched:
            fk.patch()
        loss = keras.losses.MeanSquaredError() if loss == "object" else loss
        try:
            model = small_model(2, loss, metrics=["mae"])
            curves.append(quiet_fit(model, x, y, epochs=2))
        finally:
            fk.unpatch()
        assert set(fused) == ({"mean_squared_error", "mean_absolute_error"} if patched else set())
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


def test_nothing_but_code_changes() -> None:
    before = {name: (f, f.__defaults__, inspect.signature(f)) for name, f in PUBLIC.items()}
    codes = {name: f.__code__ for name, f in PUBLIC.items()}
    config = keras.losses.serialize(keras.losses.Huber(delta=2.0))
    with fk.patch():
        loss = keras.losses.Huber(delta=2.0)
        assert isinstance(loss, keras.losses.Huber)
        assert type(loss) is EarlyHuber
        assert keras.losses.serialize(loss) == config
        assert pickle.loads(pickle.dumps(keras.losses.huber)) is early_huber
        assert keras.losses.get("huber") is keras.metrics.huber is early_huber
        assert {name: (f, f.__defaults__, inspect.signature(f)) for name, f in PUBLIC.items()} == (
            before
        )
    assert {name: f.__code__ for name, f in PUBLIC.items()} == codes
    assert not is_patched()


def test_patching_twice_is_patching_once() -> None:
    fk.patch()
    fk.patch()
    assert is_patched()
    fk.unpatch()
    assert not is_patched()
    fk.unpatch()


def test_blocks_nest_and_leave_an_outer_patch_alone() -> None:
    with fk.patch():
        with fk.patch():
            assert is_patched()
        assert is_patched()
        fk.unpatch()  # the block stays what it says it is
        assert is_patched()
    assert not is_patched()
    fk.patch()
    with fk.patch():
        pass
    assert is_patched()
    fk.unpatch()


def test_an_error_in_the_block_ends_the_patch() -> None:
    with pytest.raises(ZeroDivisionError), fk.patch():
        raise ZeroDivisionError
    assert not is_patched()


def test_calls_in_other_threads_meet_one_loss_or_the_other(rng: Any) -> None:
    t, p = random_pair(rng)
    loss = keras.losses.Huber(delta=0.5)
    expected = float(loss(t, p))
    wrong: list[Any] = []
    done = threading.Event()

    def call() -> None:
        try:
            while not done.is_set():
                value = float(loss(t, p)) + float(tf.reduce_mean(early_huber(t, p, delta=0.5)))
                if abs(value - 2 * expected) > 1e-5:
                    wrong.append(value)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        with fk.patch():
            pass
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:fastloss. XLA .* is not supported yet:RuntimeWarning")
def test_xla_gets_the_code_of_keras(rng: Any) -> None:
    t, p = random_pair(rng)
    with fk.patch():
        for loss in (keras.losses.huber, keras.losses.Huber()):
            value = tf.function(loss, jit_compile=True)(tf.constant(t), tf.constant(p))
            np.testing.assert_allclose(np.mean(value), np.mean(ORIGINAL["huber"](t, p)), rtol=1e-6)


def test_symbolic_tensors_get_the_code_of_keras(rng: Any) -> None:
    t, p = random_pair(rng)
    with fk.patch():
        inputs = [keras.Input((5,)), keras.Input((5,))]
        model = keras.Model(inputs, keras.losses.huber(*inputs))
    np.testing.assert_allclose(model([t, p]), early_huber(t, p), rtol=1e-6)


def test_parameter_that_is_learned_gets_its_gradient(rng: Any) -> None:
    t, p = random_pair(rng)
    delta = tf.Variable(0.5)

    def step() -> Any:
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(keras.losses.huber(t, p, delta=delta))
        return tape.gradient(value, delta)

    expected = step()
    with fk.patch():
        np.testing.assert_array_equal(step(), expected)


def test_users_own_losses_are_left_alone(fused: Spy) -> None:
    class Mine(keras.losses.Huber):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return 7 * tf.ones_like(y_pred)[:, 0]

    def huber(y_true: Any, y_pred: Any) -> Any:  # of the same name as Keras's
        return 7 * tf.ones_like(y_pred)[:, 0]

    wrapped = LossFunctionWrapper(huber)
    with fk.patch():
        for loss in (Mine(), wrapped):
            assert float(loss(np.zeros((2, 3)), np.zeros((2, 3)))) == 7
    assert not fused


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in Keras
def test_model_saved_while_patched_is_one_of_keras(tmp_path: Any, fused: Spy, rng: Any) -> None:
    x, y = rng.normal(size=(16, 8)).astype("f4"), rng.normal(size=(16, 2)).astype("f4")
    with fk.patch():
        model = small_model(2, keras.losses.LogCosh())
        value = model.evaluate(x, y, verbose=0)
        model.save(tmp_path / "model.keras")
    assert fused
    fused.clear()
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.loss) is keras.losses.LogCosh
    np.testing.assert_allclose(loaded.evaluate(x, y, verbose=0), value, rtol=1e-5)
    assert not fused
