"""The measurements by name: what they cost, where they come from, what can be set."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sbt.measure.labelled import Labelled
from sbt.measurements import gradients, layers, sharp
from sbt.ranges import Range
from sbt.train.tallies import TALLIES
from sbt.train.tally import Setting, Tally

Cost = Literal["free", "passes over the data", "heavy"]


@dataclasses.dataclass(frozen=True)
class Option:
    """What a setting of a measurement takes, read from the signature.

    Attributes:
      default: where nobody sets it.
      kind: ``int``, ``float`` or ``str``, of each entry where it takes several.
      several: whether it takes a tuple.
      allowed: the numbers, or the names.
    """

    default: Any
    kind: type
    several: bool
    allowed: Range | tuple[str, ...]


def _option(default: Any, annotation: Any) -> Option:
    """Of ``Annotated[int, Range]``, ``Literal[...]``, or a tuple of either."""
    ranges = [
        extra for extra in getattr(annotation, "__metadata__", ()) if isinstance(extra, Range)
    ]
    inner = annotation.__origin__ if ranges else annotation
    several = typing.get_origin(inner) is tuple
    item = typing.get_args(inner)[0] if several else inner
    if ranges:
        return Option(default, item, several, ranges[0])
    return Option(default, str, several, typing.get_args(item))


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes:
      function: ``(run, **settings) -> {variable: Labelled}``, pure; its keywords with their
        defaults are the settings. None for a tally, which has no settings.
      cost: ``free``: sums that training carries along, recorded every epoch; ``passes over the
        data``: tens of gradients of the split; ``heavy``: hundreds, or products with the Hessian.
      source: paper and place.
      tally: what training carries along instead, see :mod:`sbt.train.tally`.
    """

    function: Callable[..., dict[str, Labelled]] | None
    cost: Cost
    source: str
    tally: Callable[[Setting], Tally] | None = None

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Names of the settings with their defaults."""
        return {name: option.default for name, option in self.options.items()}

    @functools.cached_property
    def options(self) -> dict[str, Option]:
        """Names of the settings with what they take."""
        if self.function is None:
            return {}
        parameters = inspect.signature(self.function).parameters.values()
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        return {p.name: _option(p.default, p.annotation) for p in keywords}

    @property
    def about(self) -> str:
        """First line of its documentation."""
        return (inspect.getdoc(self.function or self.tally) or "").partition("\n")[0]


_GAO_ZHONG = "Gao & Zhong 2020"
_PASSES: Cost = "passes over the data"

MEASUREMENTS: Mapping[str, Measurement] = {
    "sharpness": Measurement(sharp.sharpness, "heavy", "Keskar et al. 2017, metric 2.1"),
    "hessian_eigenvalues": Measurement(sharp.hessian_eigenvalues, "heavy", "Ghorbani et al. 2019"),
    "hessian_trace": Measurement(sharp.hessian_trace, "heavy", "Hutchinson 1990"),
    "hessian_density": Measurement(sharp.hessian_density, "heavy", "Ghorbani et al. 2019"),
    "noise_scale": Measurement(
        gradients.noise_scale, _PASSES, "McCandlish et al. 2018, appendix A"
    ),
    "gradient_moments": Measurement(
        gradients.gradient_moments, _PASSES, "McCandlish et al. 2018, section 2"
    ),
    "gradient_size": Measurement(gradients.gradient_size, _PASSES, f"{_GAO_ZHONG}, figure 3"),
    "discarded_gradient": Measurement(
        gradients.discarded_gradient, _PASSES, f"{_GAO_ZHONG}, figure 9"
    ),
    "curvature_radius": Measurement(layers.curvature_radius, "heavy", f"{_GAO_ZHONG}, figure 2"),
    "strides": Measurement(None, "free", f"{_GAO_ZHONG}, figures 4, 5, 7", TALLIES["strides"]),
    "accumulated_noise_scale": Measurement(
        None,
        "free",
        "McCandlish et al. 2018, appendix A",
        TALLIES["accumulated_noise_scale"],
    ),
    "fluctuation": Measurement(None, "free", f"{_GAO_ZHONG}, figure 8", TALLIES["fluctuation"]),
    "training_set": Measurement(
        layers.training_set, _PASSES, "Keskar et al. 2017, table 2 (training accuracy)"
    ),
    "distance": Measurement(layers.distance, _PASSES, "Keskar et al. 2017, section 4"),
}
