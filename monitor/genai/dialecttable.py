"""The table of dialects.yaml, turned once into a dictionary from attribute key to what it means.

Reading a span is one pass over the keys it has, however many the table knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitor.genai import values, yamltable
from monitor.genai.messages import literal, parsed

FILE = Path(__file__).with_name("dialects.yaml")
LATER = 1000  # added to the rank of what an event says: attributes of the span itself come first
WITHIN = 500  # rank of what was found in a JSON object
LAST = 1 << 30
MAX_INDEX_DIGITS = 6
MAX_PATH = 24

NOT_COLUMNS = frozenset(
    {"template", "level", "first_chunk_time", "error_type", "gateway", "route"}
)  # read, not stored as they are
KNOWN = 8192  # keys whose path is remembered

Rule = tuple[str, int, Callable[[Any], Any]]
Steps = tuple[str, tuple[int | str, ...]]
UNSEEN: Any = object()
READERS: dict[str, Callable[[Any], Any]] = {
    "text": values.name,
    "resource": values.name,
    "count": values.count,
    "number": values.amount,
    "flag": values.flag,
}


@dataclass(slots=True)
class Reading:
    """What one pass over the attributes has found."""

    values: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    input: list[tuple[int, str, Any]] = field(default_factory=list)  # rank, key or prefix, value
    output: list[tuple[int, str, Any]] = field(default_factory=list)
    objects: list[tuple[str, Any]] = field(default_factory=list)
    trees: dict[str, dict[Any, Any]] = field(default_factory=dict)  # by prefix: indexed keys as nested dictionaries
    parsed: dict[str, Any] = field(default_factory=dict)  # by key: JSON that was read already
    usage: dict[str, str] = field(default_factory=dict)  # key of a usage object -> the name in it that gave the input tokens

    def put(self, name: str, rank: int, value: Any) -> None:
        if value is not None and rank < self.ranks.get(name, LAST):
            self.values[name], self.ranks[name] = value, rank


class Table:
    """Raises OSError, yaml.YAMLError or KeyError where the file is none of this kind; it ships with the package."""

    def __init__(self, file: Path = FILE) -> None:
        self.raw: dict[str, Any] = yamltable.read(file)
        t = self.raw
        self.types: list[tuple[str, dict[str, str]]] = [(entry["key"], entry["values"]) for entry in t["span_type"]]
        self.presence: list[tuple[str, frozenset[str], tuple[str, ...]]] = [
            (e["type"], frozenset(e["keys"]), tuple(e.get("prefixes", ()))) for e in t["span_type_by_presence"]
        ]
        self.objects = {
            key: tuple((tuple(path.split("/")), name) for path, name in paths.items()) for key, paths in t["objects"].items()
        }
        self.objects_first = frozenset(t["objects_first"])
        self.events: dict[str, tuple[str, str]] = {}  # name of an event -> what it is, and of which role or key
        for purpose, names in t["events"].items():
            for name in names:
                self.events[name] = (purpose, names[name] if isinstance(names, dict) else "")
        for name in t["retrieval"]["result_events"]:
            self.events[name] = ("document", "")
        self.event_ranks = {side: next(i for i, s in enumerate(t[side]) if s.get("events")) for side in ("input", "output")}
        self.forms = {s["key"]: s["form"] for side in ("input", "output") for s in t[side] if "form" in s}
        self.beside = {s["key"]: tuple(s["with"]) for side in ("input", "output") for s in t[side] if "with" in s}
        self.readers = {name: read for kind, read in READERS.items() for name in t[kind]}
        self.prefixes: dict[str, tuple[str, int]] = {}  # of indexed keys -> side and rank
        self.rules = self._rules()
        self.columns = frozenset(t["text"]) - NOT_COLUMNS
        self._paths: dict[str, Steps | None] = {}
        self.starts = tuple(self.prefixes)
        # One look at the first word says whether a key can be an indexed one at all.
        self.first_words = frozenset(p.partition(".")[0] for p in self.prefixes)

    def _rules(self) -> dict[str, tuple[Rule, ...]]:
        t = self.raw
        rules: dict[str, list[Rule]] = {}

        def add(name: str, keys: list[str], read: Callable[[Any], Any]) -> None:
            for rank, key in enumerate(keys):
                rules.setdefault(key, []).append((name, rank, read))

        for kind, read in READERS.items():
            for name, keys in t[kind].items():
                add(name, keys, read)
        for side in ("input", "output"):
            for rank, source in enumerate(t[side]):
                if "key" in source:
                    rules.setdefault(source["key"], []).append((f"<{side}", rank, values.as_is))
                elif "prefix" in source:
                    self.prefixes[source["prefix"]] = (f"<{side}", rank)
                for key in source.get("with", ()):
                    add(key, [key], values.as_is)
        add("system_parts", t["system"], values.as_is)
        add("address", t["address_keys"], values.name)
        for key in t["objects"]:
            rules.setdefault(key, []).append(("<object", 0, values.as_is))
        for kind, names in (("tool", ("name", "id", "arguments", "result")),
                            ("retrieval", ("query", "collection", "top_k", "hits", "system", "operation", "document_keys",
                                           "output_keys"))):  # fmt: skip
            for name in names:
                add(f"{kind}.{name}", t[kind][name], values.as_is)
        for key in ("input.mime_type", "gen_ai.evaluation.name"):
            add(key, [key], values.name)
        for prefix in (*t["retrieval"]["document_prefixes"], *t["annotation_prefixes"]):
            self.prefixes.setdefault(prefix, ("<tree", 0))
        return {key: tuple(found) for key, found in rules.items()}

    def collect(self, attributes: Mapping[str, Any], reading: Reading, later: int = 0) -> None:
        """One pass over the attributes of a span, an event or a log record."""
        rules, found, ranks = self.rules, reading.values, reading.ranks
        for key, value in attributes.items():
            known = rules.get(key)
            if known is not None:
                for name, rank, read in known:
                    if name[0] == "<":
                        if value:
                            self._source(name, rank + later, key, value, reading)
                    elif rank + later < ranks.get(name, LAST):
                        one = read(value)
                        if one is not None:
                            found[name], ranks[name] = one, rank + later
            else:
                path = self._paths.get(key, UNSEEN)
                if path is UNSEEN:
                    path = self._path(key)
                if path is not None:
                    self._branch(path, value, reading)

    @staticmethod
    def _source(name: str, rank: int, key: str, value: Any, reading: Reading) -> None:
        if name == "<object":
            reading.objects.append((key, value))
        elif name == "<input":
            reading.input.append((rank, key, value))
        else:
            reading.output.append((rank, key, value))

    def _path(self, key: str) -> Steps | None:
        """Prefix and steps of an indexed key, None for every other; remembered, as the same keys come with every span."""
        found: Steps | None = None
        if key.partition(".")[0] in self.first_words and key.startswith(self.starts):
            prefix = next(p for p in self.starts if key.startswith(p))
            words = key[len(prefix) :].split(".", MAX_PATH)
            steps = tuple(int(w) if w.isdecimal() and len(w) <= MAX_INDEX_DIGITS else w for w in words)
            if isinstance(steps[0], int) and len(steps) <= MAX_PATH:
                found = (prefix, steps)
        if len(self._paths) >= KNOWN:  # keys come from outside and may be without end
            self._paths = {}
        self._paths[key] = found
        return found

    def _branch(self, path: Steps, value: Any, reading: Reading) -> None:
        """Put `llm.input_messages.0.message.role` where it belongs in the tree of `llm.input_messages.`."""
        prefix, steps = path
        tree = reading.trees.get(prefix)
        if tree is None:
            tree = reading.trees[prefix] = {}
            side, rank = self.prefixes[prefix]
            if side != "<tree":
                (reading.input if side == "<input" else reading.output).append((rank, prefix, tree))
        node = tree
        for step in steps[:-1]:
            inner = node.get(step)
            if not isinstance(inner, dict):
                inner = node[step] = {}
            node = inner
        if not isinstance(node.get(steps[-1]), dict):
            node[steps[-1]] = value

    def unfold(self, reading: Reading) -> None:
        """Read the fields that hide in JSON objects, behind those that came by a key of their own."""
        for key, value in reading.objects:
            paths, first = self.objects[key], key in self.objects_first
            if not first and all(name in reading.values for _, name in paths):
                continue
            whole = literal(parsed(value))
            if not isinstance(whole, dict):
                continue
            reading.parsed[key] = whole
            for path, name in paths:
                inner: Any = whole
                for step in path:
                    inner = inner.get(step) if isinstance(inner, dict) else None
                if inner is None:
                    continue
                one = self.readers[name](inner)
                if name == "input_tokens" and one is not None and name not in reading.values:
                    reading.usage[key] = path[0]
                reading.put(name, 1 if first else WITHIN, one)
