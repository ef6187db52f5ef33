"""A callback that watches the loss, the gradients of the weights, and numbers that are not finite.

Keras's callbacks see neither gradients nor predictions. The three numbers per batch that tell of
them are therefore made inside the training step itself, where they exist, and kept in variables:
the step stays one graph (or one compiled program), and nothing is brought to Python before the end
of an epoch. For that, the callback stands between the model and three of its methods while it
trains, and lets the step be traced anew.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from fastloss._tensorflow_ops import in_xla

WHERE = ("predictions", "loss", "gradients")


class LossMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports, for each epoch, the loss, the gradient norm, and where NaN or infinity came from.

    The norm is that of the loss's gradient by all trainable weights together, as the optimizer gets
    it (before it clips). Numbers that are not finite are counted in the predictions, in the loss,
    and in the gradients, with the batch in which they first appeared: what comes first is the
    cause.

    Parameters
    ----------
    report : callable or None, optional
        What is given the line of text on each epoch; None for silence.

    Attributes
    ----------
    epochs : list of dict
        For each epoch of the last ``fit``: "loss", "gradient_norm" (the mean over the batches whose
        gradient is finite), "largest_gradient_norm", and for each of "predictions", "loss" and
        "gradients" the pair of "nonfinite_..." (how many numbers) and "first_nonfinite_..." (the
        batch, from 0 as callbacks count them, or None).

    Raises
    ------
    NotImplementedError
        On a distribution strategy with several replicas.

    Notes
    -----
    "gradient_norm" is added to the logs, so that it is in the ``History`` and can be drawn. Works
    eagerly, in graphs, with ``jit_compile=True`` and with ``steps_per_execution``; with any loss,
    ours or not. It reads the predictions and the gradients once more, which with a third of a
    millisecond for each batch is what it costs, and the step is traced again at the beginning and
    after the end of ``fit``. Under a loss scale the norm is that of the
    unscaled gradients; overflows that the loss scale provokes are counted. A ``train_step`` of
    one's own is watched as far as it calls ``compute_loss`` and ``optimizer.apply``.

    Examples
    --------
    >>> import fastloss.keras  # doctest: +SKIP
    >>> monitor = fastloss.keras.LossMonitor()  # doctest: +SKIP
    >>> model.fit(x, y, callbacks=[monitor])  # doctest: +SKIP
    epoch 0: loss 0.6931, gradient norm 1.204 (at most 2.118)
    """

    def __init__(self, report: Callable[[str], None] | None = print) -> None:
        super().__init__()
        self.report = report
        self.epochs: list[dict[str, Any]] = []
        self._state: _State | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Gets between the model and its step."""
        replicas = self.model.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise NotImplementedError(
                f"LossMonitor: expected one replica, got {replicas}; leave it out where a "
                "distribution strategy has several"
            )
        self.epochs = []
        self._state = _State()
        _watch(self.model, self._state)
        self.model.make_train_function(force=True)

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the model as it was."""
        for name in ("train_step", "compute_loss"):
            self.model.__dict__.pop(name, None)
        self.model.optimizer.__dict__.pop("apply", None)
        self.model.train_function = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts counting."""
        assert self._state is not None
        self._state.reset()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Reports what was counted."""
        assert self._state is not None
        logs = {} if logs is None else logs
        found = {"loss": float(logs.get("loss", math.nan)), **self._state.read()}
        self.epochs.append(found)
        logs["gradient_norm"] = found["gradient_norm"]
        if self.report is not None:
            self.report("\n".join([_summary(epoch, found), *_complaints(epoch, found)]))


class _State:
    """What the step writes to."""

    def __init__(self) -> None:
        def variable(value: Any, dtype: Any) -> Any:
            return tf.Variable(value, trainable=False, dtype=dtype)

        self.batch = variable(0, tf.int64)
        self.count = variable([0, 0, 0], tf.int64)
        self.first = variable([-1, -1, -1], tf.int64)
        self.norms = variable([0.0, 0.0, 0.0], tf.float32)  # sum, number, largest
        self.inside_step = False  # rather than in that of evaluate

    def reset(self) -> None:
        for x, value in ((self.batch, 0), (self.count, 0), (self.first, -1), (self.norms, 0)):
            x.assign(tf.fill(x.shape, tf.cast(value, x.dtype)))

    def see(self, where: int, tensors: Any) -> list[Any]:
        """Look at these; what is returned is there once that is done."""
        given = [x for x in map(tf.convert_to_tensor, tensors) if x.dtype.is_floating]
        if not given:
            return []
        finite = tf.reduce_all(tf.stack([_are_finite(x) for x in given]))
        return [tf.cond(finite, lambda: True, lambda: self._count(where, given))]

    def see_gradients(self, gradients: list[Any], scale: Any) -> list[Any]:
        """The same, and their norm."""
        floats = [g for g in gradients if g.dtype.is_floating]
        norm = tf.linalg.global_norm([tf.cast(g, tf.float32) for g in gradients])
        unscaled = norm if scale is None else norm / tf.cast(scale, tf.float32)

        def add() -> Any:
            self.norms.assign_add([unscaled, 1.0, tf.nn.relu(unscaled - self.norms[2])])
            return True

        # It is finite only if they all are.
        return [tf.cond(tf.math.is_finite(norm), add, lambda: self._count(2, floats))]

    def _count(self, where: int, tensors: list[Any]) -> Any:
        found = [tf.math.count_nonzero(~tf.math.is_finite(x)) for x in tensors]
        number = tf.add_n(found) * tf.one_hot(where, len(WHERE), dtype=tf.int64)
        is_first = (self.first < 0) & (number > 0)
        self.count.assign_add(number)
        self.first.assign(tf.where(is_first, self.batch, self.first))
        return True

    def read(self) -> dict[str, Any]:
        total, number, largest = self.norms.numpy().tolist()
        out: dict[str, Any] = {
            "gradient_norm": total / number if number else math.nan,
            "largest_gradient_norm": largest if number else math.nan,
        }
        counts, firsts = self.count.numpy().tolist(), self.first.numpy().tolist()
        for name, count, first in zip(WHERE, counts, firsts, strict=True):
            out[f"nonfinite_{name}"] = count
            out[f"first_nonfinite_{name}"] = None if first < 0 else first
        return out


def _are_finite(x: Any) -> Any:
    """Whether all are, by one pass; False also where their squares overflow, so count then."""
    if in_xla():
        return tf.reduce_all(tf.math.is_finite(x))  # XLA adds numbers one by one
    return tf.math.is_finite(tf.nn.l2_loss(tf.cast(x, tf.float32) if x.dtype.size < 4 else x))


def _watch(model: Any, state: _State) -> None:
    """Put the counting into the three methods, on the objects alone."""
    train_step, compute_loss, optimizer = model.train_step, model.compute_loss, model.optimizer
    apply = optimizer.apply

    @functools.wraps(train_step)
    def counted_step(*args: Any, **kwargs: Any) -> Any:
        state.inside_step = True
        try:
            result = train_step(*args, **kwargs)
        finally:
            state.inside_step = False
        state.batch.assign_add(1)
        return result

    @functools.wraps(compute_loss)
    def watched_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if not state.inside_step:
            return compute_loss(x, y, y_pred, *args, **kwargs)
        # Looked at first, so that the loss may write its gradient over the predictions.
        with tf.control_dependencies(state.see(0, keras.tree.flatten(y_pred))):
            loss = compute_loss(x, y, y_pred, *args, **kwargs)
        state.see(1, [loss])
        return loss

    @functools.wraps(apply)
    def watched_apply(grads: Any, trainable_variables: Any = None) -> Any:
        scale = getattr(optimizer, "dynamic_scale", None)
        given = [tf.convert_to_tensor(g) for g in grads if g is not None]
        seen = state.see_gradients(given, scale)
        # As above. But not around its variables: their initial values could not be lifted out of
        # the step, which would then run as it was traced first, without a scale.
        with tf.control_dependencies(seen if optimizer.built else []):
            return apply(grads, trainable_variables)

    for owner, name, method in (
        (model, "train_step", counted_step),
        (model, "compute_loss", watched_loss),
        (optimizer, "apply", watched_apply),
    ):
        owner.__dict__[name] = method  # past Keras's own tracking of attributes


def _summary(epoch: int, found: dict[str, Any]) -> str:
    return (
        f"epoch {epoch}: loss {found['loss']:.4g}, gradient norm {found['gradient_norm']:.4g} "
        f"(at most {found['largest_gradient_norm']:.4g})"
    )


def _complaints(epoch: int, found: dict[str, Any]) -> list[str]:
    return [
        f"epoch {epoch}: {found[f'nonfinite_{name}']} not finite in the {name}, first in batch "
        f"{found[f'first_nonfinite_{name}']}"
        for name in WHERE
        if found[f"nonfinite_{name}"]
    ]
