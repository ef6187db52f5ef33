"""Losses of label sequences: connectionist temporal classification."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastloss import _core
from fastloss._evaluate import Array, Plan, Wrt, front_end, integer_labels, predictions
from fastloss._samples import Samples


class SequencePlan(Plan):
    """CTC: a label sequence of any length against the frames of a sample."""

    def axes(self, ndim: int) -> list[int]:
        if ndim != 3:
            raise ValueError(
                f"y_pred: expected shape (batch, time, classes), got {ndim} dimensions"
            )
        return [1, 2]

    def evaluate(
        self,
        y_true: Any,
        y_pred: Any,
        reduction: str | None,
        sample_weight: Any = None,
        mask: Any = None,
        upstream: Any = 1.0,
        wrt: Wrt | None = None,
        out: Array | None = None,
        label_length: Any = None,
        logit_length: Any = None,
        weight: Any = None,
    ) -> tuple[Any, Array | None, Array | None]:
        if elsewhere := front_end(y_pred):
            return elsewhere.evaluate(
                self, y_true, y_pred, reduction, sample_weight, mask, upstream, wrt, out,
                label_length=label_length, logit_length=logit_length, weight=weight,
            )  # fmt: skip
        logits = predictions(y_pred)
        self.axes(logits.ndim)
        batch, frames, classes = logits.shape
        labels = integer_labels(y_true, "y_true")
        if labels.ndim != 2 or len(labels) != batch:
            raise ValueError(
                f"y_true: expected shape ({batch}, labels) for y_pred of shape {logits.shape}, got "
                f"{labels.shape}"
            )
        if out is not None:
            _core.check_out(out, logits)
        blank = self._blank(classes)
        if label_length is None:
            label_length = np.count_nonzero(labels != blank, axis=1)
        if logit_length is None:
            logit_length = np.full(batch, frames)
        samples = Samples(batch, reduction, sample_weight, mask, upstream, weight)
        weight = samples.coefficients()

        compute = np.dtype(np.float64 if logits.dtype == np.float64 else np.float32)
        losses = _core.empty((batch,), compute)
        grad = None
        if wrt is not None:
            # The kernel reads a frame before it writes its gradient, so the logits will do.
            in_place = out is not None and _core.may_fill(out, logits)
            grad = out if in_place else _core.empty(logits.shape, logits.dtype)
        _core.run_ctc(
            labels.astype(np.int64, copy=False),
            _length(label_length, "label_length", batch),
            logits,
            _length(logit_length, "logit_length", batch),
            blank,
            weight,
            weight * samples.upstream,
            losses,
            grad,
        )
        if out is not None and grad is not None and grad is not out:
            out[...] = grad
            grad = out
        return samples.reduce(losses), grad, None

    def _blank(self, classes: int) -> int:
        blank: int = self.parameters["blank"]
        if not -classes <= blank < classes:
            raise ValueError(f"blank: expected a class, in [0, {classes}), got {blank}")
        return blank % classes


def _length(given: Any, argument: str, batch: int) -> Array:
    length = integer_labels(given, argument)
    if length.shape != (batch,):
        raise ValueError(f"{argument}: expected one length per sample, {batch}, got {length.shape}")
    return length.astype(np.int64, copy=False)
