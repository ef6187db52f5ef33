"""Writes ``docs/losses.md`` from the registry; ``--check`` tells whether it is current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastloss._registry import REGISTRY, LossSpec
from loss_notes import NOTES, Notes

PAGE = Path(__file__).parent.parent / "docs" / "losses.md"

HEADER = """\
# What each loss computes

Written by `tools/make_docs.py` from the registry. t is `y_true`, p is `y_pred`; "mean" and "sum"
are over the last axis, or over `axis` where a loss has one. 1e-7 is `keras.config.epsilon()` in
`fastloss.keras`. How accurately each is computed stands in [Accuracy](accuracy.md).

Every function takes `(y_true, y_pred)` and the parameters below, and returns one loss per sample.
Every class takes the parameters, then `reduction="sum_over_batch_size"`, `name`, `dtype=None` and
`weight=None`;
`CTC` takes the latter alone, and `Circle` takes `remove_diagonal` last. The classes of `fastloss`
take arrays when they are called, by keyword.

This holds for all losses:

- What a mask or a weight of zero hides contributes exactly 0 to value and gradient, even where its
  own loss is NaN. (Keras multiplies, so that NaN stays.)
- float16 and bfloat16 are computed in float32 and the value is float32; float64 stays float64.
- On x86-64 a result below the smallest normal number (1.2e-38 in float32) is zero, as it is in
  TensorFlow.
- `y_true` must have the shape of `y_pred`. Only where the ranks differ by one and the longer array
  ends in a dimension of 1 is it fitted, as in Keras; nothing else is broadcast.
- `mean_with_sample_weight` divides by the sum of the weights of all losses, after broadcasting.
  (Keras divides by their sum before broadcasting.)

"""

TARGETS = {
    "dense": "numbers, of the shape of `y_pred`",
    "integer": "integer class labels, of the shape of `y_pred` without the class axis",
    "pairwise": "integer labels, one for each embedding",
    "sequence": "integer labels, of shape (batch, labels); `y_pred` is (batch, time, classes)",
}


def contents() -> str:
    """A list of the losses, with links to their sections."""
    lines = [f"- [{s.class_name}](#{s.class_name.lower()}): {s.summary}" for s in REGISTRY]
    return "\n".join(lines) + "\n"


def parameters(spec: LossSpec) -> str:
    """The parameters of a loss as a table."""
    if not spec.parameters:
        return "No parameters.\n"
    rows = [f"| `{a.name}` | array | `None` | {a.doc} |" for a in spec.arrays]
    rows += [
        f"| `{p.name}` | `{p.annotation.replace('|', 'or')}` | `{p.default!r}` | {p.doc} |"
        for p in spec.parameters
    ]
    return (
        "\n".join(["| parameter | type | default | |", "| --- | --- | --- | --- |", *rows]) + "\n"
    )


def targets(spec: LossSpec) -> str:
    """What y_true holds."""
    if not spec.uses_target:
        return "none; `y_true` may be None"
    return TARGETS.get(spec.kind) or TARGETS[spec.labels]


def section(spec: LossSpec) -> str:
    """All there is to say of a loss."""
    names = [f"`{n}`" for n in dict.fromkeys((spec.name, spec.class_name, *spec.aliases))]
    notes = NOTES.get(spec.name, Notes())
    true, pred, value = spec.example
    return "\n".join(
        [
            f"## {spec.class_name}\n",
            f"{spec.summary}\n",
            f"    {spec.formula}\n",
            f"- Names: {', '.join(names)}. An instance is called `{spec.object_name}`.",
            f"- Targets: {targets(spec)}.",
            *([f"- Edges: {notes.edges}"] if notes.edges else []),
            *([f"- Differs from Keras: {notes.differs}"] if notes.differs else []),
            f"- Source: {spec.source}.",
            f"- Example: `{spec.name}({true}, {pred}){'[0]' * spec.batched}` is {value}.\n",
            parameters(spec),
        ]
    )


def page() -> str:
    """The whole page."""
    unknown = NOTES.keys() - {spec.name for spec in REGISTRY}
    if unknown:
        raise ValueError(f"loss_notes: no loss is called {', '.join(sorted(unknown))}")
    return "\n".join([HEADER + contents(), *map(section, REGISTRY)])


def main() -> int:
    """Write the page, or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    if not parser.parse_args().check:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        print(f"{PAGE.name} is out of date: run tools/make_docs.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
