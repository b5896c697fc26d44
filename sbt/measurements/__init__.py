"""What can be measured on the runs of a sweep: pure functions of one run, in one registry.

:mod:`sbt.measure` measures any loss at any parameters; here its functions meet a run (weights,
statistics, data) and give named, labelled arrays. ``config.measure.names`` chooses among
:data:`MEASUREMENTS`; the keywords of each are the fields of ``config.measure.<its name>``.
"""

from sbt.measurements.registry import MEASUREMENTS as MEASUREMENTS
from sbt.measurements.registry import Cost as Cost
from sbt.measurements.registry import Measurement as Measurement
from sbt.measurements.registry import Option as Option
from sbt.measurements.subject import Subject as Subject
