"""VGG-16 for 32x32 images."""

import flax.linen as nn
import jax

from sbt.models.classifier import Classifier, flatten, images, max_pool
from sbt.models.registry import MODELS

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Configuration D of Simonyan & Zisserman 2014: widths of the 3x3 convolutions between pools."""


@MODELS.register(
    "vgg16", source="Simonyan & Zisserman 2014, arXiv:1409.1556", about="VGG-16 for CIFAR"
)
class CifarVGG16(Classifier):
    """VGG-16 for 32x32 images: thirteen convolutions and a single dense layer.

    conv 3x3 SAME -> norm -> ReLU, max-pool 2x2 after each stack, dense from 512 features. He
    initialisation; no bias where a norm follows: 14,724,042 parameters with batch norm and 10
    classes (PyTorch ports that keep those redundant biases count 4,224 more).
    """

    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layers, x = self.layers(train), images(x)
        for stack in VGG16:
            for width in stack:
                x = nn.relu(layers.norm(layers.conv(x, width)))
            x = max_pool(x, (2, 2))
        return self.logits(layers, flatten(x))
