"""Circle loss and CTC on GPU arrays: the CPU's results, on the host's emulation and on a card."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastloss
from cases import dtypes, same_bits
from definitions import ctc as recursion
from device import Device

REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight", None]
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)
# (batch, frames, classes, labels): one of each; more states than threads; more classes than a warp
# moves at once, and logits out of step with packets; a whole sentence; a vocabulary.
CTC_SHAPES = [
    (1, 1, 1, 0), (1, 1, 2, 1), (3, 5, 3, 2), (2, 300, 5, 140), (3, 9, 423, 4),
    (1, 423, 29, 60), (2, 3, 32000, 2),
]  # fmt: skip


def assert_near(actual: Any, exact: Any, ulps: float, scale: Any = None) -> None:
    """Within some units in the last place of each element and of ``scale``, or their mean size."""
    actual, exact = np.asarray(actual), np.asarray(exact)
    assert actual.shape == exact.shape
    assert actual.dtype == exact.dtype
    if not exact.size:
        return
    size = np.abs(exact) + (np.abs(exact).mean() if scale is None else scale)
    with np.errstate(invalid="ignore"):  # of infinity minus infinity
        error = np.abs(actual - exact)
    allowed = ulps * np.finfo(actual.dtype).eps * size
    assert ((error <= allowed) | (actual == exact)).all(), np.nanmax(error)


CIRCLE = 4 * (80 + 10)  # exponents are of the size of gamma, and so are their roundings


def ctc_ulps(frames: int) -> int:
    """Logarithms of walks grow with the frames; their roundings are relative errors of slopes."""
    return 32 + frames


def ctc_scale(grad: Any) -> Any:
    """The slopes of a frame are differences of probabilities, each of which adds up to one."""
    return np.abs(grad).sum(-1).mean() if grad.size else 0


def on(device: Device, arrays: dict[str, Any]) -> dict[str, Any]:
    return {k: device.put(a) if isinstance(a, np.ndarray) else a for k, a in arrays.items()}


def agree(device: Device, loss: Any, t: Any, p: Any, **arrays: Any) -> None:
    """Value and gradient, and the value alone, are those of the CPU."""
    ulps = CIRCLE if isinstance(loss, fastloss.Circle) else ctc_ulps(p.shape[1])
    value, grad = loss.value_and_grad(t, p, **arrays)
    given = device.put(t), device.put(p)
    ours, our_grad = loss.value_and_grad(*given, **on(device, arrays))
    assert isinstance(ours, device.cupy.ndarray)
    assert_near(device.get(ours), value, ulps)
    scale = ctc_scale(grad) if grad.ndim == 3 else None
    assert_near(device.get(our_grad), grad, ulps, scale)
    arrays.pop("upstream", None)
    assert_near(device.get(loss(*given, **on(device, arrays))), value, ulps)


# ---- CTC ----


def draw_ctc(rng: Any, shape: Any, dtype: Any = np.float64) -> tuple[Any, Any, dict[str, Any]]:
    """Labels, logits and lengths, which the labels fit in."""
    batch, frames, classes, most = shape
    t = rng.integers(min(1, classes - 1), classes, (batch, most))
    x = rng.normal(0, 2, (batch, frames, classes)).astype(dtype)
    logit_length = rng.integers((frames + 1) // 2, frames + 1, batch)
    label_length = np.minimum(rng.integers(0, most + 1, batch), (logit_length + 1) // 2)
    return t, x, {"label_length": label_length, "logit_length": logit_length}


@dtypes
@pytest.mark.parametrize("shape", CTC_SHAPES, ids=str)
def test_ctc_is_the_cpus(device: Device, shape: Any, dtype: Any, rng: Any) -> None:
    t, x, lengths = draw_ctc(rng, shape, dtype)
    for reduction in ("sum_over_batch_size", None):
        agree(device, fastloss.CTC(reduction), t, x, **lengths)


def test_ctc_of_more_samples_than_blocks_is_the_cpus(device: Device, rng: Any) -> None:
    t, x, _ = draw_ctc(rng, (515, 1, 3, 1))
    loss = fastloss.CTC()
    value, grad = loss.value_and_grad(device.put(t), device.put(x))
    expected = loss.value_and_grad(t, x)
    assert_near(device.get(value), expected[0], ctc_ulps(1))
    assert_near(device.get(grad), expected[1], ctc_ulps(1), ctc_scale(expected[1]))


@dtypes
def test_ctc_is_the_textbooks(device: Device, dtype: Any, rng: Any) -> None:
    t, x, lengths = draw_ctc(rng, (4, 20, 7, 6), dtype)
    loss = fastloss.CTC(reduction=None)
    values, grad = loss.value_and_grad(device.put(t), device.put(x), **on(device, lengths))
    for b in range(4):
        label = t[b, : lengths["label_length"][b]]
        frames = lengths["logit_length"][b]
        exact, slopes = recursion(x[b, :frames], label)
        assert_near(device.get(values)[b], dtype(exact), ctc_ulps(20))
        assert_near(device.get(grad)[b, :frames], slopes.astype(dtype), ctc_ulps(20))
        assert not device.get(grad)[b, frames:].any()


def test_ctc_finds_lengths_as_on_the_cpu(device: Device, rng: Any) -> None:
    t, x, _ = draw_ctc(rng, (5, 12, 4, 5))
    t[1, 3:] = t[2] = 0
    agree(device, fastloss.CTC(), t, x)
    agree(device, fastloss.CTC(), t.astype(np.float32), x)
    values = device.get(fastloss.ctc(device.put(t % 4), device.put(x), blank=-1))
    assert_near(values, fastloss.ctc(t % 4, x, blank=-1), ctc_ulps(12))
    repeated = np.array(
        [[1, 1, 2, 1, 1], [3, 3, 3, 3, 3], [0, 1, 0, 0, 2], [1] * 5, [2, 1] * 2 + [2]]
    )
    lengths = {"label_length": np.full(5, 5)}  # so that the blank is a symbol of the third
    agree(device, fastloss.CTC(reduction=None), repeated, x, **lengths)


@reductions
def test_ctc_weights_masks_and_upstream(device: Device, reduction: Any, rng: Any) -> None:
    t, x, lengths = draw_ctc(rng, (7, 6, 5, 2))
    x[0] = np.nan  # hidden by its weight of zero
    t[6] = 99  # hidden by the mask
    weight = rng.uniform(0.5, 2, 7)
    weight[0] = 0
    mask = np.array([True, True, False, True, True, True, False])
    loss = fastloss.CTC(reduction)
    masked = {"sample_weight": weight, "mask": mask, **lengths}
    agree(device, loss, t, x, **masked)
    upstream = rng.normal(size=7) if reduction is None else np.array(-2.5)
    agree(device, loss, t, x, upstream=upstream, **masked)
    agree(device, loss, t[:6], x[:6], sample_weight=weight[:6], upstream=3.0)
    agree(device, loss, t[:6], x[:6], sample_weight=weight[:6, None])


def test_ctc_of_labels_that_do_not_fit_is_infinite(device: Device, rng: Any) -> None:
    x = rng.normal(size=(3, 2, 3))
    x[2, :, 1] = -np.inf
    t = np.array([[1, 2, 1], [1, 1, 0], [1, 2, 0]])
    loss = fastloss.CTC(reduction=None)
    value, grad = loss.value_and_grad(device.put(t), device.put(x))
    np.testing.assert_array_equal(device.get(value), [np.inf] * 3)
    assert not device.get(grad).any()
    none = {"logit_length": np.zeros(2, int)}
    agree(device, loss, np.array([[1], [0]]), x[:2], **none)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_ctc_of_extreme_logits_stays_finite(device: Device, size: float, rng: Any) -> None:
    x = (size * rng.choice([-1.0, 0.0, 1.0], (2, 8, 4))).astype(np.float32)
    t = np.array([[1, 2, 2], [3, 0, 0]])
    value, grad = fastloss.CTC(reduction=None).value_and_grad(device.put(t), device.put(x))
    assert_near(device.get(value), fastloss.ctc(t, x), ctc_ulps(8))
    assert np.abs(device.get(grad)).max() <= 1
    assert np.abs(device.get(grad).sum(axis=-1)).max() < 1e-6


def test_ctc_of_a_confident_model_does_not_cancel(device: Device, rng: Any) -> None:
    t = np.array([[1, 2, 3]])
    x = rng.normal(0, 1, (1, 6, 4))
    x[0, range(6), [0, 1, 1, 2, 0, 3]] += 25
    x = x.astype(np.float32)
    loss = fastloss.CTC(reduction=None)
    value, grad = loss.value_and_grad(device.put(t), device.put(x))
    exact, slopes = recursion(x[0], t[0])
    assert 0 < device.get(value)[0] < 1e-8
    np.testing.assert_allclose(device.get(value)[0], float(exact), rtol=1e-4)
    np.testing.assert_allclose(device.get(grad)[0], slopes.astype(float), rtol=1e-4, atol=1e-18)


def test_ctc_nan_shows_in_its_own_sample_alone(device: Device) -> None:
    x = np.zeros((2, 4, 3), np.float32)
    x[0, 1, 2] = np.nan
    t = device.put(np.array([[1], [1]]))
    value, grad = fastloss.CTC(reduction=None).value_and_grad(t, device.put(x))
    np.testing.assert_array_equal(np.isnan(device.get(value)), [True, False])
    assert np.isnan(device.get(grad)[0]).any()
    assert np.isfinite(device.get(grad)[1]).all()


@pytest.mark.parametrize(
    ("bad", "lengths"),
    [
        ([9, 1, 1], {}), ([1, -1, 1], {"label_length": 3}), ([1, 1.5, 1], {}), ([np.nan, 1, 1], {}),
        ([1, 2, 1], {"label_length": 4}), ([1, 2, 1], {"label_length": -1}),
        ([1, 2, 1], {"logit_length": 8}), ([1, 2, 1], {"logit_length": 5.5}),
    ],
    ids=str,
)  # fmt: skip
def test_ctc_label_or_length_out_of_range_is_nan_with_a_zero_gradient(
    device: Device, bad: Any, lengths: Any, rng: Any
) -> None:
    x = rng.normal(size=(3, 7, 4))
    t = np.array([[1, 2, 3], bad, [3, 2, 0]])
    fine = {"label_length": [3, 3, 2], "logit_length": [7, 7, 7]}
    given = {k: np.array([fine[k][0], lengths.get(k, 3), fine[k][2]]) for k in lengths}
    loss = fastloss.CTC(reduction=None)
    value, grad = loss.value_and_grad(device.put(t), device.put(x), **on(device, given))
    np.testing.assert_array_equal(np.isnan(device.get(value)), [False, True, False])
    assert not device.get(grad)[1].any()
    good = loss.value_and_grad(t[::2].astype(int), x[::2].copy())
    assert_near(device.get(value)[::2], good[0], ctc_ulps(7))
    assert_near(device.get(grad)[::2], good[1], ctc_ulps(7))


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
def test_ctc_widens_halves_and_rounds_gradients_once(device: Device, stored: Any, rng: Any) -> None:
    if not device.is_emulated and stored is ml_dtypes.bfloat16:
        pytest.importorskip("cupy", minversion="14", reason="CuPy has bfloat16 since 14")
    t, x, lengths = draw_ctc(rng, (3, 9, 16, 3))
    x = x.astype(stored)
    loss = fastloss.CTC()
    value, grad = loss.value_and_grad(device.put(t), device.put(x), **on(device, lengths))
    single, slopes = loss.value_and_grad(t, x.astype(np.float32), **lengths)
    assert_near(device.get(value), single, ctc_ulps(9))
    assert device.get(grad).dtype == stored
    unit = 2**-7 if stored is ml_dtypes.bfloat16 else 2**-10
    error = np.abs(device.get(grad).astype(float) - slopes)
    assert (error <= unit * np.abs(slopes) + 6e-8).all()  # the smallest float16


def test_ctc_layout_does_not_change_a_bit(device: Device, rng: Any) -> None:
    t, x, lengths = draw_ctc(rng, (4, 6, 8, 3), np.float32)
    loss, lengths = fastloss.CTC(), on(device, lengths)
    expected = loss.value_and_grad(device.put(t), device.put(x), **lengths)
    time_major = np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2)
    for same in (np.asfortranarray(x), time_major, x[:, ::-1].copy()[:, ::-1]):
        for labels in (t, np.asfortranarray(t), t.astype(np.uint8), t.astype(np.float32)):
            actual = loss.value_and_grad(device.put(labels), device.put(same), **lengths)
            for a, b in zip(actual, expected, strict=True):
                assert same_bits(device.get(a), device.get(b))


def test_ctc_out(device: Device, rng: Any) -> None:
    t, x, _ = draw_ctc(rng, (5, 9, 7, 3), np.float32)
    loss = fastloss.CTC()
    labels = device.put(t)
    expected = device.get(loss.value_and_grad(labels, device.put(x))[1])
    y_pred = device.put(x.copy())
    assert loss.value_and_grad(labels, y_pred, out=y_pred)[1] is y_pred
    assert same_bits(device.get(y_pred), expected)
    memory = device.put(np.concatenate([x, x]))
    loss.value_and_grad(labels, memory[:5], out=(out := memory[1:6]))
    assert same_bits(device.get(out), expected)


def test_ctc_of_nothing_is_as_on_the_cpu(device: Device) -> None:
    for shape in [(0, 5, 3, 2), (2, 0, 3, 0), (0, 0, 1, 0)]:
        t, x = np.zeros((shape[0], shape[3]), int), np.zeros(shape[:3], np.float32)
        value, grad = fastloss.CTC().value_and_grad(t, x)
        ours, our_grad = fastloss.CTC().value_and_grad(device.put(t), device.put(x))
        np.testing.assert_array_equal(device.get(ours), value)
        assert device.get(our_grad).shape == grad.shape


# ---- Circle loss ----


def draw_circle(rng: Any, n: int, features: int, dtype: Any = np.float64) -> tuple[Any, Any]:
    """Labels and embeddings; the last label is alone, so that its sample has no positives."""
    p = rng.normal(size=(n, features))
    labels = rng.integers(0, 1 + n // 4, n)
    labels[-1] = -1
    return labels, (p / np.linalg.norm(p, axis=1, keepdims=True)).astype(dtype)


@dtypes
@pytest.mark.parametrize("n", [1, 3, 64, 423])
def test_circle_is_the_cpus(device: Device, n: int, dtype: Any, rng: Any) -> None:
    y, p = draw_circle(rng, n, 17, dtype)
    for options in ({}, {"remove_diagonal": False, "gamma": 5.0, "reduction": None}):
        agree(device, fastloss.Circle(**options), y, p)
        agree(device, fastloss.Circle(**options), y[:, None], p)


@pytest.mark.parametrize(("n", "references"), [(5, 8), (8, 5), (3, 423)])
@pytest.mark.parametrize("remove_diagonal", [True, False])
def test_circle_takes_references(
    device: Device, n: int, references: int, remove_diagonal: bool, rng: Any
) -> None:
    y, p = draw_circle(rng, n, 6)
    r, q = draw_circle(rng, references, 6)
    loss = fastloss.Circle(remove_diagonal=remove_diagonal, reduction=None)
    agree(device, loss, y, p, ref_labels=r, ref_embeddings=q)
    values = fastloss.circle(*(device.put(a) for a in (y, p, r, q)), remove_diagonal)
    assert_near(device.get(values), fastloss.circle(y, p, r, q, remove_diagonal), CIRCLE)


@reductions
def test_circle_weights_masks_and_upstream(device: Device, reduction: Any, rng: Any) -> None:
    y, p = draw_circle(rng, 12, 5)
    weight = rng.uniform(0.5, 2, 12)
    weight[2] = 0
    mask = rng.random(12) < 0.7
    loss = fastloss.Circle(reduction=reduction)
    upstream = rng.normal(size=12) if reduction is None else np.array(-2.5)
    agree(device, loss, y, p, sample_weight=weight)
    agree(device, loss, y, p, sample_weight=weight, mask=mask, upstream=upstream)
    agree(device, loss, y, p, mask=np.zeros(12, bool), sample_weight=0.5)


def test_circle_nan_is_hidden_by_its_weight_alone(device: Device, rng: Any) -> None:
    y, p = draw_circle(rng, 8, 5)
    r, q = draw_circle(rng, 6, 5)
    p[3] = np.nan
    references = {"ref_labels": r, "ref_embeddings": q}
    value, _ = fastloss.Circle().value_and_grad(
        device.put(y), device.put(p), **on(device, references)
    )
    assert np.isnan(device.get(value))
    weight = np.ones(8)
    weight[3] = 0
    value, grad = fastloss.Circle().value_and_grad(
        device.put(y), device.put(p), sample_weight=device.put(weight), **on(device, references)
    )
    assert np.isfinite(device.get(value))
    assert not device.get(grad)[3].any()


@pytest.mark.parametrize("labels", [[3, 3, 3], [1, 2, 3]], ids=["no negatives", "no positives"])
@reductions
def test_circle_without_pairs_is_zero(
    device: Device, labels: Any, reduction: Any, rng: Any
) -> None:
    _, p = draw_circle(rng, 3, 4, np.float32)
    loss = fastloss.Circle(reduction=reduction)
    value, grad = loss.value_and_grad(device.put(np.array(labels)), device.put(p))
    assert not device.get(value).any()
    assert not device.get(grad).any()


@pytest.mark.parametrize("bad", [0.5, np.nan, 1e300])
def test_circle_label_that_is_no_integer_is_nan_with_no_slope_of_its_own(
    device: Device, bad: float, rng: Any
) -> None:
    y, p = draw_circle(rng, 9, 5)
    r, q = draw_circle(rng, 7, 5)
    y = y.astype(np.float64)
    loss, references = fastloss.Circle(reduction=None), {"ref_labels": r, "ref_embeddings": q}
    expected = loss.value_and_grad(y, p, **references)
    y[4] = bad
    value, grad = loss.value_and_grad(device.put(y), device.put(p), **on(device, references))
    np.testing.assert_array_equal(np.isnan(device.get(value)), np.arange(9) == 4)
    assert not device.get(grad)[4].any()
    for actual, exact in zip((value, grad), expected, strict=True):
        assert_near(np.delete(device.get(actual), 4, 0), np.delete(exact, 4, 0), CIRCLE)


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
def test_circle_widens_halves(device: Device, stored: Any, rng: Any) -> None:
    if not device.is_emulated and stored is ml_dtypes.bfloat16:
        pytest.importorskip("cupy", minversion="14", reason="CuPy has bfloat16 since 14")
    y, p = draw_circle(rng, 9, 4, stored)
    value, grad = fastloss.Circle().value_and_grad(device.put(y), device.put(p))
    single, slopes = fastloss.Circle().value_and_grad(y, p.astype(np.float32))
    assert_near(device.get(value), single, CIRCLE)
    assert device.get(grad).dtype == stored
    unit = 2**-7 if stored is ml_dtypes.bfloat16 else 2**-10
    error = np.abs(device.get(grad).astype(float) - slopes)
    assert (error <= unit * (np.abs(slopes) + 1e-3)).all()


def test_circle_out_may_be_y_pred_itself(device: Device, rng: Any) -> None:
    y, p = draw_circle(rng, 9, 4, np.float32)
    labels = device.put(y)
    expected = device.get(fastloss.Circle().value_and_grad(labels, device.put(p))[1])
    y_pred = device.put(p.copy())
    assert fastloss.Circle().value_and_grad(labels, y_pred, out=y_pred)[1] is y_pred
    assert same_bits(device.get(y_pred), expected)


def test_circle_of_nothing_is_as_on_the_cpu(device: Device) -> None:
    p = np.zeros((0, 3), np.float32)
    value, grad = fastloss.Circle().value_and_grad(device.put(np.zeros(0, int)), device.put(p))
    assert device.get(value).shape == (0,)
    assert device.get(grad).shape == (0, 3)


# ---- Both ----


@pytest.mark.parametrize("name", ["circle", "ctc"])
def test_results_have_the_same_bits_every_time(device: Device, name: str, rng: Any) -> None:
    # The emulation runs the blocks in another order each time.
    if name == "ctc":
        t, p, _ = draw_ctc(rng, (40, 4, 5, 2), np.float32)
        loss: Any = fastloss.CTC()
    else:
        t, p = draw_circle(rng, 300, 8, np.float32)
        loss = fastloss.Circle()
    t, p = device.put(t), device.put(p)
    first, again = loss.value_and_grad(t, p), loss.value_and_grad(t, p)
    for a, b in zip(first, again, strict=True):
        assert same_bits(device.get(a), device.get(b))


# Not of the circle loss: CuPy refuses matrix products while a stream is captured.
@pytest.mark.gpu
def test_ctc_can_be_captured_in_a_graph(rng: Any) -> None:
    # Which also shows that nothing waits for the device, and that the current stream is used.
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    t, x = (cupy.asarray(a) for a in draw_ctc(rng, (3, 9, 5, 3))[:2])
    loss, out = fastloss.CTC(), cupy.empty_like(x)
    expected = loss.value_and_grad(t, x)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        loss.value_and_grad(t, x, out=out)  # kernels are loaded at the first call
        stream.synchronize()
        out.fill(np.nan)
        stream.begin_capture()
        value, _ = loss.value_and_grad(t, x, out=out)
        graph = stream.end_capture()
        graph.launch()
        stream.synchronize()
    assert same_bits(value.get(), expected[0].get())
    assert same_bits(out.get(), expected[1].get())
