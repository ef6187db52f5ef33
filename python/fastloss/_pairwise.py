"""Losses of labelled embeddings: each is compared with all others by their similarities."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastloss import _core
from fastloss._evaluate import (
    Array,
    GridPlan,
    Plan,
    Wrt,
    front_end,
    integer_labels,
    predictions,
)
from fastloss._registry import LossSpec
from fastloss._samples import Samples, times


class PairwisePlan(Plan):
    """A loss of embeddings: a row loss, ``rows``, of the matrix of their similarities.

    The kernels see that matrix; it comes from a matrix product, and its gradient returns to the
    embeddings through another.
    """

    def __init__(self, spec: LossSpec, given: dict[str, Any], epsilon: float) -> None:
        super().__init__(spec, given)
        self.rows = GridPlan(spec, given, epsilon)

    def axes(self, ndim: int) -> list[int]:
        if ndim != 2:
            raise ValueError(f"y_pred: expected shape (samples, features), got {ndim} dimensions")
        return [1]

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
        ref_labels: Any = None,
        ref_embeddings: Any = None,
        weight: Any = None,
    ) -> tuple[Any, Array | None, Array | None]:
        if elsewhere := front_end(y_pred):
            return elsewhere.evaluate(
                self, y_true, y_pred, reduction, sample_weight, mask, upstream, wrt, out,
                ref_labels=ref_labels, ref_embeddings=ref_embeddings, weight=weight,
            )  # fmt: skip
        given = predictions(y_pred)
        self.axes(given.ndim)
        if out is not None:
            _core.check_out(out, given)
        samples = Samples(len(given), reduction, sample_weight, mask, upstream, weight)
        compute = np.float64 if given.dtype == np.float64 else np.float32
        embeddings = given.astype(compute, copy=False)
        reference = self._reference(ref_embeddings, embeddings)
        labels = _labels(y_true, "y_true", len(embeddings))
        others = labels if ref_labels is None else _labels(ref_labels, "ref_labels", len(reference))
        if len(others) != len(reference):
            raise ValueError(
                f"ref_labels: expected one label per reference embedding, {len(reference)}, got "
                f"{len(others)}"
            )
        if not len(embeddings):
            return np.empty(0, compute), None if wrt is None else given.copy(), None

        similarity = embeddings @ reference.T
        losses, pull, _ = self.rows.evaluate(
            membership(labels, others, self.parameters["remove_diagonal"]), similarity,
            reduction=None, wrt=wrt, out=None if wrt is None else similarity,
        )  # fmt: skip
        # As in Keras, the mean is over the samples with a loss; a NaN is one.
        coefficients = samples.coefficients(losses != 0)
        value = samples.reduce(times(coefficients, losses))
        if pull is None:
            return value, None, None
        pull = times(coefficients * samples.upstream, pull)
        # The embeddings take part on both sides, unless they are compared with others.
        grad = (pull + pull.T) @ embeddings if ref_embeddings is None else pull @ reference
        if out is None:
            out = _core.empty(given.shape, given.dtype)
        out[...] = grad
        return value, out, None

    @staticmethod
    def _reference(given: Any, embeddings: Array) -> Array:
        if given is None:
            return embeddings
        reference = predictions(given, "ref_embeddings")
        if reference.ndim != 2 or reference.shape[1] != embeddings.shape[1] or not len(reference):
            raise ValueError(
                f"ref_embeddings: expected shape (references, {embeddings.shape[1]}), got "
                f"{reference.shape}"
            )
        return reference.astype(embeddings.dtype, copy=False)


def _labels(given: Any, argument: str, n: int) -> Array:
    labels = integer_labels(given, argument)
    if labels.shape not in ((n,), (n, 1)):
        raise ValueError(f"{argument}: expected one label per embedding, {n}, got {labels.shape}")
    return labels.reshape(n)


def membership(labels: Array, others: Array, remove_diagonal: bool) -> Array:
    """1 for a pair with equal labels, 0 for another, 2 for a sample paired with itself."""
    pairs: Array = np.equal(labels[:, None], others).astype(np.uint8)
    if remove_diagonal:
        i = np.arange(min(pairs.shape))
        pairs[i, i] *= 2
    return pairs
