"""Streamed sweeps give the results of resident ones, in whatever windows, interrupted or not."""

import io
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
import xarray as xr
from lanes import CLASSES, TESTED, N, dataset
from PIL import Image
from sweeps import Watch, compiling_anew, shorten_windows

from sbt.data import prepare
from sbt.errors import UserError
from sbt.sweep import feed
from sbt.sweep import run as runs
from sbt.sweep.run import Interrupted, run

SIZE = 8


class SbtPatterns(tfds.core.GeneratorBasedBuilder):
    """The data of the other tests, as PNG files."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(SIZE, SIZE, 3)),
            "label": tfds.features.ClassLabel(num_classes=CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        data = dataset((SIZE, SIZE, 3))
        return {
            "train": self._generate_examples(data.train_images, data.train_labels),
            "test": self._generate_examples(data.test_images, data.test_labels),
        }

    def _generate_examples(self, images, labels):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "png")
            file.seek(0)
            yield i, {"image": file, "label": int(label)}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    prepare.prepare("sbt_patterns", directory)
    return str(directory)


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with compiling_anew():
        yield


@pytest.fixture(scope="module", autouse=True)
def small_windows():
    """Of three ticks, or six batches of the test split, on each of eight devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(feed.WINDOW_BYTES, "cpu", 8 * 3 * 4 * 2 * SIZE * SIZE * 3)
        yield


def config(directory, stream, **changes):
    data = {"name": "sbt_patterns", "data_dir": directory, "augment": "crop_flip"}
    if stream:
        data |= {"stream": True, "image_size": SIZE, "resize": SIZE}
    return {
        "data": data | changes.pop("data", {}),
        "model": {"name": "convnet", "channels": (3, 4)},
        "epochs": 2,
        "micro_batch": 4,
        "schedule": {"name": "steps", "drops": (0.5,)},
        "evaluate": {"batch": 4} | changes.pop("evaluate", {}),
        "engine": ({"workers": 0} if stream else {}) | changes.pop("engine", {}),
        "checkpoint": {"minutes": 1e6},
        "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-8, 2.0**-5), "seed": (0, 7)},
        **changes,
    }


def close(streamed, resident):
    """Equal up to rounding; whatever is not a float exactly."""
    a, b = streamed.drop_attrs(), resident.drop_attrs()
    xr.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def resident(directory):
    return run(config(directory, stream=False))


@pytest.fixture(scope="module")
def streamed(directory):
    return run(config(directory, stream=True))


def test_data_of_the_test(directory, resident, streamed):
    """Several windows are read, and there is something to be learnt."""
    data = runs.prepare(config(directory, True), runs.Parts(None, None))
    (cohort,) = data.cohorts
    placed = data.place(cohort)
    problem, stream = placed.problem, feed.make_feed(placed, 1, 4)
    assert (problem.num_examples, problem.dataset.test_examples) == (N, TESTED)
    assert stream.most_ticks == 3
    rounds = list(stream.rounds("test"))
    assert [part.indices.shape for part in rounds] == [(6, 4), (6, 4)]
    assert sum(float(part.weights.sum()) for part in rounds) == TESTED
    stream.close()
    loss = resident["train_loss"]
    assert (loss[..., 0] - loss[..., -1]).max() > 0.05
    assert not resident["diverged"].any()


def test_streamed_equals_resident(resident, streamed):
    close(streamed, resident)


def test_no_thread_and_no_worker_is_left(streamed):
    assert not [t for t in threading.enumerate() if t.name.startswith("sbt-feed")]


def test_workers_and_shared_batches(directory, resident):
    """Processes that decode, and devices that share the batches of a run."""
    changes = {"engine": {"workers": 1}, "parallel": {"data": 2}, "micro_batch": 2}
    close(run(config(directory, stream=True, **changes)), resident)


def test_interrupted_and_resumed(directory, streamed, tmp_path, monkeypatch):
    """In the middle of an epoch, in a window that a call has only begun."""
    shorten_windows(monkeypatch, 2)
    for tick in (10, 30):
        watch = Watch(epochs=(tick - 0.5) * 4 / N)
        with pytest.raises(Interrupted):
            run(config(directory, stream=True), tmp_path, progress=watch)
    mine = run(config(directory, stream=True, engine={"workers": 1}), tmp_path)
    xr.testing.assert_identical(mine.drop_attrs(), streamed.drop_attrs())


def test_views_of_the_host(directory):
    """Random crops made while decoding: other results, the same at every call."""
    changes = {"data": {"augment": "resized_crop", "normalize": "unit"}, "epochs": 1}
    first, second = (run(config(directory, stream=True, **changes)) for _ in range(2))
    xr.testing.assert_identical(first.drop_attrs(), second.drop_attrs())
    plain = run(config(directory, stream=True, data={"augment": "none", "normalize": "unit"},
                       epochs=1))  # fmt: skip
    assert (np.abs(first["train_loss"] - plain["train_loss"]) > 1e-4).all()


@pytest.mark.parametrize(
    ("stream", "changes", "message"),
    [
        (True, {"evaluate": {"statistics": "precise"}}, "config.evaluate.statistics"),
        (True, {"measure": {"names": ("sharpness",)}}, "config.measure.names"),
        (True, {"copies": 2, "data": {"augment": "resized_crop"}}, "config.copies"),
        (True, {"data": {"image_size": 0}}, "config.data.image_size"),
        (True, {"engine": {"workers": -1}}, "config.engine.workers"),
        (False, {"data": {"augment": "scale_jitter"}}, "config.data.stream = True"),
        (False, {"data": {"resize": 9}}, "only data that is streamed"),
    ],
)
def test_what_does_not_go_together(directory, stream, changes, message):
    with pytest.raises(UserError, match=message):
        run(config(directory, stream, **changes))
