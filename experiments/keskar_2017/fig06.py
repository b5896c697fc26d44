"""Fig. 6: sharpness against the loss during training, for small and large batches.

    python experiments/keskar_2017/fig06.py --workdir runs/fig06     (trains, measures, draws)
    sbt run experiments/keskar_2017/fig06.py --workdir runs/fig06    (the same without the figure)

Keskar et al. (2017), section 3: one trial of C1 (and F2), full-space sharpness after every one of
100 epochs, at ε = 1e-3 and 5e-4, both axes logarithmic, the loss falling to the right. At large
losses both batch sizes start close (C1: 50 to 100 % at ε = 1e-3); as the loss falls, the
large-batch run grows sharper (714 % at a loss of 0.05 to 0.1) and the small-batch one flatter
(14 %). Which loss is on the abscissa the paper does not say; here it is f(x) of the metric, the
training loss at the weights that the sharpness is of, without dropout. ``:small`` is the reduced F1
on MNIST, 20 epochs.
"""

from pathlib import Path

import drawings
from as_published import (
    sharpness_and_loss as as_published,  # noqa: F401 (what a gallery shows beside ours)
)
from keskar import (
    VARIANTS,  # noqa: F401 (what get_config takes)
    main,
    published,
    study,
    trained,
)
from ml_collections import ConfigDict

from sbt.report.statements import falls, rises

CAPTION = "as the loss falls, the large-batch run grows sharper and the small-batch one flatter"
FULL = {"space": "full", "epsilon": 1e-3}
CLAIMS = (
    rises(
        "The large-batch run grows sharper in training",
        "sharpness",
        along="measured_epoch",
        at={"batch_size": "last", **FULL},
    ),
    falls(
        "The small-batch run grows flatter in training",
        "sharpness",
        along="measured_epoch",
        at={"batch_size": "first", **FULL},
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """C1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    config = study("fig06", variant, "Fig. 6", CAPTION, CLAIMS, net="c1")
    config.sweep.seed = (0,)
    config.measure.names = ("sharpness",)
    config.measure.sharpness.spaces = ("full",)
    return config


def finish(config: ConfigDict, workdir: Path) -> None:
    """Trains what is not trained yet and draws."""
    config, ds = trained(config, workdir)
    paper = published()["fig6"].get(config.model.name)
    print(*drawings.sharpness_and_loss(ds, paper=paper).save(workdir, ("png",)))


if __name__ == "__main__":
    main("fig06", get_config, finish)
