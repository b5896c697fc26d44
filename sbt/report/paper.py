"""What Masters & Luschi (2018) report, figure by figure, as data that a grid can be held against.

The paper prints no table of its sweeps; these are the outcomes that its text and captions state
(arXiv 1804.07612, sections 3 and appendix A), in our words. The protocol of each figure stands
beside its outcome, so that a run on less than the protocol is recognised as such.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from sbt.report import dataset, scales
from sbt.report.dataset import BASE_LR, BATCH_SIZE

PAPER = "masters_luschi_2018"
CIFAR_BATCHES = tuple(2**k for k in range(1, 12))
CIFAR_TEST = 10_000
CIFAR_RATES = tuple(2.0**k for k in range(-12, 1))
CIFAR_EPOCHS = {"cifar10": 82, "cifar100": 164}
LAST_EPOCHS = 5
MODELS = ("alexnet", "resnet8", "resnet20", "resnet32")


@dataclass(frozen=True)
class Outcome:
    """The stated outcome of one figure, and the protocol that it was measured with.

    Attributes:
      figure: ``fig01`` and so on; ``resnet32_nobn`` for the experiment described without a figure.
      says: the outcome in words.
      models: networks of the figure, as the config calls them.
      data: data set (TFDS name).
      epochs: budget of every run.
      best: batch sizes named as best; empty where the paper names none.
      also_best: part of a figure -> batch sizes that another figure names as best for it.
      lr_limit: the largest batch size that can use the base LR that is best overall.
      reach: a batch size called still "quite good".
      fails_from: batch sizes from here on learn at no base LR.
      coincide: smallest and largest batch size whose learning curves nearly coincide.
      at_base_lr: the one base LR of a figure that shows no sweep.
      bn_best: BN batch sizes named as best for every SGD batch size.
      range_shrinks: whether the figure is about the range of stable base LRs.
    """

    figure: str
    says: str
    models: tuple[str, ...]
    data: str = "cifar10"
    epochs: int = 82
    best: tuple[int, ...] = ()
    also_best: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    lr_limit: int | None = None
    reach: int | None = None
    fails_from: int | None = None
    coincide: tuple[int, int] | None = None
    at_base_lr: float | None = None
    bn_best: tuple[int, ...] = ()
    range_shrinks: bool = False

    @property
    def name(self) -> str:
        """``Fig. 1``, or the experiment's name."""
        digits = re.sub(r"\D", "", self.figure) if self.figure.startswith("fig") else ""
        return f"Fig. {int(digits)}" if digits else "ResNet-32 without BN (section 3.2)"


ALEXNET, RESNET32, RESNET50 = ("alexnet",), ("resnet32",), ("resnet50",)
OUTCOMES: dict[str, Outcome] = {
    outcome.figure: outcome
    for outcome in (
        Outcome("fig01", "best for m ≤ 8", ALEXNET, best=(2, 4, 8)),
        Outcome("fig02", "best at m = 2 and m = 4", ("resnet8",), best=(2, 4)),
        Outcome("fig03", "best at m = 2 and m = 4", ("resnet20",), best=(2, 4)),
        Outcome(
            "resnet32_nobn",
            "m ≥ 16 fails at every base learning rate; m = 2, 4, 8 learn, at best 76 %",
            RESNET32,
            best=(2, 4, 8),
            fails_from=16,
        ),
        Outcome(
            "fig04",
            "at one base learning rate the learning curves nearly coincide for 4 ≤ m ≤ 64; "
            "larger m are worse",
            RESNET32,
            coincide=(4, 64),
            at_base_lr=2.0**-8,
        ),
        Outcome("fig05", "best for m = 8 to 64", ALEXNET, best=(8, 16, 32, 64)),
        Outcome("fig06", "best for m = 4 to 32", ALEXNET, best=(4, 8, 16, 32)),
        Outcome(
            "fig07",
            "best at m = 4 or 8; the best base learning rate is usable only for m ≤ 16",
            RESNET32,
            best=(4, 8),
            lr_limit=16,
        ),
        Outcome(
            "fig08",
            "best at m = 4 or 8; the best base learning rate is usable only for m ≤ 16",
            RESNET32,
            best=(4, 8),
            lr_limit=16,
        ),
        Outcome(
            "fig09",
            "best at m = 4 or 8; the best base learning rate is usable only for m ≤ 8",
            RESNET32,
            data="cifar100",
            epochs=164,
            best=(4, 8),
            lr_limit=8,
        ),
        Outcome(
            "fig10",
            "with warm-up, best at m = 4 or 8, good up to m = 128",
            RESNET32,
            best=(4, 8),
            reach=128,
        ),
        Outcome(
            "fig11",
            "with warm-up, best for m = 4 to 16",
            RESNET32,
            data="cifar100",
            epochs=164,
            best=(4, 8, 16),
        ),
        Outcome(
            "fig12",
            "best for m = 16 to 64",
            RESNET50,
            data="imagenet2012",
            epochs=90,
            best=(16, 32, 64),
        ),
        Outcome(
            "fig13",
            "BN batch 4 or 8 is best for every SGD batch size, and smaller SGD batches are better",
            RESNET32,
            bn_best=(4, 8),
        ),
        Outcome(
            "fig14",
            "BN batch 16 to 64 is best for every SGD batch size, and smaller SGD batches are "
            "better",
            RESNET50,
            data="imagenet2012",
            epochs=90,
            bn_best=(16, 32, 64),
        ),
        Outcome(
            "fig15",
            "best at m ≤ 32 for every network (Fig. 5 names m = 8 to 64 for the AlexNet with batch "
            "norm)",
            MODELS,
            best=(2, 4, 8, 16, 32),
            also_best={"AlexNet BN": (64,)},
        ),
        Outcome(
            "fig16",
            "the range of stable base learning rates shrinks steadily as m grows",
            MODELS,
            range_shrinks=True,
        ),
        Outcome(
            "fig17", "half the epochs of Fig. 8; compared with Figs 8 and 18", RESNET32, epochs=41
        ),
        Outcome(
            "fig18",
            "twice the epochs of Fig. 8: longer training helps, mainly large m, which stay below "
            "small m",
            RESNET32,
            epochs=164,
        ),
    )
}


def outcome_of(ds: xr.Dataset) -> Outcome | None:
    """The outcome that a dataset claims to reproduce, or None.

    ``config.report.figure`` (or ``paper_claim``) or the name of the run names it:
    ``masters_luschi_2018/fig01``, or ``fig01`` alone unless the run's name is of another paper.
    """
    name = str(ds.attrs.get("name") or dataset.setting(ds, "name", ""))
    ours = PAPER in name or re.fullmatch(r"(fig\d+|resnet32_nobn|sweep|)([_:.-].*)?", name)
    wanted = [str(dataset.setting(ds, f"report.{key}", "")) for key in ("paper_claim", "figure")]
    for text in (*wanted, name):
        qualified = text.split(PAPER)[-1].lstrip("/_.:-") if PAPER in text else ""
        bare = text if ours else ""
        for candidate in (qualified, bare):
            if re.match(FIGURE, candidate):
                return outcome_named(candidate)
    return None


FIGURE = r"fig0*(\d{1,4})|resnet32_nobn"


def outcome_named(figure: str) -> Outcome | None:
    """The outcome of a figure: ``fig01``, ``masters_luschi_2018/fig01``; None: there is none."""
    found = re.match(FIGURE, figure.rsplit(PAPER, maxsplit=1)[-1].lstrip("/_.:-"))
    if not found:
        return None
    return OUTCOMES.get(f"fig{int(found[1]):02d}" if found[1] else found[0])


def scope_of(ds: xr.Dataset, figure: str) -> tuple[str, bool]:
    """What a verdict on a dataset rests on.

    Args:
      ds: results, of one part of a grid.
      figure: the figure that states the claim; one that the dataset itself claims to reproduce goes
        before it.

    Returns:
      In words where it covers less than the figure's protocol, and its seeds; and whether it does
      cover less.
    """
    less = reductions(ds, outcome_of(ds) or OUTCOMES[figure])
    seeds = ds.sizes.get(dataset.SEED, 1)
    return "; ".join([*less, "one seed" if seeds == 1 else f"{seeds} seeds"]), bool(less)


def reductions(ds: xr.Dataset, outcome: Outcome) -> list[str]:
    """In which respects a dataset covers less than the figure's protocol; empty for all of it."""
    less = []
    data = _chosen(ds, "data")
    # Fig. 16 and the second panel of Fig. 13 are about CIFAR-100 too, with its longer budget.
    both = data in CIFAR_EPOCHS and outcome.figure in ("fig13", "fig16")
    epochs = CIFAR_EPOCHS[data] if both else outcome.epochs
    if data and data != outcome.data and not both:
        less.append(f"data {data} instead of {outcome.data}")
    model = _chosen(ds, "model")
    if model and model not in outcome.models:
        less.append(f"model {model} instead of {' or '.join(outcome.models)}")
    rule = _chosen(ds, "rule")
    if rule and rule != "sgd":
        less.append(f"rule {rule} instead of sgd")
    elif _number(ds, "momentum"):
        less.append(f"momentum {_number(ds, 'momentum'):g}")
    train = dataset.setting(ds, "data.train_size")
    if train:
        less.append(f"{int(train)} training examples")
    test = dataset.setting(ds, "data.test_size")
    if test and int(test) < CIFAR_TEST:
        less.append(f"{int(test)} test examples")
    ran = ds.sizes.get(dataset.EPOCH) or dataset.setting(ds, "epochs")
    if ran and ran < epochs:
        less.append(f"{int(ran)} of {epochs} epochs")
    last = dataset.setting(ds, "report.last_epochs", LAST_EPOCHS)
    if last < LAST_EPOCHS:
        epoch = "epoch" if last == 1 else f"{last} epochs"
        less.append(f"accuracy from the last {epoch} instead of {LAST_EPOCHS}")
    rates = CIFAR_RATES if outcome.at_base_lr is None else (outcome.at_base_lr,)
    grids = [(BATCH_SIZE, CIFAR_BATCHES, "batch sizes")]
    if not outcome.bn_best:
        grids.append((BASE_LR, rates, "base learning rates"))
    for axis, full, words in grids:
        have = dataset.with_axis(ds, axis)[axis].values.astype(float)
        missing = [v for v in full if not np.isclose(have, v, rtol=1e-6).any()]
        if missing and outcome.data.startswith("cifar"):
            names = ", ".join(scales.label(axis, v) for v in missing)
            less.append(f"without the {words} {names}")
    return less


def _chosen(ds: xr.Dataset, section: str) -> str:
    """The model, rule or data set of a part of a grid; empty where it cannot be told."""
    for axis in (section, f"{section}__name"):
        if axis in ds.coords:
            return str(ds[axis].item()) if ds[axis].ndim == 0 else ""
    # A case may choose it.
    follows = dataset.setting(ds, "follow", {})
    if {section, f"{section}__name"} & set(follows):
        return ""
    return str(dataset.setting(ds, f"{section}.name", ""))


def _number(ds: xr.Dataset, axis: str) -> float:
    """The value of a rule's number in a part of a grid; 0 where there is none."""
    if axis in ds.coords:
        return float(ds[axis]) if ds[axis].ndim == 0 else 0.0
    return float(dataset.setting(ds, f"rule.{axis}", 0.0))
