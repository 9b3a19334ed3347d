"""A judge for tests: a server that speaks as OpenAI's does and answers with an instance of whatever schema it is sent.

What it answers is decided by marks in what is judged, so that a row brings its judge along: `[[bad]]` gets the worst verdict,
others get the best; `[[prose]]`, `[[empty]]`, `[[garbage]]`, `[[nothing]]`, `[[length]]`, `[[refuse]]`, `[[hang]]`, `[[odd]]`,
and `[[NNN]]` for an HTTP status. `mode`, where it is set, is the mark of all.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MODEL = "tiny-judge-2026-03-01"
INPUT_TOKENS, OUTPUT_TOKENS = 1_000, 50
MARKS = re.compile(r"\[\[(\w+)\]\]")


class JudgeServer:
    """Serves from `with` to its end. `asked` are the bodies it has seen, `most` how many it had in hand at once."""

    def __init__(self) -> None:
        self.mode: str | None = None
        self.retry_after: str | None = None
        self.usage = True
        self.seconds = 0.0  # each answer takes
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.codes: Counter[int] = Counter()
        self.now = self.most = 0
        self._over = asyncio.Event()

    def __enter__(self) -> JudgeServer:
        routes = [Route("/v1/chat/completions", self._chat, methods=["POST"])]
        config = uvicorn.Config(
            Starlette(routes=routes), port=0, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="judge-server", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _chat(self, request: Request) -> Response:
        asked: dict[str, Any] = await request.json()
        self.asked.append(asked)
        self.headers.append(dict(request.headers))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.seconds:
                await asyncio.sleep(self.seconds)
            answer = await self._answer(request, asked)
        finally:
            self.now -= 1
        self.codes[answer.status_code] += 1
        return answer

    async def _answer(self, request: Request, asked: dict[str, Any]) -> Response:
        said = "\n".join(str(message["content"]) for message in asked["messages"])
        marks: set[str] = {self.mode} if self.mode else {*MARKS.findall(said)}
        for mark in marks:
            if mark.isdigit():
                headers = {"Retry-After": self.retry_after} if self.retry_after is not None else {}
                return JSONResponse({"error": {"message": f"not with {request.headers['authorization']}"}}, int(mark), headers)
        if "hang" in marks:
            while not await request.is_disconnected():
                await asyncio.sleep(0.02)
        if "garbage" in marks:
            return Response(b"\x00\xff<html>not what you think", media_type="text/html")
        message: dict[str, Any] = {"role": "assistant", "content": json.dumps(instance(schema_of(asked, said), marks))}
        ended = "stop"
        if "prose" in marks:
            message["content"] = "I think that it is rather good, all in all."
        if "empty" in marks:
            message["content"] = ""
        if "length" in marks:
            message["content"], ended = message["content"][:10], "length"
        if "refuse" in marks:
            message |= {"content": None, "refusal": "I cannot help with that."}
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS}
        return JSONResponse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1_772_366_400,
                "model": MODEL,
                "choices": [{"index": 0, "message": message, "finish_reason": ended}],
                **({"usage": usage} if self.usage else {}),
            }
        )


def schema_of(asked: dict[str, Any], said: str) -> dict[str, Any]:
    """What the client wants an instance of: in `response_format`, or in words in the messages."""
    if (wanted := asked.get("response_format") or {}).get("type") == "json_schema":
        found: dict[str, Any] = wanted["json_schema"]["schema"]
        return found
    for start in (match.start() for match in re.finditer(r"\{", said)):
        try:
            found, _ = json.JSONDecoder().raw_decode(said[start:])
        except ValueError:
            continue
        if isinstance(found, dict) and "properties" in found:
            return found
    raise AssertionError("no schema in what the judge was asked")


def instance(schema: dict[str, Any], marks: set[str], name: str = "", defs: dict[str, Any] | None = None) -> Any:
    """A value that the schema allows: words, the best or worst number, a list of one item; as the marks want it."""
    defs = defs if defs is not None else schema.get("$defs", {})
    if "$ref" in schema:
        return instance(defs[schema["$ref"].rpartition("/")[2]], marks, name, defs)
    if "anyOf" in schema:
        return instance(schema["anyOf"][0], marks, name, defs)
    if "enum" in schema:
        return schema["enum"][-1 if "bad" in marks else 0]
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "object":
            if "properties" not in schema:
                return {}
            return {key: instance(value, marks, key, defs) for key, value in schema["properties"].items()}
        case "array":
            return [] if "nothing" in marks else [instance(schema["items"], marks, name, defs)]
        case "integer" | "number":
            if "odd" in marks:
                return 77
            worst, best = {"score": (1, 5), "rating": (0, 2), "noncommittal": (1, 0)}.get(name, (0, 1))
            return worst if "bad" in marks else best
        case "boolean":
            return "bad" not in marks
    return " ".join(["a word", *(f"[[{mark}]]" for mark in sorted(marks))])  # what is asked next is of this
