"""The PyTorch peers: eager, ``torch.compile``, and an ensemble by ``torch.func``.

Each is given its better memory format and its better number of threads, found by timing them.
"""

import copy
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import torch
import torch.nn.functional as F

from sbt.bench.lanes import Task
from sbt.bench.networks import CLASSES, WEIGHT_DECAY
from sbt.bench.torch_models import build, load_flax
from sbt.bench.workload import Skip, Workload, calibrate, microseconds

ALL_THREADS = torch.get_num_threads()
PROBE_SECONDS = 0.15


@dataclasses.dataclass(frozen=True)
class Variant:
    """How PyTorch runs: memory format of images and kernels, threads inside an operation."""

    channels_last: bool
    threads: int

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return layout if _on_gpu() else f"{layout}, {self.threads} threads"


class TorchState(NamedTuple):
    """Where a training stands.

    Attributes:
      weights: the model, trained in place; or by name, stacked over lanes.
      loss: of the last batch; None before the first.
      updates: done.
    """

    weights: Any
    loss: Any
    updates: int


def torch_workload(task: Task, most_seconds: float, compiled: bool = False) -> Workload:
    """One run at a time: forward, backward and a fused SGD step per batch.

    Args:
      task: what to train.
      most_seconds: that one window may take.
      compiled: through ``torch.compile`` (with CUDA graphs on GPU), in the variant that is best
        for eager execution.
    """
    images = len(task.images.shape) == 4 and task.network.model["name"] != "f1"
    variants = _variants(layouts=(True, False) if images else (False,))
    best = _fastest([_eager(task, variant) for variant in variants], variants, most_seconds)
    if not compiled:
        return _eager(task, best)
    torch._dynamo.config.recompile_limit = 10_000  # every setting is a new shape
    torch._dynamo.config.accumulated_recompile_limit = 10_000
    return _eager(task, best, compiled=True)


def torch_func_workload(task: Task, most_seconds: float) -> Workload:
    """All lanes in one call: ``vmap`` of ``grad`` of ``functional_call`` over stacked weights.

    Batch norm keeps no running statistics here: inside ``grad`` they cannot be moved.
    """
    variants = _variants(layouts=(False,))
    best = _fastest([_ensemble(task, variant) for variant in variants], variants, most_seconds)
    return _ensemble(task, best)


def _variants(layouts: Sequence[bool]) -> list[Variant]:
    threads = (ALL_THREADS,) if _on_gpu() else sorted({1, ALL_THREADS})
    return list(itertools.starmap(Variant, itertools.product(layouts, threads)))


def _fastest(
    workloads: Sequence[Workload], variants: Sequence[Variant], most_seconds: float
) -> Variant:
    """The variant that takes least time in a short window."""
    if len(variants) == 1:
        return variants[0]
    timings: dict[Variant, float] = {}
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
    device, m = _device(), task.setting.micro_batch
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    # Any: torch's annotations of `to` leave memory_format out.
    model: Any = load_flax(build(task.network.model, task.network.shape, CLASSES), task.params[0])
    model = model.to(device, memory_format=layout)
    fresh = copy.deepcopy(model.state_dict())
    images, labels, orders = _data(task, device, variant.channels_last)
    order, whole = orders[0], task.updates_per_epoch
    optimizer = torch.optim.SGD(
        model.parameters(), lr=task.learning_rates[0], weight_decay=WEIGHT_DECAY, fused=True
    )

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with _autocast(task, device):
            logits = model(x)
        return F.cross_entropy(logits.float(), y)

    forward: Callable[..., torch.Tensor] = loss_of
    if compiled:
        mode = "reduce-overhead" if _on_gpu() else None  # i.e. CUDA graphs
        forward = torch.compile(loss_of, dynamic=False, mode=mode)

    def start() -> TorchState:
        model.load_state_dict(fresh)
        return TorchState(model, None, 0)

    def advance(state: TorchState, updates: int) -> TorchState:
        torch.set_num_threads(variant.threads)
        _, loss, done = state
        for i in range(done, done + updates):
            at = i % whole * m
            batch = order[at : at + m]
            x = images[batch]
            loss = forward(x.permute(0, 3, 1, 2) if variant.channels_last else x, labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        _wait()
        return TorchState(model, loss.detach().clone(), done + updates)

    seconds = None
    if compiled:
        began = time.perf_counter()
        advance(start(), 2)
        seconds = time.perf_counter() - began
    return Workload(
        start=start,
        advance=advance,
        healthy=lambda state: bool(torch.isfinite(state.loss)),
        setting=task.setting,
        detail=str(variant),
        compile_seconds=seconds,
        memory_bytes=_memory(functools.partial(advance, start(), 1)),
    )


def _ensemble(task: Task, variant: Variant) -> Workload:
    device, m, lanes = _device(), task.setting.micro_batch, task.setting.lanes
    make = functools.partial(build, task.network.model, task.network.shape, CLASSES, False)
    per_seed = [load_flax(make(), params).to(device) for params in task.params]
    skeleton = make().to("meta")
    names = [name for name, _ in per_seed[0].named_parameters()]
    by_name = [dict(model.named_parameters()) for model in per_seed]
    initial = {n: torch.stack([by_name[s][n].detach() for s in task.seeds]) for n in names}
    images, labels, orders = _data(task, device, channels_last=False)
    order = orders[torch.tensor(task.seeds, device=device)]
    whole = task.updates_per_epoch
    rates = torch.tensor(task.learning_rates, device=device)
    steps = {n: rates.reshape(lanes, *[1] * (leaf.ndim - 1)) for n, leaf in initial.items()}

    def loss_of(weights: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if task.setting.precision == "bfloat16":
            # By hand: autocast mixes dtypes in a batch norm under vmap, which refuses that.
            weights, x = {n: w.bfloat16() for n, w in weights.items()}, x.bfloat16()
        logits = torch.func.functional_call(skeleton, weights, (x,))
        return F.cross_entropy(logits.float(), y)

    gradients = torch.func.vmap(torch.func.grad_and_value(loss_of))

    def start() -> TorchState:
        return TorchState({n: leaf.clone() for n, leaf in initial.items()}, None, 0)

    @torch.no_grad()
    def advance(state: TorchState, updates: int) -> TorchState:
        torch.set_num_threads(variant.threads)
        weights, losses, done = state
        for i in range(done, done + updates):
            at = i % whole * m
            batch = order[:, at : at + m]
            grads, losses = gradients(weights, images[batch], labels[batch])
            for name, w in weights.items():
                w.sub_(steps[name] * grads[name].add_(w, alpha=WEIGHT_DECAY))
        _wait()
        return TorchState(weights, losses, done + updates)

    return Workload(
        start=start,
        advance=advance,
        healthy=lambda state: bool(torch.isfinite(state.loss).all()),
        setting=task.setting,
        detail=str(variant),
        memory_bytes=_memory(lambda: advance(start(), 1)),
    )


def _data(task: Task, device: Any, channels_last: bool) -> tuple[torch.Tensor, ...]:
    """Images (NHWC for ``channels_last``, else NCHW), labels and orders."""
    images = torch.tensor(task.images)
    if not channels_last:
        images = images.permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(task.labels).long()
    orders = torch.tensor(task.orders).long()
    return images.to(device), labels.to(device), orders.to(device)


def _on_gpu() -> bool:
    return jax.default_backend() == "gpu" and torch.cuda.is_available()


def _device() -> torch.device:
    if _on_gpu():
        # As XLA does: TensorFloat-32 for products of float32 numbers, tuned convolutions.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        return torch.device("cuda")
    return torch.device("cpu")


def _autocast(task: Task, device: Any) -> Any:
    low = task.setting.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def _wait() -> None:
    if _on_gpu():
        torch.cuda.synchronize()


def _memory(run: Callable[[], Any]) -> int | None:
    """Most bytes that PyTorch holds on the GPU while it runs; the CPU's are not counted."""
    if not _on_gpu():
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    return int(torch.cuda.max_memory_allocated())
