"""The figure of an advice: updates, examples and learning rates against the batch size."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sbt.report.style import INK, QUIET, UNORDERED, WIDE, Drawing, new_figure, styled

if TYPE_CHECKING:
    from sbt.advice.advise import Advice


@styled
def draw(advice: "Advice") -> Drawing:
    """Three panels; see the caption."""
    found, curve, table = advice.reached, advice.critical, advice.table
    figure, (left, middle, right) = new_figure((WIDE[0] + 1.6, WIDE[1]), 3)
    m, there = found.sizes, np.isfinite(found.fewest)
    fine = np.geomspace(m[there][0], m[there][-1], 200)
    for panel, values, scale in ((left, found.updates, m), (middle, found.fewest, np.ones_like(m))):
        y = values[there]
        if curve is not None and found.seeds > 1:
            ends = np.array([[one.low, one.high] for one in curve.examples])[there]
            reach = np.abs(ends / scale[there, None] - y[:, None]).T
            panel.errorbar(m[there], y, reach, fmt="none", color=QUIET, capsize=2, linewidth=0.9)
        panel.plot(m[there], y, "o", color=INK, zorder=3)
    if curve is not None and curve.known:
        steps = curve.curve.steps(fine)
        style: dict[str, Any] = {"color": UNORDERED[1], "linewidth": 1.1, "zorder": 2}
        left.plot(fine, steps, **style)
        middle.plot(fine, steps * fine, **style)
        for value, text, dash in ((curve.b_crit, "$B_{crit}$", "--"), (curve.twenty, "20 %", ":")):
            if m[0] / 2 <= value.value <= 2 * m[-1]:
                for panel in (left, middle):
                    panel.axvline(value.value, color=UNORDERED[2], linestyle=dash, linewidth=0.9)
                middle.annotate(text, (value.value, 0.98), xycoords=("data", "axes fraction"),
                                xytext=(2, 0), textcoords="offset points", va="top", fontsize=7.5,
                                color=UNORDERED[2])  # fmt: skip
    left.set_ylabel("updates to the target")
    middle.set_ylabel("examples to the target")
    rates = table["η"].values.astype(float)
    if np.isfinite(rates).any():
        right.plot(m, rates, "s", color=QUIET, markersize=3.5, label="best of the grid")
        if advice.rates is not None:
            positions = np.array([one.parabola for one in advice.rates.at]) + advice.rates.shift
            ok = np.isfinite(positions)
            right.plot(m[ok], 2 ** positions[ok], "o", color=INK, label="parabola")
            alpha = advice.rates.exponent.value
            if np.isfinite(alpha):
                height = np.mean(positions[ok] - alpha * np.log2(m[ok]))
                right.plot(
                    fine, 2**height * fine**alpha, color=UNORDERED[1], label=f"$m^{{{alpha:.2f}}}$"
                )
        right.set_yscale("log", base=2)
        right.legend(loc="best")
    right.set_ylabel(r"best learning rate $\eta$ (mean form)")
    for panel in (left, middle, right):
        panel.set_xscale("log", base=2)
        panel.set_xlabel("batch size $m$")
    for panel in (left, middle):
        panel.set_yscale("log")
    score = advice.view.score
    caption = (
        f"Updates (left) and examples (middle) to {score.text(advice.target.value)} "
        f"{score.long_name}, the fewest over all other hyperparameters, median over seeds. "
        + ("Bars: 95 % over seeds. " if found.seeds > 1 else "")
        + ("Curve: the hyperbola; dashed: B_crit = E_min/S_min, dotted: the 20 % definition. "
           if curve is not None and curve.known else "")
        + "Right: the best learning rate in mean form."
    )  # fmt: skip
    return Drawing("advice", figure, caption)
