"""The data sets that a config can name, besides those of TFDS.

A data set is a function of what a config asks of any of them, with its own fields as keywords:

    @DATASETS.register("ramp", source="ours")
    def ramp(wanted: Wanted, slope: Annotated[float, POSITIVE] = 1.0) -> Dataset:
        ...

It may give more examples than are wanted: :func:`sbt.data.source.load` takes a fixed subset. All
its fields are structure: runs on different data are different programs.
"""

from typing import NamedTuple

from sbt.choice import Registry

DATASETS = Registry("data", static=True)
"""Functions from :class:`Wanted` to a :class:`~sbt.data.dataset.Dataset`. The fact ``streams=True``
says that it takes ``wanted.stream``."""


class Wanted(NamedTuple):
    """What a config asks of any data set.

    Attributes:
      name: as the config calls it.
      train_size: training examples; None: all, or as many as the set makes of itself.
      test_size: of the test split, likewise.
      stream: whether the examples stay in their files.
      data_dir: where prepared TFDS sets lie; None: TFDS's own setting.
      augment: as the config names it.
      image_size: of streamed images; None: the default.
      resize: of streamed images; None: the default.
    """

    name: str
    train_size: int | None = None
    test_size: int | None = None
    stream: bool = False
    data_dir: str | None = None
    augment: str = "none"
    image_size: int | None = None
    resize: int | None = None
