"""What a call must return: the oracle's losses, weighted and reduced by the rules of the contract.

Every array is brought to the grid of the call, (rows, columns): the axes of one loss value are the
columns. A reduced loss is linear in the losses, so one array of coefficients gives both the value,
sum(c l), and the gradient, c dl/dx; a zero coefficient hides whatever stands under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import oracle
from fastloss._registry import LossSpec
from oracle import Array, Limits


@dataclass
class Call:
    spec: LossSpec
    y_true: Any
    y_pred: Array
    options: dict[str, Any] = field(default_factory=dict)
    reduction: str | None = "sum_over_batch_size"
    sample_weight: Any = None
    mask: Any = None
    upstream: Any = 1.0

    def __post_init__(self) -> None:
        self.options = {p.name: p.default for p in self.spec.parameters} | self.options
        axis = self.options.get("axis", -1)
        ndim = self.y_pred.ndim
        given = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        self.axes = sorted(a % ndim for a in given)
        shape = self.y_pred.shape
        self.rows = tuple(n for d, n in enumerate(shape) if d not in self.axes)
        self.grid = (math.prod(self.rows), math.prod(shape[a] for a in self.axes))
        self.limits = Limits.of(self.y_pred.dtype)

    def on_grid(self, x: Any) -> Array:
        """A y_pred-shaped array as (rows, columns)."""
        at_end = range(x.ndim - len(self.axes), x.ndim)
        return np.moveaxis(x, self.axes, list(at_end)).reshape(self.grid)

    def from_grid(self, x: Array) -> Array:
        shape = self.y_pred.shape
        at_end = list(range(len(shape) - len(self.axes), len(shape)))
        moved = x.reshape(self.rows + tuple(shape[a] for a in self.axes))
        return np.moveaxis(moved, at_end, self.axes)

    def labels(self) -> Array:
        return np.asarray(self.y_true).reshape(-1)

    def counted(self) -> Array:
        """Which rows ignore_class leaves in, as (rows, 1)."""
        ignored = self.options.get("ignore_class")
        if ignored is None:
            return np.ones((self.grid[0], 1), bool)
        return (self.labels() != ignored)[:, None]

    def targets(self) -> Array:
        if not self.spec.uses_target:
            return np.zeros(self.grid, np.longdouble)
        if self.spec.labels == "integer":
            classes = np.arange(self.grid[1])
            return (self.labels()[:, None] == classes).astype(np.longdouble)
        return self.on_grid(np.asarray(self.y_true)).astype(np.longdouble)

    def predictions(self) -> Array:
        return self.on_grid(self.y_pred).astype(np.longdouble)

    def spread(self, weight: Any) -> Array:
        """A weight or mask as (rows, 1), or as (rows, columns) if it weighs elements."""
        w = np.asarray(weight).astype(np.longdouble)
        if w.shape == self.rows[: w.ndim]:
            w = w.reshape(w.shape + (1,) * (len(self.rows) - w.ndim))
        try:
            return np.broadcast_to(w, self.rows).reshape(-1, 1)
        except ValueError:
            return self.on_grid(np.broadcast_to(w, self.y_pred.shape))

    def normalization(self, weight: Array | None, mask: Array | None) -> Any:
        # A single value comes back as it is, unless weights of its elements make it many.
        by_element = any(f is not None and f.shape[1] > 1 for f in (weight, mask))
        unreduced = self.rows == (0,) or (self.rows == () and not by_element)
        if self.reduction in (None, "none", "sum") or unreduced:
            return 1
        divisor = self.counted().astype(np.longdouble)
        if mask is not None:
            divisor = divisor * mask
        if weight is not None and self.reduction == "mean_with_sample_weight":
            divisor = divisor * weight
        # A weight per element counts by its mean over the row, as the loss does.
        size = divisor.mean(axis=1).sum()
        return 0 if size == 0 else 1 / size

    def coefficients(self) -> Array:
        """c in sum(c l): on the grid for a map loss, on (rows, 1) for the others."""
        weight = None if self.sample_weight is None else self.spread(self.sample_weight)
        mask = None if self.mask is None else (self.spread(self.mask) != 0).astype(np.longdouble)
        c = self.normalization(weight, mask) * self.counted().astype(np.longdouble)
        for factor in (weight, mask):
            if factor is not None:
                c = np.where((c == 0) | (factor == 0), 0, c * factor)
        if self.spec.name in oracle.ELEMENTS:
            share = 1 if self.spec.name in oracle.SUMMED else np.longdouble(1) / self.grid[1]
            c = np.broadcast_to(c * share, self.grid)
        return c

    def is_reduced(self) -> bool:
        return self.reduction not in (None, "none") and self.rows != (0,)

    def terms(self) -> Array:
        """The products c l, whose sum over everything or over each row is the value."""
        t, p, c = self.targets(), self.predictions(), self.coefficients()
        forward = (oracle.ELEMENTS | oracle.ROWS)[self.spec.name]
        with np.errstate(all="ignore"):
            losses = forward(t, p, self.limits, self.options).reshape(len(c), -1)
            return np.where(c == 0, 0, c * losses)

    def value(self) -> Array:
        values = self.terms().sum(axis=1)
        return values.sum() if self.is_reduced() else values.reshape(self.rows)

    def value_scale(self) -> Array:
        """The value without cancellation between its terms: what its rounding is relative to."""
        values = np.abs(self.terms()).sum(axis=1)
        return values.sum() if self.is_reduced() else values.mean()

    def gradient_coefficients(self) -> Array:
        upstream = np.asarray(self.upstream).astype(np.longdouble)
        return self.coefficients() * (upstream.reshape(-1, 1) if upstream.ndim else upstream)

    def gradient(self, wrt: str) -> Array:
        t, p = self.targets(), self.predictions()
        c = self.gradient_coefficients()
        with np.errstate(all="ignore"):
            slopes = oracle.jacobian(self.spec.name, t, p, self.limits, self.options, wrt)
            return self.from_grid(np.where(c == 0, 0, c * slopes))

    def gradient_along(self, direction: Array, wrt: str) -> Any:
        """sum(gradient * direction), for arrays too large for every partial derivative."""
        forward = (oracle.ELEMENTS | oracle.ROWS)[self.spec.name]
        d = self.on_grid(direction).astype(np.longdouble)
        rest = (d, wrt, self.limits, self.options)
        slopes = oracle.complex_step(forward, self.targets(), self.predictions(), *rest)
        return (self.gradient_coefficients() * slopes.reshape(len(d), -1)).sum()
