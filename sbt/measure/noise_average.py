r"""The gradient noise scale during training: numerator and denominator averaged apart."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sbt.measure.noise_scale import NoiseScale, as_noise_scale


class NoiseAverage(NamedTuple):
    """Exponential moving averages, carried through a training loop."""

    gradient_square: jax.Array  # shape=(), average of |G|^2, not yet bias-corrected
    covariance_trace: jax.Array  # shape=(), average of tr Sigma, not yet bias-corrected
    weight: jax.Array  # shape=(), what the averages would be of a constant 1
    estimates: jax.Array  # shape=(), estimates that went in
    negative: jax.Array  # shape=(), those among them with |G|^2 <= 0


def init_noise_average() -> NoiseAverage:
    """No estimate yet."""
    return NoiseAverage(*(jnp.zeros(()) for _ in NoiseAverage._fields))


def update_noise_average(
    average: NoiseAverage, estimate: NoiseScale, decay: float | jax.Array = 0.99
) -> NoiseAverage:
    r"""Takes in one step's estimate, :math:`a \leftarrow \lambda a + (1-\lambda) x` for both parts.

    A single estimate of :math:`|G|^2` is negative now and then, mostly late in training, where the
    gradient drowns in noise. Such an estimate belongs into the average as it is (leaving it out
    would bias the denominator upwards); ``negative`` counts them. An estimate that is not a number
    (a lane that does not accumulate, or has diverged) is passed over.

    Args:
      average: so far.
      estimate: of one update.
      decay: :math:`\lambda`; a memory of about :math:`1/(1-\lambda)` updates.
    """
    known = jnp.isfinite(estimate.gradient_square) & jnp.isfinite(estimate.covariance_trace)
    dtype = average.weight.dtype
    keep = jnp.asarray(decay).astype(dtype)

    def mixed(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(known, keep * old + (1 - keep) * new.astype(dtype), old)

    below = known & (estimate.gradient_square <= 0)
    return NoiseAverage(
        mixed(average.gradient_square, estimate.gradient_square),
        mixed(average.covariance_trace, estimate.covariance_trace),
        mixed(average.weight, jnp.ones(())),
        average.estimates + known.astype(dtype),
        average.negative + below.astype(dtype),
    )


def averaged_noise_scale(average: NoiseAverage) -> NoiseScale:
    r"""The ratio of the averages, each corrected for its start at zero.

    NaN before the first estimate, and where even the average of :math:`|G|^2` is not positive.

    Examples:
      >>> average = init_noise_average()
      >>> for square in (3.0, -1.0, 4.0):
      ...     estimate = as_noise_scale(jnp.asarray(square), jnp.asarray(10.0))
      ...     average = update_noise_average(average, estimate, decay=0.5)
      >>> found = averaged_noise_scale(average)
      >>> print(f'{found.gradient_square:.4f} {found.covariance_trace:.1f} {found.value:.4f}')
      2.4286 10.0 4.1176
      >>> print(f'{average.negative:.0f} of {average.estimates:.0f} were negative')
      1 of 3 were negative
    """
    weight = jnp.where(average.weight > 0, average.weight, jnp.nan)
    return as_noise_scale(average.gradient_square / weight, average.covariance_trace / weight)
