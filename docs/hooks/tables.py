"""Tables of pages that the code knows best: a page has their mark, ``<!-- papers -->``."""

from collections.abc import Iterator
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Writes tables where a page has marks."""
    for mark, table in (("<!-- papers -->", _papers), ("<!-- fields -->", _fields)):
        if mark in markdown:
            markdown = markdown.replace(mark, "\n".join(table()))
    return markdown


def _papers() -> Iterator[str]:
    """What ``sbt list papers`` tells."""
    from sbt.coverage import papers  # configs and evidence of all of them: some seconds

    for paper in papers():
        yield f"\n### {paper.name}\n\n{paper.source}\n"
        yield "| figure | experiment | claims | evidence |\n|---|---|---|---|"
        for one in paper.shows:
            file = f"`{one.file}`" if one.file else ""
            seeds = f"{one.seeds} seed{'s' * (one.seeds != 1)}" if one.evidence else one.reason
            yield f"| {one.what} | {file} | {one.claims or ''} | {seeds} |"


def _fields() -> Iterator[str]:
    """What ``sbt run --help`` tells of the config."""
    from sbt.config import FIELDS

    groups: dict[str, list[str]] = {}
    for path in FIELDS:
        groups.setdefault(path.rpartition(".")[0], []).append(path)
    named = [path for paths in groups.values() if len(paths) == 1 for path in paths]
    for section, paths in groups.items():
        if len(paths) > 1:
            yield from _section(f"`{section}`" if section else "At the top", paths)
    yield from _section("What has a name", named)


def _section(title: str, paths: list[str]) -> Iterator[str]:
    from sbt.config import FIELDS

    yield f"\n## {title}\n\n| field | default | meaning | takes |\n|---|---|---|---|"
    for path in paths:
        field = FIELDS[path]
        default = "" if field.default in ("", ()) else f"`{field.default}`"
        takes = field.takes.replace(f" and of at most {2**31 - 1}", "")
        cells = (f"`{path}`", default, field.about, takes)
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
