"""What a judge will roughly take: said by `modelwatch check-config`, before anything is paid."""

from __future__ import annotations

from collections.abc import Iterator

from detectors.judge import Judge
from monitor.config import Config
from monitor.judging.spending import known_prices

ANSWERS = 1_000
CONTEXTS = 5  # of an answer
TOKENS = (1_800, 250)  # in and out of a call: the prompts of ragas, with five contexts of a few sentences


def lines(config: Config) -> Iterator[str]:
    """For each check that judges: of a thousand answers, how many calls, and what they cost."""
    if config.judge is None:
        return
    prices = known_prices(config)
    for check in config.checks:
        if not isinstance(settings := check.settings, Judge.Config):
            continue
        scores, each = settings.rate * ANSWERS, settings.calls(CONTEXTS)
        calls = scores * each
        rates = prices.get(settings.llm_model or config.judge.model)
        cost = "at a price nobody knows" if rates is None else f"about {rates.cost(*(round(calls * n) for n in TOKENS)):.3g} USD"
        besides = "".join(f", and those that {one.check} calls unclear" for one in settings.escalate)
        yield (
            f"{check.name}: of {ANSWERS:,} answers about {scores:g} are judged ({settings.metric}, {each} calls each with "
            f"{CONTEXTS} contexts){besides}: about {calls:g} calls, {cost} ({TOKENS[0]:,} tokens in and {TOKENS[1]} out a call)"
        )
    budget = config.judge.budget
    limits = [f"{budget.calls_per_day:,} calls"] if budget.calls_per_day is not None else []
    limits += [f"{budget.usd_per_day:g} USD"] if budget.usd_per_day is not None else []
    yield f"judge: at most {' and '.join(limits)} a day" if limits else "judge: no limit of calls or money; judge.budget sets one"
