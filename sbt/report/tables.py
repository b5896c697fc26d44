"""The numbers behind the figures: as data frames, which write CSV, and as HTML."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sbt.report import scales
from sbt.report.markup import Markup, rich, tag
from sbt.report.view import BASE_LR, BATCH_SIZE, SEED, View


def frame(values: xr.Dataset, axes: Sequence[str]) -> pd.DataFrame:
    """A row for every point of the axes; numbers that are not finite are missing."""
    whole = values.transpose(*axes).expand_dims("_")  # pandas has no table of a single point
    rows = whole.to_dataframe(dim_order=["_", *axes]).reset_index()
    return rows[[*axes, *values.data_vars]].replace([np.inf, -np.inf], np.nan)


def cell_table(view: View) -> pd.DataFrame:
    """Every cell: accuracy over its seeds, how many finished, how many diverged."""
    names = {f"accuracy_{c}": c for c in ("median", "low", "high")}
    names |= {"seeds_finished": "count", "seeds": "seeds", "seeds_diverged": "diverged"}
    cells = view.cells.drop_vars("seed", errors="ignore")
    return frame(xr.Dataset({new: cells[old] for new, old in names.items()}), view.axes)


def run_table(view: View) -> pd.DataFrame:
    """Every run: its reported accuracy and whether and when it diverged."""
    axes = (*view.axes, *([SEED] if SEED in view.ds["accuracy"].dims else []))
    runs = view.ds[["accuracy", "diverged", "diverged_epoch"]]
    return frame(runs.assign(diverged=runs["diverged"].fillna(0).astype(bool)), axes)


def batch_size_table(view: View) -> pd.DataFrame:
    """For every batch size the best base LR and the stable range.

    Further axes give further rows; the stable range is relative to the best cell of their slice.
    """
    extra = [a for a in view.varying if a not in (BATCH_SIZE, BASE_LR)]
    found = []
    for _, part in view.slices((BATCH_SIZE, BASE_LR)):
        bare = part.bare(BATCH_SIZE, BASE_LR)
        best, span = bare.rows, bare.stable_range(bare.margin)
        columns = {
            "best_accuracy": best["accuracy"],
            "accuracy_low": best["low"],
            "accuracy_high": best["high"],
            "best_base_lr": best["best_base_lr"],
            "stable_from": span["low"],
            "stable_to": span["high"],
            "stable_points": span["count"],
            "open_below": span["low_open"],
            "open_above": span["high_open"],
        }
        rows = frame(xr.Dataset(columns).drop_vars(extra), [BATCH_SIZE])
        for place, axis in enumerate(extra):
            rows.insert(place, axis, part.ds[axis].item())
        found.append(rows)
    return pd.concat(found, ignore_index=True)


def html_table(header: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "") -> Markup:
    """A table of words; numbers and powers of two are set as such."""
    head = tag("tr", *(tag("th", name) for name in header))
    body = [tag("tr", *(tag("td", rich(str(value))) for value in row)) for row in rows]
    return tag("table", tag("thead", head), tag("tbody", *body), class_=kind)


def batch_size_html(table: pd.DataFrame) -> Markup:
    """The table of ``batch_size_table``, in words."""
    names = [str(name) for name in table.columns]
    words = [[_entry(n, v) for n, v in zip(names, row)] for row in table.to_numpy(object).tolist()]
    return html_table([name.replace("_", " ") for name in names], words, "numbers")


def _entry(header: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float) and np.isnan(value):
        return "–"
    if "accuracy" in header:
        return f"{100 * value:.1f} %"
    rate = header in ("best_base_lr", "stable_from", "stable_to")
    return scales.label(BASE_LR if rate else header, value)


def grid_html(view: View, down: str, across: str | None) -> Markup:
    """Accuracy per cell in percent, shaded, ``down`` against ``across``.

    The best cell is framed, reliable cells are bold, a cell with diverged seeds says how many, a
    cell that has not finished is a dash.
    """
    shown = (down, across) if across else (down,)
    view = view.bare(*shown)
    cells = view.cells.assign(reliable=view.reliable(view.margin))
    cells = cells.transpose(down, across) if across else cells.expand_dims("_", axis=1)
    median, diverged = cells["median"].values, cells["diverged"].values
    bold = cells["reliable"].values
    known = median[np.isfinite(median)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    heads = ["accuracy"]
    if across:
        heads = [scales.label(across, v) for v in view.ds[across].values.tolist()]
    names = [scales.PLAIN_SYMBOLS.get(axis, scales.plain(axis)) for axis in shown]
    corner = " ".join(f"{name} {arrow}" for name, arrow in zip(names, "↓→"))
    lines = [tag("tr", tag("th", corner), *(tag("th", rich(head)) for head in heads))]
    for i, value in enumerate(view.ds[down].values.tolist()):
        columns = []
        for j in range(median.shape[1]):
            if not np.isfinite(median[i, j]):
                columns.append(tag("td", "–"))
                continue
            # White to a light blue: dark text stays readable on all of it, and in grey.
            depth = (median[i, j] - low) / (high - low) if high > low else 0.0
            colour = ",".join(str(round(255 - depth * (255 - c))) for c in (158, 202, 225))
            number = f"{100 * median[i, j]:.1f}"
            parts = [tag("b", number) if bold[i, j] else number]
            if count := int(diverged[i, j]):
                parts.append(tag("small", f" ×{count}"))
            best = {"class_": "top"} if median[i, j] == high else {}
            columns.append(tag("td", *parts, style=f"background:rgb({colour})", **best))
        lines.append(tag("tr", tag("th", rich(scales.label(down, value))), *columns))
    return tag("table", *lines, class_="grid")
