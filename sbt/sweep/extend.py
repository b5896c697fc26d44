"""Whether a directory's sweep may go on under another config, and where its runs are in that.

More values of an axis extend a grid, and so does an axis that a config did not sweep before, if the
value that it had is among the new ones. A run is found again by what it was trained with: its
settings, together with what its config said of whatever is swept elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from sbt import config as configs
from sbt import results
from sbt.errors import UserError
from sbt.measure.registry import MEASUREMENTS, online_in
from sbt.sweep.grid import Grid, Run, make_grid

# What says how to compute, keep, measure and show what is trained, not what it is; all but the
# precision, which does change it. The weights that runs start from are compared, not their place.
NOT_COMPARED = ("engine", "checkpoint", "measure", "report", "start", "log")
SWEEPING = ("sweep", "follow", "skip_impossible")  # what runs there are; each has its settings


def settings_of(label: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings out of JSON: lists are tuples again."""
    return {path: _tuples(value) for path, value in label.items()}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def finder(grid: Grid, earlier: ConfigDict) -> Callable[[Mapping[str, Any]], Run | None]:
    """Finds runs of an earlier config, given by their settings under it, in a grid."""
    paths = sorted({path for run in grid.runs for path in run.settings})
    by_values = {_values(grid.config, run.settings, paths): run for run in grid.runs}

    def find(settings: Mapping[str, Any]) -> Run | None:
        run = by_values.get(_values(earlier, settings, paths))
        others = [path for path in settings if path not in paths]
        if run is None or any(
            settings[path] != _value(grid.config, run.settings, path) for path in others
        ):
            return None
        return run

    return find


def _values(config: ConfigDict, settings: Mapping[str, Any], paths: Iterable[str]) -> Any:
    return tuple(_value(config, settings, path) for path in paths)


def _value(config: ConfigDict, settings: Mapping[str, Any], path: str) -> Any:
    """What a run has at a dotted path: its setting, else its config's, else the default."""
    if path in settings:
        return settings[path]
    section, _, leaf = path.partition(".")
    if not leaf:
        return config[section]
    if leaf in config[section]:
        return config[section][leaf]
    if section not in configs.SECTIONS:
        return None
    name = settings.get(f"{section}.name", config[section].name)
    return configs.fields_of(section, name).get(leaf)


def in_grid(dataset: xr.Dataset, grid: Grid) -> xr.Dataset:
    """Results of an earlier config, over the axes of a grid that extends it; new runs are empty."""
    earlier = configs.from_json(dataset.attrs["config"])
    if said(earlier) == said(grid.config):
        return dataset
    old = make_grid(earlier)
    known = {path: axis for axis, path in old.paths.items()}
    sources = {axis: known.get(path) for axis, path in grid.paths.items()}
    places = {}
    for axis, values in grid.axes.items():
        path = grid.paths[axis]
        before = list(old.axes[known[path]] if path in known else (_value(earlier, {}, path),))
        places[axis] = np.asarray([before.index(v) if v in before else -1 for v in values])
    return results.rearranged(dataset, tuple(old.axes), sources, places)


def check(grid: Grid, earlier: ConfigDict, where: str) -> None:
    """Refuses a config that is neither that of a directory nor extends it.

    Args:
      grid: of the config.
      earlier: the config that the directory has.
      where: the directory, for the message.

    Raises:
      UserError: says what differs, or which value of an axis is missing.
    """
    _check_measurements(grid.config, earlier, where)
    if said(earlier) == said(grid.config):
        return
    old = make_grid(earlier)
    searched = earlier.search.name
    if searched != "grid" and grid.axes != old.axes:
        problem = f"is not what {searched} chose among in {where}, all at once"
        remedy = "choose another directory for another grid, or undo the change"
        raise UserError("config.sweep", problem, remedy)
    before = {path: (axis, old.axes[axis]) for axis, path in old.paths.items()}
    after = {path: (axis, grid.axes[axis]) for axis, path in grid.paths.items()}
    for path in {**before, **after}:
        old_axis, known = before.get(path, ("", (_value(earlier, {}, path),)))
        axis, values = after.get(path, ("", (_value(grid.config, {}, path),)))
        if missing := [value for value in known if value not in values]:
            named = ", ".join(map(repr, missing))
            what = f"{values!r} leaves out {named}" if axis else f"is not swept, without {named}"
            raise UserError(
                f"config.sweep.{axis or old_axis}",
                f"{what}, which {where} was trained with",
                "keep the values that are there and add new ones, or choose another directory",
            )
    differing = sorted(set(_differing(old, grid)))
    if differing:
        raise UserError(
            f"--workdir={where}",
            f"belongs to another config; different: {', '.join(differing)}",
            "choose another directory, or undo the change; values and axes may be added",
        )
    find = finder(grid, earlier)
    for run in old.runs:
        if find(run.settings) is None:
            what = ", ".join(f"{path} = {value!r}" for path, value in run.settings.items())
            raise UserError(
                "config.follow" if grid.config.follow or earlier.follow else "config.sweep",
                f"leaves no run with {what}, which {where} was trained with",
                "undo the change, or choose another directory",
            )


def _check_measurements(config: ConfigDict, earlier: ConfigDict, where: str) -> None:
    """One variable of the results is one quantity: what defines it stays.

    Others may be measured from here on (they are NaN before), or at other epochs.
    """
    for field, value in config.measure.items():
        if field in ("names", "every", "at_start", "batch", "at_once"):
            continue
        before = earlier.measure.get(field)
        used = field in earlier.measure.names if field in MEASUREMENTS else earlier.measure.names
        if used and _json(before) != _json(value):
            named = field if field in MEASUREMENTS else ", ".join(earlier.measure.names)
            raise UserError(
                f"config.measure.{field}",
                f"is not what {named} was measured with in {where}",
                "undo the change, or choose another directory; sbt measure measures kept weights",
            )


def added_measurements(config: ConfigDict, earlier: ConfigDict) -> list[str]:
    """Names of the measurements that an earlier config did not ask for."""
    return [name for name in config.measure.names if name not in earlier.measure.names]


def check_finished(config: ConfigDict, earlier: ConfigDict, where: str) -> None:
    """Refuses settings that come too late for runs that are all finished.

    Raises:
      UserError: naming the field.
    """
    another = "choose another directory to train anew"
    online = [name for name in online_in(config) if name not in earlier.measure.names]
    if online:
        raise UserError(
            "config.measure.names",
            f"{', '.join(online)} is summed up in training, and the runs of {where} are finished",
            another,
        )
    for field in ("every", "at_start"):
        if config.measure.names and config.measure[field] != earlier.measure[field]:
            raise UserError(
                f"config.measure.{field}",
                f"comes too late: every run of {where} is finished",
                f"undo the change, or {another}",
            )
    for field in ("final_weights", "weights_every"):
        if config.checkpoint[field] not in (False, None, earlier.checkpoint[field]):
            raise UserError(
                f"config.checkpoint.{field}",
                f"comes too late: every run of {where} is finished, and its weights are gone",
                f"undo the change, or {another}",
            )


def without_effect(config: ConfigDict, earlier: ConfigDict) -> list[str]:
    """Changed fields that say how to train, where nothing is left to train."""
    return [
        f"config.{section}.{field}"
        for section in ("engine", "checkpoint")
        for field, value in config[section].items()
        if value != earlier[section].get(field)
    ]


def said(config: ConfigDict) -> dict[str, Any]:
    """What a config says of training, as it is written."""
    part = configs.as_json(config)
    return _compared(part) | {name: part[name] for name in SWEEPING}


def _json(value: Any) -> Any:
    return configs.as_json(value) if isinstance(value, ConfigDict) else value


def _differing(old: Grid, new: Grid) -> Iterator[str]:
    """Fields in which runs of two grids differ, apart from what either sweeps."""
    find = finder(new, old.config)
    first: dict[Any, Run] = {}
    for run in old.runs:  # one for each rule, model, ... of a sweep over these
        first.setdefault(_names(run), run)
    others = {_names(run): run for run in reversed(new.runs)}
    swept = {path for run in (*old.runs, *new.runs) for path in run.settings}
    for names, run in first.items():
        same = find(run.settings)
        like = same or others.get(names) or new.runs[0]
        a, b = (_compared(_bare(grid.config_of(r))) for grid, r in ((old, run), (new, like)))
        for field in _differences(a, b):
            if same or field.removeprefix("config.") not in swept:
                yield field


def _names(run: Run) -> Any:
    return tuple(sorted(item for item in run.settings.items() if item[0].endswith(".name")))


def _bare(config: ConfigDict) -> dict[str, Any]:
    """A run's config as JSON, complete and with nothing swept."""
    bare = config.copy_and_resolve_references()
    bare.sweep, bare.follow = configs.default().sweep, configs.default().follow
    return configs.as_json(configs.complete(bare))


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    part = {key: value for key, value in config.items() if key not in NOT_COMPARED + SWEEPING}
    # As far as it only says how many devices share a batch. The weights of local SGD are each
    # device's own, so that there the number matters.
    parallel = config["parallel"]
    part["parallel"] = None if parallel["local_steps"] == 1 else parallel
    part["engine"] = {"precision": config["engine"]["precision"]}
    return part


def _differences(a: Any, b: Any, path: str = "config") -> Iterator[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}")
    elif a != b:
        yield path
