"""An advice in words: the paragraph that can be quoted."""

from typing import TYPE_CHECKING

import numpy as np

from sbt.advice import words
from sbt.advice.targets import left_out
from sbt.report.tuning import is_decay

if TYPE_CHECKING:
    from sbt.advice.advise import Advice


def paragraph(advice: "Advice") -> str:
    """The paragraph that can be quoted."""
    told = [
        _to_target(advice),
        _critical(advice),
        _rates(advice),
        *_others(advice),
        *_choices(advice),
    ]
    told += [f"For {one}." for one in advice.recommendations]
    if first := advice.recommendations[0].wrong:
        told.append(f"To be wrong about the first costs: {first}.")
    return " ".join(filter(None, told))


def _to_target(advice: "Advice") -> str:
    found, score = advice.reached, advice.view.score
    fast = np.isfinite(found.fewest)
    i = int(np.argmin(found.fewest))
    how = f"median of {found.seeds} seeds" if found.seeds > 1 else "one seed, no intervals"
    left = left_out(advice.view).values
    if left.any():
        name, whole = advice.view.setting("search.name"), left.size - left.sum()
        how += f"; {name} trained {whole} of {left.size} runs to their end"
    text = (
        f"To {score.text(advice.target.value)} {score.long_name} ({how}) "
        f"m = {found.sizes[i]:g} needs fewest examples, "
        f"{'at most ' * bool(found.bounded[i])}{words.number(found.fewest[i])}"
    )
    last = int(np.flatnonzero(fast)[-1])
    if last != i:
        text += (
            f"; m = {found.sizes[last]:g} needs {found.fewest[last] / found.fewest[i]:.2g} "
            f"times as many, in {words.number(found.updates[last])} updates instead of "
            f"{words.number(found.updates[i])}"
        )
    for some, what in (
        (~fast & ~found.unknown, "never"),
        (found.unknown, "stopped before it could be"),
    ):
        if some.any():
            text += f"; m = {words.listed(found.sizes[some])}: {what} reached"
    return f"{text}."


def _critical(advice: "Advice") -> str:
    one = advice.critical
    if one is None:
        return ""
    if not one.known:
        if not np.isfinite(one.curve.b_crit):
            return "Too few batch sizes reach the target for a critical batch size."
        side = "above" if int(one.curve.beyond) > 0 else "below"
        return f"The curve does not bend: the critical batch size lies far {side} the grid."
    sizes = advice.reached.sizes
    text = (
        f"The critical batch size E_min/S_min (McCandlish et al.) is "
        f"{words.size_interval(one.b_crit, sizes)}; "
        f"by the 20 % definition (Zhang et al., against m = {one.reference:g}) it is "
        f"{words.size_interval(one.twenty, sizes)}"
    )
    off = f"{np.expm1(float(one.curve.rms)):.0%} root mean square"
    return f"{text}; the hyperbola fits to {off}." if one.fits else (
        f"{text}, but the hyperbola fits badly ({off}), so that neither should be relied on."
    )  # fmt: skip


def _rates(advice: "Advice") -> str:
    one = advice.rates
    if one is None or not np.isfinite(one.exponent.value):
        return ""
    alpha = one.exponent
    text = f"The best learning rate in mean form grows as m^α with α = {words.plain(alpha)}"
    if np.isfinite(one.by_akima.value):
        text += f" (by splines {one.by_akima.value:.2f})"
    if np.isfinite(alpha.low):
        inside = [f"{v:g}" for v in (0, 0.5, 1) if alpha.low <= v <= alpha.high]
        text += f": of 0, 0.5 and 1 it admits {', '.join(inside) or 'none'}"
    if one.forms:
        best = min(one.forms, key=one.forms.__getitem__)
        near = [n for n, v in one.forms.items() if n != best and v - one.forms[best] < 2]
        text += f"; by AIC the best form is {best}"
        text += f", not told from {', '.join(near)}" if near else ""
    return f"{text}."


def _others(advice: "Advice") -> list[str]:
    """How the best values of other axes move."""
    found = []
    for one in advice.others:
        if np.isfinite(one.exponent.value):
            values = advice.view.ds[one.axis].values.astype(float)
            of = "half-life of " * is_decay(one.axis, values)
            unit = " in examples" * bool(of)
            name = one.axis.replace("__", ".")
            found.append(f"The best {of}{name}{unit} moves as m^{words.plain(one.exponent)}.")
    return found


def _choices(advice: "Advice") -> list[str]:
    """Which value of an axis without an order is best where, and what the others cost."""
    found = []
    for axis in dict.fromkeys(one.axis for one in advice.choices):
        values = [one for one in advice.choices if one.axis == axis]
        told = [
            f"{one.value} is best at m = {words.listed(one.best_at)}"
            for one in values
            if one.best_at.size
        ]
        for one in values:
            if np.isinf(one.times.value):
                told.append(f"{one.value} never reaches the target")
            elif one.times.value != 1:
                told.append(
                    f"{one.value} needs {words.plain(one.times)} times as many examples at its best"
                    if np.isfinite(one.times.value)
                    else f"{one.value} was stopped before it could reach it"
                )
        found.append(f"Of {axis.replace('__', '.')}, {', '.join(told)}.")
    return found
