"""One look for every figure: readable in print, in grey, and without full colour vision.

Curves differ by colour, marker and line style at once. Ordered families (batch sizes, base LRs)
run through a perceptually uniform map whose lightness rises steadily, so that their order survives
a grey print. Figures are plain ``matplotlib.figure.Figure`` objects: no pyplot, no global state.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import matplotlib.colors
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names

from sbt.files import write_bytes
from sbt.text import printable

OTHER_SCRIPTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Noto Emoji", "Symbola"),
)
RC: dict[str, Any] = {
    "font.family": "sans-serif",
    # The first comes with matplotlib; the others are asked for characters that it lacks.
    "font.sans-serif": ["DejaVu Sans", *(f for f in OTHER_SCRIPTS if f in get_font_names())],
    "mathtext.fontset": "dejavusans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.labelspacing": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.2,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.unicode_minus": True,
    "figure.dpi": 110,
    "savefig.dpi": 200,
    # Text as outlines in SVG (the same on every machine), as TrueType in PDF (searchable).
    "svg.fonttype": "path",
    "svg.hashsalt": "sbt",
    "pdf.fonttype": 42,
}
INK = "#333333"
QUIET = "#777777"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)))
# Families without an order: Okabe & Ito's palette, black first and without its yellow (too light on
# paper), then four of Tol's for large families.
UNORDERED = (
    *("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#882255", "#999933", "#332288", "#888888"),
)
LONGEST_STEM = 100
WIDE = (9.2, 3.7)
WIDER = (12.6, 3.7)
SINGLE = (5.6, 3.7)

F = TypeVar("F", bound=Callable[..., Any])


def styled(function: F) -> F:
    """Decorator: draw with the settings above and leave the caller's settings alone."""

    @functools.wraps(function)
    def inside(*args, **kwargs):
        with matplotlib.rc_context(RC):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return inside  # type: ignore[return-value]


def pale(colour: str) -> tuple[float, ...]:
    """The colour mixed with white: opaque, so that grid lines do not show through."""
    return tuple(0.4 * c + 0.6 for c in matplotlib.colors.to_rgb(colour))


@dataclass(frozen=True)
class Drawing:
    """A figure with the words that belong under it.

    Attributes:
      name: stem of its files.
      figure: the matplotlib figure.
      caption: what is drawn, and what line, band and marks mean.
    """

    name: str
    figure: Figure
    caption: str

    _rendered: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @styled
    def render(self, kind: str) -> bytes:
        """The figure as ``png``, ``svg`` or ``pdf``, the same bytes for the same data.

        Rendered once per kind: change ``figure`` before the first call.
        """
        if kind in self._rendered:
            return self._rendered[kind]
        buffer = io.BytesIO()
        caption = printable(self.caption)
        undated: dict[str, dict[str, Any]] = {
            "svg": {"Date": None, "Description": caption},
            "pdf": {"CreationDate": None, "Subject": caption},
            "png": {"Description": caption},
        }
        with warnings.catch_warnings():
            # A character that no font here has is drawn as a box, decorations that leave a panel
            # no room lie on it: neither is a reason to bother who asked for a report.
            for message in ("Glyph .* missing from", "constrained_layout not applied"):
                warnings.filterwarnings("ignore", message, UserWarning)
            self.figure.savefig(buffer, format=kind, metadata=undated[kind])
        self._rendered[kind] = buffer.getvalue()
        return self._rendered[kind]

    def save(self, directory: Path | str, kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
        """Writes ``directory/name.kind`` for every kind and returns the paths."""
        stem = re.sub(r"[^\w.-]+", "_", self.name)[:LONGEST_STEM]  # a name may hold anything
        return [
            write_bytes(Path(directory) / f"{stem}.{kind}", self.render(kind)) for kind in kinds
        ]

    def _repr_png_(self) -> bytes:
        return self.render("png")


def new_figure(size: tuple[float, float], columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, drawn by the Agg renderer and laid out automatically."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, columns, squeeze=False)
    return figure, list(panels[0])


def footnote(figure: Figure, text: str) -> None:
    """A quiet line under the panels that says what line, band and marks mean."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color=QUIET)


def looks(count: int, ordered: bool) -> list[dict[str, Any]]:
    """Colour, marker and line style of every curve of a family."""
    if ordered and count > 1:
        # The light end of the map would vanish on white paper.
        shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.86, count))
        colours = [matplotlib.colors.to_hex(c) for c in shades]
    else:
        colours = [UNORDERED[i % len(UNORDERED)] for i in range(count)]
    return [
        {
            "color": colours[i],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[i % len(LINES)],
        }
        for i in range(count)
    ]


def banded(
    panel: Axes, x: np.ndarray, row: xr.Dataset, look: dict[str, Any], text: str | None, **extra
) -> None:
    """A curve through ``row.median`` with its band ``row.low`` to ``row.high``."""
    low, high = row["low"].values, row["high"].values
    if np.nanmax(np.append(high - low, 0.0)) > 0:
        panel.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)
    panel.plot(x, row["median"].values, label=text, **{**look, **extra})


def legend(panel: Axes, heading: str) -> None:
    """A compact legend to the right of the panel."""
    if panel.get_legend_handles_labels()[0]:  # a curve without a name has none
        panel.legend(title=heading, loc="upper left", bbox_to_anchor=(1.0, 1.02))
