"""The rows of an LLM's model as detectors see them: one for each call that counts, with its scores and what was said of it.

Columns are called as in `calls` and `generations`, and

    score.NAME       what the check NAME, or the only check with the detector NAME, scored; none where it gave no value, or one
                     that may not alert
    flagged.NAME     1 where that score is flagged, else 0
    feedback.NAME    mean of the values given under that name, by record, else for its whole trace
    embedding...     vectors: see `monitor.embeddings`
    attributes.KEY   an attribute of the sender's, as text: of the record, else of its span, else of what sent it
    retrieval..., relevance.NAME, support.NAME
                     what was retrieved for it: see `monitor.retrieved`
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from detectors import registry
from detectors.contract import ColumnKind, NotEvaluable
from monitor import embeddings, retrieved, said, windows
from monitor.config import Check
from monitor.embeddings import Decode, Vectors
from monitor.reader import Reader, literal
from monitor.rowchecks import RowCheck
from monitor.schema import quote
from monitor.settling.calls import EMBEDDINGS
from monitor.windows import CLOCKS_DIFFER, TableWindow

NUMBERS = {
    **{
        name: f"c.{name}::DOUBLE"
        for name in (
            "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd",
            "duration_seconds", "time_to_first_token_seconds", "attempt", "failed",
        )
    },
    "context_window_ratio": "c.input_tokens::DOUBLE / g.context_window",
    "question_characters": "length(g.question)::DOUBLE",
    "response_characters": "length(g.response)::DOUBLE",
}  # fmt: skip
TEXTS = {
    "request_id": "c.request_id",
    "llm_model": "coalesce(c.llm_model, g.llm_model)",
    **{
        name: f"g.{name}"
        for name in (
            "model_version", "prompt_name", "prompt_version", "fingerprint", "provider", "operation", "request_model",
            "finish_reason", "error_type", "service", "environment", "release", "agent", "workflow", "gateway", "route",
            "user_id", "conversation_id", "question", "system", "response",
        )
    },
}  # fmt: skip
FEATURES = (
    "input_tokens", "output_tokens", "cost_usd", "duration_seconds", "time_to_first_token_seconds", "question_characters",
    "response_characters", "llm_model", "model_version", "prompt_version", "finish_reason", "error_type",
)  # fmt: skip
"""What `features` stands for, beside the scores of the model's checks."""

LOGS_APART = timedelta(hours=1)  # a log with the question of a call is as old as the call is long

VECTORS = {
    "embedding": "json_extract_string(g.attributes, '$.embedding')",
    **{f"embedding.{name}": f"g.{name}" for name in embeddings.TEXTS},
    **{f"embedding.{name}": "CASE WHEN contains(g.messages, '\"vector\"') THEN g.messages END" for name in embeddings.MEDIA},
}
"""What they are made of: `monitor.embeddings` says how."""

DERIVED = re.compile(r"(score|flagged|feedback|attributes|relevance|support)\.(.+)", re.DOTALL)
OF_SCORES = ("score", "flagged", *retrieved.LISTS)


@dataclass(frozen=True, slots=True)
class Scored:
    """A row check as a column: its scores, and where they are flagged."""

    hash: str
    flag: float
    worse: str
    every_answer: bool = True  # it scores all of them, and soon
    every_claim: bool = False  # its claims tell which passages were used


def scored(checks: Iterable[Check], model: str) -> dict[str, Scored]:
    """The row checks of a model by name, and by their detector where all of that name are alike."""
    found: dict[str, Scored] = {}
    by_detector: dict[str, list[Scored]] = {}
    for check in checks:
        if check.model == model and registry.is_row(registry.load(check.detector)):
            row, detector = RowCheck(check.detector, check.settings), registry.load(check.detector)
            soon, every_claim = not getattr(detector, "judged", False), getattr(detector, "every_claim", False)
            one = Scored(row.hash, row.flag if check.flag is None else check.flag, row.worse, soon, every_claim)
            found[check.name] = one
            by_detector.setdefault(row.name, []).append(one)
    return {**{name: ones[0] for name, ones in by_detector.items() if len({*ones}) == 1}, **found}


class Answers:
    """The `monitor.traffic.Traffic` of an LLM's model. `columns`: detector's name -> name of the column that stands for it."""

    def __init__(
        self,
        model: str,
        inputs: frozenset[str],
        columns: Mapping[str, str],
        scores: Mapping[str, Scored],
        *,
        every_call: bool,
        fields: frozenset[str] = frozenset(),
        encode: Decode | None = None,
        sample_rows: int | None = None,
    ) -> None:
        """`every_call`: calls for embeddings too. `fields` tell the slices of the check apart. `encode` makes vectors of texts.
        `sample_rows`: where only vectors are read, so many rows are enough.

        Raises:
            ValueError: there is no such column; the message says what there is.
        """
        self.model = model
        self._every_call = every_call
        self._encode = encode
        self._renamed = {name: other for name, other in columns.items() if name in inputs}
        wanted = {self._renamed.get(name, name) for name in inputs}
        named = wanted - {"features"}
        if "features" in wanted:
            named |= {*FEATURES, *(f"score.{name}" for name in _once(scores))}
        self.added = fields - named
        self._named = sorted(named | fields)
        only = [name for name in self._named if name in VECTORS]
        self._sample = (only[0], sample_rows) if len(only) == len(self._named) == 1 and sample_rows is not None else None
        self._scores: dict[str, Scored] = {}  # by the name of a check or detector
        for name in self._named:
            self._know(name, scores)
        self._retrieved = [name for name in self._named if retrieved.is_number(name) or retrieved.is_list(name)]
        # Passages that come late have their answer scored again, which is how they are noticed.
        read = {one.hash for one in self._scores.values() if one.every_answer}
        others = {one.hash for one in scores.values() if one.every_answer}
        self._noticed_by = (read or {*sorted(others)[:1]}) if self._retrieved else set()

    def _know(self, name: str, scores: Mapping[str, Scored]) -> None:
        if name in NUMBERS or name in TEXTS or name in VECTORS or retrieved.is_number(name):
            return
        found = DERIVED.fullmatch(name)
        if found is None:
            derived = ("score", "flagged", "feedback", *retrieved.LISTS)
            known = sorted({**NUMBERS, **TEXTS, **VECTORS, **retrieved.NUMBERS})
            there = ", ".join((*known, *(f"{what}.NAME" for what in derived), "attributes.KEY"))
            raise ValueError(f"reads {name!r}, which answers do not have; name a column in `columns`: there are {there}")
        if found[1] in OF_SCORES:
            if found[2] not in scores:
                there = ", ".join(sorted(scores)) or "none"
                raise ValueError(f"reads {name!r}, but {self.model} has no row check {found[2]!r}; there are {there}")
            if found[1] == "support" and not scores[found[2]].every_claim:
                there = ", ".join(sorted(other for other, one in scores.items() if one.every_claim)) or "none"
                raise ValueError(
                    f"reads {name!r}, but {found[2]!r} does not say of every claim which passage it stands in; of those that do "
                    f"(faithfulness, or one's own with every_claim = True) {self.model} has {there}"
                )
            self._scores[found[2]] = scores[found[2]]

    @property
    def identity(self) -> list[str]:
        renamed = (f"{name}={other}" for name, other in sorted(self._renamed.items()))
        return [*self._named, *renamed, *map(repr, sorted(self._scores.items())), str(self._every_call)]

    @property
    def kinds(self) -> tuple[str, ...]:
        feedback = any(name.startswith("feedback.") for name in self._named)
        passages = bool(self._retrieved) and not self._noticed_by
        kinds = {"scores": bool(self.hashes), "contexts": passages, "feedback": feedback}
        return ("calls", *(kind for kind, reads in kinds.items() if reads))

    @property
    def hashes(self) -> tuple[str, ...]:
        return tuple(sorted({one.hash for one in self._scores.values()} | self._noticed_by))

    def features(self, features: Mapping[str, ColumnKind] = {}) -> Mapping[str, ColumnKind]:
        return {name: self._kind(name) for name in self._named if name not in VECTORS}

    @staticmethod
    def _kind(name: str) -> ColumnKind:
        return "category" if name in TEXTS or name.startswith("attributes.") or retrieved.is_list(name) else "number"

    def between(self, reader: Reader, start: datetime, end: datetime, features: Mapping[str, ColumnKind]) -> TableWindow:
        columns = [f"{self._expression(name)} AS {quote(name)}" for name in self._named]
        sample = ""
        if self._sample is not None:
            # By their ids, so that whoever looks again finds the same.
            name, most = self._sample
            sample = f"AND {VECTORS[name]} IS NOT NULL QUALIFY row_number() OVER (ORDER BY md5_number_lower(record_id)) <= {most}"
        kept = "" if self._every_call else f"AND g.operation IS DISTINCT FROM {literal(EMBEDDINGS)}"
        table = reader.table(
            f"SELECT {', '.join(columns) or 'c.seq'} FROM (SELECT * FROM "
            f"{reader.source('calls', self.model, since=start, until=end)} WHERE event_time >= $1 AND event_time < $2 "
            "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1) c "
            f"JOIN {self._generations(reader, start, end)} g USING (record_id) "
            f"{' '.join(self._joins(reader, start, end))} WHERE c.counted {kept} {sample} ORDER BY c.event_time, record_id",
            [start, end],
        )
        return TableWindow(table, self.features(), decoders=self._decoders()).renamed(self._renamed)

    def _decoders(self) -> dict[str, Decode]:
        found: dict[str, Decode] = {}
        for name in self._named:
            if name in VECTORS:
                kind = name.partition(".")[2]
                if kind in embeddings.MEDIA:
                    found[name] = embeddings.of_media(kind)
                elif kind:
                    found[name] = self._encode or _cannot_encode
                else:
                    found[name] = embeddings.sent
        return found

    def _generations(self, reader: Reader, start: datetime, end: datetime) -> str:
        found = reader.source("generations", self.model, since=start, until=end)
        texts = [name for name in said.TEXTS if {name, f"{name}_characters", f"embedding.{name}"} & {*self._named}]
        if not texts:
            return found
        return said.filled(found, reader.source("contents", self.model, since=start - LOGS_APART, until=end + LOGS_APART), texts)

    def from_file(self, reader: Reader, path: Path, features: Mapping[str, ColumnKind]) -> TableWindow:
        return windows.from_file(reader, path, self.features(), self.added).renamed(self._renamed)

    def _expression(self, name: str) -> str:
        if (plain := NUMBERS.get(name) or TEXTS.get(name) or VECTORS.get(name)) is not None:
            return plain
        if name in self._retrieved:
            return retrieved.expression(name)
        what, _, rest = name.partition(".")
        if what == "attributes":
            return attribute(rest)
        if what == "feedback":
            return f"coalesce({quote(name)}.value, {quote(f'{name} of trace')}.value)"
        one, score = self._scores[rest], quote(f"scores {rest}")
        if what == "score":
            return f"{score}.value"
        return f"({score}.value {'<=' if one.worse == 'lower' else '>='} {one.flag!r})::DOUBLE"

    def _joins(self, reader: Reader, start: datetime, end: datetime) -> Sequence[str]:
        of_lists = {name: self._scores[name.partition(".")[2]].hash for name in self._retrieved if retrieved.is_list(name)}
        joins = retrieved.joins(reader, self.model, self._retrieved, of_lists, start, end)
        for name, one in self._scores.items():
            if not {f"score.{name}", f"flagged.{name}"} & {*self._named}:
                continue
            joins.append(
                "LEFT JOIN (SELECT record_id, CASE WHEN flagged IS NOT NULL THEN value END AS value FROM "
                f"{reader.source('scores', self.model, since=start, until=end)} WHERE settings_hash = {literal(one.hash)} "
                "AND event_time >= $1 AND event_time < $2 "
                f"QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1) {quote(f'scores {name}')} "
                "USING (record_id)"
            )
        for name in self._named:
            if name.startswith("feedback."):
                given = (
                    f"(SELECT record_id, trace_id, value FROM "
                    f"{reader.source('feedback', self.model, received_since=start - CLOCKS_DIFFER)} "
                    f"WHERE name = {literal(name.partition('.')[2])} QUALIFY row_number() OVER (PARTITION BY record_id, "
                    "trace_id, source, rater, feedback_id ORDER BY revision DESC) = 1)"
                )
                joins += [
                    f"LEFT JOIN (SELECT record_id, avg(value) AS value FROM {given} WHERE record_id IS NOT NULL "
                    f"GROUP BY record_id) {quote(name)} USING (record_id)",
                    f"LEFT JOIN (SELECT trace_id, avg(value) AS value FROM {given} WHERE record_id IS NULL "
                    f"GROUP BY trace_id) {quote(f'{name} of trace')} ON {quote(f'{name} of trace')}.trace_id = c.trace_id",
                ]
        if any(name.startswith("attributes.") for name in self._named):
            # A generation is made of its span, but may have been pushed, and then has attributes of its own.
            spans = reader.source("spans", self.model, since=start - timedelta(seconds=1), until=end + timedelta(seconds=1))
            joins.append(f"LEFT JOIN (SELECT record_id, attributes, resource FROM {spans}) a USING (record_id)")
        return joins


def told_apart(reader: Reader, model: str, start: datetime, end: datetime, fields: Collection[str]) -> str:
    """SQL of the generations of a window, by record_id, with these fields as text under their names; $1 and $2 are the window.

    Raises:
        ValueError: there is no such field.
    """
    chosen = "".join(f", {text_of(field)} AS {quote(field)}" for field in fields)
    joined = ""
    if any(field.startswith("attributes.") for field in fields):
        spans = reader.source("spans", model, since=start - timedelta(seconds=1), until=end + timedelta(seconds=1))
        joined = f" LEFT JOIN (SELECT record_id, attributes, resource FROM {spans}) a USING (record_id)"
    generations = reader.source("generations", model, since=start, until=end)
    return f"(SELECT record_id{chosen} FROM {generations} g{joined} WHERE g.event_time >= $1 AND g.event_time < $2)"


def text_of(field: str, *, spans: bool = True) -> str:
    """SQL of a field of a generation, of the alias g, as text; with `spans`, attributes are also those of its span, alias a."""
    if field == "llm_model":
        return "coalesce(g.llm_model, g.request_model)"
    if (plain := TEXTS.get(field)) is not None and plain.startswith("g."):
        return plain
    what, _, key = field.partition(".")
    if what != "attributes" or not key:
        there = ", ".join((*sorted(name for name, one in TEXTS.items() if one.startswith("g.")), "llm_model", "attributes.KEY"))
        raise ValueError(f"slices by {field!r}, which answers do not have; there are {there}")
    return attribute(key, ("g.attributes", "a.attributes", "a.resource") if spans else ("g.attributes",))


def attribute(key: str, places: Sequence[str] = ("g.attributes", "a.attributes", "a.resource")) -> str:
    path = literal(f"$.{quote(key)}")
    return f"coalesce({', '.join(f'json_extract_string({place}, {path})' for place in places)})"


def _cannot_encode(texts: Sequence[str | None]) -> Vectors:
    raise NotEvaluable("missing_column", "there is no encoder here to make vectors of texts")


def _once(scores: Mapping[str, Scored]) -> list[str]:
    """A name for each score, the check's rather than its detector's."""
    return sorted({one: name for name, one in scores.items()}.values())
