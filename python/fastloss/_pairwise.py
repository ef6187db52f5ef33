"""Losses of labelled embeddings: each is compared with all others by their similarities."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastloss._evaluate import Call, GridPlan
from fastloss._registry import LossSpec
from fastloss._samples import BatchPlan, Host, Samples, compute_type


class PairwisePlan(BatchPlan):
    """A loss of embeddings: a row loss, ``rows``, of the matrix of their similarities.

    The kernels see that matrix; it comes from a matrix product, and its gradient returns to the
    embeddings through another.
    """

    def __init__(self, spec: LossSpec, given: dict[str, Any], epsilon: float) -> None:
        super().__init__(spec, given)
        self.rows = GridPlan(spec, given, epsilon)

    def axes(self, ndim: int) -> list[int]:
        if ndim != 2:
            raise ValueError(f"y_pred: expected 2 dimensions, (samples, features), got {ndim}")
        return [1]

    def compute(self, place: Host, call: Call) -> tuple[Any, Any, Any]:
        xp = place.xp
        out, wrt, ref_labels = call.out, call.wrt, call.arrays.get("ref_labels")
        ref_embeddings = call.arrays.get("ref_embeddings")
        given = place.predictions(call.y_pred)
        self.axes(given.ndim)
        if out is not None:
            place.check_out(out, given)
        n = given.shape[0]
        samples = Samples(place, n, call)
        embeddings = given.astype(compute_type(given), copy=False)
        reference = _reference(place, ref_embeddings, embeddings)
        labels = _labels(place, call.y_true, "y_true", n)
        others = labels
        if ref_labels is not None:
            others = _labels(place, ref_labels, "ref_labels", reference.shape[0])
        if others.shape != reference.shape[:1]:
            raise ValueError(
                "ref_labels: expected one label per reference embedding, "
                f"{reference.shape[0]}, got {others.shape[0]}"
            )
        if not n:
            grad = given.copy() if out is None else out
            return xp.empty(0, embeddings.dtype), None if wrt is None else grad, None

        similarity = embeddings @ reference.T
        pairs = membership(xp, labels, others, self.parameters["remove_diagonal"])
        losses, pull, _ = self.rows.evaluate(
            Call(pairs, similarity, None, wrt=wrt, out=None if wrt is None else similarity)
        )
        broken = place.broken(labels)
        if broken is not None:
            losses = xp.where(broken, np.nan, losses).astype(losses.dtype, copy=False)
        # As in Keras, the mean is over the samples with a loss; a NaN is one.
        coefficients = samples.coefficients(losses != 0)
        value = samples.reduce(samples.times(coefficients, losses))
        if pull is None:
            return value, None, None
        slopes = coefficients * samples.upstream
        if broken is not None:
            slopes = xp.where(broken, 0.0, slopes)
        pull = samples.times(slopes, pull)
        # The embeddings take part on both sides, unless they are compared with others.
        grad = (pull + pull.T) @ embeddings if ref_embeddings is None else pull @ reference
        if out is None:
            out = place.empty(given.shape, given.dtype)
        out[...] = grad
        return value, out, None


def _reference(place: Host, given: Any, embeddings: Any) -> Any:
    if given is None:
        return embeddings
    reference = place.predictions(given, "ref_embeddings")
    if reference.ndim != 2 or reference.shape[1] != embeddings.shape[1] or not reference.shape[0]:
        raise ValueError(
            f"ref_embeddings: expected shape (references, {embeddings.shape[1]}), got "
            f"{reference.shape}"
        )
    return reference.astype(embeddings.dtype, copy=False)


def _labels(place: Host, given: Any, argument: str, n: int) -> Any:
    labels = place.integers(given, argument)
    if labels.shape not in ((n,), (n, 1)):
        raise ValueError(f"{argument}: expected one label per embedding, {n}, got {labels.shape}")
    return labels.reshape(n)


def membership(xp: Any, labels: Any, others: Any, remove_diagonal: bool) -> Any:
    """1 for a pair with equal labels, 0 for another, 2 for a sample paired with itself."""
    pairs = xp.equal(labels[:, None], others).astype(np.uint8)
    if remove_diagonal:
        n, m = pairs.shape
        diagonal = pairs.reshape(-1)[: min(n, m) * (m + 1) : m + 1]
        diagonal *= 2
    return pairs
