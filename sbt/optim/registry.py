"""The update rules that a config can name: functions ``rule(learning_rate, **fields)``."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sbt.choice import Registry
from sbt.optim.adam import adam
from sbt.optim.conservative import conservative
from sbt.optim.curvature import cblr, mclr
from sbt.optim.extrap_sgd import extrap_sgd
from sbt.optim.layerwise import clars, lamb, lars, percent_delta
from sbt.optim.random_scaling import exponentiated_o2nc, randomly_scaled_sgdm
from sbt.optim.sgd import hoffer_sgd, sgd
from sbt.optim.shb import (
    accelerated_shb,
    exponential_shb,
    mix_shb,
    multistage_shb,
    normalized_shb,
    shb,
)
from sbt.optim.smoothout import smoothout_sgd
from sbt.optim.sngm import sngm
from sbt.optim.spec import rename_mask
from sbt.optim.svag import svag

_GAO_ZHONG = "Gao and Zhong 2020, arXiv 2012.08795"
_DANG = "Dang, Babanezhad and Vaswani 2024, arXiv 2401.06738"
_ZHANG = "Zhang and Cutkosky 2024, arXiv 2405.09742"

RULES: Final = Registry("rule")


def _add(
    rule: Callable[..., Any],
    source: str,
    *needs: str,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    RULES.register(rule.__name__, source=source, needs=needs, defaults=defaults)(rename_mask(rule))


_add(sgd, "Masters and Luschi 2018, arXiv 1804.07612, equations 1-6")
_add(sngm, "Zhao et al. 2020, arXiv 2007.13985, algorithm 1")
_add(lars, "You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1")
_add(lamb, "You et al. 2019, arXiv 1904.00962, algorithm 2")
_add(
    percent_delta,
    f"Abu-El-Haija 2017, arXiv 1708.07227; {_GAO_ZHONG}, equation 24",
    defaults={"momentum": 0.0},
)
_add(clars, "Huo, Gu and Huang 2021, arXiv 2002.01576", "example_norms")
_add(extrap_sgd, "Lin et al. 2020, arXiv 2006.05720")
_add(cblr, f"{_GAO_ZHONG}, equations 9-11", "hessian_diagonal", defaults={"momentum": 0.0})
_add(mclr, f"{_GAO_ZHONG}, equations 20-22", defaults={"momentum": 0.0})
_add(adam, "Kingma and Ba 2015, arXiv 1412.6980, algorithm 1")
_add(shb, _DANG)
_add(
    normalized_shb,
    "Wang et al. 2024, arXiv 2307.15196, equation 3; Sato and Iiduka 2024, arXiv 2402.02325",
)
_add(accelerated_shb, _DANG)
_add(multistage_shb, _DANG, defaults={"total_updates": 1000.0})
_add(exponential_shb, _DANG, defaults={"total_updates": 1000.0})
_add(mix_shb, _DANG, defaults={"total_updates": 1000.0})
_add(randomly_scaled_sgdm, _ZHANG)
_add(exponentiated_o2nc, _ZHANG)
_add(
    svag,
    "Li, Malladi and Arora 2021, arXiv 2102.12470; Wang et al. 2024, arXiv 2307.15196",
    "second_gradient",
)
_add(hoffer_sgd, "Hoffer, Hubara and Soudry 2017, arXiv 1705.08741")
_add(smoothout_sgd, "Wen et al. 2018, arXiv 1805.07898")
_add(conservative, "Keskar et al. 2017, arXiv 1609.04836, appendix E", "grad_fn")
