"""Learning rates from curvature radii: exact, per parameter (CBLR), and by medians (MCLR)."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from sbt.optim import base
from sbt.optim.layerwise import Layer, scale_by_layer_ratio, with_rate_inside

CHUNK = 8  # products at a time: little memory, and enough to fill a machine


# --- the diagonal of the Hessian ------------------------------------------------------------------


def exact_hessian_diagonal(
    loss_fn: Callable[..., jax.Array], params: Any, *args: Any, chunk: int | None = CHUNK
) -> Any:
    r"""The diagonal :math:`h_i = \partial^2 L / \partial w_i^2`, one Hessian-vector product each.

    The cost is that of :math:`2d` gradients for :math:`d` parameters: for nets of ten thousand
    parameters at most. Networks of piecewise linear layers have the curvature of their smooth
    pieces only.

    Args:
      loss_fn: ``loss_fn(params, *args)``, a scalar.
      params: the point.
      *args: passed on, a batch for example.
      chunk: products computed at a time: the memory is that of as many gradients; None for all.

    Returns:
      A tree like ``params``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> print(optim.exact_hessian_diagonal(lambda w: w[0] ** 2 * w[1], jnp.array([1.0, 3.0])))
      [6. 0.]
    """
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda w: loss_fn(unravel(w), *args))

    def entry(i: jax.Array) -> jax.Array:
        basis = jnp.zeros_like(flat).at[i].set(1)
        return jax.jvp(gradient, (flat,), (basis,))[1][i]

    if flat.size == 0:
        return params
    at_once = min(chunk or flat.size, flat.size)
    return unravel(jax.lax.map(entry, jnp.arange(flat.size), batch_size=at_once))


def hutchinson_diagonal(gradient: Callable[[Any], Any], params: Any, signs: Any) -> Any:
    r"""One unbiased sample :math:`v \odot Hv` of the diagonal, with random signs :math:`v`.

    Its variance is :math:`\sum_{j \ne i} H_{ij}^2` in entry i: exact for a diagonal Hessian, noisy
    where the off-diagonal entries dominate. Average samples of different signs. Note that rules
    divide by the estimate's magnitude, whose average over noise is larger than that of the entry.

    Args:
      gradient: of the loss, a function of the params.
      params: the point.
      signs: :math:`v`, a tree like ``params``: fresh ones per call.

    Returns:
      A tree like ``params``, whose sum is a sample of the trace; the cost is that of two gradients.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> gradient = jax.grad(lambda w: 2.0 * w[0] ** 2 - w[1] ** 2)
      >>> signs = optax.tree.random_like(jax.random.key(0), jnp.ones(2), jax.random.rademacher)
      >>> print(optim.hutchinson_diagonal(gradient, jnp.ones(2), signs))
      [ 4. -2.]
    """
    return jax.tree.map(jnp.multiply, signs, jax.jvp(gradient, (params,), (signs,))[1])


# --- CBLR -----------------------------------------------------------------------------------------


@base.RULES.register(
    "cblr",
    source="Gao and Zhong 2020, arXiv 2012.08795, equations 9-11",
    needs=("hessian_diagonal",),
    defaults={"momentum": 0.0},
)
def cblr(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = None,
    ema_decay: base.Decay = 0.0,
    curvature_floor: base.NonNegative = 1e-3,
    fallback_radius: base.NonNegative = 1.0,
    *,
    weight_decay: base.NonNegative = 0.0,
    radius_ceiling: base.Positive | None = None,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""CBLR: curvature-based learning rate, with the exact radius for each parameter.

    .. math::

      w_i \leftarrow w_i - \gamma R_i\, g_i, \qquad R_i = \frac{(1 + g_i^2)^{3/2}}{|h_i|}, \qquad
      h_i = \frac{\partial^2 L}{\partial w_i^2}

    a diagonal Newton direction without its sign problem. The paper divides by :math:`h_i` as it is;
    here by :math:`\max(\overline{|h_i|}, h_{min})` with a bias-corrected moving average, because a
    single noisy :math:`h_i \approx 0` gives an unbounded step. The floor bounds the radius where
    gradients are small; ``radius_ceiling`` bounds it, :math:`\min(R_i, R_{max})`, also where they
    are large and the numerator grows with their cube. Weight decay is part of the objective:
    :math:`g_i + \lambda w_i` and :math:`h_i + \lambda` take the place of :math:`g_i` and
    :math:`h_i`. Momentum is not specified in the paper; here it may follow, the learning rate
    inside the buffer.

    Args:
      learning_rate: :math:`\gamma`, the fraction of the curvature radius to go (dimensionless; a
        Newton step at 1): number, traced scalar or schedule.
      momentum: of the buffer that follows; None (the default) for none.
      ema_decay: of the average of :math:`|h|`, in [0, 1); 0 takes the current value.
      curvature_floor: :math:`h_{min}`, units of loss per parameter². 0 for the paper's formula.
      fallback_radius: :math:`R_i` where even the floored magnitude is 0.
      weight_decay: :math:`\lambda`, coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      radius_ceiling: :math:`R_{max}`, in the units of a radius; may be traced. None for no bound.
        The paper has none.
      decay_mask: leaves to decay, see :func:`sbt.optim.sgd`.

    Returns:
      The update rule. ``update(updates, state, params, hessian_diagonal=h)`` needs the diagonal of
      the Hessian of the loss *without* decay, a tree like params:
      :func:`exact_hessian_diagonal` or samples of :func:`hutchinson_diagonal`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> loss = lambda w: 1e-4 * (w[0] ** 2 + 100 * w[1] ** 2)
      >>> w = jnp.array([1.0, 1.0])
      >>> rule = optim.cblr(1.0, curvature_floor=0.0)
      >>> h = optim.exact_hessian_diagonal(loss, w)
      >>> updates, _ = rule.update(jax.grad(loss)(w), rule.init(w), w, hessian_diagonal=h)
      >>> print([f'{u:.3f}' for u in updates])
      ['-1.000', '-1.001']

    References:
      Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the
      Second Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equations 9-11)
    """

    average = optax.ema(ema_decay)

    def init(params: Any) -> optax.EmaState:
        return average.init(jax.tree.map(base.widen, params))

    def update(
        updates: Any,
        state: optax.EmaState,
        params: Any = None,
        *,
        hessian_diagonal: Any = None,
        **extra: Any,
    ) -> Any:
        del extra
        base.need_params(params)
        base.need_real("cblr", updates, params)
        if hessian_diagonal is None:
            raise ValueError(
                "This rule needs update(updates, state, params, hessian_diagonal=...)."
            )
        decay = jax.tree.map(
            lambda decayed: weight_decay if decayed else 0.0, base.mask_leaves(decay_mask, params)
        )
        curvature = jax.tree.map(
            lambda h, decay: jnp.abs(base.widen(h) + decay), hessian_diagonal, decay
        )
        curvature, state = average.update(curvature, state)

        def leaf(g: jax.Array, w: jax.Array, size: jax.Array, decay: Any) -> jax.Array:
            gradient = g + decay * w
            size = jnp.maximum(size, curvature_floor)
            flat = size == 0
            arc = (1 + jnp.square(gradient)) ** 1.5
            radius = jnp.where(flat, fallback_radius, arc / jnp.where(flat, 1, size))
            if radius_ceiling is not None:
                radius = jnp.minimum(radius, radius_ceiling)
            return radius * gradient

        return jax.tree.map(leaf, updates, params, curvature, decay), state

    return with_rate_inside(base.Rule(init, update), learning_rate, momentum)


# --- MCLR -----------------------------------------------------------------------------------------


def _order_statistic(keys: jax.Array, k: int) -> jax.Array:
    """The k-th smallest (from 0) of unsigned integers, one bit of the answer per pass."""
    bits = keys.dtype.itemsize * 8
    one = jnp.ones((), keys.dtype)

    def decide(i: jax.Array, prefix: jax.Array) -> jax.Array:
        candidate = prefix | (one << (bits - 1 - i).astype(keys.dtype))
        below = jnp.sum(keys < candidate, dtype=jnp.int32)
        return jnp.where(below <= k, candidate, prefix)

    return jax.lax.fori_loop(0, bits, decide, jnp.zeros((), keys.dtype))


def median(x: jax.Array, kind: Literal["midpoint", "lower"] = "midpoint") -> jax.Array:
    """Median of all entries: for an even count the mean of the two middle ones, or the lower one.

    ``torch.median`` returns the lower one, NumPy and JAX the midpoint. A NaN makes it NaN, and the
    median of nothing is NaN. Its derivative is that of the entries in the middle.

    It selects without sorting, exactly: floats, read as integers with the sign turned, are in the
    same order, and each pass over them decides a bit. Sorting takes ten times as long on CPU, and
    in lanes it would be done at every tick.
    """
    return _median(x.ravel(), kind)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _median(flat: jax.Array, kind: str) -> jax.Array:
    low, high = _middle(flat, kind)
    middle = low if low is high else (low + high) / 2
    return jnp.where(jnp.any(jnp.isnan(flat)), jnp.full((), jnp.nan, flat.dtype), middle)


@_median.defjvp
def _(kind: str, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    (flat,), (moved,) = primals, tangents
    if not flat.size:
        return _median(flat, kind), jnp.zeros((), flat.dtype)

    def entry(value: jax.Array) -> jax.Array:
        """The tangent of the entries of this value, on average where several are equal."""
        same = (flat == value).astype(flat.dtype)
        return jnp.sum(same * moved) / jnp.maximum(jnp.sum(same), jnp.ones((), flat.dtype))

    low, high = _middle(flat, kind)
    return _median(flat, kind), (entry(low) + entry(high)) / 2


def _middle(flat: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
    """The two middle entries, the same object twice where they are one; NaN of nothing."""
    if not flat.size:
        nothing = jnp.full((), jnp.nan, flat.dtype)
        return nothing, nothing
    unsigned = jnp.dtype(f"uint{8 * flat.dtype.itemsize}")
    top = jnp.ones((), unsigned) << jnp.asarray(8 * flat.dtype.itemsize - 1, unsigned)
    pattern = jax.lax.bitcast_convert_type(flat, unsigned)
    keys = jnp.where(pattern >= top, ~pattern, pattern | top)

    def value(key: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(jnp.where(key >= top, key ^ top, ~key), flat.dtype)

    rank = (flat.size - 1) // 2
    key = _order_statistic(keys, rank)
    low = value(key)
    if kind == "lower" or flat.size % 2:
        return low, low
    following = jnp.min(jnp.where(keys > key, keys, ~jnp.zeros((), unsigned)))
    repeated = jnp.sum(keys <= key, dtype=jnp.int32) > rank + 1
    return low, value(jnp.where(repeated, key, following))


@base.RULES.register(
    "mclr",
    source="Gao and Zhong 2020, arXiv 2012.08795, equations 20-22",
    defaults={"momentum": 0.0},
)
def mclr(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = None,
    weight_decay: base.NonNegative = 0.0,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    reading: Literal["magnitudes", "ratio", "signed"] = "magnitudes",
    decay_form: Literal["sum", "inside"] = "sum",
    median_kind: Literal["midpoint", "lower"] = "midpoint",
    decay_mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""MCLR: median-curvature learning rate, one radius for each layer.

    .. math::

      w_l \leftarrow w_l - \gamma\, R_l\, (g_l + \lambda w_l), \qquad
      R_l \approx \left|\frac{w_m}{g_m + \lambda w_m}\right|

    with "median values" :math:`w_m, g_m`. The medians of signed, nearly symmetric tensors are
    nearly 0/0, so the default reads them as medians of magnitudes:

    ============== ===================================== =======================================
    ``reading``    ``decay_form='sum'``                  ``decay_form='inside'``
    ============== ===================================== =======================================
    ``magnitudes`` med|w| / (med|g| + λ med|w|)          med|w| / med|g + λw|
    ``ratio``      med|w / (g + λw)|                     the same
    ``signed``     |med w / (med g + λ med w)|           |med w / med(g + λw)|
    ============== ===================================== =======================================

    In ``ratio`` an entry without gradient counts as an infinite radius. A layer whose radius is 0
    or infinite (zero weights; more than half of the gradient zero, as with dead units or dropout
    at small batches) takes ``fallback_ratio``, as do the leaves that ``ratio_mask`` leaves out.

    Momentum is not specified in the paper; here it may follow, the learning rate inside the buffer
    as in LARS.

    Args:
      learning_rate: :math:`\gamma`, the fraction of the radius to go (dimensionless): number,
        traced scalar or schedule.
      momentum: of the buffer that follows; None (the default) for none.
      weight_decay: :math:`\lambda` (the paper's :math:`\beta`), coefficient of
        :math:`\tfrac12\|w\|^2` in the mean loss.
      fallback_ratio: the radius where there is none.
      reading: what the median is taken of.
      decay_form: how the decay enters the denominator; ``'sum'`` is the printed equation 22.
      median_kind: of an even count of entries: ``'midpoint'``, or ``'lower'`` as in PyTorch, which
        the paper used.
      decay_mask: leaves to decay, see :func:`sbt.optim.layerwise.scale_by_layer_ratio`.
      ratio_mask: leaves with a rate of their own.

    Returns:
      The update rule.

    Raises:
      UserError: for another ``reading``, ``decay_form`` or ``median_kind``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> w, g = jnp.array([[1.0, -2.0, 9.0]]), jnp.array([[0.1, 0.4, -0.2]])
      >>> rule = optim.mclr(0.01)
      >>> print(rule.update(g, rule.init(w), w)[0])
      [[-0.01 -0.04  0.02]]

    References:
      Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the
      Second Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equations 20-22)
    """
    for field, value, choices in (
        ("reading", reading, ("magnitudes", "ratio", "signed")),
        ("decay_form", decay_form, ("sum", "inside")),
        ("median_kind", median_kind, ("midpoint", "lower")),
    ):
        base.one_of(field, value, choices)

    def ratio(layer: Layer) -> tuple[jax.Array, Any]:
        w, g, d = layer.weights, layer.gradient, layer.direction
        base.need_real("mclr", w)
        if reading == "ratio":
            flat = d == 0
            radii = jnp.abs(w) / jnp.where(flat, 1, jnp.abs(d))
            return median(jnp.where(flat, jnp.inf, radii), median_kind), 1.0
        if reading == "magnitudes":
            w, g, d = jnp.abs(w), jnp.abs(g), jnp.abs(d)
        above = median(w, median_kind)
        if decay_form == "inside":
            return jnp.abs(above), jnp.abs(median(d, median_kind))
        return jnp.abs(above), jnp.abs(median(g, median_kind) + layer.decay * above)

    link = scale_by_layer_ratio(
        ratio, 1.0, weight_decay, fallback_ratio, decay_mask=decay_mask, ratio_mask=ratio_mask
    )
    return with_rate_inside(link, learning_rate, momentum)
