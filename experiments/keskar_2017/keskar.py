"""The protocol of Keskar et al. (2017), arXiv 1609.04836: what its figures and tables share.

Small batches of 256, large ones of 10 % of the training set; ADAM for both, with the same learning
rate and the same initial weights; five trials. Stated by the authors' released code and not by the
paper: pixels divided by 255 and nothing else, batch norm on batch statistics at evaluation too, in
batches of 5000. Known neither from paper nor code, chosen here: ADAM's hyperparameters (a library's
defaults: 1e-3, 0.9, 0.999, 1e-8), the batch norm epsilon (1e-6, see ``sbt.models.keskar``), no
clipping of probabilities (the paper's loss saturates at 16.1 = -log 1e-7, ours does not), and, in
the sharpness, what ``sbt.measure.sharpness`` and ``sbt.measure.random_subspace`` say: sign
iteration from four starts instead of L-BFGS-B, normal entries for the random matrix, no dropout.
The trials of one seed share initial weights and order of the examples, across batch sizes.

F2 needs TIMIT, which is licensed: ``:f2`` trains it on a stand-in, ``sbt.data.digit_frames``: rows
of digits in context, 11,520 of them in 80 states in place of 721,329 frames in 1973, with batches
of 32 and 1152 (a tenth). Its numbers are not to be compared with the paper's.

``:small``, for two CPU cores, is F1 with layers of 128 instead of 512 on the whole of MNIST with
the paper's batch sizes, 20 epochs (those of the released code), two trials, and the sharpness of
the first 5000 training images from one start. ``:digits`` is the same net on scikit-learn's digits
(1440 images) with batches of 32 and 144, ``:f2_small`` F2 so reduced on its stand-in.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError
from sbt.files import write_bytes
from sbt.results import to_bytes

PAPERS_DATA = {
    "f1": "mnist", "f2": "timit", "c1": "cifar10", "c2": "cifar10", "c3": "cifar100",
    "c4": "cifar100",
}  # fmt: skip
STAND_IN = "digit_frames"  # for TIMIT
DATA = PAPERS_DATA | {"f2": STAND_IN}
TRAIN_SIZE = {"mnist": 60000, "cifar10": 50000, "cifar100": 50000, "digits": 1440, STAND_IN: 11520}
SMALL_BATCH = {"digits": 32, STAND_IN: 32}  # 256 elsewhere
LARGE_SHARE = 0.1
EPOCHS, TRIALS = 100, 5
EVALUATION_BATCH = 5000  # also the examples that share batch statistics there
STARTS = 4  # of the maximisation in the sharpness

REDUCED = {"small": ("f1", "mnist"), "digits": ("f1", "digits"), "f2_small": ("f2", STAND_IN)}
VARIANTS = ("", *REDUCED, *DATA)
REDUCED_WIDTH, REDUCED_EPOCHS, REDUCED_TRIALS = 128, 20, 2


def study(
    figure: str,
    variant: str,
    where: str,
    caption: str,
    claims: Sequence[Any] = (),
    *,
    net: str = "f1",
    epochs: int = EPOCHS,
) -> ConfigDict:
    """The config of one figure or table.

    Args:
      figure: its name, ``fig04``.
      variant: ``""``, one of :data:`REDUCED`, or a network: ``f1``, ``f2``, ``c1`` ... ``c4``.
      where, caption: where the paper shows it, and what it says of it.
      claims: the same, as functions that judge the results.
      net: the network of the variant ``""``.
      epochs: of the paper's budget.
    """
    if variant not in VARIANTS:
        known = ", ".join(f":{name}" for name in VARIANTS[1:])
        problem = "there is no such variant"
        raise UserError(f"{figure}.py:{variant}", problem, f"use one of {known}, or none")
    network = variant or net
    name, data = REDUCED.get(network) or (network, DATA[network])
    dense = name in ("f1", "f2")
    config = default()
    config.name = f"keskar_2017-{figure}" + f"-{variant}" * bool(variant)
    config.report.figure, config.report.caption = f"Keskar et al. 2017, {where}", caption
    config.data.name = data
    config.data.normalize = "unit"
    config.model = {"name": name}
    config.epochs = epochs
    config.rule = {"name": "adam"}
    config.base_lr = 1e-3
    config.lr_scaling = "none"
    config.evaluate.statistics = "batch"
    config.evaluate.batch = EVALUATION_BATCH
    config.measure.batch = EVALUATION_BATCH
    config.measure.sharpness.starts = STARTS
    config.checkpoint.final_weights = True
    config.sweep.batch_size = batch_pair(data)
    config.sweep.seed = tuple(range(TRIALS))
    config.report.claims = tuple(claims)
    config.report.protocol = (
        ("data", PAPERS_DATA[name]),
        ("model", (name,)),
        ("rule", "adam"),
        ("epochs", epochs),
        ("last_epochs", 1),
        ("seeds", TRIALS),
        ("settings", (*(("model.width", 512),) * dense, ("measure.examples", None))),
    )
    if variant in REDUCED:
        config.model.width = REDUCED_WIDTH
        config.epochs = min(epochs, REDUCED_EPOCHS)
        config.sweep.seed = tuple(range(REDUCED_TRIALS))
        config.measure.examples = EVALUATION_BATCH
        config.measure.sharpness.starts = 1
    return config


def batch_pair(data: str) -> tuple[int, int]:
    """The small and the large batch size for a data set."""
    return SMALL_BATCH.get(data, 256), int(LARGE_SHARE * TRAIN_SIZE[data])


def main(
    figure: str,
    get_config: Callable[[str], ConfigDict],
    finish: Callable[[ConfigDict, Path], None],
    argv: Sequence[str] | None = None,
) -> None:
    """``python <figure>.py [--small] [--workdir DIR] [--config.field=value ...]``.

    Args:
      figure: its name, for messages.
      get_config: of the figure.
      finish: all that the command does: ``(config, workdir)``.
      argv: arguments; None: of the command line.
    """
    from sbt.overrides import apply_overrides

    variant, workdir, overrides = "", "", []
    rest = list(sys.argv[1:] if argv is None else argv)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--config."):
            overrides.append(argument)
        elif argument.startswith("--workdir"):
            workdir = argument.partition("=")[2] or (rest.pop(0) if rest else "")
        else:
            variant = argument.lstrip("-")
    try:
        config = apply_overrides(get_config(variant), overrides)
        finish(config, Path(workdir or f"runs/{config.name}"))
    except UserError as error:
        sys.exit(f"{figure}: {error}")


def trained(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, xr.Dataset]:
    """The sweep in a work directory, if one is done there, else that of the config, trained."""
    import sbt
    from sbt.sweep.progress import for_console
    from sbt.workdir import read_meta, stored_config

    if read_meta(workdir).get("status") == "done" and (stored := stored_config(workdir)):
        return stored, sbt.load(workdir)
    return config, sbt.run(config, workdir, progress=for_console())


def published() -> dict[str, Any]:
    """What the paper prints, and what its figures show, as numbers."""
    return json.loads(Path(__file__).with_name("published.json").read_text())


def write(dataset: xr.Dataset, path: Path) -> None:
    """Writes a netCDF file that is whole at every moment."""
    write_bytes(path, to_bytes(dataset))
