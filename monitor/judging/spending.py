"""What the judge was paid, by day: kept in the store, so that a restart does not give the budget anew.

What was called since the last exchange with its process, a quarter of a second before, is lost when that process dies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from detectors.judge import Judge
from detectors.judging.book import Used
from detectors.judging.endpoint import Rates
from monitor.config import Config, JudgeBudget
from monitor.genai import prices

if TYPE_CHECKING:  # reading a config asks for prices here, and needs no engine
    from monitor.reader import Reader
    from monitor.transaction import Transaction


class Spending:
    """Of the current day, by the clock of the budget's time zone. One thread."""

    def __init__(self, budget: JudgeBudget) -> None:
        self._budget = budget
        self._zone = ZoneInfo(budget.timezone)
        self.day = ""
        self.calls = 0
        self.cost_usd = 0.0

    def day_of(self, now: datetime) -> str:
        return now.astimezone(self._zone).date().isoformat()

    def look(self, reader: Reader, now: datetime) -> None:
        """Take up what the store knows of the day."""
        self.day = self.day_of(now)
        found = reader.query(
            "SELECT coalesce(sum(calls), 0)::BIGINT AS calls, coalesce(sum(cost_usd), 0) AS cost FROM judge_spending "
            "WHERE day = ?",
            [self.day],
        )[0]
        self.calls, self.cost_usd = found["calls"], found["cost"]

    def left(self) -> tuple[float, float]:
        """Calls and USD; infinite where there is no limit."""
        calls, usd = self._budget.calls_per_day, self._budget.usd_per_day
        return (
            float("inf") if calls is None else max(calls - self.calls, 0),
            float("inf") if usd is None else max(usd - self.cost_usd, 0.0),
        )

    def shares_left(self) -> dict[str, float]:
        """Of each limit there is, by kind, what is left of it, 0 to 1."""
        limits = {"calls": self._budget.calls_per_day, "usd": self._budget.usd_per_day}
        left = dict(zip(limits, self.left(), strict=True))
        return {kind: left[kind] / limit if limit else 0.0 for kind, limit in limits.items() if limit is not None}

    def write(self, transaction: Transaction, more: Mapping[str, Used]) -> None:
        """Add to the day, by LLM. `committed` has to follow."""
        for model, used in more.items():
            where = "WHERE day = ? AND llm_model = ?"
            before = transaction.query(f"SELECT * FROM judge_spending {where}", [self.day, model])
            transaction.execute(f"DELETE FROM judge_spending {where}", [self.day, model])
            old = before[0] if before else {"calls": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
            transaction.insert(
                "judge_spending",
                {
                    "day": [self.day],
                    "llm_model": [model],
                    "calls": [old["calls"] + used.calls],
                    "input_tokens": [old["input_tokens"] + used.input_tokens],
                    "output_tokens": [old["output_tokens"] + used.output_tokens],
                    "cost_usd": [old["cost_usd"] + used.cost_usd],
                },
            )

    def committed(self, more: Mapping[str, Used]) -> None:
        self.calls += sum(used.calls for used in more.values())
        self.cost_usd += sum(used.cost_usd for used in more.values())


def difference(now: Mapping[str, Used], before: Mapping[str, Used]) -> dict[str, Used]:
    """What was used since `before`, by LLM; those of which nothing was are left out."""
    found: dict[str, Used] = {}
    for model, used in now.items():
        old = before.get(model, Used())
        more = Used(
            used.calls - old.calls,
            used.input_tokens - old.input_tokens,
            used.output_tokens - old.output_tokens,
            used.cost_usd - old.cost_usd,
            used.codes - old.codes,
        )
        if more.calls or more.input_tokens or more.codes:
            found[model] = more
    return found


def judges(config: Config) -> list[str]:
    """The LLMs that may be asked."""
    settings = [check.settings for check in config.checks]
    named = {one.llm_model for one in settings if isinstance(one, Judge.Config) and one.asks and one.llm_model}
    return sorted(named | ({config.judge.model} if config.judge is not None else set()))


def known_prices(config: Config, folder: Path = Path()) -> dict[str, Rates]:
    """By LLM: as the config says, else as the table does. Relative paths begin at `folder`."""
    if config.judge is None:
        return {}
    table = prices.load(folder / config.prices.file if config.prices.file else prices.FILE)
    found = {name: price for name in judges(config) if (price := table.find(None, name)) is not None}
    known = {name: Rates(input=price.input, output=price.output) for name, price in found.items()}
    return known | ({config.judge.model: config.judge.price} if config.judge.price is not None else {})


def unpriced(config: Config, folder: Path) -> Iterator[str]:
    """LLMs whose money cannot be counted, where it is limited: place, what is wrong, and what to do."""
    if config.judge is None or config.judge.budget.usd_per_day is None:
        return
    known = known_prices(config, folder)
    for name in judges(config):
        if name not in known:
            yield (
                f"judge.budget.usd_per_day: nobody knows what {name} costs; give judge.price (of judge.model) or an entry in "
                "prices.file, or limit calls_per_day instead"
            )
