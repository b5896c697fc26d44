"""Residual networks: the CIFAR family of He et al. 2015a, ResNet-18 for CIFAR, ResNet-50."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sbt.errors import UserError
from sbt.models.classifier import PAD_1, Classifier, Layers, Size, Sizes, images
from sbt.models.registry import MODELS
from sbt.nn.pool import global_mean, max_pool
from sbt.nn.relu import relu


class _Block(nn.Module):
    """One residual block: ReLU(shortcut(x) + branch(x)), a norm after every convolution.

    Attributes:
      layers: the model's layers.
      width: channels of the 3x3 convolutions.
      strides: step of the block; 2 halves height and width.
      shortcut: ``"A"`` or ``"B"``, used where the shape changes.
      zero_last_scale: start the norm at the end of the branch with scale 0.
    """

    layers: Layers
    width: int
    strides: int
    shortcut: str
    zero_last_scale: bool

    def norm_last(self, y: jax.Array) -> jax.Array:
        init: Any = nn.initializers.zeros if self.zero_last_scale else nn.initializers.ones
        return self.layers.norm(y, scale_init=init)

    def add(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """ReLU(shortcut(x) + y)."""
        width = y.shape[-1]
        if self.strides > 1 or x.shape[-1] != width:
            if self.shortcut == "A":
                x = x[:, :: self.strides, :: self.strides, :]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))
            else:
                x = self.layers.norm(self.layers.conv(x, width, 1, self.strides, padding="VALID"))
        return relu(x + y)


class BasicBlock(_Block):
    """conv 3x3 -> norm -> ReLU -> conv 3x3 -> norm; the first convolution takes the stride."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, norm = self.layers.conv, self.layers.norm
        y = relu(norm(conv(x, self.width, 3, self.strides, padding=PAD_1)))
        y = self.norm_last(conv(y, self.width, 3, padding=PAD_1))
        return self.add(x, y)


class Bottleneck(_Block):
    """conv 1x1 -> conv 3x3 -> conv 1x1 to 4 ``width`` channels, norm after each, ReLU between.

    Attributes:
      strided: which convolution takes the stride, the first (``"1x1"``) or the second (``"3x3"``).
    """

    strided: str = "1x1"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, norm = self.layers.conv, self.layers.norm
        first, second = (self.strides, 1) if self.strided == "1x1" else (1, self.strides)
        y = relu(norm(conv(x, self.width, 1, first, padding="VALID")))
        y = relu(norm(conv(y, self.width, 3, second, padding=PAD_1)))
        y = self.norm_last(conv(y, 4 * self.width, 1, padding="VALID"))
        return self.add(x, y)


class ResNet(Classifier):
    """Base of the residual networks below; all of them He-initialised, convolution -> norm -> ReLU.

    Strided convolutions and pools are padded alike on both sides, as in the original networks, so
    that an output pixel lies over the pixel its shortcut picks; XLA's SAME would be off by one.
    Without a norm, the convolutions get a bias in its place, zero at first: papers that drop batch
    norm (Masters & Luschi, Figs 2 and 3) do not say whether they did.

    Attributes:
      zero_last_scale: start the last norm scale of each residual branch at 0, so that every block
        starts as its shortcut (Goyal et al. 2017).
    """

    norm: str = "batch"
    zero_last_scale: bool = False


@MODELS.register(
    "resnet56",
    source="He et al. 2015, arXiv:1512.03385",
    about="CIFAR ResNet, n = 9",
    fixed={"depth": 56},
)
@MODELS.register(
    "resnet44",
    source="He et al. 2015, arXiv:1512.03385",
    about="CIFAR ResNet, n = 7",
    fixed={"depth": 44},
)
@MODELS.register(
    "resnet32",
    source="Masters & Luschi 2018, arXiv:1804.07612, Figs 4, 7-11, 13, 17, 18; "
    "He et al. 2015, arXiv:1512.03385",
    about="CIFAR ResNet, n = 5",
    fixed={"depth": 32},
)
@MODELS.register(
    "resnet20",
    source="Masters & Luschi 2018, arXiv:1804.07612, Fig. 3; He et al. 2015, arXiv:1512.03385",
    about="CIFAR ResNet, n = 3",
    fixed={"depth": 20},
)
@MODELS.register(
    "resnet8",
    source="Masters & Luschi 2018, arXiv:1804.07612, Fig. 2; He et al. 2015, arXiv:1512.03385",
    about="CIFAR ResNet, n = 1",
    fixed={"depth": 8},
)
class CifarResNet(ResNet):
    """The 6n+2-layer family of He et al. 2015a for 32x32 images.

    conv 3x3 of 16 channels; three stages of n = (depth - 2) / 6 basic blocks with 16, 32 and 64
    channels, stride 2 at the start of the second and third; global mean; dense. Parameters with
    batch norm and 10 classes: 75,290 (depth 8), 269,722 (20), 464,154 (32); 470,004 for depth 32
    and 100 classes.

    Attributes:
      depth: 6n + 2: the convolutions of the main path and the dense layer.
      width: channels of the first stage; the others have twice and four times as many.
      shortcut: where the shape changes: ``"A"`` picks every second pixel and appends zero channels
        (no parameters; the paper's choice for CIFAR), ``"B"`` is a 1x1 convolution and norm.
    """

    depth: Size = 20
    width: Size = 16
    shortcut: str = "A"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        blocks, rest = divmod(self.depth - 2, 6)
        if rest or blocks < 1:
            raise UserError(
                "config.model.depth",
                f"{self.depth} is not 6n + 2 with n >= 1",
                "Use 8, 14, 20, 26, 32, ...",
            )
        layers = self.layers(train)
        x = relu(layers.norm(layers.conv(images(x), self.width, 3, padding=PAD_1)))
        for stage in range(3):
            for block in range(blocks):
                x = BasicBlock(
                    layers,
                    self.width << stage,
                    strides=2 if stage > 0 and block == 0 else 1,
                    shortcut=_checked("shortcut", self.shortcut, ("A", "B")),
                    zero_last_scale=self.zero_last_scale,
                )(x)
        return self.logits(layers, global_mean(x))


@MODELS.register(
    "resnet18",
    source="Gao & Zhong 2020, arXiv:2012.08795, Fig. 16",
    about="ResNet-18 with a CIFAR stem",
)
class CifarResNet18(ResNet):
    """ResNet-18 as commonly trained on 32x32 images: a 3x3 stride-1 stem and no first pool.

    Four stages of two basic blocks with 64, 128, 256, 512 channels; 1x1-convolution shortcuts where
    the shape changes; global mean; dense. 11,173,962 parameters with 10 classes.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers = self.layers(train)
        x = relu(layers.norm(layers.conv(images(x), 64, 3, padding=PAD_1)))
        for stage in range(4):
            for block in range(2):
                strides = 2 if stage > 0 and block == 0 else 1
                x = BasicBlock(layers, 64 << stage, strides, "B", self.zero_last_scale)(x)
        return self.logits(layers, global_mean(x))


@MODELS.register(
    "resnet50",
    source="Masters & Luschi 2018, arXiv:1804.07612, Figs 12, 14; He et al. 2015, arXiv:1512.03385",
    about="ImageNet ResNet-50",
    input_shape=(224, 224, 3),
    num_classes=1000,
)
class ResNet50(ResNet):
    """ResNet-50 for 224x224 images (He et al. 2015a).

    conv 7x7 of 64 channels, stride 2; max-pool 3x3, stride 2; stages of 3, 4, 6, 3 bottleneck
    blocks with inner widths 64, 128, 256, 512; 1x1-convolution shortcuts where the shape changes;
    global mean; dense. 25,557,032 parameters with 1000 classes.

    Attributes:
      stages: number of blocks per stage; (3, 4, 23, 3) makes a ResNet-101.
      strided: convolution of a bottleneck that takes the stride: ``"1x1"`` (He et al. 2015a) or
        ``"3x3"`` (later practice, Goyal et al. 2017).
    """

    num_classes: int = 1000
    stages: Sizes = (3, 4, 6, 3)
    strided: str = "1x1"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers = self.layers(train)
        x = relu(layers.norm(layers.conv(images(x), 64, 7, 2, padding=((3, 3), (3, 3)))))
        x = max_pool(x, (3, 3), (2, 2), PAD_1)
        strided = _checked("strided", self.strided, ("1x1", "3x3"))
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                strides = 2 if stage > 0 and block == 0 else 1
                x = Bottleneck(
                    layers, 64 << stage, strides, "B", self.zero_last_scale, strided=strided
                )(x)
        return self.logits(layers, global_mean(x))


def _checked(field: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError(
            f"config.model.{field}", f"unknown value {value!r}", f"Use {' or '.join(known)}."
        )
    return value
