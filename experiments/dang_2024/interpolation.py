"""Synthetic interpolation: large batches accelerate heavy ball, small ones do not.

    sbt run experiments/dang_2024/interpolation.py --workdir runs/dang_interpolation
    sbt report runs/dang_interpolation

Dang, Babanezhad & Vaswani (2024), section 6: without noise in the targets, stochastic heavy ball
(SHB) with α = 1/L and β = (1 - √(αμ)/2)² converges like exp(-T/√κ) once the batch is large, 0.9 n
say, where SGD does like exp(-T/κ); with a tenth of the examples it cycles or diverges. κ = 64, 128,
256; 2000 updates; 3 seeds. (At b = 0.1 n, where a batch's Hessian may be ten times the whole one,
1/L is too long a step for SGD as well: what the small batch takes is the step, and with it the
acceleration.) Methods are compared after a quarter of the updates: at the end of them single
precision holds both where it rounds. See ``quadratics.py`` for the rest.

``results/interpolation`` is the full size with five seeds (11 minutes on two busy cores). After 500
updates SHB's squared gradient is below SGD's by 10^3, 10^5 and 10^6 at κ = 64, 128 and 256 with all
examples, and by 10^3, 10^6 and 10^1.5 with nine tenths, where it falls later; at κ = 64 and, with
nine tenths, 256 the interval reaches below 100, so that the claims stay open. With a tenth both
diverge.
"""

import flax.linen as nn
import jax
from ml_collections import ConfigDict
from quadratics import SGD, SHB, Linear, half_square, quadratics

from sbt.report.statements import lies_in, ratio_at_least

VARIANTS = ("", "small")
CAPTION = "with large batches heavy ball is accelerated, with small ones it is not"
LEFT_OUT = (0.0, 0.1, 0.9)
UPDATES, QUARTER = 2000, 500


CLAIMS = (
    *(
        ratio_at_least(
            f"With {share} SHB has a gradient ten times smaller than SGD's, or smaller still",
            "gradient_square",
            factor=100,
            more=SGD,
            less=SHB,
            at={"sample__fraction": left_out, "measured_epoch": QUARTER},
        )
        for share, left_out in (("all examples", 0.0), ("nine tenths of them", 0.1))
    ),
    lies_in(
        "With a tenth of the examples in a batch SHB diverges",
        "diverged",
        low=1.0,
        at={**SHB, "sample__fraction": 0.9},
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
    config = quadratics(
        "interpolation",
        variant,
        "interpolation",
        CAPTION,
        CLAIMS,
        rules=("sgd", "accelerated_shb"),
        updates=UPDATES,
        budget=UPDATES,
        left_out=LEFT_OUT,
        condition_numbers=(64, 128, 256),
    )
    config.measure.every = QUARTER
    return config
