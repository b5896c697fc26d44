"""Figs 3 and 7: the loss along the line, and a curve, from a small- to a large-batch solution.

    python experiments/keskar_2017/fig03_fig07.py --workdir runs/fig03_fig07       (trains, draws)
    python experiments/keskar_2017/fig03_fig07.py --small --workdir runs/fig03_small

F1 on MNIST (``--c1`` ... ``--c4`` for the others), 100 epochs, one trial; ``--small`` takes about
three minutes on two CPU cores, ``--digits`` one. In the work directory: ``paths.nc`` and
``fig03_fig07.png``, with the paper's F1 and C1 beneath (numbers read off its figures, in
``fig03_fig07_paper.json``). A work directory of ``table2_4.py`` will do too: its solutions are
taken.

Keskar et al. (2017), section 2.2.1 and appendix D: x(α) = α x_LB + (1 - α) x_SB, and with
sin(απ/2) and cos(απ/2) in place of α and 1 - α, at 25 points from -1 to 2, cross entropy (left
axis) and accuracy (right axis) on both splits (``config.measure.examples`` of each). On the way
there is a barrier at α ≈ 0.75 to 0.9 (not for F1), and from the large-batch minimum on the loss
rises far more steeply than from the small-batch one: F1 has 0.02 at α = -1 and 7.2 at 1.5. Weights
are interpolated, and batch norm takes the statistics of batches of 5000, as in the released code.
"""

from pathlib import Path

import drawings
import jax
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

CAPTION = (
    "from the large-batch minimum on, the loss rises far more steeply than from the small-batch one"
)


def get_config(variant: str = "") -> ConfigDict:
    """F1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    config = study("fig03_fig07", variant, "Figs 3 and 7", CAPTION)
    config.sweep.seed = (0,)
    return config


def finish(config: ConfigDict, workdir: Path) -> None:
    """Trains what is not trained yet, follows both curves between a pair of solutions, draws."""
    config, ds = trained(config, workdir)
    network, seed = make_network(config), ds.seed.values[0]
    most = config.measure.examples or max(network.sizes.values())
    network = network._replace(sizes={k: min(n, most) for k, n in network.sizes.items()})
    small, large = (
        jax.device_put(sbt.load_weights(workdir, batch_size=m, seed=seed).params)
        for m in (min(ds.batch_size.values), max(ds.batch_size.values))
    )
    path = paths_between(network, small, large)
    write(path, workdir / "paths.nc")
    sizes = " and ".join(str(m) for m in ds.batch_size.values)
    width = f" ({config.model.width} wide)" if "width" in config.model else ""
    title = f"{config.model.name.upper()}{width}, {config.data.name}, batch sizes {sizes}"
    title += f", {config.epochs} epochs"
    title += f"; the first {most} images of each split" * bool(config.measure.examples)
    paper = drawings.paper_paths(config.model.name)
    print(*drawings.paths(path, "fig03_fig07", title, paper).save(workdir, ("png",)))


if __name__ == "__main__":
    main("fig03_fig07", get_config, finish)
