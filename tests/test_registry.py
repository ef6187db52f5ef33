"""The Python registry, the compiled kernels, the oracle and the public names agree."""

from __future__ import annotations

import inspect

import pytest

import fastloss
import fastloss.losses
import oracle
from fastloss import _core
from fastloss._registry import ALIASES, REGISTRY, LossSpec

KERNELS = {name: rest for name, *rest in _core.losses()}


losses = pytest.mark.parametrize("spec", REGISTRY, ids=lambda s: s.name)


def kernels_of(spec: LossSpec) -> list[str]:
    if spec.kind == "sequence":  # a kernel of its own, beside the table
        return []
    has_logits = any(p.name == "from_logits" for p in spec.parameters)
    return [spec.name, *([f"{spec.name}_from_logits"] if has_logits else [])]


@losses
def test_every_row_has_its_kernels(spec: LossSpec) -> None:
    for name in kernels_of(spec):
        kind, sparse, uses_target, parameters = KERNELS[name]
        assert kind == spec.kind
        assert uses_target == (spec.uses_target or spec.batched)
        assert sparse == (spec.labels == "integer" and not spec.batched)
        assert set(parameters) <= DERIVED | {p.name for p in spec.parameters}


# What kernels take that is no parameter of a row: Keras's epsilon, and the two class weights of
# binary losses, which class_weight and pos_weight make together.
DERIVED = {"epsilon", "negative_weight", "positive_weight"}


def test_every_kernel_belongs_to_a_row() -> None:
    assert sorted(KERNELS) == sorted(name for spec in REGISTRY for name in kernels_of(spec))
    assert len(KERNELS) == len(_core.losses())


@losses
def test_every_row_has_an_oracle_of_its_kind(spec: LossSpec) -> None:
    # The definitions of losses of batches are in the tests of these.
    assert (spec.name in oracle.ELEMENTS) == (spec.kind == "map")
    assert (spec.name in oracle.ROWS) == (spec.kind in ("row", "region"))


@losses
def test_function_and_class_are_public(spec: LossSpec) -> None:
    for name in (spec.name, spec.class_name):
        assert name in fastloss.losses.__all__
        assert name in fastloss.__all__
        assert getattr(fastloss, name) is getattr(fastloss.losses, name)


def test_names_are_unique() -> None:
    for names in ([s.name for s in REGISTRY], [s.class_name for s in REGISTRY]):
        assert len(set(names)) == len(names)
    claims = [a for s in REGISTRY for a in (s.name, s.class_name, *s.aliases)]
    assert len(set(claims)) == len(claims) == len(ALIASES)


@losses
def test_signatures_list_the_parameters_and_their_defaults(spec: LossSpec) -> None:
    arrays = {a.name: None for a in spec.arrays}
    options = {p.name: p.default for p in spec.parameters}
    of_function = inspect.signature(getattr(fastloss, spec.name)).parameters
    check = ["check"] if spec.labels == "integer" else []
    assert list(of_function) == ["y_true", "y_pred", *arrays, *options, *check]
    for name, default in {**arrays, **options}.items():
        assert of_function[name].default == default
    of_class = inspect.signature(getattr(fastloss, spec.class_name)).parameters
    names = [p.name for p in spec.class_parameters]
    assert list(of_class) == [*names, "reduction", "name", "dtype", "weight"]
    for name in names:
        assert of_class[name].default == options[name]


@losses
def test_docstring_names_every_parameter_its_formula_and_its_source(spec: LossSpec) -> None:
    of_function, of_class = getattr(fastloss, spec.name), getattr(fastloss, spec.class_name)
    for owner, parameters in ((of_function, spec.parameters), (of_class, spec.class_parameters)):
        text = inspect.getdoc(owner)
        assert text is not None
        assert spec.summary in text
        assert spec.formula in text
        assert spec.source in text
        for parameter in parameters:
            assert f"\n{parameter.name} : " in text


@pytest.mark.parametrize("name", [n for n in fastloss.__all__ if n.islower()])
def test_public_functions_can_be_imported_by_their_qualified_name(name: str) -> None:
    found = getattr(fastloss, name)
    module = inspect.getmodule(found)
    assert module is not None
    assert getattr(module, found.__qualname__) is found
