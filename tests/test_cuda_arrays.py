"""Which arrays go to a GPU, what does not fit beside them, and labels that are looked at first."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastloss
from cases import make
from device import Device, DeviceArray, Foreign
from fastloss._registry import REGISTRY

protocols = pytest.mark.parametrize("protocol", ["interface", "dlpack"])
BATCHED = ["circle", "ctc"]


def arguments(name: str, rng: Any) -> tuple[Any, Any]:
    """Targets and predictions of a loss that takes labels."""
    if name == "circle":
        return rng.integers(0, 3, 6), rng.normal(size=(6, 4))
    if name == "ctc":
        return rng.integers(1, 4, (2, 3)), rng.normal(size=(2, 9, 4))
    return rng.integers(0, 4, 5), rng.uniform(0.1, 0.9, (5, 4))


def loss_named(name: str) -> Any:
    return make(next(s for s in REGISTRY if s.name == name), {})


LABELED = [s.name for s in REGISTRY if s.labels == "integer"]
labeled = pytest.mark.parametrize("name", LABELED)


# ---- Arrays of other libraries ----


@protocols
@pytest.mark.parametrize("name", ["mean_squared_error", *LABELED])
def test_arrays_of_other_libraries_give_cupys(
    emulated: Device, name: str, protocol: str, rng: Any
) -> None:
    t, p = arguments(name, rng)
    if name == "mean_squared_error":
        t = rng.normal(size=p.shape)
    loss = loss_named(name)
    expected = loss.value_and_grad(emulated.put(t), emulated.put(p))
    actual = loss.value_and_grad(Foreign(t, protocol), Foreign(p, protocol))
    for ours, theirs in zip(actual, expected, strict=True):
        assert isinstance(ours, emulated.cupy.ndarray)
        np.testing.assert_array_equal(emulated.get(ours), emulated.get(theirs))


@protocols
def test_every_argument_may_be_of_another_library(
    emulated: Device, protocol: str, rng: Any
) -> None:
    t, p = rng.normal(size=(2, 5, 3))
    weight, mask, upstream = rng.random(5), rng.random(5) < 0.5, rng.normal(size=5)
    loss = fastloss.MeanSquaredError(reduction=None)
    given = {"sample_weight": weight, "mask": mask, "upstream": upstream}
    _, expected = loss.value_and_grad(t, p, **given)
    foreign = {name: Foreign(a, protocol) for name, a in given.items()}
    _, actual = loss.value_and_grad(Foreign(t, protocol), emulated.put(p), **foreign)
    np.testing.assert_allclose(emulated.get(actual), expected, rtol=1e-14)


def test_array_that_will_not_be_shared_is_an_error(emulated: Device) -> None:
    class Unwilling(Foreign):
        def _dlpack(self, **_: Any) -> Any:
            raise BufferError("use tensor.detach()")

    p = np.ones((2, 3))
    with pytest.raises(TypeError, match=r"^y_pred: expected an array .* got Unwilling: use tensor"):
        fastloss.MeanSquaredError()(p, Unwilling(p, "dlpack"))
    with pytest.raises(TypeError, match=r"^y_true: expected an array .* got Unwilling: use tensor"):
        fastloss.MeanSquaredError()(Unwilling(p, "dlpack"), emulated.put(p))


def test_array_without_a_single_device_is_the_hosts(rng: Any) -> None:
    class Sharded:
        def __init__(self, held: Any) -> None:
            self.held = held

        def __dlpack_device__(self) -> Any:
            raise BufferError("only of arrays on one device")

        def __array__(self, *_: Any, **__: Any) -> Any:
            return self.held

    t, p = rng.normal(size=(2, 5, 3))
    assert fastloss.MeanSquaredError()(t, Sharded(p)) == fastloss.MeanSquaredError()(t, p)


def test_tensors_in_the_memory_of_the_host_are_the_hosts(rng: Any) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    t, p = rng.normal(size=(2, 5, 3))
    tensors = torch.from_numpy(t), torch.from_numpy(p)
    assert fastloss.MeanSquaredError()(*tensors) == fastloss.MeanSquaredError()(t, p)


# ---- What does not fit; found out before a device is asked for anything ----


def test_host_array_beside_a_gpu_array_is_an_error(device: Device) -> None:
    p = np.ones((2, 3))
    loss = fastloss.MeanSquaredError()
    with pytest.raises(TypeError, match=r"^y_true: expected a GPU array, as y_pred is one, got nd"):
        loss(p, device.put(p))
    with pytest.raises(TypeError, match=r"^y_true: expected a NumPy array .* got a GPU array"):
        loss(device.put(p), p)
    with pytest.raises(TypeError, match=r"^sample_weight: expected a GPU array"):
        loss(device.put(p), device.put(p), sample_weight=np.ones(2))
    with pytest.raises(TypeError, match=r"^out: expected a CuPy array, got ndarray"):
        loss.value_and_grad(device.put(p), device.put(p), out=p)


def test_number_as_weight_or_upstream_is_fine(device: Device) -> None:
    p = np.full((2, 3), 2.0)
    loss = fastloss.MeanSquaredError()
    arrays = device.put(np.zeros((2, 3))), device.put(p)
    value, grad = loss.value_and_grad(*arrays, sample_weight=0.5, upstream=3)
    assert device.get(value) == 2.0
    np.testing.assert_allclose(device.get(grad), np.full((2, 3), 1.0))


def test_wrong_shapes_and_dtypes_are_errors(device: Device) -> None:
    p = device.put(np.ones((2, 3)))
    loss = fastloss.MeanSquaredError()
    with pytest.raises(ValueError, match=r"^y_true: expected the shape of y_pred, \(2, 3\), got"):
        loss(device.put(np.ones((4, 3))), p)
    with pytest.raises(TypeError, match=r"^y_pred: expected float16.*got complex128"):
        loss(p, device.put(np.ones((2, 3), complex)))
    with pytest.raises(ValueError, match=r"^out: expected the shape of y_pred"):
        loss.value_and_grad(p, p, out=device.put(np.ones((3, 2))))
    with pytest.raises(ValueError, match=r"^sample_weight: expected a shape that broadcasts"):
        loss(p, p, sample_weight=device.put(np.ones(7)))


def test_weights_that_cannot_be_multiplied_on_the_device_are_an_error(device: Device) -> None:
    loss = fastloss.MeanSquaredError(weight=device.put(np.ones((2, 3))))
    p = device.put(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^sample_weight: .* dimensions as .* weight .* 2, got 1"):
        loss(p, p, sample_weight=device.put(np.ones(2)))


def test_too_many_axes_apart_are_an_error(device: Device) -> None:
    p = np.ones((2,) * 10)
    apart = np.ones((4,) * 10)[(slice(None, None, 2),) * 10]
    with pytest.raises(ValueError, match="at most 8 axes that are not contiguous"):
        fastloss.MeanSquaredError()(device.put(p), device.put(apart))


def test_arrays_on_two_devices_are_an_error(emulated: Device) -> None:
    here, there = DeviceArray(np.ones((2, 3)), 0), DeviceArray(np.ones((2, 3)), 1)
    foreign = Foreign(np.ones((2, 3)), "dlpack", 1)
    loss = fastloss.MeanSquaredError()
    with pytest.raises(ValueError, match=r"^y_true: expected an array on device 0, .* on device 1"):
        loss(there, here)
    with pytest.raises(ValueError, match=r"^y_true: expected an array on device 0, .* on device 1"):
        loss(foreign, here)
    with pytest.raises(ValueError, match=r"^out: expected an array on device 0, .* on device 1"):
        loss.value_and_grad(here, here, out=there)


@pytest.mark.parametrize("name", BATCHED)
def test_losses_of_batches_refuse_what_the_others_do(emulated: Device, name: str, rng: Any) -> None:
    t, p = arguments(name, rng)
    loss, on_gpu, n = loss_named(name), emulated.put(p), len(p)
    labels = emulated.put(t)
    for given, expected in [
        ({"y_true": t}, r"y_true: expected a GPU array, as y_pred is one, got ndarray"),
        ({"sample_weight": np.ones(n)}, "sample_weight: expected a GPU array"),
        ({"mask": [True] * n}, "mask: expected a GPU array"),
        ({"upstream": np.ones(n)}, "upstream: expected a GPU array"),
        ({"out": p}, "out: expected a CuPy array, got ndarray"),
        ({"y_pred": p}, r"y_true: expected a NumPy array .* got a GPU array"),
        ({"y_pred": emulated.put(p.astype(complex))}, "y_pred: expected float16.*complex128"),
    ]:
        with pytest.raises(TypeError, match="^" + expected):
            loss.value_and_grad(**{"y_true": labels, "y_pred": on_gpu} | given)
    for given, expected in [
        ({"y_true": DeviceArray(t, 1)}, r"y_true: expected an array on device 0, .* on device 1"),
        ({"y_true": emulated.put(t[1:])}, "y_true: expected "),
        ({"sample_weight": emulated.put(np.ones(n + 1))}, "sample_weight: expected a shape"),
        ({"upstream": emulated.put(np.ones(n))}, "upstream: expected a number, or an array with"),
        ({"out": emulated.put(p[1:])}, "out: expected the shape of y_pred"),
        ({"wrt": "y_true"}, "wrt: integer labels have no gradient"),
    ]:
        with pytest.raises(ValueError, match="^" + expected):
            loss.value_and_grad(**{"y_true": labels, "y_pred": on_gpu} | given)


# ---- Labels that are looked at first ----


BAD_LABELS = [
    ("sparse_categorical_crossentropy", [0, 4, 1, 2, 9], r"y_true\[1\]: labels .*\[0, 4\), got 4"),
    ("sparse_categorical_crossentropy", [0, 1.5, 1, 2, 0], r"y_true\[1\]: labels .*, got 1.5"),
    ("categorical_generalized_cross_entropy", [0, 1, 1, -1, 0], r"y_true\[3\]: .*, got -1"),
    ("circle", [0, 1, 0.5, 1, 0, 0], "y_true: expected integers, got 0.5"),
    ("ctc", [[1, 2, 3], [1, 4, 2]], r"y_true\[1, 1\]: labels must be in \[0, 4\), got 4"),
    ("ctc", [[1, 2, 2.5], [1, 4, 2]], "y_true: expected integers, got 2.5"),
]


@pytest.mark.parametrize(("name", "labels", "message"), BAD_LABELS)
def test_check_names_the_first_bad_label_on_both_sides(
    device: Device, name: str, labels: Any, message: str, rng: Any
) -> None:
    t, p = np.array(labels), arguments(name, rng)[1]
    out = device.put(np.full_like(p, 7))
    for call in (
        lambda check: loss_named(name)(t, p, check=check),
        lambda check: getattr(fastloss, name)(t, p, check=check),
    ):
        for check in (True, False):  # the host looks in any case
            with pytest.raises(ValueError, match="^" + message):
                call(check)
    t, p = device.put(t), device.put(p)
    for call in (
        lambda: loss_named(name)(t, p, check=True),
        lambda: loss_named(name).value_and_grad(t, p, check=True, out=out),
        lambda: getattr(fastloss, name)(t, p, check=True),
    ):
        with pytest.raises(ValueError, match="^" + message):
            call()
    assert (device.get(out) == 7).all()


@labeled
def test_nothing_waits_unless_labels_are_checked(emulated: Device, name: str, rng: Any) -> None:
    t, p = (emulated.put(a) for a in arguments(name, rng))
    loss = loss_named(name)
    expected = loss.value_and_grad(t, p)
    assert emulated.cupy.waits == 0
    checked = loss.value_and_grad(t, p, check=True)
    assert emulated.cupy.waits > 0
    for ours, theirs in zip(checked, expected, strict=True):
        np.testing.assert_array_equal(emulated.get(ours), emulated.get(theirs))


def test_check_passes_labels_that_do_not_count(device: Device, rng: Any) -> None:
    p = device.put(rng.normal(size=(3, 4)))
    loss = fastloss.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    t, weight = device.put(np.array([0, -1, 9])), device.put(np.array([1.0, 1.0, 0.0]))
    loss(t, p, sample_weight=weight, check=True)
    loss(t, p, mask=device.put(np.array([True, True, False])), check=True)
    with pytest.raises(ValueError, match=r"^y_true\[2\]: labels must be in \[0, 4\), got 9"):
        loss(t, p, check=True)


def test_check_of_lengths(device: Device, rng: Any) -> None:
    t, p = (device.put(a) for a in arguments("ctc", rng))
    for name, lengths, message in [
        ("label_length", [1, 4], r"label_length\[1\]: expected a length in \[0, 3\], got 4"),
        ("logit_length", [-1, 9], r"logit_length\[0\]: expected a length in \[0, 9\], got -1"),
    ]:
        with pytest.raises(ValueError, match="^" + message):
            fastloss.CTC()(t, p, check=True, **{name: device.put(np.array(lengths))})


def test_check_is_no_matter_for_other_losses(device: Device, rng: Any) -> None:
    t, p = rng.normal(size=(2, 5, 3))
    loss = fastloss.Huber()
    assert loss(t, p, check=True) == loss(t, p)
    on_gpu = device.put(t), device.put(p)
    assert device.get(loss(*on_gpu, check=True)) == device.get(loss(*on_gpu))
    with pytest.raises(TypeError, match=r"^check: not an option of huber"):
        fastloss.huber(t, p, check=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float32, ml_dtypes.bfloat16])
def test_check_looks_at_labels_of_any_dtype(device: Device, dtype: Any) -> None:
    t, p = np.array([0, 1, 7]).astype(dtype), np.full((3, 4), 0.25)
    if not device.is_emulated and dtype is ml_dtypes.bfloat16:
        pytest.importorskip("cupy", minversion="14", reason="CuPy has bfloat16 since 14")
    loss = fastloss.SparseCategoricalCrossentropy()
    with pytest.raises(ValueError, match=r"^y_true\[2\]: labels must be in \[0, 4\), got 7"):
        loss(device.put(t), device.put(p), check=True)


# ---- Losses of parts of the predictions ----


def parts_of_each_kind() -> fastloss.Loss:
    """Labels, a weight by value, a sum and a gap, on axes that are not the last."""
    rare = fastloss.Huber(weight=lambda y_true: 1 + (y_true[:, 0, 0] > 0.5))
    return fastloss.sliced(
        [
            (np.s_[:, :3], fastloss.SparseCategoricalCrossentropy(from_logits=True, axis=1)),
            (np.s_[:, 3:5], rare),
            (np.s_[:, -1:6:-1], fastloss.MeanSquaredError() + 0.5 * fastloss.MeanAbsolute()),
        ],
        weights=[0.5, 2.0, -1.0],
        allow_gaps=True,
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_parts_of_gpu_arrays_fill_one_gradient(emulated: Device, dtype: Any, rng: Any) -> None:
    p = rng.normal(size=(6, 10, 4)).astype(dtype)
    targets = rng.integers(0, 3, (6, 4)), rng.random((6, 2, 4)), rng.normal(size=(6, 3, 4))
    weight, loss = rng.random(6), parts_of_each_kind()
    given = {"sample_weight": weight, "upstream": 3.0}
    value, grad = loss.value_and_grad(targets, p, **given)
    on_gpu = emulated.put(p)
    put = tuple(emulated.put(t) for t in targets)
    given["sample_weight"] = emulated.put(weight)
    for out in (None, emulated.put(np.full_like(p, 7)), on_gpu):
        ours, pull = loss.value_and_grad(put, on_gpu, out=out, **given)
        assert out is None or pull is out
        tolerance = {np.float64: 1e-13, np.float32: 2e-6, np.float16: 2e-3}[dtype]
        np.testing.assert_allclose(emulated.get(ours), value, rtol=tolerance)
        np.testing.assert_allclose(emulated.get(pull), grad, rtol=tolerance, atol=tolerance / 10)
        assert (emulated.get(pull)[:, 5:7] == 0).all()
    assert emulated.cupy.waits == 0


def test_one_target_of_parts_is_sliced_alike_on_a_gpu(emulated: Device, rng: Any) -> None:
    t, p = rng.random((2, 7, 5))
    mask = rng.random((7, 5)) < 0.6
    loss = fastloss.sliced(
        [(np.s_[:, :2], fastloss.MeanSquaredError()), (np.s_[:, 2:], fastloss.MeanAbsoluteError())]
    )
    expected = loss.value_and_grad(t, p, mask=mask)
    actual = loss.value_and_grad(*map(emulated.put, (t, p)), mask=emulated.put(mask))
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(emulated.get(ours), theirs, rtol=1e-13)


def test_parts_on_a_gpu_refuse_what_other_losses_do(emulated: Device, rng: Any) -> None:
    t, p = rng.random((2, 7, 5))
    loss = fastloss.sliced([(np.s_[:, :2], fastloss.Huber()), (np.s_[:, 2:], fastloss.Poisson())])
    with pytest.raises(TypeError, match=r"^y_true: expected a GPU array, as y_pred is one, got nd"):
        loss(t, emulated.put(p))
    with pytest.raises(TypeError, match=r"^out: expected a CuPy array, got ndarray"):
        loss.value_and_grad(emulated.put(t), emulated.put(p), out=p)
    with pytest.raises(ValueError, match=r"^y_true: expected the shape of y_pred"):
        loss(emulated.put(t[1:]), emulated.put(p))
