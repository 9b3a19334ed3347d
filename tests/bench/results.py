"""RESULTS.md: one section for each benchmark, written by the harness; whatever else stands in the file stays as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.bench.harness import Row, figure

TITLE = "# Results\n"


def table(rows: Sequence[Row]) -> str:
    """Markdown, readable as it is."""
    head = ("what", "median", "worst", "unit", "note")
    cells = [
        (row.name, figure(row.figure), "" if row.worst is None else figure(row.worst), row.unit, row.note.replace("|", "/"))
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head) - 1)]
    right = (False, True, True, False)

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=False)]
        return f"| {' | '.join(padded)} | {values[-1]} |"

    rule = [("-" * (w - 1) + ":") if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join([line(head), f"| {' | '.join(rule)} | --- |", *(line(c) for c in cells)]) + "\n"


def section(name: str, title: str, rows: Sequence[Row], *, command: str, machine: str, circumstances: str) -> str:
    return f"## {name}\n\n{title}\n\n`{command}` · {machine} · {circumstances}\n\n{table(rows)}"


def replaced(text: str, name: str, new: str) -> str:
    """`text` with the section `name` new, in its old place or, where there was none, at the end.

    >>> replaced("# Results\\n\\n## a\\n\\nold\\n\\n## Quality\\n\\nby hand\\n", "a", "## a\\n\\nnew\\n")
    '# Results\\n\\n## a\\n\\nnew\\n\\n## Quality\\n\\nby hand\\n'
    """
    text = text or TITLE
    old = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    if old is None:
        return f"{text.rstrip()}\n\n{new.rstrip()}\n"
    after = text[old.end() :]
    return text[: old.start()] + new.rstrip() + "\n" + (f"\n{after}" if after else "")
