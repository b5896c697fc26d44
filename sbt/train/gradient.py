"""The gradient of a tick's examples, and whatever else a rule wants to know of them.

The objective (clean, adversarial, stability), the sample rule and the extra arguments of rules meet
here; :mod:`sbt.train.step` accumulates the result and updates.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sbt.models.adapter import Model
from sbt.nn.conv import Implementation, lane_friendly
from sbt.optim.base import l2_norm
from sbt.optim.clars import mean_example_norms
from sbt.optim.remedies import adversarial_loss, stability_loss
from sbt.optim.sample_rule import accumulated_gradient, discard_weights
from sbt.ranges import ranges_of
from sbt.train.loss import cross_entropy, is_correct
from sbt.train.shards import ONE_DEVICE, Sharding

OBJECTIVES: dict[str, dict[str, float]] = {
    "standard": {},
    "adversarial": {"epsilon": 0.1, "clean_weight": 0.5},  # Goodfellow et al. 2015
    "stability": {"deviation": 0.04, "weight": 0.01},  # Zheng et al. 2016
}
OBJECTIVE_RANGES = ranges_of(adversarial_loss) | ranges_of(stability_loss)
SAMPLES = ("all", "loss", "random")
SAMPLE_PARAMETERS = {"fraction": 0.0, "until": 1.0}

# What the engine can tell a rule (RuleSpec.needs).
EXTRAS = frozenset(
    {"value", "value_fn", "grad_fn", "example_norms", "hessian_diagonal", "second_gradient"}
)
# Those of them that are functions of the params, on a batch that has to be there at once.
FUNCTIONS = frozenset({"value_fn", "grad_fn"})


class Averages(NamedTuple):
    """What a weight update needs from its batch: means over the batch, so they can be accumulated.

    Attributes:
      grads: gradient of the mean loss, a tree like the parameters.
      stats: the running statistics as this micro-batch would leave them. A running average is
        linear in the new statistic, so the mean over micro-batches of *one* update's results is one
        update by the mean statistic.
      extras: further arguments that a rule asks for, by name (``RuleSpec.needs``).
    """

    grads: Any
    stats: Any
    extras: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised, and on which examples of a batch.

    Attributes:
      model: pure ``init`` and ``apply``.
      convolution: implementation that every ``nn.Conv`` of the model runs.
      loss: ``(logits, labels) -> `` loss of each example.
      name: key of :data:`OBJECTIVES`.
      sample: ``all`` examples, or without the fraction of smallest ``loss``, or of ``random`` ones.
      average: ``kept`` or ``batch``, see :func:`sbt.optim.sample_rule.discard_weights`.
      pieces: micro-batches that a tick is evaluated in, where it holds a whole SGD batch.
      needs: names of the extra arguments that the rule asks for.
      sharding: of the batch over devices.
    """

    model: Model
    convolution: Implementation = "direct"
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy
    name: str = "standard"
    sample: str = "all"
    average: Any = "kept"
    pieces: int = 1
    needs: frozenset[str] = frozenset()
    sharding: Sharding = ONE_DEVICE


class Point(NamedTuple):
    """Where and with what the objective is evaluated.

    Attributes:
      stats: running statistics.
      x: ``(n, ...)`` inputs.
      labels: ``(n,)``.
      key: for dropout and the like, fresh at every tick.
      progress: fraction of the budget.
      objective: traced parameters of the objective.
      sample: traced parameters of the sample rule.
    """

    stats: Any
    x: jax.Array
    labels: jax.Array
    key: jax.Array
    progress: jax.Array
    objective: Mapping[str, jax.Array]
    sample: Mapping[str, jax.Array]


def gradients(
    objective: Objective, params: Any, point: Point
) -> tuple[Averages, jax.Array, jax.Array]:
    """Mean gradient, new statistics and extras; mean loss; number of correct answers.

    The loss that is returned is the objective's, over the examples that count; correct answers are
    counted over all.
    """
    if objective.pieces > 1:
        return _in_pieces(objective, params, point)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        return _loss(objective, params, point)

    def gradient(params: Any) -> Any:
        return jax.grad(lambda p: loss_fn(p)[0])(params)

    (loss, (stats, correct)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    extras: dict[str, Any] = {}
    if "example_norms" in objective.needs:
        extras["example_norms"] = _example_norms(objective, params, point, grads)
    if "hessian_diagonal" in objective.needs:
        extras["hessian_diagonal"] = _hessian_diagonal(gradient, params, point.key)
    if "value" in objective.needs:
        extras["value"] = loss
    if "value_fn" in objective.needs:
        extras["value_fn"] = lambda params, *_: objective.sharding.mean(loss_fn(params)[0])
    if "grad_fn" in objective.needs:
        extras["grad_fn"] = lambda params, *_: objective.sharding.mean(gradient(params))
    return Averages(grads, stats, extras), loss, correct


def _loss(
    objective: Objective, params: Any, point: Point
) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    def forward(x: jax.Array) -> tuple[jax.Array, Any]:
        with lane_friendly(objective.convolution):
            return objective.model.apply(params, point.stats, x, point.key, True)

    logits, stats = forward(point.x)
    losses = objective.loss(logits, point.labels)
    if objective.sample == "all":
        loss = jnp.mean(losses)
    else:
        loss = jnp.sum(_weights(objective, losses, point) * losses)
    if objective.name == "adversarial":
        loss = adversarial_loss(
            lambda x: jnp.mean(objective.loss(forward(x)[0], point.labels)),
            point.x,
            epsilon=point.objective["epsilon"],
            clean_weight=point.objective["clean_weight"],
        )
    elif objective.name == "stability":
        keys = jax.random.split(jax.random.fold_in(point.key, 2), point.x.shape[0])
        loss = loss + stability_loss(
            lambda x: jax.nn.log_softmax(forward(x)[0]), point.x, keys, **point.objective
        )
    return loss, (stats, jnp.sum(is_correct(logits, point.labels)))


def _weights(objective: Objective, losses: jax.Array, point: Point) -> jax.Array:
    choice: Any = objective.sample
    weights = discard_weights(
        losses,
        point.sample["fraction"],
        point.progress,
        point.sample["until"],
        choice=choice,
        key=jax.random.fold_in(point.key, 3),
        average=objective.average,
    )
    return weights.astype(losses.dtype)


def _in_pieces(
    objective: Objective, params: Any, point: Point
) -> tuple[Averages, jax.Array, jax.Array]:
    """A whole batch under the sample rule, micro-batch by micro-batch (no batch statistics)."""

    def forward(params: Any, piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, labels = piece
        with lane_friendly(objective.convolution):
            logits, _ = objective.model.apply(params, point.stats, x, point.key, True)
        return objective.loss(logits, labels), is_correct(logits, labels)

    batch = (point.x, point.labels)
    cut = (objective.pieces, -1)
    pieces = jax.tree.map(lambda leaf: leaf.reshape(*cut, *leaf.shape[1:]), batch)
    losses, correct = jax.lax.map(lambda piece: forward(params, piece), pieces)
    losses = losses.reshape(-1)
    weights = _weights(objective, losses, point)
    _, grads = accumulated_gradient(
        lambda params, piece: forward(params, piece)[0],
        params,
        batch,
        objective.pieces,
        lambda _: weights,
    )
    loss = jnp.sum(weights * losses)
    extras = {"value": loss} if "value" in objective.needs else {}
    return Averages(grads, point.stats, extras), loss, jnp.sum(correct)


def _example_norms(objective: Objective, params: Any, point: Point, grads: Any) -> Any:
    """Mean per-example gradient norm of every layer.

    With batch statistics an example alone has no gradient of its own; then it is the norm of the
    micro-batch's, whose mean over micro-batches accumulation takes.
    """
    if jax.tree.leaves(point.stats):
        return jax.tree.map(l2_norm, grads)

    def loss_fn(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, labels = batch
        return _loss(objective, params, point._replace(x=x, labels=labels))[0]

    return mean_example_norms(loss_fn, params, (point.x, point.labels))


def _hessian_diagonal(gradient: Callable[[Any], Any], params: Any, key: jax.Array) -> Any:
    """One Hutchinson sample, v * Hv with random signs v; the update averages over micro-batches."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
    signs = jax.tree.unflatten(
        structure,
        [
            jax.random.rademacher(k, leaf.shape, leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=True)
        ],
    )

    product = jax.jvp(gradient, (params,), (signs,))[1]
    return jax.tree.map(jnp.multiply, signs, product)
