"""Losses of label sequences: connectionist temporal classification."""

from __future__ import annotations

from typing import Any

from fastloss._evaluate import Call
from fastloss._samples import BatchPlan, Host, Samples


class SequencePlan(BatchPlan):
    """CTC: a label sequence of any length against the frames of a sample."""

    def axes(self, ndim: int) -> list[int]:
        if ndim != 3:
            raise ValueError(f"y_pred: expected 3 dimensions, (batch, time, classes), got {ndim}")
        return [1, 2]

    def compute(self, place: Host, call: Call) -> tuple[Any, Any, Any]:
        out = call.out
        logits = place.predictions(call.y_pred)
        self.axes(logits.ndim)
        batch, _, classes = logits.shape
        labels = place.integers(call.y_true, "y_true")
        if labels.ndim != 2 or labels.shape[0] != batch:
            raise ValueError(
                f"y_true: expected shape ({batch}, labels) for y_pred of shape {logits.shape}, got "
                f"{labels.shape}"
            )
        if out is not None:
            place.check_out(out, logits)
        blank = self._blank(classes)
        label_length, logit_length = (
            _length(place, call.arrays.get(name), name, batch)
            for name in ("label_length", "logit_length")
        )
        samples = Samples(place, batch, call)

        grad = None
        if call.wrt is not None:
            # The kernel reads a frame before it writes its gradient, so the logits will do.
            read = (logits, labels, label_length, logit_length, samples.weight)
            in_place = out is not None and all(
                place.may_fill(out, a) for a in read if a is not None
            )
            grad = out if in_place else place.empty(logits.shape, logits.dtype)
        value = place.run_ctc(labels, logits, label_length, logit_length, blank, samples, grad)
        if out is not None and grad is not None and grad is not out:
            out[...] = grad
            grad = out
        return value, grad, None

    def _blank(self, classes: int) -> int:
        blank: int = self.parameters["blank"]
        if not -classes <= blank < classes:
            raise ValueError(f"blank: expected a class, in [0, {classes}), got {blank}")
        return blank % classes


def _length(place: Host, given: Any, argument: str, batch: int) -> Any:
    if given is None:
        return None
    length = place.integers(given, argument)
    if length.shape != (batch,):
        raise ValueError(f"{argument}: expected one length per sample, {batch}, got {length.shape}")
    return length
