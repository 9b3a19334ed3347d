"""Scores by a judge: the arguments of a metric from a row, the metric of ragas, and what became of it.

ragas 0.4.3 (`ragas.metrics.collections`) asks through instructor and the openai client, whose HTTP transport is ours: see
`transport`. By itself it has no limit of time or of calls, and takes any `Exception` for a reason to ask again: one score of
malformed answers took 21 calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from detectors.contract import Score
from detectors.judging.book import METER, PUT_OFF, Book, Meter, Stopped
from detectors.judging.catalogue import METRICS
from detectors.judging.endpoint import EndpointConfig, Prices
from detectors.judging.inputs import arguments
from detectors.judging.ragas_library import Embed, prompt_hash, quiet_ragas
from detectors.judging.transport import Metered

if TYPE_CHECKING:
    from detectors.judge import Judge

MARK = "modelwatch-judge"
"""Our own calls carry it as `User-Agent` and `X-Modelwatch`, so that a gateway can tell them from the traffic that is judged."""

NOT_THE_FORM = frozenset({"InstructorRetryException", "ValidationError", "JSONDecodeError", "ResponseParsingError"})


@dataclass(frozen=True, slots=True)
class PutOff:
    """No fault of the record: to be tried again, not before so many seconds have passed."""

    reason: str
    said: str
    retry_seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one score, and what it took. `prompt_hash` and `ragas` say with what it was asked."""

    score: Score | PutOff
    calls: int
    seconds: float


class Engine:
    """Lives in one event loop."""

    def __init__(
        self,
        endpoint: EndpointConfig | None,
        prices: Prices | None = None,
        *,
        embed: Embed | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`endpoint` may be left out for metrics that ask nobody, `embed` for those that need no vectors."""
        self._endpoint = endpoint
        self._embed = embed
        self._monotonic = monotonic
        self.book = Book(endpoint or EndpointConfig(base_url="http://nowhere", model="none"), prices or {}, monotonic)
        self._built: dict[Any, Built] = {}
        self._http: httpx.AsyncClient | None = None
        if endpoint is not None:
            seconds = endpoint.call_seconds
            inner = httpx.AsyncClient(timeout=seconds)
            self._http = httpx.AsyncClient(
                transport=Metered(inner, self.book, seconds, clock, _key(endpoint)),
                headers={"Accept-Encoding": "identity", "X-Modelwatch": MARK},
            )
        self._slots = asyncio.Semaphore(endpoint.concurrency if endpoint is not None else 1)

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def judge(self, config: Judge.Config, row: Mapping[str, Any]) -> Verdict:
        """One score. Never raises for what a row or an endpoint may be."""
        started = self._monotonic()
        given = arguments(config, row)
        if isinstance(given, Score):
            return Verdict(given, 0, 0.0)
        built = await self._build(config)
        if isinstance(built, Score):
            return Verdict(built, 0, self._monotonic() - started)
        async with self._slots:
            return await self._judge(config, built, given.values, given.detail, given.contexts)

    async def _judge(
        self, config: Judge.Config, built: Built, given: Mapping[str, Any], detail: Mapping[str, Any], contexts: int
    ) -> Verdict:
        started, expected = self._monotonic(), config.calls(contexts)
        seconds = self._endpoint.score_seconds if self._endpoint else 60.0
        if expected and (refused := self.book.admit(expected)) is not None:
            return Verdict(_stopped(refused, {}), 0, 0.0)
        meter = Meter(built.model, asyncio.get_running_loop().time() + seconds, expected)
        token = METER.set(meter)
        score: Score | PutOff
        try:
            async with asyncio.timeout(seconds):
                result = await built.score(built.arguments(given))
            score = config.score_of(result.value, getattr(result, "reason", None), unread=meter.unread)
        except Stopped as stopped:
            score = _stopped(stopped, {})
        except TimeoutError:
            score = PutOff("time_limit", f"no score within {seconds:g} s", self.book.failed() if meter.calls else 1.0)
        except ImportError as exc:
            score = Score.not_evaluable("not_installed", error=f"{exc}; install the package that this metric of ragas needs")
        except Exception as exc:  # whatever ragas, instructor or the client make of an answer
            score = why_failed(exc, meter)
        finally:
            METER.reset(token)
            self.book.dismiss(meter)
        if isinstance(score, Score):
            score = replace(score, detail={**self._said(built, meter), **detail, **score.detail})
        return Verdict(score, meter.calls, self._monotonic() - started)

    @staticmethod
    def _said(built: Built, meter: Meter) -> dict[str, Any]:
        said: dict[str, Any] = {"metric": built.name, "ragas": built.version}
        if meter.calls:
            said |= {
                "llm_model": meter.answered_by or built.model,
                "prompt_hash": built.prompt_hash,
                "calls": meter.calls,
                "input_tokens": meter.input_tokens,
                "output_tokens": meter.output_tokens,
                "cost_usd": round(meter.cost_usd, 9),
            }
        return said | ({"tokens_estimated": True} if meter.estimated else {})

    async def _build(self, config: Judge.Config) -> Built | Score:
        key = config.identity
        if key not in self._built:
            try:
                # In a thread, as importing ragas takes seconds.
                made = await asyncio.to_thread(self._make, config, asyncio.get_running_loop())
            except ImportError as exc:
                error = f"{exc}; the judge needs `pip install modelwatch[judge]`"
                return Score.not_evaluable("not_installed", error=error)
            except Exception as exc:  # what a metric says of its options
                return Score.failed("bad_settings", error=f"{type(exc).__name__}: {exc}"[:500])
            self._built.setdefault(key, made)
        return self._built[key]

    def _make(self, config: Judge.Config, loop: asyncio.AbstractEventLoop) -> Built:
        ragas = quiet_ragas()
        model = config.llm_model or (self._endpoint.model if self._endpoint else "")
        llm = self._llm(model) if config.asks else None
        if config.own is not None:
            kind = ragas.DiscreteMetric if config.metric == "discrete" else ragas.NumericMetric
            values = list(config.values) if config.metric == "discrete" else config.range
            rubric = kind(name=config.metric, prompt=config.own, allowed_values=values)

            def ask(given: dict[str, Any]) -> Awaitable[Any]:
                asked: Awaitable[Any] = rubric.ascore(**given, llm=llm)
                return asked

            return Built(config.metric, ragas.version, model, ask, _as_texts, prompt_hash(rubric))
        entry = METRICS[config.metric]
        parts: dict[str, Any] = {"llm": llm} if llm is not None else {}
        if entry.embeddings:
            if self._embed is None:
                raise ValueError(f"{config.metric} compares vectors of texts, and there is no encoder here to make them")
            parts["embeddings"] = ragas.embedding(self._embed, loop)
        options = dict(config.options)
        if "distance_measure" in options:
            options["distance_measure"] = ragas.collections.DistanceMeasure(options["distance_measure"])
        metric = getattr(ragas.collections, entry.ragas)(**parts, **options)

        def score(given: dict[str, Any]) -> Awaitable[Any]:
            if entry.ragas == "SemanticSimilarity":  # it waits for vectors without awaiting them
                return asyncio.to_thread(lambda: asyncio.run(metric.ascore(**given)))
            asked: Awaitable[Any] = metric.ascore(**given)
            return asked

        convert: Callable[[Mapping[str, Any]], dict[str, Any]] = ragas.conversation if entry.messages else dict
        return Built(config.metric, ragas.version, model, score, convert, prompt_hash(metric))

    def _llm(self, model: str) -> Any:
        if self._endpoint is None or self._http is None:
            raise ValueError("this metric asks an LLM: give an endpoint (in a config the section `judge`)")
        import instructor
        from openai import AsyncOpenAI
        from ragas.llms.base import InstructorLLM, InstructorModelArgs

        e = self._endpoint
        client = AsyncOpenAI(
            base_url=e.base_url,
            api_key=_key(e) or "none",
            max_retries=0,
            timeout=None,  # the transport's
            http_client=self._http,
            default_headers={"User-Agent": MARK},
        )
        mode = {"json": instructor.Mode.JSON, "md_json": instructor.Mode.MD_JSON, "json_schema": instructor.Mode.JSON_SCHEMA}[
            e.mode
        ]
        asking = instructor.from_openai(client, mode=mode)
        asking.on("parse:error", _unread)
        arguments = InstructorModelArgs(temperature=e.temperature, top_p=e.top_p, max_tokens=e.max_tokens)
        return InstructorLLM(client=asking, model=model, provider="openai", model_args=arguments, max_retries=e.reasks)


@dataclass(frozen=True, slots=True)
class Built:
    """A metric that is ready to be asked."""

    name: str
    version: str
    model: str
    score: Callable[[dict[str, Any]], Awaitable[Any]]
    arguments: Callable[[Mapping[str, Any]], dict[str, Any]]
    prompt_hash: str


def _key(endpoint: EndpointConfig) -> str | None:
    return endpoint.api_key.get_secret_value() if endpoint.api_key is not None else None


def _unread(*_: Any, **__: Any) -> None:
    METER.get().unread += 1


def _stopped(stopped: Stopped, detail: Mapping[str, Any]) -> Score | PutOff:
    if stopped.reason == "budget_spent":
        return Score.not_evaluable("judge_budget_spent", **detail)
    if stopped.reason in PUT_OFF:
        return PutOff(stopped.reason, stopped.said, stopped.retry_seconds or 1.0)
    return Score.failed(stopped.reason, error=stopped.said[:500], **detail)


def why_failed(exc: Exception, meter: Meter) -> Score:
    """The score of a metric that raised."""
    names = {type(one).__name__ for one in _chain(exc)}
    said = f"{type(exc).__name__}: {exc}"[:500]
    if "IncompleteOutputException" in names:  # its module is another one in each version of instructor
        return Score.failed("truncated", error=said)
    if meter.calls and (meter.unread or names & NOT_THE_FORM):
        return Score.failed("bad_json", error=said)
    return Score.failed(type(exc).__name__, error=said)


def _chain(exc: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while exc is not None and exc not in found:
        found.append(exc)
        exc = exc.__cause__ or exc.__context__
    return found


def _as_texts(given: Mapping[str, Any]) -> dict[str, Any]:
    """For a prompt of one's own: a list is its items, one a line."""
    return {name: "\n".join(value) if isinstance(value, list) else value for name, value in given.items()}
