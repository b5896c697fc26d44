"""The PyTorch peers: eager, ``torch.compile``, and an ensemble by ``torch.func``.

The networks are ours layer for layer. Convolution, batch norm, pooling and initial weights follow
:mod:`sbt.models`; images are NCHW in whatever memory format they come. Modules are named as Flax
names them (``Conv_0``, ``BasicBlock_1.BatchNorm_0``), so that weights load by name. Each peer is
given its better memory format and its better number of threads, found by timing them.
"""

import copy
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sbt.bench.lanes import Task
from sbt.bench.workload import (
    BYTES,
    CLASSES,
    STACKS,
    Cell,
    Position,
    Skip,
    Stack,
    Workload,
    calibrate,
    microseconds,
    stages,
)

# --- networks ------------------------------------------------------------------------------------


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

    def __setattr__(self, name: str, value: Any) -> None:
        """Only :meth:`add` registers children: one of two names is not restored by torch.func."""
        if isinstance(value, nn.Module):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

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


class Chain(Named):
    """A :class:`sbt.bench.workload.Stack`."""

    def __init__(self, stack: Stack, shape: tuple[int, int, int], norm: bool, running: bool):
        super().__init__(norm, running, stack.epsilon)
        height, width, features = shape
        self.stages, self.hidden = [], []
        for wide, kernel, pool in stack.convolutions:
            self.stages.append((self.conv(features, wide, kernel), self.bn(wide), pool))
            features = wide
            if pool:  # the ceiling for an odd one, as SAME has it
                height, width = (height + pool % 2) // 2, (width + pool % 2) // 2
        features *= height * width
        for wide in stack.hidden:
            dense = self.dense(features, wide, bias=stack.bias or not norm)
            self.hidden.append((dense, self.bn(wide, 1)))
            features = wide
        self.last = self.dense(features, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, bn, pool in self.stages:
            x = F.relu(bn(conv(x)))
            if pool:
                # The ceiling mode pads on the right only, as SAME does for an even size.
                x = F.max_pool2d(x, pool, 2, ceil_mode=bool(pool % 2))
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

    def __init__(self, depth: int, shape: tuple[int, int, int], norm: bool, running: bool):
        super().__init__(norm, running)
        self.stem, self.stem_bn = self.conv(shape[2], 16), self.bn(16)
        channels, self.blocks = 16, []
        for width, stride in stages(depth):
            module = BasicBlock(channels, width, stride, norm, running)
            self.blocks.append(self.add("BasicBlock", module))
            channels = width
        self.last = self.dense(channels, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.last(x.mean((2, 3)))


class Attention(nn.Module):
    """Causal, with rotary places and normalised queries and keys."""

    def __init__(self, width: int, heads: int, fused: bool):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, places, width = x.shape
        q, k, v = self.qkv(x).view(n, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotated(rms(q)), rotated(rms(k))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            causal = torch.ones(places, places, dtype=torch.bool, device=x.device).tril()
            scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
            mixed = scores.masked_fill(~causal, -torch.inf).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, places, width))


class GPT(nn.Module):
    """A decoder-only transformer of bytes; fused attention has no rule for ``vmap``."""

    def __init__(self, width: int, depth: int, heads: int, fused: bool):
        super().__init__()
        self.embedding = nn.Embedding(BYTES, width)
        for i in range(depth):
            self.add_module(f"Attention_{i}", Attention(width, heads, fused))
            self.add_module(f"up_{i}", nn.Linear(width, 4 * width, bias=False))
            self.add_module(f"down_{i}", nn.Linear(4 * width, width, bias=False))
        self.depth, self.logits = depth, nn.Linear(width, BYTES, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embedding(x)
        for i in range(self.depth):
            attention, up, down = (
                self.get_submodule(f"{name}_{i}") for name in ("Attention", "up", "down")
            )
            y = y + attention(rms(y))
            y = y + down(F.gelu(up(rms(y)), approximate="tanh"))
        return self.logits(rms(y))


def rms(x: torch.Tensor) -> torch.Tensor:
    """Normalised over the last axis, without a scale."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary places of ``(n, heads, T, H)``."""
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = torch.outer(torch.arange(x.shape[-2], device=x.device), frequencies)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def build(model: Mapping[str, Any], shape: Sequence[int], running: bool = True) -> nn.Module:
    """The PyTorch twin of a config's ``model`` section (the names of the benchmark only).

    Args:
      model: the section.
      shape: of an image, (height, width, channels), or of a sequence.
      running: see :class:`Named`; for a transformer, whether attention is fused.
    """
    if model["name"] == "gpt":
        return GPT(model["width"], model["depth"], model["heads"], fused=running)
    name, norm = model["name"], model["norm"] == "batch"
    shape = (shape[0], shape[1], shape[2])
    if name.startswith("resnet"):
        return CifarResNet(int(name.removeprefix("resnet")), shape, norm, running)
    return Chain(STACKS[name], shape, norm, running)


@torch.no_grad()
def load_flax(
    module: nn.Module, params: Mapping[str, Any], stats: Mapping[str, Any] | None = None
) -> nn.Module:
    """Copies the weights of the Flax twin, a nested dict of arrays; every parameter must match.

    Args:
      module: is changed.
      params: the weights.
      stats: running statistics of batch norm, likewise; None leaves the module's own.

    Raises:
      ValueError: for weights that do not fit the module.
    """
    target = dict(module.named_parameters())
    for path, value in _leaves(params):
        *where, leaf = path
        array = np.asarray(value)
        if leaf not in ("kernel", "scale", "bias"):  # a product of gpt's
            where.append(leaf)
            array = _as_linear(leaf, array)
        elif leaf == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        name = ".".join((*where, "bias" if leaf == "bias" else "weight"))
        parameter = target.pop(name)
        if parameter.shape != array.shape:
            raise ValueError(f"{name}: {tuple(parameter.shape)} is not {array.shape}")
        parameter.copy_(torch.tensor(np.ascontiguousarray(array)))
    if target:
        raise ValueError(f"no Flax weights for {', '.join(target)}")
    buffers = dict(module.named_buffers())
    for (*where, leaf), value in _leaves(stats or {}):
        buffers[".".join((*where, f"running_{leaf}"))].copy_(torch.tensor(np.asarray(value)))
    return module


def _as_linear(name: str, array: np.ndarray) -> np.ndarray:
    """Weights of :mod:`sbt.models.gpt` as ``nn.Linear`` and ``nn.Embedding`` have them."""
    if name == "qkv":
        return array.transpose(0, 1, 3, 2).reshape(-1, array.shape[2])
    if name == "out":
        return array.reshape(-1, array.shape[-1]).T
    return array if name in ("embedding", "logits") else array.T


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        return [(path, tree)]
    return [leaf for key, value in tree.items() for leaf in _leaves(value, (*path, key))]


# --- training ------------------------------------------------------------------------------------

ALL_THREADS = torch.get_num_threads()
PROBE_SECONDS = 0.15

V = TypeVar("V")


@dataclasses.dataclass(frozen=True)
class Variant:
    """How PyTorch runs: memory format of images and kernels, threads inside an operation."""

    channels_last: bool
    threads: int

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return layout if _on_gpu() else f"{layout}, {self.threads} threads"


def torch_workload(task: Task, most_seconds: float, compiled: bool = False) -> Workload:
    """One run at a time: forward, backward and a fused SGD step per batch.

    Args:
      task: what to train.
      most_seconds: that one window may take.
      compiled: through ``torch.compile`` (with CUDA graphs on GPU), in the variant that is best
        for eager execution.
    """
    convolves = task.network.model["name"] not in ("f1", "gpt")
    variants = usual_variants(layouts=(True, False) if convolves else (False,))
    best = best_of([_eager(task, variant) for variant in variants], variants, most_seconds)
    if not compiled:
        return _eager(task, best)
    torch._dynamo.config.recompile_limit = 10_000  # every setting is a new shape
    torch._dynamo.config.accumulated_recompile_limit = 10_000
    return _eager(task, best, compiled=True)


def torch_func_workload(task: Task, most_seconds: float) -> Workload:
    """All lanes in one call: ``vmap`` of ``grad`` of ``functional_call`` over stacked weights.

    Batch norm keeps no running statistics here: inside ``grad`` they cannot be moved.
    """
    variants = usual_variants(layouts=(False,))
    best = best_of([_ensemble(task, variant) for variant in variants], variants, most_seconds)
    return _ensemble(task, best)


def usual_variants(layouts: Sequence[bool]) -> list[Variant]:
    """These memory formats (``channels_last`` or not) with one thread and with all."""
    threads = (ALL_THREADS,) if _on_gpu() else sorted({1, ALL_THREADS})
    return list(itertools.starmap(Variant, itertools.product(layouts, threads)))


def best_of(workloads: Sequence[Workload], variants: Sequence[V], most_seconds: float) -> V:
    """The variant that takes least time in a short window.

    Args:
      workloads: one per variant.
      variants: to choose from.
      most_seconds: that one window may take.

    Raises:
      Skip: every one takes longer.
    """
    if len(variants) == 1:
        return variants[0]
    timings: dict[V, float] = {}
    reasons = []
    for workload, variant in zip(workloads, variants, strict=True):
        try:
            updates = calibrate(workload, PROBE_SECONDS, most_seconds)
            timings[variant] = microseconds(workload, updates)
        except Skip as reason:
            reasons.append(str(reason))
    if not timings:
        raise Skip(reasons[0])
    return min(timings, key=lambda variant: timings[variant])


def _eager(task: Task, variant: Variant, compiled: bool = False) -> Workload:
    device, m = torch_device(), task.setting.batch_size
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    # Any: torch's annotations of `to` leave memory_format out.
    model: Any = load_flax(build(task.network.model, task.x.shape[1:]), task.params[0])
    model = model.to(device, memory_format=layout)
    fresh = copy.deepcopy(model.state_dict())
    examples, labels, orders = tensors_of(task, device, variant.channels_last)
    order, whole = orders[0], task.updates_per_epoch
    fields = task.network.rule
    usual = {"lr": task.learning_rates[0], "weight_decay": fields["weight_decay"], "fused": True}
    if _is_adamw(task):
        betas = fields["b1"], fields["b2"]
        optimizer: Any = torch.optim.AdamW(
            model.parameters(), betas=betas, eps=fields["eps"], **usual
        )
    else:
        optimizer = torch.optim.SGD(model.parameters(), **usual)
    unused = copy.deepcopy(optimizer.state_dict())

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with _autocast(task, device):
            logits = model(x)
        return _loss(logits, y)

    forward: Callable[..., torch.Tensor] = loss_of
    if compiled:
        mode = "reduce-overhead" if _on_gpu() else None  # i.e. CUDA graphs
        forward = torch.compile(loss_of, dynamic=False, mode=mode)

    def start() -> Position:
        model.load_state_dict(fresh)
        optimizer.load_state_dict(copy.deepcopy(unused))
        return Position((model, None), 0)

    def advance(at: Position, updates: int) -> Position:
        torch.set_num_threads(variant.threads)
        (_, loss), done = at
        for i in range(done, done + updates):
            first = i % whole * m
            batch = order[first : first + m]
            x = examples[batch]
            loss = forward(x.permute(0, 3, 1, 2) if variant.channels_last else x, labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        wait()
        return Position((model, loss.detach().clone()), done + updates)

    seconds = None
    if compiled:
        began = time.perf_counter()
        advance(start(), 2)
        seconds = time.perf_counter() - began
    memory = _memory(lambda: advance(start(), 1))
    cell = Cell(task.setting, detail=str(variant), compile_seconds=seconds, memory_bytes=memory)
    return Workload(start, advance, _finite, cell)


def _ensemble(task: Task, variant: Variant) -> Workload:
    device, m, lanes = torch_device(), task.setting.batch_size, task.setting.lanes
    make = functools.partial(build, task.network.model, task.x.shape[1:], running=False)
    per_seed = [load_flax(make(), params).to(device) for params in task.params]
    skeleton = make().to("meta")
    names = [name for name, _ in per_seed[0].named_parameters()]
    by_name = [dict(model.named_parameters()) for model in per_seed]
    initial = {n: torch.stack([by_name[s][n].detach() for s in task.seeds]) for n in names}
    examples, labels, orders = tensors_of(task, device, channels_last=False)
    order = orders[torch.tensor(task.seeds, device=device)]
    whole = task.updates_per_epoch
    rates = torch.tensor(task.learning_rates, device=device)
    steps = {n: rates.reshape(lanes, *[1] * (leaf.ndim - 1)) for n, leaf in initial.items()}

    def loss_of(weights: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if task.setting.precision == "bfloat16":
            # By hand: autocast mixes dtypes in a batch norm under vmap, which refuses that.
            weights = {n: w.bfloat16() for n, w in weights.items()}
            x = x.bfloat16() if x.is_floating_point() else x
        return _loss(torch.func.functional_call(skeleton, weights, (x,)), y)

    gradients = torch.func.vmap(torch.func.grad_and_value(loss_of))

    def start() -> Position:
        weights = {n: leaf.clone() for n, leaf in initial.items()}
        moments = {n: (torch.zeros_like(w), torch.zeros_like(w)) for n, w in weights.items()}
        return Position((weights, None, moments if _is_adamw(task) else {}), 0)

    @torch.no_grad()
    def advance(at: Position, updates: int) -> Position:
        torch.set_num_threads(variant.threads)
        (weights, losses, moments), done = at
        for i in range(done, done + updates):
            first = i % whole * m
            batch = order[:, first : first + m]
            grads, losses = gradients(weights, examples[batch], labels[batch])
            for name, w in weights.items():
                if moments:
                    change = _adamw(w, grads[name], moments[name], i + 1, task.network.rule)
                else:
                    change = grads[name].add_(w, alpha=task.network.rule["weight_decay"])
                w.sub_(steps[name] * change)
        wait()
        return Position((weights, losses, moments), done + updates)

    memory = _memory(lambda: advance(start(), 1))
    return Workload(
        start, advance, _finite, Cell(task.setting, detail=str(variant), memory_bytes=memory)
    )


def _is_adamw(task: Task) -> bool:
    return str(task.network.rule["name"]).endswith("adamw")


def _adamw(
    w: torch.Tensor, grad: torch.Tensor, moments: Any, count: int, rule: Mapping[str, Any]
) -> torch.Tensor:
    """The step of AdamW, without the learning rate; the moments are moved in place."""
    first, second = moments
    first.lerp_(grad, 1 - rule["b1"])
    second.mul_(rule["b2"]).addcmul_(grad, grad, value=1 - rule["b2"])
    root = (second / (1 - rule["b2"] ** count)).sqrt_().add_(rule["eps"])
    return (first / (1 - rule["b1"] ** count)).div_(root).add_(w, alpha=rule["weight_decay"])


def _loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the examples, and over the tokens of each."""
    return F.cross_entropy(logits.float().flatten(0, -2), y.flatten())


def _finite(at: Position) -> bool:
    """Whether the last loss is, of every lane."""
    return bool(torch.isfinite(at.state[1]).all())


def tensors_of(task: Task, device: Any, channels_last: bool) -> tuple[torch.Tensor, ...]:
    """Images (NHWC for ``channels_last``, else NCHW) or tokens, labels and orders."""
    examples = torch.tensor(task.x)
    if examples.ndim == 4 and not channels_last:
        examples = examples.permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(task.labels).long()
    orders = torch.tensor(task.orders).long()
    return examples.to(device), labels.to(device), orders.to(device)


def _on_gpu() -> bool:
    """Whether peers run on the GPU that sbt runs on."""
    return jax.default_backend() == "gpu" and torch.cuda.is_available()


def torch_device() -> torch.device:
    """Where peers run."""
    if _on_gpu():
        # As XLA does: TensorFloat-32 for products of float32 numbers, tuned convolutions.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        return torch.device("cuda")
    return torch.device("cpu")


def _autocast(task: Task, device: Any) -> Any:
    low = task.setting.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def wait() -> None:
    """Returns when the device has done what it was told."""
    if _on_gpu():
        torch.cuda.synchronize()


def _memory(run: Callable[[], Any]) -> int | None:
    """Most bytes that PyTorch holds on the GPU while it runs; the CPU's are not counted."""
    if not _on_gpu():
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    return int(torch.cuda.max_memory_allocated())
