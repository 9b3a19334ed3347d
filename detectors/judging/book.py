"""What was spent on an endpoint, what may be, and whether it is worth asking at all.

A `Book` lives in one event loop. Its totals only grow; limits are on totals, so that whoever sets them need not stop the loop to
do so. A call is made only where even its dearest end fits: a token for each byte of the prompt, and `max_tokens` answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from detectors.judging.endpoint import EndpointConfig, Prices

IN_A_ROW = 3  # failures after which nothing is asked for a while
PAUSE_SECONDS = (5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

PUT_OFF = frozenset({"rate_limited", "unreachable", "unauthorised", "server_error", "not_found", "rejected_all", "time_limit"})
"""Reasons that are no fault of the record: it is tried again later."""


class Stopped(BaseException):
    """The score ends here. A `BaseException`, because ragas takes any `Exception` for a reason to ask again."""

    def __init__(self, reason: str, said: str = "", *, retry_seconds: float | None = None) -> None:
        super().__init__(f"{reason}: {said}" if said else reason)
        self.reason = reason
        self.said = said
        self.retry_seconds = retry_seconds


@dataclass(slots=True)
class Used:
    """By one LLM, since the book began. `codes`: its calls by HTTP status, `timeout` or `connection`."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Meter:
    """Of one score."""

    model: str
    deadline: float
    reserved: int  # calls that were set aside for it and not made yet
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    answered_by: str | None = None
    estimated: bool = False  # an answer did not say how many tokens it took
    unread: int = 0  # answers that were not of the wanted form


METER: ContextVar[Meter] = ContextVar("meter")


class Book:
    def __init__(self, endpoint: EndpointConfig, prices: Prices, monotonic: Callable[[], float]) -> None:
        self._endpoint = endpoint
        self.prices = prices
        self._monotonic = monotonic
        self.used: dict[str, Used] = {}
        self.calls = 0
        self.cost_usd = 0.0
        self.most_calls: float = float("inf")
        self.most_usd: float = float("inf")
        self.answered = False  # it has given an answer at least once
        self._set_aside = 0
        self._at_stake = 0.0
        self._failures = 0
        self._open_until = 0.0
        self._gate_until = 0.0

    # --- before a score ---

    def admit(self, calls: int) -> Stopped | None:
        """Set aside what a score takes, or say why it cannot begin."""
        if (pause := self.closed_for()) > 0:
            return Stopped("unreachable", "not asked: the calls before this one failed", retry_seconds=pause)
        if calls and (self.calls + self._set_aside + calls > self.most_calls or self.cost_usd + self._at_stake >= self.most_usd):
            return Stopped("budget_spent")
        if self._failures >= IN_A_ROW:  # this one looks whether the endpoint is back; the others wait for what it finds
            self._open_until = self._monotonic() + self._endpoint.call_seconds
        self._set_aside += calls
        return None

    def dismiss(self, meter: Meter) -> None:
        """The score has ended: what it did not call is free again."""
        self._set_aside -= meter.reserved
        meter.reserved = 0

    def closed_for(self) -> float:
        """Seconds for which nothing is asked, since too many calls in a row have failed."""
        return max(self._open_until - self._monotonic(), 0.0)

    @property
    def up(self) -> bool:
        return self._failures < IN_A_ROW

    # --- each call ---

    def begin(self, meter: Meter, prompt_bytes: int) -> float:
        """Count a call; the most that it can cost, to be given to `end`.

        Raises:
            Stopped: call_limit, budget_spent.
        """
        if meter.calls >= self._endpoint.score_calls:
            raise Stopped("call_limit", f"{meter.calls} calls and still no score; score_calls bounds them")
        stake = self._cost(meter.model, prompt_bytes, self._endpoint.max_tokens)
        short = not meter.reserved and self.calls + self._set_aside + 1 > self.most_calls
        if short or (stake and self.cost_usd + self._at_stake + stake > self.most_usd):
            raise Stopped("budget_spent")
        if meter.reserved:
            meter.reserved -= 1
            self._set_aside -= 1
        self.calls += 1
        meter.calls += 1
        self._of(meter.model).calls += 1
        self._at_stake += stake
        return stake

    def end(self, meter: Meter, stake: float, code: str, given: int = 0, answered: int = 0) -> None:
        """What a call has come to: its code, and the tokens it took."""
        cost = self._cost(meter.model, given, answered)
        used = self._of(meter.model)
        used.codes[code] += 1
        self._at_stake -= stake
        for one in (used, meter):
            one.input_tokens += given
            one.output_tokens += answered
            one.cost_usd += cost
        self.cost_usd += cost

    def worked(self) -> None:
        self.answered = True
        self._failures, self._open_until = 0, 0.0

    def failed(self, *, at_once: bool = False) -> float:
        """One more call in a row without an answer. Gives the seconds after which to try again. `at_once`: there is no use in
        more of them."""
        self._failures = max(self._failures + 1, IN_A_ROW if at_once else 0)
        step = min(max(self._failures - IN_A_ROW, 0), len(PAUSE_SECONDS) - 1)
        if self._failures >= IN_A_ROW:
            self._open_until = self._monotonic() + PAUSE_SECONDS[step]
        return PAUSE_SECONDS[step]

    def slow_down(self, seconds: float) -> None:
        """Nobody calls for so long: the endpoint has said so."""
        self._gate_until = max(self._gate_until, self._monotonic() + seconds)

    def gate(self) -> float:
        """Seconds until it may be called again."""
        return max(self._gate_until - self._monotonic(), 0.0)

    def _cost(self, model: str, given: int, answered: int) -> float:
        rates = self.prices.get(model)
        return rates.cost(given, answered) if rates is not None else 0.0

    def _of(self, model: str) -> Used:
        return self.used.setdefault(model, Used())
