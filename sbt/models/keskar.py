"""The networks of Keskar et al. 2017, arXiv:1609.04836, appendix B.

All are Glorot-uniform initialised, with a norm between every hidden layer and its ReLU. As in the
authors' released Keras code, layers keep their bias in front of the norm, and batch norm uses the
statistics of the batch at evaluation too (there 5000 examples); epsilon is 1e-6, the default of the
Keras version of the time (the paper gives none).
"""

from typing import Annotated

import flax.linen as nn
import jax

from sbt.models.classifier import Classifier, Layers, Rate, Size, flatten, images, max_pool
from sbt.models.registry import MODELS
from sbt.models.vgg import VGG16
from sbt.ranges import BELOW_ONE

glorot_uniform = nn.initializers.glorot_uniform()


class _Keskar(Classifier):
    norm: str = "batch"
    bn_epsilon: Rate = 1e-6
    bn_eval: str = "batch"

    def keras_layers(self, train: bool) -> Layers:
        return self.layers(train, bias=True, kernel_init=glorot_uniform)


@MODELS.register(
    "f2",
    source="Keskar et al. 2017, arXiv:1609.04836",
    about="seven dense layers, TIMIT",
    fixed={"depth": 7},
    input_shape=(1, 1, 360),
    num_classes=1973,
)
@MODELS.register(
    "f1",
    source="Keskar et al. 2017, arXiv:1609.04836",
    about="five dense layers, MNIST",
    fixed={"depth": 5},
    input_shape=(28, 28, 1),
)
class FullyConnected(_Keskar):
    """F1 and F2: flattened input, hidden layers of 512 (dense -> norm -> ReLU), dense to logits.

    F1 has five on 28x28x1, 1,462,794 parameters with 10 classes; F2 seven on 360 features,
    2,780,085 with 1973 classes.

    Attributes:
      depth: number of hidden layers.
      width: of each; the paper's 512, or less where time is short.
    """

    depth: Size = 5
    width: Size = 512

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers = self.keras_layers(train)
        x = flatten(x)
        for _ in range(self.depth):
            x = nn.relu(layers.norm(layers.dense(x, self.width)))
        return self.logits(layers, x)


@MODELS.register(
    "c3",
    source="Keskar et al. 2017, arXiv:1609.04836",
    about="AlexNet-like, CIFAR-100",
    num_classes=100,
)
@MODELS.register(
    "c1", source="Keskar et al. 2017, arXiv:1609.04836", about="AlexNet-like, CIFAR-10"
)
class ShallowConv(_Keskar):
    """C1 (10 classes) and C3 (100 classes), the AlexNet-like network.

    Twice conv 5x5 of 64 channels -> norm -> ReLU -> max-pool 3x3, stride 2, SAME; then dense 384
    and 192, each -> norm -> ReLU -> dropout; dense to logits. 1,757,834 parameters with 10 classes,
    1,775,204 with 100. The paper's text says stride 2 for the convolutions; the released code,
    followed here, has stride 1 and the 2 in the pool.

    Attributes:
      dropout: rate after each hidden dense layer.
    """

    dropout: Rate = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers, x = self.keras_layers(train), images(x)
        for _ in range(2):
            x = nn.relu(layers.norm(layers.conv(x, 64, 5)))
            x = max_pool(x, (3, 3), (2, 2), "SAME")
        x = flatten(x)
        for width in (384, 192):
            x = nn.relu(layers.norm(layers.dense(x, width)))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self.logits(layers, x)


@MODELS.register(
    "c4",
    source="Keskar et al. 2017, arXiv:1609.04836",
    about="VGG-like, CIFAR-100",
    num_classes=100,
)
@MODELS.register("c2", source="Keskar et al. 2017, arXiv:1609.04836", about="VGG-like, CIFAR-10")
class DeepConv(_Keskar):
    """C2 (10 classes) and C4 (100 classes), the VGG-like network.

    The thirteen convolutions of VGG-16, each conv 3x3 SAME -> norm -> ReLU, max-pool 2x2 after each
    stack; dropout, dense 512 -> norm -> ReLU, dropout, dense to logits. 14,991,946 parameters with
    10 classes, 15,038,116 with 100. The paper says only "dropout as in C1"; the rates between
    convolutions are those of the released code.

    Attributes:
      conv_dropout: rates after the very first convolution, and after every other one that is not
        the last of its stack.
      dropout: rate in front of and after the hidden dense layer.
    """

    conv_dropout: Annotated[tuple[float, float], BELOW_ONE] = (0.3, 0.4)
    dropout: Rate = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers, x = self.keras_layers(train), images(x)
        for i, stack in enumerate(VGG16):
            for j, width in enumerate(stack):
                x = nn.relu(layers.norm(layers.conv(x, width)))
                if j < len(stack) - 1:
                    rate = self.conv_dropout[0 if i == j == 0 else 1]
                    x = nn.Dropout(rate, deterministic=not train)(x)
            x = max_pool(x, (2, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(flatten(x))
        x = nn.relu(layers.norm(layers.dense(x, 512)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self.logits(layers, x)
