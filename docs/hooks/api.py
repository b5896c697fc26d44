"""Pages of the API: ``::: sbt.optim`` stands for all that the package offers by its own name."""

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Writes a line for the package's docstring, and one for each name that it imports."""
    return re.sub(r"^::: (sbt(?:\.\w+)?)$", lambda m: _package(m[1]), markdown, flags=re.M)


def _package(name: str) -> str:
    source = ROOT.joinpath(*name.split("."), "__init__.py").read_text(encoding="utf-8")
    lines = [f"::: {name}\n    options: {{members: false, show_root_heading: false}}"]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sbt."):
            lines += (f"::: {node.module}.{one.name}" for one in node.names)
    return "\n\n".join(dict.fromkeys(lines))
