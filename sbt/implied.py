"""What the laws of a config make of each batch size: learning rate, decays and weight decay."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from sbt.optim import RULES
from sbt.schedules.scaling import LAWS, Scaled, Size
from sbt.text import one_line

RATE = "learning_rate"
SYMBOLS = {
    RATE: "η", "b1": "β1", "b2": "β2", "b3": "β3", "beta": "β", "momentum": "β", "decay": "β",
    "eps": "ε", "weight_decay": "λ",
}  # fmt: skip
TITLE = "Hyperparameters by batch size"
ABOUT = (
    "What base learning rate and config.scaling stand for at each m, before any schedule: learning "
    "rate in mean form, and what the law sets; from … to over the grid."
)


class Row(NamedTuple):
    """The hyperparameters of the runs of one batch size.

    Attributes:
      rule: update rule.
      law: ``config.scaling.name``.
      batch_size: m.
      tokens: of a batch; 0 where they are not counted.
      numbers: the least and the largest of each, by name; the rate, and what the law changes.
    """

    rule: str
    law: str
    batch_size: int
    tokens: int
    numbers: Mapping[str, tuple[float, float]]


def rows(
    config: ConfigDict, settings: Sequence[Mapping[str, Any]], *, tokens: int, budget: int
) -> list[Row]:
    """Those of runs of one rule and one law, in the order of m; none where nothing follows m.

    Args:
      config: what the runs share.
      settings: of each run, by dotted path.
      tokens: T, of each example; 0 where they are not counted.
      budget: D, examples of the whole training.
    """
    rule, law = RULES.configured(config.rule), LAWS.configured(config.scaling)
    given = law.numbers
    if law.name == "fixed" and not given and config.lr_scaling == "none":
        return []

    def each(path: str, default: Any) -> np.ndarray:
        return np.asarray([one.get(path, default) for one in settings], float)

    own = {name: each(f"rule.{name}", value) for name, value in rule.numbers.items()}
    fields = {name: each(f"scaling.{name}", value) for name, value in given.items()}
    batch = each("batch_size", config.batch_size)
    base, size = Scaled(each("base_lr", config.base_lr), own), Size(batch, tokens, budget)
    made = law(base, size, config.lr_scaling, **fields)
    found = {RATE: made.learning_rate}
    found |= {name: value for name, value in made.rule.items() if value is not own.get(name)}
    result = []
    for m in sorted(set(batch.tolist())):
        of_m = {name: np.asarray(value, float)[batch == m] for name, value in found.items()}
        ends = {name: (float(v.min()), float(v.max())) for name, v in of_m.items()}
        result.append(Row(rule.name, law.name, int(m), int(m) * tokens, ends))
    return result


def together(parts: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of several groups of runs as one table: a row for each rule, law and m."""
    found: dict[tuple[str, str, int], Row] = {}
    for row in sorted((row for part in parts for row in part), key=lambda row: row[:3]):
        before = found.get(row[:3], row)
        ends = {
            name: (min(low, before.numbers[name][0]), max(high, before.numbers[name][1]))
            for name, (low, high) in row.numbers.items()
            if name in before.numbers
        }
        found[row[:3]] = row._replace(numbers=ends)
    return list(found.values())


def as_json(table: Sequence[Row]) -> list[list[Any]]:
    """As plain values, for :func:`of_json`."""
    return [[*row[:4], {name: list(ends) for name, ends in row.numbers.items()}] for row in table]


def of_json(values: Sequence[Sequence[Any]]) -> list[Row]:
    """The inverse of :func:`as_json`."""
    return [
        Row(rule, law, m, tokens, {name: (low, high) for name, (low, high) in numbers.items()})
        for rule, law, m, tokens, numbers in values
    ]


def words(table: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The head of a table and its lines; a column that says nothing is left out."""
    names = list(dict.fromkeys(name for row in table for name in row.numbers))
    several = [len({row[i] for row in table}) > 1 for i in (0, 1)]
    counted = any(row.tokens for row in table)
    head = [word for word, told in zip(("rule", "law"), several, strict=True) if told]
    head += ["m", *(["tokens"] if counted else []), *(SYMBOLS.get(n, one_line(n)) for n in names)]
    lines = []
    for row in table:
        line = [one_line(row[i]) for i in (0, 1) if several[i]]
        line += [str(row.batch_size), *([str(row.tokens)] if counted else [])]
        lines.append(line + [_ends(name, row.numbers.get(name)) for name in names])
    return head, lines


def _ends(name: str, ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "–"
    digits = 4 if name in (RATE, "eps", "weight_decay") else 8  # decays are close to 1
    low, high = (f"{value:.{digits}g}" for value in ends)
    return low if low == high else f"{low} … {high}"
