"""Text: streams cut into sequences, files of tokens, chains of known entropy, validation splits."""

import hashlib
import pickle
import platform

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
import xarray as xr

import sbt
from sbt.cli import main
from sbt.config import complete
from sbt.data import from_arrays, from_examples, load, make_pipeline, markov_entropy, prepare
from sbt.data.dataset import SampledSet, hold_out, subset
from sbt.data.markov import markov_floor, markov_text, random_chain, stationary
from sbt.data.registry import DATASETS, Wanted
from sbt.data.text import python_reference
from sbt.data.token_file import TokenFile
from sbt.data.tokens import sequences, split
from sbt.errors import UserError
from sbt.overrides import apply_overrides
from sbt.sweep import feed
from sbt.sweep.grid import make_grid
from sbt.tasks import TASKS

# --- sequences of a stream ------------------------------------------------------------------------


def test_windows_by_hand():
    """Eleven tokens make three sequences of three; the last token is left over."""
    tokens = np.arange(100, 111, dtype=np.uint8)
    parts = split(tokens, None, 3, Wanted("mine"))
    train, test = parts.train.examples, parts.test.examples
    np.testing.assert_array_equal(train["x"], [[100, 101, 102], [103, 104, 105]])
    np.testing.assert_array_equal(train["label"], [[101, 102, 103], [104, 105, 106]])
    np.testing.assert_array_equal(test["x"], [[106, 107, 108]])
    np.testing.assert_array_equal(test["label"], [[107, 108, 109]])
    assert parts.dropped == 1
    for leaf in (*train.values(), *test.values()):
        assert leaf.dtype == np.uint8 and np.shares_memory(leaf, tokens)
    np.testing.assert_array_equal(parts.train[1]["x"], [103, 104, 105])
    np.testing.assert_array_equal(parts.test[0]["label"], [107, 108, 109])


@pytest.mark.parametrize(("count", "made"), [(4, 1), (6, 1), (7, 2), (9, 2), (10, 3)])
def test_every_token_but_the_first_is_a_label_once(count, made):
    whole = sequences(np.arange(count), 3)
    assert len(whole) == made
    np.testing.assert_array_equal(whole.examples["label"].ravel(), np.arange(1, 3 * made + 1))


def test_the_evaluation_set_does_not_move_with_the_training_size():
    tokens = np.arange(401)
    for size in (None, 1, 60):
        parts = split(tokens, None, 4, Wanted("mine", train_size=size, test_size=30))
        np.testing.assert_array_equal(parts.test.flat, tokens[280:])
        assert parts.train.flat[0] == 0 and len(parts.train) == (size or 70)
    parts = split(tokens, np.arange(1000, 1030), 4, Wanted("mine", test_size=3))
    np.testing.assert_array_equal(parts.test.flat, np.arange(1000, 1013))
    assert len(parts.train) == 100 and parts.dropped == 1
    assert len(split(tokens, None, 4, Wanted("mine")).test) == 10  # a tenth


def test_batches_are_int32_and_of_any_order():
    data = load({"name": "markov", "train_size": 6, "test_size": 2, "seq_len": 5})
    assert data.train["x"].dtype == np.uint8 and data.tokens == 5
    arrays, batches = make_pipeline(data, {})
    order = jnp.array([[4, 0], [5, 5]])
    found = batches(arrays, order, 0, jax.random.key(0), True)
    for name in ("x", "label"):
        assert found[name].dtype == jnp.int32
        np.testing.assert_array_equal(found[name], data.train[name][np.asarray(order)])


def test_the_score_knows_the_floor_of_a_chain():
    data = load({"name": "markov", "train_size": 6, "test_size": 2, "seq_len": 5, "order": 2})
    assert TASKS.configured({"name": "auto"})(data.facts).score.floor == data.notes["loss floor"]


# --- chains of known entropy ----------------------------------------------------------------------


def entropy(p):
    return float(-np.sum(np.asarray(p) * np.log(p)))


def test_entropy_of_independent_tokens():
    p = random_chain(5, 0, 0.7)
    assert markov_entropy(p) == pytest.approx(entropy(p[0]), rel=1e-12)
    assert markov_entropy(np.full((1, 8), 1 / 8)) == pytest.approx(np.log(8), rel=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.1), (0.5, 0.5), (0.99, 0.02)])
def test_entropy_of_two_states(a, b):
    """0 → 1 with probability a, 1 → 0 with b: π = (b, a) / (a + b)."""
    chain = np.array([[1 - a, a], [b, 1 - b]])
    np.testing.assert_allclose(stationary(chain), np.array([b, a]) / (a + b), rtol=1e-12)
    rate = (b * entropy([a, 1 - a]) + a * entropy([b, 1 - b])) / (a + b)
    assert markov_entropy(chain) == pytest.approx(rate, rel=1e-12)
    assert markov_entropy(chain, 0) == pytest.approx(entropy([b / (a + b), a / (a + b)]), rel=1e-12)
    assert markov_floor(chain, 7) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(("vocabulary", "order"), [(3, 1), (3, 2), (2, 4)])
def test_entropy_of_higher_orders(vocabulary, order):
    """The stationary law by eigenvectors; H_j is the difference of two entropies of blocks."""
    chain = random_chain(vocabulary, order, 0.6)
    contexts = vocabulary**order
    moves = np.zeros((contexts, contexts))
    for c in range(contexts):
        for token in range(vocabulary):
            moves[c, (c * vocabulary + token) % contexts] += chain[c, token]
    values, vectors = np.linalg.eig(moves.T)
    law = np.real(vectors[:, np.argmax(np.real(values))])
    law /= law.sum()
    np.testing.assert_allclose(stationary(chain), law, rtol=1e-9)
    blocks = (law[:, None] * chain).reshape([vocabulary] * (order + 1))
    h = [entropy(blocks.sum(axis=tuple(range(n, order + 1))).ravel()) for n in range(order + 2)]
    for seen in range(order + 1):
        assert markov_entropy(chain, seen) == pytest.approx(h[seen + 1] - h[seen], rel=1e-9)
    places = [min(t, order) for t in range(1, 6)]
    floor = np.mean([markov_entropy(chain, seen) for seen in places])
    assert markov_floor(chain, 5) == pytest.approx(floor, rel=1e-12)
    assert markov_floor(chain, 1) == pytest.approx(markov_entropy(chain, 1), rel=1e-12)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_text_has_the_entropy_of_its_chain(order):
    count, vocabulary = 60_000, 4
    chain = random_chain(vocabulary, order, 0.5)
    text = markov_text(chain, count, 3)
    np.testing.assert_array_equal(text[:500], markov_text(chain, 500, 3))
    places = np.arange(order, count)
    context = sum(text[places - back] * vocabulary ** (back - 1) for back in range(1, order + 1))
    losses = -np.log(chain[context, text[order:]])
    # Means of blocks, which are close to independent, tell the error of the whole mean.
    means = losses[: len(losses) // 100 * 100].reshape(100, -1).mean(axis=1)
    assert abs(means.mean() - markov_entropy(chain)) < 4 * means.std() / 10
    seen = np.zeros_like(chain)
    np.add.at(seen, (context, text[order:]), 1)
    often = seen.sum(axis=1) > 1000
    rows = seen / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(rows[often], chain[often], atol=0.05)


def test_text_is_always_the_same():
    """NumPy promises that RandomState's numbers never change."""
    data = load({"name": "markov", "train_size": 3, "test_size": 2, "seq_len": 50})
    digests = [hashlib.sha256(s["x"].tobytes()).hexdigest()[:12] for s in (data.train, data.test)]
    assert digests == ["5fdbd1d6d44f", "0222727f6ad4"]
    more = load({"name": "markov", "train_size": 5, "test_size": 2, "seq_len": 50})
    np.testing.assert_array_equal(more.train["label"][:3], data.train["label"])
    assert data.notes["entropy rate"] == pytest.approx(markov_entropy(random_chain(16, 1, 0.5)))


class Pairs(nn.Module):
    """The next token from the one before: logits are rows of a matrix."""

    vocabulary: int = 4

    @nn.compact
    def __call__(self, x):
        start = nn.initializers.zeros
        return nn.Embed(self.vocabulary, self.vocabulary, embedding_init=start)(x)


def test_the_loss_comes_down_to_the_entropy_and_not_below():
    data = {"name": "markov", "vocabulary": 4, "train_size": 1000, "test_size": 1000, "seq_len": 16}
    config = {"data": data, "batch_size": 10, "base_lr": 0.2, "epochs": 3, "seed": 1}
    results = sbt.run(config, module=Pairs(), progress=False)
    made, chain = load(data), random_chain(4, 1, 0.5)
    best = -np.log(chain[made.test["x"], made.test["label"]]).mean()  # on these very tokens
    losses = results.test_loss.values.squeeze()
    assert losses[0] > losses[-1] > best
    assert losses[-1] - best < 0.01
    assert abs(best - markov_entropy(chain)) < 0.02


# --- text -----------------------------------------------------------------------------------------


def test_the_reference_inside_python():
    data, text = load({"name": "python_docs", "seq_len": 32}), python_reference().encode()
    joined = np.concatenate([data.train["label"].ravel(), data.test["label"].ravel()])
    assert joined.tobytes() == text[1 : 1 + len(joined)]
    assert len(text) - 1 - len(joined) == data.notes["tokens dropped"] < 32
    assert data.notes["python"] == platform.python_version()
    assert (data.facts.task, data.facts.classes, data.facts.bytes_per_token) == (
        "next_token", 256, 1.0,
    )  # fmt: skip
    assert len(text) > 300_000


def test_characters_of_a_file(tmp_path):
    """é takes two bytes, € three; z is in the last part alone."""
    file = tmp_path / "a.txt"
    file.write_text("abé€abé€abzb", encoding="utf-8")
    data = load({"name": "text", "path": str(file), "unit": "characters", "seq_len": 2,
                 "test_size": 1})  # fmt: skip
    assert data.num_classes == 5  # a, b, é, € and one for all others
    np.testing.assert_array_equal(data.train["x"], [[0, 1], [2, 3], [0, 1], [2, 3]])
    np.testing.assert_array_equal(data.test["x"], [[0, 1]])
    np.testing.assert_array_equal(data.test["label"], [[1, 4]])
    assert data.notes["unknown characters"] == 1
    # Of the nine characters that are trained on: abé€abé€a.
    assert data.bytes_per_token == pytest.approx(len("abé€abé€a".encode()) / 9)
    few = load({"name": "text", "path": str(file), "unit": "characters", "seq_len": 2,
                "test_size": 1, "train_size": 1})  # fmt: skip
    assert few.num_classes == 5  # a smaller training size is the same problem
    raw = load({"name": "text", "path": str(file), "seq_len": 3})
    assert raw.num_classes == 256 and bytes(raw.train["x"][1]) == "abé€".encode()[3:6]


def test_a_file_of_its_own_to_evaluate_on(tmp_path):
    for name, text in (("a", "abcabcabc"), ("b", "abxab")):
        (tmp_path / name).write_text(text)
    paths = {"path": str(tmp_path / "a"), "test_path": str(tmp_path / "b"), "seq_len": 2}
    data = load({"name": "text", "unit": "characters", **paths})
    np.testing.assert_array_equal(data.train["x"], [[0, 1], [2, 0], [1, 2], [0, 1]])
    np.testing.assert_array_equal(data.test["x"], [[0, 1], [3, 0]])


# --- files of tokens ------------------------------------------------------------------------------


@pytest.fixture
def numbers(tmp_path):
    """A file of 21 · 4 + 2 numbers below 300."""
    found = np.random.RandomState(0).randint(0, 300, 86).astype(np.uint16)
    found[7] = 299
    found.tofile(tmp_path / "tokens.bin")
    return tmp_path / "tokens.bin", found


def test_a_file_of_tokens(numbers):
    path, tokens = numbers
    data = load({"name": "tokens", "path": str(path), "seq_len": 4})
    assert data.num_classes == 300 and data.notes["tokens dropped"] == 1
    assert (data.train_examples, data.test_examples) == (19, 2)
    assert isinstance(data.train["x"].base, np.memmap) and data.train["x"].dtype == np.uint16
    np.testing.assert_array_equal(data.train["label"].ravel(), tokens[1 : 19 * 4 + 1])
    padded = load({"name": "tokens", "path": str(path), "seq_len": 4, "vocabulary": 512})
    assert padded.num_classes == 512 and padded.bytes_per_token is None
    other = path.with_name("wide.bin")
    tokens.astype(np.uint32).tofile(other)
    wide = load({"name": "tokens", "path": str(other), "seq_len": 4, "token_dtype": "uint32",
                 "bytes_per_token": 4.5})  # fmt: skip
    np.testing.assert_array_equal(wide.train["x"], data.train["x"])
    assert wide.facts.bytes_per_token == 4.5


def test_a_file_is_pickled_as_its_path(numbers):
    path, tokens = numbers
    file = TokenFile(path, np.uint16)
    assert file[3:5].tolist() == tokens[3:5].tolist()
    again = pickle.loads(pickle.dumps(file))
    assert len(pickle.dumps(file)) < 500
    np.testing.assert_array_equal(again[:], tokens)


def of_numbers(values, dtype):
    return lambda path: np.asarray(values, dtype).tofile(path)


REFUSED = [
    # how the file is written, fields, what is named, what is said
    (None, {}, "path", "there is no file"),
    (None, {"path": ""}, "path", "names no file"),
    (None, {"path": "https://a.org/b.bin"}, "path", "https"),
    (None, {"path": "x" * 1000}, "path", "cannot be read"),
    (lambda path: path.mkdir(), {}, "path", "is a directory"),
    (lambda path: path.touch(), {}, "path", "is empty"),
    (lambda path: path.write_bytes(b"abc" * 101), {}, "token_dtype", "no whole number of uint16"),
    (
        lambda path: path.write_bytes(b"abcd" * 50 + b"ab"),
        {"token_dtype": "uint32"},
        "token_dtype",
        "set it to uint16",
    ),
    (of_numbers(range(1, 200), "<u4"), {}, "token_dtype", "set it to uint32"),
    (
        of_numbers(range(1, 201), "<u2"),
        {"token_dtype": "uint32"},
        "token_dtype",
        "set it to uint16",
    ),
    (of_numbers(range(200), "<u2"), {"vocabulary": 150}, "vocabulary", "set it to 197 or more"),
    (of_numbers(range(200), "<u2"), {"token_dtype": "int8"}, "token_dtype", "uint16"),
    (of_numbers(range(200), "<u2"), {"vocabulary": 0}, "vocabulary", "at least 1"),
    (of_numbers(range(5), "<u2"), {"seq_len": 5}, "seq_len", "takes 6 tokens, the text has 5"),
    (of_numbers(range(9), "<u2"), {"seq_len": 5}, "seq_len", "none is left to evaluate on"),
    (of_numbers(range(200), "<u2"), {"seq_len": 0}, "seq_len", "at least 1"),
    (of_numbers(range(200), "<u2"), {"train_size": 50}, "train_size", "45 exist"),
    (of_numbers(range(200), "<u2"), {"test_size": 49}, "test_size", "48"),
    (of_numbers(range(200), "<u2"), {"test_path": "/nowhere"}, "test_path", "there is no file"),
    (lambda path: path.write_bytes(b"\x93NUMPY" + bytes(99)), {}, "path", "tofile"),
    (of_numbers([20240520, *range(999)], "<i4"), {}, "path", "tail -c"),
    (of_numbers(range(200), "<u2"), {"unit": "bytes"}, "unit", "is not a field"),
]


@pytest.mark.parametrize(("write", "fields", "field", "says"), REFUSED)
def test_files_that_are_refused(write, fields, field, says, tmp_path):
    path = tmp_path / "tokens.bin"
    if write is not None:
        write(path)
    with pytest.raises(UserError) as error:
        load({"name": "tokens", "path": str(path), "seq_len": 4, **fields})
    assert error.value.field.startswith(f"config.data.{field}"), error.value
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"unit": "characters"}, "unit", "byte 4 is 0xff"),
        ({"unit": "words"}, "unit", "bytes"),
        ({"seq_len": 100}, "seq_len", "the text has 12"),
        ({"unit": "characters", "stream": True}, "stream", "'bytes'"),
        ({"path": None}, "path", "names no file"),
    ],
)
def test_text_that_is_refused(fields, field, says, tmp_path):
    (tmp_path / "a").write_bytes(b"abcd\xffabcabca")
    with pytest.raises(UserError, match=says) as error:
        load({"name": "text", "path": str(tmp_path / "a"), "seq_len": 3, **fields})
    assert error.value.field == f"config.data.{field}"


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"order": 8}, "config.data.order", "contexts"),
        ({"concentration": 0.0}, "config.data.concentration", "0.01"),
        ({"train_size": 10**9}, "config.data", "smaller sizes"),
        ({"stream": True}, "config.data.stream", "not a set of files"),
        ({"vocabulary": 1}, "config.data.vocabulary", "at least 2"),
    ],
)
def test_chains_that_are_refused(fields, field, says):
    with pytest.raises(UserError, match=says) as error:
        load({"name": "markov", **fields})
    assert error.value.field == field


def test_a_model_with_too_few_logits_is_refused():
    config = {"data": {"name": "markov", "train_size": 40, "test_size": 4}, "batch_size": 4}
    with pytest.raises(UserError, match="16 or more"):
        sbt.run(config, module=Pairs(vocabulary=8), progress=False)


# --- streams --------------------------------------------------------------------------------------


def test_streamed_tokens_train_bit_identically(numbers, monkeypatch):
    """In windows of a few sequences, with two seeds side by side; in threads and in a process."""
    monkeypatch.setitem(feed.WINDOW_BYTES, "cpu", 2 * 6 * 4 * 2 * 8)
    data = {"name": "tokens", "path": str(numbers[0]), "seq_len": 4, "vocabulary": 300}
    config = {
        "epochs": 3,
        "base_lr": 0.5,
        "evaluate": {"batch": 1},
        "engine": {"strategy": "vmap"},
        "sweep": {"batch_size": (2, 6), "seed": (0, 1)},
    }
    module = Pairs(vocabulary=300)
    resident = sbt.run(config | {"data": data}, module=module, progress=False)
    for workers in (0, 1):
        streaming = config | {"data": data | {"stream": True}}
        streaming["engine"] = config["engine"] | {"workers": workers}
        streamed = sbt.run(streaming, module=module, progress=False)
        xr.testing.assert_identical(streamed.drop_attrs(), resident.drop_attrs())
    assert float(resident.train_loss.std("epoch").min()) > 0


def test_a_sample_stands_for_streamed_tokens(numbers):
    path, tokens = numbers
    fields = {"path": str(path), "seq_len": 4, "stream": True, "train_size": 11, "test_size": 3}
    data = load({"name": "tokens", **fields})
    assert isinstance(data, SampledSet)
    assert (data.train_examples, data.test_examples, data.tokens) == (11, 3, 4)
    np.testing.assert_array_equal(data.files.training_example(5, 0, 0)["x"], tokens[20:24])
    np.testing.assert_array_equal(data.files.test_example(1)["label"], tokens[77:81])
    raw = load({"name": "text", **fields})
    assert raw.train["x"].dtype == np.uint8 and raw.num_classes == 256


# --- TFDS -----------------------------------------------------------------------------------------


class SbtTinyTales(tfds.core.GeneratorBasedBuilder):
    """Two splits of two documents each, with a title that is not meant."""

    VERSION = tfds.core.Version("1.0.0")
    splits = {"train": ("once upon", "a time é"), "test": ("the", "end.")}  # noqa: RUF012

    def _info(self):
        texts = {"title": tfds.features.Text(), "text": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(texts))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.splits}

    def _generate_examples(self, split):
        for i, text in enumerate(self.splits[split]):
            yield i, {"title": "tale", "text": text}


class SbtTinyTale(SbtTinyTales):
    """One document, as tiny_shakespeare is."""

    VERSION = tfds.core.Version("1.0.0")
    splits = {"train": ("0123456789abcdefghijkl",)}  # noqa: RUF012


@pytest.fixture(scope="module")
def tales(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    prepare.prepare("sbt_tiny_tales", directory)
    prepare.prepare("sbt_tiny_tale", directory)
    return str(directory)


def test_text_of_tfds(tales, tmp_path, monkeypatch):
    monkeypatch.setenv("SBT_CACHE_DIR", str(tmp_path))
    data = load({"name": "sbt_tiny_tales", "data_dir": tales, "seq_len": 3})
    # TFDS shuffles the records of a split when it is prepared.
    orders = [
        f"{a}\n\n{b}".encode() for a, b in (("once upon", "a time é"), ("a time é", "once upon"))
    ]
    assert bytes(data.train["x"].ravel()) in [text[:18] for text in orders]
    assert bytes(data.test["label"].ravel()) in (b"he\n\nen", b"nd.\n\nt")
    assert (data.num_classes, data.task) == (256, "next_token")
    one = load({"name": "sbt_tiny_tale", "data_dir": tales, "seq_len": 4, "test_size": 2})
    assert bytes(one.train["x"].ravel()) == b"0123456789ab"
    assert bytes(one.test["x"].ravel()) == b"cdefghij"
    assert one.notes["tokens dropped"] == 1


def test_text_of_tfds_is_not_streamed(tales):
    with pytest.raises(UserError, match="set of text"):
        load({"name": "sbt_tiny_tale", "data_dir": tales, "stream": True})


# --- validation -----------------------------------------------------------------------------------


def test_validation_of_images_is_the_end_of_the_fixed_permutation():
    """Within classes, and a training subset never moves into it."""
    images, labels = np.arange(60, dtype=np.uint8).reshape(60, 1), np.arange(60) % 3
    data = from_arrays(images, labels, images[:6], labels[:6])
    made = hold_out(data, 12)
    assert made.validation_examples == 12 and made.train_examples == 48
    np.testing.assert_array_equal(np.bincount(made.validation["label"]), 4)
    held, rest = (set(part["x"].ravel().tolist()) for part in (made.validation, made.train))
    assert held | rest == set(range(60)) and not held & rest
    np.testing.assert_array_equal(made.train["x"].ravel(), sorted(rest))  # in their order
    few = subset(data, 48, None)
    assert set(few.train["x"].ravel().tolist()) == rest
    np.testing.assert_array_equal(hold_out(data, 0.2).validation["x"], made.validation["x"])
    assert hold_out(data, None) is data and hold_out(data, 0) is data


def test_validation_of_text_is_a_piece_of_it(numbers):
    path, tokens = numbers
    data = load({"name": "tokens", "path": str(path), "seq_len": 4, "validation": 5})
    np.testing.assert_array_equal(data.train["x"].ravel(), tokens[:56])
    np.testing.assert_array_equal(data.validation["x"].ravel(), tokens[56:76])
    assert isinstance(data.validation["x"].base, np.memmap)


def test_validation_of_any_examples():
    x = np.arange(20.0)[:, None]
    data = from_examples(
        {"x": {"a": x, "b": -x}, "target": x}, {"x": {"a": x, "b": -x}, "target": x}
    )
    made = hold_out(data, 0.25)
    assert made.validation_examples == 5
    np.testing.assert_array_equal(made.validation["x"]["b"], -made.validation["target"])


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        (-1, "of at least 0"),
        ("all", "not a number"),
        (2.5, "no number"),
        (20, "1 to 19"),
        (0.99, "1 to 19"),
        (0.001, "holds 0 of 20"),
    ],
)
def test_validation_that_is_refused(amount, says):
    x = np.zeros((20, 2), np.float32)
    with pytest.raises(UserError, match=says) as error:
        hold_out(from_arrays(x, np.arange(20) % 2, x, np.arange(20) % 2), amount)
    assert error.value.field == "config.data.validation"


def test_nothing_is_held_out_twice_or_of_a_stream(numbers):
    x = np.zeros((20, 2), np.float32)
    data = hold_out(from_arrays(x, np.arange(20) % 2, x, np.arange(20) % 2), 4)
    with pytest.raises(UserError, match="has a validation split"):
        hold_out(data, 4)
    with pytest.raises(UserError, match="stream = False"):
        load({"name": "tokens", "path": str(numbers[0]), "seq_len": 4, "stream": True,
              "validation": 2})  # fmt: skip


# --- the registry ---------------------------------------------------------------------------------


def test_fields_of_a_data_set_in_a_config():
    config = complete({"data": {"name": "markov", "order": 2}})
    assert (config.data.order, config.data.seq_len, config.data.vocabulary) == (2, 64, 16)
    assert "seq_len" not in complete({}).data
    other = apply_overrides(config, ["--config.data.name=python_docs", "--config.data.seq_len=9"])
    assert other.data.seq_len == 9 and other.data.unit == "bytes" and "order" not in other.data
    grid = make_grid(complete({"data": {"name": "markov"}, "sweep": {"seq_len": (8, 16)}}))
    assert [run.settings["data.seq_len"] for run in grid.runs] == [8, 16]
    mixed = {"data": {"seq_len": 8}, "sweep": {"dataset": ("markov", "python_docs")}}
    grid = make_grid(complete(mixed))
    names = [grid.config_of(run).data.name for run in grid.runs]
    assert names == ["markov", "python_docs"]
    with pytest.raises(UserError, match="at least 1") as error:
        make_grid(complete({"data": {"name": "markov"}, "sweep": {"seq_len": (8, 0)}}))
    assert error.value.field == "config.sweep.seq_len"


def test_a_data_set_is_one_function(capsys):
    @DATASETS.register("toy_ramp", source="ours")
    def toy_ramp(wanted, slope: int = 2):
        """Numbers that rise."""
        x = (slope * np.arange(wanted.train_size or 8, dtype=np.float32))[:, None]
        return from_examples({"x": x, "target": x}, {"x": x[:4], "target": x[:4]}, name="toy_ramp")

    try:
        data = load({"name": "toy_ramp", "slope": 3, "test_size": 2})
        assert data.train["x"].ravel().tolist() == list(range(0, 24, 3))
        assert data.test_examples == 2
        assert main(["list", "data"]) == 0
        listed = capsys.readouterr().out
        assert "Numbers that rise." in listed and "slope=2" in listed
        for name in ("digits", "synthetic", "python_docs", "markov", "text", "tokens"):
            assert name in listed
        with pytest.raises(UserError, match="did you mean slope"):
            load({"name": "toy_ramp", "slop": 3})
    finally:
        del DATASETS["toy_ramp"]
