"""Layer by layer: curvature radii, and the distance from the start."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from sbt import measure
from sbt.errors import UserError
from sbt.measure.labelled import Labelled, by_layer
from sbt.measurements.subject import Subject
from sbt.ranges import Range

GROUPS = 5  # of the random vectors, left out in turn
EXACT_PARAMETERS = 20_000  # more would take hours: two gradients each


def curvature_radius(
    run: Subject,
    *,
    forms: tuple[Literal["parabola", "hutchinson", "exact"], ...] = ("parabola", "hutchinson"),
    samples: Annotated[int, Range(4, 10**6)] = 20,
    statistic: Literal["median", "trimmed", "mean", "harmonic"] = "median",
    trim: Annotated[float, Range(0, 0.5, open_high=True)] = 0.1,
) -> dict[str, Labelled]:
    r"""Average curvature radius of every layer.

    The noise of Hutchinson's estimator goes into :math:`|h_i|`, so that the radius scatters and is
    biased, mostly towards small radii, and the more so the more of :math:`h_i` it drowns. Both are
    estimated by the jackknife over :math:`J` groups of random vectors: with :math:`R` the radius
    from all of them, :math:`R_{(j)}` without group :math:`j`, and :math:`\bar R` their mean,

    .. math:: \text{error} = \sqrt{\tfrac{J-1}{J} \textstyle\sum_j (R_{(j)} - \bar R)^2},
              \qquad \text{bias} = (J - 1)(\bar R - R)

    The value is not corrected by the bias; where either is not small against it, take more samples.

    Args:
      run: what is measured.
      forms: ``parabola``, :math:`|w_i/g_i|` (Gao & Zhong, equation 17), one gradient;
        ``hutchinson``, :math:`(1+g_i^2)^{3/2}/|h_i|` (equation 9) with the Hessian's diagonal from
        Hutchinson's estimator; ``exact``, the same with the diagonal itself, a Hessian-vector
        product over the split for every parameter: for small networks or single layers (``where``).
      samples: random vectors of ``hutchinson``, a Hessian-vector product over the split each
        (rounded up to groups of equal size).
      statistic: see :func:`sbt.measure.average_radius`.
      trim: likewise.

    References:
      Efron & Tibshirani, An Introduction to the Bootstrap, 1993 (sections 11.2, 11.3, 11.5)
    """
    gradients = jax.grad(run.loss)(run.params)

    def radii(diagonal: jax.Array | None) -> dict[str, measure.LayerRadius]:
        return measure.layer_radii(
            run.params, gradients, diagonal, statistic=statistic, trim=trim, where=run.where
        )

    def values(diagonal: jax.Array | None) -> jax.Array:
        return by_layer({path: radius.value for path, radius in radii(diagonal).items()}).value

    rows: dict[str, list[jax.Array]] = {"value": [], "error": [], "bias": [], "excluded": []}
    for form in forms:
        diagonal, error, bias = None, None, None
        if form == "exact":
            diagonal = _exact_diagonal(run)
        elif form == "hutchinson":
            groups = _diagonals(run, samples)
            diagonal = jnp.mean(groups, axis=0)
            count = len(groups)
            rest = (count * diagonal - groups) / (count - 1)
            without = jax.lax.map(values, rest)
            mean = jnp.mean(without, axis=0)
            error = jnp.sqrt((count - 1) * jnp.mean(jnp.square(without - mean), axis=0))
            bias = (count - 1) * (mean - values(diagonal))
        found = radii(diagonal)
        value = by_layer({path: radius.value for path, radius in found.items()})
        left_out = {path: radius.excluded / max(1, radius.size) for path, radius in found.items()}
        rows["value"].append(value.value)
        rows["error"].append(jnp.zeros_like(value.value) if error is None else error)
        rows["bias"].append(jnp.zeros_like(value.value) if bias is None else bias)
        rows["excluded"].append(by_layer(left_out).value)
    dims = (("radius_form", tuple(forms)), *value.dims)

    def stacked(name: str, words: str) -> Labelled:
        return Labelled(jnp.stack(rows[name]), dims, "", words)

    return {
        "curvature_radius": stacked("value", f"curvature radius, {statistic} of the layer"),
        "curvature_radius_error": stacked("error", "its standard error (jackknife)"),
        "curvature_radius_bias": stacked("bias", "its bias (jackknife), not taken off"),
        "curvature_radius_excluded": stacked("excluded", "share of the layer left out of it"),
    }


def _diagonals(run: Subject, samples: int) -> jax.Array:
    """Independent estimates of the Hessian's diagonal from groups of random vectors, stacked."""
    groups = min(GROUPS, samples // 2)

    def estimate(group: jax.Array) -> jax.Array:
        key = jax.random.fold_in(run.key, group)
        return measure.diagonal_estimate(
            run.loss, run.params, samples=-(-samples // groups), where=run.where, key=key
        ).value

    return jax.lax.map(estimate, jnp.arange(groups))


def _exact_diagonal(run: Subject) -> jax.Array:
    if run.size > EXACT_PARAMETERS:
        raise UserError(
            "forms",
            f"'exact' takes a Hessian-vector product for each of {run.size} parameters",
            f"use 'hutchinson', or select at most {EXACT_PARAMETERS} with config.measure.where",
        )
    return measure.exact_diagonal(run.loss, run.params, run.where)


def training_set(run: Subject) -> dict[str, Labelled]:
    """Loss and accuracy of the training split as at test time: what papers call training accuracy.

    ``train_loss`` and ``train_accuracy`` are means over an epoch, each batch before its update,
    with dropout and batch statistics where the network has them; these are of the weights as they
    stand, without dropout, with the statistics of ``config.evaluate.statistics``, not augmented.
    """
    loss, accuracy = run.evaluated()
    return {
        "train_loss_evaluated": Labelled(
            loss, (), "nats", "training loss of these weights, as at test time"
        ),
        "train_accuracy_evaluated": Labelled(
            accuracy, (), "", "training accuracy of these weights, as at test time"
        ),
    }


def distance(run: Subject) -> dict[str, Labelled]:
    """Euclidean distance of the weights from where the run started, and relative to that."""
    start = run.initial()
    moved = measure.distance(run.params, start, run.where)
    size = jnp.sqrt(measure.square_norm(start, run.where))
    return {
        "distance_from_start": Labelled(moved, (), "", "distance from the initial weights"),
        "relative_distance": Labelled(
            moved / size, (), "", "distance from the initial weights over their norm"
        ),
    }
