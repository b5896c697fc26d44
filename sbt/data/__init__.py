"""Examples: where they come from, in which order, and how they look when a step sees them."""

from sbt.data.augment import augment_keys, normalize, pad_crop_flip, standardize_each
from sbt.data.dataset import Dataset, from_arrays, from_examples
from sbt.data.order import epoch_order, purpose_key, stream_window
from sbt.data.pipeline import Arrays, Split, eval_batches, make_pipeline
from sbt.data.source import load

__all__ = [
    "Arrays",
    "Dataset",
    "Split",
    "augment_keys",
    "epoch_order",
    "eval_batches",
    "from_arrays",
    "from_examples",
    "load",
    "make_pipeline",
    "normalize",
    "pad_crop_flip",
    "purpose_key",
    "standardize_each",
    "stream_window",
]
