"""Sharpness and the spectrum of the Hessian."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from sbt import measure
from sbt.measure.labelled import Labelled
from sbt.measure.trace import SAMPLES
from sbt.measurements.subject import Subject
from sbt.ranges import COUNT, Range

STEPS = Range(1, 10**4)


def sharpness(
    run: Subject,
    *,
    epsilons: Annotated[tuple[float, ...], Range(0, 100, open_low=True)] = (1e-3, 5e-4),
    spaces: tuple[Literal["full", "subspace"], ...] = ("full", "subspace"),
    directions: Annotated[int, COUNT] = 100,
    starts: Annotated[int, STEPS] = 4,
    steps: Annotated[int, STEPS] = 10,
) -> dict[str, Labelled]:
    r"""Keskar's sharpness by box size, in the full space and in a random subspace.

    Beside it the loss at the weights themselves, :math:`f(x)` of the metric.

    Args:
      run: what is measured.
      epsilons: half-widths of the box, relative to :math:`|x_i| + 1`.
      spaces: ``full``, ``subspace`` or both.
      directions: of the subspace, the same in every run.
      starts: of the maximisation; ``starts * steps`` gradients over the split for each value.
      steps: from each start.
    """
    basis = None
    if "subspace" in spaces:
        basis = measure.random_subspace(
            run.size,
            directions,
            jax.random.fold_in(run.key, 0),
            dtype=measure.ravel(run.params, run.where)[0].dtype,
        )

    def by_epsilon(space: str) -> tuple[jax.Array, jax.Array]:
        def one(epsilon: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = measure.sharpness(
                run.loss,
                run.params,
                epsilon,
                subspace=basis if space == "subspace" else None,
                where=run.where,
                starts=starts,
                steps=steps,
                key=jax.random.fold_in(run.key, 1),
            )
            return jnp.asarray(found.value), jnp.asarray(found.loss)

        return jax.lax.map(one, jnp.asarray(epsilons, jnp.result_type(float)))

    values, losses = zip(*(by_epsilon(space) for space in spaces))
    dims = (("space", tuple(spaces)), ("epsilon", tuple(epsilons)))
    return {
        "sharpness": Labelled(jnp.stack(values), dims, "%", "sharpness, rise over 1 + loss"),
        "sharpness_loss": Labelled(losses[0][0], (), "nats", "training loss of the weights, f(x)"),
    }


def hessian_eigenvalues(
    run: Subject,
    *,
    count: Annotated[int, STEPS] = 1,
    which: Literal["largest", "smallest", "magnitude"] = "largest",
    order: Annotated[int, STEPS] = 30,
) -> dict[str, Labelled]:
    """Extreme eigenvalues of the Hessian, and bounds of their errors.

    Args:
      run: what is measured.
      count: how many.
      which: ``largest``, ``smallest`` or ``magnitude``.
      order: Lanczos steps, a Hessian-vector product over the split each.
    """
    steps = min(order, run.size)
    found = measure.top_eigenvalues(
        run.loss,
        run.params,
        count,
        which=which,
        where=run.where,
        order=steps,
        key=run.key,
    )
    dims = (("rank", tuple(range(1, count + 1))),)
    return {
        "hessian_eigenvalue": Labelled(found.values, dims, "", f"{which} Hessian eigenvalues"),
        "hessian_eigenvalue_residual": Labelled(found.residuals, dims, "", "bound of their error"),
    }


def hessian_trace(run: Subject, *, samples: Annotated[int, SAMPLES] = 30) -> dict[str, Labelled]:
    """Trace of the Hessian by Hutchinson's estimator, with its standard error.

    Args:
      run: what is measured.
      samples: random vectors, a Hessian-vector product over the split each.
    """
    found = measure.hessian_trace(
        run.loss, run.params, samples=samples, where=run.where, key=run.key
    )
    return {
        "hessian_trace": Labelled(found.value, (), "", "trace of the Hessian"),
        "hessian_trace_error": Labelled(found.standard_error, (), "", "its standard error"),
    }


def hessian_density(
    run: Subject,
    *,
    probes: Annotated[int, STEPS] = 1,
    order: Annotated[int, STEPS] = 30,
    points: Annotated[int, Range(2, 10**5)] = 200,
) -> dict[str, Labelled]:
    """Density of the Hessian's eigenvalues, and moments of it that need no picture.

    Args:
      run: what is measured.
      probes: random vectors.
      order: Lanczos steps from each, a Hessian-vector product over the split each.
      points: of the picture.
    """
    found = measure.spectral_density(
        run.loss,
        run.params,
        probes=probes,
        order=order,
        points=points,
        where=run.where,
        key=run.key,
    )
    dims = (("point", tuple(range(points))),)
    mean = jnp.sum(found.weights * found.nodes) / probes
    square = jnp.sum(found.weights * jnp.square(found.nodes)) / probes
    negative = jnp.sum(jnp.where(found.nodes < 0, found.weights, 0)) / probes
    return {
        "hessian_density": Labelled(found.density, dims, "", "density of Hessian eigenvalues"),
        "hessian_density_at": Labelled(found.grid, dims, "", "eigenvalue"),
        "hessian_mean_eigenvalue": Labelled(mean, (), "", "mean Hessian eigenvalue"),
        "hessian_rms_eigenvalue": Labelled(
            jnp.sqrt(square), (), "", "root mean square Hessian eigenvalue"
        ),
        "hessian_negative_share": Labelled(
            negative, (), "", "share of negative Hessian eigenvalues"
        ),
    }
