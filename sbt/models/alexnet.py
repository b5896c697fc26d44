"""AlexNets for 32x32 images: Masters & Luschi's reduced one, and one with dropout."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sbt.models.classifier import PAD_1, Classifier, Rate, flatten, images, max_pool
from sbt.models.registry import MODELS


@MODELS.register(
    "alexnet",
    source="Masters & Luschi 2018, arXiv:1804.07612, Figs 1, 5, 6",
    about="reduced AlexNet",
)
class ReducedAlexNet(Classifier):
    """The reduced AlexNet of Masters & Luschi 2018, section 3.1.

    Five stride-1 convolutions, kernels 5, 3, 3, 3, 3 and widths 16, 48, 96, 64, 64; max-pooling 3x3
    with stride 2; hidden fully connected layers of 256 units; He initialisation throughout.
    Parameters on 32x32x3 without norm: 472,794 for 10 classes, 495,924 for 100.

    Left open by the paper, and chosen here: pools after convolutions 1, 2 and 5, and two hidden
    layers, as in AlexNet; SAME padding of convolutions and pools (32-16-8-4); conv or dense ->
    norm -> ReLU; no bias where a norm follows; no dropout, no local response normalisation.

    Attributes:
      norm: ``"none"`` (Fig. 1), ``"batch"`` on convolutions and hidden dense layers (Fig. 5),
        ``"batch_conv"`` on convolutions only (Fig. 6); also ``"group"`` and ``"layer"``, on both.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = images(x)
        conv_only = self.norm == "batch_conv"
        layers = self.layers(train, norm="batch" if conv_only else None)
        widths, kernels, pooled = (16, 48, 96, 64, 64), (5, 3, 3, 3, 3), (0, 1, 4)
        for i, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
            x = nn.relu(layers.norm(layers.conv(x, width, kernel)))
            if i in pooled:
                x = max_pool(x, (3, 3), (2, 2), "SAME")
        x = flatten(x)
        layers = self.layers(train, norm="none" if conv_only else None)
        for _ in range(2):
            x = nn.relu(layers.norm(layers.dense(x, 256)))
        return self.logits(layers, x)


@MODELS.register(
    "alexnet_dropout",
    source="Gao & Zhong 2020, arXiv:2012.08795",
    about="AlexNet for 32x32 images, with dropout",
)
class AlexNet(Classifier):
    """AlexNet with dropout for 32x32 images, a stand-in for the one of Gao & Zhong 2020.

    Convolutions 3x3 of widths 64 (stride 2), 192, 384, 256, 256, ReLU after each, max-pool 2x2
    after the first, second and fifth; dropout, dense 4096, ReLU, dropout, dense 4096, ReLU, dense.
    23,272,266 parameters on 32x32x3 with 10 classes.

    The paper (arXiv:2012.08795) names only "AlexNet", dropout, and a first and second fully
    connected layer; this is the CIFAR variant in common use that has them. As there (PyTorch), each
    convolution is padded by one pixel on both sides, which differs from SAME at stride 2, and
    weights and biases start as U(+-1/sqrt(fan_in)).

    Attributes:
      dropout: rate before each of the two hidden dense layers.
    """

    dropout: Rate = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers, x = self.layers(train, kernel_init=_uniform_weights), images(x)
        for i, width in enumerate((64, 192, 384, 256, 256)):
            bias_init = _uniform_bias(9 * x.shape[-1])
            strides = 2 if i == 0 else 1
            x = layers.conv(x, width, 3, strides, padding=PAD_1, bias_init=bias_init)
            x = nn.relu(layers.norm(x))
            if i in (0, 1, 4):
                x = max_pool(x, (2, 2))
        x = flatten(x)
        for _ in range(2):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = layers.dense(x, 4096, bias_init=_uniform_bias(x.shape[-1]))
            x = nn.relu(layers.norm(x))
        return self.logits(layers, x, bias_init=_uniform_bias(x.shape[-1]))


# PyTorch's defaults. A variance of 1 / (3 fan_in) is that of U(+-1/sqrt(fan_in)).
_uniform_weights = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _uniform_bias(fan_in: int) -> Callable[..., jax.Array]:
    """U(+-1/sqrt(fan_in)) with the fan-in of the weights, which a bias's shape does not tell."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        limit = fan_in**-0.5
        return jax.random.uniform(key, tuple(shape), dtype, -limit, limit)

    return init
