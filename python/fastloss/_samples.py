"""One loss per sample of a batch: weights, masks and reductions, where no kernel applies them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastloss._evaluate import REDUCTIONS, Array, fit_upstream, fit_weight, real_numbers


class Samples:
    """The factors of ``n`` samples: what they weigh, which of them count, what flows back."""

    def __init__(
        self,
        n: int,
        reduction: str | None,
        sample_weight: Any,
        mask: Any,
        upstream: Any,
        own_weight: Any = None,
    ) -> None:
        # As in Keras, an empty batch of values comes back as it is.
        self.reduction = REDUCTIONS[reduction] if n else 0
        self.weight = self._fit(sample_weight, "sample_weight", n)
        own = self._fit(own_weight, "weight", n)
        if own is not None:
            product = np.ones(n) if self.weight is None else self.weight.astype(np.float64)
            self.weight = np.where((product == 0) | (own == 0), 0.0, product * own)
        self.mask = self._fit(mask, "mask", n)
        if self.mask is not None:
            self.mask = self.mask != 0
        scalar, per_sample = fit_upstream(upstream, (n,), self.reduction)
        self.upstream = scalar if per_sample is None else per_sample.astype(np.float64)
        self.n = n

    @staticmethod
    def _fit(given: Any, argument: str, n: int) -> Array | None:
        if given is None:
            return None
        return fit_weight(real_numbers(given, argument), argument, (n,), (n,), "row")

    def coefficients(self, counts: Array | None = None) -> Array:
        """The c in ``sum(c * loss)``; ``counts`` tells which samples the mean is taken over.

        Without a reduction they are the weights.
        """
        mask = self.mask if counts is None else counts if self.mask is None else self.mask & counts
        c = np.ones(self.n) if mask is None else mask.astype(np.float64)
        if self.weight is not None:
            c = np.where(c == 0, 0.0, self.weight.astype(np.float64))
        if self.reduction == REDUCTIONS["mean_with_sample_weight"]:
            divisor = c.sum()
        elif self.reduction == REDUCTIONS["mean"]:
            divisor = float(self.n if mask is None else mask.sum())
        else:
            return c
        return c / divisor if divisor else np.zeros(self.n)

    def reduce(self, losses: Array) -> Any:
        """The value, in the dtype of ``losses``, which have been multiplied by the coefficients."""
        if self.reduction == 0:
            return losses
        return losses.dtype.type(losses.sum(dtype=np.float64))


def times(coefficients: Array, x: Array) -> Array:
    """``coefficients * x`` by rows, in place and in the dtype of ``x``; a zero hides any NaN."""
    c = coefficients.reshape((-1,) + (1,) * (x.ndim - 1))
    x *= c.astype(x.dtype)
    x[coefficients == 0] = 0
    return x
