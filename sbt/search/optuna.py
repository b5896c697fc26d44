"""Any sampler and pruner of Optuna, by ask and tell."""

import ast
import importlib
import importlib.util
import inspect
import math
import statistics
from typing import Annotated, Any

from sbt.errors import UserError, nearest
from sbt.ranges import COUNT, Range
from sbt.search.base import SEARCHES, News
from sbt.search.cells import SEED, Runs, alike

INSTALL = "pip install 'small-batch-training[optuna]', or choose another search"
NEEDS = {"GPSampler": "torch", "CmaEsSampler": "cmaes"}  # imported when they are first asked
MOST_REPEATS = 20  # suggestions in a row of what was begun before


def _optuna(module: str = "") -> Any:
    try:
        return importlib.import_module(f"optuna.{module}" if module else "optuna")
    except ImportError:
        problem = "'optuna' needs the package optuna, which is not installed"
        raise UserError("config.search.name", problem, INSTALL) from None


def _made(kind: str, text: str, seed: int) -> Any:
    """The sampler or pruner that a text such as ``MedianPruner(n_warmup_steps=2)`` says.

    Args:
      kind: ``sampler`` or ``pruner``.
      text: the name of a class of Optuna, alone or called with numbers, words, and others of its
        kind.
      seed: given to what takes one.

    Raises:
      UserError: there is no such class, or it does not take what it is given.
    """
    module, field = _optuna(f"{kind}s"), f"config.search.{kind}"
    known = [name for name in module.__all__ if inspect.isclass(getattr(module, name))]

    def made(node: ast.expr) -> Any:
        call = node if isinstance(node, ast.Call) else None
        name = call.func if call else node
        if not isinstance(name, ast.Name):
            return ast.literal_eval(node)
        if name.id not in known:
            raise UserError(field, f"Optuna has no {kind} {name.id!r}", nearest(name.id, known))
        needed = NEEDS.get(name.id)
        if needed and importlib.util.find_spec(needed) is None:
            problem = f"{name.id} needs the package {needed}, which is not installed"
            raise UserError(field, problem, f"pip install {needed}, or choose another {kind}")
        make = getattr(module, name.id)
        given = {k.arg: made(k.value) for k in call.keywords if k.arg} if call else {}
        if "seed" in inspect.signature(make).parameters:
            given.setdefault("seed", seed)
        return make(*map(made, call.args if call else ()), **given)

    try:
        return made(ast.parse(text, mode="eval").body)
    except (SyntaxError, TypeError, ValueError) as error:
        remedy = f"write {known[-1]}, or {known[-1]}(keyword=value, ...) as Optuna's manual has it"
        raise UserError(field, f"{text!r} cannot be made ({error})", remedy) from None


class _Axes:
    """The grid as Optuna sees it: a whole number for each axis.

    An axis of numbers goes by their order, so that an axis in powers of two is a logarithmic one;
    any other is a choice. What follows another axis is none of its own.

    Args:
      cells: settings of each.
    """

    def __init__(self, cells: Runs):
        distributions = _optuna("distributions")
        paths = [path for path in cells[0] if path != SEED]
        values = {path: [cell[path] for cell in cells] for path in paths}

        def told_apart(by: list[str]) -> int:
            return len({tuple(repr(values[path][i]) for path in by) for i in range(len(cells))})

        for path in reversed(paths):
            others = [other for other in values if other != path]
            if told_apart(others) == told_apart(list(values)):
                del values[path]
        self.distributions: dict[str, Any] = {}
        columns = []
        for path, own in values.items():
            kept = list(dict.fromkeys(own))
            if all(isinstance(v, int | float) and not isinstance(v, bool) for v in kept):
                kept.sort()
                self.distributions[path] = distributions.IntDistribution(0, len(kept) - 1)
            else:
                choices = range(len(kept))
                self.distributions[path] = distributions.CategoricalDistribution(choices)
            columns.append([kept.index(v) for v in own])
        self.places = list(zip(*columns)) if columns else [()]
        self.at = {place: cell for cell, place in enumerate(self.places)}

    def place(self, trial: Any) -> tuple[int, ...]:
        """Where a trial is."""
        return tuple(trial.params[path] for path in self.distributions)

    def params(self, cell: int) -> dict[str, int]:
        """The cell as a trial has it."""
        return dict(zip(self.distributions, self.places[cell], strict=True))

    def far(self, cell: int, place: tuple[int, ...]) -> int:
        """How many steps a cell is from a place, on all axes together."""
        return sum(abs(a - b) for a, b in zip(self.places[cell], place, strict=True))


@SEARCHES.register("optuna", source="Akiba et al. 2019 (arXiv:1907.10902)")
class Optuna:
    """Optuna suggests which cells of the grid are trained, and prunes them.

    A trial is a *cell*: all runs that differ in their seed alone. Its value is the median of its
    seeds, at the last evaluation, and after every evaluation that all of them have reached what the
    pruner is told; what it prunes stops as a whole. Parameters are the axes: the place of a number
    among those of its axis, in order; any other value is a category. Nothing is trained twice. A
    suggestion of a cell that was begun before is told that cell's value, one that is no run of the
    grid has failed, and another is asked for; where 20 in a row are of no use, the nearest cell
    that was not begun is taken. A cell whose median seed diverges is worth the least that any run
    has been, since few samplers bear infinities.

    Args:
      runs: settings of each.
      epochs: length of a run.
      sampler: of ``optuna.samplers``, such as ``TPESampler`` or ``TPESampler(n_startup_trials=5)``.
      pruner: likewise, of ``optuna.pruners``; pruners count evaluated epochs as steps.
      trials: cells to train, at most; each program (runs that compile together) has as many.
      at_once: cells in work at a time, at most. Lanes are cheap, and a sampler chooses better the
        more it knows: samplers differ in how they bear many (``constant_liar`` of TPE).
      seed: of the sampler.

    Raises:
      UserError: Optuna is not installed, or has no such sampler or pruner.
    """

    def __init__(
        self,
        runs: Runs,
        epochs: int,
        sampler: str = "TPESampler",
        pruner: str = "NopPruner",
        trials: Annotated[int, COUNT] = 64,
        at_once: Annotated[int, COUNT] = 16,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
    ):
        optuna = _optuna()
        self._epochs, self._states = epochs, optuna.trial.TrialState
        self._cells = alike(runs, (SEED,))
        self._cell = {run: cell for cell, own in enumerate(self._cells) for run in own}
        self._axes = _Axes([runs[own[0]] for own in self._cells])
        self._at_once, self._left = at_once, min(trials, len(self._cells))
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Its name decides how some pruners share trials out.
        self._study = optuna.create_study(
            direction="maximize",
            study_name="sbt",
            sampler=_made("sampler", sampler, seed),
            pruner=_made("pruner", pruner, seed),
        )
        optuna.logging.set_verbosity(level)
        self._queue: list[int] = []
        self._trials: dict[int, list[Any]] = {}  # of cells in work; the first began it
        self._ended: dict[int, float] = {}  # what cells were worth
        self._reported: dict[int, int] = {}  # of cells: the last epoch that the pruner knows
        self._curves: dict[int, dict[int, float]] = {}  # of a run: gain by epoch
        self._diverged: set[int] = set()
        self._worst = math.inf  # finite gain of all that were told

    @property
    def width(self) -> int:
        cells = min(self._at_once, self._left)
        return sum(sorted(map(len, self._cells), reverse=True)[:cells])

    def ask(self, free: int) -> list[int]:
        while len(self._queue) < free and self._left and len(self._trials) < self._at_once:
            self._queue += self._cells[self._begin()]
        begun, self._queue = self._queue[:free], self._queue[free:]
        return begun

    def _begin(self) -> int:
        """A cell that Optuna suggests, or one nearby."""
        self._left -= 1
        place: tuple[int, ...] = ()
        for _ in range(MOST_REPEATS):
            trial = self._study.ask(self._axes.distributions)
            place = self._axes.place(trial)
            cell = self._axes.at.get(place)
            if cell is None:
                self._settle(trial, math.nan)
            elif cell in self._trials:
                self._trials[cell].append(trial)
            elif cell in self._ended:
                self._settle(trial, self._ended[cell])
            else:
                self._trials[cell] = [trial]
                return cell
        rest = [c for c in range(len(self._cells)) if c not in {*self._trials, *self._ended}]
        cell = min(rest, key=lambda c: self._axes.far(c, place))
        self._study.enqueue_trial(self._axes.params(cell))
        self._trials[cell] = [self._study.ask(self._axes.distributions)]
        return cell

    def tell(self, news: News) -> list[int]:
        stopped: list[int] = []
        for run, epoch, gain in news:
            if gain == -math.inf:
                self._diverged.add(run)
            else:
                self._curves.setdefault(run, {})[epoch] = gain
                self._worst = min(self._worst, gain)
        for cell in dict.fromkeys(self._cell[run] for run, _, _ in news):
            if cell in self._trials and self._judge(cell):
                self._queue = [run for run in self._queue if self._cell[run] != cell]
                stopped += self._cells[cell]
        return stopped

    def _judge(self, cell: int) -> bool:
        """Tells of a cell what is new; whether it is over."""
        runs, trial = self._cells[cell], self._trials[cell][0]
        sound = [run for run in runs if run not in self._diverged]
        if 2 * len(sound) <= len(runs):
            # Where there is nothing to compare it with yet, it has failed.
            self._end(cell, math.nan if self._worst == math.inf else self._worst)
            return True
        curves = [self._curves.get(run, {}) for run in sound]
        lost = [-math.inf] * (len(runs) - len(sound))
        for epoch in sorted(set.intersection(*map(set, curves))):
            if epoch <= self._reported.get(cell, 0):
                continue
            self._reported[cell] = epoch
            value = statistics.median([*lost, *(curve[epoch] for curve in curves)])
            trial.report(value, epoch)
            if epoch >= self._epochs:
                self._end(cell, value)
                return True
            if trial.should_prune():
                self._study.tell(self._trials[cell].pop(0), state=self._states.PRUNED)
                self._end(cell, value)
                return True
        return False

    def _end(self, cell: int, value: float) -> None:
        self._ended[cell] = value
        for trial in self._trials.pop(cell):
            self._settle(trial, value)

    def _settle(self, trial: Any, value: float) -> None:
        """Tells what a trial is worth; NaN: nothing."""
        if math.isnan(value):
            self._study.tell(trial, state=self._states.FAIL)
        else:
            self._study.tell(trial, value)
