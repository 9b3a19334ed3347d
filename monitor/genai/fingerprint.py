"""Template fingerprint: is this the prompt of yesterday, when nobody gave it a name and a version?

One call shows a template already filled in, so what fills it has to be told apart by form:

1. Numbers, dates, ids, addresses and quoted text are replaced by a sign of their kind.
2. What stands in a section that is known to change (`Context:`, `<documents>` ...: `variable_sections` in dialects.yaml) is
   left out up to the end of the tag, or to the next label, heading or tag.
3. Of the system instructions the rest is kept: they are written by the developer. Of the first user message only its
   structure is kept (labels at the beginning of a line, headings, tags, markers): the rest of it may be anything a user says.

The fingerprint is the first 16 hex digits of the SHA-256 of that. Where the sender told the template itself, it is that of
the template. Without system instructions and without structure there is none.

What it cannot see: a name or a free sentence put into the system instructions outside of such a section makes a new
fingerprint at every call. Send `gen_ai.prompt.name` and `gen_ai.prompt.version` then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

MAX_CHARS = 20_000  # of the system instructions, and of the message, each
CACHE = 512
MARKERS = ("#", "[", "=", "-")

_MONTH = (
    "Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    "Nov(?:ember)?|Dec(?:ember)?"
)
_VARIABLE = re.compile(
    r"""(?P<U>https?://\S+|\b[\w.+-]+@[\w-]+\.[\w.]+\b)"""
    r"""|(?P<I>\b[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}\b|\b(?=[0-9a-zA-Z_-]*\d)[0-9a-zA-Z_-]{16,}\b|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b)"""
    r"""|(?P<Q>"[^"\n]{1,400}"|“[^”\n]{1,400}”|«[^»\n]{1,400}»|`[^`\n]{1,400}`|(?<!\w)'[^'\n]{1,400}'(?!\w))"""
    r"""|(?P<D>\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),"""
    rf"""|\b(?:{_MONTH})\b\.?(?=[\s,]+\d)|(?<=\d[\s-])(?:{_MONTH})\b)"""
    r"""|(?P<N>\d[\d.,:/TZ+-]*)"""
)
_SPACE = re.compile(r"\s+")
_TAG = re.compile(r"<(/?)([A-Za-z][\w:.-]{0,40})[^<>\n]{0,200}>")
_LABEL = re.compile(r"^[ \t]*(?:[-*>#]+[ \t]*)?(?:\*\*)?([A-Za-z][\w '/()-]{0,40}?)(?:\*\*)?[ \t]*:(?:\*\*)?(?=\s|$)", re.M)
_HEADING = re.compile(r"^[ \t]*(#{1,6}[ \t]+[^\n]{1,80}|\[\[ ?## ?[\w ]{1,60} ?## ?\]\]|={3,}[^\n=]{0,60}=*|-{3,})[ \t]*$", re.M)
_STRUCTURE = re.compile(f"(?P<tag>{_TAG.pattern})|(?P<label>{_LABEL.pattern})|(?P<heading>{_HEADING.pattern})", re.M)


class Fingerprints:
    """Safe to use from several threads: what is remembered is only ever added or thrown away as a whole."""

    def __init__(self, variable_sections: Iterable[str]) -> None:
        self.sections = frozenset(variable_sections)
        self._known: dict[str, str] = {}

    def of(self, system: str | None, prompt: str | None, template: str | None = None) -> str | None:
        """Sixteen hex digits, or None where there is nothing constant to go by."""
        if template:
            return _digest("T" + _SPACE.sub(" ", template).strip())
        constant = ""
        if system:
            constant = self._known.get(system) or self._remember(system)
        structure = self.structure(prompt) if prompt else ""
        if not constant and not structure:
            return None
        return _digest(f"{constant}\x00{structure}")

    def _remember(self, system: str) -> str:
        if len(self._known) >= CACHE:
            self._known = {}
        found = self._known[system] = self.skeleton(system)
        return found

    def skeleton(self, text: str) -> str:
        """The text without what changes from call to call.

        >>> Fingerprints(["context"]).skeleton("Answer in 3 sentences.\\nContext:\\nParis is big.\\n## Rules\\nBe kind to 'Bob'.")
        'Answer in #N sentences. context: ## Rules Be kind to #Q.'
        """
        text = text[:MAX_CHARS]
        kept: list[str] = []
        at = 0
        for found, name, closes in sorted(self._sections(text)):
            if found < at:
                continue
            kept.append(text[at:found])
            kept.append(f" {name}: ")
            at = closes
        kept.append(text[at:])
        return _SPACE.sub(" ", _VARIABLE.sub(_sign, "".join(kept))).strip()

    def structure(self, text: str) -> str:
        """Labels, headings and tags of a text, in order, each once: the same field filled twice is the same template."""
        seen: dict[str, None] = {}
        for line in text[:MAX_CHARS].splitlines():
            marks: list[str] = []
            # Most lines are prose, and a look for one character is cheaper than a pattern.
            if ":" in line and (label := _LABEL.match(line)):
                marks.append(label[1].strip())
            elif line.lstrip()[:1] in MARKERS and (heading := _HEADING.match(line)):
                marks.append(heading[1].strip())
            if "<" in line:
                marks += [f"<{tag[2]}>" for tag in _TAG.finditer(line) if not tag[1]]
            for mark in marks:
                seen[_VARIABLE.sub(_sign, mark)] = None
        return "|".join(seen)

    def _sections(self, text: str) -> Iterable[tuple[int, str, int]]:
        """Begin, name and end of each variable section."""
        for tag in _TAG.finditer(text):
            name = tag[2].lower().replace("_", " ").replace("-", " ")
            if not tag[1] and (name in self.sections or name.rstrip("s") in self.sections):
                end = text.find(f"</{tag[2]}", tag.end())
                if end > 0:
                    yield tag.start(), name, end
        for label in _LABEL.finditer(text):
            name = label[1].strip().lower().replace("_", " ")
            if name in self.sections:
                yield label.start(), name, self._end(text, label.end())

    def _end(self, text: str, start: int) -> int:
        for mark in _STRUCTURE.finditer(text, start):
            return mark.start()
        return len(text)


def _sign(found: re.Match[str]) -> str:
    return f"#{found.lastgroup}"


def _digest(text: str) -> str:
    return sha256(text.encode(errors="replace")).hexdigest()[:16]
