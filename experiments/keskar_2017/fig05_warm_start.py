"""Fig. 5: large-batch training that starts from the iterates of small-batch training.

    sbt run experiments/keskar_2017/fig05_iterates.py       (first)
    sbt run experiments/keskar_2017/fig05_warm_start.py     (from runs/keskar_2017-fig05_iterates)
    python experiments/keskar_2017/fig05_warm_start.py      (the same, and draws)

Keskar et al. (2017), section 3: ADAM with batches of 256 for 100 epochs, keeping the weights after
every epoch; from each of them 100 epochs with large batches. After a few epochs of small batches
the large ones end as accurate as they (C1: 77.6 % from the first iterate, 80.2 % from the eleventh,
small batches alone 80.1 %), and as flat (sharpness at ε = 1e-3 532 % from the first, 171 % from the
eleventh, 0.8 % from the last). ADAM's moments at the hand-over are not mentioned; they start at
zero here. The paper's legend prints 5E-3 for the second ε and means 5E-4.

C1 (``:f1``, ``:c2`` ... for others): 100 + 100 x 100 epochs, for an accelerator. ``:small`` is the
reduced F1 on MNIST, 20 + 20 x 20 epochs, up to half an hour on two CPU cores; ``:digits`` takes a
minute. The runs of a sweep are those from every iterate, and share one program.
"""

from pathlib import Path

import drawings
import fig05_iterates
from as_published import (
    warm_start as as_published,  # noqa: F401 (what a gallery shows beside ours)
)
from keskar import (
    VARIANTS,  # noqa: F401 (what get_config takes)
    main,
    published,
    study,
    trained,
)
from ml_collections import ConfigDict

import sbt
from sbt.report.statements import falls, rises

CAPTION = "after a few epochs of small batches, large ones end as accurate and as flat as they"
CLAIMS = (
    falls(
        "The later small batches hand over, the flatter large ones end, at both ε",
        "sharpness",
        along="start_epoch",
        at={"space": "full"},
    ),
    rises(
        "The later small batches hand over, the more accurate large ones end",
        "test_accuracy",
        along="start_epoch",
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """C1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    config = study("fig05_warm_start", variant, "Fig. 5", CAPTION, CLAIMS, net="c1")
    config.start = f"runs/{fig05_iterates.get_config(variant).name}"
    config.batch_size = max(config.sweep.batch_size)
    config.sweep.batch_size, config.sweep.seed = None, (0,)
    config.sweep.start_epoch = tuple(range(1, config.epochs + 1))
    config.measure.names = ("sharpness",)
    config.measure.sharpness.spaces = ("full",)
    config.measure.every = config.epochs  # only the solutions
    config.checkpoint.final_weights = False
    return config


def finish(config: ConfigDict, workdir: Path) -> None:
    """Trains what is not trained yet and draws."""
    config, ds = trained(config, workdir)
    paper = published()["fig5"].get(config.model.name)
    print(*drawings.warm_start(ds, sbt.load(config.start), paper=paper).save(workdir, ("png",)))


if __name__ == "__main__":
    main("fig05_warm_start", get_config, finish)
