"""Muon, a matrix at a time: momentum made orthogonal."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.adam import scale_by_adam

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan, for the steepest rise at 0
STEPS = 5


def orthogonal(x: jax.Array, eps: base.Scalar = 1e-8) -> jax.Array:
    r"""Matrices with their singular values moved near 1, by Newton-Schulz steps.

    .. math::

      X \leftarrow X / (\|X\|_F + \epsilon), \quad \text{then five times} \quad
      X \leftarrow aX + (bA + cA^2)X, \quad A = XX^\top

    Singular values end between about 0.7 and 1.2. A matrix of zeros stays one.

    Args:
      x: ``(..., k, n)``, a matrix in the last two axes.
      eps: :math:`\epsilon`.
    """
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (base.sqrt(jnp.sum(base.square(x), (-2, -1), keepdims=True)) + eps)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT.conj()
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def scale_by_orthogonal(beta: base.Decay, eps: base.Scalar) -> optax.GradientTransformation:
    """:func:`orthogonal` of the bias-corrected average, larger where outputs outnumber inputs."""

    def one(x: jax.Array) -> jax.Array:
        inputs, outputs = x.shape[-2:]
        return max(1.0, outputs / inputs) ** 0.5 * orthogonal(x, eps)

    return optax.chain(
        optax.ema(beta), optax.stateless(lambda updates, _: jax.tree.map(one, updates))
    )


@base.RULES.register(
    "muon", source="Jordan 2024; as in Marek et al. 2025, arXiv 2507.07101, appendix A.2"
)
def muon(
    learning_rate: base.Scalar | base.Schedule,
    beta: base.Decay = 0.95,
    eps: base.Positive = 1e-8,
    adam_ratio: base.Positive = 1.0,
    adam_b1: base.Decay = 0.9,
    adam_b2: base.Decay = 0.999,
    *,
    adam_where: str = "embedding|logits",
) -> base.Rule:
    r"""Muon: every matrix moves by its averaged gradient with all singular values made about 1.

    .. math::

      m_t = \beta m_{t-1} + (1-\beta) g_t, \quad
      w_t = w_{t-1} - \eta \sqrt{\max(1, \tfrac{n}{k})}\;
      \mathrm{NS}_5\!\left(\frac{m_t}{1-\beta^t}\right)
      \quad\text{of shape}\; k \times n

    where :math:`\mathrm{NS}_5`, see :func:`sbt.optim.muon.orthogonal`, is near :math:`U V^\top` of
    :math:`U S V^\top`. ``optax.contrib.muon`` without Nesterov's momentum, and with other matrices:
    the last two axes of any leaf, those before them being a batch, so that a kernel of attention
    ``(3, heads, width, head)`` is made orthogonal head by head. Leaves of fewer axes (or no entry),
    and those of ``adam_where``, take steps of Adam.

    Marek et al. hold the rate of Adam at its own optimum; here it is a multiple of Muon's, so that
    schedules move both.

    Args:
      learning_rate: :math:`\eta`, the spectral norm of a step: number, traced scalar or schedule.
      beta: :math:`\beta \in [0, 1)`.
      eps: :math:`\epsilon` of Adam, and added to :math:`\|X\|_F`.
      adam_ratio: Adam's learning rate over :math:`\eta`.
      adam_b1: :math:`\beta_1` of Adam.
      adam_b2: :math:`\beta_2` of Adam.
      adam_where: regular expression, found in the path of leaves of Adam, such as
        ``['params']['embedding']``; empty: none.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.muon(0.1)
      >>> w = jnp.eye(2)
      >>> steps = [rule.update(g * w, rule.init(w), w)[0] for g in (1.0, 1000.0)]
      >>> print(bool(jnp.allclose(*steps)), steps[0].shape)
      True (2, 2)

    References:
      Jordan et al., `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024

      Marek et al., `Small Batch Size Training for Language Models
      <https://arxiv.org/abs/2507.07101>`_, 2025 (appendix A.2)
    """
    base.need_numbers(beta=beta, eps=eps, adam_ratio=adam_ratio)
    adam_rate = base.map_schedule(lambda rate: adam_ratio * rate, learning_rate)
    links = {
        "muon": base.chain(
            scale_by_orthogonal(beta, eps), base.scale_by_learning_rate(learning_rate)
        ),
        "adam": base.chain(
            scale_by_adam(adam_b1, adam_b2, eps), base.scale_by_learning_rate(adam_rate)
        ),
    }

    def label(path: Any, leaf: jax.Array) -> str:
        adam = adam_where and re.search(adam_where, jax.tree_util.keystr(path))
        return "adam" if leaf.ndim < 2 or not leaf.size or adam else "muon"

    inner = optax.partition(links, lambda params: jax.tree_util.tree_map_with_path(label, params))
    return base.Rule(inner.init, inner.update)
