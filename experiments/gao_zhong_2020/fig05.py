"""Fig. 5: parameter stride over training by batch size, AlexNet, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig05.py --workdir runs/gz05
    sbt report runs/gz05

Gao & Zhong (2020), section 2: "parameter update stride" per epoch for batch sizes 32 ... 49152; the
area under the curve, the space that is searched, is smaller for large batches. For an area it must
be the *sum* of the strides of an epoch, ``path_length`` here (its cumulative sum over ``epoch`` is
the area); the mean per update is ``parameter_stride``. Both by ``layer`` and over ``all``. See
``dynamics.py`` for what is chosen here.

12 runs of 200 epochs; ``:pairs`` has two, batch size 512 at a learning rate of 0.005 and 8192 at
0.05, as printed. For accelerators; ``:small``, 10 epochs, took 6 minutes on two CPU
cores that ten processes shared.
"""

from dynamics import dynamics
from ml_collections import ConfigDict

from sbt.report.statements import falls

VARIANTS = ("", "pairs", "dropout", "small")
CAPTION = (
    "the area under the strides of training, the space that is searched, shrinks as the batch grows"
)

CLAIMS = (
    falls(
        "In every epoch the path is shorter, the larger the batch: so is the area",
        "path_length",
        along="batch_size",
        at={"layer": "all", "epoch": "all"},
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's network and data, ``pairs``, ``dropout`` or ``small``."""
    epochs = 10 if variant == "small" else 200
    return dynamics("fig05", variant, CAPTION, {"names": ("strides",)}, CLAIMS, epochs=epochs)
