"""The benchmarked networks as a Flax user writes them, with Flax's own layers.

The parameter trees are those of :mod:`sbt.models`; nothing of sbt speeds these networks up.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Plain(nn.Module):
    """What the networks share: ``norm`` puts a batch norm after every hidden layer."""

    classes: int = 10
    norm: bool = False
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    def conv(self, x: jax.Array, width: int, kernel: int = 3, stride: int = 1) -> jax.Array:
        pad = ((kernel // 2, kernel // 2),) * 2
        return nn.Conv(
            width, (kernel, kernel), (stride, stride), pad, use_bias=not self.norm,
            kernel_init=HE_NORMAL, dtype=self.dtype,
        )(x)  # fmt: skip

    def dense(self, x: jax.Array, width: int, bias: bool = True) -> jax.Array:
        return nn.Dense(width, use_bias=bias, kernel_init=HE_NORMAL, dtype=self.dtype)(x)

    def bn(self, x: jax.Array, train: bool) -> jax.Array:
        if not self.norm:
            return x
        return nn.BatchNorm(
            use_running_average=not train, momentum=0.97, epsilon=self.epsilon, dtype=self.dtype
        )(x)


class ConvNet(Plain):
    """The model ``convnet``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for width in (8, 16):
            x = nn.relu(self.bn(self.conv(x, width), train))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return self.dense(x.reshape(len(x), -1), self.classes)


class AlexNet(Plain):
    """The reduced AlexNet."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, (width, kernel) in enumerate(zip((16, 48, 96, 64, 64), (5, 3, 3, 3, 3))):
            x = nn.relu(self.bn(self.conv(x, width, kernel), train))
            if i in (0, 1, 4):
                x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(self.bn(self.dense(x, 256, bias=not self.norm), train))
        return self.dense(x, self.classes)


class BasicBlock(Plain):
    """Two 3x3 convolutions and an option-A shortcut."""

    width: int = 16
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nn.relu(self.bn(self.conv(x, self.width, 3, self.stride), train))
        y = self.bn(self.conv(y, self.width), train)
        if self.stride > 1:
            more = self.width - x.shape[-1]
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0),) * 3 + ((0, more),))
        return nn.relu(x + y)


class CifarResNet(Plain):
    """The 6n+2-layer family."""

    depth: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(self.bn(self.conv(x, 16), train))
        common = {"norm": self.norm, "epsilon": self.epsilon, "dtype": self.dtype}
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                x = BasicBlock(**common, width=16 << stage, stride=stride)(x, train)
        return self.dense(x.mean((1, 2)), self.classes)


class FullyConnected(Plain):
    """F1: five dense layers of 512 with bias, norm and ReLU."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.reshape(len(x), -1)
        for _ in range(5):
            x = nn.relu(self.bn(self.dense(x, 512), train))
        return self.dense(x, self.classes)


def build(model: Mapping[str, Any], classes: int, dtype: Any = jnp.float32) -> nn.Module:
    """The plain twin of a config's ``model`` section (the names of the benchmark only)."""
    name, norm = model["name"], model["norm"] == "batch"
    if name.startswith("resnet"):
        depth = int(name.removeprefix("resnet"))
        return CifarResNet(classes=classes, norm=norm, dtype=dtype, depth=depth)
    family = {"convnet": ConvNet, "alexnet": AlexNet, "f1": FullyConnected}[name]
    return family(classes=classes, norm=norm, dtype=dtype)
