"""Convolutions by themselves, under lanes: which implementation is fastest, and in which blocks.

A whole training says what a strategy costs, this says why: the forward pass with both gradients of
single layers, of every implementation, and the kernels of :mod:`sbt.nn.implicit` cut into blocks of
other sizes.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sbt.bench.tables import digits, markdown_table
from sbt.errors import first_line
from sbt.nn import implicit
from sbt.nn.conv import IMPLEMENTATIONS, conv2d
from sbt.nn.passes import Window

PADS = ((1, 1), (1, 1))


@dataclasses.dataclass(frozen=True)
class Layer:
    """A 3x3 convolution of stride 1 and its place in a network: ``size`` squared pixels."""

    size: int
    channels: int

    def __str__(self) -> str:
        return f"{self.size}x{self.size}x{self.channels}"


# The three stages of a CIFAR ResNet.
LAYERS = (Layer(32, 16), Layer(16, 32), Layer(8, 64))


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one layer takes.

    Attributes:
      layer: in words.
      lanes: each with its own images and kernel.
      micro_batch: examples of a lane.
      dtype: of images and kernels.
      way: an implementation; of the kernels with other blocks, which.
      microseconds: per example and lane, forward and both gradients: the median of the repeats.
      error: why there is no time, or an empty string.
    """

    layer: str
    lanes: int
    micro_batch: int
    dtype: str
    way: str
    microseconds: float | None
    error: str = ""


def blocks() -> tuple[implicit.Blocks, ...]:
    """What is worth trying: the present blocks first, then one or two numbers changed."""
    usual = implicit.BLOCKS
    changes: list[dict[str, int]] = [
        {"positions": positions, "side": side}
        for positions, side in itertools.product((32, 64, 128), (32, 64, 128))
    ]
    changes += [{"warps": warps} for warps in (2, 8)] + [{"stages": n} for n in (1, 3, 4)]
    changes += [{"parts": parts} for parts in (4, 64)]
    return tuple(dict.fromkeys((usual, *(usual._replace(**change) for change in changes))))


def time_layers(
    layers: Sequence[Layer] = LAYERS,
    lanes: int = 64,
    micro_batches: Sequence[int] = (8,),
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    repeats: int = 5,
) -> Iterator[Timing]:
    """Times every implementation on some layers, and on an NVIDIA GPU every choice of blocks."""
    for dtype, g, layer in itertools.product(dtypes, micro_batches, layers):
        like = Timing(str(layer), lanes, g, dtype, "", None)
        ways: dict[str, Callable[..., Any]] = {
            name: functools.partial(_passes, name) for name in IMPLEMENTATIONS
        }
        if jax.default_backend() == "gpu":
            ways |= {f"implicit, {_words(b)}": functools.partial(_in_blocks, b) for b in blocks()}
        for way, run in ways.items():
            yield _timed(dataclasses.replace(like, way=way), layer, run, repeats)


def _passes(name: Any, x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
    y, pull = jax.vjp(lambda x, w: conv2d(x, w, padding=PADS, implementation=name), x, kernel)
    return y, *pull(g)


def _in_blocks(blocks: implicit.Blocks, x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
    plan = implicit.forward_plan(x, kernel, Window(pads=PADS))
    cut: dict[str, Any] = {"precision": None, "blocks": blocks}
    return (
        implicit.correlate(x, kernel, plan, **cut),
        implicit.input_gradient(kernel, g, plan, **cut),
        implicit.kernel_gradient(x, g, plan, **cut),
    )


def _words(blocks: implicit.Blocks) -> str:
    return ", ".join(f"{name} {value}" for name, value in blocks._asdict().items())


def _timed(like: Timing, layer: Layer, run: Callable[..., Any], repeats: int) -> Timing:
    shape = like.lanes, like.micro_batch, layer.size, layer.size, layer.channels
    x = jnp.ones(shape, like.dtype)
    kernel = jnp.full((like.lanes, 3, 3, layer.channels, layer.channels), 1e-2, like.dtype)
    try:
        compiled = jax.jit(jax.vmap(run)).lower(x, kernel, x).compile()
        seconds = sorted(_seconds(compiled, (x, kernel, x)) for _ in range(repeats))
    except Exception as error:  # blocks that do not fit, or that a compiler does not take
        said = f"{type(error).__name__}: {first_line(error)[:120]}"
        return dataclasses.replace(like, error=said)
    each = 1e6 * seconds[repeats // 2] / (like.lanes * like.micro_batch)
    return dataclasses.replace(like, microseconds=each)


def _seconds(compiled: Callable[..., Any], operands: Any) -> float:
    """Of one call, where so many follow each other that starting them hardly counts."""
    jax.block_until_ready(compiled(*operands))
    calls = 10
    began = time.perf_counter()
    for _ in range(calls):
        found = compiled(*operands)
    jax.block_until_ready(found)
    return (time.perf_counter() - began) / calls


def markdown(found: Sequence[Timing]) -> str:
    """The fastest of every layer, and a table of all."""
    groups: dict[tuple[Any, ...], list[Timing]] = {}
    for one in found:
        groups.setdefault((one.layer, one.micro_batch, one.dtype), []).append(one)
    head = ["layer", "g", "dtype", *IMPLEMENTATIONS, "best blocks", "µs"]
    lines = []
    for (layer, g, dtype), timings in groups.items():
        times = {one.way: one.microseconds for one in timings if one.microseconds is not None}
        line = [layer, str(g), dtype]
        line += [digits(times[name]) if name in times else "-" for name in IMPLEMENTATIONS]
        cut = {way: spent for way, spent in times.items() if way not in IMPLEMENTATIONS}
        best = min(cut, key=lambda way: cut[way], default=None)
        line += [best.removeprefix("implicit, "), digits(cut[best])] if best else ["-", "-"]
        lines.append(line)
    every = [
        [t.layer, str(t.micro_batch), t.dtype, t.way, digits(t.microseconds)]
        if t.microseconds is not None
        else [t.layer, str(t.micro_batch), t.dtype, t.way, t.error]
        for t in found
    ]
    lanes = ", ".join(sorted({str(one.lanes) for one in found}))
    text = f"3x3 convolutions of {lanes} lanes by themselves, forward and both gradients: µs per "
    text += "example and lane, medians."
    parts = [text, markdown_table(head, lines), "## All blocks"]
    return "\n\n".join([*parts, markdown_table(["layer", "g", "dtype", "way", "µs"], every)]) + "\n"
