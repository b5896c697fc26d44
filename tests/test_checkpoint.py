"""Checkpoints: the same bits back, the newest sound one, and every kind of damage noticed."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbt.checkpoint import Checkpoints, load_weights, pack, save_weights, unpack


def tree(value):
    """Every kind of leaf that a training state has, more than ten of them."""
    rng = np.random.default_rng(value)
    return {
        "params": [jnp.asarray(rng.normal(size=(3, n)), jnp.float32) for n in range(1, 12)],
        "odd": jnp.asarray([np.nan, np.inf, -0.0], jnp.float32),
        "half": jnp.asarray(rng.normal(size=(3, 2)), jnp.bfloat16),
        "count": jnp.asarray([value, 2**31 - 1, -1], jnp.int32),
        "key": jax.random.split(jax.random.key(value), 3),
        "none": (),
    }


def bits(tree):
    return [(leaf.dtype.name, leaf.shape, leaf.tobytes()) for leaf in pack(tree)]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A directory in which checkpoints 1, 2 and 3 were written, and two kept."""
    directory = tmp_path_factory.mktemp("sweep") / "checkpoints"
    checkpoints = Checkpoints(directory, keep=2)
    for value in (1, 2, 3):
        checkpoints.save(tree(value), {"tick": 10 * value, "runs": [0, 2]})
    checkpoints.close()
    return directory


@pytest.fixture
def copy(three, tmp_path):
    return shutil.copytree(three, tmp_path / "checkpoints")


def steps(directory):
    return sorted(path.name for path in directory.iterdir())


def test_the_newest_comes_back_bit_by_bit(three):
    notes = []
    saved = Checkpoints(three, warn=notes.append).latest()
    assert saved.position == {"tick": 30, "runs": [0, 2]}
    assert bits(unpack(saved.leaves, tree(0))) == bits(tree(3))
    assert notes == []
    assert steps(three) == ["2", "3"]


def test_an_empty_directory_has_none(tmp_path):
    assert Checkpoints(tmp_path / "new" / "checkpoints").latest() is None


def flip(path):
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damaged_file_makes_it_fall_back_and_say_so(copy, tmp_path, capfd, damage):
    files = [path.relative_to(copy) for path in sorted((copy / "3").rglob("*")) if path.is_file()]
    assert len(files) > 5
    for number, file in enumerate(files):
        directory = shutil.copytree(copy, tmp_path / str(number))
        DAMAGE[damage](directory / file)
        notes = []
        saved = Checkpoints(directory, warn=notes.append).latest()
        assert saved.position["tick"] == 20, file
        assert bits(unpack(saved.leaves, tree(0))) == bits(tree(2))
        (note,) = notes
        assert note.startswith("checkpoint 3 is damaged (")
        assert note.endswith("falling back to the one before, 2")
    assert capfd.readouterr() == ("", "")  # no traceback of a library either


def test_a_damaged_one_before_does_not_matter(copy):
    flip(next((copy / "2" / "state" / "d").iterdir()))
    notes = []
    checkpoints = Checkpoints(copy, warn=notes.append)
    assert checkpoints.latest().position["tick"] == 30
    assert "checkpoint 2 is damaged" in notes[0]


def test_all_damaged_is_none_and_work_goes_on(copy):
    for step in ("2", "3"):
        flip(next((copy / step / "state" / "d").iterdir()))
    notes = []
    checkpoints = Checkpoints(copy, warn=notes.append)
    assert checkpoints.latest() is None
    assert len(notes) == 2
    assert steps(copy.with_name("checkpoints.damaged")) == ["2", "3"]  # for a post-mortem
    checkpoints.save(tree(7), {"tick": 70})
    assert checkpoints.latest().position == {"tick": 70}


def test_one_that_was_not_completed_does_not_count(copy):
    """A process killed before the last file was written."""
    (copy / "3" / "checksums.json").unlink()
    (copy / "4.orbax-checkpoint-tmp-123").mkdir()
    assert Checkpoints(copy, warn=lambda note: None).latest().position["tick"] == 20


def test_clear_leaves_nothing(copy):
    flip(next((copy / "2" / "state" / "d").iterdir()))
    checkpoints = Checkpoints(copy, warn=lambda note: None)
    checkpoints.clear()
    assert steps(copy) == []
    assert Checkpoints(copy).latest() is None
    assert not copy.with_name("checkpoints.damaged").exists()


def test_unpack_refuses_what_does_not_fit():
    leaves = pack({"a": jnp.zeros((2, 3)), "b": jnp.zeros((2,), jnp.int32)})
    with pytest.raises(ValueError, match="2 saved arrays for 1"):
        unpack(leaves, {"a": jnp.zeros((2, 3))})
    with pytest.raises(ValueError, match="saved float32"):
        unpack(leaves, {"a": jnp.zeros((2, 4)), "b": jnp.zeros((2,), jnp.int32)})
    with pytest.raises(ValueError, match="saved int32"):
        unpack(leaves, {"a": jnp.zeros((2, 3)), "b": jnp.zeros((2,), jnp.float32)})
    fits = unpack(leaves, {"a": jnp.zeros((5, 3)), "b": jnp.zeros((5,), jnp.int32)})
    assert fits["a"].shape == (2, 3)  # the number of lanes may differ


@pytest.mark.parametrize("stats", [{}, {"norm": {"mean": np.arange(4.0).reshape(2, 2)}}])
def test_weights_come_back_with_their_grid_points(tmp_path, stats):
    params = {"dense": {"kernel": np.arange(12.0, dtype=np.float32).reshape(2, 3, 2)}}
    for _ in range(2):  # again: replaced
        save_weights(tmp_path / "weights" / "a", params, stats, [[0, 1], [2, 0]])
    loaded, loaded_stats, runs = load_weights(tmp_path / "weights" / "a")
    np.testing.assert_array_equal(loaded["dense"]["kernel"], params["dense"]["kernel"])
    assert jax.tree.structure(loaded_stats) == jax.tree.structure(stats)
    for a, b in zip(jax.tree.leaves(loaded_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_array_equal(a, b)
    assert runs == [[0, 1], [2, 0]]
