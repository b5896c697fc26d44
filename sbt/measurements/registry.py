"""The measurements by name: what they cost, where they come from, what can be set."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sbt.measure.labelled import Labelled
from sbt.measurements import gradients, layers, sharp
from sbt.train.tallies import TALLIES
from sbt.train.tally import Setting, Tally

Cost = Literal["free", "passes over the data", "heavy"]


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
        if self.function is None:
            return {}
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

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
    "distance": Measurement(layers.distance, _PASSES, "Keskar et al. 2017, section 4"),
}
