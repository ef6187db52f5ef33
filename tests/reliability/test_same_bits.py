"""One hash of every loss's value and gradient: over runs, threads, processes and layouts."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

import fastloss
from cases import CASES, draw, make, resolved
from test_concurrency import run_python

pytestmark = pytest.mark.usefixtures("any_threads")

# On a team, with rows in lanes; on a team, rows one by one; rows that threads share.
SHAPES = [(701, 57), (97, 423), (1, 70001)]

Job = tuple[fastloss.Loss, Any, Any]


def jobs() -> list[Job]:
    out = []
    for case, (spec, given) in enumerate(CASES):
        for shape in SHAPES:
            options = resolved(spec, given, shape)
            rng = np.random.default_rng(case)
            out.append((make(spec, options), *draw(spec, options, shape, np.float32, rng)))
    return out


def digest(todo: list[Job]) -> str:
    bits = hashlib.sha256()
    for loss, t, p in todo:
        value, gradient = loss.value_and_grad(t, p)
        bits.update(np.asarray(value).tobytes() + gradient.tobytes())
    return bits.hexdigest()


def test_hash_is_the_same_over_a_hundred_runs() -> None:
    fastloss.set_num_threads(3)
    for job in jobs():
        assert len({digest([job]) for _ in range(100)}) == 1


def test_hash_is_the_same_for_one_to_eight_threads() -> None:
    todo = jobs()
    hashes = set()
    for threads in range(1, 9):
        fastloss.set_num_threads(threads)
        hashes.add(digest(todo))
    assert len(hashes) == 1


def test_hash_is_the_same_in_fresh_processes() -> None:
    code = "from test_same_bits import digest, jobs; print(digest(jobs()))"
    here = digest(jobs())
    for threads, seed in (("1", "1"), ("2", "2"), ("5", "3")):
        assert run_python(code, FASTLOSS_NUM_THREADS=threads, PYTHONHASHSEED=seed) == here


def test_hash_is_the_same_for_strided_input() -> None:
    todo = jobs()

    def spread(a: Any) -> Any:
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1] + 1), a.dtype)
        wide[..., 1::2] = a
        return wide[..., 1::2]

    strided = [(loss, spread(t), np.asfortranarray(p)) for loss, t, p in todo]
    assert digest(strided) == digest(todo)
