"""Checkpoints of a running sweep: Orbax writes them, checksums of the files say which are sound."""

import contextlib
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from sbt import files
from sbt.errors import UserError, first_line
from sbt.parallel import hosts

SUMS = "checksums.json"


class Checkpoint(NamedTuple):
    """What was saved.

    Attributes:
      leaves: the leaves of the saved tree (see :func:`unpack`): host arrays, or with several
        processes arrays on the mesh.
      position: where the sweep stood, a JSON mapping.
    """

    leaves: list[np.ndarray]
    position: Mapping[str, Any]


class Checkpoints:
    """The checkpoints in one directory, the newest ``keep`` of them.

    Every file is checked before Orbax opens any: some damage to one checkpoint keeps it from
    reading the others, and the rest makes it fill the terminal. A damaged checkpoint moves to a
    directory beside, ``<directory>.damaged``.

    Args:
      directory: made if need be.
      keep: how many to hold; at least 2 lets a damaged one be replaced by the one before.
      warn: told, in one line, about a checkpoint that is damaged.
    """

    def __init__(self, directory: Path, keep: int = 2, warn: Callable[[str], None] = print):
        # Orbax reports every save at INFO through absl; progress is ours to show.
        logging.getLogger("absl").setLevel(logging.WARNING)
        self._directory = directory = Path(directory).absolute()
        self._damaged = directory.with_name(f"{directory.name}.damaged")
        with files.writing(directory.parent, "checkpoints"):
            if hosts.writes():
                self._set_damaged_aside(directory, warn)
            hosts.meet("checkpoints are checked")
            self._manager = ocp.training.Checkpointer(
                directory,
                preservation_policy=ocp.training.preservation_policies.LatestN(keep),
                cleanup_tmp_directories=True,
            )

    def _set_damaged_aside(self, directory: Path, warn: Callable[[str], None]) -> None:
        found = [path for path in directory.glob("*") if path.name.isdigit()]
        faults = {path: fault(path) for path in sorted(found, key=lambda path: int(path.name))}
        sound = [int(path.name) for path, reason in faults.items() if reason is None]
        for path, reason in faults.items():
            if reason is None:
                continue
            before = [step for step in sound if step < int(path.name)]
            instead = f"falling back to the one before, {max(before)}" if before else "set aside"
            warn(f"checkpoint {path.name} is damaged ({reason}): {instead}")
            shutil.rmtree(self._damaged / path.name, ignore_errors=True)
            self._damaged.mkdir(exist_ok=True)
            os.replace(path, self._damaged / path.name)

    def save(self, tree: Any, position: Mapping[str, Any]) -> None:
        """Writes a checkpoint; it exists wholly or not at all. Every process writes its own parts.

        Args:
          tree: any tree of arrays, typed keys included.
          position: JSON mapping, to find the place again.
        """
        step = 1 + max((c.step for c in self._manager.checkpoints), default=0)
        leaves = pack(tree)
        with _saving(self._directory, leaves, "a checkpoint"):
            self._manager.save(
                step,
                {f"{i:05d}": leaf for i, leaf in enumerate(leaves)},
                custom_metadata={"position": dict(position)},
            )
            if hosts.writes():
                seal(next(Path(c.path) for c in self._manager.checkpoints if c.step == step))
        hosts.meet("a checkpoint is sealed")

    def latest(
        self, sharding: Callable[[tuple[int, ...]], jax.sharding.Sharding] | None = None
    ) -> Checkpoint | None:
        """The newest checkpoint, or None.

        Args:
          sharding: of an array of a given shape; needed with several processes.
        """
        step = max((c.step for c in self._manager.checkpoints), default=None)
        if step is None:
            return None
        metadata = self._manager.metadata(step)
        position = metadata.custom_metadata["position"]
        many = jax.process_count() > 1

        def like(leaf: Any) -> Any:
            if many and sharding:
                where = sharding(leaf.shape)
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
            # To Orbax: a host array, wherever it was when it was saved.
            return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)

        saved = self._manager.load(step, {k: like(v) for k, v in metadata.metadata.items()})
        return Checkpoint([saved[name] for name in sorted(saved)], position)

    def clear(self) -> None:
        """Removes all checkpoints."""
        hosts.meet("checkpoints are no longer needed")
        if hosts.writes():
            for saved in self._manager.checkpoints:
                shutil.rmtree(saved.path, ignore_errors=True)
            shutil.rmtree(self._damaged, ignore_errors=True)

    def close(self) -> None:
        """Waits for pending writes."""
        self._manager.close()


# What Orbax writes beside the bytes of the arrays, at most, as measured from 2 to 100 of them.
_ROOM, _ROOM_PER_LEAF = 1 << 17, 1 << 12


@contextlib.contextmanager
def _saving(parent: Path, leaves: Sequence[Any], what: str) -> Iterator[None]:
    """For Orbax to save arrays in a subdirectory of ``parent``.

    Its threads fill the terminal when a disk is full, so that room is tried for before; and what it
    leaves half written then would only take room from whoever tries again.

    Raises:
      CannotWrite: the disk is full, or the directory cannot be written.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it logs as errors, it raises too
    try:
        with files.writing(parent.parent, what):
            if hosts.writes():
                parent.mkdir(parents=True, exist_ok=True)
                size = sum(leaf.nbytes + _ROOM_PER_LEAF for leaf in leaves)
                files.make_sure_of_room(parent, size + _ROOM)
            yield
    except files.CannotWrite:
        for path in parent.glob("*"):
            if is_part(path):
                shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        logger.setLevel(level)


def seal(directory: Path) -> None:
    """Notes size and CRC-32 of every file in a directory, in a file of its own.

    Written last and at once, it also says that the directory is complete.
    """
    files.write_json(directory / SUMS, _sums(directory))


def fault(directory: Path) -> str | None:
    """What is wrong with a sealed directory; None if every file is as it was."""
    try:
        wanted, found = files.read_json(directory / SUMS), _sums(directory)
    except (OSError, ValueError):
        wanted = None
    if wanted is None:
        return f"{SUMS} cannot be read"
    for name, sums in wanted.items():
        if found.get(name) != sums:
            return f"{name} {'has changed' if name in found else 'is missing'}"
    return None


def _sums(directory: Path) -> dict[str, list[int]]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(directory)): _size_and_sum(path)
        for path in files
        if path.name != SUMS and not path.name.startswith(f".{SUMS}")
    }


def _size_and_sum(path: Path) -> list[int]:
    size = value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            size, value = size + len(block), zlib.crc32(block, value)
    return [size, value]


def pack(tree: Any) -> list[Any]:
    """Leaves as host arrays, with several processes as they are; typed keys as their raw words."""

    def raw(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf) if jax.process_count() == 1 else leaf

    return [raw(leaf) for leaf in jax.tree.leaves(tree)]


def unpack(leaves: list[Any], like: Any) -> Any:
    """The tree that was packed.

    Args:
      leaves: from :func:`pack`.
      like: a tree of the same structure, dtypes and (but for the first axis) shapes.

    Raises:
      ValueError: the leaves do not fit.
    """
    templates, structure = jax.tree.flatten(like)
    if len(leaves) != len(templates):
        raise ValueError(f"{len(leaves)} saved arrays for {len(templates)}")

    def typed(leaf: Any, template: Any) -> Any:
        if jnp.issubdtype(template.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(template))
        if leaf.dtype != template.dtype or leaf.shape[1:] != template.shape[1:]:
            raise ValueError(f"a saved {leaf.dtype}{leaf.shape} for {template}")
        return leaf

    typed_leaves = [typed(*pair) for pair in zip(leaves, templates, strict=True)]
    return jax.tree.unflatten(structure, typed_leaves)


def save_weights(
    directory: Path,
    params: Any,
    stats: Any,
    runs: list[list[int]],
    labels: Sequence[Mapping[str, Any]] = (),
    rule: Any = (),
) -> None:
    """Keeps the trained weights of some runs, stacked along a leading axis.

    Args:
      directory: of its own; replaced if it exists.
      params: weights.
      stats: running statistics; may be an empty tree.
      runs: grid position of every row.
      labels: of every row, what finds the run again once the grid has grown.
      rule: states of the update rule, if they are to be kept too.

    Raises:
      CannotWrite: the disk is full, or the directory cannot be written.
    """
    directory = Path(directory).absolute()
    kept = {"params": params, "stats": stats}
    if leaves := pack(rule):
        kept["rule"] = {f"{i:05d}": leaf for i, leaf in enumerate(leaves)}
    with _saving(directory.parent, jax.tree.leaves(kept), "weights"):
        ocp.save(
            directory,
            kept,
            overwrite=True,
            custom_metadata={"runs": runs, "labels": [dict(label) for label in labels]},
        )
        if hosts.writes():
            seal(directory)
    hosts.meet("weights are sealed")


def is_part(directory: Path) -> bool:
    """Whether a directory is one that Orbax was writing when it was killed."""
    return ".orbax-checkpoint-tmp" in directory.name


def load_weights(directory: Path) -> tuple[Any, Any, list[list[int]]]:
    """What :func:`save_weights` kept: weights, statistics, grid positions when they were kept.

    Raises:
      UserError: they are damaged. Those written before there were checksums are taken as they are.
    """
    return load_with_rule(directory)[:3]


def load_with_rule(directory: Path) -> tuple[Any, Any, list[list[int]], list[Any]]:
    """:func:`load_weights`, and the packed states of the rule; none where they were not kept."""
    directory = Path(directory).absolute()
    reason = fault(directory) if (directory / SUMS).exists() else None
    if reason is None:
        try:
            saved = ocp.load(directory)
            runs = ocp.metadata(directory).custom_metadata["runs"]
            rule = saved.get("rule") or {}
            leaves = [rule[name] for name in sorted(rule)]
            return saved["params"], saved.get("stats") or {}, runs, leaves
        except Exception as error:  # a library's, about files of any content
            reason = first_line(error) or type(error).__name__
    remedy = (
        f"restore it from a copy, or remove it and {directory.parent.parent / 'results.nc'} and "
        "give the same sbt run again: it trains these runs again"
    )
    raise UserError(str(directory), f"holds damaged weights ({reason})", remedy)


def labels_of(directory: Path) -> list[Mapping[str, Any]]:
    """The labels of the runs in it."""
    return list(ocp.metadata(Path(directory).absolute()).custom_metadata.get("labels", ()))
