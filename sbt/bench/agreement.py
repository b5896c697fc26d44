"""Whether a device computes what it should: lanes and kernels against plain float64 on the CPU.

The first update of every lane is held against that of a network of Flax's own layers, which takes
the same weights, examples and learning rate, a micro-batch at a time; convolutions of every
implementation, with both gradients, against XLA's; rounding to the bit. What is compared is read
from the code: a new implementation, strategy or way of rounding is covered by being there.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sbt.bench.flax_peer import build
from sbt.bench.options import PRECISIONS
from sbt.bench.tables import markdown_table
from sbt.bench.workload import NETWORKS, SGD
from sbt.config import default
from sbt.data import epoch_order
from sbt.errors import first_line
from sbt.nn import passes
from sbt.nn.conv import IMPLEMENTATIONS, Implementation, conv2d
from sbt.optim import ROUNDINGS
from sbt.sweep.engine import make_engine
from sbt.sweep.lanes import make_lanes
from sbt.sweep.prepare import Sweep, prepare
from sbt.sweep.problem import Parts
from sbt.sweep.strategy import Strategy, candidates, round_up, whole_groups

MICRO_BATCH = 4
UPDATES = (1, 2, 4)  # micro-batches in the first update: lanes of three batch sizes
SEEDS = (0, 1)
RATE = 0.05  # large enough that rounding the weights does not hide the update
EXAMPLES = 32
TOGETHER = 2  # lanes of a group, where a strategy runs some at a time
# A layer whose update is smaller than this part of the largest one is held against that.
NEGLIGIBLE = 1e-3


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How numbers are kept and multiplied.

    Attributes:
      precision: that of a config's ``engine`` section.
      products: of matrices, as ``jax.default_matmul_precision`` has it; None: as in training, which
        on NVIDIA GPUs is TensorFloat-32 for float32.
      wide: float64 throughout.
      operation: tolerance for relative differences of one operation.
      network: the same for a whole network: batch norm amplifies rounding some hundred times, and
        in a max-pool coarse numbers tie, so that bfloat16 moves layers by a fifth.
    """

    precision: str
    products: str | None
    wide: bool
    operation: float
    network: float

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Programs traced inside compute so."""
        with jax.enable_x64(self.wide), jax.default_matmul_precision(self.products):
            yield


ARITHMETIC = {
    "float32, exact products": Arithmetic("float32", "highest", False, 1e-5, 5e-3),
    **{name: Arithmetic(name, None, False, 1e-2, 0.4) for name in PRECISIONS},
    "float64": Arithmetic("float32", "highest", True, 1e-12, 1e-9),
}


@dataclasses.dataclass(frozen=True)
class Agreement:
    """One comparison.

    Attributes:
      subject: a network, or an operation and its shapes.
      way: a strategy, or an implementation.
      batch_size: m; 0 for operations.
      arithmetic: key of :data:`ARITHMETIC`.
      difference: largest relative difference of a layer's update, or of an operation's results.
      tolerance: what is allowed.
      error: why nothing was compared, or an empty string.
    """

    subject: str
    way: str
    batch_size: int
    arithmetic: str
    difference: float | None
    tolerance: float
    error: str = ""

    @property
    def outcome(self) -> str:
        """``PASS``, ``FAIL`` or ``ERROR``."""
        if self.difference is None:
            return "ERROR"
        return "PASS" if self.difference <= self.tolerance else "FAIL"


def compare(
    networks: Sequence[str] = tuple(NETWORKS), arithmetic: Sequence[str] = tuple(ARITHMETIC)
) -> Iterator[Agreement]:
    """Compares what the default devices compute with the CPU, one program after another.

    One network, then operations, then the others, which take longest. Whoever has seen enough stops
    asking.

    Args:
      networks: keys of :data:`sbt.bench.workload.NETWORKS`.
      arithmetic: keys of :data:`ARITHMETIC`.
    """
    yield from _roundings()
    for network in networks[:1]:
        yield from _networks(network, arithmetic)
    for name in arithmetic:
        yield from _convolutions(name)
    for network in networks[1:]:
        yield from _networks(network, arithmetic)


def strategies(platform: str) -> tuple[Strategy, ...]:
    """What an engine may choose on a platform, and every implementation of the convolution."""
    chosen = [
        dataclasses.replace(s, at_once=min(s.at_once, TOGETHER)) for s in candidates(platform)
    ]
    known = {strategy.convolution for strategy in chosen}
    rest = (Strategy(1, name) for name in IMPLEMENTATIONS if name not in known)
    return tuple(dict.fromkeys((*chosen, *rest)))


def markdown(found: Sequence[Agreement]) -> str:
    """A line in words, what does not agree, and a table of all comparisons."""
    counts = {name: sum(a.outcome == name for a in found) for name in ("PASS", "FAIL", "ERROR")}
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    head = ["subject", "way", "m", "arithmetic", "difference", "tolerance", ""]
    lines = []
    for a in found:
        what = [a.subject, a.way, str(a.batch_size or "-"), a.arithmetic]
        off = a.error if a.difference is None else f"{a.difference:.1e}"
        lines.append([*what, off, f"{a.tolerance:.0e}", a.outcome])
    text = "Largest relative difference from plain float64 on the CPU: of a layer's first update "
    text += "(lanes of several batch sizes m in one program), or of an operation and its gradients."
    wrong = [line for line, a in zip(lines, found, strict=True) if a.outcome != "PASS"]
    parts = [f"{words}. {text}", markdown_table(head, wrong) if wrong else ""]
    parts += ["## All comparisons", markdown_table(head, lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tried(like: Agreement, difference: Callable[[], float]) -> Agreement:
    """With the difference, or with the reason why there is none."""
    try:
        return dataclasses.replace(like, difference=difference())
    except Exception as error:  # whatever a compiler says of a kernel is a finding
        said = f"{type(error).__name__}: {first_line(error)[:120]}"
        return dataclasses.replace(like, error=said)


# --- lanes ---------------------------------------------------------------------------------------


def _sweep(network: str, precision: str) -> Sweep:
    """Lanes of several batch sizes and seeds in one program; plain SGD: updates are gradients."""
    spec, config = NETWORKS[network], default()
    config.data = {**spec.data, "train_size": EXAMPLES, "test_size": 8}
    config.model, config.rule = dict(spec.model), dict(SGD)
    config.engine.precision = precision
    config.base_lr, config.lr_scaling = RATE, "none"
    config.micro_batch = MICRO_BATCH
    config.bn_batch = MICRO_BATCH if spec.batch_norm else None
    config.sweep.batch_size = tuple(MICRO_BATCH * k for k in UPDATES)
    config.sweep.seed = SEEDS
    return prepare(config, Parts())


def _networks(network: str, arithmetic: Sequence[str]) -> Iterator[Agreement]:
    reference = plain_loop(network)
    for name in arithmetic:
        for strategy in strategies(jax.default_backend()):
            yield from _lanes(network, strategy, name, reference)


def plain_loop(network: str) -> Callable[[Any, int, int], Any]:
    """``(weights, batch size, seed) -> weights`` after one update in float64 on the CPU."""
    cpu = jax.devices("cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu):
        sweep = _sweep(network, "float32")
        problem = sweep.builder.problem(sweep.cohorts[0].config)
        every = jnp.arange(problem.num_examples, dtype=jnp.int32)
        examples = problem.batches(problem.arrays, every, 0, jax.random.key(0), True)
    module = build(NETWORKS[network].model, np.float64)

    @jax.jit
    def gradient(params: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            outputs, _ = module.apply({"params": params}, x, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

        return jax.grad(loss)(params)

    def update(params: Any, batch_size: int, seed: int) -> Any:
        with jax.enable_x64(True), jax.default_device(cpu):
            params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
            order = epoch_order(jax.random.key(seed), 0, len(every))[:batch_size]
            parts = [
                gradient(params, examples["x"][part], examples["label"][part])
                for part in order.reshape(-1, MICRO_BATCH)
            ]
            mean = jax.tree.map(lambda *g: sum(g) / len(g), *parts)
            decayed = jax.tree.map(lambda g, w: g + SGD["weight_decay"] * w, mean, params)
            return jax.device_get(jax.tree.map(lambda w, g: w - RATE * g, params, decayed))

    return update


def _lanes(
    network: str, strategy: Strategy, name: str, reference: Callable[..., Any]
) -> Iterator[Agreement]:
    arithmetic = ARITHMETIC[name]

    @functools.cache  # what fails once need not be tried for each batch size
    def updated() -> list[tuple[int, int, Any, Any]]:
        return list(_first_updates(_sweep(network, arithmetic.precision), strategy))

    def difference(batch_size: int) -> float:
        with arithmetic():
            runs = [run for run in updated() if run[0] == batch_size]
        each = [apart(before, after, reference(before, m, seed)) for m, seed, before, after in runs]
        return float(np.max(each))

    for k in UPDATES:
        like = Agreement(network, str(strategy), k * MICRO_BATCH, name, None, arithmetic.network)
        made = _tried(like, functools.partial(difference, like.batch_size))
        yield made
        if made.error:
            return


def _first_updates(sweep: Sweep, strategy: Strategy) -> Iterator[tuple[int, int, Any, Any]]:
    """Batch size and seed of every run, and its weights before and after its first update."""
    (cohort,) = sweep.cohorts
    placed = sweep.place(cohort)
    size = whole_groups(round_up(len(cohort.runs), placed.rows), placed.rows, strategy)
    with contextlib.closing(make_engine(placed, size, strategy)) as engine:
        lanes = make_lanes(cohort, range(len(cohort.runs)), size)
        state = engine.init(lanes)
        before, ticks = jax.device_get(state.params), 0
        for k in UPDATES:
            state = engine.train(state, lanes, 0, ticks * MICRO_BATCH, k - ticks, ticks == 0)
            after, ticks = jax.device_get(state.params), k
            for i, m in enumerate(cohort.batch_sizes):
                if m == k * MICRO_BATCH:
                    own = [
                        jax.tree.map(lambda leaf, i=i: leaf[i], tree) for tree in (before, after)
                    ]
                    yield m, int(cohort.runs[i].settings["seed"]), *own


def apart(before: Any, after: Any, expected: Any) -> float:
    """How far an update is from the expected one: of all layers, the largest relative difference.

    Euclidean norms of each array of weights. Updates that vanish, such as that of a bias before a
    batch norm, are held against :data:`NEGLIGIBLE` of the largest.
    """
    leaves = [
        [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
        for tree in (before, after, expected)
    ]
    changes = [
        (np.linalg.norm(found - right), np.linalg.norm(right - start))
        for start, found, right in zip(*leaves, strict=True)
    ]
    least = NEGLIGIBLE * max(change for _, change in changes)
    return float(np.max([off / max(change, least) for off, change in changes]))  # NaN, if any is


# --- operations ----------------------------------------------------------------------------------

# Examples, size, channels in and out, kernel, strides, pads: odd sizes, several blocks of channels,
# strides that skip pixels, pads on one side.
SHAPES = (
    (2, (8, 8), (3, 5), (3, 3), (1, 1), ((1, 1), (1, 1))),
    (3, (7, 9), (4, 20), (3, 3), (2, 2), ((1, 1), (0, 1))),
    (2, (9, 8), (70, 66), (5, 5), (1, 1), ((2, 2), (2, 2))),
    (5, (6, 6), (17, 32), (2, 3), (2, 1), ((0, 2), (1, 0))),
)
LANES = 3


def _convolutions(name: str) -> Iterator[Agreement]:
    arithmetic = ARITHMETIC[name]
    for shape in SHAPES:
        expected = functools.cache(functools.partial(_expected, shape, arithmetic))
        n, size, channels, kernel, strides, _ = shape
        subject = f"convolution {n}x{size[0]}x{size[1]}x{channels[0]}, {kernel[0]}x{kernel[1]}"
        subject += f"x{channels[1]}, stride {strides[0]}x{strides[1]}"
        for way in IMPLEMENTATIONS:
            like = Agreement(subject, way, 0, name, None, arithmetic.operation)
            yield _tried(like, functools.partial(_off, shape, arithmetic, way, expected))


def _operands(shape: Any, arithmetic: Arithmetic) -> tuple[np.ndarray, np.ndarray]:
    """Images and kernels of all lanes."""
    n, size, (c_in, c_out), kernel, *_ = shape
    dtype = np.float64 if arithmetic.wide else jnp.dtype(arithmetic.precision)
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(LANES, n, *size, c_in)), rng.normal(size=(LANES, *kernel, c_in, c_out))
    return x.astype(dtype), w.astype(dtype)


def _expected(shape: Any, arithmetic: Arithmetic) -> Any:
    run = functools.partial(passes.stock, window=passes.Window(*shape[-2:]))
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return _results(run, *(a.astype(np.float64) for a in _operands(shape, arithmetic)))


def _off(
    shape: Any, arithmetic: Arithmetic, way: Implementation, expected: Callable[[], Any]
) -> float:
    *_, strides, pads = shape
    run = functools.partial(conv2d, strides=strides, padding=pads, implementation=way)
    with arithmetic():
        found = _results(run, *_operands(shape, arithmetic))
    return apart(jax.tree.map(np.zeros_like, found), found, expected())


def _results(run: Callable[..., jax.Array], x: Any, w: Any) -> Any:
    """Of every lane a convolution, and both its gradients along whole numbers from -3 to 3."""

    def lane(x: jax.Array, w: jax.Array) -> Any:
        y, pull = jax.vjp(run, x, w)
        towards = (np.arange(y.size) % 7 - 3).reshape(y.shape)
        return y, pull(jnp.asarray(towards, y.dtype))

    return jax.device_get(jax.jit(jax.vmap(lane))(jnp.asarray(x), jnp.asarray(w)))


def _roundings() -> Iterator[Agreement]:
    weights = np.random.default_rng(0).normal(size=(64, 33)).astype(np.float32)

    def rounded(way: str, device: jax.Device) -> Any:
        rounding = ROUNDINGS[way]
        with jax.default_device(device):
            return jax.device_get(rounding(jnp.asarray(weights), jax.random.key(0)))

    def difference(way: str) -> float:
        here, there = (rounded(way, devices[0]) for devices in (jax.devices(), jax.devices("cpu")))
        return float(np.max(np.abs(here - there)))

    for way in ROUNDINGS:
        like = Agreement("rounding of weights, to the bit", way, 0, "float32", None, 0.0)
        yield _tried(like, functools.partial(difference, way))
