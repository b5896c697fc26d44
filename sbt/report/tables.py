"""Numbers behind the figures, as rows, as CSV and as HTML."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sbt.report import dataset, scales, summary
from sbt.report.dataset import BASE_LR, BATCH_SIZE, SEED
from sbt.report.markup import Markup, rich, tag


@dataclass(frozen=True)
class Table:
    """Named columns and rows of plain values (None where there is none)."""

    name: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def csv(self) -> str:
        """Comma-separated text with a header line; numbers in full precision."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([["" if v is None else v for v in row] for row in self.rows])
        return buffer.getvalue()


def cell_table(ds: xr.Dataset) -> Table:
    """Every cell: accuracy over its seeds, how many finished, how many diverged."""
    axes = dataset.axes(ds)
    cell = summary.cells(dataset.prepared(ds)).transpose(*axes)
    columns = ("median", "low", "high")
    counts = ("count", "seeds", "diverged")
    rows = [
        (
            *_point(cell, axes, index),
            *(_number(cell[c].values[index]) for c in columns),
            *(int(cell[c].values[index]) for c in counts),
        )
        for index in np.ndindex(*(cell.sizes[a] for a in axes))
    ]
    names = (f"accuracy_{c}" for c in columns)
    return Table("accuracy", (*axes, *names, "seeds_finished", "seeds", "seeds_diverged"), rows)


def run_table(ds: xr.Dataset) -> Table:
    """Every run: its reported accuracy and whether and when it diverged."""
    axes = (*dataset.axes(ds), *([SEED] if SEED in ds["accuracy"].dims else []))
    runs = dataset.prepared(ds)[["accuracy", "diverged", "diverged_epoch"]].transpose(*axes)
    rows = [
        (
            *_point(runs, axes, index),
            _number(runs["accuracy"].values[index]),
            bool(np.nan_to_num(runs["diverged"].values[index])),
            _number(runs["diverged_epoch"].values[index]),
        )
        for index in np.ndindex(*(runs.sizes[a] for a in axes))
    ]
    return Table("runs", (*axes, "accuracy", "diverged", "diverged_epoch"), rows)


def batch_size_table(ds: xr.Dataset, margin: float) -> Table | None:
    """For every batch size the best base LR and the stable range; None without these axes.

    Further axes give further rows; the stable range is relative to the best cell of their slice.
    """
    if not {BATCH_SIZE, BASE_LR} <= set(dataset.varying(ds)):
        return None
    extra = [a for a in dataset.varying(ds) if a not in (BATCH_SIZE, BASE_LR)]
    rows: list[tuple[Any, ...]] = []
    for _, part in dataset.facets(ds, (BATCH_SIZE, BASE_LR)):
        bare = dataset.without_singletons(part, keep=(BATCH_SIZE, BASE_LR))
        best = summary.best_over_lr(bare)
        span = summary.stable_range(bare, margin)
        fixed = tuple(part[a].item() for a in extra)
        for i, m in enumerate(best[BATCH_SIZE].values.tolist()):
            a, b = best.isel({BATCH_SIZE: i}), span.isel({BATCH_SIZE: i})
            measured = [_number(a[v].item()) for v in ("accuracy", "low", "high", "best_base_lr")]
            ends = [_number(b[v].item()) for v in ("low", "high")]
            opened = [bool(b[v].item()) for v in ("low_open", "high_open")]
            rows.append((*fixed, m, *measured, *ends, int(b["count"]), *opened))
    header = (
        *extra,
        BATCH_SIZE,
        "best_accuracy",
        "accuracy_low",
        "accuracy_high",
        "best_base_lr",
        "stable_from",
        "stable_to",
        "stable_points",
        "open_below",
        "open_above",
    )
    return Table("batch_sizes", header, rows)


def html_table(header: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "") -> Markup:
    """A table of words; numbers and powers of two are set as such."""
    head = tag("tr", *(tag("th", name) for name in header))
    body = [tag("tr", *(tag("td", rich(str(value))) for value in row)) for row in rows]
    return tag("table", tag("thead", head), tag("tbody", *body), class_=kind)


def grid_html(ds: xr.Dataset, down: str, across: str | None, margin: float) -> Markup:
    """Accuracy per cell in percent, shaded, ``down`` against ``across``.

    The best cell is framed, reliable cells are bold, a cell with diverged seeds says how many, a
    cell that has not finished is a dash.
    """
    shown = (down, across) if across else (down,)
    ds = dataset.prepared(dataset.without_singletons(ds, keep=shown))
    cell = summary.cells(ds)
    good = summary.reliable(ds, margin)
    if across is None:
        cell, good = cell.expand_dims("_"), good.expand_dims("_")
    cell = cell.transpose(down, across or "_")
    median, diverged = cell["median"].values, cell["diverged"].values
    bold = good.transpose(down, across or "_").values
    known = median[np.isfinite(median)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    heads = (
        [scales.label(across, v) for v in ds[across].values.tolist()] if across else ["accuracy"]
    )
    names = [scales.PLAIN_SYMBOLS.get(axis, scales.plain(axis)) for axis in shown]
    corner = " ".join(f"{name} {arrow}" for name, arrow in zip(names, "↓→"))
    lines = [tag("tr", tag("th", corner), *(tag("th", rich(head)) for head in heads))]
    for i, value in enumerate(ds[down].values.tolist()):
        cols = []
        for j in range(median.shape[1]):
            if not np.isfinite(median[i, j]):
                cols.append(tag("td", "–"))
                continue
            # White to a light blue: dark text stays readable on all of it, and in grey.
            depth = (median[i, j] - low) / (high - low) if high > low else 0.0
            colour = ",".join(str(round(255 - depth * (255 - c))) for c in (158, 202, 225))
            number = f"{100 * median[i, j]:.1f}"
            parts = [tag("b", number) if bold[i, j] else number]
            if count := int(diverged[i, j]):
                parts.append(tag("small", f" ×{count}"))
            frame = {"class_": "top"} if median[i, j] == high else {}
            cols.append(tag("td", *parts, style=f"background:rgb({colour})", **frame))
        lines.append(tag("tr", tag("th", rich(scales.label(down, value))), *cols))
    return tag("table", *lines, class_="grid")


def _point(ds: xr.Dataset, axes: Sequence[str], index: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(ds[a].values[i].item() for a, i in zip(axes, index))


def _number(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
