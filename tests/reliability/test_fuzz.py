"""Calls of every kind, drawn at random; FASTLOSS_FUZZ_CASES says how many."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batched_calls import check_batched
from calls import check, random_call
from sum_calls import check_sum

CASES = int(os.environ.get("FASTLOSS_FUZZ_CASES", "500"))

many = settings(
    max_examples=CASES,
    derandomize=CASES <= 500,  # in `make test` the same ones every time
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@many
@given(st.data())
def test_any_call_is_right_or_refused_and_writes_nothing_else(data: st.DataObject) -> None:
    def choose(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    check(choose, random_call(choose))


@settings(many, max_examples=CASES // 5)
@given(st.data())
def test_any_call_of_a_loss_of_batches(data: st.DataObject) -> None:
    check_batched(lambda low, high: data.draw(st.integers(low, high)))


@settings(many, max_examples=CASES // 5)
@given(st.data())
def test_any_call_of_a_sum_is_the_sum_of_its_terms(data: st.DataObject) -> None:
    check_sum(lambda low, high: data.draw(st.integers(low, high)))
