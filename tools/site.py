"""What MkDocs does not read from a file: a page for each loss, with plots, and figures in others.

A hook of mkdocs.yml. ``fastloss`` has to be installed; run ``make docs``.
"""

from __future__ import annotations

import io
import json
import re
import sys
import unittest.mock
from pathlib import Path
from typing import Any

import matplotlib as mpl
from latex2mathml.converter import convert
from mkdocs.structure.files import File

import fastloss.plot
from fastloss._registry import REGISTRY, LossSpec

sys.path.append(str(Path(__file__).parent))

import make_docs
from loss_notes import LATEX, NOTES, Notes

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RESULTS = ROOT / "benchmarks" / "RESULTS.md"

LIGHT, DARK = "#222222", "#dddddd"
OF_DARK_PAGES = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#F0E442")  # still Okabe's


def style(ink: str) -> dict[str, Any]:
    """Plots without a background, in the ink of a light or a dark page."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    clear = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none")
    rest = {"grid.color": "#888888", "legend.edgecolor": "none", "svg.hashsalt": "docs"}
    return dict.fromkeys(inked, ink) | clear | rest


def drawn(losses: list[fastloss.Loss], ink: str) -> str:
    """The plot of losses as SVG."""
    colors = OF_DARK_PAGES if ink == DARK else fastloss.plot.COLORS
    with (
        mpl.rc_context(style(ink)),  # type: ignore[arg-type]
        unittest.mock.patch.object(fastloss.plot, "COLORS", colors),
    ):
        figure = fastloss.plot.curves(*losses)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def variants_to_draw(spec: LossSpec) -> list[tuple[str, list[fastloss.Loss]]]:
    """Titles and the losses of each picture: the defaults, a few values of a parameter, logits."""
    make = getattr(fastloss, spec.class_name)
    names = {p.name for p in spec.class_parameters}
    ladder = {"delta": (0.5, 1.0, 2.0), "gamma": (0.0, 1.0, 2.0, 5.0), "q": (0.1, 0.5, 0.9)}
    extra: dict[str, Any] = {}
    out = []
    for logits in (False, True) if "from_logits" in names else (False,):
        if logits:
            extra = {"from_logits": True}
        chosen = [make(**extra)]
        for name, values in ladder.items():
            if name in names and not spec.batched:
                chosen = [make(**extra, **{name: value}) for value in values]
        out.append(("From logits" if logits else "", chosen))
    return out


def accuracy_of(spec: LossSpec) -> str:
    """The rows of docs/accuracy.md that are of this loss."""
    out, heading, columns = [], "", ""
    for line in (DOCS / "accuracy.md").read_text().splitlines():
        if line.startswith("## "):
            heading, columns = line[3:], ""
        elif line.startswith("| loss |"):
            columns = line
        elif re.match(rf"\| {spec.name}(?!\w)", line):
            if columns:
                rule = "| --- " * (columns.count("|") - 1) + "|"
                out += [f"\n**{heading}**\n", columns, rule]
                columns = ""
            out.append(line)
    return "\n".join(out)


def results_of(spec: LossSpec) -> str:
    """The rows of the benchmark that are of this loss, with their headings."""
    if not RESULTS.exists():
        return ""
    out: list[str] = []
    columns: list[str] = []
    for line in RESULTS.read_text().splitlines():
        if not line.startswith("|"):
            columns = []
        elif len(columns) < 2:
            columns.append(line)
        elif re.match(rf"\|\s*`?{spec.name}(?!\w)", line):
            if not out or out[-1] == "":
                out += ["", *columns]
            out.append(line)
    return "\n".join(out)


def page(spec: LossSpec) -> str:
    """The page of a loss."""
    notes = NOTES.get(spec.name, Notes())
    true, pred, value = spec.example
    names = [f"`{n}`" for n in dict.fromkeys((spec.name, spec.class_name, *spec.aliases))]
    formula = LATEX.get(spec.name, "")
    call = f"fastloss.{spec.name}({true}, {pred}){'[0]' * spec.batched}"
    parts = [f"# {spec.class_name}\n", f"{spec.summary}\n"]
    parts += [
        f'<div class="formula">{convert(line, display="block")}</div>\n'
        for line in formula.splitlines()
    ]
    text = spec.formula.replace("\n    ", "\n")
    parts.append(f"As it is computed, with t = `y_true`, p = `y_pred`:\n\n```text\n{text}\n```\n")
    parts.append(f"Names: {', '.join(names)}. Source: {spec.source}.\n")
    parts.append(
        f"Targets: {make_docs.TARGETS.get(spec.kind) or make_docs.TARGETS[spec.labels]}.\n"
    )
    parts.append(f"```python\nimport fastloss\n\nprint({call})\n# {value}\n```\n")
    for i, (title, _) in enumerate(variants_to_draw(spec)):
        parts += [f"**{title}**\n"] if title else []
        about = f"The loss {spec.class_name} and its slope{', from logits' if title else ''}"
        parts += [
            f"![{about}](plots/{spec.name}-{i}-{ink}.svg#only-{ink}){{ loading=lazy }}\n"
            for ink in ("light", "dark")
        ]
    parts += ["## Parameters\n", make_docs.parameters(spec)]
    if notes.edges:
        parts += ["## Edge cases\n", f"{notes.edges}\n"]
    if notes.differs:
        parts += ["## Differs from Keras\n", f"{notes.differs}\n"]
    if rows := accuracy_of(spec):
        rules = "What the columns and marks mean stands in [Accuracy](../accuracy.md).\n"
        parts += ["## Accuracy\n", f"Worst errors in units in the last place. {rules}", f"{rows}\n"]
    if rows := results_of(spec):
        parts += ["## Speed\n", "From [Performance](../performance.md).\n", f"{rows}\n"]
    return "\n".join(parts)


def example(notebook: Path) -> str:
    """A notebook as a page: its text and its programs."""
    cells = json.loads(notebook.read_text())["cells"]
    parts = [
        "".join(cell["source"])
        if cell["cell_type"] == "markdown"
        else "```python\n" + "".join(cell["source"]) + "\n```"
        for cell in cells
    ]
    source = (
        f"\n\nThis page is `notebooks/{notebook.name}` of the repository, without its output.\n"
    )
    return "\n\n".join(parts) + source


# ---- MkDocs calls these ----


def on_config(config: Any) -> Any:
    """Put the losses and the notebooks into the navigation."""
    pages = [{spec.class_name: f"loss/{spec.name}.md"} for spec in REGISTRY]
    for entry in config.nav:
        if entry.get("Losses") == "losses.md":
            entry["Losses"] = [{"All on one page": "losses.md"}, *pages]
        if "Examples" in entry:
            titles = (re.search(r"# ([^\\]*)", n.read_text()) for n in NOTEBOOKS)
            entry["Examples"] = [
                {title[1]: f"examples/{notebook.stem}.md"}
                for title, notebook in zip(titles, NOTEBOOKS, strict=True)
                if title
            ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Write the pages of the losses, their plots, and what the benchmark drew."""

    def add(path: str, content: str | bytes) -> None:
        files.append(File.generated(config, path, content=content))

    for spec in REGISTRY:
        add(f"loss/{spec.name}.md", page(spec))
        for i, (_, losses) in enumerate(variants_to_draw(spec)):
            for name, ink in (("light", LIGHT), ("dark", DARK)):
                add(f"loss/plots/{spec.name}-{i}-{name}.svg", drawn(losses, ink))
    for notebook in NOTEBOOKS:
        add(f"examples/{notebook.stem}.md", example(notebook))
    if RESULTS.exists():
        for picture in RESULTS.parent.rglob("*"):
            if picture.suffix in (".png", ".svg"):
                add(str(picture.relative_to(RESULTS.parent)), picture.read_bytes())
    return files


def results() -> str:
    """The report of the benchmark, its headings a level down; or that there is none."""
    if not RESULTS.exists():
        return "No measurement is kept in this copy of the repository; `make bench` makes one."
    without_title = re.sub(r"\A# .*\n", "", RESULTS.read_text())
    return re.sub(r"^#", "##", without_title, flags=re.MULTILINE)


def contributing(title: str) -> str:
    """A section of CONTRIBUTING.md, without its heading."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def gallery() -> str:
    """The losses with links to their pages."""
    lines = [f"- [{s.class_name}](loss/{s.name}.md): {s.summary}" for s in REGISTRY]
    return "\n".join(lines)


FILLED = {
    "<!-- results -->": results,
    "<!-- adding a loss -->": lambda: contributing("Adding a loss"),
    "<!-- losses -->": gallery,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what comes from elsewhere."""
    for mark, fill in FILLED.items():
        if mark in markdown:
            markdown = markdown.replace(mark, fill())
    return markdown
