"""The weights of runs: those that a work directory keeps, and those that a sweep starts from."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sbt import checkpoint, fingerprint
from sbt import workdir as directories
from sbt.checkpoint import is_part, labels_of
from sbt.errors import UserError, nearest, shown
from sbt.files import directory_of
from sbt.models.check import zeros
from sbt.optim import foreign
from sbt.sweep.arrangement import name_of, places_of
from sbt.sweep.cohort import Cohort
from sbt.sweep.grid import Grid, Run, axes_of, make_grid
from sbt.sweep.lanes import make_lanes
from sbt.sweep.prepare import Sweep
from sbt.sweep.problem import Problem, Start, make_program
from sbt.train import step

FINAL, ITERATES = "weights", "iterates"  # of a work directory; the second by epoch


class Weights(NamedTuple):
    """What a run ended with.

    Attributes:
      params: its weights, as the module's ``init`` returns them below ``"params"``.
      stats: running statistics, below ``"batch_stats"``; empty without batch norm.
    """

    params: Any
    stats: Any


# --- what a directory keeps ----------------------------------------------------------------------


def place_of(directory: Path, epoch: int | None = None) -> Path:
    """Where the weights after so many epochs are kept; None: the final ones."""
    return directory / FINAL if epoch is None else directory / ITERATES / str(epoch)


def load_weights(
    directory: str | os.PathLike[str], *, after: int | None = None, **run: Any
) -> Weights:
    """The trained weights of one run of a sweep that kept them.

    ``model.apply({"params": params, "batch_stats": stats}, x)`` is the trained network; the
    functions of :mod:`sbt.measure` take ``params``. Leaves are numpy arrays of the shapes that the
    module made them with.

    Args:
      directory: work directory of a sweep that ran with ``config.checkpoint.final_weights``.
      after: epochs, of a sweep that ran with ``config.checkpoint.weights_every``; None: all.
      **run: the run's value on every axis of more than one value, as in ``ds.sel``:
        ``batch_size=8, base_lr=2**-6, seed=0``.

    Raises:
      UserError: no sweep, no or damaged weights, an unknown axis or value, an axis left open, or a
        run that has not finished.
    """
    directory = directory_of(directory, "directory")
    config = config_in(directory)
    index = _index_of(axes_of(config), run)
    after = None if after == config.epochs else after
    for found in kept_weights(_grid_of(config), directory, after):
        if index in found:
            return found[index].weights()
    remedy = "give the same sbt run again, to finish it, or another run"
    raise UserError(str(directory), f"holds no weights of the run {shown(run)}", remedy)


class Row(NamedTuple):
    """A run's weights among those of others.

    Attributes:
      stacked: params and statistics with a leading axis of runs, host arrays.
      row: which of them.
      states: packed leaves of their rule's states, likewise; none where they were not kept.
    """

    stacked: tuple[Any, Any]
    row: int
    states: Sequence[Any] = ()

    def weights(self) -> Weights:
        """Of the run alone."""
        return Weights(*jax.tree.map(lambda leaf: leaf[self.row], self.stacked))

    def rule(self) -> list[Any]:
        """The state of the run's rule."""
        return [leaf[self.row] for leaf in self.states]


def kept_weights(
    grid: Grid | None, directory: Path, after: int | None = None
) -> Iterator[dict[tuple[int, ...], Row]]:
    """The weights that a directory keeps, by grid position, file by file.

    Args:
      grid: in which the positions are; None: that of the sweep when they were kept.
      directory: of the sweep.
      after: so many epochs; None: all.

    Raises:
      UserError: there are none, or they are damaged.
    """
    place = place_of(directory, after)
    paths = sorted(path for path in place.glob("*") if path.is_dir() and not is_part(path))
    if not paths:
        raise UserError(
            str(directory),
            "holds no weights" if after is None else f"holds no weights after {after} epochs",
            "run the sweep with --config.checkpoint.final_weights=True, or measure in training: "
            "sbt run CONFIG --config.measure=..."
            if after is None
            else "run the sweep with --config.checkpoint.weights_every",
        )
    places = {} if grid is None else places_of(grid, directory)
    for path in paths:
        params, stats, runs, states = checkpoint.load_with_rule(path)
        stacked = jax.tree.map(np.asarray, (params, stats))
        at: list[Any] = list(runs)
        if places and (labels := labels_of(path)):  # the grid may have grown since
            at = [places.get(name_of(label)) for label in labels]
        yield {tuple(i): Row(stacked, row, states) for row, i in enumerate(at) if i is not None}


def config_in(directory: Path) -> ConfigDict:
    """The config of the sweep in a directory.

    Raises:
      UserError: there is none.
    """
    config = directories.stored_config(directory)
    if config is None:
        raise UserError(str(directory), "holds no sweep (config.json)", "run one: sbt run ...")
    return config


def _grid_of(config: ConfigDict) -> Grid | None:
    """None where the config alone makes no grid: that of a user's own rule."""
    known = config.rule.name != foreign.NAME or foreign.NAME in foreign.RULES
    return make_grid(config) if known else None


def _index_of(axes: Mapping[str, Sequence[Any]], run: Mapping[str, Any]) -> tuple[int, ...]:
    """Grid position of a run."""
    for name in run:
        if name not in axes:
            raise UserError(name, "is not an axis of this sweep", nearest(name, axes))
    index = []
    for name, values in axes.items():
        if name not in run and len(values) > 1:
            raise UserError(name, "is left open", f"give one of {shown(tuple(values))}")
        value = run.get(name, values[0])
        same = [i for i, known in enumerate(values) if bool(np.all(known == value))]
        if not same:
            problem = f"no run has the value {shown(value)}"
            raise UserError(name, problem, f"give one of {shown(tuple(values))}")
        index.append(same[0])
    return tuple(index)


# --- what runs start from ------------------------------------------------------------------------


def starting(sweep: Sweep, given: Any = None) -> Sweep:
    """A sweep whose runs start from the weights that are given, if any are.

    From a work directory (``config.start``) a run takes what the run there ended with that has

    - on every axis that both sweeps have (the same field, whatever the axis is called), the same
      value; and
    - on an axis that only the other sweep has, its one value: there may be no choice.

    Axes that only this sweep has make no difference: all their values start from the same weights.
    ``config.start_epoch``, which may be swept, names the epoch that the weights are of where the
    directory keeps them after several (``config.checkpoint.weights_every``). Weights and statistics
    are taken and, with ``config.start_rule``, the state of the rule (its momentum, say), where
    ``config.checkpoint.rule_state`` kept it. The order of the examples and every schedule begin
    anew, and of a batch that was half done at the end of that epoch nothing is left.

    Args:
      sweep: prepared.
      given: weights for all runs, in place of ``config.start``: a tree as ``load_weights`` gives it
        (params and statistics) or params alone, with which statistics are those of a new model.

    Raises:
      UserError: both are given; or there are no weights, none for some run, or none that fit the
        model (or, of a rule's state, the rule).
    """
    config = sweep.config
    if given is not None and config.start is not None:
        raise UserError("config.start", "and start= are both given", "give one of the two")
    if given is None and config.start is None:
        return sweep
    fitted: dict[tuple[int, str], tuple[Any, Any, Any]] = {}
    of, hashes = {}, {}
    source = _Given(given) if config.start is None else _Directory(sweep.grid, config.start)
    for number, cohort in enumerate(sweep.cohorts):
        problem = sweep.builder.problem(cohort.config, cohort.synchronous)
        for run in cohort.runs:
            name, weights, states = source.find(run, cohort.config)
            if (number, name) not in fitted:
                found = _fitted(weights, problem, source.field)
                if states:
                    _check_states(states, found, problem, cohort, source.field)
                fitted[number, name] = *found, tuple(states)
                hashes[name] = fingerprint.of_values(fitted[number, name])
            of[run.index] = fitted[number, name]
    parts = {**sweep.parts, "start": fingerprint.of_start(hashes)}
    return dataclasses.replace(sweep, start=Start(of), parts=parts)


def starting_again(sweep: Sweep) -> Sweep:
    """:func:`starting`, where a run's distance from its start is measured afterwards.

    Raises:
      UserError: the weights were given from Python, and are gone.
    """
    if sweep.config.start is None:
        raise UserError(
            "config.measure.names",
            "'distance' is measured from the weights that the runs started from (start=)",
            "name it in the config of the sweep, or start from a directory: config.start",
        )
    return starting(sweep)


class _Given:
    """One tree for all runs."""

    field = "start="

    def __init__(self, given: Any):
        pair = isinstance(given, tuple) and len(given) == 2
        self._weights = Weights(*given) if pair else Weights(given, None)

    def find(self, run: Run, config: ConfigDict) -> tuple[str, Weights, list[Any]]:
        del run, config
        return "given", self._weights, []


class _Directory:
    """The weights that another sweep has kept.

    Args:
      grid: of the runs that start from them.
      place: the other sweep's work directory.
    """

    field = "config.start"

    def __init__(self, grid: Grid, place: str):
        self._directory = directory_of(place, self.field)
        self._kept: dict[int | None, dict[tuple[int, ...], Row]] = {}
        config = config_in(self._directory)
        self._grid = _grid_of(config)
        if self._grid is None:
            raise UserError(
                self.field,
                f"{self._directory} was trained with a rule of your own",
                "give its weights as start=sbt.load_weights(...)",
            )
        here = set(grid.paths.values())
        self._axes: list[tuple[str, str, tuple[Any, ...]]] = []
        for axis, values in self._grid.axes.items():
            path = self._grid.paths[axis]
            if path in here and path != "start_epoch":
                self._axes.append((axis, path, values))
            elif len(values) > 1:
                raise UserError(
                    self.field,
                    f"{self._directory} has runs of {len(values)} values of {axis}",
                    f"sweep {axis} here too, or start from a sweep of one value",
                )
            else:
                self._axes.append((axis, "", values))
        self._epochs = config.epochs

    def find(self, run: Run, config: ConfigDict) -> tuple[str, Weights, list[Any]]:
        """The weights of the other sweep's run that a run matches, a name for them, and the state
        of its rule if that is wanted."""
        at = {axis: run.settings[path] if path else values[0] for axis, path, values in self._axes}
        words = ", ".join(f"{axis} {shown(at[axis])}" for axis, path, _ in self._axes if path)
        index = []
        for axis, _, values in self._axes:
            if at[axis] not in values:
                raise UserError(
                    self.field,
                    f"{self._directory} has no run with {axis} = {shown(at[axis])}",
                    f"sweep values that it has: {shown(values)}",
                )
            index.append(values.index(at[axis]))
        epoch = run.settings.get("start_epoch", config.start_epoch)
        kept = self._of_epoch(None if epoch in (None, self._epochs) else int(epoch))
        if tuple(index) not in kept:
            raise UserError(
                self.field,
                f"{self._directory} keeps no weights of the run {words or 'there'}",
                "give the sbt run of that directory again, to finish it",
            )
        name, row = f"{words}{', ' * bool(words)}epoch {epoch or self._epochs}", kept[tuple(index)]
        if not config.start_rule:
            return name, row.weights(), []
        if not row.states:
            raise UserError(
                "config.start_rule",
                f"{self._directory} keeps no state of its rule",
                "run that sweep with --config.checkpoint.rule_state=True",
            )
        return name, row.weights(), row.rule()

    def _of_epoch(self, epoch: int | None) -> dict[tuple[int, ...], Row]:
        if epoch not in self._kept:
            try:
                kept = list(kept_weights(self._grid, self._directory, epoch))
            except UserError as error:
                problem = f"{error.field} {error.problem}"
                raise UserError(self.field, problem, error.remedy) from None
            self._kept[epoch] = {index: row for rows in kept for index, row in rows.items()}
        return self._kept[epoch]


def _fitted(weights: Weights, problem: Problem, field: str) -> Weights:
    """Weights in the trees and the precision of a model.

    Raises:
      UserError: they are those of another model.
    """
    key, example = jax.random.key(0), problem.example()
    params, stats = jax.eval_shape(problem.model.init, key, example)
    if weights.stats is None and jax.tree.leaves(stats):
        weights = weights._replace(stats=jax.jit(problem.model.init)(key, zeros(example))[1])
    return Weights(
        _like(weights.params, params, field, "weights"),
        _like(weights.stats, stats, field, "statistics"),
    )


def _check_states(
    states: Sequence[Any], weights: Weights, problem: Problem, cohort: Cohort, field: str
) -> None:
    """Refuses the state of another rule."""
    program = make_program(problem, cohort, "stock")
    hyper = jax.tree.map(lambda leaf: leaf[0], make_lanes(cohort, [0]).hyper)
    state = jax.eval_shape(functools.partial(step.state_from, program), hyper, *weights)
    wanted = [(leaf.shape, leaf.dtype) for leaf in map(_raw, jax.tree.leaves(state.opt_state))]
    if wanted != [(leaf.shape, leaf.dtype) for leaf in states]:
        raise UserError(
            field,
            f"the state of its rule does not fit {cohort.config.rule.name!r}",
            "train with the rule and the options of that sweep, or set config.start_rule to False",
        )


def _raw(leaf: Any) -> Any:
    """A leaf's shape and dtype as it is kept: of a typed key, its words."""
    typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.eval_shape(jax.random.key_data, leaf) if typed else leaf


def _like(tree: Any, wanted: Any, field: str, what: str) -> Any:
    def by_name(tree: Any) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}

    found, model = by_name(tree), by_name(wanted)
    for name in sorted({**model, **found}):
        shapes = [np.shape(tree[name]) if name in tree else None for tree in (found, model)]
        if shapes[0] != shapes[1]:
            have, want = ("none" if s is None else f"the shape {s}" for s in shapes)
            raise UserError(
                field,
                f"its {what} do not fit the model: {name} has {have} there and {want} here",
                "start from weights of the same model on data of the same shape",
            )
    leaves = [np.asarray(found[name], model[name].dtype) for name in model]
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves)
