"""Every call to the judge passes here: it is counted, bounded in time and size, tried again where that may help, and its end
told apart. The client above sees answers only; whatever ends a score is raised as `Stopped`."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from detectors.judging.book import METER, Book, Meter, Stopped

MOST_BYTES = 4 * 2**20  # of an answer
MOST_RETRY_SECONDS = 3_600.0
NO_RETRY_AFTER_SECONDS = 5.0
TRIES = 2  # of a call that meets an error of the server or of the network
PAUSE_SECONDS = 0.5
BYTES_A_TOKEN = 4  # where an answer does not say


class Metered(httpx.AsyncBaseTransport):
    """Between a client and `inner`, which sends."""

    def __init__(
        self, inner: httpx.AsyncClient, book: Book, call_seconds: float, clock: Callable[[], datetime], secret: str | None = None
    ) -> None:
        """`secret` is taken out of what an endpoint says of a refused call: some repeat the key."""
        self._inner = inner
        self._secret = secret
        self._book = book
        self._seconds = call_seconds
        self._clock = clock

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Raises:
            Stopped: there is no answer, or none that a score can be made of.
        """
        meter, tries = METER.get(), 0
        answer: httpx.Response | None = None
        await request.aread()
        size = len(request.content)
        while True:
            await self._gate(meter)
            try:
                stake = self._book.begin(meter, size)
            except Stopped as refused:
                if answer is not None and refused.reason == "call_limit":
                    # It is the endpoint that sent the score away so often: no fault of the record.
                    reason = "server_error" if answer.status_code >= 500 else "rate_limited"
                    raise Stopped(reason, self._said(answer), retry_seconds=NO_RETRY_AFTER_SECONDS) from None
                raise
            # Of one that is cut off it is not known what it took; it has been sent, and may have to be paid.
            code, given, answered = "cancelled", math.ceil(size / BYTES_A_TOKEN), 0
            answer = None
            try:
                answer = await self._send(request)
                code, given = str(answer.status_code), 0
                if answer.status_code == 200:
                    given, answered, stopped = self._read(answer, meter, size)
                    if stopped is not None:
                        raise stopped
                    return answer
            except TimeoutError:
                code = "timeout"
                said = f"no answer within {self._seconds:g} s"
                raise Stopped("time_limit", said, retry_seconds=self._book.failed()) from None
            except httpx.TransportError as exc:
                code, given, said = "connection", 0, f"{type(exc).__name__}: {exc}"
            finally:
                self._book.end(meter, stake, code, given, answered)
            tries += 1
            waits = answer is not None and self._must_wait(answer)
            if tries >= TRIES and not waits:
                if answer is None:
                    raise Stopped("unreachable", said, retry_seconds=self._book.failed())
                raise Stopped("server_error", self._said(answer), retry_seconds=self._book.failed())
            if not waits:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """
        Raises:
            TimeoutError, httpx.TransportError: there is no answer.
            Stopped: bad_json, where it has no end or cannot be unpacked.
        """
        async with asyncio.timeout(self._seconds):
            try:
                response = await self._inner.send(request, stream=True)
                try:
                    raw = b""
                    async for part in response.aiter_raw():
                        raw += part
                        if len(raw) > MOST_BYTES:
                            raise Stopped("bad_json", f"an answer of more than {MOST_BYTES} bytes")
                finally:
                    await response.aclose()
            except (httpx.ReadTimeout, httpx.WriteTimeout) as exc:
                raise TimeoutError from exc
        try:
            return httpx.Response(response.status_code, headers=response.headers, content=raw, request=request)
        except httpx.DecodingError as exc:
            raise Stopped("bad_json", f"an answer that cannot be unpacked: {exc}") from exc

    async def _gate(self, meter: Meter) -> None:
        while (pause := self._book.gate()) > 0:
            if asyncio.get_running_loop().time() + pause >= meter.deadline:
                raise Stopped("rate_limited", f"not before {pause:.0f} s have passed", retry_seconds=pause)
            await asyncio.sleep(pause)

    def _read(self, answer: httpx.Response, meter: Meter, prompt_bytes: int) -> tuple[int, int, Stopped | None]:
        """Tokens in and out of an answer that came, and what ends the score where no score can be made of it."""
        self._book.worked()
        found = _object(answer)
        usage = _mapping(found.get("usage"))
        given, answered = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        if given is None or answered is None:
            meter.estimated = True
            given = math.ceil(prompt_bytes / BYTES_A_TOKEN)
            answered = math.ceil(len(answer.content) / BYTES_A_TOKEN)
        if isinstance(found.get("model"), str):
            meter.answered_by = found["model"][:200]
        choices = found.get("choices")
        choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
        message, ended = _mapping(choice.get("message")), choice.get("finish_reason")
        text = message.get("content")
        stopped = None
        if message.get("refusal") or ended == "content_filter":
            stopped = Stopped("refused", str(message.get("refusal") or ended)[:300])
        elif ended == "length":
            stopped = Stopped("truncated", "the answer is longer than max_tokens; raise it")
        elif not isinstance(text, str) or not text.strip():
            stopped = Stopped("no_answer", self._said(answer))
        return given, answered, stopped

    def _must_wait(self, answer: httpx.Response) -> bool:
        """Whether the endpoint has asked to be left alone for a while.

        Raises:
            Stopped: no further call helps.
        """
        status = answer.status_code
        if status in (401, 403, 404):
            reason = "not_found" if status == 404 else "unauthorised"
            raise Stopped(reason, self._said(answer), retry_seconds=self._book.failed(at_once=True))
        if (after := self._retry_after(answer)) is not None:
            self._book.slow_down(after)
            return True
        if status >= 500 or status == 408:
            return False
        if not self._book.answered:  # until it has answered once, it is rather the settings that it rejects than the record
            raise Stopped("rejected_all", self._said(answer), retry_seconds=self._book.failed())
        raise Stopped("rejected", self._said(answer))

    def _retry_after(self, answer: httpx.Response) -> float | None:
        """Seconds the endpoint wants to be left alone; None where it says nothing of the kind."""
        given = answer.headers.get("Retry-After")
        if answer.status_code != 429 and not (answer.status_code == 503 and given):
            return None
        seconds = NO_RETRY_AFTER_SECONDS
        try:
            seconds = float(given or "nan")
        except ValueError:
            try:
                at = parsedate_to_datetime(given)
                seconds = (at.replace(tzinfo=at.tzinfo or UTC) - self._clock()).total_seconds()
            except (TypeError, ValueError):
                pass
        if not math.isfinite(seconds):
            seconds = NO_RETRY_AFTER_SECONDS
        return min(max(seconds, PAUSE_SECONDS), MOST_RETRY_SECONDS)

    def _said(self, answer: httpx.Response) -> str:
        said = f"HTTP {answer.status_code}: {answer.content[:1000].decode('utf-8', 'replace')}"
        return (said.replace(self._secret, "***") if self._secret else said)[:300]


def _object(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(answer.content))
    except (ValueError, RecursionError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else None
