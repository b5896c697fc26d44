"""Independent random streams of one seed, told apart by what they are for."""

import zlib

import jax


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
