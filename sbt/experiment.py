"""Experiment files: a config from a Python file."""

import importlib.machinery
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from sbt.config import Config
from sbt.errors import UserError, shown, user_code
from sbt.overrides import apply_overrides


def load_config(spec: str, overrides: Sequence[str] = ()) -> Config:
    """The config of an experiment file, with overrides.

    Args:
      spec: path of the file, optionally ``:variant``.
      overrides: ``--config.field=value`` arguments.

    Raises:
      UserError: no such file or variant, a field that does not exist, or a value of another type.
      UserCodeError: the file's own code raised.
    """
    path, colon, variant = spec.partition(":")
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
    return apply_overrides(config, overrides)


def _takes_variant(get_config: object) -> bool:
    assert callable(get_config)
    with_name = inspect.signature(get_config)
    try:
        with_name.bind("")
    except TypeError:
        return False
    return True


def _find(path: str) -> Path:
    for root in (Path(), repository()):
        if (root / path).is_file():
            return root / path
        if (root / path).is_dir() and path:
            remedy = "name a Python file in it; `sbt list` shows those that ship"
            raise UserError(path, "is a directory", remedy)
    raise UserError(
        path or "CONFIG", "no such file", "see `sbt list` for the experiments that ship"
    )


def repository() -> Path:
    """The directory that holds the package, and in a source checkout the experiments."""
    return Path(__file__).resolve().parent.parent


def _import(file: Path) -> ModuleType:
    # Whatever the file is called: it is read as Python.
    loader = importlib.machinery.SourceFileLoader(f"sbt_config_{file.stem}", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Experiment files share settings through a neighbouring module.
    sys.path.insert(0, str(file.parent))
    before = set(sys.modules)
    try:
        with user_code(str(file)):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
        # Another paper's neighbour of the same name is another module.
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(f"{file.parent}{os.sep}"):
                del sys.modules[name]
    return module
