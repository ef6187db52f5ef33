"""The examples in the docstrings give what they say."""

from __future__ import annotations

import doctest

import pytest

import fastloss


@pytest.mark.parametrize("name", fastloss.__all__)
def test_docstring_examples_hold(name: str, any_threads: None) -> None:
    parts = [getattr(fastloss, name)]
    finder, runner = doctest.DocTestFinder(recurse=True), doctest.DocTestRunner(verbose=False)
    examples = 0
    for part in parts:
        for test in finder.find(part, name):
            examples += len(test.examples)
            assert runner.run(test).failed == 0
    assert examples > 0 or name == "Loss"
