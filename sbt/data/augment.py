"""Pre-processing on the device: normalisation, random crop, flip, cutout. Pure functions of arrays.

Augmentation is keyed by (seed, epoch, example), never by the position of an example in a batch or
of a run among lanes: an example looks the same in an epoch whatever the batch size, the
micro-batch, the number of devices, or an interruption.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jax.typing import DTypeLike

from sbt.data.order import purpose_key

PAD = 4  # pixels on every side, as in the CIFAR recipe of He et al. (2015)


def normalize(
    images: jax.Array, mean: jax.Array, std: jax.Array, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """``(x - mean) / std``, computed in float32 or better and returned in ``dtype``.

    Args:
      images: ``(B, *features)``, any integer or floating dtype.
      mean: broadcastable against ``(*features)``, in units of the images.
      std: the same; strictly positive.
      dtype: dtype of the result.
    """
    wide = _at_least_float32(dtype)
    x = images.astype(wide) - jnp.asarray(mean, wide)
    return (x / jnp.asarray(std, wide)).astype(dtype)


def standardize_each(images: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Per-image standardisation: every image to mean 0 and standard deviation 1.

    The standard deviation is bounded below by ``1/sqrt(n)``, n the number of values of an image,
    so that a constant image becomes zero instead of NaN (the convention of TensorFlow's
    ``per_image_standardization``).

    Args:
      images: ``(B, *features)``, any dtype.
      dtype: dtype of the result; the computation is in float32 or better.
    """
    x = images.astype(_at_least_float32(dtype))
    axes = tuple(range(1, x.ndim))
    x = x - x.mean(axis=axes, keepdims=True)
    std = jnp.sqrt((x * x).mean(axis=axes, keepdims=True))
    return (x / jnp.maximum(std, math.prod(x.shape[1:]) ** -0.5)).astype(dtype)


def _at_least_float32(dtype: DTypeLike) -> DTypeLike:
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def augment_keys(key: jax.Array, epochs: jax.Array, indices: jax.Array) -> jax.Array:
    """One key per example: the purpose ``augment`` key folded with epoch, then example index.

    Args:
      key: typed *purpose* key, ``purpose_key(seed_key, "augment")``.
      epochs: int ``(B,)`` or scalar: the epoch each example is drawn in.
      indices: int ``(B,)``: index of each example in the training set.

    Returns:
      Typed keys, shape ``(B,)``.
    """
    epochs = jnp.broadcast_to(epochs, indices.shape)
    fold = jax.random.fold_in
    return jax.vmap(lambda e, i: fold(fold(key, e), i))(epochs, indices)


def crop_flip_draws(keys: jax.Array, pad: int = PAD) -> tuple[jax.Array, jax.Array]:
    """Random offsets and flips, one per key.

    Returns:
      Offsets int32 ``(B, 2)``: rows and columns of the crop's corner in the padded image, uniform
      on 0 .. 2·pad; flips bool ``(B,)``, true with probability 1/2.
    """

    def draw(key):
        # One block of random bits is cheaper than three draws. The modulus favours small offsets
        # by less than 2^-28.
        bits = jax.random.bits(key, (3,), jnp.uint32)
        offsets = (bits[:2] % jnp.uint32(2 * pad + 1)).astype(jnp.int32)
        return offsets, (bits[2] >> 31).astype(bool)

    return jax.vmap(draw)(keys)


def crop_flip(images: jax.Array, offsets: jax.Array, flips: jax.Array, pad: int = PAD) -> jax.Array:
    """Crops each zero-padded image at its offset and mirrors it left to right where asked.

    Args:
      images: ``(B, H, W, C)``.
      offsets: int ``(B, 2)`` in 0 .. 2·pad; ``(pad, pad)`` leaves the image where it is.
      flips: bool ``(B,)``.
      pad: zeros on every side, in pixels.

    Returns:
      ``(B, H, W, C)``: ``out[b, i, j] = padded[b, i + offsets[b, 0], j' + offsets[b, 1]]`` with
      ``j' = W-1-j`` where flipped, else ``j``.
    """

    height, width = images.shape[1:3]
    rows = jnp.arange(height, dtype=jnp.int32) + offsets[:, :1] - pad
    columns = jnp.arange(width, dtype=jnp.int32)
    columns = jnp.where(flips[:, None], columns[::-1], columns) + offsets[:, 1:] - pad

    # One gather that fuses with the normalisation before it: neither the padded image nor the
    # mirror image is ever stored.
    def one(image, row, column):
        row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
        return image.at[row[:, None], column].get(mode="promise_in_bounds")

    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    return jnp.where(inside[..., None], jax.vmap(one)(images, rows, columns), 0)


def pad_crop_flip(images: jax.Array, keys: jax.Array, pad: int = PAD) -> jax.Array:
    """Random crop of the padded image and random mirror image: the standard CIFAR augmentation.

    He et al., *Deep Residual Learning for Image Recognition* (2015), section 4.2: pad 4 pixels on
    each side, take a random crop of the original size from the padded image or its mirror image.
    The paper does not say what the padding holds nor whether it is added before or after the
    per-pixel mean is subtracted. Here it is zero *after* normalisation, which is the mean colour
    (what the public ResNet implementations do), so call this on normalised images.

    Args:
      images: normalised images ``(B, H, W, C)``.
      keys: typed keys ``(B,)``, see `augment_keys`.
      pad: pixels on every side.

    Returns:
      ``(B, H, W, C)``, same dtype.
    """
    return crop_flip(images, *crop_flip_draws(keys, pad), pad)


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
      keys: typed keys ``(B,)``, see `augment_keys`.
      max_rotation: degrees.
      max_shift: fraction of the image size.

    Returns:
      ``(B, H, W, C)``, same dtype.
    """
    draws = affine_draws(keys, *images.shape[1:3], max_rotation=max_rotation, max_shift=max_shift)
    return affine(images, draws)


def cutout_draws(keys: jax.Array, height: int, width: int) -> jax.Array:
    """Centres of squares, one per key: int32 ``(B, 2)``, row and column uniform over the image."""
    size = jnp.asarray([height, width], jnp.int32)
    return jax.vmap(lambda key: jax.random.randint(key, (2,), 0, size, jnp.int32))(keys)


def cutout(images: jax.Array, centres: jax.Array, side: int) -> jax.Array:
    """Blanks a square of every image; what of it lies beyond the border is lost.

    Args:
      images: ``(B, H, W, C)``.
      centres: int ``(B, 2)``: row and column; of an even side the upper left of the middle four
        pixels is at ``centre - 1``.
      side: of the square, in pixels.

    Returns:
      ``(B, H, W, C)``: zero in rows ``r - side // 2`` to ``r - side // 2 + side - 1`` and the
      columns likewise, unchanged elsewhere.

    >>> print(cutout(jnp.ones((1, 3, 4, 1), jnp.int32), jnp.asarray([[0, 2]]), 2)[0, :, :, 0])
    [[1 0 0 1]
     [1 1 1 1]
     [1 1 1 1]]
    """

    def covered(length: int, centre: jax.Array) -> jax.Array:
        place = jnp.arange(length, dtype=jnp.int32) - (centre[:, None] - side // 2)
        return (place >= 0) & (place < side)

    rows, columns = (covered(images.shape[1 + axis], centres[:, axis]) for axis in (0, 1))
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], 0, images)


def random_cutout(images: jax.Array, keys: jax.Array, side: int) -> jax.Array:
    """Cutout: a square at a random place of every image is blanked.

    DeVries and Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout*
    (arXiv 1708.04552, 2017), section 3: the centre is uniform over the image, so that part of the
    square may lie outside, which they found to matter; zero on normalised images, which is their
    mean colour. They blank after crop and flip; sides 16 for CIFAR-10, 8 for CIFAR-100.

    Args:
      images: normalised images ``(B, H, W, C)``.
      keys: typed keys ``(B,)``, see `augment_keys`; other draws from the same keys are independent.
      side: of the square, in pixels.

    Returns:
      ``(B, H, W, C)``, same dtype.
    """
    own = jax.vmap(lambda key: purpose_key(key, "cutout"))(keys)
    return cutout(images, cutout_draws(own, *images.shape[1:3]), side)
