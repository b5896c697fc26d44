"""An advice as a page, ``advice.html``, and as text for a terminal."""

from pathlib import Path
from typing import Any

import numpy as np

from sbt.advice.advise import Advice, next_overrides
from sbt.files import write_text
from sbt.report import markup
from sbt.report.markup import rich, tag
from sbt.report.scales import label
from sbt.report.tables import html_table

COLUMNS = {
    "batch size": "m",
    "updates": "updates",
    "examples": "examples",
    "low": "from",
    "high": "to",
    "base LR": "base LR",
    "η": "η",
    "octaves": "basin [octaves]",
    "slope": "slope",
    "region": "region",
    "device seconds": "device time [s]",
    "remarks": "remarks",
}


def rows(advice: Advice) -> list[list[str]]:
    """The table in words; columns that hold nothing are left out, the first row names them."""
    table = advice.table
    kept = [c for c in table if table[c].map(_says).any()]
    return [
        [COLUMNS[c] for c in kept],
        *([_cell(c, row[c]) for c in kept] for _, row in table.iterrows()),
    ]


def _says(value: Any) -> bool:
    return bool(value) if isinstance(value, str) else bool(np.isfinite(value))


def _cell(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    number = float(value)
    if np.isnan(number):
        return ""
    if np.isinf(number):
        return "never"
    if column == "base LR":
        return label("base_lr", number)
    if column in ("updates", "examples", "low", "high", "batch size"):
        return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
    return f"{number:.2f}" if column in ("slope", "octaves") else f"{number:.3g}"


def text(advice: Advice) -> str:
    """What the command prints."""
    table = rows(advice)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)) for row in table]
    target = advice.view.score.text(advice.target.value)
    parts = [f"target: {target} ({advice.target.why})", "\n".join(lines), advice.text]
    if advice.gaps:
        parts.append("\n".join(["The grid cannot say:", *(f"  - {gap}" for gap in advice.gaps)]))
    if advice.wanted:
        asked = " ".join(f"'{one}'" for one in next_overrides(advice))
        parts.append(f"The runs that would: {asked}\n  (--next=FILE writes them as an experiment)")
    return "\n\n".join(parts)


def write_advice(advice: Advice, directory: Path | str) -> list[Path]:
    """Writes ``advice.html`` and its figure; every file atomically."""
    directory, drawing = Path(directory), advice.figure()
    head, *body = rows(advice)
    made = [tag("li", rich(str(one)), tag("br"), tag("small", rich(one.wrong)))
            for one in advice.recommendations]  # fmt: skip
    gaps = [tag("li", rich(gap)) for gap in advice.gaps]
    target = advice.view.score.text(advice.target.value)
    parts = [
        tag("h1", f"{advice.view.name}: advice"),
        tag("p", rich(f"Target: {target} ({advice.target.why})."), class_="quiet"),
        tag("div", rich(advice.text), class_="status"),
        markup.figure(drawing, 1),
        tag("h2", "Per batch size"),
        tag("div", html_table(head, body), class_="scroll"),
        tag("h2", "Recommendations, and what it costs to be wrong"),
        tag("ul", *made),
        tag("h2", "What the grid cannot say"),
        tag("ul", *gaps),
        tag("pre", "\n".join(next_overrides(advice))),
    ]
    page = markup.page(f"{advice.view.name}: advice", markup.join(parts, "\n"))
    return [write_text(directory / "advice.html", page), *drawing.save(directory / "figures")]
