"""The parts of a results dataset: its axes, slices and config."""

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from sbt.text import one_line

SEED = "seed"
EPOCH = "epoch"
BATCH_SIZE = "batch_size"
BASE_LR = "base_lr"
BN_BATCH = "bn_batch"

DEFAULT_MARGIN = 0.05


def config_of(ds: xr.Dataset) -> dict[str, Any]:
    """The configuration stored with the results, or an empty dictionary.

    The user's own module, data and rule stand where the config names what they replaced.
    """
    loaded = _mapping(ds.attrs.get("config"))
    parts = _mapping(ds.attrs.get("parts"))
    data = [one for one in _mapping(parts.get("data")).values() if one.get("own")]
    own: dict[str, dict[str, Any]] = {}
    if module := _mapping(parts.get("module")):
        own["model"] = {"name": f"{module.get('name')} (own module)", **_mapping(module["fields"])}
    if data:
        called = "own arrays" if data[0]["name"] == "arrays" else f"{data[0]['name']}, own arrays"
        kept = {k: v for k, v in _mapping(loaded.get("data")).items() if k not in _OF_FILES}
        own["data"] = {**kept, "name": f"{called} ({data[0]['training examples']} examples)"}
    if rule := _mapping(parts.get("rule")):
        own["rule"] = {**_mapping(loaded.get("rule")), "name": f"{rule.get('name')} (own rule)"}
    return {**loaded, **own}


_OF_FILES = ("name", "data_dir", "stream", "image_size", "resize")


def _mapping(value: Any) -> dict[str, Any]:
    """A JSON object, as text or read already; empty where it is something else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    return dict(value) if isinstance(value, Mapping) else {}


def setting(ds: xr.Dataset, path: str, default: Any = None) -> Any:
    """The config value at a dotted ``path``; ``default`` where the config lacks it or has None."""
    node: Any = config_of(ds)
    for part in path.split("."):
        if not isinstance(node, Mapping) or node.get(part) is None:
            return default
        node = node[part]
    return node


def margin_of(ds: xr.Dataset) -> float:
    """The accuracy margin of the stable range, as a fraction (``config.report.margin``)."""
    return float(setting(ds, "report.margin", DEFAULT_MARGIN))


def axes(ds: xr.Dataset) -> tuple[str, ...]:
    """The swept axes, in the dataset's order, without the seed."""
    return tuple(str(d) for d in ds["accuracy"].dims if d not in (SEED, EPOCH))


def varying(ds: xr.Dataset) -> tuple[str, ...]:
    """The swept axes that hold more than one value."""
    return tuple(a for a in axes(ds) if ds.sizes[a] > 1)


def is_numeric(ds: xr.Dataset, axis: str) -> bool:
    """Whether the axis holds numbers (and so has an order and a scale)."""
    return bool(np.issubdtype(ds[axis].dtype, np.number))


def prepared(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with every numeric axis in ascending order."""
    ordered = [a for a in axes(ds) if a in ds.coords and is_numeric(ds, a)]
    return ds.sortby(ordered) if ordered else ds


def with_axis(ds: xr.Dataset, axis: str) -> xr.Dataset:
    """The dataset with ``axis`` as a dimension: a value that was not swept has length one.

    The value is taken from a scalar coordinate, else from the config, else it is NaN.
    """
    if axis in ds["accuracy"].dims:
        return ds
    value = float(ds[axis]) if axis in ds.coords else float(setting(ds, axis, np.nan))
    return ds.drop_vars(axis, errors="ignore").expand_dims({axis: [value]})


def without_singletons(ds: xr.Dataset, keep: tuple[str, ...] = ()) -> xr.Dataset:
    """The dataset without the axes of length one, other than those in ``keep``."""
    return ds.squeeze([a for a in axes(ds) if ds.sizes[a] == 1 and a not in keep], drop=True)


def facets(ds: xr.Dataset, keep: tuple[str, ...]) -> Iterator[tuple[str, xr.Dataset]]:
    """Slices of the grid at every combination of the varying axes that are not in ``keep``.

    Yields ``(label, slice)``, the label naming the fixed values (empty for a single slice).
    """
    extra = [a for a in varying(ds) if a not in keep]
    for index in product(*(range(ds.sizes[a]) for a in extra)):
        part = ds.isel(dict(zip(extra, index)))
        yield ", ".join(_words(a, part[a].item()) for a in extra), part


def _words(axis: str, value: Any) -> str:
    # A case is a name for a whole setting, and says enough.
    if axis == "case":
        return one_line(value)
    # An axis named with its section (schedule__warmup) is known by its field.
    words = axis.rpartition("__")[2].replace("_", " ")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{words} {value:g}" if number else one_line(f"{words} {value}")
