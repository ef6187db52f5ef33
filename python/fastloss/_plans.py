"""The plan of each kind of loss."""

from __future__ import annotations

from typing import Any

from fastloss._evaluate import EPSILON, GridPlan, Plan
from fastloss._pairwise import PairwisePlan
from fastloss._registry import LossSpec
from fastloss._sequence import SequencePlan


def make_plan(spec: LossSpec, given: dict[str, Any], epsilon: float = EPSILON) -> Plan:
    """The loss with its parameters checked, ready to be called."""
    if spec.kind == "sequence":
        return SequencePlan(spec, given)
    if spec.kind == "pairwise":
        return PairwisePlan(spec, given, epsilon)
    return GridPlan(spec, given, epsilon)
