"""The numbers behind the figures: as data frames, which write CSV, and as HTML."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sbt.report import wording
from sbt.report.markup import BREAK, Markup, join, rich, tag
from sbt.report.scales import Ordinate
from sbt.report.view import BASE_LR, BATCH_SIZE, SEED, View
from sbt.results import VALIDATION_SCORE

TOKENS = "tokens_per_batch"


def frame(view: View, values: xr.Dataset, axes: Sequence[str]) -> pd.DataFrame:
    """A row for every point of the axes; beside a batch of sequences, its tokens."""
    whole = values.transpose(*axes).expand_dims("_")  # pandas has no table of a single point
    rows = whole.to_dataframe(dim_order=["_", *axes]).reset_index()[[*axes, *values.data_vars]]
    if view.tokens_per_example and BATCH_SIZE in axes:
        tokens = view.tokens_per_example * rows[BATCH_SIZE]
        rows.insert(list(axes).index(BATCH_SIZE) + 1, TOKENS, tokens)
    return rows


def cell_table(view: View) -> pd.DataFrame:
    """Every cell: its score over its seeds, how many finished, how many diverged."""
    names = {f"{view.score.name}_{c}": c for c in ("median", "low", "high")}
    names |= {"seeds_finished": "count", "seeds": "seeds", "seeds_diverged": "diverged"}
    cells = view.cells.drop_vars("seed", errors="ignore")
    return frame(view, xr.Dataset({new: cells[old] for new, old in names.items()}), view.axes)


def run_table(view: View) -> pd.DataFrame:
    """Every run: its reported score and whether and when it diverged."""
    axes = (*view.axes, *([SEED] if SEED in view.reported.dims else []))
    chooses = [VALIDATION_SCORE] if view.validated else []
    runs = view.ds[[view.score.name, *chooses, "diverged", "diverged_epoch"]]
    return frame(view, runs.assign(diverged=runs["diverged"].fillna(0).astype(bool)), axes)


def batch_size_table(view: View) -> pd.DataFrame:
    """For every batch size the best base LR and the stable range.

    Further axes give further rows; the stable range is relative to the best cell of their slice.
    """
    extra = [a for a in view.varying if a not in (BATCH_SIZE, BASE_LR)]
    name, found = view.score.name, []
    for _, part in view.slices((BATCH_SIZE, BASE_LR)):
        bare = part.bare(BATCH_SIZE, BASE_LR)
        best, span = bare.rows, bare.stable_range(bare.margin)
        columns = {
            f"best_{name}": best["score"],
            f"{name}_low": best["low"],
            f"{name}_high": best["high"],
            "best_base_lr": best["best_base_lr"],
            "stable_from": span["low"],
            "stable_to": span["high"],
            "stable_points": span["count"],
            "open_below": span["low_open"],
            "open_above": span["high_open"],
        }
        rows = frame(view, xr.Dataset(columns).drop_vars(extra), [BATCH_SIZE])
        for place, axis in enumerate(extra):
            rows.insert(place, axis, part.ds[axis].item())
        found.append(rows)
    return pd.concat(found, ignore_index=True)


def html_table(header: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "") -> Markup:
    """A table of words; numbers and powers of two are set as such."""
    head = tag("tr", *(tag("th", name) for name in header))
    body = [tag("tr", *(tag("td", rich(str(value))) for value in row)) for row in rows]
    return tag("table", tag("thead", head), tag("tbody", *body), class_=kind)


def batch_size_html(view: View, table: pd.DataFrame) -> Markup:
    """The table of ``batch_size_table``, in words."""
    score, names = view.score, [str(name) for name in table.columns]
    scored = (f"best_{score.name}", f"{score.name}_low", f"{score.name}_high")

    def entry(name: str, value: Any) -> str:
        if name not in scored or np.isnan(value):
            return _entry(name, value)
        return score.text(value) if score.percent or np.isinf(value) else score.number(value)

    def header(name: str) -> str:
        words = name.replace("_", " ")
        return f"{words} [{score.units}]" if name == scored[0] and score.units else words

    rows = [[entry(n, v) for n, v in zip(names, row)] for row in table.to_numpy(object).tolist()]
    return html_table([header(name) for name in names], rows, "numbers")


def _entry(header: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float) and np.isnan(value):
        return "–"
    rate = header in ("best_base_lr", "stable_from", "stable_to")
    return wording.label(BASE_LR if rate else header, value)


def grid_html(view: View, down: str, across: str | None) -> Markup:
    """The score of every cell, shaded, ``down`` against ``across``.

    The best cell is framed, reliable cells are bold, a cell with diverged seeds says how many, a
    cell that has not finished is a dash. Below a batch of sequences stand its tokens.
    """
    shown = (down, across) if across else (down,)
    view = view.bare(*shown)
    cells = view.cells.assign(reliable=view.reliable(view.margin))
    cells = cells.transpose(down, across) if across else cells.expand_dims("_", axis=1)
    median, diverged, gain = (cells[name].values for name in ("median", "diverged", "gain"))
    bold = cells["reliable"].values
    depths = Ordinate.of(view.score, [median]).depth(median)
    highest = np.max(gain, initial=-np.inf, where=~np.isnan(gain))
    heads = [rich(view.score.long_name)]
    if across:
        heads = [_value(view, across, v) for v in view.ds[across].values.tolist()]
    names = [wording.PLAIN_SYMBOLS.get(axis, wording.plain(axis)) for axis in shown]
    corner = " ".join(f"{name} {arrow}" for name, arrow in zip(names, "↓→"))
    tokens = view.tokens_per_example and BATCH_SIZE in shown
    corner_notes = [BREAK, tag("small", "tokens per batch")] if tokens else []
    lines = [tag("tr", tag("th", corner, *corner_notes), *(tag("th", head) for head in heads))]
    for i, value in enumerate(view.ds[down].values.tolist()):
        columns = []
        for j in range(median.shape[1]):
            if np.isnan(median[i, j]):
                columns.append(tag("td", "–"))
                continue
            # White to a light blue: dark text stays readable on all of it, and in grey.
            colour = ",".join(str(round(255 - depths[i, j] * (255 - c))) for c in (158, 202, 225))
            number = view.score.number(float(median[i, j]))
            parts = [tag("b", number) if bold[i, j] else number]
            if count := int(diverged[i, j]):
                parts.append(tag("small", f" ×{count}"))
            best = {"class_": "top"} if gain[i, j] == highest else {}
            columns.append(tag("td", *parts, style=f"background:rgb({colour})", **best))
        lines.append(tag("tr", tag("th", _value(view, down, value)), *columns))
    return tag("table", *lines, class_="grid")


def _value(view: View, axis: str, value: Any) -> Markup:
    """A value of an axis; of a batch of sequences with its tokens."""
    label = rich(wording.label(axis, value))
    if axis != BATCH_SIZE or not view.tokens_per_example:
        return label
    return join([label, tag("small", f"{value * view.tokens_per_example:g}")], BREAK)
