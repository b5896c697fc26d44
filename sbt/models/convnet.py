"""Small networks: a convolutional net for 8x8 digits, and a multi-layer perceptron."""

import flax.linen as nn
import jax

from sbt.models.classifier import Classifier, Sizes, flatten, images, max_pool
from sbt.models.registry import MODELS


@MODELS.register(
    "convnet", source="sbt", about="two convolutions, for 8x8 digits", input_shape=(8, 8, 1)
)
class ConvNet(Classifier):
    """conv 3x3 -> norm -> ReLU -> max-pool 2x2, for each width in ``channels``; dense to logits.

    On 8x8x1 digits: 23,680 multiply-adds per example and 1,898 parameters, small enough for a
    whole grid in a minute. He initialisation; no bias where a norm follows.

    Attributes:
      channels: widths of the convolutions; each halves height and width.
    """

    channels: Sizes = (8, 16)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers, x = self.layers(train), images(x)
        for width in self.channels:
            x = nn.relu(layers.norm(layers.conv(x, width)))
            x = max_pool(x, (2, 2))
        return self.logits(layers, flatten(x))


@MODELS.register(
    "mlp", source="sbt", about="multi-layer perceptron, for 8x8 digits", input_shape=(8, 8, 1)
)
class MLP(Classifier):
    """Flattened input, ``hidden`` dense layers with norm and ReLU, dense to logits.

    He initialisation; no bias where a norm follows.

    Attributes:
      hidden: widths of the hidden layers.
    """

    hidden: Sizes = (64, 64)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers = self.layers(train)
        x = flatten(x)
        for width in self.hidden:
            x = nn.relu(layers.norm(layers.dense(x, width)))
        return self.logits(layers, x)
