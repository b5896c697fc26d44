"""The next runs of a sweep, as command-line arguments and as an experiment file."""

import json
import math
from typing import TYPE_CHECKING

from sbt.errors import UserError

if TYPE_CHECKING:
    from sbt.advice.advise import Advice


def next_overrides(advice: "Advice") -> list[str]:
    """The command-line arguments that make the next sweep of the same directory."""
    return [
        f"--config.sweep.{axis}=({','.join(map(_short, values))},)"
        for axis, values in advice.wanted.items()
    ]


def _short(value: float) -> str:
    """A number of an axis: a power of two as one where that is shorter, and the same number."""
    plain = repr(value)
    if isinstance(value, float) and value > 0:
        power = f"2**{math.log2(value):g}"
        if len(power) < len(plain) and 2.0 ** float(power[3:]) == value:
            return power
    return plain


def next_experiment(advice: "Advice", directory: str) -> str:
    """An experiment file that goes on in the same directory with the runs that are wanted.

    Raises:
      UserError: nothing is wanting, or the sweep has parts of its own, which no config holds.
    """
    if not advice.wanted:
        problem = "the grid leaves nothing open that more of its values would answer"
        raise UserError("--next", problem, "leave it out")
    if advice.own:
        line = " ".join(f"'{one}'" for one in next_overrides(advice))
        problem = f"the sweep has a {advice.own[0]} of its own, which no config holds"
        remedy = f"run its experiment file again with --workdir={directory} {line}"
        raise UserError("--next", problem, remedy)
    lines = [f"    config.sweep.{axis} = {values!r}" for axis, values in advice.wanted.items()]
    config = json.dumps(advice.view.config, indent=1)
    return "\n".join(
        [
            '"""The runs that would tell what the grid cannot; the others are kept.',
            "",
            f"    sbt run THIS_FILE --workdir {directory}",
            '"""',
            "",
            "from sbt.config import from_json",
            "",
            f"CONFIG = r'''{config}'''",
            "",
            "",
            "def get_config():",
            "    config = from_json(CONFIG)",
            *lines,
            "    return config",
            "",
        ]
    )
