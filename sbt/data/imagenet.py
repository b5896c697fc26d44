"""ImageNet-style views: from an encoded image of any size to the square of pixels a network sees.

Everything here runs on the host, in worker processes, and ends as uint8; normalisation stays on the
device. A view is a *region* of the source image that is resized to the square in one go. What is
random about it is a pure function of (seed, epoch, example), like all augmentation in sbt.
"""

import io
import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

AUGMENTATIONS = ("resized_crop", "scale_jitter")
SIZE = 224  # pixels
# In units of the square's side, as the usual numbers for a square of 224 pixels are.
RESIZE = 256 / 224
JITTER = (256 / 224, 480 / 224)

ATTEMPTS = 10
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)


class View(NamedTuple):
    """What becomes of an image.

    Attributes:
      size: side of the square that the network sees, in pixels.
      resize: length that the shorter side is resized to before the central square is cut out, in
        pixels; at least ``size``.
      channels: 3 (colour) or 1 (grey).
      augment: how *training* images are cut out: ``resized_crop``, ``scale_jitter``, or ``none``
        for the central square.
    """

    size: int = SIZE
    resize: int = 256
    channels: int = 3
    augment: str = "none"


class Region(NamedTuple):
    """A rectangle of the source image, in its pixels (fractions of them too)."""

    left: float
    top: float
    right: float
    bottom: float
    mirrored: bool = False


Uniforms = Callable[[], float]


def uniforms(seed: int, epoch: int, example: int) -> Uniforms:
    """Random numbers of one example in one epoch: a function that returns the next, in [0, 1).

    They come from NumPy's PCG-64 seeded with the CRC-32 of ``augment``, seed, epoch and example.
    Raw words, because NumPy promises those never to change and its distributions not.
    """
    bits = np.random.PCG64([zlib.crc32(b"augment"), seed, epoch, example])
    return lambda: (int(bits.random_raw()) >> 11) * 2.0**-53


def central(width: int, height: int, view: View) -> Region:
    """The evaluation view: shorter side to ``view.resize``, then the central square.

    Equal to resizing the whole image and cropping it, without computing what the crop discards.
    """
    return _square_of_resized(width, height, view.resize, view.size, lambda free: free // 2)


def resized_crop(width: int, height: int, draw: Uniforms) -> Region:
    """A random part of the image, to be stretched to the square; mirrored half of the time.

    Szegedy et al., *Going Deeper with Convolutions* (2015), section 6: the part's area is uniform
    between 8 % and 100 % of the image's, its aspect ratio random in [3/4, 4/3]. Not said there and
    chosen here, as is usual: log-uniform aspect ratios, ten attempts at a part that fits, then the
    largest central one of an allowed aspect ratio.
    """
    for _ in range(ATTEMPTS):
        area = width * height * _between(AREA, draw())
        aspect = math.exp(_between((math.log(ASPECT[0]), math.log(ASPECT[1])), draw()))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw() * (width - w + 1)), int(draw() * (height - h + 1))
            return Region(left, top, left + w, top + h, draw() < 0.5)
    w = min(width, max(1, round(height * ASPECT[1])))
    h = min(height, max(1, round(width / ASPECT[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return Region(left, top, left + w, top + h, draw() < 0.5)


def scale_jitter(width: int, height: int, size: int, draw: Uniforms) -> Region:
    """The image at a random scale and a random square of it; mirrored half of the time.

    Simonyan & Zisserman, *Very Deep Convolutional Networks* (2014), section 3.1.1, and He et al.
    (2015): the shorter side is resized to a length uniform in 256 ... 480 for squares of 224; here
    in proportion for other sizes.
    """
    least, most = (round(size * scale) for scale in JITTER)
    shorter = least + int(draw() * (most - least + 1))
    region = _square_of_resized(width, height, shorter, size, lambda free: int(draw() * (free + 1)))
    return region._replace(mirrored=draw() < 0.5)


def _between(bounds: tuple[float, float], fraction: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * fraction


def _square_of_resized(
    width: int, height: int, shorter: int, size: int, place: Callable[[int], int]
) -> Region:
    """A square of the resized image, in pixels of the original.

    Args:
      width: of the original.
      height: of the original.
      shorter: length of the shorter side after resizing; at least ``size``.
      size: side of the square, in pixels of the resized image.
      place: ``free -> 0 .. free``, which of the possible offsets is taken; left, then top.
    """
    scale = shorter / min(width, height)
    wide, high = round(width * scale), round(height * scale)
    left, top = place(wide - size), place(high - size)
    x, y = width / wide, height / high
    return Region(left * x, top * y, (left + size) * x, (top + size) * y)


def render(image: Image.Image, region: Region, view: View) -> np.ndarray:
    """The region at the view's size, bilinear (with antialiasing where it shrinks).

    Returns:
      uint8 ``(size, size, channels)``.
    """
    left, top, right, bottom, mirrored = region
    box = (left, top, min(right, image.width), min(bottom, image.height))
    square = (view.size, view.size)
    pixels = np.asarray(image.resize(square, Image.Resampling.BILINEAR, box=box))
    pixels = pixels.reshape(*square, view.channels)
    return pixels[:, ::-1] if mirrored else pixels


def decode(encoded: bytes, channels: int) -> Image.Image:
    """A JPEG or PNG (palettes and CMYK included) as an RGB or grey image.

    Raises:
      ValueError: bytes that are no image, or a file that is cut short.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.convert("RGB" if channels == 3 else "L")
    except OSError as error:
        raise ValueError(f"not an image that can be decoded: {error}") from error


def evaluation_view(encoded: bytes, view: View) -> np.ndarray:
    """Pixels of the central square, uint8 ``(size, size, channels)``."""
    image = decode(encoded, view.channels)
    return render(image, central(image.width, image.height, view), view)


def training_view(encoded: bytes, view: View, draw: Uniforms) -> np.ndarray:
    """Pixels of the square that ``view.augment`` cuts out, uint8 ``(size, size, channels)``."""
    image = decode(encoded, view.channels)
    if view.augment == "resized_crop":
        region = resized_crop(image.width, image.height, draw)
    elif view.augment == "scale_jitter":
        region = scale_jitter(image.width, image.height, view.size, draw)
    else:
        region = central(image.width, image.height, view)
    return render(image, region, view)
