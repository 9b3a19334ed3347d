"""Has answers judged: takes what waits, hands it to the judge's process, and writes what came of it.

`judging` rows are the cursor: one for each (record, input revision, judge's settings) that waits. It is deleted in the
transaction that writes its score, so each has one score, whatever dies in between; what was asked before may be paid twice. What
the judge could not be asked is put off, and after `give_up_seconds` it is not evaluable.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import duckdb

from detectors.contract import NotEvaluable, Score
from detectors.judging.book import PUT_OFF, Used
from detectors.judging.engine import PutOff, Verdict
from monitor import log
from monitor.child import Child, Remote
from monitor.clock import Clock
from monitor.config import Config, JudgeConfig
from monitor.embeddings import Encoding
from monitor.errors import ChildAway, ChildFailed, StoreError
from monitor.judging.process import Exchange, Item, Key, Progress
from monitor.judging.rows import read
from monitor.judging.selection import SAMPLED, JudgeCheck, judge_checks
from monitor.judging.spending import Spending, difference, judges, known_prices
from monitor.metrics import Metrics
from monitor.reader import Reader
from monitor.scoring import Scoring, append
from monitor.store import Store
from monitor.transaction import Transaction

IDLE_SECONDS = 0.2
WAIT_SECONDS = 0.25  # for something to be done, in one exchange
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 30.0  # the process answers at once, unless it imports ragas
BACKOFF_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0)
AWAY_SECONDS = 3_600.0  # until a record in a damaged segment is read again
GIVEN_UP_AT_ONCE = 200  # of those that have waited too long: faster than they come
ATTEMPTS = 3  # of a score that came to no end in its time, or with which the process died
ONE = "place = ? AND settings_hash = ? AND revision = ?"
Checks = Mapping[str, Mapping[str, JudgeCheck]]  # by model and settings hash


@dataclass(frozen=True, slots=True)
class Waiting:
    """One that is with the judge."""

    work: Mapping[str, Any]  # its row of `judging`
    row: Mapping[str, Any]


class Judging:
    """One thread. `step` is one exchange with the judge's process."""

    def __init__(self, config: Config, store: Store, child: Child, encode: Encoding, *, clock: Clock, metrics: Metrics) -> None:
        assert config.judge is not None
        self._judge: JudgeConfig = config.judge
        self._store = store
        self._child = child
        self._encode = encode
        self._clock = clock
        self._metrics = metrics
        self._spending = Spending(config.judge.budget)
        self._waiting: dict[Key, Waiting] = {}
        self._suspects: set[Key] = set()  # with the process when it died
        self._vectors: dict[int, Any] = {}
        self._last: Progress | None = None
        self._done: list[tuple[Key, Verdict]] = []  # and not written yet
        self._stop = threading.Event()
        self.configure(config)
        for reason in PUT_OFF:
            metrics.judge_put_off.labels(reason).inc(0)
        for model in judges(config):  # so that the first call is an increase, too
            for counter in (metrics.judge_input, metrics.judge_output, metrics.judge_cost):
                counter.labels(model).inc(0)
        self._thread = threading.Thread(target=self._run, name="judging", daemon=True)

    def configure(self, config: Config) -> None:
        self._prices = known_prices(config)
        self._checks: Checks = {model: {check.hash: check for check in checks} for model, checks in judge_checks(config).items()}
        for model, checks in self._checks.items():
            for check in checks.values():
                self._metrics.evaluations.labels(model, check.name).inc(0)
                self._metrics.flagged.labels(model, check.name).inc(0)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        waiting = log.Lasting(self._clock.monotonic)
        while not self._stop.is_set():
            try:
                done = self.step()
                waiting.over("judging goes on")
            except (StoreError, duckdb.Error) as exc:
                waiting.warning("judging waits for the store", error=exc)
                done = 0
                self._stop.wait(RETRY_SECONDS)
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                log.error("judging failed and is tried again", exc)
                done = 0
                self._stop.wait(RETRY_SECONDS)
            if not done and not self._waiting:
                self._stop.wait(IDLE_SECONDS)

    def step(self) -> int:
        """Hand over what is due, write what is done, and return how many are done with."""
        self._look()
        given_up = self._give_up()
        items = self._take()
        if not items and not self._waiting and self._last is not None:
            return given_up
        progress = self._exchange(items)
        if progress is None:
            return given_up
        return given_up + self._commit(progress)

    # --- what is due ---

    def _look(self) -> None:
        """The day's budget, and how much waits."""
        now = self._clock.now()
        with self._store.read() as reader:
            self._spending.look(reader, now)
            found = reader.query("SELECT count(*) AS n, min(queued_at) AS oldest FROM judging")[0]
        m = self._metrics
        m.queue_records.labels("judging").set(found["n"])
        m.queue_oldest.labels("judging").set((found["oldest"] or now).timestamp())
        for kind, share in self._spending.shares_left().items():
            m.judge_budget.labels(kind).set(share)

    def _give_up(self) -> int:
        """End what has waited too long, many at once: so the queue of an endpoint that is down has a bound."""
        now = self._clock.now()
        late = now - timedelta(seconds=self._judge.give_up_seconds)
        with self._store.read() as reader:
            due = [
                work
                for work in reader.query(
                    "SELECT * FROM judging WHERE due_at <= ? AND queued_at <= ? ORDER BY queued_at, seq, settings_hash LIMIT ?",
                    [now, late, GIVEN_UP_AT_ONCE + len(self._waiting)],
                )
                if _key(work) not in self._waiting
            ]
            found, away, _ = self._readable(reader, due) if due else ([], [], [])
        ends = [(work, row, _given_up()) for work, row in found]
        ends += [(work, {**work, "trace_id": None}, _unread()) for work in away]  # nothing of it is left but its place here
        if ends:
            self._waiting |= {_key(work): Waiting(work, row) for work, row, _ in ends}
            self._finish([(_key(work), score, 0.0) for work, _, score in ends], {})
        return len(ends)

    def _readable(
        self, reader: Reader, works: Sequence[Mapping[str, Any]]
    ) -> tuple[list[tuple[Mapping[str, Any], dict[str, Any]]], list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """Those that can be read, with their rows; those that cannot for now; and those whose checks are gone."""
        checks = self._checks
        known = [work for work in works if work["settings_hash"] in checks.get(work["model"], {})]
        found, away = read(reader, known, {h: c.config for of_model in checks.values() for h, c in of_model.items()})
        return found, away, [work for work in works if work["settings_hash"] not in checks.get(work["model"], {})]

    def _take(self) -> list[Item]:
        """As many of those that are due as the judge can have under way."""
        checks = self._checks
        room = 2 * self._judge.concurrency - len(self._waiting)
        if room <= 0 or not self._suspects.isdisjoint(self._waiting):
            return []
        now = self._clock.now()
        with self._store.read() as reader:
            due = [
                work
                for work in reader.query(
                    "SELECT * FROM judging WHERE due_at <= ? ORDER BY due_at, seq, settings_hash LIMIT ?",
                    [now, room + len(self._waiting)],
                )
                if _key(work) not in self._waiting
            ]
            found, away, gone = self._readable(reader, due)
        if gone:
            self._drop(gone)
        if away:
            self._put_off([(work, AWAY_SECONDS) for work in away])
        if suspects := [one for one in found if _key(one[0]) in self._suspects]:
            found = [] if self._waiting else suspects[:1]  # alone, so that it takes no other with it
        items: list[Item] = []
        for work, row in found[:room]:
            if (check := checks.get(work["model"], {}).get(work["settings_hash"])) is not None:
                items.append(Item(_key(work), check.spec.settings, row))
                self._waiting[_key(work)] = Waiting(work, row)
        return items

    def _drop(self, works: Sequence[Mapping[str, Any]]) -> None:
        self._store.run(lambda t: _delete(t, works))

    # --- the judge's process ---

    def _exchange(self, items: Sequence[Item]) -> Progress | None:
        last, (calls, usd) = self._last, self._spending.left()
        born = last.born if last is not None else None
        exchange = Exchange(
            born,
            tuple(items) if born is not None else (),
            most_calls=(last.calls if last else 0) + calls,
            most_usd=(last.cost_usd if last else 0.0) + usd,
            prices=self._prices,
            vectors=self._vectors,
            wait_seconds=WAIT_SECONDS if last is not None and not self._stop.is_set() else 0.0,
        )
        try:
            progress: Progress = self._child.call(exchange, ANSWER_SECONDS)
        except ChildAway:
            self._begin_anew()
            self._stop.wait(IDLE_SECONDS)
            return None
        except (ChildFailed, Remote) as exc:
            if not self._stop.is_set():
                log.warning("the judge's process failed; what it had in hand is tried again", error=exc)
                self._died()
            return None
        self._done += progress.done  # before anything can fail: it will not be said again
        self._vectors = {number: self._encoded(texts) for number, texts in progress.wanted.items()}
        if progress.born != born:  # it has seen none of what was handed over
            self._last = progress
            self._waiting.clear()
            return None
        return progress

    def _encoded(self, texts: Sequence[str]) -> Any:
        try:
            return self._encode(texts).tolist()
        except (ChildAway, ChildFailed, Remote, NotEvaluable):
            return None

    def _begin_anew(self) -> None:
        self._last = None
        self._done = []
        self._vectors = {}
        self._waiting.clear()

    def _died(self) -> None:
        """What was with it is tried again, each alone as one of them may be what it died of, and after some times set aside."""
        works = list(self._waiting.values())
        self._suspects.update(self._waiting)
        self._begin_anew()
        again = [one.work for one in works if one.work["attempts"] + 1 < ATTEMPTS]
        if again:
            self._put_off([(work, RETRY_SECONDS) for work in again], attempts=1)
        for one in works:
            if one.work["attempts"] + 1 >= ATTEMPTS:
                key = _key(one.work)
                self._waiting[key] = one
                self._finish([(key, Score.failed("judge_died", error="the judge's process died with it in hand"), 0.0)], {})

    # --- what came of it ---

    def _commit(self, progress: Progress) -> int:
        before = self._last
        assert before is not None
        used = difference(progress.used, before.used)
        finished: list[tuple[Key, Score, float]] = []
        later: list[tuple[Mapping[str, Any], float]] = []
        tried: list[tuple[Mapping[str, Any], float]] = []
        reasons: Counter[str] = Counter()
        self._waiting = {
            key: one for key, one in self._waiting.items() if key in progress.under_way or any(key == k for k, _ in self._done)
        }
        for key, verdict in self._done:
            if (one := self._waiting.get(key)) is None:
                continue
            score = self._score(one, verdict)
            if isinstance(score, Score):
                finished.append((key, score, verdict.seconds))
                continue
            pause = max(score.retry_seconds, BACKOFF_SECONDS[min(one.work["attempts"], len(BACKOFF_SECONDS) - 1)])
            # Only what may be the fault of the record counts against it: an endpoint that was down does not.
            (tried if score.reason == "time_limit" else later).append((one.work, pause))
            reasons[score.reason] += 1
        if finished or used:
            self._finish(finished, used)
        self._last = replace(progress, done=())
        if tried:
            self._put_off(tried, attempts=1)
        if later:
            self._put_off(later)
        for key, _ in self._done:
            self._waiting.pop(key, None)
            self._suspects.discard(key)
        self._done = []
        for reason, n in reasons.items():
            self._metrics.judge_put_off.labels(reason).inc(n)
        self._metrics.judge_up.labels(self._judge.model).set(progress.up)
        if progress.closed_seconds > 0:
            self._pause(progress.closed_seconds)
        return len(finished)

    def _score(self, one: Waiting, verdict: Verdict) -> Score | PutOff:
        """Its score, or that it is put off: within limits."""
        score = verdict.score
        if isinstance(score, PutOff):
            if score.reason == "time_limit" and one.work["attempts"] + 1 >= ATTEMPTS:
                return Score.failed("time_limit", error=score.said)
            if self._clock.now() - one.work["queued_at"] >= timedelta(seconds=self._judge.give_up_seconds):
                return _given_up(f"{score.reason}: {score.said}")
        return score

    def _finish(self, finished: Sequence[tuple[Key, Score, float]], used: Mapping[str, Used]) -> None:
        """Write scores, take them off the queue, and book what was used: one transaction."""
        there: list[tuple[Key, Score, float]] = []
        checks = self._checks  # those of one config, also where another one comes in between

        def keep(transaction: Transaction) -> None:
            there[:] = self._unchanged(transaction, finished, checks)
            groups: dict[tuple[str, str], list[tuple[Key, Score, float]]] = {}
            for one in there:
                groups.setdefault((one[0][0], one[0][1]), []).append(one)
            for (model, hash_), group in groups.items():
                check = checks[model][hash_]
                rows = [dict(self._waiting[key].row) for key, _, _ in group]
                scores = [self._labelled(check, key, score) for key, score, _ in group]
                append(transaction, model, check, rows, scores, range(len(rows)), "endpoint")
            _delete(transaction, [self._waiting[key].work for key, _, _ in there])
            if used:
                self._spending.write(transaction, used)

        self._store.run(keep)
        self._spending.committed(used)
        for key, score, seconds in there:
            check = checks[key[0]][key[1]]
            Scoring.count(self._metrics, key[0], check, self._labelled(check, key, score), self._waiting[key].row["trace_id"])
            if seconds:
                self._metrics.judge_duration.observe(seconds)
        for key, _, _ in finished:
            self._waiting.pop(key, None)
            self._suspects.discard(key)
        self._book(used)

    def _labelled(self, check: JudgeCheck, key: Key, score: Score) -> Score:
        """With why it was judged. Beside a sample, those that a local check was unsure of are stored and alert nobody: they would
        make the share of the bad one of the doubtful."""
        why = self._waiting[key].work["why"]
        return replace(score, stage=why, may_alert=why == SAMPLED or not check.config.rate)

    def _unchanged(
        self, transaction: Transaction, finished: Sequence[tuple[Key, Score, float]], checks: Checks
    ) -> list[tuple[Key, Score, float]]:
        """Those that still wait under the input that was judged, and whose check is still there."""
        places = sorted({self._waiting[key].work["place"] for key, _, _ in finished})
        if not places:
            return []
        marks = ", ".join("?" * len(places))
        now = {_key(work) for work in transaction.query(f"SELECT * FROM judging WHERE place IN ({marks})", places)}
        return [one for one in finished if one[0] in now and one[0][1] in checks.get(one[0][0], {})]

    def _book(self, used: Mapping[str, Used]) -> None:
        m = self._metrics
        for model, more in used.items():
            for code, n in more.codes.items():
                m.judge_calls.labels(model, code).inc(n)
            m.judge_input.labels(model).inc(more.input_tokens)
            m.judge_output.labels(model).inc(more.output_tokens)
            m.judge_cost.labels(model).inc(max(more.cost_usd, 0.0))

    # --- later ---

    def _put_off(self, works: Sequence[tuple[Mapping[str, Any], float]], *, attempts: int = 0) -> None:
        now = self._clock.now()

        def keep(transaction: Transaction) -> None:
            for work, seconds in works:
                transaction.execute(
                    f"UPDATE judging SET due_at = ?, attempts = attempts + ? WHERE {ONE}",
                    [now + timedelta(seconds=seconds), attempts, *_one(work)],
                )

        self._store.run(keep)

    def _pause(self, seconds: float) -> None:
        """Nobody asks for so long: what is due and would ask waits, and no window waits for it."""
        now = self._clock.now()
        until = now + timedelta(seconds=seconds)
        asking = sorted({h for of_model in self._checks.values() for h, check in of_model.items() if check.config.asks})
        marks = ", ".join("?" * len(asking))
        if asking:
            due = f"due_at <= ? AND settings_hash IN ({marks})"
            self._store.run(lambda t: t.execute(f"UPDATE judging SET due_at = ? WHERE {due}", [until, now, *asking]))


def _key(work: Mapping[str, Any]) -> Key:
    return work["model"], work["settings_hash"], work["record_id"], work["revision"]


def _given_up(error: str = "it has waited longer than give_up_seconds") -> Score:
    return Score.not_evaluable("judge_unavailable", error=error[:500])


def _unread() -> Score:
    return Score.not_evaluable("rows_unavailable", error="what was stored of it could not be read for give_up_seconds")


def _delete(transaction: Transaction, works: Sequence[Mapping[str, Any]]) -> None:
    for work in works:
        transaction.execute(f"DELETE FROM judging WHERE {ONE}", _one(work))


def _one(work: Mapping[str, Any]) -> list[Any]:
    return [work["place"], work["settings_hash"], work["revision"]]
