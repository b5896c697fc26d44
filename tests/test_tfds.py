"""TFDS sets: reading without TensorFlow, the first use of a set, the cache, what is refused."""

import functools
import http.server
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sbt.data import cache, load, prepare, tfds_reader
from sbt.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("SBT_TEST_DATA") or REPOSITORY.parent / "shared" / "data" / "tfds")
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


def needs(name):
    return pytest.mark.skipif(
        not (REAL / name).is_dir(),
        reason=f"no prepared {name} in {REAL}; set SBT_TEST_DATA to a TFDS directory that has it",
    )


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SBT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


# Small sets, prepared here. PNG files are handed to TFDS encoded, which needs no TensorFlow.


def pictures(n, shape=(5, 6, 3), seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, *shape)).astype(np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    file.seek(0)
    return file


class SbtTinyShapes(tfds.core.GeneratorBasedBuilder):
    """Twelve training and four test images; the label is in the first pixel."""

    VERSION = tfds.core.Version("1.0.0")
    counts = {"train": 12, "test": 4}  # noqa: RUF012
    shape = (5, 6, 3)
    features = {  # noqa: RUF012
        "image": tfds.features.Image(shape=(5, 6, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    supervised: tuple | None = ("image", "label")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.features),
            supervised_keys=self.supervised,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split):
        for i, image in enumerate(pictures(self.counts[split], seed=len(split))):
            image[0, 0, 0] = i % 3
            yield i, self.example(image, i % 3)

    def example(self, image, label):
        return {"image": png(image), "label": label}


class SbtTinyHoldout(SbtTinyShapes):
    """Nothing but a training split."""

    VERSION = tfds.core.Version("1.0.0")
    counts = {"train": 20}  # noqa: RUF012


class SbtTinyValidation(SbtTinyShapes):
    """A validation split in place of a test split; no supervised keys, one more feature."""

    VERSION = tfds.core.Version("1.0.0")
    counts = {"train": 6, "validation": 3}  # noqa: RUF012
    features = SbtTinyShapes.features | {"id": tfds.features.Text()}
    supervised = None

    def example(self, image, label):
        return {"image": png(image), "label": label, "id": str(label)}


class SbtTinyUnlabelled(SbtTinyShapes):
    """A test split without labels, which TFDS writes as -1."""

    VERSION = tfds.core.Version("1.0.0")

    def _generate_examples(self, split):
        for i, image in enumerate(pictures(self.counts[split])):
            yield i, {"image": png(image), "label": -1 if split == "test" else i % 3}


class SbtTinyVarying(SbtTinyShapes):
    """Images that may have any size."""

    VERSION = tfds.core.Version("1.0.0")
    features = SbtTinyShapes.features | {"image": tfds.features.Image(shape=(None, None, 3))}


class SbtTinyTwoLabels(SbtTinyShapes):
    """Two labels, neither of which is the supervised one."""

    VERSION = tfds.core.Version("1.0.0")
    features = SbtTinyShapes.features | {"other": tfds.features.ClassLabel(num_classes=2)}
    supervised = None


class SbtTinyTextOnly(SbtTinyShapes):
    """No image."""

    VERSION = tfds.core.Version("1.0.0")
    features = {  # noqa: RUF012
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    supervised = ("text", "label")


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    for name in ("shapes", "holdout", "validation", "unlabelled"):
        prepare.prepare(f"sbt_tiny_{name}", directory)
    return directory


def labels_in_first_pixel(images):
    return images[:, 0, 0, 0]


def test_reads_what_was_prepared(tiny_dir):
    dataset = load({"name": "sbt_tiny_shapes", "data_dir": str(tiny_dir)})
    assert dataset.num_classes == 3
    assert dataset.max_value == 255.0
    for images, labels, count, seed in [
        (dataset.train_images, dataset.train_labels, 12, 5),
        (dataset.test_images, dataset.test_labels, 4, 4),
    ]:
        assert (images.shape, images.dtype) == ((count, 5, 6, 3), np.uint8)
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, labels_in_first_pixel(images))
        written = pictures(count, seed=seed)  # TFDS shuffles: compare as sets
        rest = slice(1, None)
        assert {i.tobytes() for i in images[:, rest]} == {i.tobytes() for i in written[:, rest]}


def test_reads_across_fetches(tiny_dir, monkeypatch):
    whole = load({"name": "sbt_tiny_shapes", "data_dir": str(tiny_dir)})
    monkeypatch.setattr(tfds_reader, "_BATCH", 5)
    pieces = load({"name": "sbt_tiny_shapes", "data_dir": str(tiny_dir)})
    np.testing.assert_array_equal(whole.train_images, pieces.train_images)
    np.testing.assert_array_equal(whole.train_labels, pieces.train_labels)


def test_data_directory_setting(tiny_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny_dir))
    assert len(load({"name": "sbt_tiny_shapes", "data_dir": None}).train_labels) == 12
    assert cache.data_directory("~/x") == Path.home() / "x"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert cache.data_directory() == Path.home() / "tensorflow_datasets"


def test_name_with_version(tiny_dir):
    config = {"name": "sbt_tiny_shapes:1.0.0", "data_dir": str(tiny_dir), "train_size": 6}
    np.testing.assert_array_equal(np.bincount(load(config).train_labels), [2, 2, 2])


def test_only_a_training_split(tiny_dir):
    dataset = load({"name": "sbt_tiny_holdout", "data_dir": str(tiny_dir)})
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (16, 4)
    together = np.concatenate([dataset.train_images, dataset.test_images])
    assert len({image.tobytes() for image in together}) == 20
    np.testing.assert_array_equal(dataset.test_labels, labels_in_first_pixel(dataset.test_images))


def test_validation_stands_in_for_test(tiny_dir):
    dataset = load({"name": "sbt_tiny_validation", "data_dir": str(tiny_dir)})
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (6, 3)


def test_prepared_set_needs_no_code(tiny_dir, tmp_path):
    """A directory that some other program prepared, under a name that TFDS has never heard of."""
    source, target = tiny_dir / "sbt_tiny_shapes" / "1.0.0", tmp_path / "unheard_of" / "1.0.0"
    target.mkdir(parents=True)
    for file in source.iterdir():
        text = file.name.replace("sbt_tiny_shapes", "unheard_of")
        content = file.read_bytes()
        if file.suffix == ".json":
            content = content.replace(b"sbt_tiny_shapes", b"unheard_of")
        (target / text).write_bytes(content)
    dataset = load({"name": "unheard_of", "data_dir": str(tmp_path)})
    assert dataset.train_images.shape == (12, 5, 6, 3)


def test_preparing_twice_changes_nothing(tiny_dir):
    files = sorted((tiny_dir / "sbt_tiny_shapes" / "1.0.0").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    assert prepare.main(["sbt_tiny_shapes", f"--data_dir={tiny_dir}"]) == 0
    assert [file.stat().st_mtime_ns for file in files] == before


def test_other_file_formats_are_refused(tiny_dir, tmp_path):
    target = tmp_path / "sbt_tiny_shapes" / "1.0.0"
    target.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        text = (tiny_dir / "sbt_tiny_shapes" / "1.0.0" / name).read_text()
        (target / name).write_text(text.replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="tfrecord, which only TensorFlow reads") as error:
        load({"name": "sbt_tiny_shapes", "data_dir": str(tmp_path)})
    assert "python -m sbt.data.prepare sbt_tiny_shapes --data_dir=OTHER" in error.value.remedy


def test_unlabelled_examples_are_refused(tiny_dir):
    with pytest.raises(UserError, match="split 'test' of 'sbt_tiny_unlabelled'"):
        load({"name": "sbt_tiny_unlabelled", "data_dir": str(tiny_dir)})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sbt_tiny_varying", r"vary in size .*\(None, None, 3\)"),
        ("sbt_tiny_two_labels", "no single class label"),
        ("sbt_tiny_text_only", "is a set of text"),
        ("imagenet2012", "vary in size"),
        ("mnist:9.9.9", "9.9.9"),
        ("emnist/nothing", "nothing"),
    ],
)
def test_unsuitable_sets_are_refused_before_any_download(name, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "prepare_in_subprocess", lambda *_: pytest.fail("downloads"))
    with pytest.raises(UserError, match=problem) as error:
        load({"name": name, "data_dir": str(tmp_path)})
    assert error.value.field == "config.data.name"


@pytest.mark.parametrize(
    ("name", "near"),
    [("cifar1O", "cifar10"), ("digit", "digits"), ("fashion-mnist", "fashion_mnist")],
)
def test_unknown_names_get_near_matches(name, near, tmp_path):
    with pytest.raises(UserError, match="unknown data set") as error:
        load({"name": name, "data_dir": str(tmp_path)})
    assert error.value.remedy.startswith(f"did you mean {near}")


def test_missing_set_without_tensorflow_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    directory = tmp_path / "my data"
    with pytest.raises(UserError) as error:
        load({"name": "fashion_mnist", "data_dir": str(directory)})
    message = str(error.value)
    assert f"'fashion_mnist' is not prepared under {directory}" in message
    assert f"pip install {prepare._TENSORFLOW} importlib_resources" in message
    assert f"python -m sbt.data.prepare fashion_mnist --data_dir='{directory}'" in message
    assert "TFDS_DATA_DIR" in message
    assert not directory.exists()


def test_failure_of_the_other_process_is_reported(tmp_path, monkeypatch):
    """Here preparing fails because the package that prepares is broken."""
    monkeypatch.setattr(prepare, "_NEEDED", {})
    (tmp_path / "tensorflow_datasets.py").write_text("raise RuntimeError('broken')")
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    with pytest.raises(UserError, match="Error: ") as error:
        load({"name": "mnist", "data_dir": str(tmp_path / "sets")})
    assert "Check the network" in error.value.remedy


# The cache


# --- what is damaged -----------------------------------------------------------------------------


def _truncate(version):
    for path in version.glob("*train*record-*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garble(version):
    for path in version.glob("*train*record-*"):
        path.write_bytes(b"\x00" * path.stat().st_size)


def _remove_shards(version):
    for path in version.glob("*train*record-*"):
        path.unlink()


def _spoil(name):
    def spoil(version):
        (version / name).write_text("{")

    return spoil


def _remove_info(version):
    (version / "dataset_info.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _garble,
        _remove_shards,
        _spoil("dataset_info.json"),
        _spoil("features.json"),
        _remove_info,
    ],
)
def test_damaged_sets_are_named_in_words(damage, tiny_dir, tmp_path):
    shutil.copytree(tiny_dir / "sbt_tiny_shapes", tmp_path / "sbt_tiny_shapes")
    damage(tmp_path / "sbt_tiny_shapes" / "1.0.0")
    with pytest.raises(UserError, match="damaged or incomplete") as error:
        load({"name": "sbt_tiny_shapes", "data_dir": str(tmp_path)})
    assert str(tmp_path) in error.value.problem
    assert "prepare" in error.value.remedy
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("url", ["gs://bucket/tfds", "file:///data", "https://example.org/x"])
def test_urls_are_refused_by_name(url):
    with pytest.raises(UserError, match="is a URL"):
        load({"name": "sbt_tiny_shapes", "data_dir": url})


def test_a_file_is_no_data_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        load({"name": "sbt_tiny_shapes", "data_dir": str(tmp_path / "file")})


def test_a_tilde_is_the_home_directory(tiny_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_dir.parent))
    assert load({"name": "sbt_tiny_shapes", "data_dir": f"~/{tiny_dir.name}"}).train_examples == 12


@pytest.fixture
def eager_cache(monkeypatch):
    monkeypatch.setattr(cache, "SLOW_SECONDS", -1.0)


def test_cache_is_used_for_slow_sets_only(private_cache, tiny_dir, monkeypatch):
    load({"name": "sbt_tiny_shapes", "data_dir": str(tiny_dir)})
    assert not private_cache.exists()
    monkeypatch.setattr(cache, "SLOW_SECONDS", -1.0)
    first = load({"name": "sbt_tiny_shapes", "data_dir": str(tiny_dir)})
    (entry,) = private_cache.iterdir()
    assert entry.name.startswith("sbt_tiny_shapes-1.0.0-")
    monkeypatch.setattr(tfds_reader, "_decode", lambda *_: pytest.fail("decodes again"))
    second = load({"name": "sbt_tiny_shapes", "data_dir": str(tiny_dir), "train_size": 12})
    np.testing.assert_array_equal(first.train_images, second.train_images)
    np.testing.assert_array_equal(first.test_labels, second.test_labels)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text", "pickle"])
def test_damaged_entries_are_decoded_and_written_again(
    damage, eager_cache, private_cache, tmp_path
):
    source = tmp_path / "prepared"
    source.mkdir()
    arrays = {"a": np.arange(1000, dtype=np.uint8), "b": np.ones(3, np.int32)}
    cache.decoded("set/1.0.0", source, lambda: arrays)
    (entry,) = private_cache.iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "flip":
        content[content.index(bytes(range(100, 200))) + 7] ^= 1  # inside the pixels
        entry.write_bytes(content)
    elif damage == "truncate":
        entry.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        entry.write_bytes(b"")
    elif damage == "text":
        entry.write_text("not an archive")
    else:
        with entry.open("wb") as file:
            np.savez(file, a=np.array([{}], dtype=object))
    again = cache.decoded("set/1.0.0", source, lambda: arrays)
    np.testing.assert_array_equal(again["a"], arrays["a"])
    healed = cache.decoded("set/1.0.0", source, lambda: pytest.fail("not healed"))
    np.testing.assert_array_equal(healed["a"], arrays["a"])
    assert list(private_cache.iterdir()) == [entry]


def test_entries_follow_the_files(eager_cache, private_cache, tmp_path):
    source = tmp_path / "prepared"
    source.mkdir()
    (source / "record").write_bytes(b"1")
    cache.decoded("set/1.0.0", source, lambda: {"a": np.zeros(1)})
    (source / "record").write_bytes(b"22")
    np.testing.assert_array_equal(
        cache.decoded("set/1.0.0", source, lambda: {"a": np.ones(1)})["a"], [1.0]
    )
    assert len(list(private_cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_error(eager_cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SBT_CACHE_DIR", str(tmp_path / "file"))
    source = tmp_path / "prepared"
    source.mkdir()
    arrays = cache.decoded("set/1.0.0", source, lambda: {"a": np.ones(2)})
    np.testing.assert_array_equal(arrays["a"], [1.0, 1.0])


def test_an_interrupted_write_leaves_nothing(eager_cache, private_cache, tmp_path, monkeypatch):
    source = tmp_path / "prepared"
    source.mkdir()

    def full_disk(file, **_):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    cache.decoded("set/1.0.0", source, lambda: {"a": np.ones(2)})
    assert list(private_cache.iterdir()) == []


def test_cache_directory_setting(monkeypatch):
    monkeypatch.delenv("SBT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_directory() == Path("/somewhere/sbt")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_directory() == Path.home() / ".cache" / "sbt"


# Real data


@needs("cifar10")
def test_cifar10():
    dataset = load({"name": "cifar10", "data_dir": str(REAL)})
    assert dataset.train_images.shape == (50000, 32, 32, 3)
    assert dataset.test_images.shape == (10000, 32, 32, 3)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.num_classes == 10
    np.testing.assert_array_equal(np.bincount(dataset.train_labels), np.full(10, 5000))
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), np.full(10, 1000))
    # The published channel statistics, in units of 1/255.
    mean = dataset.train_images.mean(axis=(0, 1, 2), dtype=np.float64)
    std = np.sqrt(
        [
            np.square(dataset.train_images[..., c], dtype=np.float32).mean(dtype=np.float64)
            for c in range(3)
        ]
        - mean**2
    )
    np.testing.assert_allclose(mean / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(std / 255, [0.2470, 0.2435, 0.2616], atol=5e-5)


@needs("mnist")
def test_mnist_in_a_process_without_tensorflow():
    code = textwrap.dedent(
        f"""
        import sys
        import numpy as np
        from sbt.data import load
        d = load({{"name": "mnist", "data_dir": {str(REAL)!r}}})
        assert d.train_images.shape == (60000, 28, 28, 1), d.train_images.shape
        assert d.test_images.shape == (10000, 28, 28, 1), d.test_images.shape
        counts = np.bincount(d.train_labels).tolist()
        assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], counts
        mean = d.train_images.mean(dtype=np.float64) / 255
        assert abs(mean - 0.1307) < 5e-5, mean  # the published value
        assert "tensorflow" not in sys.modules
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The first use of a set, from download to arrays. The builder is that of CIFAR-10, with its own
# calls of TensorFlow; only its address and name differ. The archive is served on loopback.

LOOPBACK_MODULE = '''
import os
from tensorflow_datasets.image_classification import cifar
import tensorflow_datasets as tfds

class SbtLoopbackCifar(cifar.Cifar10):
    """CIFAR-10 from another address."""
    VERSION = tfds.core.Version("3.0.2")

    @property
    def _cifar_info(self):
        return super()._cifar_info._replace(url=os.environ["SBT_TEST_URL"])
'''


def cifar_archive(path):
    """The binary version of CIFAR-10 with 3 images per file: a label, then the planes R, G, B."""
    written = {}
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    with tarfile.open(path, "w:gz") as archive:

        def add(name, content):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        add("batches.meta.txt", "\n".join(f"class{k}" for k in range(10)).encode())
        for seed, name in enumerate(names):
            images, labels = pictures(3, (32, 32, 3), seed), np.arange(seed, seed + 3) % 10
            planes = images.transpose(0, 3, 1, 2).reshape(3, -1)
            add(name, np.c_[labels.astype(np.uint8), planes].tobytes())
            split = written.setdefault("test" if "test" in name else "train", set())
            split |= {(i.tobytes(), int(k)) for i, k in zip(images, labels, strict=True)}
    return written


@pytest.fixture
def loopback(tmp_path, monkeypatch):
    """Serves a folder, and makes the builder known to this process and to those it starts."""
    folder, code = tmp_path / "served", tmp_path / "code"
    folder.mkdir()
    code.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    (code / "sbt_loopback_cifar.py").write_text(LOOPBACK_MODULE)
    (code / "sitecustomize.py").write_text("import sbt_loopback_cifar\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(code), str(REPOSITORY)]))
    monkeypatch.setenv("SBT_TEST_URL", f"http://127.0.0.1:{server.server_port}/cifar.tar.gz")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        del args


FIRST_USE = """
import hashlib, json, sys
import numpy as np
from sbt.data import load
from sbt.errors import UserError
try:
    d = load({"name": "sbt_loopback_cifar", "data_dir": sys.argv[1]})
except UserError as error:
    print(json.dumps({"error": str(error)}))
else:
    pairs = lambda x, y: sorted((i.tobytes().hex(), int(k)) for i, k in zip(x, y, strict=True))
    print(json.dumps({
        "train": pairs(d.train_images, d.train_labels),
        "test": pairs(d.test_images, d.test_labels),
        "classes": d.num_classes,
        "tensorflow": "tensorflow" in sys.modules,
    }))
"""


def first_use(data_dir):
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE, str(data_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(
    not HAS_TENSORFLOW,
    reason="preparing a set needs TensorFlow: the extra 'data'",
)
def test_first_use_downloads_prepares_and_reads(loopback, tmp_path):
    data_dir = tmp_path / "tfds"
    failed = first_use(data_dir)  # nothing is served yet
    assert "preparing 'sbt_loopback_cifar'" in failed["error"]
    assert "404" in failed["error"]
    written = cifar_archive(loopback / "cifar.tar.gz")
    result = first_use(data_dir)  # and the failure left nothing in the way
    for split, count in [("train", 15), ("test", 3)]:
        assert len(result[split]) == count
        assert {(bytes.fromhex(i), k) for i, k in result[split]} == written[split]
    assert result["classes"] == 10
    assert not result["tensorflow"]
    (loopback / "cifar.tar.gz").unlink()
    assert first_use(data_dir) == result  # once per data set
