"""Synthetic problems with noise: steps that fall adapt heavy ball to it.

    sbt run experiments/dang_2024/noisy.py --workdir runs/dang_noisy
    sbt report runs/dang_noisy

Dang, Babanezhad & Vaswani (2024), section 6: with noisy targets the accelerated method stays at the
noise's level, and the noise-adaptive ones (multi-stage, mix, exponential steps) go below it; where
noise is small they are about as fast as it, and faster than SGD. κ = 200, 500, 1000; r = 1e-2,
1e-4, 1e-6; b = 0.9 n; 7000 updates; 3 seeds. ``:small`` has κ = 200, 500, the larger two r, and
2000 updates. See ``quadratics.py`` for the rest.

``results/noisy_small`` has ten seeds (4 minutes on two cores). Stages end below SGD everywhere, by
5 to 40 times in the squared gradient. With the larger noise they end below accelerated heavy ball
at κ = 200, by 24 times, and above it at κ = 500, in 2000 of the paper's 7000 updates, in which
exponential steps end above SGD everywhere. Single precision rounds near 1e-13 and hides the smaller
noise.
"""

import flax.linen as nn
import jax
from ml_collections import ConfigDict
from quadratics import SGD, SHB, STEPS, Linear, half_square, quadratics

from sbt.report.statements import ratio_at_least

VARIANTS = ("", "small")
CAPTION = "with noise, heavy ball in stages ends below accelerated heavy ball, and below SGD"
NOISE, UPDATES = 1e-2, 7000
STAGES = {"rule": "multistage_shb"}
CLAIMS = (
    ratio_at_least(
        "With noise, heavy ball in stages ends with a smaller gradient than with constant steps",
        "gradient_square",
        more=SHB,
        less=STAGES,
        at={"data__noise": NOISE},
    ),
    ratio_at_least(
        "Heavy ball in stages ends with a smaller gradient than SGD, at every noise",
        "gradient_square",
        more=SGD,
        less=STAGES,
    ),
    ratio_at_least(
        "Exponential steps end with a smaller gradient than SGD, where there is noise",
        "gradient_square",
        more=SGD,
        less={"rule": "exponential_shb"},
        at={"data__noise": NOISE},
    ),
)


def module() -> nn.Module:
    """The inner product of weights and example."""
    return Linear()


def loss(outputs: jax.Array, examples: dict[str, jax.Array]) -> jax.Array:
    """Half of the squared error."""
    return half_square(outputs, examples)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's size, or ``small``."""
    small = bool(variant)
    return quadratics(
        "noisy",
        variant,
        "noisy targets",
        CAPTION,
        CLAIMS,
        rules=tuple(STEPS),
        updates=2000 if small else UPDATES,
        budget=UPDATES,
        left_out=(0.1,),
        condition_numbers=(200, 500) if small else (200, 500, 1000),
        noises=(1e-4, NOISE) if small else (1e-6, 1e-4, NOISE),
    )
