"""Every update rule that ships on scikit-learn's digits: best accuracy and rate by batch size.

    sbt run experiments/update_rules.py
    sbt report runs/update_rules

Each rule of ``sbt list rules`` at its default numbers, on a small multi-layer perceptron, four
batch sizes and three seeds. A learning rate means something else in each rule: it multiplies a
gradient, or it is the length of a step, or a relative change of the weights. So all rules have the
same 14 rates, two octaves apart, and none is told how its rate follows the batch: ``lr_scaling`` is
``none``, the swept rate is the η of the update, and the exponent α of η* ∝ m^α is a finding (1:
linear, 0.5: square root, 0: none). The rate falls linearly to zero over five epochs. Batches begin
at four examples, which some rules share among as many workers or steps. SVAG runs at l = 2, since
it is SGD at its default: two batches of an update and half the learning rate, the same budget of
examples.

``:tiny`` is 5 rules, 2 batch sizes and 4 learning rates, for trying things out.
"""

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError
from sbt.optim import RULES

TINY = ("sgd", "sngm", "lars", "mclr", "adam")
VARIANTS = ("", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """All rules, or ``tiny``."""
    config = default()
    config.name = "update_rules"
    config.data.name = "digits"
    # Small, since every rule is a program of its own.
    config.model = {"name": "mlp", "hidden": (32,)}
    config.epochs = 5
    config.lr_scaling = "none"
    config.schedule = {"name": "poly", "power": 1.0}
    config.evaluate.every = 5
    config.sweep.rule = tuple(RULES)
    config.sweep.batch_size = (4, 16, 64, 256)
    config.sweep.base_lr = tuple(4.0**k for k in range(-8, 6))  # 2^-16 ... 2^10
    config.sweep.seed = (0, 1, 2)
    config.follow.rule__amplification = ("rule", (("svag", 2.0),))
    config.report.margin = 0.01
    if variant == "tiny":
        config.name = "update_rules-tiny"
        config.epochs = 3
        config.sweep.rule = TINY
        config.sweep.batch_size = (16, 128)
        config.sweep.base_lr = (2.0**-9, 2.0**-6, 2.0**-3, 2.0**0)
        config.sweep.seed = (0,)
        config.follow.rule__amplification = None
    elif variant:
        raise UserError(
            f"update_rules.py:{variant}", "there is no such variant", "use :tiny, or none"
        )
    return config
