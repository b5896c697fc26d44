"""Experiments at toy scale: any config cut down, and data sets of the right shape to go with it."""

import functools
import io
import math
import runpy
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

import sbt.experiment
from sbt.config import fields_of
from sbt.data.dataset import Dataset, SampledSet, images_and_labels
from sbt.data.encoded import EncodedSet
from sbt.data.imagenet import View

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
# Data set -> shape, classes, and the examples of the real one.
SETS = {
    "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
    "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
    "mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "imagenet2012": ((40, 36, 3), 1000, 1_281_167, 50_000),
}
TRAIN, TEST, SIDE = 48, 24, 32
VOCABULARY, PLACES = 32, 8  # of text
BATCH_SIZES, BN_BATCHES, SINGLE_BN = (8, 16), (4, 8), 4
# The first network of a family has its blocks and its norm, and compiles in seconds.
SMALLEST = {name: "resnet8" for name in ("resnet18", "resnet20", "resnet32")}


# --- which experiments there are -----------------------------------------------------------------


def experiments():
    """Every file with a ``get_config``, as a path below the folder of experiments."""
    files = sorted(EXPERIMENTS.rglob("*.py"))
    return [str(f.relative_to(EXPERIMENTS)) for f in files if "\ndef get_config(" in f.read_text()]


@functools.cache
def module_of(file):
    return sbt.experiment._import(EXPERIMENTS / file)


def every_variant():
    """(file, variant) of all that ship."""
    return [(file, variant) for file in experiments() for variant in module_of(file).VARIANTS]


def load(file, variant):
    return sbt.experiment.load_config(str(EXPERIMENTS / file) + f":{variant}" * bool(variant))


def parts(file):
    """What a file with a net of its own brings besides its config."""
    found = sbt.experiment.load_experiment(str(EXPERIMENTS / file)).parts
    return found if "module" in found else {}


# --- data ----------------------------------------------------------------------------------------


def write_sets(directory):
    """All of :data:`SETS` with a few examples each, prepared as TFDS does, under one directory."""
    with registered.skip_registration():
        for name, (shape, classes, *_) in SETS.items():
            body = {"VERSION": tfds.core.Version("1.0.0"), "name": name}
            builder = type(name, (_Pictures,), body | {"shape": shape, "classes": classes})
            builder(data_dir=directory, file_format="array_record").download_and_prepare()


class _Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    shape: tuple = ()
    classes = 0

    def _info(self):
        varied = self.name == "imagenet2012"
        features = {
            "image": tfds.features.Image(shape=(None, None, 3) if varied else self.shape),
            "label": tfds.features.ClassLabel(num_classes=self.classes),
        }
        features = tfds.features.FeaturesDict(features)
        keys = ("image", "label")
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=keys)

    def _split_generators(self, dl_manager):
        test = "validation" if self.name == "imagenet2012" else "test"
        return {
            "train": self._generate_examples(TRAIN, 0),
            test: self._generate_examples(TEST, 1),
        }

    def _generate_examples(self, count, seed):
        random = np.random.default_rng(seed)
        for i in range(count):
            label = i % self.classes
            shade = 255 * (label % 10) / 10  # something to learn
            pixels = np.clip(random.normal(shade, 40, self.shape), 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels[..., 0] if self.shape[-1] == 1 else pixels).save(file, "png")
            file.seek(0)
            yield i, {"image": file, "label": label}


@functools.cache
def full_size(name):
    """A data set with the shape, classes and number of examples of the real one, all black."""
    shape, classes, train, test = SETS[name]
    zeros = [np.broadcast_to(np.uint8(0), (n, *shape)) for n in (train, test)]
    labels = [np.arange(n, dtype=np.int32) % classes for n in (train, test)]
    return images_and_labels(name, *zip(zeros, labels, strict=True), classes)


def streamed(name, size):
    """The same, as a set whose images stay in files."""
    _, classes, train, test = SETS[name]
    some = {"x": np.zeros((2, size, size, 3), np.uint8), "label": np.zeros(2, np.int32)}
    files = EncodedSet(name, range(train), range(test), classes, View(size, size, "none"))
    return SampledSet(name, some, some, num_classes=classes, max_value=255.0, files=files)


def full_size_text(fields):
    """Sequences of the shape, number and vocabulary that a config asks for, of one token."""
    splits = [
        {name: np.broadcast_to(np.uint16(0), (size, fields.seq_len)) for name in ("x", "label")}
        for size in (fields.train_size, fields.test_size)
    ]
    facts = {"num_classes": fields.vocabulary, "tokens": fields.seq_len}
    return Dataset(fields.name, *splits, task="next_token", **facts)


@functools.cache
def token_file():
    """A file of tokens below :data:`VOCABULARY`, long enough for the toy splits."""
    path = Path(tempfile.mkdtemp()) / "tokens.bin"
    steps = np.random.default_rng(0).integers(1, 3, (TRAIN + TEST + 1) * PLACES)
    (np.cumsum(steps) % VOCABULARY).astype(np.uint16).tofile(path)
    return str(path)


# --- configs -------------------------------------------------------------------------------------


def shrink(config):
    """A config that trains in seconds and has the structure of the one given.

    Structure is what decides which code runs: the family and norm of the network, rule, schedules,
    objective, augmentation, streaming, accumulation, batch norm over less than the batch, axes and
    what follows them, measurements. Numbers are cut: images, one epoch, two values of every axis
    (three of names), the first network of a family, few samples of a measurement. Batch sizes
    become 8 and 16, batches of batch norm 4 and 8; one seed is left.
    """
    config = config.copy_and_resolve_references()
    axes = {axis: values for axis, values in config.sweep.items() if values is not None}
    kept = {axis: dict(zip(_ends(values), _ends(values))) for axis, values in axes.items()}
    for axis, sizes in (("batch_size", BATCH_SIZES), ("bn_batch", BN_BATCHES)):
        if axis in axes:
            kept[axis] = dict(zip(kept[axis], sizes))
    if "seed" in axes:
        kept["seed"] = {axes["seed"][0]: axes["seed"][0]}
    if "epochs" in axes:
        kept["epochs"] = {axes["epochs"][0]: 1}
    if "start_epoch" in axes:
        kept["start_epoch"] = {1: 1}
    for axis, values in kept.items():
        config.sweep[axis] = tuple(values.values())
    for field, (axis, pairs) in config.follow.items():
        table = {kept[axis][key]: value for key, value in dict(pairs).items() if key in kept[axis]}
        config.follow[field] = (axis, tuple((k, _smaller(field, v)) for k, v in table.items()))
    rules = config.sweep.get("rule") or ()
    for field in [f for f in config.follow if rules and f.startswith("rule__")]:
        if not any(field.removeprefix("rule__") in fields_of("rule", rule) for rule in rules):
            del config.follow[field]  # of a rule that was cut
    _shrink_fields(config)
    _shrink_measurements(config.measure)
    return config


def _ends(values):
    """The first and the last; of names and truth values one in the middle, too."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    middle = () if numbers else (values[len(values) // 2],)
    return tuple(dict.fromkeys((values[0], *middle, values[-1])))


def _smaller(field, value):
    if field == "epochs":
        return 1
    if field in ("batch_size", "micro_batch"):
        return BATCH_SIZES[0]
    return SMALLEST.get(value, value) if field == "model__name" else value


def _shrink_fields(config):
    config.epochs = 1
    config.batch_size, config.micro_batch = BATCH_SIZES[-1], None
    if config.bn_batch is not None:
        config.bn_batch = SINGLE_BN
    config.data.train_size, config.data.test_size = TRAIN, TEST
    if config.data.get("seq_len") is not None:
        config.data.seq_len = PLACES
    if config.data.name == "tokens":
        config.data.path, config.data.vocabulary = token_file(), VOCABULARY
    if config.data.stream:
        config.data.image_size, config.engine.workers = SIDE, 0
    config.evaluate.every, config.evaluate.batch = 1, 16
    config.checkpoint.minutes = 1e5
    name = SMALLEST.get(config.model.name, config.model.name)
    fields = {field: value for field, value in config.model.items() if field != "name"}
    alone = not {"model", "model__name"} & {*config.sweep, *config.follow}
    if alone and name == "resnet8":
        fields["width"] = 4
    if alone and name == "convnet":
        fields["channels"] = (3, 4)
    if alone and name == "resnet50":
        fields["stages"] = (1, 1, 1, 1)
    if alone and name == "simple_cnn":
        fields |= {"channels": (3, 4), "hidden": 8}
    if alone and name == "resnet8_preact":
        fields["width"] = 4
    if alone and name in ("f1", "f2"):
        fields["width"] = 8
    if alone and name.startswith("gpt"):
        fields |= {"width": 8, "depth": 1, "heads": 2}
    config.model = {"name": name, **fields}


def _shrink_measurements(measure):
    measure.every, measure.batch = 1, None
    if measure.examples is not None or measure.names:
        measure.examples = 16
    few = {
        "samples": 4, "steps": 2, "directions": 3, "repeats": 2, "probes": 1, "order": 3,
        "points": 20, "examples": 8, "batch_sizes": (2, 8),
    }  # fmt: skip
    for section in measure.values():
        if hasattr(section, "items"):
            for field in section:
                if field in few:
                    section[field] = few[field]
                elif field == "starts":
                    section[field] = min(section[field], 2)


def runs(config):
    """Points of the grid."""
    return math.prod(len(v) for v in config.sweep.values() if v is not None)


def argv_of(config, original):
    """``--config.…`` arguments that make one config of another, for a script's command line."""
    changed = dict(_leaves(config))
    before = dict(_leaves(original))
    return [f"--config.{path}={value!r}" for path, value in changed.items()
            if before.get(path) != value]  # fmt: skip


def _leaves(section, path=""):
    for key, value in section.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def run_script(file, *argv):
    """A script as ``python FILE ARGV`` runs it, in this process."""
    path, before = EXPERIMENTS / file, (sys.argv, sys.path[:], set(sys.modules))
    sys.argv, sys.path = [str(path), *map(str, argv)], [str(path.parent), *sys.path]
    try:
        with jax.numpy_dtype_promotion("standard"):  # as users have it
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path = before[:2]
        for name in set(sys.modules) - before[2]:  # another paper's neighbours have the same names
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(path.parent)):
                del sys.modules[name]
