"""Sizes and noise of gradients at the present weights."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from sbt import measure
from sbt.measure.labelled import Labelled
from sbt.measurements.subject import Subject
from sbt.ranges import BELOW_ONE, COUNT, Range

SEVERAL = Range(2, 10**6)


def noise_scale(
    run: Subject,
    *,
    micro_batch: Annotated[int, COUNT] = 8,
    count: Annotated[int, SEVERAL] = 8,
    repeats: Annotated[int, SEVERAL] = 16,
) -> dict[str, Labelled]:
    """Gradient noise scale from random batches of two sizes, with its standard error.

    For any network. Where the error is not small against the value, the estimate says little: take
    more ``repeats``, or ``gradient_moments``, which is exact.

    Args:
      run: what is measured.
      micro_batch: examples of a small gradient.
      count: small gradients in a large one.
      repeats: large gradients.
    """
    found = measure.measure_noise_scale(
        run.batch_loss,
        run.params,
        run.split,
        micro_batch=micro_batch,
        count=count,
        repeats=repeats,
        key=run.key,
        where=run.where,
    )
    return {
        "noise_scale": Labelled(found.value, (), "examples", "gradient noise scale, estimated"),
        "noise_scale_error": Labelled(
            jnp.asarray(found.standard_error), (), "examples", "its standard error (jackknife)"
        ),
        "noise_gradient_square": Labelled(
            found.gradient_square, (), "", "squared gradient norm, estimated from two batch sizes"
        ),
        "noise_covariance_trace": Labelled(
            found.covariance_trace, (), "", "trace of the gradient covariance, from two batch sizes"
        ),
    }


def gradient_moments(run: Subject) -> dict[str, Labelled]:
    """Exact noise scale and covariance trace, from the gradients of single examples."""
    moments = measure.example_gradient_moments(
        run.example_loss, run.params, run.split, chunk=run.chunk, where=run.where
    )
    found = measure.noise_scale_from_examples(moments)
    return {
        "exact_noise_scale": Labelled(
            found.value, (), "examples", "gradient noise scale, from single examples"
        ),
        "gradient_square": Labelled(found.gradient_square, (), "", "squared norm of the gradient"),
        "covariance_trace": Labelled(
            found.covariance_trace, (), "", "trace of the covariance of single gradients"
        ),
    }


def gradient_size(
    run: Subject,
    *,
    batch_sizes: Annotated[tuple[int, ...], COUNT] = (4, 16, 64),
    repeats: Annotated[int, Range(1, 10**6)] = 20,
) -> dict[str, Labelled]:
    r"""Mean |g| of random batches against their size, with its prediction.

    The prediction is the folded normal of single gradients' moments, without replacement; beside it
    :math:`0.798 \sigma/\sqrt n`, which leaves their mean out, and the floor, mean :math:`|\mu_i|`.

    Args:
      run: what is measured.
      batch_sizes: n.
      repeats: batches of each.
    """
    sizes = tuple(int(n) for n in batch_sizes)
    found = measure.measure_gradient_size(
        run.batch_loss,
        run.params,
        run.split,
        sizes,
        repeats=repeats,
        key=run.key,
        where=run.where,
        chunk=run.batch,
    )
    moments = measure.example_gradient_moments(
        run.example_loss, run.params, run.split, chunk=run.chunk, where=run.where
    )
    predicted = measure.predict_mean_abs_gradient(moments, jnp.asarray(sizes))
    dims = (("gradient_batch", sizes),)
    return {
        "mean_abs_gradient": Labelled(
            jnp.mean(found.mean_abs, axis=1), dims, "", "mean |g| of a batch"
        ),
        "mean_abs_gradient_std": Labelled(
            jnp.std(found.mean_abs, axis=1), dims, "", "mean |g| of a batch: std over batches"
        ),
        "mean_square_gradient": Labelled(
            jnp.mean(found.mean_square, axis=1), dims, "", "mean g² of a batch"
        ),
        "predicted_mean_abs_gradient": Labelled(
            predicted.folded, dims, "", "mean |g| of a batch, folded normal"
        ),
        "zero_mean_prediction": Labelled(
            predicted.zero_mean, dims, "", "mean |g| of a batch, 0.798 σ/√n"
        ),
        "gradient_floor": Labelled(predicted.floor, (), "", "mean |g| of the whole split"),
    }


def discarded_gradient(
    run: Subject,
    *,
    fractions: Annotated[tuple[float, ...], BELOW_ONE] = (0.1, 0.3, 0.5, 0.7, 0.9),
    examples: Annotated[int, COUNT] = 8192,
    average: Literal["kept", "batch"] = "kept",
) -> dict[str, Labelled]:
    """Mean |g| of one batch without the fraction of smallest losses, and of random ones.

    Args:
      run: what is measured.
      fractions: left out; 0 is always measured too.
      examples: of the batch, drawn at random; the whole split where it has fewer.
      average: ``kept`` or ``batch``, see :func:`sbt.measure.gradient_by_discarded_fraction`.
    """
    n = run.split.shape[0]
    order = jax.random.permutation(jax.random.fold_in(run.key, 0), n)
    fractions = tuple(dict.fromkeys((0.0, *fractions)))
    found = measure.gradient_by_discarded_fraction(
        run.example_loss,
        run.params,
        run.split[order[: min(examples, n)]],
        fractions,
        average=average,
        key=jax.random.fold_in(run.key, 1),
        where=run.where,
        chunk=run.batch,
    )
    dims = (("fraction", fractions),)
    return {
        "discarded_gradient": Labelled(
            found.smallest, dims, "", "mean |g| without the smallest losses"
        ),
        "randomly_discarded_gradient": Labelled(
            found.random, dims, "", "mean |g| without as many random examples"
        ),
    }
