"""`python -m tests.bench.gpu [--write] [--data DIR] [--encoder DIR]`: correctness and speed on a CUDA device, in one command.

Correctness first, and no speed without it: vectors in half precision beside those of the CPU in float32, a text alone beside the
same text in a batch, scores of the detectors beside the CPU's, memory that runs out. Then speed: traces through all detectors of
tier 0 with every answer looked at closely, text to score without the store, and the encoder beside plain
SentenceTransformer.encode. Where there is no device it says NOT RUN and ends with 0: a machine without one has nothing to fail.

It needs torch, sentence-transformers, pydantic and safetensors, and nothing of the daemon: `make gpu-check PY=python` runs with
the torch that a machine has. Where the package with MiniLM is not installed, `--encoder` names a folder with a copy.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detectors.contract import Outcome, Resources
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.faithfulness import Faithfulness
from detectors.reader import Reader
from detectors.registry import SHIPPED
from tests.bench.traces import texts_of, traces

RESULTS = Path(__file__).parent / "RESULTS.md"
SECTION = "GPU"
COMMAND = "`make gpu-check`"

# Dense bfloat16, in FLOP/s, from the makers' data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}
LAYER_PARAMETERS = 6 * (4 * 384 * 384 + 2 * 384 * 1_536)  # of MiniLM's matrices: two operations a token each
LAYERS, WIDTH = 6, 384

GOAL_TRACES = 3_000  # a second
GOAL_RATIO = 2.0  # to plain encode

COSINE = 0.999
ALONE = 5e-3
SCORE = 0.02


TIER_0 = ("toxicity", "faithfulness", "hallucination", "answer_relevance", "context_relevance", "relevance")
WARM = {"record_id": "warm", "question": "Is it warm?", "response": "It is warm.", "contexts": ["It is warm today."]}


class Row(NamedTuple):
    name: str
    figure: float
    unit: str
    note: str = ""


class Check(NamedTuple):
    name: str
    found: float
    bound: float
    holds: bool


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description="Correctness and speed on a CUDA device.")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {RESULTS.name}")
    parser.add_argument("--data", type=Path, help="folder of data sets; default: the vendored rows")
    parser.add_argument("--encoder", type=Path, help="folder of the text encoder; default: the installed MiniLM")
    asked = parser.parse_args(argv)
    device = device_name()
    if device is None:
        text = f"## {SECTION}\n\nNOT RUN: no machine with a CUDA device was at hand. {COMMAND} runs it on one.\n"
        failed = False
    else:
        checks = list(correctness(asked.data, asked.encoder))
        failed = not all(check.holds for check in checks)
        text = report(device, checks, [] if failed else speed(asked.data, asked.encoder, device))
    print(text)
    if asked.write:
        kept = RESULTS.read_text(encoding="utf-8")
        old = re.search(rf"^## {SECTION}\n.*?(?=^## |\Z)", kept, flags=re.MULTILINE | re.DOTALL)
        place = old.span() if old else (len(kept), len(kept))
        after = kept[place[1] :]
        RESULTS.write_text(kept[: place[0]].rstrip() + "\n\n" + text + (f"\n{after}" if after else ""), encoding="utf-8")
    return 1 if failed else 0


def device_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def report(device: str, checks: Sequence[Check], rows: Sequence[Row]) -> str:
    lines = [f"| {c.name} | {c.found:.3g} | {c.bound:g} | {'yes' if c.holds else 'NO'} |" for c in checks]
    head = f"## {SECTION}\n\nCorrectness and speed on one device.\n\n{COMMAND} · {device} · {datetime.now(UTC):%Y-%m-%d}\n\n"
    kept = "| correctness | found | bound | holds |\n| --- | ---: | ---: | --- |\n" + "\n".join(lines) + "\n"
    if not rows:
        return f"{head}{kept}\nNo speed is measured of what is not correct.\n"
    figures = "\n".join(f"| {row.name} | {row.figure:,.4g} | {row.unit} | {row.note} |" for row in rows)
    return f"{head}{kept}\n| what | median | unit | note |\n| --- | ---: | --- | --- |\n{figures}\n"


# --- correctness -----------------------------------------------------------------------------------------------------


def correctness(data: Path | None, path: Path | None) -> Iterator[Check]:
    rows = traces(data, 16)
    texts = list(dict.fromkeys(text for row in rows for text in texts_of(row)))
    here, there = (SentenceEncoder(EncoderConfig(path=path, device=name, cache_bytes=0)) for name in ("cpu", "cuda"))
    on_cpu, on_gpu = here.encode(texts), there.encode(texts)
    near = float((on_cpu * on_gpu).sum(axis=1).min())
    yield Check(f"cosine of a vector in {precision(there)} with the CPU's, lowest", near, COSINE, near >= COSINE)
    alone = np.concatenate([there.encode([text]) for text in texts[:32]])
    apart = float(np.abs(alone - on_gpu[:32]).max())
    yield Check("a component alone and in a batch, largest difference", apart, ALONE, apart <= ALONE)
    left, right = (values(encoder, rows) for encoder in (here, there))
    apart = max(abs(a - b) for a, b in zip(left, right, strict=True))
    yield Check("a value of faithfulness beside the CPU's, largest difference", apart, SCORE, apart <= SCORE)
    starved = SentenceEncoder(EncoderConfig(path=path, device="cuda", cache_bytes=0), load=Starved)
    apart = float(np.abs(starved.encode(texts[:64]) - on_gpu[:64]).max())
    held = apart <= ALONE and starved.out_of_memory > 0 and not starved.fallback_active
    yield Check("the same where memory runs out over 8 texts, largest difference", apart, ALONE, held)


def precision(encoder: SentenceEncoder) -> str:
    return str(getattr(encoder.model, "precision", "float32"))


def values(encoder: SentenceEncoder, rows: Sequence[dict[str, Any]]) -> list[float]:
    detector = Faithfulness(Faithfulness.Config(unsure_width=1.0, closer_claims=64))
    reader = Reader(device=encoder.device)
    detector.load(Resources(encoder=lambda: encoder, reader=lambda: reader))
    return [score.value for score in detector.score(rows) if score.value is not None]


def Starved(path: Path, config: EncoderConfig) -> Any:  # noqa: N802 (a model with a flaw)
    """The real model on a device that holds eight texts."""
    from detectors.batching import OutOfDeviceMemory
    from detectors.embedding import LocalSentenceTransformer

    class Small(LocalSentenceTransformer):
        def compute(self, tokens: list[list[int]]) -> Any:
            if self.device != "cpu" and len(tokens) > 8:
                raise OutOfDeviceMemory(f"{len(tokens)} texts")
            return super().compute(tokens)

    return Small(path, config)


# --- speed -----------------------------------------------------------------------------------------------------------


def speed(
    data: Path | None, path: Path | None, device: str, repeats: int = 5, *, on: str = "cuda", most: int = 4_096
) -> list[Row]:
    """`device` is its name, `on` what torch calls it, `most` the number of traces."""
    rows = traces(data, most)
    texts = [text for row in rows[:1_024] for text in texts_of(row)]
    ours = SentenceEncoder(EncoderConfig(path=path, device=on, cache_bytes=0))
    lengths = np.array([len(one) for one in ours.model.tokenize(texts)], dtype=np.float64)
    fast = statistics.median(timed(lambda: ours.encode(texts)) for _ in range(repeats))
    plain = statistics.median(plainly(texts, path, on) for _ in range(min(3, repeats)))
    scored = statistics.median(through_detectors(rows, path, on) for _ in range(min(3, repeats)))
    operations = 2 * LAYER_PARAMETERS * lengths.sum() + 4 * LAYERS * WIDTH * (lengths**2).sum()
    share = next((operations / fast / peak for name, peak in PEAKS.items() if name in device), None)
    found = [
        Row(
            "traces, text to score, every answer looked at closely",
            len(rows) / scored,
            "traces/s",
            f"goal {GOAL_TRACES:,}; {', '.join(tier_0())}",
        ),
        Row("encoder", len(texts) / fast, "texts/s", f"{lengths.mean():.0f} tokens in the mean; {precision(ours)}"),
        Row("plain SentenceTransformer.encode", len(texts) / plain, "texts/s", "float32, as it comes"),
        Row("encoder to plain", plain / fast, "x", f"goal {GOAL_RATIO:g}"),
    ]
    if share is not None:
        found.append(Row("encoder, of the device's bfloat16 peak", 100 * share, "%", f"{operations / fast / 1e12:.1f} TFLOP/s"))
    return found


def tier_0() -> list[str]:
    return [name for name in TIER_0 if name in SHIPPED]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def through_detectors(rows: Sequence[dict[str, Any]], path: Path | None, on: str) -> float:
    """Seconds for all rows. Cascades are off: what can be looked at closer is."""
    from detectors import registry
    from detectors.static import shared

    encoder = SentenceEncoder(EncoderConfig(path=path, device=on))
    reader = Reader(device=on)
    shared.cache_clear()
    built: list[Any] = []
    for name in tier_0():
        detector: Any = registry.load(name)
        off = {
            name: most for name, most in (("unsure_width", 1.0), ("closer_claims", 64)) if name in detector.Config.model_fields
        }
        built.append(detector(detector.Config(**off)))
        if callable(load := getattr(built[-1], "load", None)):
            load(Resources(encoder=lambda: encoder, reader=lambda: reader))
        built[-1].score([WARM])
    started = time.perf_counter()
    for at in range(0, len(rows), 512):
        for detector in built:
            if failed := [s for s in detector.score(rows[at : at + 512]) if s.outcome is Outcome.FAILED]:
                raise RuntimeError(f"{detector.name}: {failed[0]}")
    return time.perf_counter() - started


def plainly(texts: Sequence[str], path: Path | None, on: str) -> float:
    from sentence_transformers import SentenceTransformer

    from detectors.modelfolder import find_model

    model = SentenceTransformer(str(find_model(path)), device=on, local_files_only=True)
    model.encode(list(texts[:64]), show_progress_bar=False)
    return timed(lambda: model.encode(list(texts), show_progress_bar=False))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
