r"""Gradient noise scale, and the critical batch size: where larger batches stop to pay.

.. math:: B_{\rm simple} = \frac{\operatorname{tr}\Sigma}{|G|^2}

with the full gradient :math:`G` and the covariance :math:`\Sigma` of per-example gradients; in
examples. The mean gradient of :math:`B` examples has :math:`E|G_B|^2 = |G|^2 +
\operatorname{tr}\Sigma / B`, so two batch sizes are enough to estimate both, without any
per-example gradient.

References:
  McCandlish, Kaplan, Amodei et al., `An Empirical Model of Large-Batch Training
  <https://arxiv.org/abs/1812.06162>`_, 2018 (appendix A)
"""

import re
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.gradients import Moments, example_gradient_moments
from sbt.measure.registry import MEASUREMENTS, Found, Labelled, Subject
from sbt.measure.split import split_size
from sbt.measure.trees import Where, checked_count, checked_key, leaves_of, selected, surface, wide
from sbt.ranges import COUNT, Range

SEVERAL = Range(2, 10**6)


class NoiseScale(NamedTuple):
    """An estimate, of any shape."""

    value: jax.Array  # B_simple, examples; NaN where |G|^2 is not positive
    gradient_square: jax.Array  # |G|^2, may be negative: an estimate
    covariance_trace: jax.Array  # tr Sigma, may be negative
    standard_error: jax.Array | None = None  # of value, examples; where it is estimated


def as_noise_scale(gradient_square: jax.Array, covariance_trace: jax.Array) -> NoiseScale:
    """The ratio; NaN where the estimate of the squared gradient is not positive."""
    positive = gradient_square > 0
    ratio = covariance_trace / jnp.where(positive, gradient_square, 1)
    return NoiseScale(jnp.where(positive, ratio, jnp.nan), gradient_square, covariance_trace)


def square_norm(gradient: Any, where: Where = None) -> jax.Array:
    r"""Squared Euclidean norm :math:`|g|^2` of a gradient, in at least float32.

    Examples:
      >>> print(square_norm({'a': jnp.array([3.0]), 'b': jnp.array([4.0])}))
      25.0
    """
    leaves = [jnp.asarray(leaf) for leaf in leaves_of(gradient, where)]
    each = [jnp.sum(jnp.square(leaf.astype(wide(leaf.dtype)))) for leaf in leaves]
    return jnp.sum(jnp.stack(each))


def noise_scale_from_two(
    small_square: ArrayLike,
    large_square: ArrayLike,
    small_batch: ArrayLike,
    large_batch: ArrayLike,
    *,
    population: int | None = None,
) -> NoiseScale:
    r"""Estimate from the squared gradient norms at two batch sizes :math:`b < B`.

    .. math::

      |G|^2 \approx \frac{B |G_B|^2 - b |G_b|^2}{B - b}, \qquad
      \operatorname{tr}\Sigma \approx \frac{|G_b|^2 - |G_B|^2}{1/b - 1/B}

    Both are unbiased where examples are drawn with replacement. Drawn without (an epoch),
    :math:`E|G_B|^2` lacks :math:`\operatorname{tr}\Sigma/N`; then pass ``population``, and
    :math:`\operatorname{tr}\Sigma / N` is added back (:math:`\Sigma` with divisor :math:`N - 1`).

    The ratio of two noisy estimates is neither unbiased nor sure to be positive: average numerator
    and denominator over steps first, as ``accumulated_noise_scale`` does in training.

    Args:
      small_square: :math:`|G_b|^2`, better the mean over several batches.
      large_square: :math:`|G_B|^2`. It may be the mean of those small gradients.
      small_batch: :math:`b`, examples: the micro-batch, or a device's share.
      large_batch: :math:`B`, examples: the whole SGD batch.
      population: :math:`N`, if examples are drawn without replacement.

    Returns:
      Of the broadcast shape; all NaN where :math:`b = B`, as in a lane that does not accumulate.

    Examples:
      >>> found = noise_scale_from_two(5.0, 2.0, 10, 40)
      >>> print(found.gradient_square, found.covariance_trace, found.value)
      1.0 40.0 40.0
    """
    dtype = jnp.result_type(float)
    small, large, b, big = (
        jnp.asarray(x).astype(dtype) for x in (small_square, large_square, small_batch, large_batch)
    )
    apart = big != b
    gap = jnp.where(apart, big - b, jnp.nan)
    square = (big * large - b * small) / gap
    trace = (small - large) * (b * big) / gap
    if population is not None:
        square = square + trace / population
    return as_noise_scale(square, trace)


def noise_scale_from_examples(moments: Moments, *, population: bool = True) -> NoiseScale:
    r"""Exact value, or an unbiased estimate, from per-example gradients.

    Args:
      moments: from :func:`sbt.measure.example_gradient_moments`.
      population: whether those examples are the whole training set (then this is the exact value at
        this point, :math:`\Sigma` with divisor :math:`N`), or a sample of it (then
        :math:`\operatorname{tr}\Sigma` takes divisor :math:`N - 1`, and :math:`|G|^2` loses
        :math:`\operatorname{tr}\Sigma / N`).

    Examples:
      >>> moments = Moments(jnp.array([1.0, 1.0]), jnp.array([3.0, 7.0]), jnp.asarray(6.0))
      >>> print(noise_scale_from_examples(moments).value)
      5.0
      >>> print(noise_scale_from_examples(moments, population=False).covariance_trace)
      12.0
    """
    square, trace = jnp.sum(jnp.square(moments.mean)), jnp.sum(moments.variance)
    if not population:
        trace = trace * moments.examples / (moments.examples - 1)
        square = square - trace / moments.examples
    return as_noise_scale(square, trace)


def jackknife_error(without: jax.Array) -> jax.Array:
    r"""Standard error of an estimate from those that leave out each sample in turn.

    .. math:: \sqrt{\tfrac{R-1}{R} \textstyle\sum_i (B_{(i)} - \bar B_{(\cdot)})^2}

    Args:
      without: :math:`B_{(i)}` along the first axis, the estimate from all but the :math:`i`-th of
        :math:`R` samples.

    References:
      Efron & Tibshirani, An Introduction to the Bootstrap, 1993 (section 11.5)
    """
    return jnp.sqrt((len(without) - 1) * jnp.var(without, axis=0))


def measure_noise_scale(
    batch_loss: Any,
    params: Any,
    arrays: Any,
    *,
    micro_batch: int,
    count: int = 8,
    repeats: int = 16,
    key: jax.Array | None = None,
    where: Where = None,
) -> NoiseScale:
    r"""Noise scale at one point from random batches: the ratio of averages over ``repeats``.

    Its standard error is the jackknife's, which leaves out each large batch in turn.
    A ratio's error is not normal: it reaches farther up than down.

    Works where per-example gradients do not exist (batch norm) or cost too much: batch norm then
    sees ``micro_batch`` examples.

    Args:
      batch_loss: ``batch_loss(params, batch)``, mean loss over a batch.
      arrays: the training split; tree of arrays with one leading axis of examples.
      micro_batch: :math:`g`, examples of a small gradient.
      count: :math:`k \ge 2`; a large batch has :math:`k g` examples, drawn without replacement.
      repeats: number of large batches.

    Returns:
      ``value`` is NaN where even the average of :math:`|G|^2` is not positive, ``standard_error``
      where that happens with one batch left out, or ``repeats`` is 1: measure more batches, or
      larger ones. Cost: ``count * repeats`` gradients of ``micro_batch`` examples.

    Raises:
      UserError: for batches that the split does not have.
    """
    size, key = split_size(arrays, micro_batch, "micro_batch"), checked_key(key)
    for name, value in (("count", count), ("repeats", repeats)):
        checked_count(name, value, 0)
    if count < 2 or micro_batch * count > size or repeats < 1:
        raise UserError(
            "micro_batch, count, repeats",
            f"{repeats} batches of {count} times {micro_batch} of {size} examples",
            "use at least two micro-batches, and no more examples than there are",
        )
    at = surface(batch_loss, params, where, field="batch_loss")
    arrays = jax.tree.map(jnp.asarray, arrays)
    gradient = jax.grad(at.loss)

    def draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        chosen = jax.random.choice(
            jax.random.fold_in(key, i), size, (count, micro_batch), replace=False
        )

        def add(total: Any, indices: jax.Array) -> tuple[Any, jax.Array]:
            g = gradient(at.point, jax.tree.map(lambda a: a[indices], arrays))
            return total + g, jnp.sum(jnp.square(g))

        total, squares = lax.scan(add, jnp.zeros_like(at.point), chosen)
        return jnp.mean(squares), jnp.sum(jnp.square(total / count))

    squares = jnp.stack(lax.map(draw, jnp.arange(repeats)))  # shape=(2, repeats): small, large
    total = jnp.sum(squares, axis=1, keepdims=True)

    def estimate(means: jax.Array) -> NoiseScale:
        small, large = means
        return noise_scale_from_two(small, large, micro_batch, micro_batch * count, population=size)

    without = estimate((total - squares) / max(1, repeats - 1)).value
    error = jackknife_error(without) if repeats > 1 else jnp.nan
    found = estimate(total[:, 0] / repeats)
    return found._replace(standard_error=jnp.asarray(error, found.value.dtype))


NORMS = r"(?i)norm[^/]*/(scale|bias|gamma|beta)$|(^|[/_])scale(_[^/]*)?$"


def norm_noise_scale(
    example_loss: Any,
    params: Any,
    examples: Any,
    *,
    layers: str = NORMS,
    population: bool = False,
    chunk: int = 64,
    where: Where = None,
) -> NoiseScale:
    r"""Noise scale of the gains and biases of normalisation layers alone, from single examples.

    With :math:`n_b^2` the squared norm of example b's gradient with respect to these parameters,
    summed over all of them before anything is divided,

    .. math::

      |G|^2 = \frac{B |g|^2 - \overline{n^2}}{B - 1}, \qquad
      \operatorname{tr}\Sigma = \frac{\overline{n^2} - |g|^2}{1 - 1/B}

    They are few, so that gradients of single examples are cheap, and their noise scale is told to
    be linear in that of all parameters.

    Args:
      example_loss: loss of one example.
      examples: B of them; tree of arrays with one leading axis.
      layers: regular expression of their paths; by default leaves called ``scale``, and ``scale``
        or ``bias`` of modules called a norm. Batch norm's count only on running statistics.
      population: the examples are the whole training set: divisor B, and nothing taken off.

    Raises:
      UserError: a model without such parameters.

    References:
      Gray et al., `Normalization Layer Per-Example Gradients are Sufficient to Predict Gradient
      Noise Scale in Transformers <https://arxiv.org/abs/2411.00999>`_, 2024
    """
    taken = {path for path, chosen in selected(params, where) if chosen}
    norms = {path for path in taken if re.search(layers, path)}
    if not norms:
        raise UserError(
            "layers",
            f"the model has no parameters of normalisation layers (none of {', '.join(taken)})",
            "give its norms a trained scale (of gpt, --config.model.scaled=True), select other "
            "layers, or measure noise_scale",
        )
    moments = example_gradient_moments(
        example_loss, params, examples, chunk=chunk, where=norms.__contains__
    )
    return noise_scale_from_examples(moments, population=population)


# --- critical batch size -------------------------------------------------------------------------


class CriticalBatch(NamedTuple):
    """A fit of steps to a target against batch size."""

    critical_batch: float  # B_crit, examples
    min_steps: float  # S_min, updates
    min_examples: float  # E_min
    relative_error: float  # standard error of log B_crit; NaN for two points, inf at an end
    residual: float  # root mean square of log S about the fit
    used: int  # batch sizes that reached the target


def fit_critical_batch(batch_sizes: ArrayLike, steps: ArrayLike) -> CriticalBatch:
    r"""Fits the trade-off of steps against examples to measured steps, in relative terms.

    To reach a given loss with batch size :math:`B` takes :math:`S` updates and :math:`E = B S`
    examples, with

    .. math:: \left(\frac{S}{S_{\min}} - 1\right) \left(\frac{E}{E_{\min}} - 1\right) = 1
              \quad\Longleftrightarrow\quad S = S_{\min} + \frac{E_{\min}}{B}

    and :math:`B_{\rm crit} = E_{\min} / S_{\min}`: there it takes twice the least steps and twice
    the least examples.

    Least squares of :math:`\log S`, since steps span decades. Batch sizes that never reached the
    target (steps not finite) are left out. Learning rates should be tuned for each batch size.

    If all points lie on perfect scaling (steps fall as :math:`1/B`) the critical batch is beyond
    them, and infinite here; if larger batches save no step at all, it is 0.

    Args:
      batch_sizes: :math:`B`, examples.
      steps: :math:`S`, updates until the target (a loss or an accuracy) is reached.

    Returns:
      The fit; plain numbers.

    Raises:
      UserError: for fewer than two batch sizes that reached the target, or numbers that are not
        positive.

    Examples:
      >>> batch = np.array([8, 32, 128, 512, 2048])
      >>> fit = fit_critical_batch(batch, 500 * (1 + 100 / batch))
      >>> print(f'{fit.critical_batch:.1f} {fit.min_steps:.1f} {fit.min_examples:.0f}')
      100.0 500.0 50000
    """
    import scipy.optimize  # half a second that training does not need

    b, s = (np.asarray(x, np.float64).ravel() for x in (batch_sizes, steps))
    if b.shape != s.shape:
        raise UserError("steps", f"{s.size} for {b.size} batch sizes", "give one for each")
    reached = np.isfinite(s)
    b, s = b[reached], s[reached]
    if len(np.unique(b)) < 2:
        raise UserError(
            "steps",
            f"{len(np.unique(b))} batch sizes reached the target",
            "two are the least: choose a target that more of them reach",
        )
    if np.any(b <= 0) or np.any(s <= 0):
        raise UserError("batch_sizes, steps", "not all are positive", "count examples and updates")
    # Relative residuals are linear in the unknowns, and close to those of the logarithms.
    linear, _ = scipy.optimize.nnls(np.stack([1 / s, 1 / (b * s)], axis=1), np.ones_like(s))

    def misfit(logs: np.ndarray) -> np.ndarray:
        return np.log(np.exp(logs[0]) + np.exp(logs[1]) / b) - np.log(s)

    if np.any(linear == 0):
        with np.errstate(divide="ignore"):
            logs = np.log(linear)
            critical = float(np.exp(logs[1] - logs[0]))
        steps_end, examples_end = (float(x) for x in linear)
        misfits = _rms(misfit(logs))
        return CriticalBatch(critical, steps_end, examples_end, np.inf, misfits, len(b))
    fit = scipy.optimize.least_squares(misfit, np.log(linear), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    error = np.nan
    if len(b) > 2:
        covariance = np.linalg.inv(fit.jac.T @ fit.jac) * np.sum(fit.fun**2) / (len(b) - 2)
        contrast = np.array([-1.0, 1.0])
        error = float(np.sqrt(max(contrast @ covariance @ contrast, 0)))
    least_steps, least_examples = (float(x) for x in np.exp(fit.x))
    critical = least_examples / least_steps
    return CriticalBatch(critical, least_steps, least_examples, error, _rms(fit.fun), len(b))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


# --- measured on a run ---------------------------------------------------------------------------


@MEASUREMENTS.register(
    "noise_scale", cost="passes over the data", source="McCandlish et al. 2018, appendix A"
)
def noise_scale(
    run: Subject,
    *,
    micro_batch: Annotated[int, COUNT] = 8,
    count: Annotated[int, SEVERAL] = 8,
    repeats: Annotated[int, SEVERAL] = 16,
) -> Found:
    """Gradient noise scale from random batches of two sizes, with its standard error.

    For any network. Where the error is not small against the value, the estimate says little: take
    more ``repeats``, or ``gradient_moments``, which is exact.

    Args:
      run: what is measured.
      micro_batch: examples of a small gradient.
      count: small gradients in a large one.
      repeats: large gradients.
    """
    found = measure_noise_scale(
        run.batch_loss,
        run.params,
        run.split,
        micro_batch=micro_batch,
        count=count,
        repeats=repeats,
        key=run.key,
        where=run.where,
    )
    error = jnp.asarray(found.standard_error)
    return {
        "noise_scale": Labelled(found.value, (), "examples", "gradient noise scale, estimated"),
        "noise_scale_error": Labelled(error, (), "examples", "its standard error (jackknife)"),
        "noise_gradient_square": Labelled(
            found.gradient_square, (), "", "squared gradient norm, estimated from two batch sizes"
        ),
        "noise_covariance_trace": Labelled(
            found.covariance_trace, (), "", "trace of the gradient covariance, from two batch sizes"
        ),
    }


@MEASUREMENTS.register(
    "gradient_moments", cost="passes over the data", source="McCandlish et al. 2018, section 2"
)
def gradient_moments(run: Subject) -> Found:
    """Exact noise scale and covariance trace, from the gradients of single examples."""
    moments = example_gradient_moments(
        run.example_loss, run.params, run.split, chunk=run.chunk, where=run.where
    )
    found = noise_scale_from_examples(moments)
    return {
        "exact_noise_scale": Labelled(
            found.value, (), "examples", "gradient noise scale, from single examples"
        ),
        "gradient_square": Labelled(found.gradient_square, (), "", "squared norm of the gradient"),
        "covariance_trace": Labelled(
            found.covariance_trace, (), "", "trace of the covariance of single gradients"
        ),
    }


@MEASUREMENTS.register(
    "norm_noise_scale", cost="passes over the data", source="Gray et al. 2024, arXiv:2411.00999"
)
def norm_noise_scale_of(
    run: Subject, *, examples: Annotated[int, SEVERAL] = 1024, layers: str = NORMS
) -> Found:
    """Noise scale of normalisation layers alone, from the gradients of single examples.

    Args:
      run: what is measured.
      examples: drawn at random; the whole split where it has fewer.
      layers: regular expression of the parameters' paths.
    """
    n = run.split.shape[0]
    chosen = jax.random.permutation(run.key, n)[: min(examples, n)]
    found = norm_noise_scale(
        run.example_loss,
        run.params,
        run.split[chosen],
        layers=layers,
        population=examples >= n,
        chunk=run.chunk,
        where=run.where,
    )
    return {
        "norm_noise_scale": Labelled(
            found.value, (), "examples", "gradient noise scale of normalisation layers"
        ),
        "norm_gradient_square": Labelled(
            found.gradient_square, (), "", "squared gradient norm of normalisation layers"
        ),
        "norm_covariance_trace": Labelled(
            found.covariance_trace, (), "", "trace of their gradient covariance"
        ),
    }
