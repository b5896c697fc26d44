"""Fig. 5: a fixed beta2 fails at small batch sizes, a fixed half-life does not.

    sbt run experiments/marek_2025/fig05.py --workdir runs/marek05 --config.data.path=c4.bin
    sbt report runs/marek05

Marek et al. (2025), section 4.3: with beta2 = 0.95 a 19M-parameter model on C4 is best at B = 64 to
256 and loses 0.18 nats at B = 16 (3.685 against 3.501), as Xiao (2024) found; with beta2 of a
half-life of 10M tokens its loss is flat from 16 to 128 (3.521, 3.506, 3.501, 3.492). AdamW, weight
decay 0.1, beta1 0.9; 18 learning rates (times B^0.25), 5 seeds. Two laws of beta2:
2 x 7 x 18 x 5 = 1260 runs of 0.7 billion tokens, as in the paper, for accelerators.

``:small`` holds both laws, and what is between them: its beta2 are those of one half-life at each
of its batch sizes, so that a column is a fixed beta2 and the diagonal the half-life, that of 0.95
at the largest B: 4 x 4 x 5 x 5 = 400 runs, half-life 55,000 of 131,072 tokens; half an hour on two
cores. ``results/fig05_small`` is one: at B = 1 the fixed beta2 loses 0.040 nats [0.003, 0.078], the
half-life 0.005 [0, 0.010], which five seeds do not decide at a margin of 0.02; best losses by B:
1.81, 1.91, 2.19, 2.91. ``results/fig05_ends`` does, with the smallest and the largest B, the three
learning rates around the best of B = 1, and 15 seeds (0 to 4 are those of the other)::

    sbt run experiments/marek_2025/fig05.py:small --workdir runs/ends \\
        --config.sweep.batch_size="(1,64)" --config.sweep.base_lr="(1e-3,2e-3,4e-3)" \\
        --config.sweep.seed="(0,1,2,3,4,5,6,7,8,9,10,11,12,13,14)"

The fixed beta2 loses 0.037 [0.026, 0.047], the half-life 0.005 [0.002, 0.008]: the paper's
statement holds there. That the half-life beats *every* fixed beta2 of the grid stays open: 0.0002
[-0.002, 0.002], since two of the larger ones do as well at both ends.
"""

from language import SECOND, SMALL_BATCH_SIZES, language_model
from ml_collections import ConfigDict

from sbt.report.tuning import fixed_decay_fails, half_life_transfers, law_helps, rescaled

VARIANTS = ("", "small")
CAPTION = "a fixed beta2 fails at small batch sizes, a fixed half-life does not"
LARGEST = 0.95  # beta2 at the largest batch size
SIZES = (16, 32, 64, 128, 256, 512, 1024)
CLAIMS = {
    "": (law_helps("half_life", "fixed", 0.02),),
    "small": (fixed_decay_fails("rule__b2", LARGEST, 0.02), half_life_transfers("rule__b2")),
}


def decays(sizes: tuple[int, ...]) -> tuple[float, ...]:
    """The decays of one half-life at some batch sizes, 0.95 at the largest."""
    return tuple(sorted(float(f"{rescaled(LARGEST, m, sizes[-1]):.7f}") for m in sizes))


GRIDS = {
    "": {
        "scaling": ("fixed", "half_life"),
        "batch_size": SIZES,
        "base_lr": tuple(1.6e-6 * 2**k for k in range(18)),
        "seed": range(5),
    },
    "small": {
        "batch_size": SMALL_BATCH_SIZES,
        "rule__b2": decays(SMALL_BATCH_SIZES),
        "base_lr": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
        "seed": range(5),
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    config = language_model(
        "fig05",
        variant,
        CAPTION,
        CLAIMS.get(variant, ()),
        grids=GRIDS,
        model="gpt_19m",
        rule="optax.adamw",
        scaling=None if variant else {"power": 0.25},
    )
    config.rule.weight_decay = 0.1
    if not variant:
        config.rule.b2 = LARGEST
        config.follow.scaling__b2_tokens = ("scaling", (("half_life", SECOND),))
    return config
