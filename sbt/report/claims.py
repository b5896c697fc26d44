"""Claims held against a grid: each is decided by the data or declared undecidable.

A claim is a function of a ``View`` and its arguments, decorated with :func:`claim`. Called with the
arguments alone it gives what a config keeps, ``config.report.claims = (best_batch(2, 4),)``: claims
travel with the results as names and numbers, and a report judges them wherever the functions are
known. Two claims are judged on every grid of batch sizes and base learning rates: that the range of
stable base learning rates shrinks as the batch grows, and that the best score is worse at large
batches. Scores are compared in the unit that they have, whichever direction is better.

A grid that covers less than the protocol of the claim's source (fewer epochs, examples, batch sizes
or base learning rates) still gets its verdicts, each with the words in which it is less: such a
verdict is about the run, not about the paper.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import numpy as np
import xarray as xr

from sbt.errors import UserCodeError, UserError, nearest, shown, user_code
from sbt.intervals import lead
from sbt.report import wording
from sbt.report.view import BASE_LR, BATCH_SIZE, BN_BATCH, EPOCH, View, spread
from sbt.results import TEST, curve
from sbt.text import capital

HOLDS = "holds"
FAILS = "does not hold"
OPEN = "not decidable on this grid"
ONE_SEED = "not decidable from one seed"
# Fewer points than this along an axis show no trend.
ENOUGH = 3


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check.

    Attributes:
      claim: the statement that was checked.
      verdict: ``holds``, ``does not hold``, ``not decidable on this grid`` or ``from one seed``.
      numbers: the measurements behind it, or why it cannot be decided.
      source: who states it.
      scope: what it rests on: where the run covers less than the source's protocol, how; its seeds.
      subject: the part of the grid that was checked; empty for all of it.
      reduced: whether the run covers less than the source's protocol.
    """

    claim: str
    verdict: str
    numbers: str
    source: str = ""
    scope: str = ""
    subject: str = ""
    reduced: bool = False

    def __str__(self) -> str:
        where = f" [{self.subject}]" if self.subject else ""
        reduced = "on a reduced run: " * self.reduced
        scope = f" ({reduced}{self.scope})" if self.scope else ""
        return f"{self.claim}{where}: {self.verdict}{scope}. {self.numbers}"


# --- what a source trained -----------------------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """What the source of a claim trained; a run on less of it is a reduced run.

    Attributes:
      data: data set (TFDS name).
      model: networks, as the config calls them.
      rule: update rule, without momentum.
      epochs: budget of every run.
      last_epochs: the reported score is the median over so many last epochs.
      test_examples: size of the test set.
      batch_size, base_lr: the values swept; empty: any.
      score: what ranks its runs. Runs that are ranked by something else are about another matter,
        not less of the same.
      momentum: of the rule.
      seeds: trials of every run; 0: not told.
      settings: pairs of any field of the config and its value, such as ``("model.width", 512)``.
    """

    data: str = "cifar10"
    model: tuple[str, ...] = ("alexnet", "resnet8", "resnet20", "resnet32")
    rule: str = "sgd"
    epochs: int = 82
    last_epochs: int = 5
    test_examples: int = 10_000
    batch_size: tuple[float, ...] = ()
    base_lr: tuple[float, ...] = ()
    score: str = "accuracy"
    momentum: float = 0.0
    seeds: int = 0
    settings: tuple[tuple[str, Any], ...] = ()


def make_protocol(pairs: Iterable[Any]) -> Protocol:
    """The protocol that ``config.report.protocol`` describes, as pairs of a field and its value.

    Raises:
      UserError: a field is unknown, or its value is of another type.
    """
    where, known = "config.report.protocol", {f.name: f.default for f in fields(Protocol)}
    try:
        given = dict(pairs)
    except (TypeError, ValueError):
        remedy = "give pairs, such as (('epochs', 82),)"
        raise UserError(where, f"{shown(pairs)} does not hold pairs", remedy) from None
    for name, value in given.items():
        if name not in known:
            raise UserError(where, f"unknown field {shown(name)}", nearest(str(name), known))
        given[name] = tuple(value) if isinstance(value, list) else value
        if type(given[name]) is not type(known[name]):
            remedy = f"give a value such as {known[name]!r}"
            raise UserError(where, f"{name} = {shown(value)} is of another type", remedy)
    return Protocol(**given)


# Masters & Luschi (2018), the source of the claims that are judged on every grid.
CIFAR10 = Protocol(
    batch_size=tuple(2**k for k in range(1, 12)), base_lr=tuple(2.0**k for k in range(-12, 1))
)
CIFAR100 = replace(CIFAR10, data="cifar100", epochs=164)


def scope_of(view: View, *protocols: Protocol) -> tuple[str, bool]:
    """What a verdict on a grid, or a part of one, rests on.

    Args:
      view: the part.
      protocols: of the claim's source, one for each data set. One that the results carry
        (``config.report.protocol``) goes before them.

    Returns:
      In words where the grid covers less than the protocol, and its seeds; and whether it does
      cover less.
    """
    protocols = tuple(p for p in protocols if p.score == view.score.name)
    if pairs := view.setting("report.protocol"):
        protocols = (make_protocol(pairs),)
    data = _chosen(view, "data")
    protocol = next((p for p in protocols if p.data == data), next(iter(protocols), None))
    less = _reductions(view, protocol) if protocol else []
    seeds = "one seed" if view.seeds == 1 else f"{view.seeds} seeds"
    fewer = protocol is not None and view.seeds < protocol.seeds
    if protocol and fewer:
        seeds = f"{view.seeds} of {protocol.seeds} seeds"
    return "; ".join([*less, seeds]), bool(less) or fewer


def _reductions(view: View, protocol: Protocol) -> list[str]:
    """In which respects a grid covers less than a protocol; empty for all of it."""
    less = []
    data, model, rule = (_chosen(view, section) for section in ("data", "model", "rule"))
    if data and data != protocol.data:
        less.append(f"data {data} instead of {protocol.data}")
    if model and model not in protocol.model:
        less.append(f"model {model} instead of {' or '.join(protocol.model)}")
    momentum = view.ds.coords.get("momentum", view.setting("rule.momentum", 0.0))
    if rule and rule != protocol.rule:
        less.append(f"rule {rule} instead of {protocol.rule}")
    elif _one_momentum(view, momentum) and float(momentum) != protocol.momentum:
        less.append(f"momentum {float(momentum):g}")
    if train := view.setting("data.train_size"):
        less.append(f"{int(train)} training examples")
    test = view.setting("data.test_size")
    if test and int(test) < protocol.test_examples:
        less.append(f"{int(test)} test examples")
    for path, wanted in protocol.settings:
        have = view.setting(path)
        if have != (tuple(wanted) if isinstance(wanted, list) else wanted):
            usual = f" instead of {shown(wanted)}" if wanted is not None else ""  # no limit
            less.append(f"{path} {shown(have)}{usual}")
    ran = view.ds.sizes.get(EPOCH) or view.setting("epochs")
    if ran and ran < protocol.epochs:
        less.append(f"{int(ran)} of {protocol.epochs} epochs")
    last = view.setting("report.last_epochs", protocol.last_epochs)
    if last < protocol.last_epochs:
        epochs = "epoch" if last == 1 else f"{last} epochs"
        told = view.score.long_name
        less.append(f"{told} from the last {epochs} instead of {protocol.last_epochs}")
    for axis, wanted, words in (
        (BATCH_SIZE, protocol.batch_size, "batch sizes"),
        (BASE_LR, protocol.base_lr, "base learning rates"),
    ):
        have = view.with_axis(axis).ds[axis].values.astype(float)
        missing = [v for v in wanted if not np.isclose(have, v, rtol=1e-6).any()]
        if missing:
            names = ", ".join(wording.label(axis, v) for v in missing)
            less.append(f"without the {words} {names}")
    return less


def _one_momentum(view: View, momentum: Any) -> bool:
    """Whether a grid has one momentum, that of its config: it is no axis and follows none."""
    varied = {*view.ds.coords, *view.setting("follow", {})}
    return np.ndim(momentum) == 0 and "rule__momentum" not in varied


def _chosen(view: View, section: str) -> str:
    """The model, rule or data set of a part of a grid; empty where it cannot be told."""
    for axis in (section, f"{section}__name"):
        if axis in view.ds.coords:
            return str(view.ds[axis].item()) if view.ds[axis].ndim == 0 else ""
        if axis in view.setting("follow", {}):  # a case chooses it
            return ""
    return str(view.setting(f"{section}.name", ""))


# --- what is judged, and how ---------------------------------------------------------------------

SWEEP = (BATCH_SIZE, BASE_LR)
BATCHES = (BATCH_SIZE, BN_BATCH, BASE_LR)
# What a config keeps of a claim: its name, and its arguments by name.
Stated = tuple[str, dict[str, Any]]
Judge = Callable[..., Verdict | list[Verdict]]


@dataclass(frozen=True)
class Claim:
    """A function that judges a grid; called with arguments, what a config keeps of it.

    Attributes:
      judge: takes the view and the claim's arguments; returns one verdict or several, of which
        ``claim``, ``verdict`` and ``numbers`` count.
      axes: those that it looks along; a grid with further axes is judged slice by slice. None: it
        sees the grid as a whole.
      source: who states it; empty: whom the results name (``config.report.figure``).
      protocols: of the source, one for each data set.
    """

    judge: Judge
    axes: tuple[str, ...] | None = SWEEP
    source: str = ""
    protocols: tuple[Protocol, ...] = ()

    @cached_property
    def signature(self) -> inspect.Signature:
        """Of the arguments, without the view."""
        whole = inspect.signature(self.judge)
        return whole.replace(parameters=[*whole.parameters.values()][1:])

    def __call__(self, *args: Any, **named: Any) -> Stated:
        return self.judge.__name__, self.signature.bind(*args, **named).arguments

    def judged(self, view: View, arguments: Mapping[str, Any], subject: str = "") -> list[Verdict]:
        """The verdicts on a part of a grid, open while cells that could change them are missing.

        A function that raises decides nothing, and its verdict says what it raised.
        """
        given = inspect.BoundArguments(self.signature, dict(arguments))
        if self.axes is not None:
            view = view.bare(*self.axes).with_axis(BATCH_SIZE)
        try:
            with user_code(name := self.judge.__name__):
                found = self.judge(view, *given.args, **given.kwargs)
        except UserCodeError as error:
            found = Verdict(name, OPEN, f"it {error.problem}; {error.remedy}")
        scope, reduced = scope_of(view, *self.protocols)
        source = self.source or str(view.setting("report.figure", ""))
        told = partial(replace, source=source, scope=scope, subject=subject, reduced=reduced)
        verdicts = [found] if isinstance(found, Verdict) else found
        return [_so_far(view, told(verdict)) for verdict in verdicts]


CLAIMS: dict[str, Claim] = {}


def claim(judge: Judge | None = None, **about: Any) -> Any:
    """Decorator: registers a claim under the function's name.

    Args:
      judge: the function; it sees a part of the grid that has only the ``axes`` of the claim.
      **about: ``axes``, ``source`` and ``protocols`` of :class:`Claim`.

    >>> @claim
    ... def reaches(view, value):
    ...     lead = view.score.gain(view.best.value - value)
    ...     return Verdict(f"A cell reaches {value}", HOLDS if lead >= 0 else FAILS, "")
    >>> reaches(0.9)
    ('reaches', {'value': 0.9})
    """
    if judge is None:
        return partial(claim, **about)
    CLAIMS[judge.__name__] = Claim(judge, **about)
    return CLAIMS[judge.__name__]


def known(stated: Any) -> tuple[Claim, dict[str, Any]]:
    """The claim that a config keeps, and its arguments.

    Raises:
      UserError: it is not a name with arguments, its name is unknown, or it takes others.
    """
    where = "config.report.claims"
    try:
        name, arguments = str(stated[0]), dict(stated[1])
    except (TypeError, ValueError, LookupError):
        remedy = "give names with arguments, such as (('best_batch', {'sizes': (2, 4)}),)"
        raise UserError(where, f"{shown(stated)} is not a claim", remedy) from None
    if name not in CLAIMS:
        raise UserError(where, f"unknown claim {shown(name)}", nearest(name, CLAIMS))
    takes = CLAIMS[name].signature.parameters
    needed = {p.name for p in takes.values() if p.default is p.empty}
    if not needed <= set(arguments) <= set(takes):
        problem = f"{name} has arguments {', '.join(map(str, arguments)) or 'none'}"
        raise UserError(where, problem, f"give {', '.join(takes) or 'none'}")
    return CLAIMS[name], arguments


def check(report: Mapping[str, Any]) -> None:
    """Refuses claims and a protocol in ``config.report`` that no report could use.

    Raises:
      UserError: naming the field.
    """
    for stated in report["claims"]:
        known(stated)
    make_protocol(report["protocol"])


def verdicts(view: View) -> list[Verdict]:
    """Every verdict that the axes of the grid allow, for each slice along further axes.

    First come the claims that are judged on every grid of batch sizes and base learning rates (the
    range at ``config.report.margin`` and at twice it, because the choice is ours), then those that
    the results carry.
    """
    everywhere: list[Stated] = []
    if set(SWEEP) <= set(view.varying):
        margins = dict.fromkeys((view.margin, 2 * view.margin))
        everywhere = [*(range_shrinks(margin) for margin in margins), best_falls()]
    return judged(view, [*everywhere, *carried(view)])


def judged(view: View, stated: Iterable[Any]) -> list[Verdict]:
    """The verdicts on a grid, by these claims; those that are unknown here have none."""
    found = []
    claims = [known(one) for one in stated if _name_of(one) in CLAIMS]
    for axes, group in groupby(claims, lambda one: one[0].axes):
        together = list(group)
        for subject, part in (("", view),) if axes is None else view.slices(axes):
            for one, arguments in together:
                found += one.judged(part, arguments, subject)
    return found


def not_judged(view: View) -> Iterator[str]:
    """Why claims that the results carry, or used to carry, have no verdict: a line each."""
    for stated in carried(view):
        if (name := _name_of(stated)) not in CLAIMS:
            yield (
                f"Not judged: {shown(name)}, a claim that is unknown here. Import the file that "
                "defines it and call sbt.report.write_report."
            )
    figure = view.setting("report.figure")
    if figure and view.setting("report.claims") is None:
        yield (
            f"The results name {shown(figure)} but were written before claims travelled with "
            "results: the same sbt run again adds them, and trains nothing."
        )


def carried(view: View) -> tuple[Any, ...]:
    """What a config keeps of its claims; empty where the results carry none."""
    stated = view.setting("report.claims", ())
    return tuple(stated) if isinstance(stated, list | tuple) else (stated,)


def _name_of(stated: Any) -> str:
    return str(stated[0]) if isinstance(stated, list | tuple) and stated else shown(stated)


def _so_far(view: View, verdict: Verdict) -> Verdict:
    """The verdict, undecided if cells that could change it have not finished.

    A BN batch larger than the SGD batch does not exist, and is not waited for.
    """
    cell = view.cells
    waiting = cell["count"] < cell["seeds"]
    if BN_BATCH in cell.coords and BATCH_SIZE in cell.coords:
        waiting = waiting & (cell[BN_BATCH] <= cell[BATCH_SIZE])
    count = int(waiting.sum())
    if not count:
        return verdict
    text = f"{count} of {waiting.size} cells have not finished; so far: {verdict.numbers}"
    return replace(verdict, verdict=OPEN, numbers=text)


# --- what counts as a difference -----------------------------------------------------------------


def separated(view: View, better: xr.Dataset, worse: xr.Dataset) -> bool:
    """Whether one cell is better than another beyond the noise.

    The 95 % interval of their difference, over paired seeds (:func:`sbt.intervals.lead`), must lie
    above zero, and the difference must be more than counts (``View.resolution``): of accuracies,
    one binomial standard error of the test set. One seed has no interval, and the standard error
    alone is less than what another seed changes: it separates nothing. A run that is infinitely bad
    counts as a guess where there is one; where there is none, all seeds of one cell must be so, and
    none of the other.

    Args:
      view: the results that both come from.
      better, worse: cells with ``score`` (median over seeds) and ``runs`` (the score of each).
    """
    if view.seeds < 2:
        return False
    guess = view.score.gain(view.score.guess)
    least = -np.inf if np.isnan(guess) else guess
    runs = xr.align(better["runs"], worse["runs"], join="inner")  # seeds that both have
    one, other = (np.maximum(view.score.gain(cell.values), least) for cell in runs)
    if np.isinf(other).all() or not np.isfinite([one, other]).all():
        return bool(np.isfinite(one).all() and np.isinf(other).all())
    found = lead(one, other)
    return bool(found.low > 0 and found.value > view.resolution(float(better["score"])))


def _median_gap(view: View, a: xr.Dataset, b: xr.Dataset) -> float:
    """By how much one cell is better than another; NaN where both are infinitely bad."""
    return view.score.gain(float(a["score"])) - view.score.gain(float(b["score"]))


def _top(rows: xr.Dataset, axis: str) -> xr.Dataset:
    return rows.isel({axis: int(np.argmax(rows["gain"].values))})


def _span(view: View, values: Any) -> str:
    """The least and the greatest of some scores."""
    text = view.score.text
    return f"{text(float(np.min(values)))} to {text(float(np.max(values)))}"


def _among(view: View, rows: xr.Dataset, axis: str, named: Iterable[float]) -> tuple[str, str]:
    """Whether the best values of ``axis`` are the named ones: the verdict and its numbers.

    It holds if the best value and all that tie with it (are not separated from it) are named, and
    fails if none of them is and every named value was measured. A tie across the border decides
    nothing, and neither does a grid on which all values are named, or none, or of one seed.
    """
    named = sorted(float(v) for v in named)
    have = {float(v) for v in rows[axis].values}
    if not have & set(named) or not have - set(named):
        word = wording.NAMES.get(axis, axis).replace("$", "")
        return OPEN, f"the finished {word} values ({_numbers(have)}) do not include both sides"
    top = _top(rows, axis)
    where = f"best {view.score.text(float(top['score']))} at {float(top[axis]):g}"
    if view.seeds == 1:
        return ONE_SEED, where
    alike = [not separated(view, top, rows.isel({axis: i})) for i in range(rows.sizes[axis])]
    best = [float(v) for v, same in zip(rows[axis].values, alike) if same]
    where += f"; within the noise of it: {_numbers(best)}"
    inside = [v for v in best if v in named]
    if len(inside) == len(best):
        return HOLDS, where
    if not inside and set(named) <= have:
        return FAILS, where
    return OPEN, where


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{v:g}" for v in sorted(values)) or "none"


def _too_few(sizes: int, rates: int) -> str:
    return (
        f"{sizes} finished batch sizes × {rates} base learning rates; "
        f"at least {ENOUGH} of each are needed"
    )


# --- claims about every sweep --------------------------------------------------------------------


@claim(source="Masters & Luschi 2018, Fig. 16", protocols=(CIFAR10, CIFAR100))
def range_shrinks(view: View, margin: float) -> Verdict:
    """Whether the stable range of base LRs is narrower, the larger the batch size.

    Widths are counted in grid points. The claim holds if no batch size has a range more than one
    point wider than any smaller one has, and the largest has a narrower one than the smallest. An
    interval that ends at the end of the grid is known to be at least as wide as measured: where
    its true width could turn the verdict, there is none.
    """
    words = "Within the swept base learning rates, the stable range shrinks as m grows"
    verdict = partial(Verdict, f"{words} (margin {view.score.margin(margin)})")
    span = view.stable_range(margin)
    span = span.isel({BATCH_SIZE: np.flatnonzero(span["complete"].values)})
    rates = view.ds.sizes.get(BASE_LR, 1)
    if span.sizes[BATCH_SIZE] < ENOUGH or rates < ENOUGH:
        return verdict(OPEN, _too_few(span.sizes[BATCH_SIZE], rates))
    width = span["count"].values
    cut = (span["low_open"] | span["high_open"]).values
    measured = "; ".join(_range_words(span.isel({BATCH_SIZE: i})) for i in range(width.size))
    if width[0] == rates and width[-1] == rates:
        text = f"every base learning rate is stable: the grid is too narrow. {measured}"
        return verdict(OPEN, text)
    grows = [(i, j) for j in range(width.size) for i in range(j) if width[j] > width[i] + 1]
    if any(not cut[i] for i, _ in grows):
        return verdict(FAILS, measured)
    if grows:
        return verdict(OPEN, f"the grid cuts the ranges that would decide it. {measured}")
    if width[-1] < width[0]:
        return verdict(HOLDS, measured)
    return verdict(OPEN if cut[0] else FAILS, measured)


def _range_words(row: xr.Dataset) -> str:
    m = f"m = {float(row[BATCH_SIZE]):g}"
    count = int(row["count"])
    if not count:
        return f"{m}: none"
    low, high = (wording.label(BASE_LR, float(row[end])) for end in ("low", "high"))
    ends = [end for end in ("low", "high") if bool(row[f"{end}_open"])]
    cut = f", open at the {' and '.join(ends)} end" if ends else ""
    return (
        f"{m}: {low} to {high} ({count} points{cut})" if count > 1 else f"{m}: {low} (1 point{cut})"
    )


@claim(source="Masters & Luschi 2018, Fig. 15", protocols=(CIFAR10,))
def best_falls(view: View) -> Verdict:
    """Whether the largest batch size, at its best base LR, is worse than the best cell.

    The difference must exceed the noise (``separated``), which one seed does not show. If the
    largest batch size does best at the end of the base LR grid, a wider grid could lift it: no
    verdict.
    """
    score = view.score
    falls, lower = ("falls", "lower") if score.higher_is_better else ("rises", "higher")
    verdict = partial(Verdict, f"The best {score.long_name} {falls} at large m")
    rows = view.finished_rows
    rates = view.ds.sizes.get(BASE_LR, 1)
    if rows.sizes[BATCH_SIZE] < ENOUGH or rates < ENOUGH:
        return verdict(OPEN, _too_few(rows.sizes[BATCH_SIZE], rates))
    top, last = _top(rows, BATCH_SIZE), rows.isel({BATCH_SIZE: -1})
    drop = _median_gap(view, top, last)
    measured = f"best {_cell_words(view, top)}; largest batch size {_cell_words(view, last)}"
    if np.isfinite(drop):
        measured += f": {score.difference(drop)} {lower}"
    if view.seeds == 1:
        return verdict(ONE_SEED, measured)
    if separated(view, top, last):
        if bool(last["edge"]):
            return verdict(OPEN, f"{measured}, but at the end of the base learning rates")
        return verdict(HOLDS, measured)
    if drop <= view.resolution(float(top["score"])):
        return verdict(FAILS, measured)
    return verdict(OPEN, f"{measured}, within the spread of the seeds")


def _cell_words(view: View, row: xr.Dataset) -> str:
    rate = wording.label(BASE_LR, float(row["best_base_lr"]))
    m = _numbers([float(row[BATCH_SIZE])])
    return f"{view.score.text(float(row['score']))} at m = {m}, η̃ = {rate}"


def longer_training(short: View, long: View) -> Verdict:
    """Whether more epochs help, large batches more than small ones (appendix A).

    Gains are differences of the best score of a batch size. The claim holds if the gain of the
    largest common batch size exceeds the median gain of the others, and is beyond the noise, while
    the best batch size of the longer training stays better than the largest.
    """
    words = "Longer training helps large m most, which still stay below small m"
    protocol = replace(CIFAR10, model=("resnet32",))
    scopes = [
        scope_of(view, replace(protocol, epochs=epochs))
        for view, epochs in ((short, 41), (long, 164))
    ]
    about: dict[str, Any] = {
        "source": "Masters & Luschi 2018, Figs 17 and 18",
        "scope": "; then ".join(dict.fromkeys(words for words, _ in scopes)),
        "reduced": any(less for _, less in scopes),
    }
    a, b = short.finished_rows, long.finished_rows
    common = np.intersect1d(a[BATCH_SIZE].values, b[BATCH_SIZE].values)
    if common.size < ENOUGH:
        return Verdict(words, OPEN, f"{common.size} batch sizes finished in both", **about)
    a, b = a.sel({BATCH_SIZE: common}), b.sel({BATCH_SIZE: common})
    score = short.score
    with np.errstate(invalid="ignore"):  # of what diverged in both
        gain = score.gain(b["score"].values) - score.gain(a["score"].values)
    unit = "points" if score.percent else score.units or score.long_name
    numbers = (f"{100 * g:+.1f}" if score.percent else f"{g:+.2g}" for g in gain)
    measured = f"gain in {unit} by batch size: "
    measured += ", ".join(f"{m:g}: {number}" for m, number in zip(common, numbers))

    def verdict(word: str) -> Verdict:
        found = Verdict(words, word, measured, **about)
        return _so_far(short, _so_far(long, found))

    if short.seeds == 1 or long.seeds == 1:
        return verdict(ONE_SEED)
    last_a, last_b, top = a.isel({BATCH_SIZE: -1}), b.isel({BATCH_SIZE: -1}), _top(b, BATCH_SIZE)
    grew, below = separated(long, last_b, last_a), separated(long, top, last_b)
    most = gain[-1] > np.median(gain[:-1])
    if grew and below and most:
        return verdict(HOLDS)
    overlap = gain[-1] > 0 and _median_gap(long, top, last_b) > 0 and most
    return verdict(OPEN if overlap else FAILS)


# --- claims that figures name --------------------------------------------------------------------


@claim
def best_batch(view: View, *sizes: int, case: Mapping[str, Iterable[int]] | None = None) -> Verdict:
    """Whether the best batch size is one of some.

    Args:
      view: a sweep.
      *sizes: those named as best.
      case: further ones that are named for one value of the axis ``case``.
    """
    here = str(view.ds.coords["case"].item()) if "case" in view.ds.coords else ""
    named = (*sizes, *(case or {}).get(here, ()))
    words, rows = f"The best batch size is one of {_numbers(named)}", view.finished_rows
    if not rows.sizes[BATCH_SIZE]:
        return Verdict(words, OPEN, "no batch size has finished")
    return Verdict(words, *_among(view, rows, BATCH_SIZE, named))


@claim
def best_lr_usable_to(view: View, m: int) -> Verdict:
    """Whether the base LR of the best cell is usable up to the stated batch size and no further.

    Usable means reliable (``View.reliable``), from the best batch size upwards without a gap. One
    step of the batch size grid on either side still agrees.
    """
    verdict = partial(Verdict, f"The best base learning rate is usable only for m ≤ {m}")
    sizes = view.finished_rows[BATCH_SIZE].values.astype(float)
    if view.best is None or BASE_LR not in view.best.where or sizes.size < ENOUGH:
        return verdict(OPEN, "too few finished batch sizes")
    best, rate = view.best.where[BATCH_SIZE], view.best.where[BASE_LR]
    good = view.reliable(view.margin).sel({BASE_LR: rate})
    reach = best
    for size in sizes[sizes > best]:
        if not bool(good.sel({BATCH_SIZE: size})):
            break
        reach = size
    where = f"η̃ = {wording.label(BASE_LR, rate)} (best cell, m = {best:g})"
    text = f"{where} is reliable up to m = {reach:g}"
    if reach == sizes.max() and reach < 2 * m:
        return verdict(OPEN, f"{text}, the largest that has finished")
    return verdict(HOLDS if m / 2 <= reach <= 2 * m else FAILS, text)


@claim
def good_at(view: View, m: int) -> Verdict:
    """Whether a batch size, at its best base LR, is within the margin of the best."""
    score, rows = view.score, view.finished_rows
    margin = score.margin(view.margin)
    words = f"{capital(score.long_name)} at m = {m} is within {margin} of the best"
    if m not in rows[BATCH_SIZE].values:
        return Verdict(words, OPEN, f"m = {m} has not been measured")
    top, there = (float(r["score"]) for r in (_top(rows, BATCH_SIZE), rows.sel({BATCH_SIZE: m})))
    near = score.gain(there) >= score.gain(top) - view.margin
    text = f"{score.text(there)} against {score.text(top)}"
    return Verdict(words, HOLDS if near else FAILS, text)


@claim
def learns_only_below(view: View, m: int) -> list[Verdict]:
    """Whether batch sizes from m on stay within the margin of a guess, and smaller ones do not."""
    score, found = view.score, []
    best = view.finished_rows["score"]
    sizes = best[BATCH_SIZE].values
    for words, part, learns in (
        (f"m ≥ {m} learns at no base learning rate", best[sizes >= m], False),
        (f"m < {m} learns", best[sizes < m], True),
    ):
        if not part.size:
            found.append(Verdict(words, OPEN, "no such batch size has finished"))
            continue
        text = f"best {score.long_name} {_span(view, part)}"
        if not np.isfinite(score.guess):
            found.append(Verdict(words, OPEN, f"{text}; nothing says what a guess would have"))
            continue
        lead = score.gain(part) - score.gain(score.guess) - view.margin
        agree = bool((lead > 0 if learns else lead < 0).all())
        text += f", {wording.guess_word(score)} {score.text(score.guess)}"
        found.append(Verdict(words, HOLDS if agree else FAILS, text))
    return found


@claim
def curves_coincide(view: View, low: int, high: int, base_lr: float) -> Verdict:
    """Whether the test score over the epochs nearly coincides inside a range of batch sizes.

    "Nearly" is ours: medians over seeds within the margin of each other at every evaluation of the
    second half of training. Larger batch sizes must end lower than all inside the range.
    """
    words = f"Learning curves nearly coincide for {low} ≤ m ≤ {high} and are worse above"
    if BASE_LR in view.axes:
        near = np.isclose(view.ds[BASE_LR].values.astype(float), base_lr, rtol=1e-6)
        if not near.any():
            return Verdict(words, OPEN, f"base learning rate {base_lr:g} was not swept")
        view = View(view.ds.isel({BASE_LR: int(np.flatnonzero(near)[0])}))
    complete = (view.cells["count"] == view.cells["seeds"]).values
    view = View(view.ds.isel({BATCH_SIZE: np.flatnonzero(complete)}))
    m = view.ds[BATCH_SIZE].values.astype(float)
    inside, above = (m >= low) & (m <= high), m > high
    if inside.sum() < ENOUGH or not above.any():
        text = f"finished batch sizes at this base learning rate: {_numbers(m)}"
        return Verdict(words, OPEN, text)
    score = view.score
    median = spread(view.ds[curve(TEST, score.name)])["median"].dropna(EPOCH, how="all")
    half = median.isel({EPOCH: slice(median.sizes[EPOCH] // 2, None)})
    group = half.isel({BATCH_SIZE: np.flatnonzero(inside)})
    with np.errstate(invalid="ignore"):  # of what has diverged in all
        gap = float((group.max(BATCH_SIZE) - group.min(BATCH_SIZE)).max())
    final = view.cells["median"].values
    text = (
        f"largest gap in the second half {score.difference(gap)}; reported {score.long_name} "
        f"{_span(view, final[inside])}, above m = {high} {_span(view, final[above])}"
    )
    gain = score.gain(final)
    good = gap <= view.margin and gain[above].max() < gain[inside].min()
    return Verdict(words, HOLDS if good else FAILS, text)


@claim(axes=BATCHES)
def best_bn_batch(view: View, *sizes: int) -> Verdict:
    """Whether the best BN batch is one of some for every SGD batch.

    A BN batch larger than the SGD batch does not exist. Where base LRs were swept, each pair of
    batches shows its best one.
    """
    words = f"The best BN batch is one of {_numbers(sizes)} for every SGD batch"
    if BN_BATCH not in view.axes:
        return Verdict(words, OPEN, "BN batches were not swept")
    columns = _bn_columns(view)
    if not columns:
        return Verdict(words, OPEN, "nothing has finished")
    outcomes, texts = [], []
    for m, column in columns:
        possible = [b for b in sizes if b <= m]
        if possible and column.sizes[BN_BATCH] > 1:
            outcome, text = _among(view, column, BN_BATCH, possible)
            outcomes.append(outcome)
            texts.append(f"m = {m:g}: {text}")
    decided = next((word for word in (FAILS, ONE_SEED, OPEN) if word in outcomes), HOLDS)
    return Verdict(words, decided if outcomes else OPEN, "; ".join(texts))


@claim(axes=BATCHES)
def smaller_batches_better(view: View) -> Verdict:
    """Whether smaller SGD batches are better, each at its best BN batch."""
    verdict = partial(Verdict, "Smaller SGD batches are better at their best BN batch")
    if BN_BATCH not in view.axes:
        return verdict(OPEN, "BN batches not swept")
    tops = [(m, _top(column, BN_BATCH)) for m, column in _bn_columns(view)]
    if not tops:
        return verdict(OPEN, "nothing has finished")
    text = "; ".join(f"m = {m:g}: {view.score.text(float(top['score']))}" for m, top in tops)
    if len(tops) < ENOUGH:
        return verdict(OPEN, f"fewer than {ENOUGH} SGD batches. {text}")
    if view.seeds == 1:
        return verdict(ONE_SEED, text)
    cells = [top for _, top in tops]
    if any(separated(view, b, a) for i, a in enumerate(cells) for b in cells[i + 1 :]):
        return verdict(FAILS, text)
    return verdict(HOLDS if separated(view, cells[0], cells[-1]) else OPEN, text)


@claim(axes=BATCHES)
def bn_batch_below_batch(view: View) -> Verdict:
    """Whether the best BN batch is smaller than the SGD batch, for every SGD batch."""
    verdict = partial(Verdict, "The best BN batch is smaller than the SGD batch")
    if BN_BATCH not in view.axes:
        return verdict(OPEN, "BN batches were not swept")
    best = [(m, float(_top(column, BN_BATCH)[BN_BATCH])) for m, column in _bn_columns(view)]
    text = ", ".join(f"m = {m:g}: {b:g}" for m, b in best) or "nothing has finished"
    # The smallest SGD batch has no smaller BN batch to compare with.
    below = [b < m for m, b in best if m > float(view.ds[BN_BATCH].min())]
    if below and view.seeds == 1:
        return verdict(ONE_SEED, text)
    return verdict((HOLDS if all(below) else FAILS) if below else OPEN, text)


def _bn_columns(view: View) -> list[tuple[float, xr.Dataset]]:
    """For every SGD batch with results, its finished BN batches at their best base LRs."""
    rows = view.rows.where(view.rows["complete"])
    columns = [(m, rows.sel({BATCH_SIZE: m})) for m in rows[BATCH_SIZE].values]
    known = [(m, np.flatnonzero(column["score"].notnull().values)) for m, column in columns]
    return [
        (float(m), column.isel({BN_BATCH: found}))
        for (m, column), (_, found) in zip(columns, known)
        if found.size
    ]
