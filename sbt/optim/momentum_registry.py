"""The registry's entries for momentum, noise and large-batch remedies."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sbt.optim.adam import adam
from sbt.optim.conservative import conservative
from sbt.optim.hoffer import hoffer_sgd
from sbt.optim.random_scaling import exponentiated_o2nc, randomly_scaled_sgdm
from sbt.optim.shb import normalized_shb, shb
from sbt.optim.shb_exponential import exponential_shb, mix_shb
from sbt.optim.shb_stages import accelerated_shb, multistage_shb
from sbt.optim.smoothout import smoothout_sgd
from sbt.optim.spec import DECAY_MASK, RuleSpec, rename_mask
from sbt.optim.svag import svag

_DANG = "Dang, Babanezhad and Vaswani 2024, arXiv 2401.06738"
_ZHANG = "Zhang and Cutkosky 2024, arXiv 2405.09742"
_MOMENTUM = {"momentum": 0.9, "weight_decay": 0.0}
_ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
_DISTRIBUTIONS = ("exponential", "uniform", "none")


def _spec(
    rule: Callable[..., Any],
    source: str,
    hyperparameters: Mapping[str, float],
    *,
    needs: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    options: Mapping[str, Any] | None = None,
    **choices: tuple[Any, ...],
) -> RuleSpec:
    """A spec whose options default to the first of their choices; rules that decay have a mask."""
    if "weight_decay" in hyperparameters:
        choices["decay_mask"] = ("all", *(m for m in DECAY_MASK if m != "all"))
    return RuleSpec(
        make=rename_mask(rule),
        hyperparameters=hyperparameters,
        options={name: values[0] for name, values in choices.items()} | dict(options or {}),
        source=source,
        needs=frozenset(needs),
        choices=choices,
        optional=frozenset(optional),
    )


RULES_MOMENTUM: Final[dict[str, RuleSpec]] = {
    "adam": _spec(
        adam, "Kingma and Ba 2015, arXiv 1412.6980, algorithm 1", {**_ADAM, "weight_decay": 0.0}
    ),
    "shb": _spec(shb, _DANG, _MOMENTUM),
    "normalized_shb": _spec(
        normalized_shb,
        "Wang et al. 2024, arXiv 2307.15196, equation 3; Sato and Iiduka 2024, arXiv 2402.02325",
        _MOMENTUM,
    ),
    "accelerated_shb": _spec(
        accelerated_shb, _DANG, {"condition_number": 100.0, "relative_step": 1.0}
    ),
    "multistage_shb": _spec(
        multistage_shb,
        _DANG,
        {"total_updates": 1000.0, "condition_number": 100.0, "first_fraction": 0.4},
        momentum=("stage", "constant"),
    ),
    "exponential_shb": _spec(
        exponential_shb,
        _DANG,
        {"total_updates": 1000.0, "condition_number": 100.0, "relative_step": 0.5},
    ),
    "mix_shb": _spec(
        mix_shb,
        _DANG,
        {
            "total_updates": 1000.0,
            "condition_number": 100.0,
            "first_fraction": 0.5,
            "relative_step": 0.5,
        },
        momentum=("full", "half"),
    ),
    "randomly_scaled_sgdm": _spec(
        randomly_scaled_sgdm,
        _ZHANG,
        {**_MOMENTUM, "seed": 0.0},
        optional=("momentum",),
        options={"average_decay": None},
        distribution=_DISTRIBUTIONS,
    ),
    "exponentiated_o2nc": _spec(
        exponentiated_o2nc,
        _ZHANG,
        {"momentum": 0.9, "regularization": 0.0, "seed": 0.0},
        distribution=_DISTRIBUTIONS,
    ),
    "svag": _spec(
        svag,
        "Li, Malladi and Arora 2021, arXiv 2102.12470; Wang et al. 2024, arXiv 2307.15196",
        {"momentum": 0.0, "weight_decay": 0.0, "amplification": 1.0},
        needs=("second_gradient",),
        optional=("momentum",),
    ),
    "hoffer_sgd": _spec(
        hoffer_sgd,
        "Hoffer, Hubara and Soudry 2017, arXiv 1705.08741",
        {**_MOMENTUM, "max_norm": 5.0},
        optional=("momentum",),
    ),
    "smoothout_sgd": _spec(
        smoothout_sgd,
        "Wen et al. 2018, arXiv 1805.07898",
        {**_MOMENTUM, "amplitude": 0.01},
        optional=("momentum",),
        adaptive=(False, True),
        noise_mask=("kernels", "all"),
    ),
    "conservative": _spec(
        conservative,
        "Keskar et al. 2017, arXiv 1609.04836, appendix E",
        {"proximal": 1e-3, **_ADAM},
        needs=("grad_fn",),
        options={"iterations": 3},
        moments=("carried", "fresh"),
    ),
}
