"""What the calls of one model cost and took, summed by quarters of an hour.

Exact: the sums are made from the store, and a quarter of an hour is summed anew whenever a call of it was settled, or settled
again with another result. So they are the same after a restart, and late spans restate them. A quarter, because every time zone
of today is off UTC by whole ones, so that its midnights fall between two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from monitor.budgets.config import BudgetConfig
from monitor.reader import Reader

BIN_SECONDS = 900
MOST_RANGES = 20  # asked for one by one; with more of them, what lies between is read as well


@dataclass(frozen=True, slots=True)
class Spent:
    """Of some calls. A call without a cost may have cost anything, so `usd` is the least it was; so with tokens."""

    usd: float = 0.0
    tokens: int = 0
    calls: int = 0
    unpriced: int = 0  # calls that were answered or have tokens, and have no cost
    uncounted: int = 0  # calls that were answered and do not say how many tokens they took

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.usd + other.usd,
            self.tokens + other.tokens,
            self.calls + other.calls,
            self.unpriced + other.unpriced,
            self.uncounted + other.uncounted,
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Calls that no budget tells apart. None: of an environment, or a prompt, that no budget is for."""

    environment: str | None
    prompt: str | None


class Spending:
    """Of one model. One thread."""

    def __init__(self, model: str, budgets: Sequence[BudgetConfig]) -> None:
        self.model = model
        self._environments = sorted({b.environment for b in budgets if b.environment is not None})
        self._prompts = sorted({b.prompt for b in budgets if b.prompt is not None})
        self._bins: dict[int, dict[Group, Spent]] = {}
        self._seq = 0  # rows of `calls` up to here are in the bins
        self._since: int | None = None  # bins from here on are held

    def look(self, reader: Reader, since: datetime) -> None:
        """Take up what is new in the store. `since`: calls of before it are not asked for any more.

        Raises:
            NotEvaluable: some rows lie in a damaged segment; nothing has changed.
            duckdb.Error: the store is away.
        """
        first = int(since.timestamp()) // BIN_SECONDS
        last = reader.last_seq("calls", self.model)
        fresh: dict[int, dict[Group, Spent]] = {}
        with reader.whole():
            if self._since is None or first < self._since:
                fresh = self._read(reader, [(first, None)])
            elif last > self._seq:
                touched = self._touched(reader, first)
                fresh = {start: {} for start in touched} | self._read(reader, _ranges(touched))
        held = self._bins if self._since is not None and first >= self._since else {}
        self._bins = {start: groups for start, groups in (held | fresh).items() if start >= first and groups}
        self._since, self._seq = first, last

    def between(self, start: datetime, end: datetime, environment: str | None, prompt: str | None) -> Spent:
        """Of calls with event time in [start, end), of one environment or all, with one prompt or all."""
        first, after = (int(at.timestamp()) // BIN_SECONDS for at in (start, end))
        total = Spent()
        for at, groups in sorted(self._bins.items()):  # sums of floats depend on their order
            if first <= at < after:
                for group, spent in groups.items():
                    if environment in (None, group.environment) and prompt in (None, group.prompt):
                        total += spent
        return total

    def _touched(self, reader: Reader, first: int) -> list[int]:
        since = datetime.fromtimestamp(first * BIN_SECONDS, UTC)
        calls = reader.source("calls", self.model, since=since, after_seq=self._seq)
        found = reader.query(
            f"SELECT DISTINCT {_bin('event_time')} AS start FROM {calls} WHERE seq > ? AND event_time >= ? ORDER BY start",
            [self._seq, since],
        )
        return [row["start"] for row in found]

    def _read(self, reader: Reader, ranges: Iterable[tuple[int, int | None]]) -> dict[int, dict[Group, Spent]]:
        found: dict[int, dict[Group, Spent]] = {}
        for first, after in ranges:
            for row in self._rows(reader, first, after):
                found.setdefault(row[0], {})[row[1]] = row[2]
        return found

    def _rows(self, reader: Reader, first: int, after: int | None) -> Iterator[tuple[int, Group, Spent]]:
        since = datetime.fromtimestamp(first * BIN_SECONDS, UTC)
        until = None if after is None else datetime.fromtimestamp(after * BIN_SECONDS, UTC)
        calls = reader.source("calls", self.model, since=since, until=until)
        inside = "event_time >= $since AND ($until IS NULL OR event_time < $until)"
        names, joined = "NULL AS environment, NULL AS prompt", ""
        params: dict[str, object] = {"since": since, "until": until}
        if self._environments or self._prompts:
            generations = reader.source("generations", self.model, since=since, until=until)
            joined = (
                f"LEFT JOIN (SELECT record_id, environment, prompt_name FROM {generations} WHERE {inside}) AS g USING (record_id)"
            )
            names = (
                "CASE WHEN list_contains($environments, g.environment) THEN g.environment END AS environment, "
                "CASE WHEN list_contains($prompts, g.prompt_name) THEN g.prompt_name END AS prompt"
            )
            params |= {"environments": self._environments, "prompts": self._prompts}
        latest = (
            f"SELECT * FROM {calls} WHERE {inside} QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
        )
        no_tokens = "c.input_tokens IS NULL AND c.output_tokens IS NULL"
        sql = (
            f"SELECT {_bin('c.event_time')} AS start, {names}, sum(coalesce(c.cost_usd, 0)) AS usd, "
            "sum(coalesce(c.input_tokens, 0) + coalesce(c.output_tokens, 0))::BIGINT AS tokens, count(*) AS calls, "
            f"count(*) FILTER (c.cost_usd IS NULL AND NOT (c.failed AND {no_tokens})) AS unpriced, "
            f"count(*) FILTER ({no_tokens} AND NOT c.failed) AS uncounted "
            f"FROM ({latest}) AS c {joined} WHERE c.counted GROUP BY ALL ORDER BY ALL"
        )
        for row in reader.query(sql, params):
            group = Group(row["environment"], row["prompt"])
            yield row["start"], group, Spent(row["usd"], row["tokens"], row["calls"], row["unpriced"], row["uncounted"])


def _bin(column: str) -> str:
    return f"(epoch_us({column}) // {BIN_SECONDS * 1_000_000})::BIGINT"


def _ranges(bins: Collection[int]) -> list[tuple[int, int | None]]:
    """Runs of neighbours among sorted bins, as [first, after); of too many the one that holds all.

    >>> _ranges([3, 4, 5, 9])
    [(3, 6), (9, 10)]
    """
    found: list[tuple[int, int]] = []
    for start in bins:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], start + 1)
        else:
            found.append((start, start + 1))
    if len(found) > MOST_RANGES:
        found = [(found[0][0], found[-1][1])]
    return [*found]
