"""Formulas of pages and docstrings, drawn by matplotlib when the site is built: no page needs
a script for them."""

import html
import re
from typing import Any

from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path
from matplotlib.textpath import TextPath

SIZE = 10  # points that a formula is drawn at; pages show it in em
FONT = FontProperties(family="DejaVu Sans", math_fontfamily="stix")
# TeX that matplotlib writes otherwise.
_SPELT = (
    (r"\\([td])frac", r"\\frac"),
    (r"\\textstyle|\\displaystyle", ""),
    (r"\\frac\s*([^\s\\{])\s*([^\s\\{])", r"\\frac{\1}{\2}"),
    (r"\\frac\s*([^\s\\{])\s*({|\\\w+)", r"\\frac{\1}\2"),
    (r"(\\frac{[^{}]*})\s*(\\?\w)(?!\w)", r"\1{\2}"),
    (r"(\\frac{[^{}]*})\s*(\\[a-zA-Z]+)", r"\1{\2}"),
    (r"\\sqrt\s*(\\[a-zA-Z]+|\w)", r"\\sqrt{\1}"),
    (r"\\[bB]igg?[lrm]?(?![a-z])\s*", ""),
    (r"\\(le|ge)(?![a-z])", r"\\\1q"),
    (r"\\ne(?![a-z])", r"\\neq"),
    (r"\\(mathbb|mathcal)\s+(\w)", r"\\\1{\2}"),
    (r"\\(bar|hat|tilde)\s+(\w)", r"\\\1{\2}"),
)


def on_page_content(content: str, **_: Any) -> str:
    """Replaces what arithmatex marked."""
    inline = r'<span class="arithmatex">\\\((.*?)\\\)</span>'
    content = re.sub(inline, lambda m: drawn(html.unescape(m[1])), content, flags=re.S)
    block = r'<div class="arithmatex">\\\[(.*?)\\\]</div>'
    return re.sub(block, lambda m: displayed(html.unescape(m[1])), content, flags=re.S)


def displayed(tex: str) -> str:
    """The lines of a formula that stands by itself."""
    lines = (line.replace("&", "").strip() for line in tex.split(r"\\"))
    return "".join(f'<div class="formula-block">{drawn(line, "d")}</div>' for line in lines if line)


def drawn(tex: str, size: str = "") -> str:
    """A formula as an SVG image on the line of its text.

    Args:
      tex: between dollars.
      size: of its fractions; ``d``: as of one that stands by itself.

    Raises:
      ValueError: matplotlib does not know some of its TeX.
    """
    spelt = " ".join(tex.split())
    for pattern, replacement in _SPELT:
        spelt = re.sub(pattern, replacement, spelt)
    text = f"${spelt}$".replace(r"\frac", rf"\{size}frac")
    width, height, depth, *_ = MathTextParser("path").parse(text, 72, FONT)
    outline = TextPath((0, 0), text, size=SIZE, prop=FONT)
    scale = SIZE / FONT.get_size_in_points()
    return _svg(tex, outline, *(scale * x for x in (width, height, depth)))


def _svg(tex: str, outline: Path, width: float, height: float, depth: float) -> str:
    commands = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    parts = []
    for points, code in outline.iter_segments(simplify=False):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
            continue
        numbers = (f"{x if i % 2 == 0 else -x:.2f}" for i, x in enumerate(points))
        parts.append(commands[code] + " ".join(numbers))
    box = f"0 {depth - height:.2f} {width:.2f} {height:.2f}"  # y grows downwards from the baseline
    style = f"width:{width / SIZE:.2f}em;vertical-align:{-depth / SIZE:.2f}em"
    label = html.escape(" ".join(tex.split()), quote=True)
    return (
        f'<svg class="formula" role="img" aria-label="{label}" viewBox="{box}" style="{style}">'
        f'<path d="{"".join(parts)}"/></svg>'
    )
