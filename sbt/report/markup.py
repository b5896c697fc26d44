"""Text, figures and styles of a page that needs nothing but itself."""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from sbt.report.style import WIDE, Drawing
from sbt.text import duration, printable

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 "Source Serif 4", Charter, "Bitstream Charter", Georgia, serif;
  color: #1a1a1a; background: #fff; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1, h2, h3, th, .status, figcaption b { font-family: "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; border-bottom: 1px solid #bbb;
  padding-bottom: .2rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; }
h1, h3, p, td, pre, figcaption { overflow-wrap: anywhere; }
p { margin: .4rem 0; } .quiet { color: #555; }
.status { border-left: 5px solid #0072b2; background: #f2f6fa; padding: .5rem .9rem;
  margin: 1rem 0; font-size: .92rem; }
.status.partial { border-color: #d55e00; background: #fdf3ec; }
figure { margin: 1.6rem 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { font-size: .88rem; color: #333; margin: .5rem auto 0; max-width: 50rem; }
table { border-collapse: collapse; font-size: .85rem; margin: .6rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .55rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #ddd; }
th { font-weight: 600; font-size: .8rem; }
thead th { border-bottom: 1px solid #555; }
table.grid td, table.grid th { text-align: right; white-space: nowrap; }
table.grid td.top { outline: 2px solid #1a1a1a; outline-offset: -2px; }
table.numbers td { text-align: right; } table.numbers th { text-align: right; }
sup { line-height: 0; font-size: .75em; }
.scroll { overflow-x: auto; } .scroll td { overflow-wrap: break-word; }
.verdict { white-space: nowrap; font-weight: 600; font-family: Arial, sans-serif; }
.yes { color: #00604a; } .no { color: #a13d00; } .open { color: #555; }
pre { font-size: .75rem; line-height: 1.35; columns: 2; white-space: pre-wrap; background: #f7f7f7;
  padding: .8rem; border: 1px solid #ddd; }
small { font-size: .8em; color: #333; }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  table { font-size: 8.5pt; } table.grid, table.numbers { font-size: 7.5pt; }
  table.grid td, table.grid th, table.numbers td, table.numbers th { padding: .15rem .3rem; }
  tr { break-inside: avoid; } pre { font-size: 7pt; } h2, h3 { break-after: avoid; }
  sup { line-height: 0; font-size: .75em; }
.scroll { overflow: visible; } a { color: inherit; text-decoration: none; }
}
"""


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


def page(title: str, body: Markup) -> Markup:
    """A complete document that loads nothing from anywhere."""
    return Markup(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{join([body])}\n</body></html>\n"
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
