"""Which figures a grid gets: the axes that it has decide."""

import xarray as xr

from sbt.report import comparisons, dataset, figures, learning
from sbt.report.comparisons import MOST_CURVES
from sbt.report.dataset import BASE_LR, BATCH_SIZE, BN_BATCH
from sbt.report.style import Drawing

# More slices than this make a page that nobody reads; the tables have them all.
MOST_SLICES = 6


def plane(ds: xr.Dataset) -> tuple[str, ...]:
    """The one or two axes that figures of a grid run along; the others are sliced.

    Batch size and base LR if both vary; else the BN batch with the batch size; else whatever
    varies, a numeric axis with more values before one with fewer, names last.
    """
    free = dataset.varying(ds)
    for pair in ((BATCH_SIZE, BASE_LR), (BN_BATCH, BATCH_SIZE)):
        if set(pair) <= set(free):
            return pair

    def rank(axis: str) -> tuple[bool, bool, int]:
        return not dataset.is_numeric(ds, axis), axis not in (BATCH_SIZE, BASE_LR), -ds.sizes[axis]

    return tuple(sorted(free, key=rank)[:2])


def default_figures(ds: xr.Dataset, margin: float | None = None) -> list[Drawing]:
    """The figures of a report.

    A grid of batch sizes and base LRs gets both views of the sweep, the best accuracy, the stable
    range and learning curves; any other two axes get both views; one axis gets one; a single point
    gets learning curves only. Further axes are sliced, and compared where there is a comparison;
    a sweep of more slices than ``MOST_CURVES``, all update rules for instance, is about the
    comparison, and gets that alone.

    Args:
      ds: results of ``sbt.run``.
      margin: accuracy margin of the stable range; ``config.report.margin`` by default.
    """
    axes = plane(ds)
    found: list[Drawing] = []
    if not bool(ds["test_accuracy"].notnull().any()):
        return found
    finished = bool(ds["accuracy"].notnull().any())
    slices = list(dataset.facets(ds, axes))
    if finished and axes == (BATCH_SIZE, BASE_LR) and len(slices) > MOST_CURVES:
        return [comparisons.best_accuracy_summary(dict(slices))]
    shown = [
        (title, part, f"_{i + 1}" if len(slices) > 1 else "")
        for i, (title, part) in enumerate(slices[:MOST_SLICES])
    ]
    if finished:
        for title, part, suffix in shown:
            found += _along(part, axes, title, suffix)
    if finished and axes == (BATCH_SIZE, BASE_LR):
        grids = dict(slices)
        compared = [
            comparisons.best_accuracy_summary(grids),
            comparisons.stable_range_summary(grids, margin),
        ]
        # Where there is something to compare, the comparison is the point of the sweep.
        found = [*compared, *found] if len(slices) > 1 else [*found, *compared]
        if BN_BATCH in dataset.varying(ds):
            for i, (title, part) in enumerate(dataset.facets(ds, (*axes, BN_BATCH))):
                if i < MOST_SLICES:
                    found.append(figures.bn_batch_figure(part, title, f"bn_batch_{i + 1}"))
    pinned = dataset.setting(ds, "report.curves_base_lr")
    for title, part, suffix in shown:
        name = f"learning_curves{suffix}"
        found.append(learning.learning_curves(part, pinned, title=title, name=name))
    return found


def _along(ds: xr.Dataset, axes: tuple[str, ...], title: str, suffix: str) -> list[Drawing]:
    if not axes:
        return []
    if axes == (BN_BATCH, BATCH_SIZE):
        return [figures.bn_batch_figure(ds, title, f"bn_batch{suffix}")]
    if len(axes) == 1:
        return [
            figures.accuracy_vs(ds, axes[0], title=title, name=f"accuracy_vs_{axes[0]}{suffix}")
        ]
    first, second = axes
    if dataset.is_numeric(ds, second):
        return [figures.sweep_figure(ds, (first, second), title, f"sweep{suffix}")]
    name = f"accuracy_vs_{first}{suffix}"
    return [figures.accuracy_vs(ds, first, second, title=title, name=name)]
