"""Docstrings for the pages of the API: what is reStructuredText in them as Markdown."""

import re
import textwrap
from typing import Any

import griffe

_FORMULA = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*| *$))*)", re.M)
_ADMONITION = re.compile(r"^( *)\.\. (note|warning)::\n", re.M)
_LITERAL = re.compile(r":?\s*:: *$", re.M)
_LINK = re.compile(r"`([^`<]+?)\s*<([^`>]+)>`_+")
_ROLE = re.compile(r":(\w+):`~?([^`]*)`")


class Roles(griffe.Extension):
    """Rewrites every docstring when it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for everything that has one."""
        if obj.docstring:
            obj.docstring.value = _markdown(obj.docstring.value)


def _markdown(text: str) -> str:
    text = _FORMULA.sub(lambda m: _formula(m[1], m[2]), text)
    text = _LITERAL.sub(":", _ADMONITION.sub(r"\1!!! \2\n\n", text))
    text = _LINK.sub(lambda m: f"[{' '.join(m[1].split())}]({m[2]})", text)
    return _ROLE.sub(lambda m: _role(m[1], m[2]), text)


def _formula(indent: str, tex: str) -> str:
    lines = textwrap.indent(textwrap.dedent(tex).strip(), indent)
    return f"\n{indent}\\[\n{lines}\n{indent}\\]\n"


def _role(kind: str, content: str) -> str:
    if kind == "math":
        return f"\\({content}\\)"
    name = content.rpartition(".")[2]
    return f'<autoref identifier="{content}" optional><code>{name}</code></autoref>'
