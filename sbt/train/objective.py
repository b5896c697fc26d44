"""What is minimised: the mean loss of a batch, and the wrappers that turn it into another.

An objective is a function from a loss to a loss. So is a sample rule, which weighs the examples of
a batch before their losses are averaged. Adding one takes a function and nothing else.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.choice import Registry
from sbt.optim import base
from sbt.optim.remedies import adversarial_loss, stability_loss
from sbt.optim.sample_rule import discard_weights
from sbt.ranges import BELOW_ONE, FRACTION
from sbt.tasks.base import Examples, PerExample

# Inputs to outputs and running statistics as the batch leaves them.
Forward = Callable[[Any], tuple[Any, Any]]


class Batch(NamedTuple):
    """A batch, and where in training it is evaluated.

    Attributes:
      examples: arrays by name, with a leading axis of n examples.
      key: for dropout and the like, fresh at every tick.
      progress: fraction of the budget.
      of: m, examples of the update that it is a part of; None outside of training.
    """

    examples: Examples
    key: jax.Array
    progress: jax.Array
    of: Any = None

    @property
    def x(self) -> Any:
        """``(n, ...)`` inputs."""
        return self.examples["x"]

    def at(self, x: Any) -> "Batch":
        """The same batch at other inputs."""
        return self._replace(examples={**self.examples, "x": x})

    def part(self, cut: slice) -> "Batch":
        """Some of its examples."""
        return self._replace(examples=jax.tree.map(lambda leaf: leaf[cut], dict(self.examples)))


# A loss of a batch: its value, and ``(outputs, statistics)`` of the forward pass.
Loss = Callable[[Forward, Batch], tuple[jax.Array, tuple[Any, Any]]]
# Losses of a batch, its progress and key to the weights of the examples; None: their mean.
Sample = Callable[[jax.Array, jax.Array, jax.Array], jax.Array | None]


# --- which examples of a batch count --------------------------------------------------------------


def weights_by(
    score: Callable[[jax.Array, jax.Array], jax.Array | None],
    losses: jax.Array,
    progress: jax.Array,
    key: jax.Array,
    *,
    fraction: Annotated[ArrayLike, BELOW_ONE] = 0.0,
    until: Annotated[ArrayLike, FRACTION] = 1.0,
    average: Literal["kept", "batch"] = "kept",
) -> jax.Array | None:
    """Weights of the examples of a batch; those of the lowest score are left out.

    Args:
      score: losses and a key to one number for each example; None: all count the same.
      losses: ``(m,)``.
      progress: fraction of the budget.
      key: typed key.
      fraction: of the batch that is left out, see :func:`sbt.optim.discard_weights`.
      until: progress from which on nothing is left out.
      average: divide by the examples kept, or by the whole batch.
    """
    scores = score(losses, key)
    if scores is None:
        return None
    return discard_weights(scores, fraction, progress, until, average=average)


SAMPLES = Registry("sample", shared=weights_by, default="all")


@SAMPLES.register("all")
def all_examples(losses: jax.Array, key: jax.Array) -> None:
    """Every example counts, and counts the same."""


@SAMPLES.register("loss", source="Gao and Zhong 2020, arXiv 2012.08795, section 3.1")
def largest_losses(losses: jax.Array, key: jax.Array) -> jax.Array:
    """The examples of smallest loss are left out."""
    return losses


@SAMPLES.register("random", source="Gao and Zhong 2020, arXiv 2012.08795, section 3.1")
def random_examples(losses: jax.Array, key: jax.Array) -> jax.Array:
    """As many are left out without regard to their loss: the control."""
    return jax.random.uniform(key, losses.shape)


def sample_weights(losses: jax.Array, batch: Batch, sample: Sample) -> jax.Array | None:
    """Weights of the examples of a batch, in the dtype of their losses."""
    weights = sample(losses, batch.progress, jax.random.fold_in(batch.key, 3))
    return None if weights is None else weights.astype(losses.dtype)


def batch_loss(example_loss: PerExample, sample: Sample) -> Loss:
    """The mean loss of the examples that count."""

    def loss(forward: Forward, batch: Batch) -> tuple[jax.Array, tuple[Any, Any]]:
        outputs, stats = forward(batch.x)
        losses = example_loss(outputs, batch.examples)
        weights = sample_weights(losses, batch, sample)
        value = jnp.mean(losses) if weights is None else jnp.sum(weights * losses)
        return value, (outputs, stats)

    return loss


# --- what becomes of the loss ---------------------------------------------------------------------

OBJECTIVES = Registry("objective", default="standard")
REAL_INPUTS, CLASSES = "inputs of real numbers", "one class for each example"  # needs


@OBJECTIVES.register("standard")
def standard(loss: Loss) -> Loss:
    """The loss itself."""
    return loss


@OBJECTIVES.register(
    "adversarial", source="Goodfellow et al. 2015, arXiv 1412.6572", needs=(REAL_INPUTS,)
)
def adversarial(
    loss: Loss, epsilon: base.NonNegative = 0.1, clean_weight: base.Fraction = 0.5
) -> Loss:
    """Adversarial training, see :func:`sbt.optim.adversarial_loss`."""

    def wrapped(forward: Forward, batch: Batch) -> tuple[jax.Array, tuple[Any, Any]]:
        _, aux = loss(forward, batch)
        value = adversarial_loss(
            lambda x: loss(forward, batch.at(x))[0],
            batch.x,
            epsilon=epsilon,
            clean_weight=clean_weight,
        )
        return value, aux

    return wrapped


@OBJECTIVES.register(
    "stability", source="Zheng et al. 2016, arXiv 1604.04326", needs=(REAL_INPUTS, CLASSES)
)
def stability(
    loss: Loss, deviation: base.NonNegative = 0.04, weight: base.NonNegative = 0.01
) -> Loss:
    """Stability training, see :func:`sbt.optim.stability_loss`."""

    def wrapped(forward: Forward, batch: Batch) -> tuple[jax.Array, tuple[Any, Any]]:
        value, aux = loss(forward, batch)
        keys = jax.random.split(jax.random.fold_in(batch.key, 2), batch.x.shape[0])
        term = stability_loss(
            lambda x: jax.nn.log_softmax(forward(x)[0]), batch.x, keys, deviation, weight
        )
        return value + term, aux

    return wrapped


@OBJECTIVES.register(
    "label_smoothing",
    source="Szegedy et al. 2016, arXiv 1512.00567, section 7",
    needs=(CLASSES,),
)
def label_smoothing(loss: Loss, smoothing: base.BelowOne = 0.1) -> Loss:
    r"""Label smoothing: targets that leave every class some probability.

    .. math:: L_i = -\sum_k q_{ik} \log p_{ik}, \qquad
              q_{ik} = (1 - \epsilon)\,[k = y_i] + \epsilon / K

    that is, :math:`1 - \epsilon` of the loss and :math:`\epsilon` of the cross entropy with the
    uniform distribution over the K classes. What is told of the test split stays the plain loss;
    the training loss is the smoothed one, which is never below the entropy of :math:`q_i`.

    Args:
      loss: of a batch, in nats.
      smoothing: :math:`\epsilon`; the paper's is 0.1, for 1000 classes. 0 is the plain loss.
    """

    def wrapped(forward: Forward, batch: Batch) -> tuple[jax.Array, tuple[Any, Any]]:
        value, aux = loss(forward, batch)
        uniform = -jnp.mean(jax.nn.log_softmax(base.widen(aux[0]))).astype(value.dtype)
        share = jnp.asarray(smoothing).astype(value.dtype)
        return (1 - share) * value + share * uniform, aux

    return wrapped
