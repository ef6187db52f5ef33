"""Losses of batches: where their arrays are, and one loss per sample, weighed and reduced."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastloss import _core
from fastloss._evaluate import (
    REDUCTIONS,
    Array,
    Call,
    Plan,
    fit_weight,
    front_end,
    integer_labels,
    predictions,
    real_numbers,
)


class Host:
    """NumPy's arrays. What losses of batches need that is not the same for those of a GPU.

    ``xp`` has NumPy's functions; nothing that is written with it may look at an element.
    """

    xp: Any = np

    def predictions(self, x: Any, argument: str = "y_pred") -> Any:
        """An array of a dtype that the kernels compute in or store."""
        return predictions(x, argument)

    def real_numbers(self, x: Any, argument: str) -> Any:
        """An array of any real dtype."""
        return real_numbers(x, argument)

    def integers(self, x: Any, argument: str) -> Any:
        """Labels or lengths. On a GPU they may turn out not to be integers; see `broken`."""
        return integer_labels(x, argument)

    def broken(self, labels: Any) -> Any:
        """Which labels are no integers; None where they all are."""
        return None

    def number_or_array(self, x: Any, argument: str) -> Any:
        """A float, or an array; the host knows the number in an array without dimensions."""
        if type(x) is float:
            return x
        a = self.real_numbers(x, argument)
        return a if a.ndim else float(a)

    def check_out(self, out: Any, y_pred: Any) -> None:
        """Raises what is wrong with ``out`` as the gradient of y_pred."""
        _core.check_out(out, y_pred)

    def may_fill(self, out: Any, a: Any) -> bool:
        """Whether a kernel may fill ``out`` while it reads ``a``."""
        return _core.may_fill(out, a)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array to be filled."""
        return _core.empty(shape, np.dtype(dtype))

    def run_ctc(
        self, labels: Any, logits: Any, label_length: Any, logit_length: Any, blank: int,
        samples: Samples, grad: Any,
    ) -> Any:  # fmt: skip
        """The reduced value of CTC; fills ``grad`` unless it is None. Lengths may be None."""
        weight = samples.coefficients()
        losses = self.empty(logits.shape[:1], compute_type(logits))
        _core.run_ctc(
            labels.astype(np.int64, copy=False),
            ctc_label_length(labels, label_length, blank),
            logits,
            ctc_logit_length(logits.shape, logit_length),
            blank,
            weight,
            weight * samples.upstream,
            losses,
            grad,
        )
        return samples.reduce(losses)


def compute_type(stored: Any) -> np.dtype[Any]:
    """What losses of an array are computed and returned in."""
    return np.dtype(np.float64 if stored.dtype == np.float64 else np.float32)


def ctc_label_length(labels: Array, given: Array | None, blank: int) -> Array:
    """How many labels of each sample count."""
    length = np.count_nonzero(labels != blank, axis=1) if given is None else given
    return length.astype(np.int64, copy=False)


def ctc_logit_length(shape: tuple[int, ...], given: Array | None) -> Array:
    """How many frames of each sample count."""
    return np.full(shape[0], shape[1]) if given is None else given.astype(np.int64, copy=False)


class BatchPlan(Plan):
    """A loss computed from several arrays, once for the host and for GPUs: `compute`."""

    def evaluate(self, call: Call) -> tuple[Any, Any, Any]:
        if elsewhere := front_end(call.y_pred):
            return elsewhere.evaluate(self, call)
        return self.compute(Host(), call)

    def compute(self, place: Host, call: Call) -> tuple[Any, Any, Any]:
        """What `evaluate` returns, for arrays that are all in one place."""
        raise NotImplementedError


class Samples:
    """The factors of ``n`` samples: what they weigh, which of them count, what flows back."""

    def __init__(self, place: Host, n: int, call: Call) -> None:
        self.n, self.place = n, place
        # As in Keras, an empty batch of values comes back as it is.
        self.reduction = REDUCTIONS[call.reduction] if n else 0
        self.weight = self._fit(call.sample_weight, "sample_weight")
        own = self._fit(call.weight, "weight")
        if own is not None:
            xp, own = place.xp, own.astype(np.float64)
            product = own if self.weight is None else self.weight.astype(np.float64) * own
            hidden = own == 0 if self.weight is None else (own == 0) | (self.weight == 0)
            self.weight = xp.where(hidden, 0.0, product)
        self.mask = self._fit(call.mask, "mask")
        if self.mask is not None:
            self.mask = self.mask != 0
        self.upstream = self._fit_upstream(call.upstream)

    def _fit(self, given: Any, argument: str) -> Any:
        if given is None:
            return None
        a, n = self.place.real_numbers(given, argument), self.n
        return fit_weight(a, argument, (n,), (n,), "row", self.place.xp)

    def _fit_upstream(self, given: Any) -> Any:
        a = self.place.number_or_array(given, "upstream")
        if isinstance(a, float):
            return a
        if a.ndim and self.reduction != 0:
            raise ValueError(
                f"upstream: expected a number, or an array with reduction=None, got shape {a.shape}"
            )
        if a.ndim and a.shape != (self.n,):
            raise ValueError(
                f"upstream: expected the shape of the loss values, {(self.n,)}, got {a.shape}"
            )
        return a.astype(np.float64)

    def coefficients(self, counts: Any = None) -> Any:
        """The c in ``sum(c * loss)``; ``counts`` tells which samples the mean is taken over.

        Without a reduction they are the weights.
        """
        xp = self.place.xp
        mask = self.mask if counts is None else counts if self.mask is None else self.mask & counts
        c = xp.ones(self.n) if mask is None else mask.astype(np.float64)
        if self.weight is not None:
            c = xp.where(c == 0, 0.0, self.weight.astype(np.float64))
        if self.reduction == REDUCTIONS["mean_with_sample_weight"]:
            divisor = c.sum()
        elif self.reduction != REDUCTIONS["mean"]:
            return c
        elif mask is None:
            return c / self.n
        else:
            divisor = mask.sum()
        return xp.where(divisor == 0, 0.0, c / xp.where(divisor == 0, 1.0, divisor))

    def times(self, coefficients: Any, x: Any) -> Any:
        """``coefficients * x`` by rows, in place and in the dtype of ``x``; a zero hides NaN."""
        c = coefficients.reshape((-1,) + (1,) * (x.ndim - 1))
        x *= c.astype(x.dtype)
        xp = self.place.xp
        xp.copyto(x, 0, where=xp.broadcast_to(c == 0, x.shape))
        return x

    def reduce(self, losses: Any) -> Any:
        """The value, in the dtype of ``losses``, which have been multiplied by the coefficients."""
        if self.reduction == 0:
            return losses
        return losses.sum(dtype=np.float64).astype(losses.dtype)
