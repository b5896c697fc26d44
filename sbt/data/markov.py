"""Synthetic text whose entropy is known: no model can predict it better than that."""

from bisect import bisect_right
from typing import Annotated

import numpy as np

from sbt.data.dataset import Dataset
from sbt.data.registry import DATASETS, Wanted
from sbt.data.tokens import (
    DEFAULT_LENGTH,
    SeqLen,
    Splits,
    narrowed,
    sequences,
    text_dataset,
)
from sbt.errors import UserError
from sbt.ranges import Range

TRAIN, TEST = 4096, 512  # sequences, where nothing else is said
MOST_CONTEXTS = 1 << 16  # of rows of the matrix
_MOST_TOKENS = 1 << 27  # which take minutes
_LEAST = 1e-6  # weight that every token has after every context: all follows from all


def random_chain(vocabulary: int, order: int, concentration: float) -> np.ndarray:
    """Transition probabilities of a random Markov chain, always the same ones.

    Every row is drawn from a symmetric Dirichlet distribution.

    Args:
      vocabulary: V.
      order: k, tokens that the next one depends on; 0: tokens are independent.
      concentration: of the Dirichlet distribution; small ones make text that is easy to predict.

    Returns:
      ``(V^k, V)``, float64, positive. The row of a context is its tokens read as a number in base
      V, the oldest first.
    """
    weights = np.random.RandomState(0).gamma(concentration, size=(vocabulary**order, vocabulary))
    weights += _LEAST
    return weights / weights.sum(axis=1, keepdims=True)


def stationary(transitions: np.ndarray) -> np.ndarray:
    r"""The distribution of contexts in the long run, :math:`\pi`, ``(V^k,)``.

    It solves :math:`\pi(c') = \sum_{c, a \to c'} \pi(c) P(a \mid c)`; power iteration ends at
    rounding.

    Raises:
      ValueError: ``transitions`` is not ``(V^k, V)``.
    """
    contexts, vocabulary = transitions.shape
    order_of(transitions)
    law = np.full(contexts, 1 / contexts)
    for _ in range(100_000):
        # (oldest, others, next): the next context forgets the oldest token.
        joint = law[:, None] * transitions
        after = joint.reshape(-1, contexts).sum(axis=0) if contexts > 1 else law
        if np.abs(after - law).sum() < 1e-15 * vocabulary:
            break
        law = after
    return law / law.sum()


def order_of(transitions: np.ndarray) -> int:
    """k of transitions ``(V^k, V)``.

    Raises:
      ValueError: they have another shape.
    """
    contexts, vocabulary = transitions.shape
    order = 0
    while vocabulary > 1 and vocabulary**order < contexts:
        order += 1
    if vocabulary**order != contexts:
        raise ValueError(f"{transitions.shape} is not (V^k, V)")
    return order


def markov_entropy(transitions: np.ndarray, seen: int | None = None) -> float:
    r"""Entropy of the next token given those before it, in nats.

    .. math:: H_j = -\sum_{c, a} \pi(c) P(a \mid c) \ln P(a \mid \text{the last } j
              \text{ tokens of } c)

    Args:
      transitions: ``(V^k, V)``, from :func:`random_chain`.
      seen: j, tokens that are known; None: k or more, which gives the entropy rate of the text, the
        loss per token below which no model gets (Cover & Thomas, Elements of Information Theory,
        theorem 4.2.4).
    """
    vocabulary, order = transitions.shape[1], order_of(transitions)
    known = order if seen is None else min(seen, order)
    joint = stationary(transitions)[:, None] * transitions
    joint = joint.reshape(-1, vocabulary**known, vocabulary).sum(axis=0)  # (last j tokens, next)
    conditional = joint / joint.sum(axis=1, keepdims=True)
    return float(-np.sum(joint * np.log(conditional)))


def markov_floor(transitions: np.ndarray, length: int) -> float:
    """Least expected loss of a model that sees nothing before a sequence, in nats per token.

    The mean over the places of a sequence of T tokens: the label of place t has t tokens before it.
    For orders 0 and 1 it is the entropy rate, for others a little more.

    Args:
      transitions: ``(V^k, V)``.
      length: T.
    """
    order = order_of(transitions)
    short = [markov_entropy(transitions, seen) for seen in range(1, min(order, length + 1))]
    rest = (length - len(short)) * markov_entropy(transitions)
    return (sum(short) + rest) / length


def markov_text(transitions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Text of a chain that has run for ever; a longer one begins with a shorter one.

    Args:
      transitions: ``(V^k, V)``.
      count: tokens.
      seed: of NumPy's ``RandomState``, whose numbers never change.
    """
    contexts, vocabulary = transitions.shape
    draws = np.random.RandomState(seed).random_sample(count + 1)
    start = bisect_right(np.cumsum(stationary(transitions)).tolist(), float(draws[0]))
    context, last = min(start, contexts - 1), vocabulary - 1
    rows = np.cumsum(transitions, axis=1).tolist()
    found = np.empty(count, np.int64)
    for i, draw in enumerate(draws[1:].tolist()):
        token = min(bisect_right(rows[context], draw), last)
        found[i] = token
        context = (context * vocabulary + token) % contexts
    return found


@DATASETS.register("markov", source="text of known entropy")
def markov(
    wanted: Wanted,
    vocabulary: Annotated[int, Range(2, 2**12)] = 16,
    order: Annotated[int, Range(0, 8)] = 1,
    concentration: Annotated[float, Range(0.01, 1e3)] = 0.5,
    seq_len: SeqLen = DEFAULT_LENGTH,
) -> Dataset:
    """Text of a random Markov chain of known entropy; nothing to download.

    The entropy rate, in nats per token, is kept with the results (``entropy rate``); so is the
    least expected loss of a model that begins every sequence anew (``loss floor``).

    Args:
      wanted: sizes in sequences; by default 4096 and 512.
      vocabulary: V.
      order: k, tokens that the next one depends on.
      concentration: of the Dirichlet distribution of what follows a context; small ones make text
        that is easy to predict.
      seq_len: T.

    Raises:
      UserError: a chain too large to hold.
    """
    if vocabulary**order > MOST_CONTEXTS:
        raise UserError(
            "config.data.order",
            f"{vocabulary} tokens have {vocabulary}^{order} contexts of {order}, more than "
            f"{MOST_CONTEXTS:,}",
            "choose a lower order, or a smaller vocabulary",
        )
    sizes = (wanted.train_size or TRAIN, wanted.test_size or TEST)
    if sum(sizes) * seq_len > _MOST_TOKENS:
        raise UserError(
            "config.data",
            f"{sum(sizes) * seq_len:,} tokens are more than {_MOST_TOKENS:,}",
            "choose smaller sizes",
        )
    chain = random_chain(vocabulary, order, concentration)
    parts = (
        sequences(narrowed(markov_text(chain, size * seq_len + 1, seed), vocabulary), seq_len)
        for seed, size in enumerate(sizes, start=1)
    )
    notes = {  # rounded: machines differ in the last digits of a logarithm
        "entropy rate": round(markov_entropy(chain), 9),
        "loss floor": round(markov_floor(chain, seq_len), 9),
    }
    floor = notes["loss floor"]
    return text_dataset(Splits(*parts), wanted, vocabulary, floor=floor, notes=notes)
