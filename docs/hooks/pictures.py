"""Pictures of rules and schedules, drawn when the site is built: SVG in the colour of the text."""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import sbt
from sbt import schedules
from sbt.advice.optimum import exponent, parabola
from sbt.schedules import Settings

KEPT = Path(__file__).resolve().parents[2] / "experiments" / "results" / "update_rules"
INK, BLUE, ORANGE = "#010203", "#3b8fc7", "#d9762b"  # ink becomes the colour of the text
STYLE: dict[str, Any] = {
    **{"svg.fonttype": "none", "svg.hashsalt": "sbt", "font.size": 9, "font.family": "sans-serif"},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False},
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}
MARGIN = 0.01  # of accuracy: a rate within it of the best one of its batch size is good, too
PROGRESS = np.linspace(0, 1, 501)


def of(section: str, name: str) -> str:
    """The picture of an entry as HTML; empty where there is nothing to draw."""
    draw = _DRAWN.get(section)
    found = draw(name) if draw else None
    return found or ""


def _html(alt: str, panels: int, draw: Callable[..., None]) -> str:
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(3.2 * panels, 2.1), layout="constrained")
        draw(*np.ravel(figure.subplots(1, panels)))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue().partition("<svg")[2].replace(INK, "currentColor")
    opening = f"<svg role='img' aria-label='{alt}' style='max-width:100%;height:auto'"
    lines = (line.strip() for line in (opening + svg).splitlines())
    return f'<figure class="curve">{" ".join(filter(None, lines))}</figure>'


# --- rules ----------------------------------------------------------------------------------------


@functools.cache
def _kept() -> xr.Dataset | None:
    return sbt.load(KEPT) if (KEPT / "results.nc").exists() else None


def exponent_of(ds: xr.Dataset) -> float:
    """α of η* ∝ m^α, from the highest points of parabolas; NaN where fewer than three are known."""
    rates = np.log2(ds.base_lr.values)
    gain = ds.accuracy.where(~ds.diverged).median("seed")
    best = parabola(rates, -gain.transpose("batch_size", "base_lr").values)
    return float(exponent(ds.batch_size.values, best))


def _rule(name: str) -> str | None:
    """Best accuracy, and the rates that give it, against the batch size."""
    ds = _kept()
    if ds is None or name not in ds.rule.values:
        return None
    own, plain = ds.sel(rule=name), ds.sel(rule="sgd")
    found = exponent_of(own)
    words = f"η* ∝ m^{found:.1f}" if np.isfinite(found) else "η*"

    def draw(left: Any, right: Any) -> None:
        shown = ((plain, "#888888", "sgd"),) * (name != "sgd") + ((own, BLUE, name),)
        for each, colour, label in shown:
            best = each.accuracy.median("seed").fillna(0).idxmax("base_lr")
            seeds = 100 * each.accuracy.sel(base_lr=best)
            middle = seeds.median("seed")
            spread = abs(xr.concat([seeds.min("seed"), seeds.max("seed")], "end") - middle)
            look = {"color": colour, "marker": "o", "markersize": 3, "capsize": 2, "linewidth": 1.2}
            left.errorbar(each.batch_size, middle, spread, label=label, **look)
        left.legend(loc="lower left")
        left.set(title="best accuracy [%]", ylim=(80, 100))
        gain = own.accuracy.median("seed").fillna(0)
        for m in own.batch_size.values:
            at = gain.sel(batch_size=m)
            good = at.base_lr.values[(at >= at.max() - MARGIN).values]
            right.plot([m] * len(good), good, color=ORANGE, alpha=0.45, linewidth=5,
                       marker="o", markeredgewidth=0, solid_capstyle="round")  # fmt: skip
        right.plot(own.batch_size, gain.idxmax("base_lr"), "o-", color=BLUE, markersize=3)
        right.set_yscale("log", base=2)
        right.set(title=f"best learning rate, {words}")
        for panel in (left, right):
            panel.set_xscale("log", base=2)
            panel.set_xticks(own.batch_size.values, map(str, own.batch_size.values), minor=False)
            panel.set_xlabel("batch size m")

    return _html(f"{name}: best accuracy and best learning rate against the batch size", 2, draw)


# --- schedules ------------------------------------------------------------------------------------


def _curve(registry: str, label: str) -> Callable[[str], str | None]:
    def picture(name: str) -> str | None:
        values = getattr(schedules, registry)[name](PROGRESS)
        if values is None:
            return None

        def draw(panel: Any) -> None:
            panel.plot(PROGRESS, values, color=BLUE)
            panel.set(xlabel="progress", ylabel=label, ylim=(0, None))

        return _html(f"{name}: {label} over progress", 1, draw)

    return picture


def _batch(name: str) -> str | None:
    """Of schedules that depend on progress alone."""
    choice = schedules.BATCH_SCHEDULES[name]
    if "feedback" in choice.facts:
        return None
    growth = choice(PROGRESS)

    def draw(panel: Any) -> None:
        panel.plot(PROGRESS, growth.batch, color=BLUE, label="batch size")
        panel.plot(PROGRESS, growth.learning_rate, "--", color=ORANGE, label="learning rate")
        panel.set(xlabel="progress", ylabel="multiple", yscale="log")
        panel.legend()

    return _html(f"{name}: batch size and learning rate over progress", 1, draw)


def _noise(name: str) -> str | None:
    """All three, as multiples of what they begin with."""
    start = Settings(*(jnp.full(PROGRESS.shape, value) for value in (0.1, 128.0, 0.9)))
    choice = schedules.NOISE[name]
    found = choice(PROGRESS, start, largest_batch=4096.0) if "power" in choice.fields else start

    def draw(panel: Any) -> None:
        for field, style, colour in zip(Settings._fields, ("-", "--", ":"), (ORANGE, BLUE, INK),
                                        strict=True):  # fmt: skip
            multiple = getattr(found, field) / getattr(start, field)
            panel.plot(PROGRESS, multiple, style, color=colour, label=field.replace("_", " "))
        panel.set(xlabel="progress", ylabel="multiple", yscale="symlog", ylim=(0, None))
        panel.legend(fontsize=7)

    return _html(f"{name}: learning rate, batch size and momentum over progress", 1, draw)


_DRAWN: dict[str, Callable[[str], str | None]] = {
    "rule": _rule,
    "schedule": _curve("SCHEDULES", "multiple of the peak rate"),
    "momentum_schedule": _curve("MOMENTUM_SCHEDULES", "momentum"),
    "batch_schedule": _batch,
    "noise": _noise,
}
