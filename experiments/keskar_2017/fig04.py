"""Fig. 4: test accuracy and sharpness against the batch size.

    python experiments/keskar_2017/fig04.py --workdir runs/fig04     (trains, measures, draws)
    sbt run experiments/keskar_2017/fig04.py --workdir runs/fig04    (the same without the figure)

Keskar et al. (2017), section 3: C1 (and F2) on batches of 100 to 5000, 100 epochs each, full-space
sharpness of the last iterate at ε = 1e-3 and 5e-4. Accuracy falls from 79 to 76 %, past batches of
about 500; sharpness rises from 4 to 630 % (ε = 1e-3) and from 1.5 to 190 % (5e-4). The paper's
curves are smoothed and their batch sizes not given; these are thirteen of its abscissas, with one
trial each. ``:small`` is the reduced F1 on MNIST, five batch sizes, 20 epochs.
"""

from pathlib import Path

import drawings
from as_published import (
    against_batch_size as as_published,  # noqa: F401 (what a gallery shows beside ours)
)
from keskar import (
    REDUCED,
    VARIANTS,  # noqa: F401 (what get_config takes)
    main,
    published,
    study,
    trained,
)
from ml_collections import ConfigDict

from sbt.report.statements import falls, rises

BATCH_SIZES = (100, 200, 300, 400, 500, 600, 800, 1000, 1500, 2000, 3000, 4000, 5000)
REDUCED_BATCH_SIZES = {
    "small": (128, 256, 600, 2000, 6000),
    "digits": (32, 72, 144, 288),
    "f2_small": (32, 128, 384, 1152),
}
SOLUTIONS = {"space": "full"}
CAPTION = "test accuracy falls and sharpness rises with the batch size, past batches of about 500"
CLAIMS = (
    falls("Test accuracy falls with the batch size", "test_accuracy", along="batch_size"),
    rises(
        "Sharpness rises with the batch size, at both ε",
        "sharpness",
        along="batch_size",
        at=SOLUTIONS,
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """C1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    config = study("fig04", variant, "Fig. 4", CAPTION, CLAIMS, net="c1")
    config.sweep.batch_size = REDUCED_BATCH_SIZES.get(variant, BATCH_SIZES)
    if variant not in REDUCED:
        config.sweep.seed = (0,)
    config.measure.names = ("sharpness",)
    config.measure.sharpness.spaces = ("full",)
    config.measure.every = config.epochs  # only the last iterate
    return config


def finish(config: ConfigDict, workdir: Path) -> None:
    """Trains what is not trained yet and draws."""
    config, ds = trained(config, workdir)
    paper = published()["fig4"].get(config.model.name)
    print(*drawings.against_batch_size(ds, paper=paper).save(workdir, ("png",)))


if __name__ == "__main__":
    main("fig04", get_config, finish)
