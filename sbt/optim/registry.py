"""The update rules that a config can name, with their sweepable hyperparameters.

Every family that lives elsewhere brings a dictionary of its own; this module is where they meet.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sbt.optim.clars import clars
from sbt.optim.curvature import cblr, mclr
from sbt.optim.extrap_sgd import extrap_sgd
from sbt.optim.lamb import lamb
from sbt.optim.layerwise import lars, percent_delta
from sbt.optim.momentum_registry import RULES_MOMENTUM
from sbt.optim.sgd import sgd
from sbt.optim.sngm import sngm
from sbt.optim.spec import DECAY_MASK, RuleSpec, rename_mask

_GAO_ZHONG = "Gao and Zhong 2020, arXiv 2012.08795"
_DECAY = {"momentum": 0.0, "weight_decay": 0.0}


def _spec(
    rule: Callable[..., Any],
    source: str,
    hyperparameters: Mapping[str, float],
    *,
    decay_mask: str = "all",
    ratio_mask: str | None = None,
    needs: tuple[str, ...] = (),
    options: Mapping[str, Any] | None = None,
    **choices: tuple[Any, ...],
) -> RuleSpec:
    """A spec whose options default to the first of their choices."""
    options = {name: values[0] for name, values in choices.items()} | dict(options or {})
    masks = {"decay_mask": decay_mask} | ({"ratio_mask": ratio_mask} if ratio_mask else {})
    optional = {"momentum"} | ({"weight_decay"} if rule in (sgd, sngm) else set())
    return RuleSpec(
        make=rename_mask(rule),
        hyperparameters=hyperparameters,
        options={**options, **masks},
        source=source,
        needs=frozenset(needs),
        choices={**choices, **dict.fromkeys(masks, DECAY_MASK)},
        optional=frozenset(optional & set(hyperparameters)),
    )


RULES_GRADIENT: Final[dict[str, RuleSpec]] = {
    "sgd": _spec(
        sgd,
        "Masters and Luschi 2018, arXiv 1804.07612, equations 1-6",
        _DECAY,
        nesterov=(False, True),
    ),
    "sngm": _spec(
        sngm,
        "Zhao et al. 2020, arXiv 2007.13985, algorithm 1",
        {"momentum": 0.9, "weight_decay": 0.0},
        decay=("coupled", "decoupled"),
        norm=("global", "layer"),
    ),
    "lars": _spec(
        lars,
        "You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1",
        {**_DECAY, "momentum": 0.9, "trust_coefficient": 0.001, "fallback_ratio": 1.0},
        decay_mask="kernels",
        ratio_mask="kernels",
        form=("paper", "optax"),
        nesterov=(False, True),
    ),
    "lamb": _spec(
        lamb,
        "You et al. 2019, arXiv 1904.00962, algorithm 2",
        {
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-6,
            "weight_decay": 0.0,
            "phi_min": 0.0,
            "phi_max": 10.0,
        },
        decay_mask="kernels",
        ratio_mask="kernels",
        phi=("identity", "clamp"),
    ),
    "percent_delta": _spec(
        percent_delta,
        f"Abu-El-Haija 2017, arXiv 1708.07227; {_GAO_ZHONG}, equation 24",
        {**_DECAY, "weight_floor": 1e-6, "fallback_ratio": 1.0},
        decay_mask="kernels",
        ratio_mask="kernels",
    ),
    "clars": _spec(
        clars,
        "Huo, Gu and Huang 2021, arXiv 2002.01576",
        {**_DECAY, "momentum": 0.9, "trust_coefficient": 0.001, "fallback_ratio": 1.0},
        decay_mask="kernels",
        ratio_mask="kernels",
        needs=("example_norms",),
    ),
    "extrap_sgd": _spec(
        extrap_sgd,
        "Lin et al. 2020, arXiv 2006.05720",
        {**_DECAY, "extrapolation": 1.0},
        nesterov=(True, False),
    ),
    "cblr": _spec(
        cblr,
        f"{_GAO_ZHONG}, equations 9-11",
        {**_DECAY, "ema_decay": 0.0, "curvature_floor": 1e-3, "fallback_radius": 1.0},
        needs=("hessian_diagonal",),
        options={"radius_ceiling": None},
    ),
    "mclr": _spec(
        mclr,
        f"{_GAO_ZHONG}, equations 20-22",
        {**_DECAY, "fallback_ratio": 1.0},
        decay_mask="kernels",
        ratio_mask="kernels",
        reading=("magnitudes", "ratio", "signed"),
        decay_form=("sum", "inside"),
        median_kind=("midpoint", "lower"),
    ),
}

RULES: Final[dict[str, RuleSpec]] = {**RULES_GRADIENT, **RULES_MOMENTUM}
