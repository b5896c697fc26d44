"""A user's own module, data and rule: what they are called, and what tells them from others.

A work directory keeps fingerprints of what was trained in it (``parts.json``), so that other parts
are refused there as another config is. They depend on what the parts are, not on their code: the
same module from a file that was moved or reformatted is the same.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from sbt.data import Dataset
from sbt.errors import UserError, shown
from sbt.files import read_json, write_json
from sbt.models.adapter import Model
from sbt.sweep.own import _text as text_of
from sbt.sweep.own import signature_of

FILE = "parts.json"

Fingerprints = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Parts:
    """A user's own pieces; None where the config names one that ships.

    Attributes:
      module: a Flax module (Linen, or NNX: see :func:`sbt.models.adapter.as_model`).
      dataset: arrays, see :func:`sbt.data.from_arrays`.
      rule: an update rule, see :mod:`sbt.sweep.own`.

    Raises:
      UserError: the data set is not one.
    """

    module: Any = None
    dataset: Dataset | None = None
    rule: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.dataset is not None and not isinstance(self.dataset, Dataset):
            raise UserError(
                "dataset",
                f"{shown(self.dataset)} is not a data set",
                "make one of your arrays: sbt.from_arrays(x, y, x_test, y_test)",
            )

    def names(self) -> dict[str, str]:
        """What reports call the user's own parts: attributes of the results."""
        found = {}
        if self.module is not None:
            found["own_module"] = name_of(self.module)
        if self.dataset is not None:
            found["own_data"] = f"{self.dataset.name} ({self.dataset.train_examples} examples)"
        if self.rule is not None:
            found["own_rule"] = name_of(self.rule)
        return found


def name_of(module: Any) -> str:
    """What messages and reports call a module (or a rule)."""
    while isinstance(module, functools.partial):
        module = module.func
    if isinstance(module, type) or not isinstance(module, nn.Module | nnx.Module | Model):
        return str(getattr(module, "__qualname__", type(module).__name__))
    return type(module).__qualname__


def fingerprint_of_module(module: Any, params: Any, stats: Any) -> dict[str, Any]:
    """What tells a module from another one.

    Args:
      module: as it was given.
      params: its parameters' shapes and dtypes.
      stats: its statistics', likewise.

    Returns:
      ``name``; of a Linen module its ``fields``; ``arrays``, path -> dtype and shape; of an NNX
      module that exists already ``values``, a hash of its weights, which all runs start from.
    """
    found: dict[str, Any] = {"name": name_of(module)}
    if isinstance(module, nn.Module):
        found["fields"] = {
            field.name: text_of(getattr(module, field.name, None))
            for field in dataclasses.fields(module)
            if field.name not in ("parent", "name")
        }
    if isinstance(module, nnx.Module):
        values = jax.tree.leaves(nnx.state(module, nnx.Param))
        found["values"] = _hash(*(np.asarray(value) for value in values))
    found["arrays"] = {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path((params, stats))
    }
    return found


def fingerprint_of_dataset(dataset: Dataset) -> dict[str, Any]:
    """What tells a data set from another one: sizes, and a hash over all that is in memory."""
    return {
        "train_examples": dataset.train_examples,
        "test_examples": dataset.test_examples,
        "example": f"{dataset.train_images.dtype}{list(dataset.train_images.shape[1:])}",
        "num_classes": dataset.num_classes,
        "content": _hash(
            dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels
        ),
    }


def fingerprints(
    parts: Parts, datasets: Mapping[str, Dataset], shapes: tuple[Any, Any]
) -> Fingerprints:
    """Fingerprints of all that a sweep trains.

    Args:
      parts: the user's own.
      datasets: all of the sweep, by name.
      shapes: of the parameters and the statistics of the user's module.

    Returns:
      ``module`` and ``rule``, None where the config names one that ships, and ``data``, by name.
    """
    return {
        "module": None if parts.module is None else fingerprint_of_module(parts.module, *shapes),
        "rule": None if parts.rule is None else signature_of(parts.rule),
        "own_data": parts.dataset is not None,
        "data": {name: fingerprint_of_dataset(data) for name, data in datasets.items()},
    }


def refuse_others(directory: Path, given: Fingerprints) -> None:
    """Refuses parts other than those that a work directory was trained with.

    A directory without fingerprints, of an earlier version, is taken as it is.

    Raises:
      UserError: the module, the rule or a data set of the same name is another one.
    """
    stored = _stored(directory)
    if stored is None:
        return
    for part, is_ in (("module", "module="), ("rule", "rule=")):
        _refuse_another(directory, is_, stored.get(part), given[part])
    for name, fingerprint in given["data"].items():
        if (known := stored.get("data", {}).get(name)) is not None:
            _refuse_another(directory, f"data set {name!r}", known, fingerprint)


def keep(directory: Path, given: Fingerprints) -> None:
    """Writes the fingerprints into a work directory, beside those of data sets that it has."""
    stored = _stored(directory) or {}
    merged = {**given, "data": {**stored.get("data", {}), **given["data"]}}
    if merged != stored:
        write_json(directory / FILE, merged)


def _stored(directory: Path) -> dict[str, Any] | None:
    try:
        return read_json(directory / FILE)
    except ValueError as error:
        raise UserError(
            str(directory / FILE),
            f"is damaged ({error})",
            "remove it: it tells which module, data and rule were trained here",
        ) from None


def _refuse_another(directory: Path, part: str, stored: Any, given: Any) -> None:
    if stored == given:
        return
    if stored is None or given is None:
        has = "without one of your own" if stored is None else f"with your own, {stored['name']}"
        problem = f"what is trained there was trained {has} ({part})"
    else:
        differing = sorted(_differences(stored, given))
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        problem = f"was trained with another {part}: {'; '.join(differing[:4])}{more}"
    raise UserError(
        f"--workdir={directory}", problem, "choose another directory, or give the same as before"
    )


def _differences(stored: Any, given: Any, path: str = "") -> list[str]:
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        return [
            difference
            for key in {**stored, **given}
            for difference in _differences(
                stored.get(key), given.get(key), f"{path}.{key}".lstrip(".")
            )
        ]
    return [] if stored == given else [f"{path} {stored} before, {given} now"]


def _hash(*arrays: np.ndarray) -> str:
    """The same for the same bytes in the same shapes."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
