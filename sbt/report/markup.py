"""Text, figures and styles of a page that needs nothing but itself."""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib import resources
from typing import Any

from sbt.report.style import WIDE, Drawing
from sbt.text import duration, printable

STYLE = (resources.files("sbt.report") / "page.css").read_text(encoding="utf-8")


class Markup(str):
    """HTML. Any other string is text, and is escaped wherever it meets HTML.

    Only the functions of this module make it: what they are given, from a config or a file, cannot
    become a tag, whatever it says.
    """


def tag(name: str, *children: str, **attributes: str) -> Markup:
    """An element; a trailing underscore of an attribute's name is left out.

    >>> tag("p", "a < b", tag("br"), class_="quiet")
    '<p class="quiet">a &lt; b<br></p>'
    """
    named = (f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    end = "" if name in ("br", "img") else f"</{name}>"
    return Markup(f"<{name}{''.join(named)}>{join(children)}{end}")


def join(parts: Iterable[str], between: str = "") -> Markup:
    """The parts in one string, those that are text escaped."""
    return Markup(between.join(part if isinstance(part, Markup) else text(part) for part in parts))


def text(words: str) -> Markup:
    """Escaped text; line breaks stay."""
    return Markup(escape("\n".join(map(printable, words.split("\n")))))


def rich(words: str) -> Markup:
    """Text in which ``2^-8`` becomes a power, and ``m = 8`` and ``5 %`` stay on a line."""
    kept = re.sub(r"(?<= )([mη]̃?) = (?=\d)|^([mη]̃?) = (?=\d)", _unbroken, text(words))
    return Markup(re.sub(r"(\d)\^(-?\d+)", _power, re.sub(r"(\d) %", "\\1\u00a0%", kept)))


BREAK = tag("br")
NOTHING = Markup()


def _unbroken(match: re.Match[str]) -> str:
    return match[0].replace(" = ", "\u00a0=\u00a0")


def _power(match: re.Match[str]) -> str:
    return f"{match[1]}<sup>{match[2].replace('-', '−')}</sup>"


def folded(title: str, *parts: Markup, level: str = "h2", **attributes: str) -> Markup:
    """Parts that a reader opens; without scripts, too."""
    return tag("details", tag("summary", tag(level, title)), join(parts, "\n"), **attributes)


def figure(drawing: Drawing, number: int) -> Markup:
    """The figure inlined as an SVG image with its caption."""
    data = base64.b64encode(drawing.render("svg")).decode()
    # The same scale for all, so that their text has one size.
    width = min(100.0, 100 * drawing.figure.get_figwidth() / WIDE[0])
    image = tag(
        "img",
        style=f"width:{width:.0f}%",
        alt=drawing.caption,
        src=f"data:image/svg+xml;base64,{data}",
    )
    caption = tag("figcaption", tag("b", f"Figure {number}."), " ", rich(drawing.caption))
    return tag("figure", image, caption, id=drawing.name)


# What a page with a script may do: run what stands in it, and load nothing.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, body: Markup, script: Markup = NOTHING, every: int = 0) -> Markup:
    """A complete document that loads nothing from anywhere.

    Args:
      title: of its window.
      body: what stands on it.
      script: ``<script>`` elements that bring it to life; without it all of the page is readable.
      every: seconds after which an open page reads its file again; 0: never.
    """
    wide = ' class="wide"' if script else ""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
    again = f'<meta http-equiv="refresh" content="{every}">'
    return Markup(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{policy if script else ''}{again if every else ''}"
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n"
        f"<body{wide}>\n{join([body])}\n{script}</body></html>\n"
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, words) for every leaf of a nested mapping."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            for i, item in enumerate(value):
                inner = [f"{k} {v}" for k, v in flat(item)] if isinstance(item, Mapping) else [item]
                yield f"{name.replace('_', ' ')} {i + 1}", ", ".join(map(str, inner))
        elif value is not None:
            yield name.replace("_", " "), _words(str(key), value)


def _words(key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        if isinstance(value, list | tuple):
            return ", ".join(_words(key, v) for v in value)
        return str(value)
    if key.endswith("seconds"):
        return duration(float(value))
    if "bytes" in key:
        return f"{value / 2**20:,.0f} MiB"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
