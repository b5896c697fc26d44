"""Experiment files: a config from a Python file, with overrides from the command line."""

import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from sbt.config import NAMED_SECTIONS, complete, unknown_field
from sbt.errors import UserError, user_code


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of an experiment file, with overrides.

    Args:
      spec: path of the file, optionally ``:variant``.
      overrides: ``--config.field=value`` arguments.

    Raises:
      UserError: no such file or variant, a field that does not exist, or a value of another type.
    """
    path, _, variant = spec.partition(":")
    file = _find(path)
    module = _import(file)
    if not hasattr(module, "get_config"):
        raise UserError(path, "has no get_config()", "define get_config(variant='') in it")
    with user_code(f"get_config() of {path}"):
        config = module.get_config(variant) if variant else module.get_config()
    if not isinstance(config, Mapping | ConfigDict | FrozenConfigDict):
        got = "nothing" if config is None else repr(config)
        raise UserError(f"get_config() of {path}", f"returned {got}", "return a config")
    return apply_overrides(config, overrides)


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Sets ``--config.field=value`` arguments, each checked against the field's type."""
    overrides = [_measurements(argument) for argument in overrides]
    _apply_names(config, overrides)
    config = complete(config)
    values = flags.FlagValues()
    for argument in ("", *overrides):
        name = argument.lstrip("-").partition("=")[0]
        before, sys.argv = sys.argv, ["sbt", *overrides]  # where config_flags looks for fields
        try:
            if argument:
                values(["sbt", argument])
            else:
                config_flags.DEFINE_config_dict("config", config, flag_values=values)
        except flags.UnrecognizedFlagError:
            raise _unknown_override(config, name) from None
        except (flags.Error, TypeError, ValueError) as error:
            raise UserError(argument, "cannot be set", _first_line(error)) from None
        except (KeyError, AttributeError):
            wrong = [a for a in overrides if not _exists(config, a)]
            name = (wrong or overrides)[0].lstrip("-").partition("=")[0]
            raise _unknown_override(config, name) from None
        finally:
            sys.argv = before
    return values["config"].value


def _exists(config: ConfigDict, override: str) -> bool:
    value: Any = config
    for part in override.lstrip("-").partition("=")[0].split(".")[1:]:
        if not isinstance(value, ConfigDict) or part not in value:
            return False
        value = value[part]
    return True


def _apply_names(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Another model, rule or schedule has other fields: its name comes before them."""
    for argument in overrides:
        match = re.fullmatch(rf"--config\.({'|'.join(NAMED_SECTIONS)})\.name=(.*)", argument)
        if match and config[match[1]].name != match[2]:
            config[match[1]] = ConfigDict({"name": match[2]})


def _measurements(argument: str) -> str:
    """``--config.measure=a,b`` is short for ``--config.measure.names=('a', 'b')``."""
    name, _, value = argument.partition("=")
    if name.lstrip("-") != "config.measure":
        return argument
    names = tuple(part.strip() for part in value.split(",") if part.strip())
    return f"--config.measure.names={names!r}"


def _unknown_override(config: ConfigDict, name: str) -> UserError:
    *sections, leaf = name.split(".")[1:]
    known: Any = config
    for section in sections:
        if section not in known or not isinstance(known[section], ConfigDict):
            return unknown_field(f"--{name}", section, known)
        known = known[section]
    return unknown_field(f"--{name}", leaf or name, known)


def _find(path: str) -> Path:
    for root in (Path(), repository()):
        if (root / path).is_file():
            return root / path
    raise UserError(path, "is no file", "see `sbt list` for the experiments that ship")


def repository() -> Path:
    """The directory that holds the package, and in a source checkout the experiments."""
    return Path(__file__).resolve().parent.parent


def _import(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sbt_config_{file.stem}", file)
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
