"""The protocol of Marek et al. (2025), arXiv 2507.07101: what all of its figures share.

Decoder-only transformers (``sbt list models``: gpt_30m, gpt_19m, gpt_124m), one pass over 20 tokens
per active parameter, linear warm-up from 0 over the first 5 % of the updates, then a cosine to 0,
at every batch size. No weight decay where a figure does not say so, no clipping, no dropout,
float32. Every run is evaluated once, at its end, on 20M tokens. Batch sizes count sequences.

One thing differs here. Sequences are permuted one by one and the evaluation set is the same for all
runs; the authors permute micro-batches of up to 16 neighbouring sequences and cut the evaluation
set after that, so that it depends on seed and micro-batch.

Grids are the authors'. They lie around an optimum of each batch size: rates are multiplied by a
power of it (``config.scaling.power``), by one power for all or, where the optima follow none, by
that which leads from the optimum at B = 1 to that at B (:func:`through`); so are half-lives.

FineWeb-Edu and C4 are read as flat files of tokens: ``--config.data.path=train.bin``, and
``--config.data.test_path=val.bin`` or the end of the first file.

``:small`` is for two CPU cores and minutes: the bytes of the language reference inside Python, a
network of two layers of width 64, 0.13 million parameters, sequences of 64. It shows tendencies and
is not to be compared with the paper's numbers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

PAPER = "Marek et al. 2025"
BATCH_SIZES = (1, 4, 16, 64, 256, 1024, 4096)
SMALL_BATCH_SIZES = (1, 4, 16, 64)
MARGIN = 0.02  # nats per token, of what counts as good
EVALUATED = 20_000_000  # tokens
# Model -> sequence length, vocabulary, tokens of the budget.
BUDGETS = {
    "gpt_30m": (512, 50257, 598_310_400),
    "gpt_19m": (512, 32101, 706_201_600),
    "gpt_124m": (1024, 50257, 2_470_640_640),
}
SMALL_SEQUENCES, SMALL_TEST = 2048, 512
# Adam's optimum for gpt_30m at each batch size: rate and half-life of beta1; at all of them beta2
# has a half-life of 10M tokens.
RATES = {1: 1.7e-3, 4: 2e-3, 16: 2e-3, 64: 3e-3, 256: 5e-3, 1024: 5e-3, 4096: 2.5e-3}
FIRST = {1: 40e3, 4: 40e3, 16: 60e3, 64: 200e3, 256: 1e6, 1024: 3e6, 4096: 6e6}  # tokens
SECOND = 1e7
SMALL_RATES = {1: 2e-3, 4: 3.5e-3, 16: 7e-3, 64: 6e-3}  # found with fig05.py:small
SMALL_SECOND = 55_000.0  # of 131,072 tokens: that of 0.95 at B = 64


def language_model(
    figure: str,
    variant: str,
    caption: str,
    claims: Sequence[Any],
    *,
    grids: Mapping[str, Mapping[str, Any]],
    model: str = "gpt_30m",
    rule: str = "adam",
    scaling: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """The config of one figure.

    Args:
      figure: its number, ``fig05``.
      variant: a key of ``grids``.
      caption: what the paper says that the figure shows.
      claims: the same, as functions of ``sbt.report`` that judge the results.
      grids: for each variant the axes of its sweep; a variant that ends in ``small`` is trained on
        two cores.
      model: of the paper's.
      rule: update rule.
      scaling: how hyperparameters follow the batch size, ``config.scaling``; None: they do not.
    """
    if variant not in grids:
        names = ", ".join(f":{name}" for name in grids if name)
        raise UserError(f"{figure}.py:{variant}", "there is no such variant", f"use {names}")
    length, vocabulary, tokens = BUDGETS[model]
    config = default()
    config.name = f"{figure}-{variant}" if variant else figure
    config.epochs = 1
    config.scaling = dict(scaling or {"name": "fixed"})
    # A power says itself how rates follow the batch size.
    config.lr_scaling = "linear" if "power" in config.scaling else "none"
    config.rule = {"name": rule}
    config.schedule = {
        "name": "cosine",
        "warmup": 0.05,
        "warmup_start": 0.0,
        "after_warmup": True,
    }
    config.report.last_epochs = 1
    config.report.margin = MARGIN
    config.report.figure = f"{PAPER}, Fig. {figure.removeprefix('fig').lstrip('0')}"
    config.report.caption = caption
    config.report.claims = tuple(claims)
    config.report.protocol = (
        ("data", "tokens"),
        ("model", (model,)),
        ("rule", rule),
        ("epochs", 1),
        ("last_epochs", 1),
        ("test_examples", EVALUATED // length),
        ("batch_size", tuple(grids[""].get("batch_size", BATCH_SIZES))),
    )
    if variant.endswith("small"):
        config.model = {"name": "gpt", "width": 64, "depth": 2, "heads": 2}
        data = {"name": "python_docs", "seq_len": 64}
        sizes = SMALL_SEQUENCES, SMALL_TEST
    else:
        config.model = {"name": model}
        data = {"name": "tokens", "seq_len": length, "vocabulary": vocabulary}
        sizes = tokens // length, EVALUATED // length
    for field, value in data.items():
        config.data[field] = value
    config.data.train_size, config.data.test_size = sizes
    for axis, values in grids[variant].items():
        config.sweep[axis] = tuple(values)
    return config


def factors(low: float, high: float, step: float = 2.0) -> tuple[float, ...]:
    """Numbers from ``low`` up to ``high``, each ``step`` times the one before."""
    found = [low]
    while found[-1] * step <= high * 1.001:
        found.append(found[-1] * step)
    return tuple(float(f"{value:.4g}") for value in found)


def around(centre: float) -> tuple[float, ...]:
    """13 numbers, sqrt(2) apart, from an eighth of the centre to eight times it."""
    return tuple(float(f"{centre * 2 ** (k / 2):.6g}") for k in range(-6, 7))


def through(optima: Mapping[int, float]) -> tuple[str, tuple[tuple[int, float], ...]]:
    """For ``config.follow``: of each batch size the power that leads to its optimum from 1's."""
    powers = {m: math.log(best / optima[1]) / math.log(m) for m, best in optima.items() if m > 1}
    return "batch_size", ((1, 0.0), *powers.items())
