"""Fig. 2: training and test accuracy against the epoch, for small and large batches.

    python experiments/keskar_2017/fig02.py --workdir runs/fig02     (trains, draws)
    sbt run experiments/keskar_2017/fig02.py --workdir runs/fig02    (the same without the figure)

Keskar et al. (2017), section 2.1: F2 and C1, 100 epochs, one curve for each batch size and split.
Large batches lose test accuracy, and not because they overfit: no curve of test accuracy falls late
in training, so that stopping early would not help. C1 ends at 80.3 % with small batches and 77.1 %
with large ones. Training accuracies are means over an epoch, with dropout, in the figure as here,
which is why they begin below the test accuracies. ``:small`` is the reduced F1 on MNIST, 20 epochs.

``:small`` with 5 trials (``results/fig02_small``): both claims hold. Batches of 256 end half a
point above those of 6000 (0.18 to 0.85), and neither curve falls from epoch 8 on.
"""

from pathlib import Path

import drawings
from as_published import (
    accuracies as as_published,  # noqa: F401 (what a gallery shows beside ours)
)
from keskar import (
    VARIANTS,  # noqa: F401 (what get_config takes)
    main,
    published,
    study,
    trained,
)
from ml_collections import ConfigDict

from sbt.report.statements import exceeds

CAPTION = "large batches generalise worse, and no test accuracy falls late in training"
LATE = 0.4  # of training: from there on the paper's curves are level
NOISE = 0.005


def get_config(variant: str = "") -> ConfigDict:
    """C1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    config = study("fig02", variant, "Fig. 2", CAPTION, net="c1")
    config.report.claims = (
        exceeds(
            "Small batches generalise better",
            "test_accuracy",
            more={"batch_size": "first"},
            less={"batch_size": "last"},
        ),
        exceeds(
            "Test accuracy does not fall late in training, by half a point",
            "test_accuracy",
            more={"epoch": "last"},
            less={"epoch": round(LATE * config.epochs)},
            margin=-NOISE,
        ),
    )
    config.checkpoint.final_weights = False
    return config


def finish(config: ConfigDict, workdir: Path) -> None:
    """Trains what is not trained yet and draws."""
    config, ds = trained(config, workdir)
    paper = published()["fig2"].get(config.model.name)
    print(*drawings.accuracies(ds, paper=paper).save(workdir, ("png",)))


if __name__ == "__main__":
    main("fig02", get_config, finish)
