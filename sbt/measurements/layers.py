"""Layer by layer: curvature radii, and the distance from the start."""

import jax
import jax.numpy as jnp

from sbt import measure
from sbt.measure.labelled import Labelled, by_layer
from sbt.measurements.subject import Subject


def curvature_radius(
    run: Subject,
    *,
    forms: tuple[str, ...] = ("parabola", "exact"),
    samples: int = 20,
    statistic: str = "median",
    trim: float = 0.1,
) -> dict[str, Labelled]:
    r"""Average curvature radius of every layer.

    Args:
      run: what is measured.
      forms: ``parabola``, :math:`|w_i/g_i|` (Gao & Zhong, equation 17), one gradient; ``exact``,
        :math:`(1+g_i^2)^{3/2}/|h_i|` (equation 9), with the Hessian's diagonal from Hutchinson's
        estimator.
      samples: random vectors of that, a Hessian-vector product over the split each.
      statistic: see :func:`sbt.measure.average_radius`.
      trim: likewise.
    """
    gradients = jax.grad(run.loss)(run.params)
    values, excluded = [], []
    for form in forms:
        diagonal = None
        if form == "exact":
            diagonal = measure.diagonal_estimate(
                run.loss, run.params, samples=samples, where=run.where, key=run.key
            ).value
        found = measure.layer_radii(
            run.params,
            gradients,
            diagonal,
            statistic=statistic,  # type: ignore[arg-type]
            trim=trim,
            where=run.where,
        )
        values.append(by_layer({path: radius.value for path, radius in found.items()}))
        left_out = {path: radius.excluded / radius.size for path, radius in found.items()}
        excluded.append(by_layer(left_out))
    dims = (("radius_form", tuple(forms)), *values[0].dims)

    def stacked(rows: list[Labelled], words: str) -> Labelled:
        return Labelled(jnp.stack([row.value for row in rows]), dims, "", words)

    return {
        "curvature_radius": stacked(values, f"curvature radius, {statistic} of the layer"),
        "curvature_radius_excluded": stacked(excluded, "share of the layer left out of it"),
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
