"""Files beside the package say the same as it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastloss

ROOT = Path(__file__).parent.parent


def test_citation_has_the_version() -> None:
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited == fastloss.__version__


def test_changelog_has_the_version() -> None:
    assert f"\n## [{fastloss.__version__}] - " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("tool", ["ruff", "clang-format"])
def test_pre_commit_uses_the_version_of_make_lint(tool: str) -> None:
    pinned = rf"{tool}==([\d.]+)"
    (version,) = re.findall(pinned, (ROOT / "pyproject.toml").read_text())
    hooks = re.findall(pinned, (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks
    assert set(hooks) == {version}


def test_every_command_of_contributing_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    used = re.findall(r"`make ([a-z-]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert set(used) <= targets
    assert targets - set(used) <= {"demo", "help", "clean"}  # the README has the first


def test_every_page_is_in_the_navigation_once() -> None:
    _, navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")
    listed = re.findall(r": ([a-z_]+\.md)", navigation)
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_documentation_is_built_so_that_warnings_fail() -> None:
    assert "\nstrict: true\n" in (ROOT / "mkdocs.yml").read_text()
    (command,) = re.findall(
        r"mkdocs build(.*?)(?:#|$)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert not {"-q", "--quiet"} & set(command.split())
