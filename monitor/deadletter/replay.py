"""What operators do with dead letters: send them through the inbox once more, or drop them for good. Both are recorded.

A letter is resolved in the transaction that stores its record, so a replay that is killed and repeated begins where it
ended. What is refused again stays where it is, open, and the answer says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from monitor.cloudevents import again
from monitor.cloudevents.pairing import SOURCE as EVENTS
from monitor.cloudevents.pairing import Pairs
from monitor.deadletter import letters as deadletters
from monitor.deadletter.letters import NotReplayable
from monitor.deadletter.rescoring import queue_again
from monitor.deadletter.selection import Selection
from monitor.errors import InboxFull, Undone
from monitor.inbox import Answer, Batch, Inbox
from monitor.keys import hash64
from monitor.metrics import Metrics
from monitor.reader import Reader
from monitor.store import Store
from monitor.transaction import Transaction

LETTERS_AT_ONCE = 1_000
BYTES_AT_ONCE = 16 * 2**20
REFUSED_SHOWN = 100
SCORING = "scoring_failed"

_Sent = tuple[Mapping[str, Any], Any]  # a letter, and the event it holds


@dataclass(frozen=True, slots=True)
class Asked:
    """By whom, from where, and why. `by` and `comment` are as they said."""

    by: str
    address: str = ""
    comment: str | None = None


@dataclass(slots=True)
class Outcome:
    """What became of one step. `next` is the `after` of the next one, None when nothing is left."""

    until: int = 0
    next: int | None = None
    matched: int = 0
    replayed: int = 0
    queued: int = 0
    dropped: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)  # id, reason, message

    def as_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("until", "next", "matched", "replayed", "queued", "dropped")},
            "still_refused": len(self.refused),
            "refused_by_reason": dict(Counter(r["reason"] for r in self.refused)),
            "refused": self.refused[:REFUSED_SHOWN],
        }

    def refuse(self, letter: Mapping[str, Any], reason: str, message: str) -> None:
        self.refused.append({"id": letter["seq"], "reason": reason, "message": message})


class Replayer:
    """Any thread may call it; two at once do not get in each other's way. `pairs`: where inference events come in."""

    def __init__(self, store: Store, inbox: Inbox, *, metrics: Metrics, pairs: Pairs | None = None) -> None:
        self._store = store
        self._inbox = inbox
        self._metrics = metrics
        self._pairs = pairs

    def replay(self, chosen: Selection, asked: Asked, *, dry: bool = False) -> Outcome:
        """One step: some of the chosen letters. `dry`: everything is done, and undone instead of committed.

        Raises:
            InboxFull, StoreUnavailable: what was resolved by now stays so; ask for the same again.
        """
        outcome, letters = self._step(chosen, payloads=True)
        scoring = [one for one in letters if one["reason"] == SCORING]
        events, records = self._events_of([one for one in letters if one["reason"] != SCORING], outcome)
        rounds = self._rounds(records, asked, dry, outcome)
        waiting: list[tuple[_Round, Future[Answer]]] = []
        for one in rounds:
            try:
                future = self._inbox.put(one.batch)
            except InboxFull:
                for _, earlier in waiting:  # ours may be all that it is full of
                    earlier.exception()
                future = self._inbox.put(one.batch)
            waiting.append((one, future))
        for one, future in waiting:
            self._count(one, future, outcome)
        if events:
            self._take_events(events, asked, dry, outcome)
        if scoring:
            self._queue(scoring, asked, dry, outcome)
        return outcome

    def drop(self, chosen: Selection, asked: Asked, *, dry: bool = False) -> Outcome:
        """One step. The rows stay; that they were dropped, by whom and why, is another row.

        Raises:
            StoreUnavailable: ask for the same again.
        """
        outcome, letters = self._step(chosen, payloads=False)
        if dry:
            outcome.dropped = len(letters)
            return outcome

        def keep(transaction: Transaction) -> int:
            return self.resolve(transaction, letters, asked, "dropped", None, None)

        outcome.dropped = self._store.run(keep) if letters else 0
        return outcome

    # --- reading ---

    def _step(self, chosen: Selection, *, payloads: bool) -> tuple[Outcome, list[dict[str, Any]]]:
        """The next letters, as many as fit a step."""
        where, values = chosen.where()
        limit = min(chosen.limit or LETTERS_AT_ONCE, LETTERS_AT_ONCE)
        until = chosen.until or self._store.last_seq("deadletters", "")
        with self._store.read() as reader:
            source = reader.source("deadletters", "", after_seq=chosen.after)
            resolved = f"SELECT deadletter_seq FROM {reader.source('resolutions', '')}"
            found = reader.query(
                f"SELECT seq, kind, source, reason, record_id, monitored_model, payload_bytes, received_at, batch_id "
                f"FROM {source} WHERE {where} AND seq <= {until} AND seq NOT IN ({resolved}) ORDER BY seq LIMIT {limit + 1}",
                values,
            )
            letters = _within(found[:limit], BYTES_AT_ONCE) if payloads else found[:limit]
            if payloads and letters:
                _add_payloads(reader, source, letters)
        outcome = Outcome(until=until, matched=len(letters))
        if len(letters) < len(found):
            outcome.next = letters[-1]["seq"]
        return outcome, letters

    # --- records ---

    def _rounds(self, letters: Sequence[Mapping[str, Any]], asked: Asked, dry: bool, outcome: Outcome) -> list[_Round]:
        """Letters that came alike make one batch."""
        rounds: dict[tuple[Any, ...], _Round] = {}
        for letter in letters:
            try:
                items = deadletters.items(letter)
            except NotReplayable as exc:
                outcome.refuse(letter, letter["reason"], str(exc))
                continue
            like = (letter["kind"], letter["source"], letter["monitored_model"], letter["received_at"])
            one = rounds.setdefault(like, _Round(self, letter, asked, dry))
            one.letters.append(letter)
            one.items += items
            one.letter_of += [letter] * len(items)
        return list(rounds.values())

    def _count(self, one: _Round, future: Future[Answer], outcome: Outcome) -> None:
        try:
            answer = future.result()
        except _Resolved:  # by somebody else, in between
            return
        except _Dry as exc:
            answer = exc.answer
        refused = one.refused(answer)
        for seq, reject in refused.items():
            outcome.refused.append({"id": seq, "reason": reject.reason, "message": reject.message})
        outcome.replayed += len(one.letters) - len(refused)

    # --- inference events ---

    def _events_of(self, letters: Sequence[Mapping[str, Any]], outcome: Outcome) -> tuple[list[_Sent], list[Mapping[str, Any]]]:
        """Those that hold an inference event, and the others."""
        events: list[_Sent] = []
        records: list[Mapping[str, Any]] = []
        for letter in letters:
            if self._pairs is None or letter["source"] != EVENTS:
                records.append(letter)
                continue
            try:
                items = deadletters.items(letter)
            except NotReplayable as exc:
                outcome.refuse(letter, letter["reason"], str(exc))
                continue
            if len(items) == 1 and not again.is_record(items[0]):
                events.append((letter, items[0]))
            else:
                records.append(letter)
        return events, records

    def _take_events(self, events: Sequence[_Sent], asked: Asked, dry: bool, outcome: Outcome) -> None:
        """Through the pairing, where they wait for their other half or meet it."""
        assert self._pairs is not None
        by_model: dict[str | None, list[_Sent]] = {}
        for letter, payload in events:
            by_model.setdefault(letter["monitored_model"], []).append((letter, payload))
        for model, some in by_model.items():
            letters = _Events(self, [letter for letter, _ in some], asked, dry)
            revived = [again.revive(i, payload, letter["received_at"]) for i, (letter, payload) in enumerate(some)]
            size = sum(letter["payload_bytes"] or 0 for letter in letters.letters)
            try:
                taken = self._pairs.take(revived, model, size, letters)
            except _Resolved:  # by somebody else, in between
                continue
            refused = {letters.letters[r.index]["seq"]: r for r in taken.rejects}
            for seq, reject in refused.items():
                outcome.refused.append({"id": seq, "reason": reject.reason, "message": reject.message})
            outcome.replayed += len({one["seq"] for one in letters.letters} - refused.keys())

    # --- scores ---

    def _queue(self, letters: Sequence[Mapping[str, Any]], asked: Asked, dry: bool, outcome: Outcome) -> None:
        def keep(transaction: Transaction) -> set[int]:
            queued = queue_again(transaction, letters)
            if dry:
                raise _DryQueue(queued)
            self.resolve(transaction, [one for one in letters if one["seq"] in queued], asked, "replayed", "queued", None)
            return queued

        try:
            queued = self._store.run(keep)
        except _DryQueue as exc:
            queued = exc.queued
        outcome.queued += len(queued)
        for one in letters:
            if one["seq"] not in queued:
                outcome.refuse(one, SCORING, "its generation is not in the store; send it again from where it came")

    # --- on the writer thread ---

    def resolve(
        self,
        transaction: Transaction,
        letters: Sequence[Mapping[str, Any]],
        asked: Asked,
        action: str,
        result: str | None,
        batch_id: str | None,
    ) -> int:
        """Note what became of letters; those that somebody else resolved in between keep what they have."""
        fresh = [one for one, known in zip(letters, _resolved(transaction, letters), strict=True) if not known]
        if not fresh:
            return 0
        keys = [_key(one) for one in fresh]
        first = transaction.append(
            "resolutions",
            "",
            {
                "deadletter_seq": [one["seq"] for one in fresh],
                "reason": [one["reason"] for one in fresh],
                "action": action,
                "result": result,
                "comment": asked.comment,
                "asked_by": asked.by,
                "address": asked.address,
                "received_at": transaction.now,
                "batch_id": batch_id,
                "key_hash": keys,
                "content_hash": keys,
            },
        )
        transaction.put_keys("resolutions", "", keys, keys, first)

        def count() -> None:
            for reason, number in Counter(one["reason"] for one in fresh).items():
                self._metrics.deadletters.labels(reason).dec(number)
                self._metrics.resolved.labels(action, reason).inc(number)

        transaction.count_on_commit(count)
        return len(fresh)


class _Round:
    """Letters of one kind, source, model and arrival on their way through the inbox."""

    def __init__(self, replayer: Replayer, like: Mapping[str, Any], asked: Asked, dry: bool) -> None:
        self._replayer = replayer
        self._asked = asked
        self._dry = dry
        self._like = like
        self.arrived_at: datetime = like["received_at"]
        self.letters: list[Mapping[str, Any]] = []
        self.items: list[Any] = []
        self.letter_of: list[Mapping[str, Any]] = []  # of each item

    @property
    def batch(self) -> Batch:
        size = sum(one["payload_bytes"] or 0 for one in self.letters)
        like = self._like
        return Batch(
            like["kind"], self.items, like["source"], model=like["monitored_model"], size=size, also=self._begin, replay=self
        )

    def refused(self, answer: Answer) -> dict[int, Any]:
        """By letter, why it stays. A body that could not be read may hold many records: one that is refused keeps it."""
        found: dict[int, Any] = {}
        for reject in answer.rejects:
            found.setdefault(self.letter_of[reject.index]["seq"], reject)
        return found

    def settle(self, transaction: Transaction, answer: Answer) -> None:
        if self._dry:
            raise _Dry(answer)
        refused = self.refused(answer)
        taken = [one for one in self.letters if one["seq"] not in refused]
        self._replayer.resolve(transaction, taken, self._asked, "replayed", "taken", answer.batch_id)

    def _begin(self, transaction: Transaction) -> None:
        # Somebody may have dropped them since they were read: then nothing of them is to be stored.
        if any(_resolved(transaction, self.letters)):
            raise _Resolved


class _Events:
    """Letters that hold inference events, one each, on their way through the pairing."""

    def __init__(self, replayer: Replayer, letters: Sequence[Mapping[str, Any]], asked: Asked, dry: bool) -> None:
        self._replayer = replayer
        self._asked = asked
        self.letters = letters
        self.dry = dry

    def taken(self, transaction: Transaction, places: Collection[int]) -> None:
        letters = [self.letters[place] for place in sorted(places)]
        if any(_resolved(transaction, letters)):
            raise _Resolved
        self._replayer.resolve(transaction, letters, self._asked, "replayed", "taken", None)


class _Resolved(Undone):
    """A letter was resolved by somebody else while it was on its way."""


class _Dry(Undone):
    def __init__(self, answer: Answer) -> None:
        super().__init__("a dry run")
        self.answer = answer


class _DryQueue(Undone):
    def __init__(self, queued: set[int]) -> None:
        super().__init__("a dry run")
        self.queued = queued


def _key(letter: Mapping[str, Any]) -> int:
    return hash64("resolution", str(letter["seq"]))


def _resolved(transaction: Transaction, letters: Sequence[Mapping[str, Any]]) -> list[bool]:
    return [found is not None for found in transaction.find("resolutions", "", [_key(one) for one in letters])]


def _within(letters: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The first ones, one at least, whose payloads take at most so many bytes."""
    size = 0
    for place, one in enumerate(letters):
        size += min(one["payload_bytes"] or 0, deadletters.MAX_PAYLOAD)
        if size > most and place:
            return letters[:place]
    return letters


def _add_payloads(reader: Reader, source: str, letters: Sequence[dict[str, Any]]) -> None:
    low, high = letters[0]["seq"], letters[-1]["seq"]
    marks = ", ".join(str(one["seq"]) for one in letters)
    rows = reader.query(
        f"SELECT seq, payload, payload_encoding FROM {source} WHERE seq BETWEEN {low} AND {high} AND seq IN ({marks})"
    )
    payloads = {row["seq"]: row for row in rows}
    for one in letters:
        one |= payloads[one["seq"]]
