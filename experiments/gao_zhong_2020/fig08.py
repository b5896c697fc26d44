"""Fig. 8: training loss and its fluctuation by batch size, AlexNet, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig08.py --workdir runs/gz08
    sbt report runs/gz08

Gao & Zhong (2020), section 2: loss curves for batch sizes 32 ... 49152; medium ones are smoothest.
The paper gives no number for "smooth"; here ``batch_loss_fluctuation``, the standard deviation of
the batch loss in an epoch with the trend removed (by differences of consecutive losses), and
``batch_loss_std`` with the trend. ``train_loss`` is the curve. See ``dynamics.py`` for what is
chosen here.

12 runs of 200 epochs; ``:pairs`` has two, batch size 512 at a learning rate of 0.005 and 8192 at
0.05, as printed. For accelerators; ``:small``, 10 epochs, took 6 minutes on two CPU
cores that ten processes shared.
"""

from dynamics import dynamics
from ml_collections import ConfigDict

from sbt.report.statements import best_lies_among

VARIANTS = ("", "pairs", "dropout", "small")
CAPTION = "medium batch sizes have the smoothest loss curves"

CLAIMS = (
    best_lies_among(
        "The loss fluctuates least at a batch size between the smallest and the largest",
        "batch_loss_fluctuation",
        along="batch_size",
        values="inner",
        best="lowest",
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's network and data, ``pairs``, ``dropout`` or ``small``."""
    epochs = 10 if variant == "small" else 200
    return dynamics("fig08", variant, CAPTION, {"names": ("fluctuation",)}, CLAIMS, epochs=epochs)
