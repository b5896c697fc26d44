"""The fingerprint of what a sweep trains beyond its config: a user's module and rule, the data."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sbt import fingerprint
from sbt.data import Dataset
from sbt.models.adapter import Model
from sbt.sweep import user_rule


def fingerprint_of_data(datasets: Mapping[str, Dataset], *, is_own: bool) -> dict[str, Any]:
    """Of every data set of a sweep, by its section of the config.

    Args:
      datasets: by that section as JSON.
      is_own: whether the user gave it.
    """
    found = {}
    for section, dataset in datasets.items():
        # Where the files lie, and what is done to the images afterwards, are the config's matter.
        named = json.loads(section)
        names = (field for field in ("name", "train_size", "test_size") if named.get(field))
        label = ", ".join(f"{field} {named[field]}" for field in names)
        found[label] = fingerprint.of_dataset(dataset, own=is_own)
    return found


def fingerprint_of_module(module: Any, model: Model, example: jax.ShapeDtypeStruct) -> Any:
    """Of a user's module: its name, its fields, its parameters, and what it computes of them.

    Args:
      module: as the user gave it.
      model: made of it.
      example: shape and dtype of an input batch.
    """
    key = jax.random.key(0)
    params, stats = jax.eval_shape(model.init, key, example)
    named = (
        module if isinstance(module, type) or not isinstance(module, nn.Module) else type(module)
    )
    found: dict[str, Any] = {
        "name": model.name or getattr(named, "__name__", type(module).__name__),
        "fields": _fields(module),
        "parameters": fingerprint.of_parameters(params),
        "statistics": fingerprint.of_parameters(stats),
    }
    if isinstance(module, nnx.Module):  # all seeds start from what it holds
        held = jax.tree.map(np.asarray, model.init(key, jnp.zeros(example.shape, example.dtype)))
        hashes = [fingerprint.of_array(leaf) for leaf in jax.tree.leaves(held)]
        found["values"] = fingerprint.of_array(np.asarray(hashes, "S16"))

    def logits(params: Any, stats: Any, x: Any) -> Any:
        return model.apply(params, stats, x, None, False)[0]

    found["computation"] = fingerprint.of_computation(
        jax.make_jaxpr(logits)(
            params, stats, jax.ShapeDtypeStruct((2, *example.shape[1:]), example.dtype)
        )
    )
    return found


def _fields(module: Any) -> dict[str, str]:
    if not isinstance(module, nn.Module):
        return {}
    names = (f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name"))
    return {
        name: fingerprint.short_text(user_rule.text_of(getattr(module, name, None)))
        for name in names
    }


def fingerprint_of(config: Any, builder: Any) -> dict[str, Any]:
    """What :func:`sbt.fingerprint.differences` compares, of a sweep that is prepared.

    Args:
      config: of any of its cohorts.
      builder: made its tasks.
    """
    parts, module = builder.parts, None
    if parts.module is not None:
        task = builder.task(config)
        module = fingerprint_of_module(parts.module, task.model, task.example())
    return {
        "module": module,
        "rule": None if parts.rule is None else user_rule.signature_of(parts.rule),
        "data": fingerprint_of_data(builder.datasets, is_own=parts.dataset is not None),
    }
