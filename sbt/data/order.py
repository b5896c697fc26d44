"""In which order a run sees its training examples: one endless stream of epoch permutations.

Position p of the stream is example ``epoch_order(key, p // N, N)[p % N]``. Batches are consecutive
pieces of the stream: they may span the boundary of two epochs, and no example is dropped, padded or
repeated. The stream depends on the seed and on nothing else, so that runs of one seed and different
batch sizes see the same examples in the same order (paired comparison).
"""

import zlib

import jax
import jax.numpy as jnp


def purpose_key(key: jax.Array, purpose: str) -> jax.Array:
    """Folds the name of a purpose into a key.

    Every random number of a run derives from the run's seed, the *name* of what it is for and
    counters (epoch, update, example), never from the position of a lane or the order of calls. A
    purpose added later therefore leaves the numbers of the others alone.

    Args:
      key: typed key of the run, ``jax.random.key(seed)``.
      purpose: a name; sbt uses ``init``, ``order``, ``augment``, ``rule`` and ``dropout``.

    Returns:
      The typed key of that purpose. The name enters as its CRC-32, which is the same in every
      process and release (Python's own ``hash`` is not).
    """
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def epoch_order(key: jax.Array, epoch: jax.Array | int, num_examples: int) -> jax.Array:
    """Permutation of the training set in one epoch.

    Args:
      key: typed key of the run, ``jax.random.key(seed)``.
      epoch: epoch number, from 0; may be traced.
      num_examples: N, size of the training set (static).

    Returns:
      int32 permutation of 0 .. N-1, shape ``(N,)``, uniform up to the collisions of 32-bit sort
      keys (``jax.random.permutation`` repeats the sort so that they do not matter).
    """
    epoch_key = jax.random.fold_in(purpose_key(key, "order"), epoch)
    return jax.random.permutation(epoch_key, jnp.arange(num_examples, dtype=jnp.int32))


def stream_window(
    key: jax.Array, epoch: jax.Array | int, num_examples: int, extra: int
) -> jax.Array:
    """The stream from the start of one epoch to ``extra`` positions into the next.

    Enough to cut every batch that *starts* in this epoch, if ``extra`` is at least the largest
    batch size minus one.

    Args:
      key: typed key of the run, ``jax.random.key(seed)``.
      epoch: epoch number, from 0; may be traced.
      num_examples: N, size of the training set (static).
      extra: positions of the following epoch to append, 0 .. N (static).

    Returns:
      int32 example indices, shape ``(N + extra,)``; the first N belong to ``epoch``, the rest to
      ``epoch + 1``.

    Raises:
      ValueError: ``extra`` outside 0 .. N.
    """
    if not 0 <= extra <= num_examples:
        raise ValueError(f"extra must lie in 0 .. {num_examples} (one epoch), got {extra}")
    order = epoch_order(key, epoch, num_examples)
    if extra == 0:
        return order
    following = epoch_order(key, epoch + 1, num_examples)
    return jnp.concatenate([order, following[:extra]])
