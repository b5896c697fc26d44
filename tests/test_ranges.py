"""Ranges: read from annotations, checked in plain words."""

import dataclasses
from typing import Annotated

import pytest

from sbt.choice import fields_of
from sbt.errors import UserError, shown
from sbt.ranges import ANY, BELOW_ONE, COUNT, FRACTION, POSITIVE, Range, check_number


def test_ranges_stand_in_the_annotations_of_functions_and_of_dataclasses():
    def shape(progress, power: Annotated[float, POSITIVE] = 1.0, base: float = 2.0): ...

    @dataclasses.dataclass
    class Net:
        width: Annotated[int, COUNT] = 8
        classes: int = 10

    def ranges(make):
        return {name: field.allowed for name, field in fields_of(make).items()}

    assert ranges(shape) == {"power": POSITIVE, "base": None}
    assert ranges(Net) == {"width": COUNT, "classes": None}


def test_annotations_may_be_evaluated_later(tmp_path, monkeypatch):
    """As in a module that postpones them; what only a type checker knows says nothing."""
    (tmp_path / "postponed.py").write_text(
        "from __future__ import annotations\n"
        "from typing import Annotated\n"
        "from sbt.ranges import POSITIVE\n"
        "def rule(learning_rate, gain: Annotated[float, POSITIVE] = 1.0, x: Nowhere = 2.0): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import postponed

    (field,) = fields_of(postponed.rule).values()
    assert (field.allowed, field.default, field.kind) == (POSITIVE, 1.0, float)


@pytest.mark.parametrize(
    ("allowed", "value", "inside"),
    [
        (FRACTION, 1.0, True),
        (BELOW_ONE, 1.0, False),
        (BELOW_ONE, 0, True),
        (POSITIVE, 0.0, False),
        (ANY, float("nan"), False),
        (ANY, float("inf"), False),
        (ANY, -1e300, True),
    ],
)
def test_ends_belong_to_a_range_unless_it_is_open(allowed, value, inside):
    assert (value in allowed) is inside


@pytest.mark.parametrize("value", ["0.5", None, True, (0.5,), 1.5, -1, 10**400, float("nan")])
def test_what_is_not_a_number_of_the_range_is_refused_with_field_value_and_remedy(value):
    with pytest.raises(UserError) as refusal:
        check_number("config.rule.momentum", value, BELOW_ONE)
    assert refusal.value.field == "config.rule.momentum"
    assert shown(value) in refusal.value.problem
    assert refusal.value.remedy == "give a number of at least 0 and below 1"


def test_whole_numbers_only_where_a_field_counts():
    assert check_number("config.epochs", 3, COUNT, whole=True) == 3
    with pytest.raises(UserError, match=r"3\.0 is not a whole number"):
        check_number("config.epochs", 3.0, COUNT, whole=True)


def test_words_of_ranges():
    assert str(POSITIVE) == "above 0"
    assert str(Range(2, 5)) == "of at least 2 and of at most 5"
    assert str(ANY) == "that is finite"
