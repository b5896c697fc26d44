"""The benchmarked networks in PyTorch, layer for layer, under Flax's parameter names.

Convolution, batch norm, pooling and initial weights follow :mod:`sbt.models`; images are NCHW in
whatever memory format they come. Modules are named as Flax names them (``Conv_0``,
``BasicBlock_1.BatchNorm_0``), so that weights of a Flax network load by name.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Named(nn.Module):
    """A module whose children are numbered per kind, as in Flax.

    Args:
      norm: batch norm after every hidden layer, whose bias it then replaces.
      running: whether batch norm keeps running statistics (``torch.func`` cannot move them).
      epsilon: of batch norm.
    """

    def __init__(self, norm: bool, running: bool, epsilon: float = 1e-5):
        super().__init__()
        self.norm, self.running, self.epsilon = norm, running, epsilon
        self._counts: dict[str, int] = {}

    def add(self, kind: str, module: nn.Module) -> nn.Module:
        number = self._counts.get(kind, 0)
        self._counts[kind] = number + 1
        self.add_module(f"{kind}_{number}", module)
        return module

    def conv(self, channels: int, width: int, kernel: int = 3, stride: int = 1) -> nn.Module:
        layer = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=not self.norm)
        return self.add("Conv", layer)

    def dense(self, features: int, width: int, bias: bool = True) -> nn.Module:
        return self.add("Dense", nn.Linear(features, width, bias=bias))

    def bn(self, features: int, dimensions: int = 2) -> nn.Module:
        if not self.norm:
            return nn.Identity()
        kind = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm1d
        # Momentum weighs the new value here, the old one in Flax.
        layer = kind(features, self.epsilon, momentum=0.03, track_running_stats=self.running)
        return self.add("BatchNorm", layer)


def flatten(x: torch.Tensor) -> torch.Tensor:
    """In the order height, width, channels, as in Flax; free for ``channels_last``."""
    return x.permute(0, 2, 3, 1).flatten(1)


class ConvNet(Named):
    """conv 3x3, norm, ReLU, max-pool 2x2 for widths 8 and 16; dense."""

    def __init__(self, shape: tuple[int, int, int], classes: int, norm: bool, running: bool):
        super().__init__(norm, running)
        height, width, channels = shape
        self.stages = []
        for features in (8, 16):
            self.stages.append((self.conv(channels, features), self.bn(features)))
            height, width, channels = height // 2, width // 2, features
        self.last = self.dense(height * width * channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, bn in self.stages:
            x = F.max_pool2d(F.relu(bn(conv(x))), 2)
        return self.last(flatten(x))


class AlexNet(Named):
    """The reduced AlexNet: five convolutions, three pools, two hidden dense layers."""

    def __init__(self, shape: tuple[int, int, int], classes: int, norm: bool, running: bool):
        super().__init__(norm, running)
        height, width, channels = shape
        self.stages, self.hidden = [], []
        widths, kernels, pooled = (16, 48, 96, 64, 64), (5, 3, 3, 3, 3), (0, 1, 4)
        for i, (features, kernel) in enumerate(zip(widths, kernels, strict=True)):
            self.stages.append((self.conv(channels, features, kernel), self.bn(features), i))
            channels = features
            if i in pooled:
                height, width = -(-height // 2), -(-width // 2)
        self.pooled = pooled
        features = height * width * channels
        for _ in range(2):
            self.hidden.append((self.dense(features, 256, bias=not norm), self.bn(256, 1)))
            features = 256
        self.last = self.dense(features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, bn, i in self.stages:
            x = F.relu(bn(conv(x)))
            if i in self.pooled:
                # The ceiling mode pads on the right only, as SAME does for an even size.
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = flatten(x)
        for dense, bn in self.hidden:
            x = F.relu(bn(dense(x)))
        return self.last(x)


class BasicBlock(Named):
    """Two 3x3 convolutions; the shortcut picks every second pixel and appends zero channels."""

    def __init__(self, channels: int, width: int, stride: int, norm: bool, running: bool):
        super().__init__(norm, running)
        self.stride, self.more = stride, width - channels
        self.first, self.first_bn = self.conv(channels, width, 3, stride), self.bn(width)
        self.second, self.second_bn = self.conv(width, width), self.bn(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.first_bn(self.first(x)))
        y = self.second_bn(self.second(y))
        if self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(x + y)


class CifarResNet(Named):
    """The 6n+2-layer family of He et al. 2015, option-A shortcuts."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, norm: bool, running: bool, depth: int
    ):
        super().__init__(norm, running)
        self.stem, self.stem_bn = self.conv(shape[2], 16), self.bn(16)
        channels, self.blocks = 16, []
        for stage in range(3):
            for block in range((depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                module = BasicBlock(channels, 16 << stage, stride, norm, running)
                self.blocks.append(self.add("BasicBlock", module))
                channels = 16 << stage
        self.last = self.dense(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.last(x.mean((2, 3)))


class FullyConnected(Named):
    """F1 of Keskar et al. 2017: five dense layers of 512 with bias, norm, ReLU; dense."""

    def __init__(self, shape: tuple[int, int, int], classes: int, norm: bool, running: bool):
        super().__init__(norm, running, epsilon=1e-6)
        features, self.hidden = int(np.prod(shape)), []
        for _ in range(5):
            self.hidden.append((self.dense(features, 512), self.bn(512, 1)))
            features = 512
        self.last = self.dense(features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = flatten(x)
        for dense, bn in self.hidden:
            x = F.relu(bn(dense(x)))
        return self.last(x)


def build(
    model: Mapping[str, Any], shape: tuple[int, int, int], classes: int, running: bool = True
) -> nn.Module:
    """The PyTorch twin of a config's ``model`` section (the names of the benchmark only)."""
    name, norm = model["name"], model["norm"] == "batch"
    if name.startswith("resnet"):
        return CifarResNet(shape, classes, norm, running, depth=int(name.removeprefix("resnet")))
    family = {"convnet": ConvNet, "alexnet": AlexNet, "f1": FullyConnected}[name]
    return family(shape, classes, norm, running)


@torch.no_grad()
def load_flax(module: nn.Module, params: Mapping[str, Any]) -> nn.Module:
    """Copies the weights of the Flax twin, a nested dict of arrays; every parameter must match."""
    target = dict(module.named_parameters())
    for path, value in _leaves(params):
        *where, leaf = path
        array = np.asarray(value)
        if leaf == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        name = ".".join((*where, "bias" if leaf == "bias" else "weight"))
        parameter = target.pop(name)
        if parameter.shape != array.shape:
            raise ValueError(f"{name}: {tuple(parameter.shape)} is not {array.shape}")
        parameter.copy_(torch.tensor(np.ascontiguousarray(array)))
    if target:
        raise ValueError(f"no Flax weights for {', '.join(target)}")
    return module


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        return [(path, tree)]
    return [leaf for key, value in tree.items() for leaf in _leaves(value, (*path, key))]
