"""Where TensorFlow lacks what the kernels need, and what comes in bad: never a crash or a lie."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss.keras as fk
import fastloss.tensorflow as ft
from cases import by_sample, draw, losses, one_class_is_allowed
from fastloss import _core, _tensorflow_ops
from fastloss._keras_functions import ORIGINAL
from fastloss._registry import LossSpec
from frameworks import compiled, keras, modes, quiet_fit, small_model, tf

pytestmark = one_class_is_allowed


def value_and_gradient(loss: Callable[..., Any], t: Any, p: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(p)
        value = loss(t, p)
    return value, tape.gradient(value, p)


def arrays(rng: Any, shape: tuple[int, ...] = (6, 5)) -> list[Any]:
    return [tf.constant(a.astype("f4")) for a in rng.normal(size=(2, *shape))]


def run_python(script: str, *arguments: str) -> str:
    """What the script prints, in a process of its own that ends well."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, check=False, timeout=300, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# ---- fallbacks ----

NO_CUDA = "y_pred is on a GPU, and fastloss was built without CUDA kernels"


@pytest.fixture
def fresh_warnings() -> Any:
    ft.warn_of_fallback.cache_clear()
    yield
    ft.warn_of_fallback.cache_clear()


def messages(caught: list[Any]) -> list[str]:
    return [str(w.message) for w in caught if str(w.message).startswith("fastloss")]


def test_missing_symbol_of_tensorflow() -> None:
    out = run_python("""
import warnings
from fastloss import _core
def lacks(path):
    raise RuntimeError("this TensorFlow lacks TF_NewKernelBuilder")
_core.register_tensorflow_ops = lacks
from frameworks import keras, np, tf
import fastloss.keras as fk
import fastloss.tensorflow as ft
print(ft.backend())
t, p = (tf.constant(a) for a in np.random.default_rng(1).normal(size=(2, 6, 5)))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for ours, theirs in ((ft.huber, keras.losses.huber), (fk.Huber(), keras.losses.Huber())):
        for mode in (lambda f: f, tf.function):
            results = []
            for loss in (ours, theirs):
                with tf.GradientTape() as tape:
                    tape.watch(p)
                    value = mode(loss)(t, p)
                results += [value.numpy(), tape.gradient(value, p).numpy()]
            assert np.array_equal(results[0], results[2]), mode
            assert np.array_equal(results[1], results[3]), mode
print(*[w.message for w in caught if str(w.message).startswith("fastloss")], sep="\\n")
""")
    reason = "this TensorFlow lacks TF_NewKernelBuilder"
    expected = [f"Keras: {reason}", f"fastloss: {reason}; Keras's own losses run instead"]
    assert out.splitlines() == expected


def test_no_library_at_the_path_is_an_error_that_is_caught(tmp_path: Path) -> None:
    handler = (_core.XLA_TARGET, "Host", _core.XLA_HANDLER)
    for register, given in (
        (_core.register_tensorflow_ops, ()),
        (_core.register_xla_handler, handler),
    ):
        register("once registered, it looks at no path", *given)
    script = """
import sys
from fastloss import _core
handler = (_core.XLA_TARGET, "Host", _core.XLA_HANDLER)
for register, given in ((_core.register_tensorflow_ops, ()), (_core.register_xla_handler, handler)):
    try:
        register(sys.argv[1], *given)
    except RuntimeError as error:
        print(error)
"""
    missing = str(tmp_path / "libnone.so.2")
    assert run_python(script, missing).splitlines() == [
        f"TensorFlow's library is not loaded: {missing}"
    ] * 2  # fmt: skip


@pytest.mark.parametrize("version", ["2.17.1", "2.22.0", "3.0.0-dev1"])
def test_unknown_version_of_tensorflow(version: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(tf, "__version__", version)
    called: list[str] = []
    reason = _tensorflow_ops._register(called.append, "libtensorflow_framework")
    assert reason == f"TensorFlow {version} has not been tried; 2.18 to 2.21 have"
    assert not called


@pytest.mark.parametrize("version", ["2.18.1", "2.19.0", "2.20.0-rc0", "2.21.0"])
def test_known_versions_of_tensorflow(version: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(tf, "__version__", version)
    called: list[str] = []
    assert _tensorflow_ops._register(called.append, "libtensorflow_framework") == ""
    assert Path(called[0]).exists()


def test_backend_says_which_path_is_on(monkeypatch: Any) -> None:
    assert ft.backend() == "fastloss"
    monkeypatch.setattr(_tensorflow_ops, "_NO_XLA", "no handler")
    assert ft.backend() == "fastloss, and Keras under XLA: no handler"
    monkeypatch.setattr(_tensorflow_ops, "_NO_OPS", "no ops")
    assert ft.backend() == "Keras: no ops"


@pytest.mark.parametrize("lacking", ["_NO_OPS", "_NO_XLA", "gpu"])
@modes
def test_fallback_is_keras_with_one_warning(
    lacking: str, mode: Any, monkeypatch: Any, fresh_warnings: Any, rng: Any
) -> None:
    t, p = arrays(rng)
    native = [mode(f)(t, p) for f in (ft.log_cosh, fk.LogCosh())]
    if lacking == "gpu":
        monkeypatch.setattr(_tensorflow_ops, "may_be_on_gpu", lambda x: True)
        monkeypatch.setattr(_tensorflow_ops, "_no_cuda", lambda: NO_CUDA)
        reason, falls_back = NO_CUDA, True
    else:
        monkeypatch.setattr(_tensorflow_ops, lacking, "no such thing")
        reason, falls_back = "no such thing", (mode is compiled) == (lacking == "_NO_XLA")
    twins = [(ft.log_cosh, ORIGINAL["log_cosh"]), (fk.LogCosh(), keras.losses.LogCosh())]
    expected = [f"fastloss: {reason}; Keras's own losses run instead"] if falls_back else []
    for (loss, theirs), before in zip(twins, native, strict=True):
        ft.warn_of_fallback.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values = [mode(loss)(t, p) for _ in range(2)]
        assert messages(caught) == expected
        for value in values:
            np.testing.assert_array_equal(value, mode(theirs)(t, p) if falls_back else before)


def test_loss_that_keras_lacks_says_so_where_only_keras_could_run(
    monkeypatch: Any, fresh_warnings: Any
) -> None:
    monkeypatch.setattr(_tensorflow_ops, "_NO_OPS", "no such thing")
    with (
        pytest.warns(RuntimeWarning, match="no such thing"),
        pytest.raises(NotImplementedError, match="Keras has no iou with these options"),
    ):
        ft.iou(tf.ones((2, 3)), tf.ones((2, 3)))


def test_penalties_where_the_kernels_cannot_run(monkeypatch: Any, rng: Any) -> None:
    p = tf.constant(rng.uniform(0.1, 0.9, (6, 5)))
    losses = [0.5 * fk.LogCosh(dtype="float64") + fk.MeanSquare(dtype="float64")]
    losses += [getattr(fk, n)(dtype="float64") for n in ("MeanAbsolute", "ZLoss")]
    losses += [fk.ConfidencePenalty(dtype="float64", from_logits=x) for x in (False, True)]
    native = [loss(1 - p, p) for loss in losses]
    monkeypatch.setattr(_tensorflow_ops, "_NO_OPS", "no such thing")
    for loss, expected in zip(losses, native, strict=True):
        ft.warn_of_fallback.cache_clear()
        with pytest.warns(RuntimeWarning, match="no such thing"):
            np.testing.assert_allclose(loss(1 - p, p), expected, rtol=1e-6)


# ---- what is kept ----


class Training(tf.Module):
    """A step of training, as it is exported."""

    def __init__(self, jit_compile: bool) -> None:
        super().__init__()
        self.w = tf.Variable([[0.5], [-0.25]])
        self.loss = fk.Huber()
        specs = [tf.TensorSpec([None, 2]), tf.TensorSpec([None, 1])]
        self.step = tf.function(self._step, input_signature=specs, jit_compile=jit_compile)
        self.value = tf.function(self._value, input_signature=specs)

    def _value(self, x: Any, y: Any) -> Any:
        return self.loss(y, x @ self.w)

    def _step(self, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = self._value(x, y)
        self.w.assign_sub(0.1 * tape.gradient(value, self.w))
        return value


def test_exported_step_of_training(tmp_path: Path, rng: Any) -> None:
    x, y = (tf.constant(rng.normal(size=(8, n)), tf.float32) for n in (2, 1))
    np.savez(tmp_path / "data.npz", x=x, y=y)
    for jit in (False, True):
        tf.saved_model.save(Training(jit), str(tmp_path / f"jit={jit}"))
    out = run_python(
        """
import sys
from frameworks import np, tf
path = sys.argv[1]
data = np.load(f"{path}/data.npz")
x, y = tf.constant(data["x"]), tf.constant(data["y"])
for jit in (False, True):
    try:
        tf.saved_model.load(f"{path}/jit={jit}").step(x, y)
    except Exception as error:
        print(str(error).replace("\\n", " "))
import fastloss.tensorflow
for jit in (False, True):
    loaded = tf.saved_model.load(f"{path}/jit={jit}")
    with tf.GradientTape() as tape:
        value = loaded.value(x, y)
    print(float(value), *tape.gradient(value, loaded.w).numpy().ravel())
    print(*[float(loaded.step(x, y)) for _ in range(3)], *loaded.w.numpy().ravel())
""",
        str(tmp_path),
    )
    without, without_jit, *numbers = out.splitlines()
    assert "Op type not registered 'Import_fastloss_tensorflow>" in without
    assert "import_fastloss_tensorflow" in without_jit.lower()
    for jit, lines in ((False, numbers[:2]), (True, numbers[2:])):
        model = Training(jit)
        value, gradient = value_and_gradient(
            lambda y, w, loss=model.loss: loss(y, x @ w), y, model.w
        )
        steps = [float(model.step(x, y)) for _ in range(3)]
        expected = [[value, *np.ravel(gradient)], [*steps, *np.ravel(model.w)]]
        for line, row in zip(lines, expected, strict=True):
            np.testing.assert_allclose([float(n) for n in line.split()], row, rtol=1e-6)


def test_checkpoint_of_a_training(tmp_path: Path, rng: Any) -> None:
    x, y = rng.normal(size=(16, 8)).astype("f4"), rng.normal(size=(16, 2)).astype("f4")
    model = small_model(2, None)
    model.compile(keras.optimizers.Adam(0.01), fk.LogCosh())
    quiet_fit(model, x, y)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    first = quiet_fit(model, x, y, epochs=2)
    assert quiet_fit(model, x, y) != first[:1]
    checkpoint.read(path).assert_existing_objects_matched()
    assert quiet_fit(model, x, y, epochs=2) == first


# ---- bad input ----


def traced_for_any_shape(function: Any, ranks: tuple[int, int], dtypes: Any, jit: bool) -> Any:
    specs = [tf.TensorSpec([None] * r, d) for r, d in zip(ranks, dtypes, strict=True)]
    return tf.function(function, input_signature=specs, jit_compile=jit)


BAD = [
    ("huber", (3, 2), (2, 3), "y_true: expected the shape of y_pred, (2, 3), got (3, 2)"),
    ("dice", (2, 3), (2, 4), "y_true: expected the shape of y_pred, (2, 4), got (2, 3)"),
    ("categorical_hinge", (2, 0), (2, 0), "y_pred: the axes of the loss are empty"),
    ("ctc", (3, 2), (2, 4, 5), "y_true: expected shape (batch, labels) for y_pred of shape"),
    ("sparse_categorical_crossentropy", (3,), (2, 4), "y_true: expected labels of shape (2,)"),
]


@pytest.mark.parametrize(("name", "t", "p", "message"), BAD, ids=lambda x: str(x)[:12])
@modes
def test_shapes_that_do_not_fit(name: str, t: Any, p: Any, message: str, mode: Any) -> None:
    sparse = name in ("sparse_categorical_crossentropy", "ctc")
    dtype = tf.int64 if sparse else tf.float32
    tensors = tf.zeros(t, dtype), tf.zeros(p)

    def step(t: Any, p: Any) -> Any:
        return value_and_gradient(getattr(ft, name), t, p)

    with pytest.raises(ValueError, match=re.escape(message)):
        mode(step)(*tensors)
    if mode(step) is step:
        return
    late = traced_for_any_shape(step, (len(t), len(p)), (dtype, tf.float32), mode is compiled)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=re.escape(message)):
        late(*tensors)


@modes
@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_labels_out_of_range(label: int, mode: Any) -> None:
    labels, p = tf.constant([[0, 1], [label, 2]], tf.int64), tf.zeros((2, 2, 3))
    message = re.escape(f"y_true[1, 0]: labels must be in [0, 3), got {label}")
    for loss in (
        ft.sparse_categorical_crossentropy,
        fk.SparseCategoricalCrossentropy(from_logits=True),
        fk.CategoricalGeneralizedCrossEntropy(),
    ):

        def step(t: Any, p: Any, loss: Any = loss) -> Any:
            return value_and_gradient(loss, t, p)

        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            mode(step)(labels, p)
        if mode(step) is not step:
            late = traced_for_any_shape(step, (2, 3), (tf.int64, tf.float32), mode is compiled)
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                late(labels, p)
            assert np.isfinite(late(labels % 3, p)[0]).all()  # nothing is left of the error


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_label_out_of_range_ends_a_fit(options: Any, rng: Any) -> None:
    model = small_model(3, fk.SparseCategoricalCrossentropy(from_logits=True), **options)
    x, y = rng.normal(size=(8, 8)).astype("f4"), np.array([0, 1, 2, 0, 1, 2, 3, 0])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels must be in \[0, 3\), got 3"):
        model.fit(x, y, verbose=0)
    assert np.isfinite(model.fit(x, y % 3, verbose=0).history["loss"]).all()


@modes
@pytest.mark.parametrize("weight", [(5,), (6, 4, 2)])
def test_weights_that_do_not_fit(weight: Any, mode: Any, rng: Any) -> None:
    t, p = arrays(rng, (6, 4, 5))
    message = rf"sample_weight: .* \(6, 4\), got {re.escape(str(weight))}"
    with pytest.raises(ValueError, match=message):
        mode(lambda t, p, w: fk.CosineSimilarity()(t, p, sample_weight=w))(t, p, tf.ones(weight))


@modes
@losses
def test_empty_batch(spec: LossSpec, mode: Any, rng: Any) -> None:
    options = by_sample(spec)
    t, p = (tf.constant(a[:0]) for a in draw(spec, options, (2, 3), "f4", rng))
    value, gradient = mode(
        lambda t, p: value_and_gradient(lambda t, p: getattr(ft, spec.name)(t, p, **options), t, p)
    )(t, p)
    assert value.shape == (0,)
    assert gradient.shape == (0, 3)
    loss = getattr(fk, spec.class_name)(**options, reduction="sum")
    assert np.sum(mode(lambda t, p: loss(t, p))(t, p)) == 0


@modes
@pytest.mark.parametrize("dtype", ["complex64", "string"])
def test_dtypes_that_are_no_numbers(dtype: str, mode: Any) -> None:
    bad = tf.constant([["a"]]) if dtype == "string" else tf.ones((1, 1), dtype)
    for name, arguments in (("y_true", (bad, tf.ones((1, 1)))), ("y_pred", (tf.ones((1, 1)), bad))):
        with pytest.raises(TypeError, match=f"{name}: expected real numbers, got dtype {dtype}"):
            mode(ft.huber)(*arguments)


@modes
@losses
def test_memory_that_a_graph_hands_on_is_read_before_it_is_written(
    spec: LossSpec, mode: Any, rng: Any
) -> None:
    # Tensors that nobody else holds, so that gradients may take their memory.
    options = by_sample(spec)
    t, p = (tf.constant(a) for a in draw(spec, options, (64, 33), "f4", rng))
    zero = tf.constant(0.0)

    def step(t: Any, p: Any, zero: Any, by: list[int]) -> Any:
        given = [x + zero if x.dtype.is_floating else x for x in (t, p)]
        with tf.GradientTape() as tape:
            tape.watch(given)
            value = getattr(ft, spec.name)(*given, **options)
        return tape.gradient(value, [given[i] for i in by])

    for by in ([0], [1], [0, 1]):
        if 0 in by and spec.labels == "integer":
            continue
        for a, b in zip(mode(step)(t, p, zero, by), step(t, p, zero, by), strict=True):
            np.testing.assert_array_equal(a, b)
