"""Entries of what a config can name, with pictures: their words and formulas are the docstrings'.

``::: each rule sgd lars`` in a page stands for these entries of the section ``rule``, and
``::: each rule`` for all that the page has not named: something new is on it without an edit.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pictures  # beside this file

from sbt import measure
from sbt.choice import Choice, Registry
from sbt.config import SECTIONS
from sbt.measure import MEASUREMENTS

_LINE = re.compile(r"^::: each (\w+)(.*)$", re.M)
_OPTIONS = "    options: {show_root_heading: false, show_root_toc_entry: false}"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Writes the lines out, each entry once a page."""
    named: dict[str, set[str]] = {}
    for section, names in _LINE.findall(markdown):
        named.setdefault(section, set()).update(names.split())
    shown: set[str] = set()

    def entries(match: re.Match[str]) -> str:
        section, names = match[1], match[2].split()
        registry = _registry(section)
        rest = [name for name in registry if name not in named[section]]
        parts = ["## Others"] if rest and named[section] and not names else []
        parts += (_entry(section, name, registry[name], shown) for name in names or rest)
        return "\n\n".join(parts)

    return _LINE.sub(entries, markdown)


def _registry(section: str) -> Registry:
    return MEASUREMENTS if section == "measure" else SECTIONS[section]


def _entry(section: str, name: str, choice: Choice, shown: set[str]) -> str:
    """A heading, a picture, the source, and the docstring with those that hold its formula."""
    function = inspect.unwrap(choice.make)
    entries = {_path(inspect.unwrap(other.make)) for other in _registry(section).values()}
    parts = [f"### {name} {{#{section}-{name}}}", pictures.of(section, name)]
    if cost := choice.facts.get("cost"):
        parts.append(f"*Cost:* {cost}.")
    if choice.source:
        parts.append(f"*Source:* {choice.source}.")
    if function.__doc__:
        parts.append(f"::: {_path(function)}\n{_OPTIONS}")
        for path in _formulas(function):
            if path not in shown | entries:
                shown.add(path)
                parts.append(f"::: {path}\n    options: {{heading_level: 4}}")
    return "\n\n".join(filter(None, parts))


def _formulas(function: Any) -> Iterator[str]:
    """Functions with the formula of an entry whose docstring has none of its own.

    They are those that it names and, of a measurement, those of `sbt.measure` that it calls.
    """
    text = (inspect.getdoc(function) or "").partition("\nArgs:")[0]
    module = importlib.import_module(function.__module__)
    if ".. math::" in text:
        return
    named = dict.fromkeys(re.findall(r":func:`~?(?:sbt\.optim\.)?(\w+)`", text))
    found = [one for one in map(vars(module).get, named) if ":math:" in (inspect.getdoc(one) or "")]
    if module.__name__.startswith("sbt.measure"):
        called = _names(function.__code__)
        public = (each for name, each in vars(measure).items() if name in called)
        found += [one for one in public if ".. math::" in (inspect.getdoc(one) or "")]
    for each in filter(inspect.isfunction, found):
        yield _path(each)


def _path(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _names(code: CodeType) -> set[str]:
    """Names that a function uses, or a function inside it."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names, inner))
