"""Sums of losses: the sum of what the terms are alone, in one pass."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import assert_close, dtypes, one_class_is_allowed, same_bits
from composition import Call
from fastloss._sum import FusedSum, TermByTerm

pytestmark = one_class_is_allowed

Terms = list[tuple[float, str, dict[str, Any]]]

# Terms by class and options; all take probabilities as y_true and y_pred.
SUMS: dict[str, Terms] = {
    "two maps": [(0.7, "MeanSquaredError", {}), (0.3, "MeanAbsoluteError", {})],
    "a map alone": [(-2.5, "Huber", {"delta": 0.3})],
    "three maps": [
        (1, "LogCosh", {}), (-0.5, "BinaryCrossentropy", {"label_smoothing": 0.1}),
        (2, "KLDivergence", {}),
    ],
    "a row and a map": [
        (1, "CategoricalCrossentropy", {"from_logits": True, "label_smoothing": 0.2}),
        (0.1, "MeanSquare", {}),
    ],
    "a map and two rows": [
        (0.25, "Poisson", {}), (1, "CategoricalFocalCrossentropy", {}),
        (0.5, "CosineSimilarity", {}),
    ],
    "rows": [
        (1, "CategoricalCrossentropy", {"from_logits": True}),
        (0.1, "ConfidencePenalty", {"from_logits": True}), (1e-2, "ZLoss", {}),
    ],
    "a map and a region of all": [(1, "BinaryCrossentropy", {}), (1, "Dice", {"smooth": 1.0})],
    "regions": [(1, "Dice", {}), (0.5, "IoU", {"axis": -1}), (2, "Tversky", {"alpha": 0.2})],
    "a row over the last axis but one": [
        (1, "CategoricalCrossentropy", {"axis": -2}), (0.5, "Dice", {"axis": -2}),
    ],
    "rows over different axes": [
        (1, "CategoricalCrossentropy", {"axis": 0}), (0.5, "MeanSquaredError", {}),
    ],
    "a term without weight": [(1, "MeanSquaredError", {}), (0, "MeanAbsoluteError", {})],
    "penalties": [(1, "MeanAbsolute", {}), (-0.5, "MeanSquare", {}), (1, "ConfidencePenalty", {})],
}  # fmt: skip

sums = pytest.mark.parametrize("terms", SUMS.values(), ids=list(SUMS))
LAST_AXIS_BUT_ONE = SUMS["a row over the last axis but one"]


def losses_of(terms: Terms, **extra: Any) -> list[tuple[float, fastloss.Loss]]:
    return [(c, getattr(fastloss, name)(**options, **extra)) for c, name, options in terms]


def make(terms: Terms, **extra: Any) -> fastloss.Loss:
    return fastloss.Combination(losses_of(terms, **extra))


def draw(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    # Never closer than 0.02, so that no absolute error is near its kink.
    t = rng.uniform(0.05, 0.95, shape)
    p = t + rng.choice([-1, 1], shape) * rng.uniform(0.02, 0.04, shape)
    return t.astype(dtype), p.astype(dtype)


def calls(terms: Terms, t: Any, p: Any, *given: Any, **more: Any) -> list[tuple[float, Call]]:
    return [
        (c, Call(getattr(fastloss, name).spec, t, p, options, *given, **more))
        for c, name, options in terms
    ]


def check(terms: Terms, t: Any, p: Any, reduction: Any = "mean", **given: Any) -> None:
    """Value and gradients against the oracle's, added up."""
    dtype = p.dtype
    exact = calls(terms, t, p, reduction, **given)
    loss = make(terms, reduction=reduction)
    upstream = given.pop("upstream", 1.0)
    scale = sum(abs(c) * call.value_scale() for c, call in exact)
    value, (d_pred, d_true) = loss.value_and_grad(t, p, wrt="both", upstream=upstream, **given)
    total = sum(c * call.value() for c, call in exact)
    assert_close(value, total, dtype, factor=2, scale=scale)
    assert_close(loss(t, p, **given), total, dtype, factor=2, scale=scale)
    for wrt, gradient in (("y_pred", d_pred), ("y_true", d_true)):
        slopes = [c * call.gradient(wrt) for c, call in exact]
        size = sum(np.abs(s).mean() for s in slopes)
        total = sum(np.where(np.isnan(s), 0, s) for s in slopes)
        assert_close(gradient, total, dtype, factor=2, scale=size)


@dtypes
@pytest.mark.parametrize(
    "shape", [(1,), (3,), (1, 1), (7, 1), (423,), (3, 423), (5, 3, 17), (2, 4, 3, 10)], ids=str
)
@sums
def test_sum_is_the_sum_of_the_oracles(terms: Terms, shape: Any, dtype: Any, rng: Any) -> None:
    if len(shape) == 1 and terms is LAST_AXIS_BUT_ONE:
        pytest.skip("has no last axis but one")
    check(terms, *draw(shape, dtype, rng))


@dtypes
@pytest.mark.parametrize("reduction", ["sum", "mean", "mean_with_sample_weight"])
@pytest.mark.parametrize("which", ["weight", "mask", "both", "upstream"])
@sums
def test_weights_and_masks_go_to_every_term(
    terms: Terms, which: str, reduction: str, dtype: Any, rng: Any
) -> None:
    t, p = draw((6, 5, 4), dtype, rng)
    regions_of_all = {"Dice", "Tversky"} & {n for _, n, o in terms if "axis" not in o}
    rows = () if regions_of_all else (4,) if terms is SUMS["rows over different axes"] else (6,)
    if rows == (4,):
        pytest.skip("weights fit the values of one term alone")
    given: dict[str, Any] = {}
    if which in ("weight", "both"):
        given["sample_weight"] = rng.uniform(0.5, 2, rows)
    if which in ("mask", "both"):
        given["mask"] = np.asarray(rng.random(rows) < 0.7) if rows else np.asarray(True)
    if which == "upstream":
        given["upstream"] = -1.5
    check(terms, t, p, reduction, **given)


@dtypes
@pytest.mark.parametrize("name", ["two maps", "a row and a map", "rows", "three maps"])
@pytest.mark.parametrize("shape", [(6, 5), (70, 3, 9), (3, 5000), (40, 2500)], ids=str)
def test_unreduced_values_are_added(name: str, shape: Any, dtype: Any, rng: Any) -> None:
    t, p = draw(shape, dtype, rng)
    terms, upstream = SUMS[name], rng.normal(size=shape[:-1])
    value, gradient = make(terms, reduction=None).value_and_grad(t, p, upstream=upstream)
    apart = [
        (c, *x.value_and_grad(t, p, upstream=c * upstream))
        for c, x in losses_of(terms, reduction=None)
    ]
    size = sum(np.abs(c * v).mean() for c, v, _ in apart)
    assert_close(value, sum(c * v.astype("g") for c, v, _ in apart), dtype, scale=size)
    size = sum(np.abs(g).mean() for *_, g in apart)
    assert_close(gradient, sum(g.astype("g") for *_, g in apart), dtype, scale=size)


BIG = [
    (3, 2048), (2, 2049), (5, 4096), (3, 32000), (70000, 2), (257, 1000), (2, 70001), (300, 10, 33),
    (2, 3, 70001), (4100,), (129, 112), (9, 3, 3000),
]  # fmt: skip


@pytest.mark.parametrize("shape", BIG, ids=str)
@sums
def test_many_panels_give_the_sum_of_the_terms(terms: Terms, shape: Any, rng: Any) -> None:
    if len(shape) == 1 and terms is LAST_AXIS_BUT_ONE:
        pytest.skip("has no last axis but one")
    t, p = draw(shape, np.float32, rng)
    value, (d_pred, d_true) = make(terms).value_and_grad(t, p, wrt="both")
    apart = [(c, x.value_and_grad(t, p, wrt="both", upstream=c)) for c, x in losses_of(terms)]
    size = sum(abs(c * v) for c, (v, _) in apart)
    assert_close(value, sum(c * v.astype("g") for c, (v, _) in apart), np.float32, scale=size)
    for k, gradient in enumerate((d_pred, d_true)):
        total = sum(g[k].astype("g") for _, (_, g) in apart)
        size = sum(np.abs(g[k]).mean() for _, (_, g) in apart)
        assert_close(gradient, total, np.float32, scale=size)


@pytest.mark.parametrize("classes", [2, 10, 112, 1000, 32000])
@pytest.mark.parametrize(
    "options", [{}, {"ignore_class": 0}, {"class_weight": "per class"}], ids=str
)
def test_labels_with_penalties_of_logits(classes: int, options: Any, rng: Any) -> None:
    if "class_weight" in options:
        options = {"class_weight": tuple(rng.uniform(0.5, 2, classes))}
    p = rng.normal(0, 3, (131, classes)).astype(np.float32)
    t = rng.integers(0, classes, 131)
    data = fastloss.SparseCategoricalCrossentropy(from_logits=True, **options)
    penalties = [(1e-2, fastloss.ZLoss()), (0.1, fastloss.MeanSquare())]
    loss = fastloss.Combination([(1, data), *penalties])
    value, gradient = loss.value_and_grad(t, p)
    parts = [data.value_and_grad(t, p)] + [
        x.value_and_grad(None, p, upstream=c) for c, x in penalties
    ]
    total = parts[0][0].astype("g") + sum(
        c * v[0].astype("g") for (c, _), v in zip(penalties, parts[1:], strict=True)
    )
    assert_close(value, total, np.float32)
    exact = sum(g.astype("g") for _, g in parts)
    assert_close(gradient, exact, np.float32, scale=sum(np.abs(g).mean() for _, g in parts))


def test_a_bad_label_in_a_sum_is_named_before_anything_is_written() -> None:
    loss = fastloss.SparseCategoricalCrossentropy() + 0.1 * fastloss.MeanSquare()
    out = np.full((3, 4), 7.0)
    with pytest.raises(ValueError, match=r"y_true\[1\]: labels must be in \[0, 4\), got 9"):
        loss.value_and_grad([0, 9, 1], np.full((3, 4), 0.25), out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("shape", [(3, 32000), (70000, 2), (257, 1000), (2, 70001)], ids=str)
@sums
def test_bits_do_not_depend_on_threads(
    terms: Terms, shape: Any, threads: int, any_threads: None, rng: Any
) -> None:
    t, p = draw(shape, np.float32, rng)
    loss = make(terms)
    fastloss.set_num_threads(1)
    alone = loss.value_and_grad(t, p)
    fastloss.set_num_threads(threads)
    for _ in range(3):  # the first wake the threads that help with the others
        assert all(map(same_bits, alone, loss.value_and_grad(t, p)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@sums
def test_gradient_may_be_written_over_the_predictions(terms: Terms, dtype: str, rng: Any) -> None:
    pytest.importorskip("ml_dtypes")
    t, p = draw((40, 3, 50), np.float64, rng)
    p = p.astype(dtype)
    loss = make(terms)
    value, gradient = loss.value_and_grad(t, p)
    again, over = loss.value_and_grad(t, p, out=p)
    assert over is p
    assert same_bits(value, again)
    assert same_bits(gradient, over)


@sums
def test_halves_are_rounded_once(terms: Terms, rng: Any) -> None:
    t, p = draw((6, 5, 4), np.float16, rng)
    value, gradient = make(terms).value_and_grad(t, p)
    wide_value, wide = make(terms).value_and_grad(t, p.astype(np.float32))
    assert same_bits(value, wide_value)
    assert same_bits(gradient, wide.astype(np.float16))


@pytest.mark.parametrize("layout", ["reversed", "transposed", "padded"])
@sums
def test_layout_does_not_change_a_bit(terms: Terms, layout: str, rng: Any) -> None:
    t, p = draw((60, 5, 44), np.float32, rng)

    def laid_out(a: Any) -> Any:
        if layout == "reversed":
            return a[::-1, :, ::-1].copy()[::-1, :, ::-1]
        if layout == "transposed":
            return a.T.copy().T
        return np.pad(a, ((0, 0), (0, 0), (0, 3)))[..., :-3]

    expected = make(terms).value_and_grad(t, p)
    found = make(terms).value_and_grad(laid_out(t), laid_out(p))
    assert all(map(same_bits, expected, found))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@sums
def test_what_has_no_weight_is_zero_whatever_stands_there(
    terms: Terms, bad: float, rng: Any
) -> None:
    if (
        any(name in ("Dice", "Tversky") and "axis" not in o for _, name, o in terms)
        or terms is SUMS["rows over different axes"]
    ):
        pytest.skip("a sample is no value of its own")
    t, p = draw((6, 5, 4), np.float32, rng)
    weight = np.array([1, 0, 1, 2, 1, 1])
    clean = make(terms).value_and_grad(t, p, sample_weight=weight)
    t[1], p[1] = bad, bad
    hidden = make(terms).value_and_grad(t, p, sample_weight=weight)
    assert all(map(same_bits, clean, hidden))
    assert not hidden[1][1].any()


def test_a_coefficient_of_zero_hides_an_infinite_term() -> None:
    t, p = np.array([[1.0, 2.0]]), np.array([[np.inf, 1.0]])
    loss = 0 * fastloss.MeanSquaredError() + fastloss.Huber()
    value, gradient = loss.value_and_grad(t[:, 1:], p[:, 1:])
    assert value == 0.5
    value, gradient = (0 * fastloss.MeanSquaredError() + fastloss.MeanSquare()).value_and_grad(
        np.array([[np.inf, 1.0]]), np.array([[1.0, 3.0]])
    )
    assert value == 5
    np.testing.assert_array_equal(gradient, [[1, 3]])


@pytest.mark.parametrize("labels", ["0 and 1", "-1 and 1"])
def test_hinges_in_a_sum_keep_their_rule_of_labels(labels: str, rng: Any) -> None:
    t = rng.choice([0.0, 1.0] if labels == "0 and 1" else [-1.0, 1.0], (500, 20))
    p = rng.normal(size=(500, 20))
    loss = fastloss.Hinge() + 0.5 * fastloss.MeanSquare()
    value, gradient = loss.value_and_grad(t, p)
    signs = 2 * t - 1 if labels == "0 and 1" else t
    assert np.isclose(value, np.maximum(1 - signs * p, 0).mean() + 0.5 * (p**2).mean())
    np.testing.assert_allclose(gradient, (np.where(signs * p < 1, -signs, 0) + p) / p.size)


# ---- Terms that do not share a pass ----


def test_losses_over_different_axes_are_added_term_by_term(rng: Any) -> None:
    t, p = draw((4, 3, 5), np.float32, rng)
    terms: Terms = [(1, "CategoricalCrossentropy", {"axis": 1}), (0.5, "Huber", {})]
    check(terms, t, p)
    loss = make(terms, reduction=None)
    with pytest.raises(ValueError, match=r"reduction: .*\(4, 5\).*\(4, 3\)"):
        loss(t, p)


def test_circle_and_a_penalty_of_its_embeddings(rng: Any) -> None:
    p = rng.normal(size=(12, 5)).astype(np.float32)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    t = rng.integers(0, 3, 12)
    loss = 2 * fastloss.Circle() + 0.5 * fastloss.MeanSquare()
    assert isinstance(loss._plan, TermByTerm)
    value, gradient = loss.value_and_grad(t, p, upstream=3.0)
    circle = fastloss.Circle().value_and_grad(t, p)
    square = fastloss.MeanSquare().value_and_grad(None, p)
    assert np.isclose(value, 2 * circle[0] + 0.5 * square[0])
    np.testing.assert_allclose(
        gradient, 3 * (2 * circle[1] + 0.5 * square[1]), rtol=1e-5, atol=1e-6
    )
    references = rng.integers(0, 3, 4), rng.normal(size=(4, 5)).astype(np.float32)
    given = dict(zip(("ref_labels", "ref_embeddings"), references, strict=True))
    assert np.isclose(loss(t, p, **given), 2 * fastloss.Circle()(t, p, **given) + 0.5 * square[0])
    with pytest.raises(
        TypeError, match="label_length: expected an argument of a call of Combination"
    ):
        loss(t, p, label_length=[1])


def test_terms_one_by_one_keep_their_own_weights(rng: Any) -> None:
    p, t = rng.normal(size=(3, 20, 7)), rng.integers(1, 7, (3, 4))
    square = fastloss.MeanSquare(weight=rng.random((3, 20)))
    ctc = fastloss.CTC(weight=lambda y_true: y_true[:, 0])
    loss = ctc + 0.1 * square
    assert isinstance(loss._plan, TermByTerm)
    value, gradient = loss.value_and_grad(t, p)
    parts = ctc.value_and_grad(t, p), square.value_and_grad(None, p)
    assert np.isclose(value, parts[0][0] + 0.1 * parts[1][0], rtol=1e-12)
    np.testing.assert_allclose(gradient, parts[0][1] + 0.1 * parts[1][1], rtol=1e-12)


def test_ctc_and_a_confidence_penalty(rng: Any) -> None:
    p, t = rng.normal(size=(3, 20, 7)), rng.integers(1, 7, (3, 4))
    penalty = fastloss.ConfidencePenalty(from_logits=True)
    value, gradient = (fastloss.CTC() + 0.1 * penalty).value_and_grad(t, p, out=p.copy())
    parts = fastloss.CTC().value_and_grad(t, p), penalty.value_and_grad(None, p)
    assert np.isclose(value, parts[0][0] + 0.1 * parts[1][0])
    np.testing.assert_allclose(gradient, parts[0][1] + 0.1 * parts[1][1], rtol=1e-12)


# ---- Algebra ----


def test_operators_build_the_sum() -> None:
    a, b = fastloss.MeanSquaredError(), fastloss.MeanAbsoluteError()
    loss = 2 * (0.25 * a - b / 4) + np.float32(0.5) * -b
    assert isinstance(loss, fastloss.Combination)
    assert isinstance(loss._plan, FusedSum)
    assert [(c, type(x)) for c, x in loss.terms] == [
        (0.5, type(a)), (-0.5, type(b)), (-0.5, type(b)),
    ]  # fmt: skip
    assert sum([a, b])([0.0, 0.0], [2.0, -4.0]) == 13
    assert (np.float64(3) * a).terms == ((3.0, a),)
    assert (a * 3).terms == ((3.0, a),)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        ("0.7 * MeanSquaredError() + 0.3 * Huber(delta=2.0)",) * 2,
        ("MeanSquaredError() - Huber()",) * 2,
        ("-MeanSquaredError()", "-1.0 * MeanSquaredError()"),
        ("2 * -Hinge() + MeanSquare()", "-2.0 * Hinge() + MeanSquare()"),
    ],
)
def test_repr_reads_like_the_formula(loss: str, text: str) -> None:
    made = eval(loss, vars(fastloss).copy())
    assert repr(made) == text
    assert eval(text, vars(fastloss).copy()).get_config() == made.get_config()


COPIES = {
    "config": lambda x: type(x).from_config(x.get_config()),
    "JSON config": lambda x: type(x).from_config(json.loads(json.dumps(x.get_config()))),
    "get": lambda x: fastloss.get({"class_name": type(x).__name__, "config": x.get_config()}),
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", COPIES)
@sums
def test_copy_is_the_same_sum(terms: Terms, way: str, rng: Any) -> None:
    original = fastloss.Combination(losses_of(terms, reduction="sum", dtype="float64"), "mine")
    twin = COPIES[way](original)
    assert twin.get_config() == original.get_config()
    assert twin.name == "mine"
    t, p = draw((4, 3), np.float32, rng)
    assert same_bits(twin(t, p), original(t, p))
    assert twin(t, p).dtype == np.float64


def test_reductions_and_dtypes_of_the_terms_must_agree() -> None:
    a, b = fastloss.MeanSquaredError(reduction="sum"), fastloss.Huber()
    with pytest.raises(
        ValueError,
        match=r"reduction: .*mean_squared_error with 'sum' and huber_loss with 'sum_over",
    ):
        a + b
    with pytest.raises(ValueError, match=r"dtype: .* with None and huber_loss with 'float64'"):
        fastloss.MeanSquaredError() + fastloss.Huber(dtype="float64")
    assert (fastloss.MeanSquaredError(reduction="mean") + b).reduction == "mean"


@pytest.mark.parametrize("bad", [True, "2", None, 1j, np.ones(3), [1.0]])
def test_coefficients_are_numbers(bad: Any) -> None:
    with pytest.raises(TypeError):
        bad * fastloss.Huber()
    with pytest.raises(TypeError):
        fastloss.Combination([(bad, fastloss.Huber())])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_coefficients_are_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="coefficient: expected a finite number"):
        bad * fastloss.Huber()


def test_terms_are_losses() -> None:
    for bad in (1, fastloss.huber, "mse"):
        with pytest.raises(TypeError):
            fastloss.Huber() + bad
    with pytest.raises(TypeError, match="terms: expected losses of fastloss, got 'mse'"):
        fastloss.Combination([(1.0, "mse")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"terms: expected pairs \(number, loss\)"):
        fastloss.Combination([fastloss.Huber()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="terms: expected at least one"):
        fastloss.Combination([])


# ---- Penalties ----


@pytest.mark.parametrize("name", ["MeanSquare", "MeanAbsolute", "ConfidencePenalty", "ZLoss"])
def test_penalties_do_not_look_at_targets(name: str, rng: Any) -> None:
    loss, p = getattr(fastloss, name)(), rng.uniform(0.1, 0.9, (40, 7))
    value, gradient = loss.value_and_grad(None, p)
    for t in (np.full(p.shape, np.nan), np.zeros(40, int), np.zeros((2, 9)), np.full(p.shape, 5)):
        assert all(map(same_bits, loss.value_and_grad(t, p), (value, gradient)))
    with pytest.raises(ValueError, match=r"wrt: .* does not depend on y_true"):
        loss.value_and_grad(np.zeros((2, 9)), p, wrt="y_true")
    # Memory that must not be touched: an array whose pages cannot be read.
    forbidden = np.lib.stride_tricks.as_strided(np.zeros(1), p.shape, (1 << 40, 1 << 40))
    assert same_bits(loss(forbidden, p), value)
