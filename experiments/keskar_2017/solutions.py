"""A sweep's network as a function of its weights, and what it makes of those that were kept."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from sbt.data import load, make_pipeline
from sbt.measure import average_over_split, interpolate
from sbt.models.adapter import Model, as_model
from sbt.models.registry import build_model
from sbt.nn.conv import lane_friendly
from sbt.sweep.weights import kept_weights
from sbt.tasks.classification import cross_entropy, is_correct

Side = Literal["train", "test"]
CURVES = ("linear", "curvilinear")


class Network(NamedTuple):
    """A model on its data, with batch statistics at evaluation.

    Attributes:
      model: pure functions.
      arrays: data for the device.
      batches: the input pipeline.
      stats: of the model; batch norm on batch statistics does not read them.
      sizes: examples of each split that count.
      batch: examples per evaluation batch.
    """

    model: Model
    arrays: Any
    batches: Callable[..., Any]
    stats: Any
    sizes: dict[str, int]
    batch: int

    def logits(
        self, params: Any, batch: jax.Array, side: Side, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Logits and labels of some positions of a split; in training mode if there is a key."""
        examples = self.batches(self.arrays, batch, 0, None, side == "train", augmented=False)
        with lane_friendly("direct"):
            logits, _ = self.model.apply(params, self.stats, examples["x"], key, key is not None)
        return logits, examples["label"]

    def scores(self, side: Side) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
        """``params -> `` (loss in nats, accuracy), means over a split."""

        def score(params: Any, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, labels = self.logits(params, batch, side)
            return jnp.mean(cross_entropy(logits, labels)), jnp.mean(is_correct(logits, labels))

        return average_over_split(score, jnp.arange(self.sizes[side], dtype=jnp.int32), self.batch)


def make_network(config: ConfigDict) -> Network:
    """The network of a config, on its data."""
    dataset = load(config.data)
    arrays, batches = make_pipeline(dataset, config.data)
    fields = {**config.model, "bn_eval": "batch"}
    model = as_model(build_model(fields, num_classes=dataset.num_classes))
    x = batches(arrays, jnp.zeros(1, jnp.int32), 0, None, False)["x"]
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)[1]
    stats = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    sizes = {"train": len(dataset.train_labels), "test": len(dataset.test_labels)}
    batch = config.evaluate.batch or max(sizes.values())
    arrays = jax.tree.map(jnp.asarray, arrays)
    return Network(model, arrays, batches, stats, sizes, batch)


def training_accuracy(network: Network, directory: Path, ds: xr.Dataset) -> xr.DataArray:
    """Accuracy of every run's final weights on the training set, in evaluation mode (Table 2).

    The curve ``train_accuracy`` is a mean over an epoch, while the weights change, with dropout.
    """
    score = jax.jit(network.scores("train"))
    found = xr.full_like(ds["accuracy"], np.nan)
    found.attrs = {"long_name": "training accuracy of the last weights"}
    for rows in kept_weights(None, directory):
        for index, row in rows.items():
            found[index] = float(score(row.weights().params)[1])
    return found


def paths_between(network: Network, small: Any, large: Any, points: int = 25) -> xr.Dataset:
    """Loss and accuracy on both splits along both curves through two solutions.

    Args:
      network: of both.
      small: weights of the small-batch solution, at alpha = 0.
      large: of the large-batch one, at alpha = 1.
      points: from alpha = -1 to 2.

    Returns:
      ``loss`` (nats) and ``accuracy`` (fraction) over ``curve``, ``split`` and ``alpha``.
    """

    @functools.partial(jax.jit, static_argnames="curve")
    def follow(arrays: Any, start: Any, end: Any, curve: Any) -> Any:
        here = network._replace(arrays=arrays)  # an argument: as a constant it would be folded
        train, test = here.scores("train"), here.scores("test")

        def both(params: Any) -> jax.Array:
            return jnp.stack([jnp.stack(train(params)), jnp.stack(test(params))])

        return interpolate(both, start, end, curve=curve, points=points)

    found = [follow(network.arrays, small, large, curve) for curve in CURVES]
    values = np.stack([np.asarray(path.values) for path in found])  # curve, alpha, split, quantity
    dims, values = ("curve", "split", "alpha"), np.moveaxis(values, 1, 2)
    return xr.Dataset(
        {
            "loss": (dims, values[..., 0], {"units": "nats", "long_name": "cross entropy"}),
            "accuracy": (dims, values[..., 1]),
        },
        {
            "curve": list(CURVES),
            "split": ["train", "test"],
            "alpha": np.asarray(found[0].alphas, np.float64),
        },
    )
