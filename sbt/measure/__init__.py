"""Measurements: pure functions of a loss and its parameters, on any tree, with or without sbt.

Every one takes ``loss_fn(params)``, the mean loss over a whole split (:func:`over_split` makes it
from a batch loss), or a loss of one example or batch beside the arrays. None changes its arguments.
Compile what is called again and again, and map over stacked parameters to measure all lanes at
once: ``jax.jit(jax.vmap(lambda p: sharpness(loss_fn, p).value))``.
"""

from sbt.measure.batch_gradients import GradientPrediction as GradientPrediction
from sbt.measure.batch_gradients import GradientSize as GradientSize
from sbt.measure.batch_gradients import folded_normal_mean as folded_normal_mean
from sbt.measure.batch_gradients import measure_gradient_size as measure_gradient_size
from sbt.measure.batch_gradients import predict_mean_abs_gradient as predict_mean_abs_gradient
from sbt.measure.critical_batch import CriticalBatch as CriticalBatch
from sbt.measure.critical_batch import fit_critical_batch as fit_critical_batch
from sbt.measure.critical_batch import relative_gain as relative_gain
from sbt.measure.curvature_radius import LayerRadius as LayerRadius
from sbt.measure.curvature_radius import average_radius as average_radius
from sbt.measure.curvature_radius import curvature_radii as curvature_radii
from sbt.measure.curvature_radius import expected_parabola_distance as expected_parabola_distance
from sbt.measure.curvature_radius import layer_radii as layer_radii
from sbt.measure.curvature_radius import parabola_distance as parabola_distance
from sbt.measure.density import SpectralDensity as SpectralDensity
from sbt.measure.density import spectral_density as spectral_density
from sbt.measure.direction_noise import measured_smoothing as measured_smoothing
from sbt.measure.direction_noise import search_direction_noise as search_direction_noise
from sbt.measure.discard import DiscardedGradient as DiscardedGradient
from sbt.measure.discard import gradient_by_discarded_fraction as gradient_by_discarded_fraction
from sbt.measure.example_gradients import Moments as Moments
from sbt.measure.example_gradients import example_gradient_moments as example_gradient_moments
from sbt.measure.example_gradients import merge_moments as merge_moments
from sbt.measure.hessian import Eigen as Eigen
from sbt.measure.hessian import Operator as Operator
from sbt.measure.hessian import exact_diagonal as exact_diagonal
from sbt.measure.hessian import explicit_hessian as explicit_hessian
from sbt.measure.hessian import hessian_operator as hessian_operator
from sbt.measure.hessian import top_eigenvalues as top_eigenvalues
from sbt.measure.landscape import Distances as Distances
from sbt.measure.landscape import Path as Path
from sbt.measure.landscape import distance as distance
from sbt.measure.landscape import distances as distances
from sbt.measure.landscape import interpolate as interpolate
from sbt.measure.noise_average import NoiseAverage as NoiseAverage
from sbt.measure.noise_average import averaged_noise_scale as averaged_noise_scale
from sbt.measure.noise_average import init_noise_average as init_noise_average
from sbt.measure.noise_average import update_noise_average as update_noise_average
from sbt.measure.noise_scale import NoiseScale as NoiseScale
from sbt.measure.noise_scale import measure_noise_scale as measure_noise_scale
from sbt.measure.noise_scale import noise_covariance_trace as noise_covariance_trace
from sbt.measure.noise_scale import noise_scale_from_accumulation as noise_scale_from_accumulation
from sbt.measure.noise_scale import noise_scale_from_examples as noise_scale_from_examples
from sbt.measure.noise_scale import noise_scale_from_two as noise_scale_from_two
from sbt.measure.noise_scale import square_norm as square_norm
from sbt.measure.sharpness import Sharpness as Sharpness
from sbt.measure.sharpness import sharpness as sharpness
from sbt.measure.sharpness_scipy import sharpness_scipy as sharpness_scipy
from sbt.measure.slices import filter_normalised as filter_normalised
from sbt.measure.slices import random_direction as random_direction
from sbt.measure.slices import slice_1d as slice_1d
from sbt.measure.slices import slice_2d as slice_2d
from sbt.measure.split import average_over_split as average_over_split
from sbt.measure.split import over_split as over_split
from sbt.measure.strides import LossStride as LossStride
from sbt.measure.strides import Strides as Strides
from sbt.measure.strides import add_strides as add_strides
from sbt.measure.strides import init_strides as init_strides
from sbt.measure.strides import loss_stride as loss_stride
from sbt.measure.strides import parameter_stride as parameter_stride
from sbt.measure.strides import path_length as path_length
from sbt.measure.strides import realised_loss_stride as realised_loss_stride
from sbt.measure.subspace import Subspace as Subspace
from sbt.measure.subspace import matrix_subspace as matrix_subspace
from sbt.measure.subspace import random_subspace as random_subspace
from sbt.measure.trace import Estimate as Estimate
from sbt.measure.trace import diagonal_estimate as diagonal_estimate
from sbt.measure.trace import hessian_trace as hessian_trace
from sbt.measure.trace import layer_traces as layer_traces
from sbt.measure.trees import Where as Where
from sbt.measure.trees import check_finite as check_finite
from sbt.measure.trees import ravel as ravel
from sbt.measure.trees import unravel_by_leaf as unravel_by_leaf
from sbt.optim.smoothing_degree import degree_of_smoothing as degree_of_smoothing
