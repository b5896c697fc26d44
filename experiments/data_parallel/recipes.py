"""The data-parallel baseline: what recipes make of batches that many workers share.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 \\
      sbt run experiments/data_parallel/recipes.py --workdir runs/recipes   (or four real devices)
    sbt run experiments/data_parallel/recipes.py:small --workdir runs/recipes_small
    sbt report runs/recipes_small

Every batch is spread over D devices, which average gradients before each update (or weights after
several), and each takes batch statistics of its own 32 examples at a time. From a learning rate
that is known at a batch of 128, each recipe says what to do at a larger one:

* ``linear``: η proportional to m, nothing else;
* ``warm-up``: the same after 5 epochs of linear warm-up from the rate of the batch of 128 (Goyal et
  al. 2017, arXiv 1706.02677);
* ``sqrt``: η proportional to √m, gradients clipped at norm 5 (Hoffer, Hubara and Soudry 2017, arXiv
  1705.08741), without their longer training;
* ``local``: ``warm-up``, and from half of the budget 16 updates of every device by itself between
  averages of the weights (post-local SGD, Lin et al. 2020, arXiv 1808.07217).

ResNet-20 on CIFAR-10: momentum 0.9, weight decay 1e-4, rate 0.1 at a batch of 128, a tenth at half
and again at three quarters of 160 epochs, crops and flips, three seeds. No paper trains this grid;
the learning rate is the usual one of the network (He et al. 2015) and is not tuned again for larger
batches, since not to have to is what the recipes are for. ``sbt bench`` measures what the devices
gain in time.

``:small`` is a small convolutional net on the digits of scikit-learn, D = 2, statistics of 8, rates
known at 32: a minute on two cores. In ``results/recipes_small`` all are alike at 32 and 128; at
512, three updates an epoch, all that are linear fall to 49 to 58 %; the square root keeps 94 %.
"""

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError
from sbt.report.statements import exceeds

VARIANTS = ("", "small")
CAPTION = "recipes for batches shared by many workers, from a learning rate known at a small batch"
RECIPES = ("linear", "warm-up", "sqrt", "local")
CLAIMS = tuple(
    exceeds(
        f"At the largest batch {words} is more accurate than linear scaling alone",
        "test_accuracy",
        more={"case": recipe},
        less={"case": "linear"},
        at={"batch_size": "last"},
    )
    for recipe, words in (("warm-up", "warm-up"), ("sqrt", "the square root with clipping"))
)


def get_config(variant: str = "") -> ConfigDict:
    """The grid for four devices, or ``small``."""
    if variant not in VARIANTS:
        raise UserError(f"recipes.py:{variant}", "there is no such variant", "use :small, or none")
    small = variant == "small"
    known, rate = (32, 0.06) if small else (128, 0.1)
    config = default()
    config.name = "data_parallel-recipes" + "-small" * small
    config.report.caption, config.report.claims = CAPTION, CLAIMS
    config.data.name = "digits" if small else "cifar10"
    config.data.augment = "none" if small else "crop_flip"
    config.model = {"name": "convnet" if small else "resnet20", "norm": "batch"}
    config.epochs = 20 if small else 160
    config.parallel.data = 2 if small else 4
    config.bn_batch = 8 if small else 32
    config.schedule = {"name": "steps", "drops": (0.5, 0.75)}
    config.parallel.local_from = 0.5
    config.sweep.batch_size = tuple(known * k for k in (1, 4, 16))
    config.sweep.case = RECIPES
    config.sweep.seed = (0, 1, 2)
    usual = {recipe: rate / known for recipe in RECIPES}
    settings = {
        "base_lr": {**usual, "sqrt": rate / known**0.5},
        "lr_scaling": {**dict.fromkeys(RECIPES, "linear"), "sqrt": "sqrt"},
        "rule": {**dict.fromkeys(RECIPES, "sgd"), "sqrt": "hoffer_sgd"},
        "rule__momentum": dict.fromkeys(RECIPES, 0.9),
        "rule__weight_decay": dict.fromkeys(RECIPES, 1e-4),
        "schedule__warmup": {**dict.fromkeys(RECIPES, 5 / 160), "linear": 0.0, "sqrt": 0.0},
        "parallel__local_steps": {**dict.fromkeys(RECIPES, 1), "local": 16},
    }
    for field, values in settings.items():
        config.follow[field] = ("case", tuple(values.items()))
    starts = tuple((m, known / m) for m in config.sweep.batch_size)
    config.follow.schedule__warmup_start = ("batch_size", starts)
    return config
