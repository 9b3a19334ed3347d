"""HTML and SVG as trees of elements, so that whatever stands in the data is text and never markup."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring


def plain(text: str, longest: int = 200) -> str:
    r"""What may stand on a page: printable, and not endless.

    >>> plain("a\x00b\u202ec")
    'a\\x00b\\u202ec'
    >>> plain("a long story", 6)
    'a lon…'
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def add(parent: Element, tag: str, text: str | None = None, /, **attributes: object) -> Element:
    """A child of `parent`. An attribute's underscores are hyphens, but for a trailing one, which is dropped (`class_`)."""
    made = SubElement(parent, tag, {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()})
    if text is not None:
        made.text = plain(text, 2000)
    return made


def page(title: str, style: str) -> tuple[Element, Element]:
    """The whole page and its body. It may load nothing and run nothing, whatever comes to stand in it."""
    root = Element("html", {"lang": "en"})
    head = SubElement(root, "head")
    add(head, "meta", charset="utf-8")
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    SubElement(head, "meta", policy)
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "meta", name="color-scheme", content="light dark")
    add(head, "title", title)
    SubElement(head, "style").text = style
    return root, SubElement(root, "body")


def written(root: Element) -> str:
    """As HTML. Lone surrogates, which no encoding has, become question marks."""
    # Written as XML, since as HTML a "<" stays one in attributes; an element without content gets its end tag, as HTML wants it.
    text = tostring(root, encoding="unicode", short_empty_elements=False)
    return "<!DOCTYPE html>\n" + text.encode("utf-8", "replace").decode("utf-8") + "\n"
