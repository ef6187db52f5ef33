"""Bad input: an error that names the argument, what was expected and what came."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import SPECS, by_sample, describe, draw, losses, make
from fastloss._registry import LossSpec

OPTIONS = {
    p.name: [s for s in SPECS if any(q.name == p.name for q in s.parameters)]
    for s in SPECS
    for p in s.parameters
}


def rejects(error: type[Exception], *parts: str) -> Any:
    return pytest.raises(error, match="(?s)" + ".*".join(parts))


# ---- Arrays ----


@pytest.mark.parametrize(
    ("true", "pred"),
    [
        ((3,), (4,)), ((3, 4), (3, 5)), ((3, 4), (4, 3)), ((1, 4), (3, 4)), ((3, 1), (3, 4)),
        ((4,), (3, 4)), ((), (3,)), ((3, 4), (3, 4, 2)), ((3, 4, 1), (3, 5)), ((5,), (4, 1)),
        ((0, 4), (3, 4)), ((3, 1, 4), (3, 4)), ((1, 3), (3,)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("spec", [s for s in SPECS if s.uses_target], ids=describe)
def test_shapes_that_do_not_fit(spec: LossSpec, true: Any, pred: Any) -> None:
    if spec.labels == "integer" and true in (pred[:-1], (*pred[:-1], 1)):
        pytest.skip("these are labels of that shape")
    t = np.zeros(true, int if spec.labels == "integer" else float)
    got = re.escape(str(true))
    with rejects(ValueError, "y_true", re.escape(str(pred)), got):
        make(spec, {}).value_and_grad(t, np.zeros(pred))


@losses
def test_scalars_have_no_axis(spec: LossSpec) -> None:
    with rejects(ValueError, "y_pred", "dimension", "scalar"):
        make(spec, {})(0, 0.5)


@losses
def test_empty_class_axis(spec: LossSpec) -> None:
    t = np.zeros(3, int) if spec.labels == "integer" else np.zeros((3, 0))
    with rejects(ValueError, "y_pred", "empty", re.escape("(3, 0)")):
        make(spec, {}).value_and_grad(t, np.zeros((3, 0)))


@pytest.mark.parametrize("dtype", [np.complex128, object, "U3", "M8[s]", np.longdouble])
@losses
def test_predictions_of_an_unsupported_dtype(spec: LossSpec, dtype: Any) -> None:
    t = np.zeros(2, int) if spec.labels == "integer" else np.zeros((2, 3))
    p = np.zeros((2, 3)).astype(dtype) if dtype != "M8[s]" else np.zeros((2, 3), dtype)
    with rejects(
        TypeError, "y_pred", "float16, bfloat16, float32 or float64", re.escape(str(p.dtype))
    ):
        make(spec, {}).value_and_grad(t, p)


@pytest.mark.parametrize("own_dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "bad", [np.full((2, 3), 1 + 1j), np.full((2, 3), "0.5")], ids=lambda a: a.dtype.kind
)
def test_dtype_of_a_loss_does_not_let_other_kinds_through(bad: Any, own_dtype: str) -> None:
    with rejects(TypeError, "y_pred"):
        fastloss.MeanSquaredError(dtype=own_dtype)(np.zeros((2, 3)), bad)


@pytest.mark.parametrize("argument", ["y_true", "sample_weight", "mask", "upstream"])
@pytest.mark.parametrize("dtype", [np.complex64, object, "U3", np.longdouble])
def test_other_arrays_of_an_unsupported_dtype(argument: str, dtype: Any) -> None:
    arrays: dict[str, Any] = {"y_true": np.zeros((2, 3)), argument: np.zeros((2, 3)).astype(dtype)}
    with rejects(TypeError, argument, "real numbers", re.escape(str(np.dtype(dtype))[:3])):
        fastloss.MeanSquaredError().value_and_grad(y_pred=np.zeros((2, 3)), **arrays)


@pytest.mark.parametrize("argument", ["sample_weight", "mask"])
@pytest.mark.parametrize("shape", [(2,), (4,), (3, 2), (3, 5, 2), (2, 1, 1), (5, 3)], ids=str)
@losses
def test_weights_that_do_not_fit(spec: LossSpec, shape: Any, argument: str, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (3, 5, 4), np.float64, rng)
    if shape == (4,) and spec.kind == "map":
        pytest.skip("a weight per element")
    with rejects(ValueError, argument, re.escape("(3, 5)"), re.escape(str(shape))):
        make(spec, options).value_and_grad(t, p, **{argument: np.ones(shape)})


@pytest.mark.parametrize("spec", [s for s in SPECS if s.kind != "map"], ids=describe)
def test_weights_per_element_of_losses_without_elements(spec: LossSpec, rng: Any) -> None:
    options = by_sample(spec)
    t, p = draw(spec, options, (3, 5, 4), np.float64, rng)
    with rejects(ValueError, "sample_weight", re.escape("(3, 5)"), re.escape("(3, 5, 4)")):
        make(spec, options)(t, p, sample_weight=np.ones((3, 5, 4)))


# ---- Labels ----


@pytest.mark.parametrize("wrt_value_only", [True, False])
@pytest.mark.parametrize(
    ("label", "dtype"), [(4, int), (-1, np.int8), (200, np.uint8), (4.0, float), (1e18, float)]
)
@pytest.mark.parametrize("spec", OPTIONS["ignore_class"] + OPTIONS["q"], ids=describe)
def test_label_out_of_range(spec: LossSpec, label: Any, dtype: Any, wrt_value_only: bool) -> None:
    t = np.zeros((5, 6), dtype)
    t[3, 2] = label
    p = np.full((5, 6, 4), 0.25)
    got = re.escape(f"got {label:g}")
    with rejects(ValueError, re.escape("y_true[3, 2]"), re.escape("[0, 4)"), got):
        make(spec, {})(t, p) if wrt_value_only else make(spec, {}).value_and_grad(t, p)


@pytest.mark.parametrize("label", [0.5, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spec", OPTIONS["ignore_class"] + OPTIONS["q"], ids=describe)
def test_float_label_that_is_no_integer(spec: LossSpec, label: float) -> None:
    with rejects(ValueError, re.escape("y_true[1]"), "integers", "got"):
        make(spec, {})(np.array([0.0, label]), np.full((2, 4), 0.25))


@pytest.mark.parametrize(("label", "ignored"), [(1.5, 1), (-0.5, 0), (-1.25, -1)])
def test_fractional_label_is_not_the_ignored_class(label: float, ignored: int) -> None:
    loss = fastloss.SparseCategoricalCrossentropy(ignore_class=ignored)
    with rejects(ValueError, re.escape("y_true[1]"), "integers", str(label)):
        loss(np.array([2.0, label]), np.full((2, 4), 0.25))


def test_first_bad_label_is_the_one_that_is_named() -> None:
    t = np.zeros(10000, int)
    t[[7000, 9000]] = 5, -3
    with rejects(ValueError, re.escape("y_true[7000]"), "got 5"):
        fastloss.sparse_categorical_crossentropy(t, np.full((10000, 3), 0.25))


def test_huge_unsigned_label_is_named_as_it_was_given() -> None:
    t = np.array([2**64 - 1], np.uint64)
    with rejects(ValueError, "y_true", str(2**64 - 1)):
        fastloss.sparse_categorical_crossentropy(t, np.full((1, 3), 0.25))


def test_huge_unsigned_label_is_not_the_ignored_class_minus_one() -> None:
    t = np.array([2**64 - 1], np.uint64)
    with pytest.raises(ValueError, match="y_true"):
        fastloss.sparse_categorical_crossentropy(t, np.full((1, 3), 0.25), ignore_class=-1)


# ---- Options ----

NOT_NUMBERS = ["x", True, 1j, [1.0], {}]

BAD_OPTIONS: dict[str, tuple[list[Any], list[Any]]] = {
    # name: (values that raise ValueError, values that raise TypeError)
    "delta": ([0, -1, np.nan, np.inf, 0.0], [None, *NOT_NUMBERS]),
    "label_smoothing": ([1.5, -0.1, np.nan, np.inf], [None, *NOT_NUMBERS]),
    "gamma": ([-1, -1e-9, np.nan, np.inf], [None, *NOT_NUMBERS]),
    "q": ([0, 1, -0.5, 2, np.nan], [None, *NOT_NUMBERS]),
    "beta": ([-1, np.nan, np.inf], [None, *NOT_NUMBERS]),
    "smooth": ([-1, np.nan, np.inf], NOT_NUMBERS),
    "from_logits": ([], [1, "True", None]),
    "apply_class_balancing": ([], [1, "True", None]),
    "ignore_class": ([], [1.0, "x", True, [1]]),
    "axis": ([], ["x", 1.0, True, [True], [1.0]]),
    "alpha": ([], ["x", True, None, 1j]),
    "class_weight": ([[], [np.nan, 1.0], [[1.0, 2.0]]], ["x", True, 1.0, ["a", "b"]]),
    "pos_weight": ([-1, np.nan, np.inf], [None, *NOT_NUMBERS]),
}


def bad_options(which: int) -> list[tuple[LossSpec, str, Any]]:
    return [
        (spec, name, value)
        for name, specs in OPTIONS.items()
        for spec in specs
        for value in BAD_OPTIONS[name][which]
    ]


@pytest.mark.parametrize(("spec", "name", "value"), bad_options(0), ids=describe)
def test_option_outside_its_range(spec: LossSpec, name: str, value: Any) -> None:
    for call in (
        lambda: make(spec, {name: value}),
        lambda: getattr(fastloss, spec.name)([[1.0]], [[0.5]], **{name: value}),
    ):
        with rejects(ValueError, f"^{name}", "expected", re.escape(repr(value))):
            call()


@pytest.mark.parametrize(("spec", "name", "value"), bad_options(1), ids=describe)
def test_option_of_the_wrong_type(spec: LossSpec, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"(?s)^{name}.*expected.*"):
        make(spec, {name: value})


@pytest.mark.parametrize(
    "alpha", [[0.5, 0.5], [0.25] * 4, [[0.5]], [], [0.1, np.nan, 0.1], ["a"]], ids=str
)
def test_alpha_that_is_not_one_number_per_class(alpha: Any) -> None:
    with rejects(ValueError, "alpha", "expected"):
        fastloss.CategoricalFocalCrossentropy(alpha=alpha)(np.zeros((2, 3)), np.full((2, 3), 0.3))


def test_alpha_and_class_weight_are_of_the_same_classes() -> None:
    with rejects(ValueError, "^class_weight: expected as many numbers as alpha has, 2, got 3"):
        fastloss.CategoricalFocalCrossentropy(alpha=[0.5, 0.5], class_weight=[1, 2, 3])


@pytest.mark.parametrize("axis", [2, -3, 17])
@pytest.mark.parametrize("spec", OPTIONS["axis"], ids=describe)
def test_axis_out_of_range(spec: LossSpec, axis: int) -> None:
    t = np.zeros(2, int) if spec.labels == "integer" else np.zeros((2, 3))
    with rejects(ValueError, "axis", str(axis), "2 dimensions"):
        make(spec, {"axis": axis})(t, np.full((2, 3), 0.5))


@pytest.mark.parametrize("axis", [(0, 0), (1, -1), ()], ids=str)
@pytest.mark.parametrize("spec", [s for s in SPECS if s.kind == "region"], ids=describe)
def test_axes_that_are_not_distinct(spec: LossSpec, axis: Any) -> None:
    with rejects(ValueError, "axis", "expected", re.escape(str(axis))):
        make(spec, {"axis": axis})(np.zeros((2, 3)), np.zeros((2, 3)))


@losses
def test_unknown_option_lists_the_known(spec: LossSpec) -> None:
    known = ".*".join(p.name for p in spec.parameters)
    with rejects(TypeError, "typo", spec.name, known):
        make(spec, {"typo": 1})
    with rejects(TypeError, "typo", spec.name, known):
        getattr(fastloss, spec.name)([[1.0]], [[1.0]], typo=1)


@losses
def test_too_many_options_or_two_values_for_one(spec: LossSpec) -> None:
    with rejects(TypeError, spec.name, "options"):
        getattr(fastloss, spec.class_name)(*range(20))
    if spec.parameters:
        first = spec.parameters[0]
        with rejects(TypeError, "two values", first.name):
            getattr(fastloss, spec.class_name)(first.default, **{first.name: first.default})


@pytest.mark.parametrize("reduction", ["average", "SUM", "", 1, True, [], b"sum"], ids=repr)
@losses
def test_unknown_reduction(spec: LossSpec, reduction: Any) -> None:
    with rejects(ValueError, "reduction", "sum_over_batch_size", re.escape(repr(reduction))):
        make(spec, {"reduction": reduction})


@pytest.mark.parametrize("dtype", ["float128", "int32", "x", 3, float, np.float32], ids=repr)
def test_unknown_dtype(dtype: Any) -> None:
    with rejects(ValueError, "dtype", "expected", "got"):
        fastloss.Huber(dtype=dtype)


# ---- Gradient arguments ----


@pytest.mark.parametrize("wrt", ["y", "", 1, None, ("y_pred",)], ids=repr)
def test_unknown_wrt(wrt: Any) -> None:
    with rejects(ValueError, "wrt", "y_pred", re.escape(repr(wrt))):
        fastloss.Huber().value_and_grad([[1.0]], [[2.0]], wrt=wrt)


@pytest.mark.parametrize("wrt", ["y_true", "both"])
@pytest.mark.parametrize("spec", OPTIONS["ignore_class"] + OPTIONS["q"], ids=describe)
def test_integer_labels_have_no_gradient(spec: LossSpec, wrt: str) -> None:
    with rejects(ValueError, "wrt", "no gradient", wrt):
        make(spec, {}).value_and_grad([0], [[0.5, 0.5]], wrt=wrt)


def test_upstream_array_needs_unreduced_values() -> None:
    with rejects(ValueError, "upstream", "reduction=None", re.escape("(3,)")):
        fastloss.Huber().value_and_grad(np.zeros((3, 2)), np.ones((3, 2)), upstream=np.ones(3))


@pytest.mark.parametrize("shape", [(2,), (1,), (3, 1), (3, 2)], ids=str)
def test_upstream_array_has_the_shape_of_the_values(shape: Any) -> None:
    loss = fastloss.Huber(reduction=None)
    with rejects(ValueError, "upstream", re.escape("(3,)"), re.escape(str(shape))):
        loss.value_and_grad(np.zeros((3, 2)), np.ones((3, 2)), upstream=np.ones(shape))


OUT = np.full((3, 2), 9.0)
LOCKED = OUT.copy()
LOCKED.flags.writeable = False


@pytest.mark.parametrize(
    ("out", "error", "says"),
    [
        (np.empty((2, 3)), ValueError, r"\(3, 2\).*\(2, 3\)"),
        (np.empty((3, 1)), ValueError, r"\(3, 2\).*\(3, 1\)"),
        (np.empty((3, 2), np.float32), TypeError, "float64.*float32"),
        (np.empty((3, 2), ">f8"), TypeError, "float64.*>f8"),
        (np.empty((3, 2), int), TypeError, "float64.*int"),
        (LOCKED, ValueError, "read-only"),
        ([[0.0] * 2] * 3, TypeError, "NumPy array.*list"),
        (np.lib.stride_tricks.as_strided(np.empty(2), (3, 2), (0, 8)), ValueError, "share memory"),
    ],
    ids=["shape", "broadcast", "float32", "big endian", "int", "read-only", "list", "0-stride"],
)  # fmt: skip
def test_wrong_out(out: Any, error: type[Exception], says: str) -> None:
    with rejects(error, "out", says):
        fastloss.MeanSquaredError().value_and_grad(np.zeros((3, 2)), np.ones((3, 2)), out=out)


def test_out_needs_the_gradient_of_predictions() -> None:
    for wrt in ("y_true", "both"):
        with rejects(ValueError, "out", "y_pred"):
            fastloss.MeanSquaredError().value_and_grad(
                np.zeros((3, 2)), np.ones((3, 2)), out=OUT, wrt=wrt
            )


@pytest.mark.parametrize(
    "extra",
    [
        {"sample_weight": np.ones(7)}, {"mask": np.ones(7)}, {"upstream": np.ones(3)},
        {"sample_weight": "x"}, {"wrt": "nothing"}, {"y_true": np.array([0, 9, 0])},
        {"y_true": np.array([0, 0.5, 0])}, {"y_true": np.zeros(4, int)},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_is_written_when_an_error_is_raised(extra: dict[str, Any]) -> None:
    out = np.full((3, 2), 9.0)
    given = {"y_true": np.zeros(3, int), "y_pred": np.full((3, 2), 0.5)} | extra
    with pytest.raises((ValueError, TypeError)):
        fastloss.SparseCategoricalCrossentropy().value_and_grad(out=out, **given)
    assert (out == 9).all()
