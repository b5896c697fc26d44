"""The PyTorch peers of measurements: a loop over the nets, each measured by plain autograd.

Hessian-vector products come from differentiating twice or, as the peer of that name, from
curvlinops. The modules stand ready with their weights before the clock starts, which sbt's lanes
do not. Memory format, threads and examples at a time are the best that a short probe found.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sbt.bench.measurements import trained
from sbt.bench.torch_peer import (
    Variant,
    best_of,
    build,
    load_flax,
    tensors_of,
    torch_device,
    usual_variants,
    wait,
)
from sbt.bench.workload import MEASURED, Cell, Measuring, Position, Skip, Workload

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Images and labels, part by part."""

Product = Callable[[torch.Tensor], torch.Tensor]
"""``v -> H v`` of vectors in the order of ``module.parameters()``."""

TOGETHER = 64  # examples whose single gradients are held at a time, as in sbt


# --- one net -------------------------------------------------------------------------------------


def autograd_product(module: nn.Module, batches: Batches) -> Product:
    """The Hessian of the mean loss, by differentiating the gradient along ``v``."""
    weights = list(module.parameters())
    total = _examples(batches)

    def product(v: torch.Tensor) -> torch.Tensor:
        parts = torch.split(v, [w.numel() for w in weights])
        direction = [part.view_as(w) for part, w in zip(parts, weights)]
        found = torch.zeros_like(v)
        for x, y in batches:
            loss = F.cross_entropy(module(x), y, reduction="sum") / total
            gradient = torch.autograd.grad(loss, weights, create_graph=True)
            found += _flat(torch.autograd.grad(gradient, weights, direction))
        return found

    return product


def curvlinops_product(module: nn.Module, batches: Batches) -> Product:
    """The same by curvlinops, without its check that the data stay as they are."""
    from curvlinops import HessianLinearOperator

    operator = HessianLinearOperator(
        module,
        nn.CrossEntropyLoss(),
        list(module.parameters()),
        batches,
        check_deterministic=False,
        num_data=_examples(batches),
    )
    return lambda v: operator @ v


def largest_eigenvalue(
    product: Callable[[nn.Module, Batches], Product], module: nn.Module, batches: Batches
) -> float:
    """The largest Ritz value of a few steps of Lanczos, without orthogonalising anew."""
    apply, order = product(module, batches), MEASURED["hessian_eigenvalues"].settings["order"]
    point = parameters_to_vector(module.parameters()).detach()
    generator = torch.Generator(point.device).manual_seed(0)
    v = torch.randn(point.shape, generator=generator, device=point.device)
    v, before, beta = v / v.norm(), torch.zeros_like(v), torch.zeros((), device=point.device)
    diagonal, off_diagonal = [], []
    for _ in range(order):
        w = apply(v) - beta * before
        diagonal.append(w @ v)
        w = w - diagonal[-1] * v
        beta = w.norm()
        off_diagonal.append(beta)
        v, before = w / beta, v
    beside = torch.stack(off_diagonal[:-1])
    matrix = torch.diag(torch.stack(diagonal)) + torch.diag(beside, 1) + torch.diag(beside, -1)
    return float(torch.linalg.eigvalsh(matrix)[-1])


def sharpness(module: nn.Module, batches: Batches) -> float:
    """Keskar's sharpness in per cent: the iteration of :func:`sbt.measure.sharpness` from 0."""
    settings = MEASURED["sharpness"].settings
    (epsilon,), steps = settings["epsilons"], settings["steps"]
    weights, total = list(module.parameters()), _examples(batches)
    centre = parameters_to_vector(weights).detach().clone()
    bound = epsilon * (centre.abs() + 1)

    def value() -> torch.Tensor:
        with torch.no_grad():
            parts = [F.cross_entropy(module(x), y, reduction="sum") for x, y in batches]
            return torch.stack(parts).sum() / total

    def slope() -> tuple[torch.Tensor, torch.Tensor]:
        height, gradient = torch.zeros((), device=centre.device), torch.zeros_like(centre)
        for x, y in batches:
            loss = F.cross_entropy(module(x), y, reduction="sum") / total
            gradient += _flat(torch.autograd.grad(loss, weights))
            height += loss.detach()
        return height, gradient

    start = highest = value()
    z = torch.zeros_like(centre)
    for gain in _gains(steps):
        vector_to_parameters(centre + z, weights)
        height, gradient = slope()
        highest = torch.maximum(highest, height)
        rise = bound * gradient
        rise = rise / rise.abs().max()
        soft = (gain * rise / rise.square().mean().sqrt()).clamp(-1, 1)
        z = bound * (torch.sign(rise) if math.isinf(gain) else soft)
    vector_to_parameters(centre + z, weights)
    highest = torch.maximum(highest, value())
    vector_to_parameters(centre, weights)
    return float(100 * (highest - start) / (1 + start))


def _gains(steps: int) -> list[float]:
    """From 1/2 to 3, and two signs."""
    soft = max(0, steps - 2)
    return [0.5 * 6 ** (i / max(1, soft - 1)) for i in range(soft)] + [math.inf] * (steps - soft)


def noise_scale(module: nn.Module, batches: Batches) -> float:
    """Trace of the covariance of single gradients over the square of their mean, in examples.

    Batches of one example are differentiated by themselves, larger ones by ``torch.func.vmap``.
    """
    weights = {name: w.detach() for name, w in module.named_parameters()}

    def loss_of(weights: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(module, weights, (x.unsqueeze(0),))
        return F.cross_entropy(logits, y.unsqueeze(0))

    together = torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, 0, 0))

    def of_each(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        if len(y) > 1:
            return list(together(weights, x, y).values())
        loss = F.cross_entropy(module(x), y)
        return [g.unsqueeze(0) for g in torch.autograd.grad(loss, list(module.parameters()))]

    sums = [torch.zeros_like(w) for w in weights.values()]
    squares = [torch.zeros_like(w) for w in weights.values()]
    for x, y in batches:
        for total, square, gradients in zip(sums, squares, of_each(x, y)):
            total.add_(gradients.sum(0))
            square.add_(gradients.square().sum(0))
    count = _examples(batches)
    size = sum((total / count).square().sum() for total in sums)
    second = sum((square / count).sum() for square in squares)
    return float((second - size) / size)


MEASURES: dict[tuple[str, str], Callable[[nn.Module, Batches], float]] = {
    ("torch", "hessian_eigenvalues"): functools.partial(largest_eigenvalue, autograd_product),
    ("torch", "sharpness"): sharpness,
    ("torch", "gradient_moments"): noise_scale,
    ("curvlinops", "hessian_eigenvalues"): functools.partial(
        largest_eigenvalue, curvlinops_product
    ),
}


def _examples(batches: Batches) -> int:
    return sum(len(y) for _, y in batches)


def _flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


# --- all nets ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Way:
    """How a measurement runs: see :class:`sbt.bench.torch_peer.Variant`; examples at a time."""

    variant: Variant
    batch: int

    def __str__(self) -> str:
        return f"{self.variant}, {self.batch} at a time"


def torch_measuring(setting: Measuring, count: int, most_seconds: float) -> Workload:
    """The first nets of :func:`sbt.bench.measurements.trained`, one after another.

    Args:
      setting: what to measure.
      count: nets that are trained.
      most_seconds: that one window may take.

    Raises:
      Skip: the network is no classifier of images, or it takes longer.
    """
    way = _best_way(dataclasses.replace(setting, lanes=1), count, most_seconds)
    return measuring_in(setting, count, way)


@functools.lru_cache(maxsize=64)
def _best_way(alone: Measuring, count: int, most_seconds: float) -> Way:
    """What is fastest for one net, and so for each of many."""
    task = trained(alone.network, count, alone.examples).task
    if task.x.ndim != 4:
        raise Skip("this peer measures classifiers of images")
    single = alone.measurement == "gradient_moments"
    convolves = task.network.model["name"] != "f1"
    variants = usual_variants(layouts=(True, False) if convolves else (False,))
    batches = {1, TOGETHER} if single else {TOGETHER, alone.examples}
    ways = [Way(v, min(b, alone.examples)) for v, b in itertools.product(variants, sorted(batches))]
    ways = list(dict.fromkeys(ways))
    return best_of([measuring_in(alone, count, way) for way in ways], ways, most_seconds)


def measuring_in(setting: Measuring, count: int, way: Way) -> Workload:
    """The loop over the nets, in one way; its state is the numbers found, net by net."""
    nets, device = trained(setting.network, count, setting.examples), torch_device()
    x, labels, _ = tensors_of(nets.task, device, way.variant.channels_last)
    x = x.permute(0, 3, 1, 2) if way.variant.channels_last else x
    batches = list(zip(x.split(way.batch), labels.split(way.batch)))
    modules = [twin(setting, count, i).to(device) for i in range(setting.lanes)]
    measure = MEASURES[setting.method, setting.measurement]

    def advance(at: Position, calls: int) -> Position:
        torch.set_num_threads(way.variant.threads)
        found = at.state
        for _ in range(calls):
            found = [measure(module, batches) for module in modules]
        wait()
        return Position(found, at.updates + calls)

    def healthy(at: Position) -> bool:
        return all(map(math.isfinite, at.state))

    cell = Cell(setting, detail=str(way))
    return Workload(lambda: Position(None, 0), advance, healthy, cell)


def twin(setting: Measuring, count: int, lane: int) -> nn.Module:
    """One of the nets in PyTorch, in evaluation mode."""
    nets = trained(setting.network, count, setting.examples)
    params, stats = jax.tree.map(lambda leaf: leaf[lane], (nets.params, nets.stats))
    return load_flax(build(nets.task.network.model, nets.task.x.shape[1:]), params, stats).eval()
