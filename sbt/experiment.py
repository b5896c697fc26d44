"""Experiment files: a config from a Python file, and the parts that a user brings with it."""

import contextlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sbt.config import Config, for_own_rule
from sbt.errors import UserError, shown, user_code
from sbt.files import path_of
from sbt.optim import foreign
from sbt.overrides import apply_overrides

# Functions of an experiment file, beside get_config, that stand for what a config names.
# Those that are called: what they return is the part; the others are it themselves.
MADE = ("module", "dataset", "metrics")
PARTS = (*MADE, "rule", "loss", "schedule")


class Experiment(NamedTuple):
    """What an experiment file says.

    Attributes:
      config: of its ``get_config``, with overrides.
      parts: further arguments of :func:`sbt.run`, of those functions of the file that are there:
        ``module()`` gives a Flax module, ``dataset()`` what ``sbt.from_arrays`` or
        ``sbt.from_examples`` makes, ``metrics()`` functions by name; ``rule(learning_rate, ...)``,
        ``loss(outputs, examples)`` and ``schedule(progress)`` are the parts themselves.
    """

    config: Config
    parts: dict[str, Any]


def load_config(spec: str, overrides: Sequence[str] = ()) -> Config:
    """The config of an experiment file, with overrides; see :func:`load_experiment`."""
    return load_experiment(spec, overrides).config


def load_experiment(spec: str, overrides: Sequence[str] = ()) -> Experiment:
    """The config of an experiment file, with overrides, and the parts that the file brings.

    Args:
      spec: path of the file, optionally ``:variant``.
      overrides: ``--config.field=value`` arguments.

    Raises:
      UserError: no such file or variant, a field that does not exist, or a value of another type.
      UserCodeError: the file's own code raised.
    """
    path, colon, variant = _split(spec)
    if colon and not variant:
        raise UserError(spec, "names no variant", f"write {path}:VARIANT, or {path}")
    module = _import(_find(path))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(path, "has no function get_config", "define get_config(variant='') in it")
    whose = f"get_config() of {path}"
    if variant and not _takes_variant(get_config):
        remedy = f"write def get_config(variant=''), or run {path} alone"
        raise UserError(whose, f"takes no variant, got {variant!r}", remedy)
    with user_code(whose):
        config = get_config(variant) if variant else get_config()
    if not isinstance(config, Mapping | ConfigDict):
        got = "nothing (None)" if config is None else shown(config)
        remedy = "return the config: sbt.default_config() with its fields set"
        raise UserError(whose, f"returned {got}", remedy)
    parts = _parts(module, path)
    rule = parts.get("rule")
    with foreign.known(rule):
        if rule is not None:
            config = for_own_rule(config)
        return Experiment(apply_overrides(config, overrides), parts)


def as_published(spec: str) -> Any:
    """What the paper itself shows, by a function ``as_published(config)`` of an experiment file.

    Args:
      spec: path of the file, optionally ``:variant``.

    Returns:
      A drawing, or the rows of a table of which the first names the columns; None where the file
      has no such function.

    Raises:
      UserError: as for :func:`load_experiment`.
    """
    path, _, _ = _split(spec)
    function = getattr(_import(_find(path)), "as_published", None)
    if function is None:
        return None
    with user_code(f"as_published() of {path}"):
        return function(load_config(spec))


def _parts(module: ModuleType, path: str) -> dict[str, Any]:
    """What the functions that an experiment file defines (not imports) stand for."""
    found: dict[str, Any] = {}
    for name in PARTS:
        function = vars(module).get(name)
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            if name not in MADE:
                found[name] = function
                continue
            with user_code(f"{name}() of {path}"):
                found[name] = function()
    return found


def _split(spec: str) -> tuple[str, str, str]:
    """Path, colon and variant; colons before the end of ``.py`` belong to the path."""
    if "://" in spec:
        path_of(spec, "CONFIG")  # which refuses it
    if found := re.fullmatch(r"(.+?\.py)(?:(:)(.*))?", spec, re.DOTALL):
        return found[1], found[2] or "", found[3] or ""
    return spec.partition(":")


def _takes_variant(get_config: object) -> bool:
    assert callable(get_config)
    with_name = inspect.signature(get_config)
    try:
        with_name.bind("")
    except TypeError:
        return False
    return True


def _find(path: str) -> Path:
    """The file of this path: the user's own, else one that ships, with or without its folder."""
    shipped = Path(path)
    if shipped.parts[:1] == ("experiments",):
        shipped = shipped.relative_to("experiments")
    own = path_of(path, "CONFIG") if path else Path()
    for file in (own, experiments() / shipped):
        with contextlib.suppress(OSError):  # too long a name, a directory that may not be read
            if file.is_file():
                return file
            if file.is_dir() and path:
                remedy = "name a Python file in it; `sbt list experiments` shows those that ship"
                raise UserError(path, "is a directory", remedy)
    raise UserError(path or "CONFIG", "no such file", "see `sbt list experiments`")


def experiments() -> Path:
    """The directory of the experiments that ship: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


def _import(file: Path) -> ModuleType:
    # Whatever the file is called: it is read as Python.
    loader = importlib.machinery.SourceFileLoader(f"sbt_config_{file.stem}", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Experiment files share settings through a neighbouring module.
    folder = file.resolve().parent
    hidden = {name: sys.modules.pop(name) for name in _namesakes(folder)}
    sys.path.insert(0, str(folder))
    before = set(sys.modules)
    try:
        with user_code(str(file)):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
        # What was loaded from here is forgotten: another folder's may have the same name.
        for name in set(sys.modules) - before:
            if folder in _file(sys.modules[name]).parents:
                del sys.modules[name]
        sys.modules.update(hidden)
    return module


def _namesakes(folder: Path) -> list[str]:
    """Loaded modules of a caller's own that have the name of a file in a folder, and are others.

    Libraries are none of them: a neighbour does not stand in for what they import.
    """
    found = []
    for name in {file.stem for file in folder.glob("*.py")} & set(sys.modules):
        module = sys.modules[name]
        library = name in sys.stdlib_module_names or "site-packages" in _file(module).parts
        own = _file(module).is_absolute() and not library and not hasattr(module, "__path__")
        if own and _file(module).parent != folder and name != "__main__":
            found.append(name)
    return found


def _file(module: ModuleType) -> Path:
    return Path(getattr(module, "__file__", None) or "")
