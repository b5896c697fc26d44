"""Fig. 5: large-batch training that starts from the iterates of small-batch training.

    python experiments/keskar_2017/fig05_warm_start.py --workdir runs/fig05     (all of it)
    python experiments/keskar_2017/fig05_warm_start.py --digits --workdir runs/fig05_digits

Keskar et al. (2017), section 3: ADAM with batches of 256 for 100 epochs, keeping the weights after
every epoch; from each of them 100 epochs with large batches. After a few epochs of small batches
the large ones end as accurate as they (C1: 77.6 % from the first iterate, 80.2 % from the eleventh,
small batches alone 80.1 %), and as flat (sharpness at ε = 1e-3 532 % from the first, 171 % from the
eleventh, 0.8 % from the last). ADAM's moments at the hand-over are not mentioned; they start at
zero here. The paper's legend prints 5E-3 for the second ε and means 5E-4.

C1 (``--f1``, ``--c2`` ... for others): 100 + 100 x 100 epochs, for an accelerator. ``--small`` is
the reduced F1 on MNIST, 20 + 20 x 20 epochs, up to half an hour on two CPU cores; ``--digits``
takes a minute. In the work directory: ``warm_start.nc`` and ``fig05.png``. ``sbt run`` with this
file trains the two batch sizes from the start and no warm ones.
"""

from pathlib import Path
from typing import Any

import drawings
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from keskar import (
    VARIANTS,  # noqa: F401 (what get_config takes)
    main,
    study,
    write,
)
from ml_collections import ConfigDict
from piggy_back import from_each, make_training
from solutions import make_network

from sbt.measure import sharpness

EPSILONS = (1e-3, 5e-4)


def get_config(variant: str = "") -> ConfigDict:
    """C1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    config = study("fig05_warm_start", variant, net="c1")
    config.sweep.seed = (0,)
    return config


def warm_starts(config: ConfigDict) -> xr.Dataset:
    """Accuracy of every small-batch iterate, accuracy and sharpness of the run that it starts."""
    network, seed = make_network(config), config.sweep.seed[0]
    key, small_batch = jax.random.key(seed), min(config.sweep.batch_size)
    settings = config.measure.sharpness
    loss, test = network.loss(config.measure.examples), network.scores("test")
    train = make_training(network, small_batch, config.epochs, config.base_lr)
    iterates = jax.jit(train)(network.initial(seed), key)
    small = jax.jit(lambda stacked: jax.lax.map(lambda p: test(p)[1], stacked))(iterates)

    def measure(params: Any) -> tuple[jax.Array, jax.Array]:
        def phi(epsilon: jax.Array) -> Any:
            steps = {"starts": settings.starts, "steps": settings.steps}
            return sharpness(loss, params, epsilon, **steps).value

        return test(params)[1], jax.lax.map(phi, jnp.asarray(EPSILONS))

    large, sharp = from_each(
        network,
        iterates,
        key,
        measure,
        batch_size=max(config.sweep.batch_size),
        epochs=config.epochs,
        learning_rate=config.base_lr,
    )
    return xr.Dataset(
        {
            "small_accuracy": ("start", np.asarray(small)),
            "large_accuracy": ("start", np.asarray(large)),
            "sharpness": (("start", "epsilon"), np.asarray(sharp), {"units": "%"}),
        },
        {"start": np.arange(1, config.epochs + 1), "epsilon": list(EPSILONS)},
    )


def finish(config: ConfigDict, workdir: Path) -> None:
    """Trains, measures and draws."""
    found = warm_starts(config)
    write(found, workdir / "warm_start.nc")
    print(*drawings.warm_start(found).save(workdir, ("png",)))


if __name__ == "__main__":
    main("fig05_warm_start", get_config, finish)
