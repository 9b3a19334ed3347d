"""What the generations of one trace count for: which are calls of their own, and which of those are one request.

A span of an agent framework often repeats the usage of the call made inside it, a gateway makes the call that a client made
to it, and a failed call is made again. So only the innermost calls count, and calls that were made because another failed
are attempts of one request. What a tool asks of a model is no part of the call that had the tool run. Pure functions of the
rows of a trace: the order in which they came plays no part.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from monitor.keys import hash64

Sort = Literal["llm", "embedding"]

TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
COST = ("cost_usd", "cost_source")
EMBEDDINGS = "embeddings"  # the operation of a generation that is no answer


@dataclass(slots=True)
class Place:
    """Where something stands in its trace: a span, or a generation that was pushed and has no span."""

    record_id: str
    parent: str | None  # span id
    start: int  # microseconds since 1970
    end: int
    tool: bool = False


@dataclass(slots=True)
class Generation:
    """A row of `generations` and where it stands. `input` is a hash of what was asked, None when nothing is known of it."""

    place: Place
    span_id: str
    sort: Sort
    failed: bool
    llm_model: str | None
    values: Mapping[str, Any]  # tokens and cost, as reported
    input: int | None = None
    retry: int | None = None
    fallback: bool | None = None


@dataclass(slots=True)
class Call:
    """What a generation counts for."""

    counted: bool
    request_id: str
    attempt: int = 0
    fallback: bool = False
    values: dict[str, Any] = field(default_factory=dict)


def decide(places: Mapping[str, Place], generations: Sequence[Generation]) -> dict[str, Call]:
    """By record id. `places`: every span of the trace by its id, those of the generations included, as `untangled` gives them."""
    calls: dict[str, Call] = {}
    for sort in ("llm", "embedding"):
        # A retrieval made inside an answer embeds its question: that repeats nothing of the answer.
        if found := [g for g in generations if g.sort == sort]:
            calls |= _of_one_sort(places, found)
    return calls


def untangled(places: dict[str, Place]) -> dict[str, Place]:
    """Without parents that run in a circle: a span on one becomes a root."""
    known: set[str] = set()  # from here on the way up is known to end
    for span_id in places:
        way: dict[str, None] = {}
        step: str | None = span_id
        while step is not None and step in places and step not in known:
            if step in way:
                circle = list(way)
                for one in circle[circle.index(step) :]:
                    places[one].parent = None
                break
            way[step] = None
            step = places[step].parent
        known |= way.keys()
    return places


class Above:
    """The nearest of some spans that stands around a place. `past`: spans beyond which none is looked for."""

    def __init__(self, places: Mapping[str, Place], marked: Container[str], past: Container[str] = ()) -> None:
        self._places = places
        self._marked = marked
        self._past = past
        self._known: dict[str, str | None] = {}  # span -> itself if marked, else the nearest marked one around it

    def of(self, place: Place) -> str | None:
        way, step, found = [], place.parent, None
        while step is not None:
            if step in self._known:
                found = self._known[step]
                break
            way.append(step)
            if step in self._marked:
                found = step
                break
            if step in self._past:
                break
            step = self._places[step].parent if step in self._places else None
        self._known |= dict.fromkeys(way, found)
        return found


@dataclass(slots=True)
class _Request:
    stands_for: Generation
    attempts: list[Generation]
    repeats: list[Generation] = field(default_factory=list)  # what was made around them


def _of_one_sort(places: Mapping[str, Place], generations: Sequence[Generation]) -> dict[str, Call]:
    generations = sorted(generations, key=_order)
    by_span = {g.span_id: g for g in generations}
    # A call that has a tool run repeats nothing of what the tool asks of a model, on its own behalf.
    around = Above(places, by_span, {span_id for span_id, place in places.items() if place.tool})
    above = {g.span_id: around.of(g.place) for g in generations}
    inside: dict[str, list[str]] = {}
    for span_id, outer in above.items():
        if outer is not None:
            inside.setdefault(outer, []).append(span_id)
    values = {g.span_id: plain(g.values) for g in generations}
    requests: dict[str, list[_Request]] = {}
    for span_id in _innermost_first([s for s, outer in above.items() if outer is None], inside):
        below = [request for s in inside.get(span_id, ()) for request in requests.pop(s)]
        requests[span_id] = (
            _around(by_span[span_id], below, values) if below else [_Request(by_span[span_id], [by_span[span_id]])]
        )
    calls = {g.place.record_id: Call(False, g.place.record_id, values=values[g.span_id]) for g in generations}
    for request in _merged([one for found in requests.values() for one in found], beside=True):
        failed: list[str | None] = []
        request_id = request.stands_for.place.record_id
        for position, one in enumerate(request.attempts):
            fallback = bool(one.fallback) or any(llm != one.llm_model for llm in failed)
            calls[one.place.record_id] = Call(True, request_id, max(position, one.retry or 0), fallback, values[one.span_id])
            if one.failed:
                failed.append(one.llm_model)
        for one in request.repeats:
            calls[one.place.record_id].request_id = request_id
    return calls


def _innermost_first(outermost: Iterable[str], inside: Mapping[str, Sequence[str]]) -> list[str]:
    found = list(outermost)
    for span_id in found:
        found += inside.get(span_id, ())
    return found[::-1]


def _around(one: Generation, requests: Sequence[_Request], values: dict[str, dict[str, Any]]) -> list[_Request]:
    """What the requests made inside a call are, seen with it."""
    requests = _merged(requests)
    innermost = [attempt for request in requests for attempt in request.attempts]
    for names in (TOKENS, COST):
        # Some clients count what the call inside them does not: a stream without usage, a cost that only the gateway knows.
        if not any(values[g.span_id][n] is not None for g in innermost for n in names):
            last = max(innermost, key=lambda g: (not g.failed, *_order(g)))
            values[last.span_id] |= {n: values[one.span_id][n] for n in names}
    if len(requests) == 1:
        requests[0].stands_for = one
        requests[0].repeats.append(one)
    return requests


def _merged(requests: Sequence[_Request], beside: bool = False) -> list[_Request]:
    """Those made because the one before failed become one. `beside`: only where both have the same parent."""
    if len(requests) == 1:
        return [*requests]
    merged: list[_Request] = []
    for request in sorted(requests, key=lambda r: _order(r.attempts[0])):
        if (earlier := next((m for m in reversed(merged) if _made_again(m, request, beside)), None)) is None:
            merged.append(request)
        else:
            earlier.attempts += request.attempts
            earlier.repeats += request.repeats
    return merged


def _made_again(earlier: _Request, later: _Request, beside: bool) -> bool:
    last, first = earlier.attempts[-1], later.attempts[0]
    if not last.failed or first.place.start < last.place.end:
        return False
    if beside:
        parent = earlier.stands_for.place.parent
        if parent is None or parent != later.stands_for.place.parent:
            return False
    # Where the content is not recorded nobody can say that they asked for different things.
    return last.input is None or first.input is None or last.input == first.input


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """With cached tokens inside those that went in, also where the sender left them out."""
    found = {name: values.get(name) for name in (*TOKENS, *COST)}
    went_in, cached = found["input_tokens"], (found["cache_read_tokens"] or 0) + (found["cache_write_tokens"] or 0)
    if went_in is not None and cached > went_in:
        found["input_tokens"] = went_in + cached
    return found


def _order(one: Generation) -> tuple[int, int, str]:
    return one.place.start, one.place.end, one.place.record_id


# --- passages ---


@dataclass(slots=True)
class Retrieval:
    """A row of `retrievals` and where it stands. `documents` is its JSON."""

    place: Place
    span_id: str
    reranks: bool
    documents: str | None


@dataclass(frozen=True, slots=True)
class Passage:
    retrieval_id: str
    document_id: str | None
    text: str
    score: float | None
    at: int  # microseconds since 1970

    @property
    def content(self) -> int:
        return hash64(self.retrieval_id, self.document_id or "", self.text)


class Retrieved:
    """The passages that the retrievals of a trace gave, as of any instant of it."""

    def __init__(self, places: Mapping[str, Place], retrievals: Iterable[Retrieval]) -> None:
        self._places = places
        read = [(one, _passages(one)) for one in retrievals]
        self._found = sorted(((one, passages) for one, passages in read if passages), key=lambda f: _ended(f[0].place))

    def before(self, start: int) -> list[Passage]:
        """What had been retrieved by then, each text once, in the order it came."""
        ended = [(one, passages) for one, passages in self._found if one.place.end <= start]
        # A retriever around another, or around a reranker, gives what came of them.
        around = Above(self._places, {one.span_id for one, _ in ended})
        held: list[tuple[int, list[Passage]]] = []
        for one, passages in ended:
            if around.of(one.place) is None:
                if one.reranks:
                    held = [(end, kept) for end, kept in held if end > one.place.start]
                held.append((one.place.end, passages))
        texts: dict[str, Passage] = {}
        for _, kept in held:
            for passage in kept:
                texts.setdefault(passage.text, passage)
        return list(texts.values())


def _ended(place: Place) -> tuple[int, int, str]:
    return place.end, place.start, place.record_id


def _passages(one: Retrieval) -> list[Passage]:
    return [
        Passage(one.place.record_id, d.get("id"), d["text"], d.get("score"), one.place.end)
        for d in (orjson.loads(one.documents) if one.documents else ())
        if d.get("text")
    ]
