"""Fig. 10: training without the smallest losses of every batch, AlexNet, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig10.py --workdir runs/gz10
    sbt report runs/gz10

Gao & Zhong (2020), section 3.1: for batches of 2000 and 8000, training that leaves out the 30 % of
smallest loss in the first 100 epochs ends with a higher training accuracy (beyond 8000 no clear
gain). The random control leaves out as many examples by chance: without it a gain may be that of a
smaller batch or of a longer step. Learning rates are not printed for these batches; 0.05 at 8000 is
that of the printed pair 8192, and 0.0125 at 2000 is in proportion. 200 epochs and five seeds, ours
like the number of runs behind the paper's error bars.

3 ways x 2 batch sizes x 5 seeds = 30 runs: for accelerators. ``training_set`` is the training
accuracy at the weights that an epoch ends with, over all examples; the running mean would be over
those that were kept. ``:small``, 30 epochs of the reduced AlexNet on 4096 images with batches of
128 and 512, takes a quarter of an hour on two CPU cores.

``results/fig10_small`` has it with five seeds. The claim does not hold there: without the smallest
losses of the first half of training it ends lower, by 3 points [1, 5] at 128 and 8 [1, 16] at 512,
where as many random examples left out change less than the seeds do.
"""

from dynamics import hold_against
from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError
from sbt.report.statements import exceeds, nearly_equal

VARIANTS = ("", "small")
CAPTION = "without the 30 % of smallest losses, training ends with a higher accuracy"
RATES = {2000: 0.0125, 8000: 0.05}
SMALL_RATES = {128: 0.005, 512: 0.02}
SHARE, EPOCHS, SMALL_EPOCHS = 0.3, 200, 30
CLAIMS = (
    exceeds(
        "Training without the smallest losses ends with a higher training accuracy",
        "train_accuracy_evaluated",
        more={"sample": "loss"},
        less={"sample": "all"},
    ),
    exceeds(
        "It gains more than training without as many random examples",
        "train_accuracy_evaluated",
        more={"sample": "loss"},
        less={"sample": "random"},
    ),
    nearly_equal(
        "As many random examples change nothing, within a point",
        "train_accuracy_evaluated",
        one={"sample": "random"},
        other={"sample": "all"},
        margin=0.01,
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's network and data, or ``small``."""
    if variant not in VARIANTS:
        raise UserError(f"fig10.py:{variant}", "there is no such variant", "use :small, or none")
    config = default()
    config.name = "gao_zhong_2020-fig10" + "-small" * bool(variant)
    config.report.figure, config.report.caption = "Gao & Zhong 2020, Fig. 10", CAPTION
    config.data.name = "cifar10"
    config.model = {"name": "alexnet_dropout"}
    config.epochs, config.lr_scaling = EPOCHS, "none"
    config.measure.names, config.measure.every = ("training_set",), EPOCHS
    rates = RATES
    hold_against(config, CLAIMS)
    if variant == "small":
        config.data.train_size, config.data.test_size = 4096, 1000
        config.model = {"name": "alexnet"}
        config.epochs = config.measure.every = SMALL_EPOCHS
        rates = SMALL_RATES
    config.sweep.sample = ("all", "loss", "random")
    config.sweep.batch_size = tuple(rates)
    config.sweep.seed = tuple(range(5))
    config.follow.base_lr = ("batch_size", tuple(rates.items()))
    for field, value in (("fraction", SHARE), ("until", 0.5)):
        left_out = (("loss", value), ("random", value))
        config.follow[f"sample__{field}"] = ("sample", left_out)
    return config
