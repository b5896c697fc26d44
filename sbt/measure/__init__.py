"""Measurements: pure functions of a loss and its parameters, on any tree, with or without sbt.

Compile what is called again and again, and map over stacked parameters to measure all lanes at
once: ``jax.jit(jax.vmap(lambda p: sharpness(loss_fn, p).value))``. Arguments that they share, and
that their documentation does not repeat:

- ``loss_fn(params)``: the mean loss over a whole split, one real number; :func:`over_split` makes
  it from a batch loss. Or ``batch_loss(params, batch)``, ``example_loss(params, example)`` beside
  the examples, a tree of arrays with one leading axis.
- ``params``: the point, any tree of arrays. It is never changed.
- ``where``: the parameters that count, see :data:`Where`; the others stay as they are.
- ``key``: typed key of all that is drawn at random; None for ``jax.random.key(0)``.
- ``chunk``: examples, products or points computed at a time; memory for as many.

All raise a :class:`sbt.errors.UserError` for parameters that are not finite, a filter that selects
nothing, a loss that is no function or returns anything else, and values of other types.

:data:`MEASUREMENTS` are those that a sweep makes of its runs: the same functions with a name, see
:mod:`sbt.measure.registry`.
"""

from sbt.measure.edge import BatchSharpness as BatchSharpness
from sbt.measure.edge import batch_sharpness as batch_sharpness
from sbt.measure.edge import gradient_noise_interaction as gradient_noise_interaction
from sbt.measure.edge import preconditioned_sharpness as preconditioned_sharpness
from sbt.measure.edge import preconditioner as preconditioner
from sbt.measure.gradients import GradientPrediction as GradientPrediction
from sbt.measure.gradients import GradientSize as GradientSize
from sbt.measure.gradients import Moments as Moments
from sbt.measure.gradients import example_gradient_moments as example_gradient_moments
from sbt.measure.gradients import folded_normal_mean as folded_normal_mean
from sbt.measure.gradients import gradient_by_discarded_fraction as gradient_by_discarded_fraction
from sbt.measure.gradients import measure_gradient_size as measure_gradient_size
from sbt.measure.gradients import predict_mean_abs_gradient as predict_mean_abs_gradient
from sbt.measure.landscape import Path as Path
from sbt.measure.landscape import distance as distance
from sbt.measure.landscape import filter_normalised as filter_normalised
from sbt.measure.landscape import interpolate as interpolate
from sbt.measure.landscape import loss_slice as loss_slice
from sbt.measure.landscape import random_direction as random_direction
from sbt.measure.layers import LayerRadius as LayerRadius
from sbt.measure.layers import average_radius as average_radius
from sbt.measure.layers import curvature_radii as curvature_radii
from sbt.measure.layers import layer_radii as layer_radii
from sbt.measure.noise import CriticalBatch as CriticalBatch
from sbt.measure.noise import NoiseScale as NoiseScale
from sbt.measure.noise import fit_critical_batch as fit_critical_batch
from sbt.measure.noise import measure_noise_scale as measure_noise_scale
from sbt.measure.noise import noise_scale_from_examples as noise_scale_from_examples
from sbt.measure.noise import noise_scale_from_two as noise_scale_from_two
from sbt.measure.noise import norm_noise_scale as norm_noise_scale
from sbt.measure.noise import square_norm as square_norm
from sbt.measure.online import Strides as Strides
from sbt.measure.online import strides as strides
from sbt.measure.range_test import Reading as Reading
from sbt.measure.range_test import read as read
from sbt.measure.registry import MEASUREMENTS as MEASUREMENTS
from sbt.measure.registry import Labelled as Labelled
from sbt.measure.registry import Subject as Subject
from sbt.measure.sharpness import Sharpness as Sharpness
from sbt.measure.sharpness import sharpness as sharpness
from sbt.measure.sharpness import sharpness_scipy as sharpness_scipy
from sbt.measure.spectrum import Eigen as Eigen
from sbt.measure.spectrum import Estimate as Estimate
from sbt.measure.spectrum import SpectralDensity as SpectralDensity
from sbt.measure.spectrum import diagonal_estimate as diagonal_estimate
from sbt.measure.spectrum import exact_diagonal as exact_diagonal
from sbt.measure.spectrum import hessian_operator as hessian_operator
from sbt.measure.spectrum import hessian_trace as hessian_trace
from sbt.measure.spectrum import spectral_density as spectral_density
from sbt.measure.spectrum import top_eigenvalues as top_eigenvalues
from sbt.measure.split import average_over_split as average_over_split
from sbt.measure.split import over_split as over_split
from sbt.measure.stationarity import Course as Course
from sbt.measure.stationarity import followed as followed
from sbt.measure.subspace import Subspace as Subspace
from sbt.measure.subspace import matrix_subspace as matrix_subspace
from sbt.measure.subspace import random_subspace as random_subspace
from sbt.measure.trees import Where as Where
from sbt.measure.trees import check_finite as check_finite
from sbt.measure.trees import ravel as ravel
from sbt.measure.trees import unravel_by_leaf as unravel_by_leaf
