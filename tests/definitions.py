"""Circle loss and CTC from their definitions, in extended precision where the inputs are."""

from __future__ import annotations

from typing import Any

import numpy as np


def circle(
    y: Any, p: Any, ref_labels: Any = None, ref_embeddings: Any = None, *, gamma: Any = 80.0,
    margin: Any = 0.4, remove_diagonal: bool = True,
) -> Any:  # fmt: skip
    """The losses of real or complex embeddings compared with references, or with each other."""
    others = y if ref_labels is None else ref_labels
    references = p if ref_embeddings is None else ref_embeddings

    def at_least_zero(x: Any) -> Any:
        return np.where(x.real > 0, x, 0)

    d = at_least_zero(1 - p @ references.T)
    positive = y[:, None] == others
    negative = ~positive
    if remove_diagonal:
        positive = positive & ~np.eye(*positive.shape, dtype=bool)
    up = -gamma * at_least_zero(margin + d) * (margin - d)
    down = gamma * at_least_zero(1 + margin - d) * (1 - margin - d)
    losses = np.zeros(len(y), p.dtype)
    for i in range(len(y)):
        if positive[i].any() and negative[i].any():
            z = [logits[i, members[i]] for logits, members in ((up, positive), (down, negative))]
            peaks = [x.real.max() for x in z]
            total = sum(m + np.log(np.exp(x - m).sum()) for m, x in zip(peaks, z, strict=True))
            peak = max(total.real, 0)
            losses[i] = peak + np.log(np.exp(total - peak) + np.exp(-peak))
    return losses


def ctc(x: Any, label: Any) -> tuple[Any, Any]:
    """Value and gradient in extended precision by the textbook recursions, blank 0."""
    x = np.asarray(x, np.longdouble)
    y = x - np.logaddexp.reduce(x, axis=1, keepdims=True)
    states = [0] + [s for k in label for s in (int(k), 0)]
    frames, n = len(x), len(states)
    skips = [s >= 2 and states[s] != 0 and states[s] != states[s - 2] for s in range(n)]
    a = np.full((frames, n), -np.inf, np.longdouble)
    b = a.copy()
    a[0, :2] = y[0, states[:2]]
    b[-1, -2:] = 0
    for t in range(1, frames):
        for s in range(n):
            terms = [a[t - 1, s], *a[t - 1, max(s - 1, 0) : s]]
            terms += [a[t - 1, s - 2]] if skips[s] else []
            a[t, s] = np.logaddexp.reduce(terms) + y[t, states[s]]
    for t in range(frames - 2, -1, -1):
        for s in range(n):
            to = [s, *range(s + 1, min(s + 2, n))] + ([s + 2] if s + 2 < n and skips[s + 2] else [])
            b[t, s] = np.logaddexp.reduce([b[t + 1, r] + y[t + 1, states[r]] for r in to])
    log_p = np.logaddexp.reduce(a[-1, -2:])
    gradient = np.exp(y)
    for s, k in enumerate(states):
        gradient[:, k] -= np.exp(a[:, s] + b[:, s] - log_p)
    return -log_p, gradient
