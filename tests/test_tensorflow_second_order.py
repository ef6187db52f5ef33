"""Derivatives of derivatives, and those by y_true and sample_weight, against Keras's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastloss.keras as fk
import fastloss.tensorflow as ft
from cases import by_sample, cases, draw, losses, one_class_is_allowed, resolved
from fastloss import _tensorflow_ops
from fastloss._registry import BY_NAME, LossSpec
from frameworks import assert_agrees, compiled, distributions, keras, modes, tf
from test_tensorflow import FROM_LOGITS_FOCAL, keras_twin

pytestmark = one_class_is_allowed

Loss = Callable[..., Any]

SPECS = [spec for spec in BY_NAME.values() if keras_twin(spec, {}) and not spec.batched]


def inputs(spec: LossSpec, options: dict[str, Any], rng: Any, dtype: Any = "f8") -> list[Any]:
    shape = (4, 3)
    t, p = draw(spec, options, shape, dtype, rng)
    if options.get("from_logits") and spec.name in FROM_LOGITS_FOCAL:
        p = p / 2  # Keras clips the sigmoid; stay away from there
    return [tf.constant(distributions(spec, t)), tf.constant(p)]


def check(twins: tuple[Loss, Loss], mode: Any, tensors: list[Any], derive: Any) -> None:
    """Both losses have the same derivatives; a None of Keras may be a zero of ours."""
    results = []
    for loss in twins:

        def step(*tensors: Any, loss: Loss = loss) -> Any:
            return derive(loss, *tensors)

        results.append(tf.nest.flatten((mode(step) if loss is twins[0] else step)(*tensors)))
    ours, theirs = results
    assert len(ours) == len(theirs)
    assert any(x is not None for x in theirs)
    for a, b in zip(ours, theirs, strict=True):
        if b is None:
            assert a is None or not np.any(a)
        else:
            close(a, b)


def close(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.dtype == theirs.dtype
    # Keras's own constants are float32 in places (log_cosh, the epsilon of the focal losses).
    rtol = 1e-6 if ours.dtype == np.float64 else 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * (1e-3 + np.abs(theirs).mean()))


def second_derivatives(loss: Loss, t: Any, p: Any) -> Any:
    """Hessian times vector, and the mixed derivatives, by nested tapes."""
    direction = tf.cos(tf.range(tf.size(p), dtype=tf.float64))
    factor = tf.constant(0.75, tf.float64)
    sources = [x for x in (t, p, factor) if x.dtype.is_floating]
    with tf.GradientTape() as outer:
        outer.watch(sources)
        with tf.GradientTape() as inner:
            inner.watch(sources)
            # Squares: what the gradient depends on must not be lost on the way.
            value = tf.reduce_sum(tf.square(factor * loss(t, p)))
        first = inner.gradient(value, sources)
        along = tf.add_n(
            [
                tf.reduce_sum(tf.reshape(g, [-1]) * tf.reshape(direction, [-1])[: tf.size(g)])
                for g in first
                if g is not None
            ]
        )
    return first, outer.gradient(along, sources)


@cases
def test_second_derivatives_agree_with_keras_or_are_refused(
    spec: LossSpec, options: dict[str, Any], rng: Any
) -> None:
    options = resolved(spec, by_sample(spec) | options, (4, 3))
    t, p = inputs(spec, options, rng)
    theirs = keras_twin(spec, options)

    def ours(t: Any, p: Any) -> Any:
        return getattr(ft, spec.name)(t, p, **options)

    if theirs is None and spec.uses_target:
        with pytest.raises(NotImplementedError, match="differentiated once: avoid a tape around"):
            second_derivatives(ours, t, p)
    elif theirs is not None:
        check((ours, theirs), lambda f: f, [t, p], second_derivatives)


@modes
@pytest.mark.parametrize(
    ("name", "options"),
    [(spec.name, {}) for spec in BY_NAME.values() if not spec.uses_target]
    + [("confidence_penalty", {"from_logits": True})],
)
def test_second_derivatives_of_penalties_are_differences_of_gradients(
    name: str, options: dict[str, Any], mode: Any, rng: Any
) -> None:
    p = tf.constant(rng.uniform(0.2, 0.8, (4, 3)))
    direction, step = tf.constant(rng.normal(size=(4, 3))), 1e-5

    def gradient(p: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = tf.reduce_sum(tf.square(getattr(ft, name)(None, p, **options)))
        return tape.gradient(value, p)

    def along(p: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            first = gradient(p)
        return tape.gradient(first, p, direction)

    ahead, behind = (gradient(p + sign * step * direction) for sign in (1, -1))
    expected = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(mode(along)(p), expected, rtol=1e-6, atol=1e-8)


def weighted_means(spec: LossSpec) -> tuple[Loss, Loss]:
    options = by_sample(spec)
    if spec.name == "categorical_generalized_cross_entropy":
        options = {"q": 0.5}  # it has no default in Keras
    ours, theirs = (
        getattr(module, spec.class_name)(**options, dtype="float64")
        for module in (fk, keras.losses)
    )
    return ours, theirs


# The hinge chooses among labels by a condition, which TensorFlow traces otherwise for XLA.
IN_GRAPHS = [pytest.param(spec, tf.function, id=f"{spec.name}-graph") for spec in SPECS] + [
    pytest.param(BY_NAME[name], compiled, id=f"{name}-xla")
    for name in (
        "log_cosh",
        "hinge",
        "categorical_focal_crossentropy",
        "sparse_categorical_crossentropy",
    )
]


@pytest.mark.parametrize(("spec", "mode"), IN_GRAPHS)
def test_second_derivatives_of_weighted_means(spec: LossSpec, mode: Any, rng: Any) -> None:
    t, p = inputs(spec, by_sample(spec), rng)
    w = tf.constant(rng.uniform(0.5, 2, 4))

    def derive(loss: Loss, t: Any, p: Any, w: Any) -> Any:
        sources = [x for x in (t, p, w) if x.dtype.is_floating]
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(sources)
            with tf.GradientTape() as inner:
                inner.watch(sources)
                value = tf.square(loss(t, p, sample_weight=w))
            first = inner.gradient(value, sources)
            sums = [tf.reduce_sum(tf.sin(g)) for g in first]
        return [outer.gradient(s, sources) for s in sums]

    check(weighted_means(spec), mode, [t, p, w], derive)


@modes
@pytest.mark.parametrize("name", ["log_cosh", "binary_crossentropy", "cosine_similarity"])
def test_whole_hessian(name: str, mode: Any, rng: Any) -> None:
    def derive(loss: Loss, t: Any, p: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(p)
            with tf.GradientTape() as inner:
                inner.watch(p)
                value = tf.reduce_sum(loss(t, p) ** 2)
            gradient = inner.gradient(value, p)
        return outer.jacobian(gradient, p)

    twins = getattr(ft, name), getattr(keras.losses, name)
    check(twins, mode, inputs(BY_NAME[name], {}, rng), derive)


def test_hessians_of_graphs(rng: Any) -> None:
    t, p = inputs(BY_NAME["log_cosh"], {}, rng)

    @tf.function
    def derive(loss: Loss, t: Any, p: Any) -> Any:
        flat = tf.reshape(p, [-1])
        value = tf.reduce_sum(loss(t, tf.reshape(flat, tf.shape(t))))
        return tf.hessians(value, flat)

    check((ft.log_cosh, keras.losses.log_cosh), lambda f: f, [t, p], derive)


@modes
def test_third_derivative(mode: Any, rng: Any) -> None:
    def derive(loss: Loss, t: Any, p: Any) -> Any:
        with tf.GradientTape() as third:
            third.watch(p)
            with tf.GradientTape() as second:
                second.watch(p)
                with tf.GradientTape() as first:
                    first.watch(p)
                    value = loss(t, p)
                g = first.gradient(value, p)
            h = second.gradient(g, p)
        return third.gradient(h, p)

    check((ft.log_cosh, keras.losses.log_cosh), mode, inputs(BY_NAME["log_cosh"], {}, rng), derive)


def test_persistent_tapes_around_each_other(rng: Any) -> None:
    def derive(loss: Loss, t: Any, p: Any) -> Any:
        with tf.GradientTape(persistent=True) as outer:
            outer.watch([t, p])
            with tf.GradientTape(persistent=True) as inner:
                inner.watch([t, p])
                value = loss(t, p)
            by_pred, by_true = inner.gradient(value, p), inner.gradient(value, t)
        return [outer.gradient(g, x) for g in (by_pred, by_true) for x in (t, p)]

    t, p = inputs(BY_NAME["huber"], {}, rng)
    check((ft.huber, keras.losses.huber), lambda f: f, [t, p], derive)


def test_outer_tape_alone_watches_what_the_inner_does_not(rng: Any) -> None:
    # The gradient by p, differentiated by t and by a weight that no inner tape knows.
    def derive(loss: Loss, t: Any, p: Any, w: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch([t, w])
            with tf.GradientTape() as inner:
                inner.watch(p)
                value = loss(t, p, sample_weight=w)
            g = inner.gradient(value, p)
        return outer.gradient(g, [t, w])

    t, p = inputs(BY_NAME["log_cosh"], {}, rng)
    w = tf.constant(rng.uniform(0.5, 2, 4))
    twins = fk.LogCosh(dtype="float64"), keras.losses.LogCosh(dtype="float64")
    check(twins, lambda f: f, [t, p, w], derive)


# ---- forward mode ----


def jvp(loss: Loss, t: Any, p: Any) -> Any:
    with tf.autodiff.ForwardAccumulator([t, p], [tf.cos(t), tf.sin(p)]) as accumulator:
        value = tf.exp(loss(t, p))
    return accumulator.jvp(value)


def forward_over_backward(loss: Loss, t: Any, p: Any) -> Any:
    with tf.autodiff.ForwardAccumulator(p, tf.sin(p)) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch([t, p])
            value = tf.exp(loss(t, p))
        gradients = tape.gradient(value, [t, p])
    return [accumulator.jvp(g) for g in gradients]


def backward_over_forward(loss: Loss, t: Any, p: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch([t, p])
        with tf.autodiff.ForwardAccumulator(p, tf.constant(1.0, p.dtype, p.shape)) as accumulator:
            value = loss(t, p)
        tangent = accumulator.jvp(value)
    return tape.gradient(tangent, [t, p])


@modes
@pytest.mark.parametrize("derive", [jvp, forward_over_backward, backward_over_forward])
@pytest.mark.parametrize("name", ["log_cosh", "binary_crossentropy"])
def test_forward_mode(name: str, derive: Any, mode: Any, rng: Any) -> None:
    twins = getattr(ft, name), getattr(keras.losses, name)
    check(twins, mode, inputs(BY_NAME[name], {}, rng), derive)


@losses
def test_forward_mode_of_a_loss_that_keras_may_lack(spec: LossSpec, rng: Any) -> None:
    # One derivative is the transposed gradient, up to what is not linear in its upstream: nothing.
    options = by_sample(spec)
    t, p = inputs(spec, options, rng)

    def loss(p: Any) -> Any:
        return getattr(ft, spec.name)(t, p, **options)

    def forward() -> Any:
        with tf.autodiff.ForwardAccumulator(p, tf.sin(p)) as accumulator:
            value = loss(p)
        return accumulator.jvp(value)

    if keras_twin(spec, options) is None and spec.uses_target:
        with pytest.raises(NotImplementedError, match="differentiated once: avoid"):
            forward()
        return
    with tf.GradientTape() as tape:
        tape.watch(p)
        value = loss(p)
    gradient = tape.gradient(value, p)
    axes = list(range(1, len(p.shape)))
    close(forward(), tf.reduce_sum(gradient * tf.sin(p), axes))


def test_forward_mode_through_weights(rng: Any) -> None:
    t, p = inputs(BY_NAME["huber"], {}, rng)
    w = tf.constant(rng.uniform(0.5, 2, 4))

    def derive(loss: Loss, t: Any, p: Any, w: Any) -> Any:
        with tf.autodiff.ForwardAccumulator(w, tf.sin(w)) as accumulator:
            value = loss(t, p, sample_weight=w)
        return accumulator.jvp(value)

    twins = fk.Huber(dtype="float64"), keras.losses.Huber(dtype="float64")
    check(twins, lambda f: f, [t, p, w], derive)


def test_forward_mode_in_a_graph_by_the_upstream_alone_is_refused(rng: Any) -> None:
    t, p = inputs(BY_NAME["huber"], {}, rng)

    def derive(t: Any, p: Any, w: Any) -> Any:
        with tf.autodiff.ForwardAccumulator(w, tf.ones_like(w)) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch(p)
                value = w * ft.huber(t, p)
            g = tape.gradient(value, p)
        return accumulator.jvp(g)

    w = tf.constant(rng.uniform(0.5, 2, 4))
    eager = derive(t, p, w)
    with tf.GradientTape() as tape:
        tape.watch(p)
        value = ft.huber(t, p)
    close(eager, tape.gradient(value, p))
    with pytest.raises(NotImplementedError, match="take it eagerly"):
        tf.function(derive)(t, p, w)


# ---- batches ----


def test_second_derivatives_of_circle_are_refused(rng: Any) -> None:
    labels = tf.constant([0, 0, 1, 1])
    p = tf.math.l2_normalize(tf.constant(rng.normal(size=(4, 3))), 1)
    with tf.GradientTape() as outer:
        outer.watch(p)
        with tf.GradientTape() as inner:
            inner.watch(p)
            value = ft.circle(labels, p)
        g = inner.gradient(value, p)
    with pytest.raises(
        NotImplementedError, match=r"circle is differentiated once, .* avoid a tape"
    ):
        outer.gradient(g, p)


# ---- y_true and sample_weight ----


@pytest.fixture
def calls(monkeypatch: Any) -> list[str]:
    """The outputs that each call of the kernels from eager code was asked for."""
    seen: list[str] = []
    run_now = _tensorflow_ops._run_now

    def recorded(line: str, *arguments: Any) -> Any:
        seen.append(line.split()[2])
        return run_now(line, *arguments)

    monkeypatch.setattr(_tensorflow_ops, "_run_now", recorded)
    return seen


@modes
def test_distillation_reaches_the_teacher(mode: Any, rng: Any) -> None:
    teacher, student = (tf.constant(a.astype("f4")) for a in rng.normal(size=(2, 4, 3)))

    def derive(loss: Loss, teacher: Any, student: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([teacher, student])
            value = loss(tf.nn.softmax(teacher), tf.nn.softmax(student))
        return value, tape.gradient(value, [teacher, student])

    check((ft.kl_divergence, keras.losses.kl_divergence), mode, [teacher, student], derive)


@modes
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", None])
def test_learned_weights(mode: Any, reduction: str | None, rng: Any) -> None:
    t, p = (tf.constant(a.astype("f4")) for a in rng.normal(size=(2, 4, 3)))
    w = tf.constant(rng.uniform(0.5, 2, 4).astype("f4"))

    def derive(loss: Loss, t: Any, p: Any, w: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([w, p])
            value = loss(t, p, sample_weight=tf.exp(w))
        return value, tape.gradient(value, [w, p])

    twins = tuple(m.MeanSquaredError(reduction=reduction) for m in (fk, keras.losses))
    check(twins, mode, [t, p, w], derive)


def test_only_what_is_watched_is_computed(calls: list[str], rng: Any) -> None:
    t, p = (tf.constant(a.astype("f4")) for a in rng.normal(size=(2, 4, 3)))
    w = tf.ones(4)
    loss = fk.Huber()
    for watched, expected in (
        ([p], ["value,grad_pred"]),
        ([t], ["value", "grad_true"]),
        ([t, p], ["value,grad_pred", "grad_true"]),
        ([w], ["value", "value"]),
        ([], ["value"]),
    ):
        calls.clear()
        with tf.GradientTape() as tape:
            tape.watch(watched)
            value = loss(t, p, sample_weight=w)
        tape.gradient(value, watched)
        assert calls == expected
    assert_agrees(value, loss(t.numpy(), p.numpy()))
