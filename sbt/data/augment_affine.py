"""Random rotation, translation and mirroring of images: the augmentation of Keskar et al., Table 6.

Pure functions of arrays, keyed per example like the rest of the augmentation (see
:mod:`sbt.data.augment`): an example looks the same in an epoch whatever batch it is in.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


class AffineDraws(NamedTuple):
    """One random motion per image."""

    angles: jax.Array  # (B,), radians; positive turns the picture counter-clockwise
    shifts: jax.Array  # (B, 2), pixels down and to the right
    flips: jax.Array  # (B,), bool: mirrored left to right before anything else


def affine_draws(
    keys: jax.Array,
    height: int,
    width: int,
    *,
    max_rotation: float = 10.0,
    max_shift: float = 0.2,
) -> AffineDraws:
    """Draws a motion for every key.

    Args:
      keys: typed keys ``(B,)``.
      height: of the images, in pixels.
      width: of the images, in pixels.
      max_rotation: angles are uniform on plus or minus this many degrees.
      max_shift: shifts are uniform on plus or minus this fraction of height and width.

    Returns:
      The draws; flips are true with probability 1/2.
    """
    turn, size = jnp.deg2rad(max_rotation), jnp.asarray([height, width], jnp.float32)

    def draw(key: jax.Array) -> AffineDraws:
        angle_key, shift_key, flip_key = jax.random.split(key, 3)
        return AffineDraws(
            angles=turn * jax.random.uniform(angle_key, (), jnp.float32, -1.0, 1.0),
            shifts=max_shift * size * jax.random.uniform(shift_key, (2,), jnp.float32, -1.0, 1.0),
            flips=jax.random.bernoulli(flip_key),
        )

    return jax.vmap(draw)(keys)


def affine(images: jax.Array, draws: AffineDraws) -> jax.Array:
    r"""Mirrors, turns about the centre, then shifts every image.

    Output pixel :math:`p` shows the input at :math:`c + R(p - t - c)`, with the centre
    :math:`c = ((H-1)/2, (W-1)/2)`, the shift :math:`t` and the inverse rotation :math:`R`.
    Between pixels the value is bilinear; beyond the border it is that of the nearest border pixel.

    Args:
      images: ``(B, H, W, C)``, floating.
      draws: one motion per image.

    Returns:
      ``(B, H, W, C)``, same dtype.
    """
    height, width = images.shape[1:3]
    dtype = images.dtype if jnp.finfo(images.dtype).bits >= 32 else jnp.float32
    rows, columns = jnp.meshgrid(
        jnp.arange(height, dtype=dtype), jnp.arange(width, dtype=dtype), indexing="ij"
    )
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2

    def one(image: jax.Array, draw: AffineDraws) -> jax.Array:
        shift, angle = draw.shifts.astype(dtype), draw.angles.astype(dtype)
        down = rows - shift[0] - middle_row
        right = columns - shift[1] - middle_column
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        # Rows point downwards: this is the clockwise turn that undoes a counter-clockwise one.
        row = middle_row + cosine * down + sine * right
        column = middle_column - sine * down + cosine * right
        column = jnp.where(draw.flips, width - 1 - column, column)

        def sample(channel: jax.Array) -> jax.Array:
            return map_coordinates(channel, [row, column], order=1, mode="nearest")

        return jax.vmap(sample, in_axes=-1, out_axes=-1)(image.astype(dtype))

    return jax.vmap(one)(images, draws).astype(images.dtype)


def random_affine(
    images: jax.Array,
    keys: jax.Array,
    *,
    max_rotation: float = 10.0,
    max_shift: float = 0.2,
) -> jax.Array:
    """Random mirror image, rotation and translation of every image.

    Keskar et al., *On Large-Batch Training for Deep Learning* (2017), appendix E: horizontal
    flips, rotations up to 10 degrees and translations up to 0.2 of the image size. Not stated there
    and chosen here: uniform draws, bilinear interpolation, and border pixels repeated outwards.

    Args:
      images: ``(B, H, W, C)``, floating.
      keys: typed keys ``(B,)``, see :func:`sbt.data.augment.augment_keys`.
      max_rotation: degrees.
      max_shift: fraction of the image size.

    Returns:
      ``(B, H, W, C)``, same dtype.
    """
    draws = affine_draws(keys, *images.shape[1:3], max_rotation=max_rotation, max_shift=max_shift)
    return affine(images, draws)
