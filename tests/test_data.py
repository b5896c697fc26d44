"""Data in memory: sources, order of the examples, augmentation and the input pipeline."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from sbt.data import (
    augment_keys,
    epoch_order,
    eval_batches,
    from_arrays,
    load,
    make_pipeline,
    normalize,
    pad_crop_flip,
    purpose_key,
    standardize_each,
    stream_window,
)
from sbt.data.augment import (
    crop_flip,
    crop_flip_draws,
    cutout,
    cutout_draws,
    random_cutout,
)
from sbt.data.dataset import stratified_order, subset
from sbt.data.source import synthetic
from sbt.errors import UserError

KEY = jax.random.key(7)


def pipeline(*arguments):
    """Arrays, and a function that makes images and labels of them."""
    arrays, examples = make_pipeline(*arguments)

    def batch_fn(*where, **mode):
        made = examples(*where, **mode)
        return made["x"], made["label"]

    return arrays, batch_fn


def random_images(n, shape=(9, 7, 3), seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, *shape)).astype(np.uint8)


def small_dataset(n=12, m=5, shape=(9, 7, 3), dtype=np.uint8):
    x = random_images(n + m, shape).astype(dtype)
    y = np.arange(n + m) % 3
    return from_arrays(x[:n], y[:n], x[n:], y[n:])


# Keys and order


def test_purpose_is_hashed_with_crc32():
    # 0xCBF43926 is the published check value of CRC-32.
    expected = jax.random.fold_in(KEY, 0xCBF43926)
    assert purpose_key(KEY, "123456789") == expected


def test_purposes_differ():
    keys = [purpose_key(KEY, p) for p in ("init", "order", "augment", "rule", "dropout")]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 5


@pytest.mark.parametrize("n", [1, 2, 17, 1440])
def test_epoch_order_is_a_permutation(n):
    order = epoch_order(KEY, 3, n)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_epoch_order_depends_on_seed_and_epoch_only():
    reference = epoch_order(KEY, 4, 100)
    jitted = jax.jit(epoch_order, static_argnums=2)(KEY, jnp.int32(4), 100)
    batched = jax.vmap(lambda k, e: epoch_order(k, e, 100))(
        jnp.stack([jax.random.key(1), KEY]), jnp.array([9, 4])
    )
    np.testing.assert_array_equal(reference, jitted)
    np.testing.assert_array_equal(reference, batched[1])
    assert not np.array_equal(reference, epoch_order(KEY, 5, 100))
    assert not np.array_equal(reference, epoch_order(jax.random.key(8), 4, 100))


def test_epoch_order_is_uniform():
    orders = jax.vmap(lambda e: epoch_order(KEY, e, 4))(jnp.arange(4800))
    _, counts = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert len(counts) == 24  # 4!
    assert stats.chisquare(counts).pvalue > 0.01


def test_epoch_order_is_the_same_in_double_precision_mode(x64):
    order = epoch_order(KEY, 4, 100)
    assert order.dtype == jnp.int32
    with jax.enable_x64(False):
        np.testing.assert_array_equal(order, epoch_order(KEY, 4, 100))


@pytest.mark.parametrize("extra", [0, 1, 6, 13])
def test_stream_window_continues_into_the_next_epoch(extra):
    window = stream_window(KEY, 2, 13, extra)
    assert window.shape == (13 + extra,)
    np.testing.assert_array_equal(window[:13], epoch_order(KEY, 2, 13))
    np.testing.assert_array_equal(window[13:], epoch_order(KEY, 3, 13)[:extra])


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_every_batch_size_cuts_the_same_stream(batch):
    n, epochs = 7, 4
    stream = np.concatenate([epoch_order(KEY, e, n) for e in range(epochs + 1)])
    cut = []
    for epoch in range(epochs):  # the batches that start in this epoch
        window = np.asarray(stream_window(KEY, epoch, n, batch - 1))
        first = -(-epoch * n // batch) * batch
        for start in range(first, (epoch + 1) * n, batch):
            cut.append(window[start - epoch * n :][:batch])
    assert all(len(c) == batch for c in cut)
    np.testing.assert_array_equal(np.concatenate(cut), stream[: len(cut) * batch])


@pytest.mark.parametrize("extra", [-1, 14])
def test_stream_window_refuses_more_than_one_epoch(extra):
    with pytest.raises(ValueError, match=r"0 \.\. 13"):
        stream_window(KEY, 0, 13, extra)


# Augmentation

SAME = {"rtol": 1e-5, "atol": 1e-5}  # up to rounding: compilers fuse each shape in their own way


def plain_crop_flip(images, offsets, flips, pad):
    out = []
    for image, (row, column), flip in zip(images, offsets, flips, strict=True):
        height, width, channels = image.shape
        padded = np.zeros((height + 2 * pad, width + 2 * pad, channels), image.dtype)
        padded[pad : pad + height, pad : pad + width] = image
        crop = padded[row : row + height, column : column + width]
        out.append(np.fliplr(crop) if flip else crop)
    return np.stack(out)


@pytest.mark.parametrize("shape", [(9, 7, 3), (8, 8, 1)])
@pytest.mark.parametrize("pad", [1, 4])
def test_crop_flip_equals_a_plain_loop(shape, pad):
    images = np.random.RandomState(1).standard_normal((60, *shape)).astype(np.float32)
    rng = np.random.RandomState(2)
    offsets = rng.randint(0, 2 * pad + 1, (60, 2)).astype(np.int32)
    flips = rng.randint(0, 2, 60).astype(bool)
    offsets[:2], flips[:2] = pad, [False, True]
    result = crop_flip(images, offsets, flips, pad)
    np.testing.assert_array_equal(result, plain_crop_flip(images, offsets, flips, pad))
    np.testing.assert_array_equal(result[0], images[0])
    np.testing.assert_array_equal(result[1], images[1][:, ::-1])


def test_pad_crop_flip_uses_the_draws_of_its_keys():
    images = np.random.RandomState(1).standard_normal((20, 6, 5, 2)).astype(np.float32)
    keys = augment_keys(KEY, jnp.int32(3), jnp.arange(20))
    offsets, flips = (np.asarray(a) for a in crop_flip_draws(keys))
    np.testing.assert_array_equal(
        pad_crop_flip(images, keys), plain_crop_flip(images, offsets, flips, 4)
    )


def test_draws_are_uniform_and_independent():
    keys = augment_keys(KEY, 0, jnp.arange(8100))
    offsets, flips = (np.asarray(a) for a in crop_flip_draws(keys))
    cells = offsets[:, 0] * 18 + offsets[:, 1] * 2 + flips
    counts = np.bincount(cells, minlength=162)
    assert len(counts) == 162  # 9 rows, 9 columns, 2 flips
    assert stats.chisquare(counts).pvalue > 0.01


def plain_cutout(images, centres, side):
    """As in the authors' code: slices clipped at the borders."""
    out = images.copy()
    for image, (row, column) in zip(out, centres, strict=True):
        top, left = row - side // 2, column - side // 2
        image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    return out


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_cutout_equals_a_plain_loop(side):
    images = 1 + np.random.RandomState(1).random((63, 9, 7, 2)).astype(np.float32)
    centres = np.stack(np.divmod(np.arange(63), 7), -1).astype(np.int32)  # every place
    result = np.asarray(cutout(images, centres, side))
    np.testing.assert_array_equal(result, plain_cutout(images, centres, side))
    assert result.dtype == np.float32
    inside = (result == 0)[..., 0].sum((1, 2))
    assert inside.max() == side**2 and np.all(
        inside >= ((side + 1) // 2) * (side // 2) * (side > 1)
    )


def test_cutout_is_centred_anywhere_and_independent_of_the_crop():
    keys = augment_keys(KEY, 0, jnp.arange(6000))
    centres = np.asarray(cutout_draws(keys, 5, 4))
    counts = np.bincount(centres[:, 0] * 4 + centres[:, 1], minlength=20)
    assert len(counts) == 20 and stats.chisquare(counts).pvalue > 0.01
    images = jnp.ones((6000, 5, 4, 1))
    blanked = np.asarray(random_cutout(images, keys, 1))[..., 0] == 0
    assert np.all(blanked.sum((1, 2)) == 1)
    flips = np.asarray(crop_flip_draws(keys)[1])
    rows = blanked.any(2).argmax(1)
    assert stats.chi2_contingency(stats.contingency.crosstab(rows, flips).count).pvalue > 0.01


@pytest.mark.parametrize(
    ("dataset", "side", "words"),
    [
        ({"shape": (4, 6, 1)}, 5, "5 pixels are more than the 4"),
        ({"shape": (6,), "dtype": np.float32}, 2, "squares of images"),
        ({}, 0, "cutout"),
    ],
)
def test_cutout_that_makes_no_sense_is_refused(dataset, side, words):
    with pytest.raises(UserError, match=words):
        make_pipeline(small_dataset(**dataset), {"cutout": side})


def test_cutout_comes_last_and_only_in_training():
    """On crops and flips, keyed by epoch and example; a test batch is as it is."""
    dataset, idx = small_dataset(), jnp.asarray([3, 0, 11])
    arrays, plain = pipeline(dataset, {"augment": "crop_flip"})
    _, both = pipeline(dataset, {"augment": "crop_flip", "cutout": 3})
    _, alone = pipeline(dataset, {"cutout": 3})
    arrays = jax.device_put(arrays)
    keys = augment_keys(purpose_key(KEY, "augment"), jnp.int32(2), idx)
    for batches, train in ((both, plain), (alone, pipeline(dataset, {})[1])):
        whole = np.asarray(train(arrays, idx, 2, KEY, True)[0])
        found = np.asarray(batches(arrays, idx, 2, KEY, True)[0])
        np.testing.assert_allclose(found, random_cutout(whole, keys, 3), **SAME)
        assert (found == 0).sum() > (whole == 0).sum()
        test = [f(arrays, idx, 2, KEY, False)[0] for f in (batches, train)]
        np.testing.assert_array_equal(*test)


def test_augment_keys_fold_epoch_then_example():
    keys = augment_keys(KEY, jnp.array([2, 5]), jnp.array([30, 31]))
    assert keys[1] == jax.random.fold_in(jax.random.fold_in(KEY, 5), 31)
    assert keys[0] == augment_keys(KEY, 2, jnp.array([30]))[0]


# Normalisation


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalize_closed_form(dtype):
    images = random_images(4)
    mean, std = np.array([1.0, 120.0, 250.0]), np.array([60.0, 2.0, 0.5])
    result = normalize(images, mean, std, dtype)
    assert result.dtype == dtype
    expected = (images.astype(np.float64) - mean) / std
    tolerance = 2.0**-22 if dtype == jnp.float32 else 2.0**-8  # relative, of the result
    np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=tolerance, atol=1e-6)


def test_standardize_each_gives_mean_0_and_variance_1():
    images = np.concatenate([random_images(3), np.full((1, 9, 7, 3), 200, np.uint8)])
    result = np.asarray(standardize_each(images), np.float64)
    np.testing.assert_allclose(result.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(result[:3].std(axis=(1, 2, 3)), 1, rtol=1e-6)
    np.testing.assert_array_equal(result[3], 0)


def pipeline_batch(dataset, indices, train=True, **data_config):
    arrays, batch_fn = pipeline(dataset, data_config)
    return batch_fn(jax.device_put(arrays), jnp.asarray(indices), 0, KEY, train)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("scheme", ["channel", "pixel", "image", "unit", "none"])
def test_pipeline_normalisation_closed_form(scheme, train, dtype):
    dataset = small_dataset(dtype=dtype)
    stored = dataset.train_images.astype(np.float64)  # statistics: always of the training split
    unit = 255.0 if dtype == np.uint8 else 1.0
    x = (dataset.train_images if train else dataset.test_images)[[3, 0, 4]].astype(np.float64)
    expected = {
        "channel": (x - stored.mean((0, 1, 2))) / stored.std((0, 1, 2)),
        "pixel": (x - stored.mean(0)) / unit,
        "image": (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True),
        "unit": x / unit,
        "none": x,
    }[scheme]
    result, labels = pipeline_batch(dataset, [3, 0, 4], train, normalize=scheme)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    split = dataset.train_labels if train else dataset.test_labels
    np.testing.assert_array_equal(labels, split[[3, 0, 4]])


def test_a_constant_channel_is_only_centred():
    images = random_images(6)
    images[..., 1] = 40
    dataset = from_arrays(images, np.arange(6), images, np.arange(6))
    result, _ = pipeline_batch(dataset, [0, 1])
    np.testing.assert_array_equal(result[..., 1], 0)


def test_digits_unit_range_ends_at_one():
    dataset = load({"name": "digits"})
    result, _ = pipeline_batch(dataset, np.arange(1440), normalize="unit")
    assert float(result.min()) == 0.0
    assert float(result.max()) == 1.0


def test_vectors_need_no_image_shape():
    dataset = small_dataset(shape=(6,), dtype=np.float32)
    result, _ = pipeline_batch(dataset, [1, 2], normalize="channel")
    x = dataset.train_images.astype(np.float64)
    np.testing.assert_allclose(result, ((x - x.mean(0)) / x.std(0))[[1, 2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("augment", ["crop_flip", "affine"])
def test_augmentation_does_not_depend_on_grouping(augment):
    arrays, batch_fn = pipeline(small_dataset(), {"augment": augment})
    batch_fn = jax.jit(batch_fn, static_argnums=4)
    arrays = jax.device_put(arrays)
    indices = jnp.array([4, 0, 11, 7, 7, 3])
    epochs = jnp.array([0, 0, 0, 0, 1, 1])
    whole, labels = batch_fn(arrays, indices, epochs, KEY, True)
    backwards, _ = batch_fn(arrays, indices[::-1], epochs[::-1], KEY, True)
    np.testing.assert_allclose(whole, backwards[::-1], **SAME)
    blocks, block_labels = batch_fn(arrays, indices.reshape(2, 3), epochs.reshape(2, 3), KEY, True)
    np.testing.assert_allclose(whole, blocks.reshape(whole.shape), **SAME)
    np.testing.assert_array_equal(labels, block_labels.reshape(-1))
    for i in range(6):
        one, _ = batch_fn(arrays, indices[i : i + 1], epochs[i], KEY, True)
        np.testing.assert_allclose(whole[i], one[0], **SAME)
    assert np.abs(whole[3] - whole[4]).max() > 0.1  # one example in two epochs


def test_pipeline_under_jit_vmap_and_scan():
    arrays, batch_fn = pipeline(small_dataset(), {"augment": "crop_flip"})
    arrays = jax.device_put(arrays)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    indices = jax.random.randint(KEY, (5, 3, 4), 0, 12)  # ticks, lanes, examples

    @jax.jit
    def scanned(arrays, indices, keys):
        def tick(epoch, idx):
            x, y = jax.vmap(lambda i, k: batch_fn(arrays, i, epoch, k, True))(idx, keys)
            return epoch + 1, (x, y)

        return jax.lax.scan(tick, jnp.int32(0), indices)[1]

    x, y = scanned(arrays, indices, keys)
    for t, lane in [(0, 0), (3, 2), (4, 1)]:
        x_one, y_one = batch_fn(arrays, indices[t, lane], t, keys[lane], True)
        np.testing.assert_allclose(x[t, lane], x_one, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(y[t, lane], y_one)


def test_padding_is_the_mean_colour():
    dataset = small_dataset()
    arrays, batch_fn = pipeline(dataset, {"augment": "crop_flip", "normalize": "channel"})
    x, _ = batch_fn(jax.device_put(arrays), jnp.arange(12), 0, KEY, True)
    offsets, flips = crop_flip_draws(
        augment_keys(purpose_key(KEY, "augment"), jnp.int32(0), jnp.arange(12))
    )
    stored = dataset.train_images.astype(np.float64)
    normal = (stored - stored.mean((0, 1, 2))) / stored.std((0, 1, 2))
    expected = plain_crop_flip(normal, np.asarray(offsets), np.asarray(flips), 4)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)


def test_only_training_batches_are_augmented():
    dataset = small_dataset()
    plain = pipeline(dataset, {"augment": "none"})[1]
    arrays, augmented = pipeline(dataset, {"augment": "crop_flip"})
    arrays, idx = jax.device_put(arrays), jnp.arange(5)
    np.testing.assert_array_equal(
        augmented(arrays, idx, 0, KEY, False)[0], plain(arrays, idx, 0, KEY, False)[0]
    )
    np.testing.assert_array_equal(
        augmented(arrays, idx, 0, KEY, True, augmented=False)[0],
        plain(arrays, idx, 0, KEY, True)[0],
    )
    assert not np.array_equal(
        augmented(arrays, idx, 0, KEY, True)[0], plain(arrays, idx, 0, KEY, True)[0]
    )


def test_pipeline_in_double_precision(x64):
    dataset = small_dataset()
    arrays, batch_fn = pipeline(dataset, {"augment": "crop_flip"}, jnp.float64)
    x, _ = batch_fn(jax.device_put(arrays), jnp.arange(4), jnp.zeros(4, int), KEY, True)
    assert x.dtype == jnp.float64
    with jax.enable_x64(False):
        arrays, batch_fn = pipeline(dataset, {"augment": "crop_flip"})
        single, _ = batch_fn(jax.device_put(arrays), jnp.arange(4), 0, KEY, True)
    np.testing.assert_allclose(x, single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("data_config", "field", "hint"),
    [
        ({"normalize": "channels"}, "config.data.normalize", "channel"),
        ({"augment": "flip"}, "config.data.augment", "crop_flip"),
    ],
)
def test_pipeline_refuses_unknown_names(data_config, field, hint):
    with pytest.raises(UserError, match=hint) as error:
        pipeline(small_dataset(), data_config)
    assert error.value.field == field


@pytest.mark.parametrize("augment", ["crop_flip", "affine"])
def test_pipeline_refuses_to_move_the_pixels_of_vectors(augment):
    with pytest.raises(UserError, match=r"shape \(6,\)"):
        pipeline(small_dataset(shape=(6,)), {"augment": augment})


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (8, 4), (3, 5), (1, 1)])
def test_eval_batches_cover_every_example_once(n, batch):
    indices, weights = eval_batches(n, batch)
    assert indices.shape == weights.shape == (int(np.ceil(n / batch)), batch)
    assert (indices.dtype, weights.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(np.sort(indices[weights == 1]), np.arange(n))
    assert weights.sum() == n
    assert indices.max() < n
    values = np.random.RandomState(0).standard_normal(n)
    mean = (weights * values[indices]).sum() / weights.sum()
    np.testing.assert_allclose(mean, values.mean(), rtol=1e-12)


@pytest.mark.parametrize(("n", "batch"), [(0, 4), (4, 0)])
def test_eval_batches_refuse_nothing(n, batch):
    with pytest.raises(ValueError, match="positive"):
        eval_batches(n, batch)


# Sources


@pytest.mark.parametrize("file_is_there", [True, False])
def test_digits_are_those_of_scikit_learn(file_is_there, monkeypatch):
    from sklearn.datasets import load_digits

    if not file_is_there:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    dataset = load({"name": "digits"})
    assert dataset.train_images.shape == (1440, 8, 8, 1)
    assert dataset.test_images.shape == (357, 8, 8, 1)
    assert dataset.num_classes == 10
    bunch = load_digits()

    def rows(images, labels):
        return sorted(map(tuple, np.c_[np.reshape(images, (len(images), -1)), labels].astype(int)))

    together = np.concatenate([dataset.train_images, dataset.test_images])
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    assert rows(together, labels) == rows(bunch.data, bunch.target)
    expected = np.bincount(bunch.target) * 1440 / 1797
    assert np.abs(np.bincount(dataset.train_labels) - expected).max() <= 1


def test_stratified_order_keeps_proportions_in_every_prefix():
    labels = np.random.RandomState(3).choice(4, 500, p=[0.5, 0.3, 0.15, 0.05])
    order = stratified_order(labels)
    np.testing.assert_array_equal(np.sort(order), np.arange(500))
    share = np.bincount(labels) / 500
    counts = np.cumsum(np.eye(4)[labels[order]], axis=0)
    assert np.abs(counts - np.arange(1, 501)[:, None] * share).max() < 2


def test_subsets_are_nested_and_repeatable():
    small = load({"name": "digits", "train_size": 50, "test_size": 30})
    large = load({"name": "digits", "train_size": 200})
    np.testing.assert_array_equal(small.train_images, large.train_images[:50])
    np.testing.assert_array_equal(np.bincount(small.train_labels), 5)
    assert len(small.test_labels) == 30
    assert len(large.test_labels) == 357


def test_subset_draws_pairs_of_image_and_label():
    images = np.arange(60, dtype=np.uint8).reshape(60, 1)
    dataset = from_arrays(images, np.arange(60) % 7, images, np.arange(60) % 7)
    few = subset(dataset, 20, None)
    np.testing.assert_array_equal(few.train_images[:, 0] % 7, few.train_labels)
    np.testing.assert_array_equal(few.test_images, images)


def test_synthetic_is_repeatable_and_parametrised():
    options = {"num_classes": 4, "image_shape": (10, 6, 2), "noise": 0.5}
    small = load(ConfigDict({"name": "synthetic", "train_size": 24, "test_size": 8} | options))
    large = load({"name": "synthetic", "train_size": 40, "test_size": 8} | options)
    assert small.train_images.shape == (24, 10, 6, 2)
    assert small.train_images.dtype == np.uint8
    np.testing.assert_array_equal(small.train_images, large.train_images[:24])
    np.testing.assert_array_equal(np.bincount(small.train_labels), 6)
    assert not np.array_equal(small.train_images[:8], small.test_images)


@pytest.mark.parametrize(("noise", "low", "high"), [(1.0, 0.95, 1.0), (1000.0, 0.0, 0.25)])
def test_synthetic_is_learnable_unless_drowned(noise, low, high):
    data = synthetic(noise=noise)
    train = data.train_images.reshape(1024, -1).astype(float)
    test = data.test_images.reshape(256, -1).astype(float)
    centres = np.stack([train[data.train_labels == k].mean(axis=0) for k in range(10)])
    nearest = ((test[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)
    assert low <= (nearest == data.test_labels).mean() <= high


def test_from_arrays_keeps_the_arrays():
    x = np.random.RandomState(0).standard_normal((6, 3)).astype(np.float32)
    dataset = from_arrays(x, [0, 1, 2, 0, 1, 2], x[:2], [3, 0], name="mine", num_classes=5)
    assert (dataset.name, dataset.num_classes, dataset.max_value) == ("mine", 5, 1.0)
    assert dataset.train_images is x
    assert dataset.train_labels.dtype == np.int32
    assert from_arrays(x, np.arange(6), x, np.arange(6)).num_classes == 6


X, Y = np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "field", "problem"),
    [
        ((X, Y[:3], X, Y), "train_images", r"\(4, 2\).*\(3,\)"),
        ((X[:0], Y[:0], X, Y), "train_images", r"\(0, 2\)"),
        ((X, np.eye(2)[Y], X, Y), "train_images", r"labels of shape \(4, 2\)"),
        ((X, Y, X[:, :1], Y), "test_images", r"do not match"),
        ((X, Y, X.astype(np.uint8), Y), "test_images", r"do not match"),
        ((X.astype(int), Y, X, Y), "train_images", "int64.*uint8"),
        ((X, Y, np.full_like(X, np.nan), Y), "test_images", "NaN"),
        ((X, Y - 1, X, Y), "train_labels", "-1"),
        ((X, Y.astype(float), X, Y), "train_labels", "float64"),
    ],
)
def test_from_arrays_refuses(arguments, field, problem):
    with pytest.raises(UserError, match=rf"(?s){problem}") as error:
        from_arrays(*arguments)
    assert error.value.field == field


def test_from_arrays_refuses_too_few_classes():
    with pytest.raises(UserError, match="num_classes to 2"):
        from_arrays(X, Y, X, Y, num_classes=1)


@pytest.mark.parametrize(
    ("data_config", "field", "message"),
    [
        ({"name": None}, "config.data.name", "not a name"),
        ({"name": "digits", "train_size": 1441}, "config.data.train_size", "at most 1440"),
        (
            {"name": "digits", "test_size": 0},
            "config.data.test_size",
            "a whole number of at least 1",
        ),
        ({"name": "digits", "train_size": 2.5}, "config.data.train_size", "2.5"),
        ({"name": "digits", "noise": 1.0}, "config.data.noise", "not a field of data set 'digits'"),
        ({"name": "digits", "trian_size": 9}, "config.data.trian_size", "did you mean train_size"),
        ({"name": "synthetic", "num_classes": 1}, "config.data.num_classes", "at least 2"),
    ],
)
def test_load_refuses(data_config, field, message):
    with pytest.raises(UserError, match=message) as error:
        load(data_config)
    assert error.value.field == field


def test_import_is_light():
    code = (
        "import sys, sbt.data\n"
        "heavy = {'tensorflow_datasets', 'tensorflow', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
