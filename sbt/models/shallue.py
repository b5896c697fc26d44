"""The convolutional networks of Shallue et al. 2019, as far as they are known.

Their paper's text was not at hand. What is said here comes from its code, from a network of the
same names in the code of Lee et al. 2021 that follows its protocol, and from what is usual; each
model says what was chosen.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sbt.models.classifier import Classifier, Rate, Size, Sizes, flatten, images, max_pool
from sbt.models.registry import MODELS
from sbt.nn.pool import global_mean
from sbt.nn.relu import relu

SOURCE = "Shallue et al. 2019, JMLR 20:112, arXiv:1811.03600"


@MODELS.register(
    "simple_cnn", source=SOURCE, about="Simple CNN, for MNIST", input_shape=(28, 28, 1)
)
class SimpleCNN(Classifier):
    """conv 5x5 -> ReLU -> max-pool 2x2, twice; dense 1024 -> ReLU -> dropout; dense to logits.

    3,274,634 parameters on 28x28x1 with 10 classes. Chosen here: SAME padding, He initialisation,
    the order of ReLU and dropout, and its rate.

    Attributes:
      channels: widths of the convolutions; their narrow and wide networks scale these.
      hidden: width of the dense layer.
      dropout: rate behind it.
    """

    channels: Sizes = (32, 64)
    hidden: Size = 1024
    dropout: Rate = 0.4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers, x = self.layers(train), images(x)
        for width in self.channels:
            x = nn.relu(layers.norm(layers.conv(x, width, 5)))
            x = max_pool(x, (2, 2))
        x = nn.relu(layers.norm(layers.dense(flatten(x), self.hidden)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self.logits(layers, x)


@MODELS.register("resnet8_preact", source=SOURCE, about="ResNet-8 without batch norm")
class PreactResNet8(Classifier):
    """The CIFAR ResNet of n = 1 with activations before convolutions, and no batch norm.

    conv 3x3 of 16 channels; three blocks x + conv(ReLU(conv(ReLU(x)))) with 16, 32 and 64 channels,
    stride 2 at the start of the second and third; ReLU, global mean, dense. 75,050 parameters on
    32x32x3 with 10 classes. After Lee et al.: biases, and where the shape changes a shortcut of
    2x2 means and zero channels.

    Attributes:
      width: channels of the first block; the others have twice and four times as many.
    """

    width: Size = 16

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers = self.layers(train)
        x = layers.conv(images(x), self.width, 3)
        for stage in range(3):
            width, strides = self.width << stage, 2 if stage else 1
            y = layers.conv(relu(layers.norm(x)), width, 3, strides)
            y = layers.conv(relu(layers.norm(y)), width, 3)
            if stage:
                x = nn.pooling.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "SAME") / 4.0
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))
            x = x + y
        return self.logits(layers, global_mean(relu(layers.norm(x))))
