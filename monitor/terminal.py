"""Text of strangers on a terminal: nothing in it may move the cursor, ring a bell or turn the line around."""

from __future__ import annotations

from collections.abc import Sequence


def harmless(text: str) -> str:
    r"""The text with whatever is not printable written out.

    >>> print(harmless("red \x1b[31m and \u202e reversed\n"))
    red \x1b[31m and \u202e reversed\n
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def short(text: str, width: int) -> str:
    """
    >>> short("a long story", 6)
    'a lon…'
    """
    return text if len(text) <= width else text[: width - 1] + "…"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], widest: int = 60) -> str:
    """Columns as wide as what stands in them, but no wider than `widest`; the last one as wide as it likes, up to twice that."""
    cells = [[harmless("" if one is None else str(one)) for one in row] for row in rows]
    last = len(head) - 1
    cells = [[short(one, 2 * widest if i == last else widest) for i, one in enumerate(row)] for row in [list(head), *cells]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join("  ".join(one.ljust(width) for one, width in zip(row, widths, strict=True)).rstrip() for row in cells)
