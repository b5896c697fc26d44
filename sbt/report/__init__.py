"""Figures, tables and verdicts of a grid.

``write_report`` makes the whole page. Figures and verdicts for notebooks and papers take a
``View`` of the results; the figure functions return a ``Drawing``, a matplotlib figure with its
caption. A claim of your own is a function decorated with ``claim``.
"""

from sbt.intervals import Interval
from sbt.report import statements as statements
from sbt.report.claims import (
    FAILS,
    HOLDS,
    ONE_SEED,
    OPEN,
    Verdict,
    claim,
    longer_training,
    verdicts,
)
from sbt.report.figures import (
    best_score_summary,
    bn_batch_figure,
    default_figures,
    learning_curves,
    score_vs,
    stable_range_summary,
    sweep_figure,
)
from sbt.report.measured import measured_figures
from sbt.report.page import write_comparison, write_report
from sbt.report.seeds import bootstrap
from sbt.report.style import Drawing
from sbt.report.view import View, spread

__all__ = [
    "FAILS",
    "HOLDS",
    "ONE_SEED",
    "OPEN",
    "Drawing",
    "Interval",
    "Verdict",
    "View",
    "best_score_summary",
    "bn_batch_figure",
    "bootstrap",
    "claim",
    "default_figures",
    "learning_curves",
    "longer_training",
    "measured_figures",
    "score_vs",
    "spread",
    "stable_range_summary",
    "statements",
    "sweep_figure",
    "verdicts",
    "write_comparison",
    "write_report",
]
