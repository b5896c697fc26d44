"""Update rules: ordinary optax transformations that take schedules and traced hyperparameters.

``RULES`` holds those that a config can name; each is a function of a learning rate, for use without
a config as well. For chains of one's own there are their links (``scale_by_adam``,
``scale_by_shb``, ``normalize_by_norm``, ``clip_by_global_norm``), wrappers around any rule
(``smoothout``, ``random_scaling`` with its ``averaged_iterate``, ``conservative_step``,
``bfloat16_weights``), and what
rules want to know of a batch (``mean_example_norms``, ``hutchinson_diagonal``).
"""

from sbt.optim.adam import adam as adam
from sbt.optim.adam import scale_by_adam as scale_by_adam
from sbt.optim.base import RULES as RULES
from sbt.optim.base import Rule as Rule
from sbt.optim.base import chain as chain
from sbt.optim.base import evaluation_point as evaluation_point
from sbt.optim.base import kernels as kernels
from sbt.optim.conservative import conservative as conservative
from sbt.optim.conservative import conservative_step as conservative_step
from sbt.optim.convolution import gradient_noise_convolution as gradient_noise_convolution
from sbt.optim.curvature import cblr as cblr
from sbt.optim.curvature import exact_hessian_diagonal as exact_hessian_diagonal
from sbt.optim.curvature import hutchinson_diagonal as hutchinson_diagonal
from sbt.optim.curvature import mclr as mclr
from sbt.optim.elastic import elastic_averaging as elastic_averaging
from sbt.optim.entropy_sgd import entropy_sgd as entropy_sgd
from sbt.optim.extrap_sgd import extrap_sgd as extrap_sgd
from sbt.optim.foreign import optax_rules as optax_rules
from sbt.optim.gradient_noise import add_isotropic_noise as add_isotropic_noise
from sbt.optim.gradient_noise import covariance_noise_sgd as covariance_noise_sgd
from sbt.optim.gradient_noise import gradient_noise_sgd as gradient_noise_sgd
from sbt.optim.gradient_noise import mean_example_squares as mean_example_squares
from sbt.optim.gradient_noise import mimicking_variance as mimicking_variance
from sbt.optim.layerwise import clars as clars
from sbt.optim.layerwise import lamb as lamb
from sbt.optim.layerwise import lars as lars
from sbt.optim.layerwise import mean_example_norms as mean_example_norms
from sbt.optim.layerwise import percent_delta as percent_delta
from sbt.optim.muon import muon as muon
from sbt.optim.random_scaling import averaged_iterate as averaged_iterate
from sbt.optim.random_scaling import exponentiated_o2nc as exponentiated_o2nc
from sbt.optim.random_scaling import random_scaling as random_scaling
from sbt.optim.random_scaling import randomly_scaled_sgdm as randomly_scaled_sgdm
from sbt.optim.remedies import adversarial_loss as adversarial_loss
from sbt.optim.remedies import fast_gradient_sign as fast_gradient_sign
from sbt.optim.remedies import stability_loss as stability_loss
from sbt.optim.rounding import ROUNDINGS as ROUNDINGS
from sbt.optim.rounding import bfloat16_weights as bfloat16_weights
from sbt.optim.rounding import round_stochastically as round_stochastically
from sbt.optim.sample_rule import accumulated_gradient as accumulated_gradient
from sbt.optim.sample_rule import discard_count as discard_count
from sbt.optim.sample_rule import discard_weights as discard_weights
from sbt.optim.sgd import clip_by_global_norm as clip_by_global_norm
from sbt.optim.sgd import hoffer_sgd as hoffer_sgd
from sbt.optim.sgd import sgd as sgd
from sbt.optim.shb import accelerated_momentum as accelerated_momentum
from sbt.optim.shb import accelerated_shb as accelerated_shb
from sbt.optim.shb import exponential_coefficients as exponential_coefficients
from sbt.optim.shb import exponential_shb as exponential_shb
from sbt.optim.shb import mix_coefficients as mix_coefficients
from sbt.optim.shb import mix_shb as mix_shb
from sbt.optim.shb import multistage_boundaries as multistage_boundaries
from sbt.optim.shb import multistage_coefficients as multistage_coefficients
from sbt.optim.shb import multistage_shb as multistage_shb
from sbt.optim.shb import normalized_shb as normalized_shb
from sbt.optim.shb import scale_by_shb as scale_by_shb
from sbt.optim.shb import shb as shb
from sbt.optim.smoothout import smoothout as smoothout
from sbt.optim.smoothout import smoothout_sgd as smoothout_sgd
from sbt.optim.sngm import normalize_by_norm as normalize_by_norm
from sbt.optim.sngm import sngm as sngm
from sbt.optim.svag import svag as svag
from sbt.optim.svag import svag_coefficients as svag_coefficients
from sbt.optim.svag import svag_gradient as svag_gradient
