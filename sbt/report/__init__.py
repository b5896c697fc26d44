"""Figures, tables and verdicts of a grid.

``write_report`` makes the whole page. Figures and verdicts for notebooks and papers take a
``View`` of the results; the figure functions return a ``Drawing``, a matplotlib figure with its
caption. A claim of your own is a function decorated with ``claim``. What draws is loaded when it is
first used: verdicts need no matplotlib.
"""

from typing import TYPE_CHECKING

from sbt.lazy import loader

if TYPE_CHECKING:
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

__getattr__ = loader(
    __name__,
    {
        "Drawing": "sbt.report.style",
        "FAILS": "sbt.report.claims",
        "HOLDS": "sbt.report.claims",
        "Interval": "sbt.intervals",
        "ONE_SEED": "sbt.report.claims",
        "OPEN": "sbt.report.claims",
        "Verdict": "sbt.report.claims",
        "View": "sbt.report.view",
        "best_score_summary": "sbt.report.figures",
        "bn_batch_figure": "sbt.report.figures",
        "bootstrap": "sbt.report.seeds",
        "claim": "sbt.report.claims",
        "default_figures": "sbt.report.figures",
        "learning_curves": "sbt.report.figures",
        "longer_training": "sbt.report.claims",
        "measured_figures": "sbt.report.measured",
        "score_vs": "sbt.report.figures",
        "spread": "sbt.report.view",
        "stable_range_summary": "sbt.report.figures",
        "sweep_figure": "sbt.report.figures",
        "verdicts": "sbt.report.claims",
        "write_comparison": "sbt.report.page",
        "write_report": "sbt.report.page",
    },
)
