"""Holds a grid against what Masters & Luschi (2018) state about the figure that it reproduces.

A run that covers less than the paper's protocol (fewer epochs, examples, batch sizes or base
learning rates) still gets its verdicts, each with the words in which it is less: such a verdict is
about the run, not about the paper.
"""

from dataclasses import replace

import numpy as np
import xarray as xr

from sbt.report import dataset, scales, summary
from sbt.report.dataset import BASE_LR, BATCH_SIZE, BN_BATCH, EPOCH
from sbt.report.paper import Outcome, outcome_of, scope_of
from sbt.report.verdict import (
    ENOUGH,
    FAILS,
    HOLDS,
    ONE_SEED,
    OPEN,
    Verdict,
    among,
    finished_rows,
    numbers,
    one_seed,
    percent,
    separated,
    so_far,
)

# (claim, verdict, numbers)
Finding = tuple[str, str, str]


def paper_verdicts(ds: xr.Dataset, margin: float, subject: str = "") -> list[Verdict]:
    """The checks that belong to the figure a dataset reproduces; none for any other dataset."""
    outcome = outcome_of(ds)
    if outcome is None:
        return []
    ds = dataset.prepared(dataset.with_axis(ds, BATCH_SIZE))
    findings: list[Finding] = []
    if outcome.bn_best:
        findings += _bn_batches(ds, outcome)
    elif BN_BATCH not in dataset.varying(ds):
        part = dataset.without_singletons(ds, keep=(BATCH_SIZE, BASE_LR))
        best = (*outcome.best, *outcome.also_best.get(subject, ()))
        findings += _sweep(part, replace(outcome, best=best), margin)
    source = f"Masters & Luschi 2018, {outcome.name}"
    scope, reduced = scope_of(ds, outcome.figure)
    return [so_far(ds, Verdict(*finding, source, scope, subject, reduced)) for finding in findings]


def _sweep(ds: xr.Dataset, outcome: Outcome, margin: float) -> list[Finding]:
    found: list[Finding] = []
    rows = finished_rows(summary.best_over_lr(ds))
    if outcome.best:
        claim = f"The best batch size is one of {numbers(outcome.best)}"
        found.append((claim, *_named(ds, rows, outcome.best)))
    if outcome.lr_limit:
        found.append(lr_limit(ds, rows, outcome.lr_limit, margin))
    if outcome.reach:
        found.append(_reach(ds, rows, outcome.reach, margin))
    if outcome.fails_from:
        found += _fails(ds, rows, outcome.fails_from, margin)
    if outcome.coincide and outcome.at_base_lr:
        found.append(curves_coincide(ds, outcome.coincide, outcome.at_base_lr, margin))
    return found


def _named(ds: xr.Dataset, rows: xr.Dataset, named: tuple[int, ...]) -> tuple[str, str]:
    if not rows.sizes[BATCH_SIZE]:
        return OPEN, "no batch size has finished"
    return among(ds, rows, BATCH_SIZE, named)


def lr_limit(ds: xr.Dataset, rows: xr.Dataset, limit: int, margin: float) -> Finding:
    """Whether the base LR of the best cell is usable up to the stated batch size and no further.

    Usable means reliable (``summary.reliable``), from the best batch size upwards without a gap.
    One step of the batch size grid on either side still agrees.
    """
    claim = f"The best base learning rate is usable only for m ≤ {limit}"
    best = summary.best_cell(ds)
    if not best or BASE_LR not in best or rows.sizes[BATCH_SIZE] < ENOUGH:
        return claim, OPEN, "too few finished batch sizes"
    good = summary.reliable(ds, margin).sel({BASE_LR: best[BASE_LR]})
    sizes = rows[BATCH_SIZE].values.astype(float)
    reach = best[BATCH_SIZE]
    for m in sizes[sizes > best[BATCH_SIZE]]:
        if not bool(good.sel({BATCH_SIZE: m})):
            break
        reach = m
    rate = scales.label(BASE_LR, best[BASE_LR])
    text = f"η̃ = {rate} (best cell, m = {best[BATCH_SIZE]:g}) is reliable up to m = {reach:g}"
    if reach == sizes.max() and reach < 2 * limit:
        return claim, OPEN, f"{text}, the largest that has finished"
    return claim, HOLDS if limit / 2 <= reach <= 2 * limit else FAILS, text


def _reach(ds: xr.Dataset, rows: xr.Dataset, reach: int, margin: float) -> Finding:
    claim = f"Accuracy at m = {reach} is within {100 * margin:g} points of the best"
    if reach not in rows[BATCH_SIZE].values:
        return claim, OPEN, f"m = {reach} has not been measured"
    top, there = float(rows["accuracy"].max()), float(rows["accuracy"].sel({BATCH_SIZE: reach}))
    text = f"{percent(there)} against {percent(top)}"
    return claim, HOLDS if there >= top - margin else FAILS, text


def _fails(ds: xr.Dataset, rows: xr.Dataset, start: int, margin: float) -> list[Finding]:
    """From ``start`` on within ``margin`` of chance at every base LR; smaller batches above."""
    chance = float(ds.attrs.get("chance", np.nan))
    sizes = rows[BATCH_SIZE].values
    found: list[Finding] = []
    for claim, part, sign in (
        (f"m ≥ {start} learns at no base learning rate", rows["accuracy"][sizes >= start], -1),
        (f"m < {start} learns", rows["accuracy"][sizes < start], 1),
    ):
        if not part.size or not np.isfinite(chance):
            found.append((claim, OPEN, "no such batch size has finished"))
            continue
        span = f"{percent(part.min())} to {percent(part.max())}"
        text = f"best accuracy {span}, chance {percent(chance)}"
        agree = bool((sign * (part - chance - margin) > 0).all())
        found.append((claim, HOLDS if agree else FAILS, text))
    return found


def curves_coincide(
    ds: xr.Dataset, sizes: tuple[int, int], base_lr: float, margin: float
) -> Finding:
    """Whether test accuracy over the epochs nearly coincides inside a range of batch sizes.

    "Nearly" is ours: medians over seeds within ``margin`` of each other at every evaluation of the
    second half of training. Larger batch sizes must end lower than all inside the range.
    """
    low, high = sizes
    claim = f"Learning curves nearly coincide for {low} ≤ m ≤ {high} and are worse above"
    if BASE_LR in ds["accuracy"].dims:
        near = np.isclose(ds[BASE_LR].values.astype(float), base_lr, rtol=1e-6)
        if not near.any():
            return claim, OPEN, f"base learning rate {base_lr:g} was not swept"
        ds = ds.isel({BASE_LR: int(np.flatnonzero(near)[0])})
    cell = summary.cells(ds)
    ds = ds.isel({BATCH_SIZE: np.flatnonzero((cell["count"] == cell["seeds"]).values)})
    m = ds[BATCH_SIZE].values.astype(float)
    inside, above = (m >= low) & (m <= high), m > high
    if inside.sum() < ENOUGH or not above.any():
        return claim, OPEN, f"finished batch sizes at this base learning rate: {numbers(m)}"
    curve = summary.spread(ds["test_accuracy"])["median"].dropna(EPOCH, how="all")
    half = curve.isel({EPOCH: slice(curve.sizes[EPOCH] // 2, None)})
    group = half.isel({BATCH_SIZE: np.flatnonzero(inside)})
    gap = float((group.max(BATCH_SIZE) - group.min(BATCH_SIZE)).max())
    final = summary.cells(ds)["median"].values
    text = (
        f"largest gap in the second half {100 * gap:.1f} points; reported accuracy "
        f"{percent(final[inside].min())} to {percent(final[inside].max())}, above m = {high} "
        f"{percent(final[above].min())} to {percent(final[above].max())}"
    )
    good = gap <= margin and final[above].max() < final[inside].min()
    return claim, HOLDS if good else FAILS, text


def _bn_batches(ds: xr.Dataset, outcome: Outcome) -> list[Finding]:
    """Fig. 13: the best BN batch for every SGD batch, and the order of the SGD batches."""
    claim = f"The best BN batch is one of {numbers(outcome.bn_best)} for every SGD batch"
    order = "Smaller SGD batches are better at their best BN batch"
    if BN_BATCH not in dataset.axes(ds):
        return [(claim, OPEN, "BN batches were not swept"), (order, OPEN, "BN batches not swept")]
    # Where a base LR was swept, each pair of batches shows its best one.
    rows = summary.best_over_lr(ds)
    rows = rows.where(rows["complete"])
    words, texts, tops = [], [], []
    for i, m in enumerate(rows[BATCH_SIZE].values.astype(float)):
        column = rows.isel({BATCH_SIZE: i})
        column = column.isel({BN_BATCH: np.flatnonzero(column["accuracy"].notnull().values)})
        if not column.sizes[BN_BATCH]:
            continue
        tops.append((m, column.isel({BN_BATCH: int(np.argmax(column["accuracy"].values))})))
        # A BN batch larger than the SGD batch does not exist.
        possible = [b for b in outcome.bn_best if b <= m]
        if possible and column.sizes[BN_BATCH] > 1:
            word, text = among(ds, column, BN_BATCH, possible)
            words.append(word)
            texts.append(f"m = {m:g}: {text}")
    if not tops:
        return [(claim, OPEN, "nothing has finished"), (order, OPEN, "nothing has finished")]
    decided = next((word for word in (FAILS, ONE_SEED, OPEN) if word in words), HOLDS)
    decided = decided if words else OPEN
    found = [(claim, decided, "; ".join(texts)), (order, *_falling(ds, tops))]
    if dataset.setting(ds, "data.name") == "cifar100":
        text = ", ".join(f"m = {m:g}: {float(top[BN_BATCH]):g}" for m, top in tops)
        # The smallest SGD batch has no smaller BN batch to compare with.
        smallest = float(rows[BN_BATCH].min())
        below = [float(top[BN_BATCH]) < m for m, top in tops if m > smallest]
        word = (HOLDS if all(below) else FAILS) if below else OPEN
        word = ONE_SEED if below and one_seed(ds) else word
        found.append(("The best BN batch is smaller than the SGD batch", word, text))
    return found


def _falling(ds: xr.Dataset, tops: list[tuple[float, xr.Dataset]]) -> tuple[str, str]:
    text = "; ".join(f"m = {m:g}: {percent(top['accuracy'])}" for m, top in tops)
    if len(tops) < ENOUGH:
        return OPEN, f"fewer than {ENOUGH} SGD batches. {text}"
    if one_seed(ds):
        return ONE_SEED, text
    cells = [top for _, top in tops]
    rises = any(separated(ds, b, a) for i, a in enumerate(cells) for b in cells[i + 1 :])
    if rises:
        return FAILS, text
    return (HOLDS if separated(ds, cells[0], cells[-1]) else OPEN), text
