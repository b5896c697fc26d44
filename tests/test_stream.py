"""Streaming: views of encoded images, the same stream however it is read, what is refused."""

import builtins
import io
import multiprocessing
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sbt.data import epoch_order, load, prepare, stream
from sbt.data.encoded import open_encoded
from sbt.data.imagenet import (
    AUGMENTATIONS,
    View,
    central,
    decode,
    evaluation_view,
    render,
    resized_crop,
    scale_jitter,
    training_view,
    uniforms,
)
from sbt.errors import UserError

TRAIN, TEST, SIZE = 23, 9, 16
SHAPES = ((40, 30), (30, 44), (37, 37), (19, 60))  # height, width


def encoded(image, form="jpeg", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photograph(i, shape):
    """A smooth coloured picture: JPEG must have something that it can keep."""
    low = np.random.RandomState(i).randint(0, 256, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(low).resize(shape[::-1], Image.Resampling.BICUBIC)


class SbtJpegs(tfds.core.GeneratorBasedBuilder):
    """JPEGs of four sizes; an unlabelled test split, as ImageNet has one."""

    VERSION = tfds.core.Version("1.0.0")
    counts = {"train": TRAIN, "validation": TEST, "test": 3}  # noqa: RUF012
    shape: tuple = (None, None, 3)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.shape),
            "label": tfds.features.ClassLabel(num_classes=4),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split):
        for i in range(self.counts[split]):
            label = -1 if split == "test" else i % 4
            yield i, {"image": self.file(i, split), "label": label}

    def file(self, i, split):
        return io.BytesIO(encoded(photograph(i + 100 * len(split), SHAPES[i % 4]), quality=90))


class SbtSquares(SbtJpegs):
    """PNG files of one size and a training split only: also readable as arrays."""

    VERSION = tfds.core.Version("1.0.0")
    counts = {"train": 40}  # noqa: RUF012
    shape = (SIZE, SIZE, 3)

    def file(self, i, split):
        return io.BytesIO(encoded(photograph(i, (SIZE, SIZE)), "png"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    prepare.prepare("sbt_jpegs", directory)
    prepare.prepare("sbt_squares", directory)
    return directory


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SBT_CACHE_DIR", str(tmp_path / "cache"))


def config(directory, **fields):
    return {
        "name": "sbt_jpegs", "data_dir": str(directory), "stream": True, "image_size": SIZE,
        "augment": "resized_crop", **fields,
    }  # fmt: skip


def read(directory, first=0, count=2 * TRAIN, seeds=(0,), pieces=None, workers=0, **fields):
    """One window, or several in a row."""
    reader = stream.training_stream(open_encoded(config(directory, **fields)), seeds, workers)
    windows = []
    for piece in pieces or (count,):
        windows.append(reader.window(first, piece))
        first += piece
    reader.close()
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *windows)


def cut(window, rows=slice(None), columns=slice(None)):
    return jax.tree.map(lambda part: part[rows, columns], window)


def same(window, other):
    for a, b in zip(jax.tree.leaves(window), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# --- the stream ----------------------------------------------------------------------------------


def test_order_is_that_of_resident_data(directory):
    window = read(directory, count=3 * TRAIN, seeds=(5,))
    order = [epoch_order(jax.random.key(5), epoch, TRAIN) for epoch in range(3)]
    np.testing.assert_array_equal(window.numbers[0], np.concatenate(order))
    for epoch in np.split(window.numbers[0], 3):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(TRAIN))
    labels = [open_encoded(config(directory)).train[int(i)][1] for i in window.numbers[0]]
    np.testing.assert_array_equal(window.examples["label"][0], labels)
    assert (window.examples["x"].dtype, window.examples["x"].shape) == (
        np.uint8,
        (1, 3 * TRAIN, SIZE, SIZE, 3),
    )


def test_workers_change_nothing(directory):
    """Nor do seeds side by side, the lengths of windows, nor a beginning in mid epoch."""
    alone = read(directory, seeds=(3,), count=80)
    with_workers = read(directory, first=30, pieces=(7, 1, 42), seeds=(1, 3), workers=2)
    same(
        cut(alone, columns=slice(30, 80)),
        cut(with_workers, rows=slice(1, None)),
    )


def test_workers_ignore_the_signals_that_stop_a_run(directory):
    """From their first moment: a batch system tells all processes of a job at the same time."""
    reader = stream.training_stream(open_encoded(config(directory)), (0,), workers=2)
    windows, told = [], set()
    reading = threading.Thread(target=lambda: windows.append(reader.window(0, 40)))
    reading.start()
    while reading.is_alive():
        for child in set(multiprocessing.active_children()) - told:
            told.add(child)
            os.kill(child.pid, signal.SIGTERM)
        reading.join(0.01)
    assert len(told) == 2
    for child in told:
        os.kill(child.pid, signal.SIGINT)
    windows.append(reader.window(40, 40))
    reader.close()
    same(windows[1], read(directory, first=40, count=40))


def test_reading_may_jump(directory):
    reader = stream.training_stream(open_encoded(config(directory)), (0,), 0)
    whole = reader.window(0, 60)
    for first, count in ((41, 10), (51, 3), (2, 20)):
        window = reader.window(first, count)
        same(window, cut(whole, columns=slice(first, first + count)))
    reader.close()
    reader.close()
    same(reader.window(0, 60), whole)
    reader.close()


def test_seeds_and_epochs_differ(directory):
    window = read(directory, seeds=(0, 1), count=2 * TRAIN)
    assert (window.numbers[0] != window.numbers[1]).any()
    views = {}
    for row in range(2):
        for i, example in enumerate(window.numbers[row]):
            views.setdefault(int(example), set()).add(window.examples["x"][row, i].tobytes())
    assert all(len(seen) == 4 for seen in views.values())  # two seeds, two epochs


def test_view_depends_on_seed_epoch_and_example_alone(directory):
    data = open_encoded(config(directory, augment="scale_jitter"))
    window = stream.training_stream(data, (7,), 0).window(0, 2 * TRAIN)
    for position in (0, 5, TRAIN, 2 * TRAIN - 1):
        example = int(window.numbers[0, position])
        file = data.train[example][0]
        mine = training_view(file, data.view, uniforms(7, position // TRAIN, example))
        np.testing.assert_array_equal(window.examples["x"][0, position], mine)


def test_test_split_goes_round(directory):
    data = open_encoded(config(directory))
    assert (len(data.train), len(data.test), data.num_classes) == (TRAIN, TEST, 4)
    reader = stream.test_stream(data, period=12, workers=0)
    expected = [evaluation_view(data.test[i][0], data.view) for i in range(TEST)]
    for _ in range(2):
        first, second = reader.window(0, 8), reader.window(8, 4)
        examples = np.concatenate([first.numbers, second.numbers], axis=1)[0]
        np.testing.assert_array_equal(examples, [*range(TEST), 0, 1, 2])
        images = np.concatenate([first.examples["x"], second.examples["x"]], axis=1)[0]
        np.testing.assert_array_equal(images, [expected[i] for i in examples])
    round_two = reader.window(12, 3)
    np.testing.assert_array_equal(round_two.numbers[0], [0, 1, 2])
    reader.close()


def test_subsets_and_held_out_examples_are_those_of_resident_data(directory):
    fields = {"name": "sbt_squares", "data_dir": str(directory), "train_size": 20, "test_size": 5}
    resident = load(fields)
    data = open_encoded(config(directory, **fields, resize=SIZE, augment="none"))
    for images, pixels, labels in (
        (data.train, resident.train_images, resident.train_labels),
        (data.test, resident.test_images, resident.test_labels),
    ):
        files = [images[i] for i in range(len(images))]
        np.testing.assert_array_equal([evaluation_view(f, data.view) for f, _ in files], pixels)
        np.testing.assert_array_equal([label for _, label in files], labels)


def test_sample_for_statistics(directory):
    data = open_encoded(config(directory))
    whole, some = data.sample(), data.sample(4)
    assert (len(whole.train_labels), len(some.train_labels), whole.num_classes) == (TRAIN, 4, 4)
    np.testing.assert_array_equal(some.train_images, whole.train_images[[0, 5, 11, 17]])
    np.testing.assert_array_equal(
        whole.train_images[3], evaluation_view(data.train[3][0], data.view)
    )


# --- views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_central_view_is_resize_then_crop(shape):
    """An independent way there: the whole image resized by PIL, then cut."""
    height, width = shape
    file, view = encoded(photograph(1, shape), quality=95), View(16, 20)
    image = Image.open(io.BytesIO(file))
    wide, high = round(width * 20 / min(shape)), round(height * 20 / min(shape))
    resized = np.asarray(image.resize((wide, high), Image.Resampling.BILINEAR), int)
    top, left = (high - 16) // 2, (wide - 16) // 2
    difference = evaluation_view(file, view).astype(int) - resized[top:, left:][:16, :16]
    assert np.abs(difference).max() <= 1


def test_images_of_the_right_size_are_left_alone():
    image = photograph(2, (16, 16))
    view = View(16, 16)
    np.testing.assert_array_equal(evaluation_view(encoded(image, "png"), view), np.asarray(image))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_random_views_show_their_region(name):
    """A ramp of brightness tells where every pixel comes from."""
    width, height, size = 240, 200, 20
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    ramp = Image.fromarray(np.stack([across, down, 0 * down], -1).astype(np.uint8))
    flips = 0
    for example in range(20):
        draw = uniforms(0, 0, example)
        region = (
            resized_crop(width, height, draw)
            if name == "resized_crop"
            else scale_jitter(width, height, size, draw)
        )
        assert 0 <= region.left < region.right <= width + 1e-9
        assert 0 <= region.top < region.bottom <= height + 1e-9
        pixels = render(ramp, region, View(size, size)).astype(float)
        at = (np.arange(size) + 0.5) / size
        x = region.left + at * (region.right - region.left) - 0.5
        y = region.top + at * (region.bottom - region.top) - 0.5
        inner = slice(1, -1)  # at the border of the image the filter is cut
        x = x[::-1] if region.mirrored else x
        np.testing.assert_allclose(pixels[5, inner, 0], x[inner], atol=1.2)
        np.testing.assert_allclose(pixels[inner, 5, 1], y[inner], atol=1.2)
        flips += region.mirrored
        file = encoded(ramp, "png")
        view = View(size, size, augment=name)
        again = training_view(file, view, uniforms(0, 0, example))
        np.testing.assert_array_equal(again, pixels)
    assert 3 <= flips <= 17  # of 20 fair coins, but for 2 seeds in 10000


def test_resized_crop_keeps_to_its_bounds():
    width, height = 500, 400
    draw = uniforms(1, 0, 0)
    regions = [resized_crop(width, height, draw) for _ in range(2000)]
    w = np.asarray([r.right - r.left for r in regions])
    h = np.asarray([r.bottom - r.top for r in regions])
    area, aspect = w * h / (width * height), w / h
    assert area.min() > 0.075 and area.max() <= 1
    assert area.min() < 0.1 and area.max() > 0.95
    assert aspect.min() > 0.74 and aspect.max() < 1.35
    # Small parts always fit, and below half of the image areas are uniform.
    counts, _ = np.histogram(area[area < 0.48], bins=4, range=(0.08, 0.48))
    assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())
    flips = np.mean([r.mirrored for r in regions])
    assert abs(flips - 0.5) < 5 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1)])
def test_resized_crop_of_strips(width, height):
    """Hardly any part fits: the largest central one of an allowed aspect ratio does."""
    for example in range(5):
        region = resized_crop(width, height, uniforms(0, 0, example))
        w, h = region.right - region.left, region.bottom - region.top
        assert region.left >= 0 and region.right <= width and region.top >= 0
        assert region.bottom <= height and min(w, h) >= 1 and max(w, h) <= 1.4 * min(w, h)


def test_scale_jitter_keeps_to_its_bounds():
    draw = uniforms(1, 0, 0)
    regions = [scale_jitter(500, 400, 224, draw) for _ in range(1000)]
    shorter = np.asarray([224 * 400 / (r.bottom - r.top) for r in regions])
    np.testing.assert_allclose([r.right - r.left for r in regions], 224 * 400 / shorter, rtol=1e-2)
    assert abs(shorter.min() - 256) < 2 and abs(shorter.max() - 480) < 2
    assert abs(shorter.mean() - 368) < 5 * 65 / np.sqrt(1000)


def test_kinds_of_files():
    image = photograph(3, (20, 30))
    cmyk = decode(encoded(image.convert("CMYK"), quality=95), 3)
    assert (cmyk.mode, cmyk.size) == ("RGB", (30, 20))
    assert np.abs(np.asarray(cmyk, int) - np.asarray(image, int)).mean() < 4
    palette = decode(encoded(image.convert("P"), "png"), 3)
    assert palette.mode == "RGB"
    grey = evaluation_view(encoded(image.convert("L"), "png"), View(8, 8, 1))
    assert grey.shape == (8, 8, 1)
    whole = encoded(image)
    for broken in (whole[: len(whole) // 2], b"", b"no image"):
        with pytest.raises(ValueError, match="not an image that can be decoded"):
            decode(broken, 3)


def test_central_region_lies_inside():
    for width in range(16, 80, 7):
        for height in range(16, 80, 5):
            region = central(width, height, View(16, 18))
            assert 0 <= region.left < region.right <= width + 1e-9
            assert 0 <= region.top < region.bottom <= height + 1e-9


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "digits"}, "not a set of files to stream from"),
        ({"resize": 15}, "config.data.resize"),
        ({"image_size": -1}, "config.data.image_size"),
        ({"train_size": 24}, "24 examples asked for, 23 exist"),
        ({"name": "sbt_jpeg"}, "unknown data set"),
    ],
)
def test_wrong_fields(directory, fields, message):
    with pytest.raises(UserError, match=message):
        open_encoded(config(directory, **fields))


def test_imagenet_has_to_be_fetched_by_hand(tmp_path):
    with pytest.raises(UserError, match="fetched by hand") as error:
        open_encoded(config(tmp_path, name="imagenet2012"))
    assert "ILSVRC2012_img_train.tar" in error.value.remedy
    assert "python -m sbt.data.prepare imagenet2012" in error.value.remedy


def test_images_of_any_size_need_a_stream(directory):
    with pytest.raises(UserError, match="vary in size") as error:
        load({"name": "sbt_jpegs", "data_dir": str(directory)})
    assert "config.data.stream = True" in error.value.remedy


def test_without_grain(directory, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "grain":
            raise ImportError("No module named 'grain'")
        return original(name, *args, **kwargs)

    data = open_encoded(config(directory))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="needs the package grain") as error:
        stream.training_stream(data, (0,))
    assert "pip install grain" in error.value.remedy


def test_too_little_shared_memory(directory, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    data = open_encoded(config(directory, image_size=224))
    with pytest.raises(UserError, match=r"config.engine.workers.*1 MiB are free"):
        stream.training_stream(data, (0,), workers=8)
