"""What a grid of batch sizes says to somebody who has to choose one.

Steps to a target (:mod:`sbt.advice.targets`), the critical batch size
(:mod:`sbt.advice.critical`), how the best learning rate moves with the batch size
(:mod:`sbt.advice.optimum`), each with an interval over seeds (:mod:`sbt.intervals`).
:func:`sbt.advise` puts them together.
"""
