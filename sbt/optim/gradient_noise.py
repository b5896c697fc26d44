"""Gaussian noise that is added to gradients: the same in all directions, or that of a small batch.

Both stand beside each other because they are each other's control: noise of the covariance that a
small batch would have had, and noise that knows nothing of the data.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.sgd import sgd


def _noise(rule: str, key: jax.Array | None, like: Any) -> Any:
    """Standard normal numbers, independent in every entry."""
    if key is None:
        raise ValueError(f"{rule} draws noise: update(updates, state, params, key=...).")
    base.need_real(rule, like)
    return optax.tree.random_like(key, like, jax.random.normal)


# --- isotropic ------------------------------------------------------------------------------------


class IsotropicState(NamedTuple):
    """State of :func:`add_isotropic_noise`."""

    count: Any  # shape=(), dtype=int32: updates made


def add_isotropic_noise(
    variance: base.NonNegative = 0.01, noise_decay: base.NonNegative = 0.55
) -> base.Rule:
    r"""Adds :math:`N(0, \sigma_t^2)` to every entry, :math:`\sigma_t^2 = v / (1 + t)^\gamma`.

    As ``optax.add_noise``, which keeps a key of its own in the state; here the key of the update is
    an argument, so that a run resumes and shares a program with others.

    Args:
      variance: :math:`v`, of an entry of the mean gradient at the first update; may be traced.
      noise_decay: :math:`\gamma`, in powers of the number of *updates* t; 0 is constant noise.

    Returns:
      The link; ``update`` needs ``key=``.

    >>> import jax, jax.numpy as jnp
    >>> link = add_isotropic_noise(variance=4.0, noise_decay=0.0)
    >>> g = jnp.zeros(10_000)
    >>> noisy, _ = link.update(g, link.init(g), key=jax.random.key(0))
    >>> print(f'{jnp.std(noisy):.1f}')
    2.0
    """

    def init(params: Any) -> IsotropicState:
        del params
        return IsotropicState(jnp.zeros([], jnp.int32))

    def update(
        updates: Any, state: IsotropicState, params: Any = None, *, key: Any = None, **extra: Any
    ) -> Any:
        del params, extra
        noise = _noise("Isotropic gradient noise", key, updates)
        scale = base.sqrt(variance / (1.0 + state.count) ** jnp.asarray(noise_decay))
        noisy = jax.tree.map(lambda g, n: g + scale * n, updates, noise)
        return noisy, IsotropicState(optax.safe_increment(state.count))

    return base.Rule(init, update)


@base.RULES.register("gradient_noise_sgd", source="Neelakantan et al. 2015, arXiv 1511.06807")
def gradient_noise_sgd(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.0,
    weight_decay: base.NonNegative = 0.0,
    variance: base.NonNegative = 0.01,
    noise_decay: base.NonNegative = 0.55,
    *,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""SGD with isotropic Gaussian noise on the gradient, annealed over the updates.

    .. math::

      \tilde g_t = g_t + N(0, \sigma_t^2 I), \quad \sigma_t^2 = \frac{v}{(1 + t)^\gamma}, \qquad
      u_{t+1} = \beta u_t + \tilde g_t + \lambda w_t, \qquad w_{t+1} = w_t - \eta u_{t+1}

    The paper takes :math:`\gamma = 0.55` and tries :math:`v \in \{0.01, 0.3, 1\}`; noise is added
    after any clipping. ``noise_decay=0`` is noise of constant size.

    t counts updates, as in the paper: at the same progress a run of small batches, which has made
    more of them, has less noise. It is the noise of the *mean* gradient and does not shrink as m
    grows, as that of the data does.

    Args:
      learning_rate: :math:`\eta`, in mean form: number, traced scalar or schedule.
      momentum: as in :func:`sbt.optim.sgd`.
      weight_decay: as in :func:`sbt.optim.sgd`; added after the noise.
      variance: :math:`v`, squared units of the gradient.
      noise_decay: :math:`\gamma`.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule; ``update`` needs ``key=``.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from sbt import optim
      >>> w = jnp.zeros(10_000)
      >>> for decay, updates in ((0.0, 3), (1.0, 3)):
      ...     rule = optim.gradient_noise_sgd(1.0, None, variance=1.0, noise_decay=decay)
      ...     state = rule.init(w)
      ...     for t in range(updates):
      ...         step, state = rule.update(w, state, w, key=jax.random.key(t))
      ...     print(f'{jnp.var(step):.2f}')
      0.99
      0.33

    References:
      Neelakantan et al., `Adding Gradient Noise Improves Learning for Very Deep Networks
      <https://arxiv.org/abs/1511.06807>`_, 2015
    """
    return base.chain(
        add_isotropic_noise(variance, noise_decay),
        sgd(learning_rate, momentum, weight_decay=weight_decay, decay_mask=decay_mask),
    )


# --- of the covariance of a smaller batch ---------------------------------------------------------


def mean_example_squares(loss_fn: Callable[[Any, Any], jax.Array], params: Any, batch: Any) -> Any:
    r"""Mean over a batch of the squared gradients of its examples, entry by entry.

    .. math:: \frac1B \sum_{i=1}^B (\nabla f_i(w))^2

    the diagonal of the empirical Fisher information where :math:`f_i` is a negative log-likelihood.

    Args:
      loss_fn: ``loss_fn(params, batch)``, the mean loss of a batch of any size.
      params: the point.
      batch: a tree of arrays with a common leading dimension of B examples.

    Returns:
      A tree like ``params``. B copies of them are held at a time.

    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: jnp.mean(x * w)
    >>> print(mean_example_squares(loss, jnp.array(1.0), jnp.array([1.0, -1.0, 4.0])))
    6.0
    """
    singles = jax.tree.map(lambda leaf: leaf[:, None], batch)
    each = jax.vmap(lambda one: jax.grad(loss_fn)(params, one))(singles)
    return jax.tree.map(lambda g: jnp.mean(jnp.square(g), axis=0), each)


def mimicking_variance(
    gradient: jax.Array,
    square: jax.Array,
    batch_size: Any,
    small_batch: base.Scalar,
    diagonal: str = "variance",
) -> jax.Array:
    r"""By how much the variance of a small batch's gradient exceeds that of a large one's.

    .. math::

      \Big(\frac1{m_S} - \frac1m\Big)\, v, \qquad
      v_{\rm variance} = \frac{m}{m-1}\Big(\frac1m \sum_i g_i^2 - \bar g^2\Big), \qquad
      v_{\rm fisher} = \frac1m \sum_i g_i^2

    entry by entry; 0 where the batch is not larger than the small one. ``'variance'`` is unbiased.

    Args:
      gradient: :math:`\bar g`, mean over the batch.
      square: mean over the batch of the squared gradients of single examples, of the same shape.
      batch_size: :math:`m`.
      small_batch: :math:`m_S`, the batch whose noise is wanted.
      diagonal: ``'variance'`` or ``'fisher'``.

    >>> import jax.numpy as jnp
    >>> g = jnp.asarray([1.0, 3.0, 2.0, 6.0])  # of four examples, of variance 14/3
    >>> print(mimicking_variance(g.mean(), (g**2).mean(), 4, 2))
    1.1666666
    """
    m, small = (jnp.asarray(x).astype(gradient.dtype) for x in (batch_size, small_batch))
    more = jnp.maximum(1 / small - 1 / m, 0)
    if diagonal == "fisher":
        return more * square
    spread = jnp.maximum(square - jnp.square(gradient), 0)  # rounding may take it below 0
    return more * spread * m / jnp.maximum(m - 1, 1)


@base.RULES.register(
    "covariance_noise_sgd",
    source="Wen et al. 2019, arXiv 1902.08234",
    needs=("example_squares", "batch_size"),
)
def covariance_noise_sgd(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.0,
    weight_decay: base.NonNegative = 0.0,
    small_batch: base.AtLeastOne = 32.0,
    *,
    diagonal: Literal["variance", "fisher"] = "variance",
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""SGD on a large batch with the gradient noise of a small one, of diagonal covariance.

    .. math::

      \tilde g_t = \bar g_t + \sqrt{\frac{m - m_S}{m\,m_S}}\;\sqrt{v_t} \odot N(0, I), \qquad
      u_{t+1} = \beta u_t + \tilde g_t + \lambda w_t, \qquad w_{t+1} = w_t - \eta u_{t+1}

    A mean over :math:`m_S` examples has the covariance :math:`\Sigma/m_S`; one over m has
    :math:`\Sigma/m`. What lacks is added, with the diagonal of :math:`\Sigma` estimated from the
    batch itself (:func:`mimicking_variance`), so that both mean and entrywise variance are those of
    the small batch. Runs with :math:`m \le m_S` are plain SGD. Mind that :math:`\eta` is that of m:
    to compare with the small batch at *its* rate, set ``lr_scaling='none'``.

    The paper's diagonal is that of the Fisher information, ``diagonal='fisher'``: of gradients
    about 0 instead of about their mean. Here it is that of the given labels (the empirical Fisher);
    no labels are drawn from the model.

    Each update takes the gradients of all examples, one by one: g times the memory of the weights
    for a micro-batch of g.

    Args:
      learning_rate: :math:`\eta`, in mean form: number, traced scalar or schedule.
      momentum: as in :func:`sbt.optim.sgd`.
      weight_decay: as in :func:`sbt.optim.sgd`; added after the noise.
      small_batch: :math:`m_S`, the batch whose noise is mimicked, in examples; need not be whole.
      diagonal: ``'variance'`` of the gradients of single examples, or ``'fisher'``.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule. ``update`` needs ``key=``, ``batch_size=`` m, and ``example_squares=``, see
      :func:`sbt.optim.mean_example_squares`.

    Raises:
      UserError: for another ``diagonal``.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.covariance_noise_sgd(1.0, None, small_batch=4.0)
      >>> w = jnp.zeros(10_000)
      >>> of_batch = {'example_squares': jnp.ones(10_000), 'batch_size': 64}
      >>> step, _ = rule.update(w, rule.init(w), w, key=jax.random.key(0), **of_batch)
      >>> print(f'{jnp.var(step):.2f} {(1 / 4 - 1 / 64) * 64 / 63:.2f}')
      0.24 0.24

    References:
      Wen et al., `An Empirical Study of Stochastic Gradient Descent with Structured Covariance
      Noise <https://arxiv.org/abs/1902.08234>`_, 2019
    """
    base.one_of("diagonal", diagonal, ("variance", "fisher"))

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        key: Any = None,
        example_squares: Any = None,
        batch_size: Any = None,
        **extra: Any,
    ) -> Any:
        del params, extra
        if example_squares is None or batch_size is None:
            raise ValueError(
                "Covariance noise needs update(updates, state, params, key=..., batch_size=..., "
                "example_squares=...), the mean squared gradients of single examples."
            )
        noise = _noise("Covariance noise", key, updates)

        def noisy(g: jax.Array, square: jax.Array, n: jax.Array) -> jax.Array:
            return g + n * base.sqrt(
                mimicking_variance(g, square, batch_size, small_batch, diagonal)
            )

        return jax.tree.map(noisy, updates, example_squares, noise), state

    return base.chain(
        base.Rule(lambda _: optax.EmptyState(), update),
        sgd(learning_rate, momentum, weight_decay=weight_decay, decay_mask=decay_mask),
    )
