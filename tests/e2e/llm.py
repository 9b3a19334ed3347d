"""A small server that speaks as OpenAI's does: chat, streams, tool calls, embeddings, errors. Every answer is fixed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

ANSWER = "Goods may be returned within 14 days."
MODEL = "tiny-chat-2026-03-01"
USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 9,
    "total_tokens": 49,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "order_status", "arguments": '{"order": 7}'}}


class Llm:
    """Serves from `with` to its end."""

    def __enter__(self) -> Llm:
        routes = [
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), port=0, lifespan="off", log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="llm", daemon=True)
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


async def chat(request: Request) -> Response:
    asked: dict[str, Any] = await request.json()
    if asked["model"] == "nowhere":
        error = {"message": "no such model", "type": "invalid_request_error", "code": "model_not_found"}
        return JSONResponse({"error": error}, 404)
    if asked.get("stream"):
        return StreamingResponse(_stream(), media_type="text/event-stream")
    calls = asked.get("tools") and asked["messages"][-1]["role"] == "user"
    message: dict[str, Any] = {"role": "assistant", "content": None if calls else ANSWER}
    if calls:
        message["tool_calls"] = [TOOL_CALL]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return JSONResponse({**_head("chat.completion"), "choices": [choice], "usage": USAGE})


def _stream() -> Iterator[str]:
    words = ANSWER.split(" ")
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words)]
    for delta in [*deltas, {}]:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
        yield _event({**_head("chat.completion.chunk"), "choices": [choice], "usage": None})
    yield _event({**_head("chat.completion.chunk"), "choices": [], "usage": USAGE})
    yield "data: [DONE]\n\n"


def _event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_772_366_400, "model": MODEL}


async def embeddings(request: Request) -> Response:
    asked = await request.json()
    texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    data = [{"object": "embedding", "index": i, "embedding": [0.25, -0.5, 1.0]} for i in range(len(texts))]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return JSONResponse({"object": "list", "data": data, "model": "tiny-embed", "usage": usage})
