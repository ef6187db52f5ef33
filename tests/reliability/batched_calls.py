"""Random calls of the losses of batches, CTC and Circle: bits, memory and errors.

Their values have tests of their own (`test_ctc.py`, `test_circle.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fastloss
from calls import one_in, pick
from cases import same_bits
from guarded import Choose, Placed


def random_ctc(choose: Choose, rng: Any) -> tuple[Any, dict[str, Any], Any, str]:
    batch, labels, classes = choose(0, 4), choose(0, 4), pick(choose, [1, 2, 5, 40])
    frames = pick(choose, [0, 1, 5, 12, 60])
    y = rng.integers(1, classes, (batch, labels)) if classes > 1 else np.zeros((batch, labels), int)
    p = rng.normal(0, 3, (batch, frames, classes)).astype(pick(choose, "fde"))
    arrays = {
        "label_length": rng.integers(0, labels + 1, batch),
        "logit_length": rng.integers(0, frames + 1, batch),
    }
    invalid = ""
    if batch and one_in(choose, 5):
        invalid = pick(choose, ["label_length", "logit_length", "y_true"])
        if invalid == "y_true":
            if labels == 0:
                return y.astype("i"), arrays, p, ""
            arrays["label_length"][0] = labels
            y[0, labels - 1] = pick(choose, [-1, classes, 2**40])
        else:
            arrays[invalid][-1] = pick(choose, [-1, 61, 2**40])
    return y if invalid else y.astype(pick(choose, "bhiq")), arrays, p, invalid


def random_circle(choose: Choose, rng: Any) -> tuple[Any, dict[str, Any], Any, str]:
    n, features = choose(0, 9), choose(1, 8)
    p = rng.normal(size=(n, features)).astype(pick(choose, "fd"))
    y = rng.integers(0, 3, n)
    if n and one_in(choose, 6):
        return np.zeros(n + 1, int), {}, p, "y_true"
    return y.astype(pick(choose, "bhiq")), {}, p, ""


def check_batched(choose: Choose) -> None:
    rng = np.random.default_rng(choose(0, 2**32 - 1))
    is_ctc = choose(0, 1) == 0
    y, arrays, p, invalid = (random_ctc if is_ctc else random_circle)(choose, rng)
    loss = (fastloss.CTC if is_ctc else fastloss.Circle)(reduction=pick(choose, ["mean", None]))
    if rng.random() < 0.3:
        arrays["sample_weight"] = rng.random(len(y)) if len(y) == len(p) else np.ones(1)
    placed = {"y_true": Placed(y, choose), "y_pred": Placed(p, choose)}
    placed |= {k: Placed(v, choose) for k, v in arrays.items()}
    out = Placed(np.zeros_like(p), choose, native=True)
    views = {k: v.view for k, v in placed.items()}
    what = f"{loss} {y.shape} {p.shape} {p.dtype} {arrays} invalid={invalid}"
    error = None
    try:
        value, gradient = loss.value_and_grad(out=out.view, **views)
    except ValueError as caught:
        error = caught
    if error:
        assert invalid, f"{what}: {error!r}"
        assert str(error).startswith(invalid), f"{what}: {error!r}"
        assert out.unchanged(), f"{what}: written"
        assert all(x.unchanged() for x in placed.values())
        return
    assert not invalid, f"{what}: no error"
    assert gradient is out.view
    assert out.only_view_changed(), f"{what}: something beside out was written"
    assert all(x.unchanged() for x in placed.values()), f"{what}: an input was written"
    plain_value, plain_gradient = loss.value_and_grad(y, p, **arrays)
    if is_ctc:  # the other is a product of matrices, whose library may choose by layout
        assert same_bits(value, plain_value), what
        assert same_bits(np.array(gradient), plain_gradient), what
    else:
        np.testing.assert_allclose(value, plain_value, rtol=1e-3, atol=1e-3)
