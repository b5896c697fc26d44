"""How learning rate, batch size and momentum follow batch size and progress."""

from sbt.schedules.scaling import SCALINGS as SCALINGS
from sbt.schedules.scaling import scaled_learning_rate as scaled_learning_rate
