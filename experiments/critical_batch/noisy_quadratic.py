r"""The noisy quadratic of Zhang et al. (2019), solved exactly: known answers for ``sbt advise``.

A loss ½ Σ hᵢ θᵢ² whose gradients carry noise of variance cᵢ/B. With a constant learning rate the
second moments of all weights follow linear recurrences, so that the expected loss after every
update is a formula, and the fewest updates to a target at every batch size are known without
training anything. :func:`grid` makes of it what ``sbt.run`` makes of a sweep:

    import sbt
    print(sbt.advise(grid(), target=0.05).text)

It shows what the paper claims: the best learning rate grows in proportion to the batch size until
it meets the largest stable one, and from there larger batches bring little.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from sbt.tasks.score import Score

SCORE = Score("loss", False, np.inf, np.nan, "", False, "loss")
SIZES = (1, 4, 16, 64, 256)
RATES = tuple(2.0**k for k in np.arange(-10, 1, 0.5))


class Quadratic(NamedTuple):
    """Curvatures h, gradient noise c at batch size 1, second moments of the weights at the start.

    Zhang et al.: h = c = 1/i, i = 1 … d, and s₀ = 1.
    """

    h: np.ndarray
    c: np.ndarray
    s0: np.ndarray


def standard(d: int = 10) -> Quadratic:
    """The paper's, in d dimensions (theirs: 10⁴)."""
    h = 1 / np.arange(1.0, d + 1)
    return Quadratic(h, h, np.ones(d))


def moments(q: Quadratic, lr: float, batch: float, t: np.ndarray) -> np.ndarray:
    r"""E θᵢ² after t updates of SGD: :math:`s^* + q^t (s_0 - s^*)`, :math:`q = (1 - \alpha h)^2`.

    Args:
      q: the problem.
      lr: α, of the mean gradient; stable below 2/h.
      batch: B.
      t: updates, any shape.

    Returns:
      ``(*t.shape, d)``; infinite where the rate is not stable.
    """
    factor = (1 - lr * q.h) ** 2
    noise = lr**2 * q.c / batch
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        steady = noise / (1 - factor)
        found = steady + factor ** np.asarray(t, float)[..., None] * (q.s0 - steady)
    return np.where(factor < 1, found, np.inf)


def risk(q: Quadratic, lr: float, batch: float, t: np.ndarray) -> np.ndarray:
    """Expected loss after t updates of SGD."""
    return 0.5 * (q.h * moments(q, lr, batch, t)).sum(-1)


def steady_risk(
    h: float, c: float, lr: float, batch: float, momentum: float = 0.0, average: float = 0.0
) -> float:
    """Expected loss, in the end, of one dimension: SGD, heavy ball, or a moving average of SGD.

    Theorems 1 and 2 of the paper.

    >>> [round(steady_risk(0.3, 1, 0.4, 1, *more), 6) for more in ((), (0.7,), (0, 0.9))]
    [0.106383, 0.345528, 0.048238]
    """
    plain = lr * c / (2 * batch)
    if momentum:
        return plain * (1 + momentum) / ((2 * momentum + 2 - lr * h) * (1 - momentum))
    keep = 1 - lr * h
    damped = (1 - average) * (1 + keep * average) / ((1 + average) * (1 - keep * average))
    return plain / (2 - lr * h) * damped


def steps_to(q: Quadratic, lr: float, batch: float, target: float, most: float = 2**24) -> float:
    """The first update after which the expected loss is below a target; infinite if it never is.

    The loss falls or rises once on its way, so the first is found by doubling and halving.
    """
    if risk(q, lr, batch, np.array(0.0)) < target:
        return 0.0
    high = 1
    while risk(q, lr, batch, np.array(high)) >= target:
        if high > most:
            return np.inf
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if risk(q, lr, batch, np.array(middle)) < target:
            high = middle
        else:
            low = middle
    return float(high)


def fewest_steps(q: Quadratic, batch: float, target: float, rates: Sequence[float]) -> float:
    """Over learning rates, the fewest updates to a target."""
    best = np.inf
    # From large rates on: one slower than the best so far need not be followed to its end.
    for lr in sorted(rates, reverse=True):
        best = min(best, steps_to(q, lr, batch, target, most=min(best, 2**24)))
    return best


def grid(
    q: Quadratic | None = None,
    sizes: Sequence[int] = SIZES,
    rates: Sequence[float] = RATES,
    seeds: int = 1,
    noise: float = 0.0,
    updates: int = 2048,
) -> xr.Dataset:
    """Expected losses of a grid, as ``sbt.run`` returns results; an epoch is one example.

    Rates are of the mean gradient (``lr_scaling`` none). Evaluated after every power of 2^⅛ updates
    of every batch size, hence at other examples for each.

    Args:
      q: the problem; the standard one by default.
      sizes, rates: batch sizes and learning rates.
      seeds: copies of every run.
      noise: standard deviation of the logarithm of a factor that stretches the time of a copy.
      updates: length of the runs at the smallest batch.
    """
    q = standard() if q is None else q
    at = np.unique(np.ceil(2 ** np.arange(0, np.log2(updates) + 1 / 16, 1 / 8))).astype(int)
    epochs = np.unique(np.concatenate([at * m for m in sizes]))
    random = np.random.default_rng(0)
    loss = np.full((len(sizes), len(rates), seeds, len(epochs)), np.nan)
    for i, m in enumerate(sizes):
        when = np.searchsorted(epochs, at * m)
        for j, lr in enumerate(rates):
            for k in range(seeds):
                stretch = np.exp(noise * random.normal())
                loss[i, j, k, when] = risk(q, lr, m, at / stretch)
    dims = ("batch_size", "base_lr", "seed")
    diverged = np.isinf(loss).any(-1)
    last = np.where(diverged, np.inf, np.nanmin(np.where(np.isinf(loss), 1e300, loss), -1))
    config = {"name": "noisy quadratic", "lr_scaling": "none", "report": {"margin": 0.01}}
    return xr.Dataset(
        {
            "loss": (dims, last),
            "train_loss": ((*dims, "epoch"), loss),
            "test_loss": ((*dims, "epoch"), loss),
            "diverged": (dims, diverged),
            "diverged_epoch": (dims, np.where(diverged, 1.0, np.nan)),
            "epochs_done": (dims, np.full(last.shape, epochs[-1])),
            "finished": (dims, np.ones(last.shape, bool)),
        },
        {
            "batch_size": list(sizes),
            "base_lr": list(rates),
            "seed": np.arange(seeds),
            "epoch": epochs,
        },
        {
            **SCORE.attrs,
            "name": "noisy quadratic",
            "train_examples": 1,
            "config": json.dumps(config),
        },
    )
