"""Wide residual networks for 32x32 images."""

import flax.linen as nn
import jax

from sbt.errors import UserError
from sbt.models.classifier import PAD_1, Classifier, Layers, Rate, Size, images
from sbt.models.registry import MODELS
from sbt.nn.pool import global_mean


class PreActivationBlock(nn.Module):
    """norm -> ReLU -> conv 3x3 -> norm -> ReLU -> dropout -> conv 3x3, plus the shortcut.

    The shortcut is the identity, or, where the shape changes, a 1x1 convolution of the normalised
    and rectified input.

    Attributes:
      layers: the model's layers.
      width: channels.
      strides: step of the first convolution and the shortcut.
      dropout: rate between the convolutions.
      train: whether dropout is on.
    """

    layers: Layers
    width: int
    strides: int
    dropout: float
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, norm = self.layers.conv, self.layers.norm
        y = nn.relu(norm(x))
        if self.strides > 1 or x.shape[-1] != self.width:
            x = conv(y, self.width, 1, self.strides, padding="VALID")
        y = nn.relu(norm(conv(y, self.width, 3, self.strides, padding=PAD_1)))
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        return x + conv(y, self.width, 3, padding=PAD_1)


@MODELS.register(
    "wrn28_10",
    source="Zagoruyko & Komodakis 2016, arXiv:1605.07146",
    about="wide ResNet",
    fixed={"depth": 28, "widen": 10},
)
@MODELS.register(
    "wrn16_4",
    source="Zagoruyko & Komodakis 2016, arXiv:1605.07146",
    about="wide ResNet",
    fixed={"depth": 16, "widen": 4},
)
class WideResNet(Classifier):
    """WRN-depth-widen of Zagoruyko & Komodakis 2016, arXiv:1605.07146.

    conv 3x3 of 16 channels; three stages of n = (depth - 4) / 6 pre-activation blocks with 16, 32
    and 64 times ``widen`` channels, stride 2 at the start of the second and third; norm, ReLU,
    global mean, dense. He initialisation. WRN-16-4 has 2,748,890 parameters with 10 classes.

    Convolutions have no bias, a norm being in front of the next; with ``norm="none"`` they do.

    Attributes:
      depth: 6n + 4.
      widen: k, the widening factor.
      dropout: rate between the convolutions of a block.
    """

    norm: str = "batch"
    depth: Size = 16
    widen: Size = 4
    dropout: Rate = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            problem = f"{self.depth} is not 6n + 4 with n >= 1"
            raise UserError("config.model.depth", problem, "Use 10, 16, 22, 28, 34, 40, ...")
        layers = self.layers(train)
        x = layers.conv(images(x), 16, 3, padding=PAD_1)
        for stage in range(3):
            for block in range(blocks):
                strides = 2 if stage > 0 and block == 0 else 1
                width = (16 << stage) * self.widen
                x = PreActivationBlock(layers, width, strides, self.dropout, train)(x)
        return self.logits(layers, global_mean(nn.relu(layers.norm(x))))
