"""An advice as a page, ``advice.html``, and as text for a terminal."""

from pathlib import Path
from typing import Any

import numpy as np

from sbt.advice import words
from sbt.advice.advise import Advice
from sbt.advice.following import next_overrides
from sbt.files import write_text
from sbt.report import markup
from sbt.report.markup import rich, tag
from sbt.report.tables import html_table
from sbt.report.wording import label

COLUMNS = {
    "batch size": "m",
    "updates": "updates",
    "examples": "examples",
    "low": "95 % from",
    "high": "to",
    "base LR": "base LR",
    "η": "η",
    "octaves": "basin [octaves]",
    "slope": "slope",
    "region": "region",
    "seconds alone": "time alone",
    "seconds in lanes": "time in lanes",
    "remarks": "remarks",
}


def rows(advice: Advice) -> list[list[str]]:
    """The table in words; columns that hold nothing are left out, the first row names them."""
    table = advice.table
    kept = [c for c in table if table[c].map(_says).any()]
    return [
        [COLUMNS.get(c, c.replace("__", ".")) for c in kept],
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
    if column in ("seconds alone", "seconds in lanes"):
        return words.seconds(number)
    if column == "base LR":
        return label("base_lr", number)
    if column in ("updates", "examples", "low", "high", "batch size"):
        return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
    if column in COLUMNS:
        return f"{number:.2f}" if column in ("slope", "octaves") else f"{number:.3g}"
    return label(column, number)


def choice_rows(advice: Advice) -> list[list[str]]:
    """What each value of an axis without an order needs by itself; the first row names columns."""
    found = []
    for one in advice.choices:
        part, curve, times = one.reached, one.curve, words.plain(one.times)
        if np.isnan(one.times.value):
            times = "not known"
        least = np.isfinite(part.fewest).any() and int(np.argmin(part.fewest))
        found.append(
            [
                f"{one.axis.replace('__', '.')} {one.value}",
                words.number(part.fewest[least]) if least is not False else "never",
                f"{part.sizes[least]:g}" if least is not False else "",
                times,
                words.size_interval(curve.b_crit, part.sizes) if curve and curve.known else "",
                words.listed(one.best_at),
            ]
        )
    head = ["", "fewest examples", "at m", "times the best", "B_crit", "best of all at m"]
    return [head, *found] if found else []


def times(advice: Advice) -> str:
    """What the columns of times mean; empty where there are none."""
    speeds, told = advice.speeds, []
    if speeds.known:
        told.append(f"Time alone: of one run by itself, on {speeds.device}.")
    if np.isfinite(speeds.lanes).any():
        told.append(
            f"Time in lanes: its share of all lanes of its program, on {speeds.lanes_device}."
        )
    return " ".join([*told, "Evaluations and compiling are not counted."]) if told else ""


def _aligned(table: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)) for row in table
    )


def text(advice: Advice) -> str:
    """What the command prints."""
    target = advice.view.score.text(advice.target.value)
    parts = [f"target: {target} ({advice.target.why})", _aligned(rows(advice)), times(advice)]
    parts = [*filter(None, [*parts, _aligned(choice_rows(advice))]), advice.text]
    if advice.gaps:
        parts.append("\n".join(["The grid cannot say:", *(f"  - {gap}" for gap in advice.gaps)]))
    if advice.wanted:
        asked = " ".join(f"'{one}'" for one in next_overrides(advice))
        told = f"The {advice.new} runs that would: {asked}"
        own = "the experiment file again, with --workdir and these"
        how = own if advice.own else "--next=FILE writes them as an experiment"
        parts.append(f"{told}\n  ({how})")
    return "\n\n".join(parts)


def _choices(advice: Advice) -> list[markup.Markup]:
    if not (found := choice_rows(advice)):
        return []
    head, *body = found
    table = tag("div", html_table(head, body, "numbers"), class_="scroll")
    return [tag("h2", "Per value, everything else tuned for it"), table]


def section(advice: Advice) -> markup.Markup:
    """The advice as a part of a report: what to use, the rest folded away."""
    made = [tag("li", rich(str(one))) for one in advice.recommendations]
    title = "In words, per batch size, and what the grid cannot say"
    words = tag("p", rich(advice.text))
    parts = [
        tag("h2", "Advice", id="advice"),
        tag("p", rich(_target(advice)), class_="quiet"),
        tag("ul", *made),
        markup.folded(title, words, *_numbers(advice), *_gaps(advice), level="b"),
    ]
    return markup.join(parts, "\n")


def _target(advice: Advice) -> str:
    return f"Target: {advice.view.score.text(advice.target.value)} ({advice.target.why})."


def _numbers(advice: Advice) -> list[markup.Markup]:
    """The tables, and what their times are."""
    head, *body = rows(advice)
    return [
        tag("div", html_table(head, body, "numbers"), class_="scroll"),
        *(tag("p", rich(said), class_="quiet") for said in filter(None, [times(advice)])),
        *_choices(advice),
    ]


def _gaps(advice: Advice) -> list[markup.Markup]:
    gaps = [tag("li", rich(gap)) for gap in advice.gaps]
    asked = tag("pre", "\n".join(next_overrides(advice)), style="columns: 1")
    return [tag("h2", "What the grid cannot say"), tag("ul", *gaps), asked]


def write_advice(advice: Advice, directory: Path | str) -> list[Path]:
    """Writes ``advice.html`` and its figure; every file atomically."""
    directory, drawing = Path(directory), advice.figure()
    made = [
        tag(
            "li", rich(str(one)), *([tag("br"), tag("small", rich(one.wrong))] if one.wrong else [])
        )
        for one in advice.recommendations
    ]
    parts = [
        tag("h1", f"{advice.view.name}: advice"),
        tag("p", rich(_target(advice)), class_="quiet"),
        tag("div", rich(advice.text), class_="status"),
        markup.figure(drawing, 1),
        tag("h2", "Per batch size"),
        *_numbers(advice),
        tag("h2", "Recommendations, and what it costs to be wrong"),
        tag("ul", *made),
        *_gaps(advice),
    ]
    page = markup.page(f"{advice.view.name}: advice", markup.join(parts, "\n"))
    return [write_text(directory / "advice.html", page), *drawing.save(directory / "figures")]
