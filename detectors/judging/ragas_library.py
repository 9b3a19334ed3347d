"""ragas 0.4.3: what is used of it, imported on first use and kept from telling anybody."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

Embed = Callable[[Sequence[str]], Awaitable[Sequence[Sequence[float]]]]


class Ragas:
    """What is used of it, imported."""

    def __init__(self) -> None:
        import ragas
        from ragas._analytics import get_userid
        from ragas.metrics import DiscreteMetric, NumericMetric, collections

        self.version: str = ragas.__version__
        get_userid()  # kept from now on: each call asks for it though nobody is told, and the first leaves a file open
        self.collections = collections
        self.DiscreteMetric, self.NumericMetric = DiscreteMetric, NumericMetric

    @staticmethod
    def embedding(embed: Embed, loop: asyncio.AbstractEventLoop) -> Any:
        from ragas.embeddings.base import BaseRagasEmbedding

        class Shared(BaseRagasEmbedding):  # type: ignore[misc]  # which mypy does not read
            """The encoder that is there anyway; ragas' own would load a second copy."""

            def embed_text(self, text: str, **_: Any) -> list[float]:
                return asyncio.run_coroutine_threadsafe(self.aembed_text(text), loop).result()

            async def aembed_text(self, text: str, **_: Any) -> list[float]:
                return (await self.aembed_texts([text]))[0]

            async def aembed_texts(self, texts: list[str], **_: Any) -> list[list[float]]:
                return [[float(x) for x in vector] for vector in await embed(texts)]

        return Shared()

    @staticmethod
    def conversation(given: Mapping[str, Any]) -> dict[str, Any]:
        """Messages and tool calls as ragas has them, from those of `detectors.judging.inputs`."""
        from ragas.messages import AIMessage, HumanMessage, ToolCall, ToolMessage

        def calls(found: Sequence[Mapping[str, Any]]) -> list[Any]:
            return [ToolCall(name=one["name"], args=one["args"]) for one in found]

        def message(one: Mapping[str, Any]) -> Any:
            if one["role"] == "assistant":
                return AIMessage(content=one["content"], tool_calls=calls(one["tool_calls"]) or None)
            return (ToolMessage if one["role"] == "tool" else HumanMessage)(content=one["content"])

        made = {**given, "user_input": [message(one) for one in given["user_input"]]}
        if "reference_tool_calls" in made:
            made["reference_tool_calls"] = calls(made["reference_tool_calls"])
        return made


def quiet_ragas() -> Ragas:
    """Imports ragas so that it tells nobody. Takes seconds the first time."""
    # Read once, at import. With it unset each call would first post a report, and wait for that, inside the event loop.
    os.environ["RAGAS_DO_NOT_TRACK"] = "true"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages below it, about each other
        made = Ragas()
    for name in ("instructor", "ragas", "openai", "httpx"):  # they would log what was judged
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return made


def prompt_hash(metric: Any) -> str:
    """Twelve hex digits over all that a metric says to the judge, but for the row."""
    parts: list[Any] = [type(metric).__name__]
    for name, prompt in sorted(vars(metric).items()):
        if (instruction := getattr(prompt, "instruction", None)) is None:
            continue
        examples = [[_plain(side) for side in pair] for pair in getattr(prompt, "examples", None) or ()]
        output = getattr(prompt, "output_model", None)
        parts.append([name, instruction, examples, output.model_json_schema() if output is not None else None])
    parts.append([str(getattr(metric, "allowed_values", "")), str(getattr(metric, "strictness", ""))])
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
