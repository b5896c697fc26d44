"""Tables 2, 3 and 4: accuracy of small and large batches, and the sharpness of their solutions.

    sbt run experiments/keskar_2017/table2_4.py:c1 --workdir runs/table2_4
    python experiments/keskar_2017/table2_4.py --c1 --workdir runs/table2_4   (prints the table)
    sbt measure runs/table2_4 --config.measure=hessian_eigenvalues            (anything else, later)

``:f2`` trains F2 on a stand-in for TIMIT, which is licensed, see ``keskar.py``; ``:f2_small`` less
of it. Evidence is in ``results/``. ``table2_4_small``: five trials of F1 at a width of 128, 20
epochs, three starts of the maximisation. Small batches generalise better, by 0.5 points [0.2, 0.9];
the large-batch solution is sharper in both spaces and for both ε, 3.7 times [2.0, 6.6] in the full
space at 1e-3 and so not 9 times; the small-batch one is 2.7 times [2.7, 2.8] as far from the start
and not quite 3. ``table2_4_f1``, older, is F1 itself after 20 epochs, two trials and one start: the
large-batch solution is sharper in all but the subspace at ε = 5e-4; it gives the mean training
accuracy of the last epoch.

Keskar et al. (2017), sections 2.1 and 2.2.2, F1 (or another net: ``:c1`` ... ``:c4``), five trials
of each batch size. The paper's F1: test accuracy 98.03 % (256) and 97.81 % (6000); sharpness at
ε = 1e-3 1.2 and 205 in the full space, 0.11 and 9.2 in a random subspace of 100 directions.
Everywhere the large-batch solution is 9 to 225 times as sharp (full space, ε = 1e-3), and farther
from the start is the small-batch one, 3 to 10 times. The paper trains until the loss stops
improving, by a criterion that it does not give; here it is 100 epochs, as in its figures. Training
accuracy is that of the solutions, in evaluation mode (99.89 % for C1 in Table 2, where Fig. 2 ends
at 98.5 %, a mean over an epoch with dropout).
"""

from pathlib import Path

import drawings
from as_published import pairs, rows
from keskar import (
    VARIANTS,  # noqa: F401 (what get_config takes)
    main,
    study,
    trained,
)
from ml_collections import ConfigDict
from solutions import make_network, training_accuracy

from sbt.report.statements import exceeds, ratio_at_least

CAPTION = "small batches generalise better, and large ones end in minima 9 to 225 times as sharp"
SMALL, LARGE = {"batch_size": "first"}, {"batch_size": "last"}
CLAIMS = (
    exceeds("Small batches generalise better", "test_accuracy", more=SMALL, less=LARGE),
    ratio_at_least(
        "Large batches end at least 9 times as sharp (full space, ε = 1e-3)",
        "sharpness",
        factor=9,
        more=LARGE,
        less=SMALL,
        at={"space": "full", "epsilon": 1e-3},
    ),
    ratio_at_least(
        "Large batches end sharper in both spaces, at both ε",
        "sharpness",
        more=LARGE,
        less=SMALL,
    ),
    ratio_at_least(
        "Halving ε lowers the sharpness of the full space 1.5 times or more",
        "sharpness",
        factor=1.5,
        more={"epsilon": 1e-3},
        less={"epsilon": 5e-4},
        at={"space": "full"},
    ),
    ratio_at_least(
        "Small batches end at least 3 times as far from the start",
        "distance_from_start",
        factor=3,
        more=SMALL,
        less=LARGE,
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """F1 with the paper's budget, another of its nets, or a reduced one, such as ``small``."""
    config = study("table2_4", variant, "Tables 2 to 4", CAPTION, CLAIMS)
    config.measure.names = ("sharpness", "distance")
    config.measure.every = config.epochs  # only the solutions
    return config


ROWS = {
    "training accuracy": ("2", "train_{}"),
    "test accuracy": ("2", "test_{}"),
    "full, ε = 0.001": ("3", "{}_1e-3"),
    "full, ε = 0.0005": ("3", "{}_5e-4"),
    "subspace, ε = 0.001": ("4", "{}_1e-3"),
    "subspace, ε = 0.0005": ("4", "{}_5e-4"),
}


def as_published(config: ConfigDict) -> list[list[str]]:
    """The paper's rows for the same net."""
    return rows(config.model.name, ROWS)


def finish(config: ConfigDict, workdir: Path) -> None:
    """Trains what is not trained yet and prints the table."""
    config, ds = trained(config, workdir)
    accuracy = training_accuracy(make_network(config), workdir, ds)
    text = drawings.table(ds, accuracy, pairs(config.model.name, ROWS))
    (workdir / "table2_4.txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main("table2_4", get_config, finish)
