r"""Layer-wise learning rates from norms: LARS, LAMB, PercentDelta and CLARS.

All of them multiply each leaf's direction by a rate of its own, and must say what to do where there
is none: :func:`scale_by_layer_ratio`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.errors import UserError
from sbt.optim import base
from sbt.optim.adam import scale_by_adam


class Layer(NamedTuple):
    """One leaf as a layer-wise rule sees it."""

    weights: jax.Array
    gradient: jax.Array  # without decay
    direction: jax.Array  # gradient + decay * weights
    decay: Any  # shape=(); 0 for leaves that the decay mask leaves out


Ratio = Callable[..., tuple[Any, Any]]


def scale_by_layer_ratio(
    ratio: Ratio,
    coefficient: base.Scalar = 1.0,
    weight_decay: base.NonNegative = 0.0,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    decay_mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
    extra: str | None = None,
) -> base.Rule:
    r"""Multiplies every leaf's decayed gradient by a learning rate of its own.

    .. math::

      d_l = g_l + \lambda w_l, \qquad d_l \leftarrow \gamma\, R_l\, d_l, \qquad
      R_l = \frac{\text{numerator}}{\text{denominator}}

    A leaf has no ratio where ``ratio_mask`` leaves it out, and where numerator or denominator is 0
    or infinite (a layer of zeros, a layer without gradient): there :math:`R_l` is
    ``fallback_ratio``, which makes it a plain gradient step. A NaN stays one.

    Args:
      ratio: function of a :class:`Layer` (and, with ``extra``, of the leaf of that extra argument)
        that returns numerator and denominator, both scalars.
      coefficient: :math:`\gamma`.
      weight_decay: :math:`\lambda`, coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      fallback_ratio: :math:`R_l` of the leaves that have none.
      decay_mask: leaves to decay, see :func:`sbt.optim.sgd`; by default biases and normalisation
        parameters are left out.
      ratio_mask: leaves that have a ratio, likewise.
      extra: name of an extra argument of ``update`` with one leaf for each leaf of params.

    Returns:
      The transformation; it needs params and has no state.
    """

    def leaf(g: jax.Array, w: jax.Array, decayed: bool, adaptive: bool, *more: jax.Array) -> Any:
        decay = weight_decay if decayed else 0.0
        direction = g + decay * w
        if not adaptive:
            return coefficient * fallback_ratio * direction
        above, below = map(jnp.asarray, ratio(Layer(w, g, direction, decay), *more))
        missing = (above == 0) | (below == 0) | jnp.isinf(above) | jnp.isinf(below)
        # The direction is divided first: it may be as small as the denominator, and the quotient of
        # the two norms alone could overflow. What is missing enters no product, so that derivatives
        # stay finite.
        unit = direction / jnp.where(missing, 1, below)
        return unit * (
            coefficient * jnp.where(missing, fallback_ratio, jnp.where(missing, 1, above))
        )

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        base.need_params(params)
        if extra is not None and extra_args.get(extra) is None:
            raise ValueError(f"This rule needs update(updates, state, params, {extra}=...).")
        trees = [] if extra is None else [extra_args[extra]]
        masks = [base.mask_leaves(each, params) for each in (decay_mask, ratio_mask)]
        return jax.tree.map(leaf, updates, params, *masks, *trees), state

    return base.Rule(lambda _: optax.EmptyState(), update)


def with_rate_inside(
    link: optax.GradientTransformation,
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None,
    nesterov: bool = False,
) -> base.Rule:
    r"""``link``, then the learning rate, then momentum: :math:`v \leftarrow \beta v + \eta_t d_t`.

    The order of LARS. A change of the learning rate reaches the buffer's contents only as they
    decay; with a constant rate it equals the order of :func:`sbt.optim.sgd`.
    """
    return base.chain(
        link, base.scale_by_learning_rate(learning_rate), base.heavy_ball(momentum, nesterov)
    )


@base.RULES.register("lars", source="You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1")
def lars(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.9,
    weight_decay: base.NonNegative = 0.0,
    trust_coefficient: base.Positive = 0.001,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    nesterov: bool = False,
    form: Literal["paper", "optax"] = "paper",
    decay_mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""LARS: layer-wise adaptive rate scaling, the learning rate inside the momentum buffer.

    .. math::

      \lambda_l = \eta \frac{\|w_l\|}{\|g_l\| + \beta \|w_l\|}, \qquad
      v_l \leftarrow m v_l + \gamma_t \lambda_l (g_l + \beta w_l), \qquad w_l \leftarrow w_l - v_l

    The printed formula is defined at :math:`g_l = 0` if :math:`\beta > 0`. Where it is not, where
    :math:`w_l = 0` (it would never move) and on the skip list, :math:`\lambda_l` is :math:`\eta`
    times ``fallback_ratio``.

    ``optax.lars`` differs in the denominator, :math:`\|g_l + \beta w_l\|` (``form='optax'``), in
    these leaves, whose rate is 1 there (``fallback_ratio=1/trust_coefficient``: with the usual
    coefficient a zero-initialised bias then moves a thousand times farther than a weight), and in
    rating biases and normalisation parameters like weights by default; the paper is silent on the
    last two. The paper uses :math:`\eta = 0.001`, :math:`m = 0.9`, :math:`\beta = 5\cdot10^{-4}`,
    and a learning rate that decays with power 2.

    Args:
      learning_rate: :math:`\gamma`, dimensionless: number, traced scalar or schedule.
      momentum: :math:`m \in [0, 1)`; None keeps no buffer.
      weight_decay: :math:`\beta` of the paper, coefficient of :math:`\tfrac12\|w\|^2` in the loss.
      trust_coefficient: :math:`\eta`, step length of a layer relative to its norm, at learning
        rate 1 (dimensionless).
      fallback_ratio: value taken for :math:`\|w_l\|/\|g_l\|` where there is none.
      nesterov: use Nesterov's look-ahead.
      form: which denominator.
      decay_mask: leaves to decay, see :func:`scale_by_layer_ratio`.
      ratio_mask: leaves with a LARS rate; False puts a leaf on the skip list.

    Returns:
      The update rule.

    Raises:
      UserError: for another ``form``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> params = {'kernel': 2 * jnp.ones((2, 2)), 'bias': jnp.zeros(2)}
      >>> grads = {'kernel': 100 * jnp.ones((2, 2)), 'bias': jnp.ones(2)}
      >>> rule = optim.lars(learning_rate=1.0, trust_coefficient=0.001)
      >>> updates, state = rule.update(grads, rule.init(params), params)
      >>> print(updates['kernel'][0], updates['bias'])
      [-0.002 -0.002] [-0.001 -0.001]

    References:
      You, Gitman and Ginsburg, `Large Batch Training of Convolutional Networks
      <https://arxiv.org/abs/1708.03888>`_, 2017 (algorithm 1)
    """
    base.one_of("form", form, ("paper", "optax"))

    def ratio(layer: Layer) -> tuple[jax.Array, jax.Array]:
        weights = base.l2_norm(layer.weights)
        if form == "optax":
            return weights, base.l2_norm(layer.direction)
        return weights, base.l2_norm(layer.gradient) + layer.decay * weights

    link = scale_by_layer_ratio(
        ratio,
        trust_coefficient,
        weight_decay,
        fallback_ratio,
        decay_mask=decay_mask,
        ratio_mask=ratio_mask,
    )
    return with_rate_inside(link, learning_rate, momentum, nesterov)


def _check_clamp(where: str, values: Mapping[str, Any]) -> None:
    """Refuses bounds of LAMB's clamp in the wrong order."""
    low, high = values["phi_min"], values["phi_max"]
    if values["phi"] == "clamp" and low > high:
        remedy = "give a phi_min below phi_max"
        raise UserError(f"{where}.phi_min", f"{low} is above phi_max, {high}", remedy)


@base.RULES.register(
    "lamb", source="You et al. 2019, arXiv 1904.00962, algorithm 2", check=_check_clamp
)
def lamb(
    learning_rate: base.Scalar | base.Schedule,
    b1: base.Decay = 0.9,
    b2: base.Decay = 0.999,
    eps: base.Positive = 1e-6,
    weight_decay: base.NonNegative = 0.0,
    *,
    phi: Literal["identity", "clamp"] = "identity",
    phi_min: base.NonNegative = 0.0,
    phi_max: base.Positive = 10.0,
    decay_mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""LAMB: layer-wise adaptive moments for large batches.

    .. math::

      u_l = r_l + \lambda w_l, \qquad
      w_l \leftarrow w_l - \eta_t \frac{\phi(\|w_l\|)}{\|u_l\|}\, u_l

    with the bias-corrected direction :math:`r` of :func:`sbt.optim.scale_by_adam`. Where
    :math:`\phi(\|w_l\|)` or :math:`\|u_l\|` is 0, and on leaves that ``ratio_mask`` leaves out, the
    factor is 1 (a step of AdamW): unlike LARS's, LAMB's learning rate is of Adam's size.

    ``optax.lamb`` is this with ``phi='identity', decay_mask='all', ratio_mask='all'``. The paper
    uses :math:`\lambda = 0.01`, square-root scaling of the learning rate, and warm-up.

    Args:
      learning_rate: :math:`\eta`, step length of a layer relative to :math:`\phi(\|w_l\|)`
        (dimensionless for ``phi='identity'``): number, traced scalar or schedule.
      b1: :math:`\beta_1`, decay of the first moment.
      b2: :math:`\beta_2`, decay of the second moment.
      eps: :math:`\epsilon` of Adam, in gradient units.
      weight_decay: :math:`\lambda`, outside the moments; units of 1 per parameter unit.
      phi: ``'identity'`` or ``'clamp'``, :math:`\phi(z) = \min(\max(z, \phi_{min}), \phi_{max})`.
        The paper admits both and names no bounds for its runs.
      phi_min: lower clamp, in parameter units; read with ``phi='clamp'`` only.
      phi_max: upper clamp, likewise; 10 is common in released code.
      decay_mask: leaves to decay, see :func:`scale_by_layer_ratio`.
      ratio_mask: leaves that are rescaled.

    Returns:
      The update rule.

    Raises:
      UserError: for another ``phi``, or a lower clamp above the upper one.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> w, g = jnp.array([[3.0, 4.0]]), jnp.array([[1e-3, -1e3]])
      >>> rule = optim.lamb(0.1)
      >>> updates, _ = rule.update(g, rule.init(w), w)
      >>> print(f'{jnp.linalg.norm(updates) / jnp.linalg.norm(w):.3f}')
      0.100

    References:
      You et al., `Large Batch Optimization for Deep Learning: Training BERT in 76 minutes
      <https://arxiv.org/abs/1904.00962>`_, 2019 (algorithm 2)
    """
    base.one_of("phi", phi, ("identity", "clamp"))
    if isinstance(phi_min, int | float) and isinstance(phi_max, int | float):  # known, not traced
        _check_clamp("lamb", {"phi": phi, "phi_min": phi_min, "phi_max": phi_max})

    def ratio(layer: Layer) -> tuple[jax.Array, jax.Array]:
        size = base.l2_norm(layer.weights)
        size = jnp.clip(size, phi_min, phi_max) if phi == "clamp" else size
        return size, base.l2_norm(layer.direction)

    return base.chain(
        scale_by_adam(b1, b2, eps),
        scale_by_layer_ratio(
            ratio, 1.0, weight_decay, decay_mask=decay_mask, ratio_mask=ratio_mask
        ),
        base.scale_by_learning_rate(learning_rate),
    )


@base.RULES.register(
    "percent_delta",
    source="Abu-El-Haija 2017, arXiv 1708.07227; Gao and Zhong 2020, arXiv 2012.08795, eq. 24",
    defaults={"momentum": 0.0},
)
def percent_delta(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = None,
    weight_decay: base.NonNegative = 0.0,
    weight_floor: base.NonNegative = 1e-6,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    decay_mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""PercentDelta: every layer changes by the same average percentage.

    .. math::

      d_l = g_l + \lambda w_l, \qquad
      \Delta w_l = -\gamma\, \frac{\mathrm{size}(w_l)}{\|d_l / (|w_l| + \epsilon)\|_1}\, d_l
      \quad\Longrightarrow\quad
      \operatorname{mean}_i |\Delta w_i / w_i| = \gamma \text{ for } \epsilon = 0

    With :math:`\epsilon = 0` the rate is the harmonic mean of the radii :math:`|w_i/d_i|`, so the
    smallest weights of a layer decide; a single weight of exactly 0 makes it 0, and the layer then
    takes ``fallback_ratio``. The author's released code adds :math:`10^{-6}` to :math:`|w|` (the
    default here), :math:`10^{-5}` to the mean, and multiplies by a target that falls during
    training; the last two are left to the learning rate here. Momentum is no part of it; here it
    may follow, the learning rate inside the buffer as in LARS.

    Args:
      learning_rate: :math:`\gamma`, the mean relative change of a layer's weights per update
        (dimensionless): number, traced scalar or schedule.
      momentum: of the buffer that follows; None (the default) for none.
      weight_decay: :math:`\lambda`; the paper has none.
      weight_floor: :math:`\epsilon`, in parameter units.
      fallback_ratio: the rate of leaves that have none, see :func:`scale_by_layer_ratio`.
      decay_mask: leaves to decay, see :func:`scale_by_layer_ratio`.
      ratio_mask: leaves with a rate of their own.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> w, g = jnp.array([[1.0, -2.0]]), jnp.array([[5.0, 30.0]])
      >>> rule = optim.percent_delta(0.01, weight_floor=0.0)
      >>> updates, _ = rule.update(g, rule.init(w), w)
      >>> print(updates, jnp.mean(jnp.abs(updates / w)))
      [[-0.005 -0.03 ]] 0.01

    References:
      Abu-El-Haija, `Proportionate gradient updates with PercentDelta
      <https://arxiv.org/abs/1708.07227>`_, 2017

      Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the
      Second Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equation 24)
    """

    def ratio(layer: Layer) -> tuple[Any, jax.Array]:
        change, size = jnp.abs(layer.direction), jnp.abs(layer.weights) + weight_floor
        relative = change / jnp.where(change == 0, 1, size)
        return 1.0, jnp.mean(relative)

    link = scale_by_layer_ratio(
        ratio, 1.0, weight_decay, fallback_ratio, decay_mask=decay_mask, ratio_mask=ratio_mask
    )
    return with_rate_inside(link, learning_rate, momentum)


@base.RULES.register(
    "clars", source="Huo, Gu and Huang 2021, arXiv 2002.01576", needs=("example_norms",)
)
def clars(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.9,
    weight_decay: base.NonNegative = 0.0,
    trust_coefficient: base.Positive = 0.001,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    decay_mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""CLARS: LARS with the mean norm of the *per-example* gradients in the denominator.

    .. math::

      d_l = \eta\, \frac{\|w_l\|}{\tfrac1B \sum_i \|\nabla_l f_i(w)\| + \lambda\|w_l\|}\,
      (g_l + \lambda w_l), \qquad
      v_l \leftarrow m v_l + \gamma_t d_l, \qquad w_l \leftarrow w_l - v_l

    The norm of the averaged gradient, LARS's denominator, is small where the examples disagree,
    early in training above all; the average of the norms is not, which is why no warm-up is needed.
    For a batch of one example this is LARS. The place of the decay in the denominator is not taken
    from the paper; it is LARS's, so that the two agree there.

    Args:
      learning_rate: :math:`\gamma`, dimensionless: number, traced scalar or schedule.
      momentum: :math:`m \in [0, 1)`; None keeps no buffer.
      weight_decay: :math:`\lambda`, coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      trust_coefficient: :math:`\eta`, dimensionless.
      fallback_ratio: value of the ratio where there is none (zero weights, zero norms, leaves that
        ``ratio_mask`` leaves out).
      decay_mask: leaves to decay, see :func:`scale_by_layer_ratio`.
      ratio_mask: leaves with a rate of their own.

    Returns:
      The update rule. ``update(updates, state, params, example_norms=norms)`` needs the mean norms,
      a tree like params of scalars, of the *whole* batch: average :func:`mean_example_norms` over
      micro-batches and over devices as gradients are.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from sbt import optim
      >>> loss = lambda w, x: jnp.mean(x @ w)
      >>> w, x = jnp.ones((2, 2)), jnp.array([[3.0, 4.0], [-3.0, 4.0]])
      >>> rule = optim.clars(1.0, trust_coefficient=0.1)
      >>> norms = optim.mean_example_norms(loss, w, x)
      >>> updates, _ = rule.update(jax.grad(loss)(w, x), rule.init(w), w, example_norms=norms)
      >>> print(f'{norms:.4f} {updates[1, 0]:.4f} {updates[1, 1]:.4f}')
      3.5355 -0.1131 -0.1131

    References:
      Huo, Gu and Huang, `Large Batch Optimization for Deep Learning Using New Complete Layer-Wise
      Adaptive Rate Scaling <https://arxiv.org/abs/2002.01576>`_, 2021
    """

    def ratio(layer: Layer, example_norm: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = base.l2_norm(layer.weights)
        return weights, example_norm + layer.decay * weights

    link = scale_by_layer_ratio(
        ratio,
        trust_coefficient,
        weight_decay,
        fallback_ratio,
        decay_mask=decay_mask,
        ratio_mask=ratio_mask,
        extra="example_norms",
    )
    return with_rate_inside(link, learning_rate, momentum)


def mean_example_norms(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    batch: Any,
    *,
    micro_batch: int = 1,
    chunk: int | None = None,
) -> Any:
    r"""Mean over a batch of each layer's per-example gradient norm.

    .. math:: \frac1B \sum_{i=1}^B \|\nabla_l f_i(w)\|_2 \quad\text{for every leaf } l

    With ``micro_batch`` :math:`g > 1` it is the mean over the :math:`B/g` micro-batches of the norm
    of their mean gradient: cheaper, and smaller by up to :math:`\sqrt g`.

    Args:
      loss_fn: ``loss_fn(params, batch)``, the mean loss of a batch of any size.
      params: the point.
      batch: a tree of arrays with a common leading dimension of B examples.
      micro_batch: :math:`g`, must divide B.
      chunk: number of gradients held in memory at a time; None for all (B/g copies of params).

    Returns:
      A tree like ``params`` of scalars, in at least float32.

    Raises:
      ValueError: if ``micro_batch`` does not divide the batch.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> loss = lambda w, x: jnp.mean(x * w)
      >>> print(optim.mean_example_norms(loss, jnp.array(1.0), jnp.array([1.0, -1.0, 4.0])))
      2.0
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % micro_batch:
        raise ValueError(f"micro_batch={micro_batch} does not divide the {size} examples")
    groups = jax.tree.map(
        lambda x: x.reshape((size // micro_batch, micro_batch, *x.shape[1:])), batch
    )

    def norms(group: Any) -> Any:
        return jax.tree.map(base.l2_norm, jax.grad(loss_fn)(params, group))

    each = jax.lax.map(norms, groups, batch_size=chunk or size // micro_batch)
    return jax.tree.map(lambda n: jnp.mean(n, axis=0), each)
