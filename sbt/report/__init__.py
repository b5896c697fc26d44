"""Figures, tables and verdicts of a grid.

``write_report`` makes the whole page. Figures and verdicts for notebooks and papers take a
``View`` of the results; the figure functions return a ``Drawing``, a matplotlib figure with its
caption. A claim of your own is a function decorated with ``claim``. What draws is loaded when it is
first used: verdicts need no matplotlib. All claims are loaded at once, since results name them.
"""

from typing import TYPE_CHECKING

from sbt.intervals import Interval
from sbt.lazy import loader
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
from sbt.report.seeds import bootstrap
from sbt.report.view import View, spread

if TYPE_CHECKING:
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
    from sbt.report.style import Drawing

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

__getattr__ = loader(
    __name__,
    {
        "Drawing": "sbt.report.style",
        "best_score_summary": "sbt.report.figures",
        "bn_batch_figure": "sbt.report.figures",
        "default_figures": "sbt.report.figures",
        "learning_curves": "sbt.report.figures",
        "measured_figures": "sbt.report.measured",
        "score_vs": "sbt.report.figures",
        "stable_range_summary": "sbt.report.figures",
        "sweep_figure": "sbt.report.figures",
        "write_comparison": "sbt.report.page",
        "write_report": "sbt.report.page",
    },
)
