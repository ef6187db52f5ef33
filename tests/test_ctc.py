"""CTC: all alignments one by one, TensorFlow's own loss, lengths, extremes, reductions, errors."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import fastloss
import fastloss.keras
import fastloss.tensorflow as ft
from definitions import ctc as recursion
from fastloss import _tensorflow_ops
from frameworks import assert_agrees, modes, value_and_gradients

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
EPSILON = {np.dtype(d): float(np.finfo(d).eps) for d in (np.float32, np.float64)}

unreduced = fastloss.CTC(reduction=None)


def assert_near(actual: Any, exact: Any, ulps: float = 16) -> None:
    """Within some units in the last place of each element or of the mean size of all."""
    actual, exact = np.asarray(actual), np.asarray(exact)
    assert actual.shape == exact.shape
    size = np.abs(exact) + np.abs(exact).mean()
    assert (np.abs(actual - exact) <= ulps * EPSILON[actual.dtype] * size).all()


def with_gradient(t: Any, x: Any, blank: int = 0, **lengths: Any) -> Any:
    """Values and gradient for any blank, which the class has at 0: classes are rotated."""
    if blank:
        x = np.roll(x, -blank, axis=-1)
        t = (np.asarray(t) - blank) % x.shape[-1]
    value, gradient = unreduced.value_and_grad(t, x, **lengths)
    return value, np.roll(gradient, blank, axis=-1)


def collapsed(alignment: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(alignment) if k != blank)


def all_alignments(x: Any, label: tuple[int, ...], blank: int) -> Any:
    """The definition, for real or complex logits (time, classes)."""
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    frames, classes = x.shape
    total = sum(
        np.prod([p[t, k] for t, k in enumerate(a)])
        for a in itertools.product(range(classes), repeat=frames)
        if collapsed(a, blank) == label
    )
    return -np.log(total)


def complex_step(x: Any, label: tuple[int, ...], blank: int) -> Any:
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        z = x.astype(complex)
        z[i] += 1e-30j
        gradient[i] = all_alignments(z, label, blank).imag / 1e-30
    return gradient


def frames_needed(label: tuple[int, ...]) -> int:
    return len(label) + sum(a == b for a, b in itertools.pairwise(label))


LABELS = [(), (1,), (2, 1), (1, 1), (2, 2, 1), (1, 2, 1)]
SIZES = [(1, 2), (1, 3), (3, 3), (4, 4), (5, 3)]  # frames, classes
POSSIBLE = [
    (label, frames, classes)
    for label in LABELS
    for frames, classes in SIZES
    if frames_needed(label) <= frames and max(label, default=0) < classes
]


@dtypes
@pytest.mark.parametrize(("label", "frames", "classes"), POSSIBLE, ids=str)
def test_is_the_sum_over_all_alignments(
    label: tuple[int, ...], frames: int, classes: int, dtype: Any, rng: Any
) -> None:
    x = rng.normal(0, 2, (frames, classes)).astype(dtype)
    value, gradient = unreduced.value_and_grad([label or (0,)], x[None])
    assert value.dtype == gradient.dtype == dtype
    exact = x.astype(np.float64)
    assert_near(value[0], all_alignments(exact, label, 0))
    assert_near(gradient[0], complex_step(exact, label, 0))


@pytest.mark.parametrize("blank", [0, 1, 2, 3, -1, -4])
def test_any_class_may_be_the_blank(blank: int, rng: Any) -> None:
    x = rng.normal(0, 2, (1, 4, 4))
    label = tuple(k for k in (3, 0, 1, 2) if k != blank % 4)[:2]
    value = fastloss.ctc([label], x, blank=blank)
    assert_near(value[0], all_alignments(x[0], label, blank % 4))
    padded = [[*label, blank % 4]]
    assert fastloss.ctc(padded, x, blank=blank) == value
    _, gradient = with_gradient([label], x, blank % 4, label_length=[2])
    assert_near(gradient[0], complex_step(x[0], label, blank % 4))


def batch(rng: Any, dtype: Any = np.float32) -> tuple[Any, ...]:
    """Labels, logits, label lengths and logit lengths of five samples with repeats."""
    t = rng.integers(1, 7, (5, 6))
    t[:, 2] = t[:, 1]
    x = rng.normal(0, 2, (5, 20, 7)).astype(dtype)
    return t, x, np.array([6, 4, 1, 3, 5]), np.array([20, 9, 3, 20, 14])


@modes
@pytest.mark.parametrize("blank", [0, 3, 6])
def test_agrees_with_tensorflow(blank: int, mode: Any, rng: Any) -> None:
    t, x, labels, frames = batch(rng)
    t = (t + blank) % 7

    def theirs(x: Any) -> Any:
        return tf.nn.ctc_loss(t, x, labels, frames, logits_time_major=False, blank_index=blank)

    def ours(x: Any) -> Any:
        return ft.ctc(t, x, labels, frames, blank=blank)

    expected = value_and_gradients(theirs, mode, x)
    for own, their in zip(value_and_gradients(ours, mode, x), expected, strict=True):
        assert_agrees(own, their)
    lengths = {"label_length": labels, "logit_length": frames}
    for own, their in zip(with_gradient(t, x, blank, **lengths), expected, strict=True):
        assert_agrees(own, their)
    assert_agrees(fastloss.ctc(t, x, labels, frames, blank), expected[0])


@modes
@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (2, 4, 3, 2), (7, 30, 12, 9), (3, 50, 100, 0)])
def test_agrees_with_keras(shape: Any, mode: Any, rng: Any) -> None:
    n, frames, classes, most = shape
    t = rng.integers(1, classes, (n, most + 1))
    t[:, most:] = 0  # padding
    t[n // 2, (most + 1) // 2 :] = 0
    x = rng.normal(0, 1, (n, frames, classes)).astype(np.float32)
    expected = value_and_gradients(lambda x: keras.losses.ctc(t, x), mode, x)
    for loss in (ft.ctc, fastloss.keras.ctc):
        actual = value_and_gradients(lambda x, loss=loss: loss(t, x), mode, x)
        for own, their in zip(actual, expected, strict=True):
            assert_agrees(own, their)
    assert_agrees(fastloss.ctc(t, x), expected[0])
    weight = rng.random(n).astype(np.float32)
    for reduction in ("sum", "sum_over_batch_size", "mean_with_sample_weight", None):
        own, their = (
            value_and_gradients(
                lambda x, c=c, r=reduction: c(reduction=r)(t, x, sample_weight=weight), mode, x
            )
            for c in (fastloss.keras.CTC, keras.losses.CTC)
        )
        assert_agrees(own[0], their[0])
        assert_agrees(own[1], their[1])


def test_blank_within_a_label_is_a_symbol_as_in_tensorflow(rng: Any) -> None:
    x = rng.normal(0, 2, (1, 6, 4)).astype(np.float32)
    t = [[1, 0, 2]]
    theirs = tf.nn.ctc_loss(t, x, [3], [6], logits_time_major=False, blank_index=0)
    assert_agrees(fastloss.ctc(t, x, [3]), theirs)


@dtypes
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_a_thousand_frames_lose_no_digits(scale: float, dtype: Any, rng: Any) -> None:
    x = rng.normal(0, scale, (1, 1000, 6)).astype(dtype)
    t = rng.integers(1, 6, (1, 12))
    value, gradient = unreduced.value_and_grad(t, x)
    exact, slopes = recursion(x[0], t[0])
    assert_near(value[0], exact)
    # Logarithms of the walks reach a few hundred, whose roundings are in the slopes.
    np.testing.assert_allclose(
        gradient[0], slopes.astype(float), rtol=0, atol=1000 * np.finfo(dtype).eps
    )


@dtypes
@pytest.mark.parametrize("size", [1e3, 1e4, 1e30])
def test_extreme_logits_stay_finite(size: float, dtype: Any, rng: Any) -> None:
    x = (size * rng.choice([-1.0, 0.0, 1.0], (1, 8, 4))).astype(dtype)
    value, gradient = unreduced.value_and_grad([[1, 2, 2]], x)
    exact, slopes = recursion(x[0], [1, 2, 2])
    assert_near(value[0], exact)
    assert np.abs(gradient).max() <= 1
    assert np.abs(gradient.sum(axis=-1)).max() < 1e-6
    if size < 1e30:  # where the extended precision of the recursion still suffices
        # The walks are compared by logarithms of this size.
        rounding = 16 * np.finfo(dtype).eps * size
        np.testing.assert_allclose(gradient[0], slopes.astype(float), rtol=0, atol=rounding)


def test_gradient_of_a_confident_model_does_not_cancel(rng: Any) -> None:
    t = np.array([[1, 2, 3]])
    x = rng.normal(0, 1, (1, 6, 4))
    x[0, range(6), [0, 1, 1, 2, 0, 3]] += 25
    x = x.astype(np.float32)
    value, gradient = unreduced.value_and_grad(t, x)
    exact, slopes = recursion(x[0], t[0])
    assert 0 < value[0] < 1e-8
    np.testing.assert_allclose(value[0], float(exact), rtol=1e-4)
    np.testing.assert_allclose(gradient[0], slopes.astype(float), rtol=1e-4, atol=1e-18)


@dtypes
def test_frames_and_labels_beyond_the_lengths_do_not_matter(dtype: Any, rng: Any) -> None:
    t, x, labels, frames = batch(rng, dtype)
    spoiled_t, spoiled_x = t.copy(), x.copy()
    for b in range(5):
        spoiled_t[b, labels[b] :] = 99
        spoiled_x[b, frames[b] :] = np.nan
    lengths = {"label_length": labels, "logit_length": frames}
    value, gradient = unreduced.value_and_grad(t, x, **lengths)
    again = unreduced.value_and_grad(spoiled_t, spoiled_x, **lengths)
    np.testing.assert_array_equal(again[0], value)
    np.testing.assert_array_equal(again[1], gradient)
    for b in range(5):
        assert not gradient[b, frames[b] :].any()
        alone = unreduced.value_and_grad(t[b : b + 1, : labels[b]], x[b : b + 1, : frames[b]],
                                         label_length=labels[b : b + 1])  # fmt: skip
        assert alone[0][0] == value[b]
        np.testing.assert_array_equal(alone[1][0], gradient[b, : frames[b]])


@dtypes
@pytest.mark.parametrize("label", [(1, 2, 1), (1, 1)], ids=str)
def test_impossible_label_has_infinite_loss_and_no_gradient(label: Any, dtype: Any) -> None:
    value, gradient = unreduced.value_and_grad([label], np.ones((1, 2, 3), dtype))
    assert value[0] == np.inf
    assert not gradient.any()


def test_class_of_probability_zero(rng: Any) -> None:
    x = rng.normal(size=(2, 5, 3)).astype(np.float32)
    x[0, :, 1] = -np.inf  # its label needs class 1
    x[1, 2, 1] = -np.inf  # its label does not need it there
    value, gradient = unreduced.value_and_grad([[1], [1]], x)
    assert value[0] == np.inf
    assert not gradient[0].any()
    assert np.isfinite(value[1])
    assert np.isfinite(gradient[1]).all()
    assert gradient[1, 2, 1] == 0


def test_no_frames(rng: Any) -> None:
    x = rng.normal(size=(2, 3, 4))
    value, gradient = unreduced.value_and_grad([[1], [0]], x, logit_length=[0, 0])
    np.testing.assert_array_equal(value, [np.inf, 0])
    assert not gradient.any()
    assert fastloss.ctc(np.zeros((2, 0), int), np.zeros((2, 0, 3))).tolist() == [0, 0]
    assert fastloss.ctc(np.zeros((0, 2), int), np.zeros((0, 5, 3))).shape == (0,)


@pytest.mark.parametrize("where", [np.s_[0, :], np.s_[0, 0], np.s_[0, -1, 1], np.s_[0, :, 0]])
def test_nan_anywhere_among_the_logits_is_not_an_impossible_label(where: Any, rng: Any) -> None:
    x = rng.normal(size=(2, 5, 3)).astype("f4")
    clean, clean_gradient = fastloss.CTC(reduction=None).value_and_grad([[1, 2]] * 2, x)
    x[where] = np.nan
    value, gradient = fastloss.CTC(reduction=None).value_and_grad([[1, 2]] * 2, x)
    assert np.isnan(value[0])
    assert np.isnan(gradient[0]).all()
    assert value[1] == clean[1]
    np.testing.assert_array_equal(gradient[1], clean_gradient[1])


def test_nan_shows() -> None:
    x = np.zeros((2, 4, 3), np.float32)
    x[0, 1, 2] = np.nan
    value, gradient = unreduced.value_and_grad([[1], [1]], x)
    assert np.isnan(value[0])
    assert np.isnan(gradient[0]).any()
    assert np.isfinite(value[1])
    assert np.isfinite(gradient[1]).all()


@dtypes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "reduction", ["sum", "sum_over_batch_size", "mean_with_sample_weight", None]
)
def test_weights_mask_reduction_and_upstream(
    reduction: Any, masked: bool, weighted: bool, dtype: Any, rng: Any
) -> None:
    t, x, labels, frames = batch(rng, dtype)
    lengths = {"label_length": labels, "logit_length": frames}
    losses, slopes = unreduced.value_and_grad(t, x, **lengths)
    c = np.ones(5)
    mask = np.array([1, 1, 0, 1, 0]) if masked else None
    weight = np.array([0.5, 2, 1, 0, 3]) if weighted else None
    c = c if mask is None else c * mask
    valid = c.sum()
    c = c if weight is None else c * weight
    if reduction == "mean_with_sample_weight":
        c = c / c.sum()
    elif reduction == "sum_over_batch_size":
        c = c / valid
    upstream = 1.5 if reduction else np.arange(1.0, 6.0)
    if weighted:
        x[3] = np.nan  # hidden by its weight of zero
        losses[3] = slopes[3] = 0
    value, gradient = fastloss.CTC(reduction).value_and_grad(
        t, x, sample_weight=weight, mask=mask, upstream=upstream, **lengths
    )
    expected = c * losses
    assert_near(value, expected.sum() if reduction else expected)
    assert_near(gradient, (c * upstream)[:, None, None] * slopes)
    assert fastloss.CTC(reduction)(
        t, x, sample_weight=weight, mask=mask, **lengths
    ) == pytest.approx(value, rel=0)


def test_weight_of_zero_hides_a_bad_label(rng: Any) -> None:
    x = rng.normal(size=(2, 4, 3))
    value, gradient = fastloss.CTC().value_and_grad([[9], [1]], x, sample_weight=[0, 1])
    assert value == fastloss.ctc([[1]], x[1:])[0] / 2
    assert not gradient[0].any()


@dtypes
def test_out(dtype: Any, rng: Any) -> None:
    t, x, *_ = batch(rng, dtype)
    value, gradient = fastloss.CTC().value_and_grad(t, x)
    out = np.empty_like(x)
    result = fastloss.CTC().value_and_grad(t, x, out=out)
    assert result[1] is out
    np.testing.assert_array_equal(out, gradient)
    buffer = np.concatenate([x, x])
    overlapping = buffer[1:6]
    fastloss.CTC().value_and_grad(t, buffer[:5], out=overlapping)
    np.testing.assert_array_equal(overlapping, gradient)
    in_place = x.copy()
    assert fastloss.CTC().value_and_grad(t, in_place, out=in_place)[0] == value
    np.testing.assert_array_equal(in_place, gradient)


def test_layout_does_not_change_a_bit(rng: Any) -> None:
    t, x, *_ = batch(rng)
    value, gradient = unreduced.value_and_grad(t, x)
    time_major = np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2)
    for same in (np.asfortranarray(x), time_major, x[:, ::-1].copy()[:, ::-1], x.astype(">f4")):
        for labels in (t, np.asfortranarray(t), t.astype(np.uint8), t.astype(np.float32)):
            again = unreduced.value_and_grad(labels, same)
            np.testing.assert_array_equal(again[0], value)
            np.testing.assert_array_equal(again[1], gradient)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_types_are_storage(name: str, rng: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = np.dtype(np.float16 if name == "float16" else ml_dtypes.bfloat16)
    t, x, *_ = batch(rng)
    x = x.astype(half)
    value, gradient = unreduced.value_and_grad(t, x)
    single, slopes = unreduced.value_and_grad(t, x.astype(np.float32))
    np.testing.assert_array_equal(value, single)
    assert gradient.dtype == half
    np.testing.assert_array_equal(gradient, slopes.astype(half))


def test_bits_do_not_depend_on_the_number_of_threads(any_threads: None, rng: Any) -> None:
    t, x = rng.integers(1, 20, (33, 8)), rng.normal(size=(33, 60, 20)).astype(np.float32)
    results = set()
    for threads in (1, 2, 8):
        fastloss.set_num_threads(threads)
        for _ in range(3):  # the first wake the threads that help with the others
            value, gradient = fastloss.CTC().value_and_grad(t, x)
            results.add(value.tobytes() + gradient.tobytes())
    assert len(results) == 1


GOOD: dict[str, Any] = {"y_true": np.ones((2, 3), int), "y_pred": np.zeros((2, 9, 4))}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"y_true": np.array([[1, 2, 3], [1, 4, 2]])},
            r"y_true\[1, 1\]: labels .* \[0, 4\), got 4",
        ),
        ({"y_true": np.array([[1, 2, -1], [1, 1, 2]])}, r"y_true\[0, 2\]: labels .*got -1"),
        ({"y_true": np.ones((2, 3)) / 2}, "y_true: expected integers, got 0.5"),
        ({"y_true": np.ones(3, int)}, r"y_true: expected shape \(2, labels\)"),
        ({"y_true": np.ones((3, 3), int)}, r"y_true: expected shape \(2, labels\).*\(3, 3\)"),
        (
            {"y_pred": np.zeros((2, 4))},
            r"y_pred: expected 3 dimensions, \(batch, time, classes\), got 2",
        ),
        ({"y_pred": np.zeros((2, 9, 0))}, r"blank: expected a class"),
        ({"label_length": [1, 4]}, r"label_length\[1\]: .*\[0, 3\], got 4"),
        ({"label_length": [-1, 1]}, r"label_length\[0\]: .*got -1"),
        ({"label_length": [1, 1, 1]}, r"label_length: expected one length per sample, 2"),
        ({"logit_length": [9, 10]}, r"logit_length\[1\]: .*\[0, 9\], got 10"),
        ({"sample_weight": np.ones(3)}, "sample_weight"),
        ({"mask": np.ones((2, 9))}, "mask"),
        ({"wrt": "y_true"}, "wrt: integer labels have no gradient"),
        ({"out": np.zeros((2, 9, 3))}, "out: expected the shape"),
        ({"upstream": [1.0, 2.0]}, "upstream"),
    ],
    ids=lambda x: None if isinstance(x, dict) else x[:24],
)
def test_errors_name_the_argument(changed: dict[str, Any], message: str) -> None:
    arguments = GOOD | changed
    with pytest.raises(ValueError, match=message):
        fastloss.CTC().value_and_grad(arguments.pop("y_true"), arguments.pop("y_pred"), **arguments)


def test_error_writes_nothing() -> None:
    out = np.full((2, 9, 4), 7.0)
    with pytest.raises(ValueError, match="labels must be"):
        fastloss.CTC().value_and_grad(np.full((2, 3), 4), np.zeros((2, 9, 4)), out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("blank", [4, -5])
def test_blank_that_is_no_class_is_an_error(blank: int) -> None:
    with pytest.raises(ValueError, match=f"blank: .*{blank}"):
        fastloss.ctc(**GOOD, blank=blank)


def test_other_losses_take_no_lengths() -> None:
    loss = fastloss.MeanSquaredError()
    for call in (loss, loss.value_and_grad):
        with pytest.raises(
            TypeError, match=r"^label_length: expected an argument .* y_true, y_pred, s"
        ):
            call([1.0], [2.0], label_length=[1])


def test_class_is_that_of_keras() -> None:
    loss = fastloss.CTC("sum", "mine", "float64")
    assert loss.get_config() == {
        "reduction": "sum", "name": "mine", "dtype": "float64", "weight": None,
    }  # fmt: skip
    assert type(fastloss.get("ctc")) is fastloss.CTC
    assert repr(fastloss.CTC()) == "CTC()"
    config = fastloss.keras.CTC(name="mine").get_config()
    assert fastloss.keras.CTC.from_config(config).get_config() == config


@pytest.mark.parametrize("module", [fastloss, fastloss.keras], ids=lambda m: m.__name__)
def test_copies_are_the_same_loss(module: Any, rng: Any) -> None:
    loss = module.CTC(reduction="sum")
    t, x = np.array([[1, 2, 0], [2, 0, 0]]), rng.normal(size=(2, 5, 3)).astype("f4")
    for twin in (
        module.get({"class_name": "CTC", "config": loss.get_config()}),
        pickle.loads(pickle.dumps(loss)),
        copy.deepcopy(loss),
    ):
        assert twin.get_config() == loss.get_config()
        assert twin(t, x) == loss(t, x)


def test_patched_keras_runs_on_it(rng: Any, monkeypatch: Any) -> None:
    t = np.array([[1, 2, 0], [2, 0, 0]])
    x = rng.normal(size=(2, 5, 3)).astype("f4")
    losses = [lambda x: keras.losses.CTC()(t, x), lambda x: keras.losses.ctc(t, x)]
    expected = [value_and_gradients(loss, lambda f: f, x) for loss in losses]
    calls = []
    original = _tensorflow_ops._run_now

    def recording(line: str, *args: Any) -> Any:
        calls.append(line)
        return original(line, *args)

    monkeypatch.setattr(_tensorflow_ops, "_run_now", recording)
    with fastloss.keras.patch():
        actual = [value_and_gradients(loss, lambda f: f, x) for loss in losses]
    assert len(calls) == 2
    assert all("value,grad_pred ctc " in line for line in calls)
    for own, their in zip(actual, expected, strict=True):
        for a, b in zip(own, their, strict=True):
            assert_agrees(a, b)
