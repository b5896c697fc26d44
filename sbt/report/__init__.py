"""Figures, tables and verdicts of a results dataset.

``write_report`` makes the whole page; the figure functions return a ``Drawing`` (a matplotlib
figure with its caption) for notebooks and papers.
"""

from sbt.report.choose import default_figures
from sbt.report.claims import best_falls, longer_training, range_shrinks, verdicts
from sbt.report.comparisons import best_accuracy_summary, stable_range_summary
from sbt.report.figures import (
    accuracy_vs,
    accuracy_vs_base_lr,
    accuracy_vs_batch_size,
    bn_batch_figure,
    sweep_figure,
)
from sbt.report.learning import learning_curves
from sbt.report.measured import measured_figures
from sbt.report.page import write_comparison, write_report
from sbt.report.style import Drawing
from sbt.report.summary import best_over_lr, cells, reliable, spread, stable_range
from sbt.report.verdict import Verdict

__all__ = [
    "Drawing",
    "Verdict",
    "accuracy_vs",
    "accuracy_vs_base_lr",
    "accuracy_vs_batch_size",
    "best_accuracy_summary",
    "best_falls",
    "best_over_lr",
    "bn_batch_figure",
    "cells",
    "default_figures",
    "learning_curves",
    "longer_training",
    "measured_figures",
    "range_shrinks",
    "reliable",
    "spread",
    "stable_range",
    "stable_range_summary",
    "sweep_figure",
    "verdicts",
    "write_comparison",
    "write_report",
]
