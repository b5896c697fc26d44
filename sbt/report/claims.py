"""Verdicts on a grid, in words with numbers: decided by the data or declared undecidable.

Two statements are checked on every grid of batch sizes and base learning rates: that the range of
stable base learning rates shrinks as the batch grows, and that the best accuracy falls at large
batches. Grids that reproduce a figure of Masters & Luschi (2018) are also held against what the
paper says about it (``sbt.report.paper_checks``).
"""

import numpy as np
import xarray as xr

from sbt.report import dataset, paper, paper_checks, scales, summary
from sbt.report.dataset import BASE_LR, BATCH_SIZE, BN_BATCH
from sbt.report.verdict import (
    ENOUGH,
    FAILS,
    HOLDS,
    ONE_SEED,
    OPEN,
    Verdict,
    finished_rows,
    numbers,
    one_seed,
    percent,
    separated,
    so_far,
)


def verdicts(ds: xr.Dataset, margin: float | None = None) -> list[Verdict]:
    """Every verdict that the axes of the grid allow, for each slice along further axes.

    Args:
      ds: results of ``sbt.run``.
      margin: accuracy margin of the stable range (a fraction); ``config.report.margin`` by default.
        The range is judged at this margin and at twice it, because the choice is ours.
    """
    used = dataset.margin_of(ds) if margin is None else margin
    found: list[Verdict] = []
    axes = dataset.varying(ds)
    if BATCH_SIZE in axes and BASE_LR in axes:
        for subject, facet in dataset.facets(ds, (BATCH_SIZE, BASE_LR)):
            part = dataset.without_singletons(facet)
            found += [range_shrinks(part, m, subject) for m in dict.fromkeys((used, 2 * used))]
            found.append(best_falls(part, subject))
    keep = (BATCH_SIZE, BASE_LR, BN_BATCH)
    for subject, part in dataset.facets(ds, keep):
        found += paper_checks.paper_verdicts(part, used, subject)
    return found


def range_shrinks(ds: xr.Dataset, margin: float, subject: str = "") -> Verdict:
    """Whether the stable range of base LRs is narrower, the larger the batch size.

    Widths are counted in grid points. The claim holds if no batch size has a range more than one
    point wider than any smaller one has, and the largest has a narrower one than the smallest. An
    interval that ends at the end of the grid is known to be at least as wide as measured: where
    its true width could turn the verdict, there is none.
    """
    claim = (
        f"Within the swept base learning rates, the stable range shrinks as m grows "
        f"(margin {100 * margin:g} points)"
    )

    def verdict(word: str, text: str) -> Verdict:
        source = "Masters & Luschi 2018, Fig. 16"
        scope, reduced = paper.scope_of(ds, "fig16")
        return so_far(ds, Verdict(claim, word, text, source, scope, subject, reduced))

    span = finished_rows(summary.stable_range(ds, margin))
    rates = ds.sizes.get(BASE_LR, 1)
    if span.sizes[BATCH_SIZE] < ENOUGH or rates < ENOUGH:
        return verdict(OPEN, _too_few(span.sizes[BATCH_SIZE], rates))
    width = span["count"].values
    cut = (span["low_open"] | span["high_open"]).values
    measured = "; ".join(_range_words(span.isel({BATCH_SIZE: i})) for i in range(width.size))
    if width[0] == rates and width[-1] == rates:
        return verdict(
            OPEN, f"every base learning rate is stable: the grid is too narrow. {measured}"
        )
    grows = [(i, j) for j in range(width.size) for i in range(j) if width[j] > width[i] + 1]
    if any(not cut[i] for i, _ in grows):
        return verdict(FAILS, measured)
    if grows:
        return verdict(OPEN, f"the grid cuts the ranges that would decide it. {measured}")
    if width[-1] < width[0]:
        return verdict(HOLDS, measured)
    return verdict(OPEN if cut[0] else FAILS, measured)


def best_falls(ds: xr.Dataset, subject: str = "") -> Verdict:
    """Whether the largest batch size, at its best base LR, is less accurate than the best cell.

    The difference must exceed the noise (``sbt.report.verdict.separated``), which one seed does not
    show. If the largest batch
    size does best at the end of the base LR grid, a wider grid could lift it: no verdict.
    """
    claim = "The best accuracy falls at large m"

    def verdict(word: str, text: str) -> Verdict:
        source = "Masters & Luschi 2018, Fig. 15"
        scope, reduced = paper.scope_of(ds, "fig15")
        return so_far(ds, Verdict(claim, word, text, source, scope, subject, reduced))

    rows = finished_rows(summary.best_over_lr(ds))
    rates = ds.sizes.get(BASE_LR, 1)
    if rows.sizes[BATCH_SIZE] < ENOUGH or rates < ENOUGH:
        return verdict(OPEN, _too_few(rows.sizes[BATCH_SIZE], rates))
    top = rows.isel({BATCH_SIZE: int(np.argmax(rows["accuracy"].values))})
    last = rows.isel({BATCH_SIZE: -1})
    drop = float(top["accuracy"] - last["accuracy"])
    measured = (
        f"best {_cell_words(top)}; largest batch size {_cell_words(last)}: "
        f"{100 * drop:.1f} points lower"
    )
    if one_seed(ds):
        return verdict(ONE_SEED, measured)
    if separated(ds, top, last):
        if bool(last["edge"]):
            return verdict(OPEN, f"{measured}, but at the end of the base learning rates")
        return verdict(HOLDS, measured)
    if drop <= summary.resolution(ds, float(top["accuracy"])):
        return verdict(FAILS, measured)
    return verdict(OPEN, f"{measured}, within the spread of the seeds")


def longer_training(short: xr.Dataset, long: xr.Dataset) -> Verdict:
    """Whether more epochs help, large batches more than small ones (Figs 8, 17, 18, appendix A).

    Gains are differences of the best accuracy of a batch size. The claim holds if the gain of the
    largest common batch size exceeds the median gain of the others, and is beyond the noise, while
    the best batch size of the longer training stays better than the largest.
    """
    claim = "Longer training helps large m most, which still stay below small m"
    source = "Masters & Luschi 2018, Figs 17 and 18"
    scopes = [paper.scope_of(ds, figure) for ds, figure in ((short, "fig17"), (long, "fig18"))]
    scope = "; then ".join(dict.fromkeys(words for words, _ in scopes))
    reduced = any(less for _, less in scopes)
    a, b = (finished_rows(summary.best_over_lr(ds)) for ds in (short, long))
    common = np.intersect1d(a[BATCH_SIZE].values, b[BATCH_SIZE].values)
    if common.size < ENOUGH:
        measured = f"{common.size} batch sizes finished in both"
        return Verdict(claim, OPEN, measured, source, scope, reduced=reduced)

    def verdict(word: str) -> Verdict:
        found = Verdict(claim, word, measured, source, scope, reduced=reduced)
        return so_far(short, so_far(long, found))

    a, b = a.sel({BATCH_SIZE: common}), b.sel({BATCH_SIZE: common})
    gain = (b["accuracy"] - a["accuracy"]).values
    measured = "gain in points by batch size: " + ", ".join(
        f"{m:g}: {100 * g:+.1f}" for m, g in zip(common, gain)
    )
    if one_seed(short) or one_seed(long):
        return verdict(ONE_SEED)
    last_a, last_b = a.isel({BATCH_SIZE: -1}), b.isel({BATCH_SIZE: -1})
    top = b.isel({BATCH_SIZE: int(np.argmax(b["accuracy"].values))})
    grew, below = separated(long, last_b, last_a), separated(long, top, last_b)
    most = gain[-1] > np.median(gain[:-1])
    if grew and below and most:
        return verdict(HOLDS)
    overlap = gain[-1] > 0 and top["accuracy"] > last_b["accuracy"] and most
    return verdict(OPEN if overlap else FAILS)


def _too_few(sizes: int, rates: int) -> str:
    return (
        f"{sizes} finished batch sizes × {rates} base learning rates; "
        f"at least {ENOUGH} of each are needed"
    )


def _range_words(row: xr.Dataset) -> str:
    m = f"m = {float(row[BATCH_SIZE]):g}"
    count = int(row["count"])
    if not count:
        return f"{m}: none"
    low, high = (scales.label(BASE_LR, float(row[end])) for end in ("low", "high"))
    ends = [end for end in ("low", "high") if bool(row[f"{end}_open"])]
    cut = f", open at the {' and '.join(ends)} end" if ends else ""
    points = "1 point" if count == 1 else f"{count} points"
    return f"{m}: {low} to {high} ({points}{cut})" if count > 1 else f"{m}: {low} ({points}{cut})"


def _cell_words(row: xr.Dataset) -> str:
    rate = scales.label(BASE_LR, float(row["best_base_lr"]))
    return f"{percent(row['accuracy'])} at m = {numbers([float(row[BATCH_SIZE])])}, η̃ = {rate}"
