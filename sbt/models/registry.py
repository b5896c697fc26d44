"""The models that a config can name; each is registered beside its class."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sbt.choice import Registry

MODELS = Registry(
    "model",
    static=True,
    elsewhere={
        "num_classes": "It follows from the data.",
        "bn_batch": "Set config.bn_batch.",
        "bn_axis_name": "It follows from the devices.",
        "dtype": "Set config.engine.precision.",
        "parent": "Flax sets it.",
        "name": "Flax sets it.",
    },
)
# Where a model does not say otherwise, its standard data are CIFAR-10's.
INPUT_SHAPE, NUM_CLASSES = (32, 32, 3), 10


def build_model(
    config: Mapping[str, Any],
    num_classes: int,
    bn_batch: int | None = None,
    dtype: Any = jnp.float32,
    bn_axis_name: str | None = None,
) -> nn.Module:
    """The module that a config's ``model`` section describes.

    Args:
      config: ``name``, a key of :data:`MODELS`, and fields of that model's class.
      num_classes: number of logits; of tokens, the size of the vocabulary.
      bn_batch: b, examples that share batch statistics in training; None: all of the micro-batch.
      dtype: dtype of the computation.
      bn_axis_name: mesh axis that batch statistics span in training; None: no other device.

    Raises:
      UserError: unknown name or field, or a value that the field does not take.
    """
    choice = MODELS.configured(config)
    given = {"num_classes": num_classes, "dtype": dtype}
    batch_norm = {"bn_batch": bn_batch, "bn_axis_name": bn_axis_name}
    return choice(**given, **{k: v for k, v in batch_norm.items() if k in choice.others})


class ModelDescription(NamedTuple):
    """One row of ``sbt list``: ``parameters`` counted for ``input_shape`` and ``num_classes``."""

    name: str
    parameters: int
    input_shape: tuple[int, ...]
    num_classes: int
    source: str
    doc: str


def describe_models() -> list[ModelDescription]:
    """Every model with its parameter count for its standard data and its source."""
    rows = []
    for name, choice in MODELS.items():
        shape = choice.facts.get("input_shape", INPUT_SHAPE)
        classes = choice.facts.get("num_classes", NUM_CLASSES)
        module = choice(num_classes=classes)
        init = functools.partial(module.init, train=False)
        x = jax.ShapeDtypeStruct((1, *shape), choice.facts.get("input_dtype", jnp.float32))
        params = jax.eval_shape(init, jax.random.key(0), x)["params"]
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        rows.append(ModelDescription(name, count, shape, classes, choice.source, choice.about))
    return rows
