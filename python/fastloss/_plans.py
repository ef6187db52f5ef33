"""The plan of each kind of loss."""

from __future__ import annotations

import functools
from typing import Any

from fastloss._evaluate import EPSILON, GridPlan, Plan
from fastloss._pairwise import PairwisePlan
from fastloss._registry import BY_NAME, LossSpec
from fastloss._sequence import SequencePlan


def make_plan(spec: LossSpec, given: dict[str, Any], epsilon: float = EPSILON) -> Plan:
    """The loss with its parameters checked, ready to be called."""
    if spec.kind == "sequence":
        return SequencePlan(spec, given)
    if spec.kind == "pairwise":
        return PairwisePlan(spec, given, epsilon)
    return GridPlan(spec, given, epsilon)


@functools.lru_cache(maxsize=512, typed=True)
def _kept_plan(name: str, /, **given: Any) -> Plan:
    return make_plan(BY_NAME[name], given)


def kept_plan(spec: LossSpec, given: dict[str, Any]) -> Plan:
    """The same, made once for all calls with these parameters."""
    try:
        return _kept_plan(spec.name, **given)
    except TypeError:  # a list or an array among the parameters, or one of a wrong type
        return make_plan(spec, given)
