"""Text that comes from elsewhere, made fit for one line of a terminal, a figure or a page."""

import math
import unicodedata

from rich.cells import cell_len

# A terminal obeys control characters, format characters turn the direction of a line, UTF-8 has no
# lone surrogates, and XML neither of the two noncharacters.
_UNFIT = ("Cc", "Cf", "Cs")
_NONCHARACTERS = "\ufffe\uffff"
_JOINS = "\u200c\u200d"  # format characters that Persian and emoji need


def one_line(text: object) -> str:
    """The text without line breaks and without characters that do something or cannot be written.

    >>> one_line("two\\nlines\\x1b[31m")
    'two lines�[31m'
    """
    return printable(" ".join(str(text).split()))


def printable(text: str) -> str:
    """The text with a replacement character for each that no line of text can hold."""
    return "".join(_fit(character) for character in text)


def _fit(character: str) -> str:
    unfit = unicodedata.category(character) in _UNFIT and character not in _JOINS
    unfit = unfit or character in _NONCHARACTERS
    return "\ufffd" if unfit else character


def width(text: str) -> int:
    """Columns of a terminal that the text takes: two for most characters of East Asia."""
    return cell_len(text)


def capital(words: str) -> str:
    """The words with a capital at their beginning; the rest as it is."""
    return words[:1].upper() + words[1:]


def duration(seconds: float) -> str:
    """Seconds that were measured, in words.

    >>> duration(4.2), duration(192), duration(3720)
    ('4.2 s', '3 min 12 s', '1 h 02 min')
    """
    if not math.isfinite(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def roughly(seconds: float) -> str:
    """Seconds that are estimated, in one unit.

    >>> roughly(45.3), roughly(720), roughly(12_240), roughly(181_440)
    ('45 s', '12 min', '3.4 h', '2.1 days')
    """
    if not seconds < math.inf:
        return "?"
    for size, unit, limit, digits in (
        (1, "s", 90, 0),
        (60, "min", 5400, 0),
        (3600, "h", 172800, 1),
    ):
        if seconds < limit:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def shortened(text: str, most: int) -> str:
    """The text, cut to at most so many columns, the last one an ellipsis where it was cut.

    >>> shortened("a long label", 6)
    'a lon…'
    """
    if width(text) <= most:
        return text
    kept = ""
    for character in text:
        if width(kept + character) > most - 1:
            break
        kept += character
    return f"{kept}…" if most > 0 else ""


def fitted(text: str, most: int) -> str:
    """The text in at most so many columns, its longest words shortened first.

    >>> fitted("best 97 % at schedule__warmup 0.5", 28)
    'best 97 % at schedule__… 0.5'
    """
    words = text.split(" ")
    for longest in range(most, 3, -1):
        line = " ".join(shortened(word, longest) for word in words)
        if width(line) <= most:
            return line
    return shortened(" ".join(shortened(word, 4) for word in words), most)
