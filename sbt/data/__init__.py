"""Examples: where they come from, in which order, and how they look when a step sees them."""

from sbt.data.augment import augment_keys, normalize, pad_crop_flip, standardize_each
from sbt.data.cosines import cosines
from sbt.data.dataset import Dataset, from_arrays, from_examples
from sbt.data.digit_frames import digit_frames
from sbt.data.kernel_least_squares import kernel_least_squares
from sbt.data.least_squares import least_squares
from sbt.data.markov import markov_entropy
from sbt.data.order import epoch_order, purpose_key, stream_window
from sbt.data.pipeline import Arrays, Split, eval_batches, make_pipeline
from sbt.data.registry import DATASETS, Wanted
from sbt.data.source import load
from sbt.data.text import python_docs
from sbt.data.token_file import TokenFile

__all__ = [
    "DATASETS",
    "Arrays",
    "Dataset",
    "Split",
    "TokenFile",
    "Wanted",
    "augment_keys",
    "cosines",
    "digit_frames",
    "epoch_order",
    "eval_batches",
    "from_arrays",
    "from_examples",
    "kernel_least_squares",
    "least_squares",
    "load",
    "make_pipeline",
    "markov_entropy",
    "normalize",
    "pad_crop_flip",
    "purpose_key",
    "python_docs",
    "standardize_each",
    "stream_window",
]
