"""Figs 3 and 7: the loss along the line, and a curve, from a small- to a large-batch solution.

    python experiments/keskar_2017/fig03_fig07.py --workdir runs/fig03_fig07       (trains, draws)
    python experiments/keskar_2017/fig03_fig07.py --small --workdir runs/fig03_small

F1 on MNIST (``--c1`` ... ``--c4`` for the others), 100 epochs, five trials; ``--small`` takes about
five minutes on two CPU cores, ``--digits`` one. In the work directory: ``paths.nc``, of every
trial's pair; ``fig03_fig07.png``, the first pair with the paper's F1 and C1 beneath (numbers read
off its figures, in ``fig03_fig07_paper.json``); and ``verdicts.txt``. A work directory of
``table2_4.py`` will do too: its solutions are taken.

Keskar et al. (2017), section 2.2.1 and appendix D: x(α) = α x_LB + (1 - α) x_SB, and with
sin(απ/2) and cos(απ/2) in place of α and 1 - α, at 25 points from -1 to 2, cross entropy (left
axis) and accuracy (right axis) on both splits (``config.measure.examples`` of each). On the way
there is a barrier at α ≈ 0.75 to 0.9 (not for F1), and from the large-batch minimum on the loss
rises far more steeply than from the small-batch one: F1 has 0.02 at α = -1 and 7.2 at 1.5. Weights
are interpolated, and batch norm takes the statistics of batches of 5000, as in the released code.

``results/table2_4_small``, five pairs at a width of 128 after 20 epochs: half the distance beyond
the large-batch minimum the loss is higher than beyond the other, by 1.4 nats [1.2, 1.5].
"""

from pathlib import Path

import drawings
import jax
import xarray as xr
from as_published import (
    paths as as_published,  # noqa: F401 (what a gallery shows beside ours)
)
from keskar import (
    VARIANTS,  # noqa: F401 (what get_config takes)
    main,
    study,
    trained,
    write,
)
from ml_collections import ConfigDict
from solutions import make_network, paths_between

import sbt
from sbt.config import to_json
from sbt.report import View, verdicts
from sbt.report.statements import exceeds

CAPTION = (
    "from the large-batch minimum on, the loss rises far more steeply than from the small-batch one"
)
LINE = {"curve": "linear", "split": "train"}
STEEPER = exceeds(
    "Half the distance beyond the large-batch minimum the loss is higher than beyond the other",
    "path_loss",
    more={"alpha": 1.5},
    less={"alpha": -0.5},
    at=LINE,
)
BARRIER = exceeds(
    "There is a barrier on the line, at α = 0.875",
    "path_loss",
    more={"alpha": 0.875},
    less={"alpha": 1.0},
    at=LINE,
)


def get_config(variant: str = "") -> ConfigDict:
    """F1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    of_f1 = variant in ("", "f1", "small", "digits")  # whose curves have no barrier
    claims = (STEEPER,) if of_f1 else (STEEPER, BARRIER)
    return study("fig03_fig07", variant, "Figs 3 and 7", CAPTION, claims)


def finish(config: ConfigDict, workdir: Path) -> None:
    """Trains what is not trained yet, follows both curves between the solutions, draws, judges."""
    claims = config.report.claims
    config, ds = trained(config, workdir)
    config.report.claims = claims  # about paths, whosesoever the solutions are
    network = make_network(config)
    most = config.measure.examples or max(network.sizes.values())
    network = network._replace(sizes={k: min(n, most) for k, n in network.sizes.items()})
    pairs = []
    for seed in ds.seed.values:
        small, large = (
            jax.device_put(sbt.load_weights(workdir, batch_size=m, seed=seed).params)
            for m in (min(ds.batch_size.values), max(ds.batch_size.values))
        )
        pairs.append(paths_between(network, small, large))
    path = xr.concat(pairs, ds["seed"])
    kept = path.rename(loss="path_loss", accuracy="path_accuracy")
    write(kept, workdir / "paths.nc")
    sizes = " and ".join(str(m) for m in ds.batch_size.values)
    width = f" ({config.model.width} wide)" if "width" in config.model else ""
    title = f"{config.model.name.upper()}{width}, {config.data.name}, batch sizes {sizes}"
    title += f", {config.epochs} epochs"
    title += f"; the first {most} images of each split" * bool(config.measure.examples)
    paper = drawings.paper_paths(config.model.name)
    first = path.isel(seed=0)
    print(*drawings.paths(first, "fig03_fig07", title, paper).save(workdir, ("png",)))
    whole = ds.assign(kept.data_vars)
    whole.attrs["config"] = to_json(config)
    text = "\n".join(map(str, verdicts(View(whole))))
    (workdir / "verdicts.txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main("fig03_fig07", get_config, finish)
