"""Synthetic interpolation: large batches accelerate heavy ball, small ones do not.

    sbt run experiments/dang_2024/interpolation.py --workdir runs/dang_interpolation
    sbt report runs/dang_interpolation

Dang, Babanezhad & Vaswani (2024), section 6: without noise in the targets, stochastic heavy ball
(SHB) with α = 1/L and β = (1 - √(αμ)/2)² converges like exp(-T/√κ) once the batch is large, 0.9 n
say, where SGD does like exp(-T/κ); with a tenth of the examples it gains nothing, cycles or
diverges. κ = 64, 128, 256; 2000 updates; 3 seeds. See ``quadratics.py`` for the rest.
"""

import flax.linen as nn
import jax
from ml_collections import ConfigDict
from quadratics import SGD, SHB, Linear, half_square, quadratics

from sbt.report.statements import ratio_at_least

VARIANTS = ("", "small")
CAPTION = "with large batches heavy ball is accelerated, with small ones it is not"
FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
CLAIMS = (
    ratio_at_least(
        "With all examples SHB ends with a gradient at least ten times smaller than SGD's",
        "gradient_square",
        factor=100,
        more=SGD,
        less=SHB,
        at={"batch_size": "last"},
    ),
    ratio_at_least(
        "With a tenth of the examples SHB ends with no smaller gradient than SGD",
        "gradient_square",
        more=SHB,
        less=SGD,
        at={"batch_size": "first"},
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
    return quadratics(
        "interpolation",
        variant,
        "interpolation",
        CAPTION,
        CLAIMS,
        rules=("sgd", "accelerated_shb"),
        updates=2000,
        fractions=FRACTIONS,
        condition_numbers=(64, 128, 256),
    )
