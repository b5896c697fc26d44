"""Schedules: what moves learning rate, batch size and momentum during training, and with m."""

from sbt.schedules import lr as lr
from sbt.schedules.batch import BATCH_SCHEDULES as BATCH_SCHEDULES
from sbt.schedules.batch import micro_batches as micro_batches
from sbt.schedules.lr import MOMENTUM_SCHEDULES as MOMENTUM_SCHEDULES
from sbt.schedules.lr import SCHEDULES as SCHEDULES
from sbt.schedules.lr import as_optax as as_optax
from sbt.schedules.lr import legw as legw
from sbt.schedules.lr import onecycle_momentum as onecycle_momentum
from sbt.schedules.noise import BATCH_BALANCE as BATCH_BALANCE
from sbt.schedules.noise import NOISE as NOISE
from sbt.schedules.noise import degree_of_smoothing as degree_of_smoothing
from sbt.schedules.noise import learning_rate_for_smoothing as learning_rate_for_smoothing
from sbt.schedules.noise import momentum_for_noise_factor as momentum_for_noise_factor
from sbt.schedules.noise import momentum_for_smoothing as momentum_for_smoothing
from sbt.schedules.noise import shb_noise_factor as shb_noise_factor
from sbt.schedules.noise import variance_from_critical_batch as variance_from_critical_batch
from sbt.schedules.scaling import LAWS as LAWS
from sbt.schedules.scaling import POWERS as POWERS
from sbt.schedules.scaling import SCALINGS as SCALINGS
from sbt.schedules.scaling import decay_of_half_life as decay_of_half_life
from sbt.schedules.scaling import half_life_of_decay as half_life_of_decay
from sbt.schedules.scaling import rescaled_decay as rescaled_decay
from sbt.schedules.scaling import scaled_learning_rate as scaled_learning_rate
from sbt.schedules.scaling import sde_decay as sde_decay
from sbt.schedules.settings import Settings as Settings
