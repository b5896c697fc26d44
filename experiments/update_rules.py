"""Every update rule that ships on scikit-learn's digits: best accuracy against the batch size.

    sbt run experiments/update_rules.py
    sbt report runs/update_rules

Each rule at the defaults of ``sbt list``, over a logarithmic grid of its learning rate and four
batch sizes; the figure ``best_accuracy`` takes the best learning rate of every batch size.

A learning rate means something else in each rule. Where it multiplies a gradient, it grows with the
batch (``lr_scaling`` ``linear``: η = m η̃). Where the gradient is normalised away it is a length or
a relative change, and stays as it is (``none``): SNGM, LARS, CLARS, LAMB, PercentDelta, MCLR, CBLR,
Adam and what is built on Adam. The trust coefficients of LARS and CLARS are 1 instead of 0.001, so
that their learning rate is the relative change per step, as that of PercentDelta and MCLR. SVAG
runs at l = 2: two batches of an update and half the learning rate, the same budget of examples.

864 runs, each rule a compiled program: about five minutes on two CPU cores.

``:tiny`` is 5 rules, 2 batch sizes and 3 learning rates, for trying things out.
"""

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

# The rules by family: the step is proportional to the gradient; it is not; remedies.
PROPORTIONAL = (
    *("sgd", "shb", "normalized_shb", "accelerated_shb", "multistage_shb", "exponential_shb"),
    *("mix_shb", "extrap_sgd", "randomly_scaled_sgdm", "exponentiated_o2nc", "svag"),
    *("hoffer_sgd", "smoothout_sgd", "gradient_noise_sgd", "covariance_noise_sgd"),
    *("gradient_noise_convolution", "elastic_averaging", "entropy_sgd"),
)
RELATIVE = (
    *("sngm", "lars", "clars", "lamb", "percent_delta", "mclr", "cblr", "adam", "conservative"),
)
TINY = ("sgd", "sngm", "lars", "mclr", "adam")
VARIANTS = ("", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """All rules, or ``tiny``."""
    config = default()
    config.name = "update_rules"
    config.data.name = "digits"
    config.model.name = "mlp"  # compiles fast, and every rule is a program of its own
    config.epochs = 10
    config.schedule = {"name": "poly", "power": 1.0}
    rules = (*PROPORTIONAL, *RELATIVE)
    config.sweep.batch_size = (8, 32, 128, 512)
    config.sweep.base_lr = tuple(2.0**k for k in range(-13, 2, 2))  # 2^-13 ... 2^1
    if variant == "tiny":
        rules = TINY
        config.name = "update_rules-tiny"
        config.epochs = 3
        config.sweep.batch_size = (16, 128)
        config.sweep.base_lr = (2.0**-9, 2.0**-6, 2.0**-3)
    elif variant:
        raise UserError(
            f"update_rules.py:{variant}", "there is no such variant", "use :tiny, or none"
        )
    config.sweep.rule = rules
    scaling = {name: "none" if name in RELATIVE else "linear" for name in rules}
    config.follow.lr_scaling = ("rule", tuple(scaling.items()))
    trust = tuple((name, 1.0) for name in ("lars", "clars") if name in rules)
    config.follow.rule__trust_coefficient = ("rule", trust)
    if "svag" in rules:
        config.follow.rule__amplification = ("rule", (("svag", 2.0),))
    return config
