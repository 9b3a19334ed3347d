"""Encoders: processor time, distance from MiniLM in float32, and what toxicity and faithfulness lose, for each way to run it.

One thread each, so that the figures are processor time and other programs count little. The texts are 128 sentences and 24
passages of the vendored rows. The vector of a text alone is compared with that in a batch, as a monitor's scores must not depend
on what came in beside. AUROC is of a logistic regression over the vectors (toxicity, mean within sources) and of the nearest
passage's cosine (faithfulness, mean within sources) on dev rows, with --data of the folder above both; the loss is against
float32 in a paired bootstrap over rows. ONNX Runtime is measured where it is installed; it is no dependency.
"""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.claims import sentences
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.static import StaticEncoder
from detectors.training.bands import auroc, losses, macro_auroc
from tests.bench.harness import Options, Row, each
from tests.bench.traces import labelled

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]

SEED = 0


def run(options: Options) -> list[Row]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ways = dict(encoders(options.folder))
        short, long = corpus(options.pick(128, 64, 4), options.pick(24, 12, 2))
        reference = {id(texts): ways["MiniLM, float32"](texts) for texts in (short, long)}
        rows: list[Row] = []
        for found in each(options, list(ways), "encoders", lambda name: speed(name, ways[name], short, long, reference)):
            rows += found
        if options.data is not None:
            rows += quality(ways, options.data, options.pick(1_500, 400, 40))
        return rows
    finally:
        torch.set_num_threads(threads)


def encoders(folder: Path) -> Iterator[tuple[str, Encode]]:
    """Each way to run it. Nothing is kept between calls."""
    plain = SentenceEncoder(EncoderConfig(device="cpu", precision="float32", cache_bytes=0))
    yield "MiniLM, float32", plain.encode
    yield "MiniLM, bfloat16", SentenceEncoder(EncoderConfig(device="cpu", precision="bfloat16", cache_bytes=0)).encode
    yield "MiniLM, int8 by torch", dynamic_int8().encode
    yield "MiniLM, int8 by row", int8_by_row().encode
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")):
        yield "MiniLM, int8 by ONNX Runtime", onnx_int8(plain, folder)
    yield "static", StaticEncoder(cache_bytes=0).encode


def corpus(sentences_: int, passages: int) -> tuple[list[str], list[str]]:
    contexts = [text for row in labelled(None, 1_000) for text in row["context"]]
    short = list(dict.fromkeys(text[span.start : span.end] for text in contexts for span in sentences(text)))
    long = [" ".join(contexts[i : i + 6])[:1_500] for i in range(0, 6 * passages, 6)]
    return short[:sentences_], long


def speed(name: str, encode: Encode, short: list[str], long: list[str], reference: dict[int, Vectors]) -> list[Row]:
    rows = []
    worst, apart = 0.0, 0.0
    for what, texts in (("sentences", short), ("passages of 1,500 characters", long)):
        encode(texts[:2])
        started = time.process_time()
        vectors = encode(texts)
        rows.append(Row(f"{name}: {what}", len(texts) / (time.process_time() - started), "texts/s", "of processor time"))
        alone = np.concatenate([encode([text]) for text in texts[:8]])
        apart = max(apart, float(np.abs(alone - vectors[:8]).max()))
        if vectors.shape == reference[id(texts)].shape:
            worst = max(worst, float((1 - (vectors * reference[id(texts)]).sum(axis=1)).max()))
    rows.append(Row(f"{name}: alone and in a batch, largest difference", apart, "", "of a component"))
    if name != "static":
        rows.append(Row(f"{name}: largest cosine error", max(worst, 0.0), "", "against float32"))
    return rows


# --- what it costs in quality ----------------------------------------------------------------------------------------


def quality(ways: dict[str, Encode], data: Path, most: int) -> list[Row]:
    rows: list[Row] = []
    for what, scored in (("toxicity", toxicity), ("faithfulness", faithfulness)):
        full: NDArray[np.float64] | None = None
        for name, encode in ways.items():
            positive, source, score = scored(encode, data / what, most)
            full = score if full is None else full
            group = np.arange(len(score)).astype(str)
            low, mean, high = losses(positive, source, group, full, score, draws=200).macro
            note = "" if score is full else f"loss {mean:.4f} ({low:.4f} to {high:.4f}); pooled {auroc(positive, score):.3f}"
            rows.append(Row(f"{name}: {what}, AUROC within sources", macro_auroc(positive, source, score), "", note))
    return rows


def sampled(path: Path, most: int) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    keep = np.sort(np.random.default_rng(SEED).choice(len(rows), min(most, len(rows)), replace=False))
    return [rows[i] for i in keep]


Scored = tuple[NDArray[np.bool_], NDArray[np.str_], NDArray[np.float64]]


def toxicity(encode: Encode, data: Path, most: int) -> Scored:
    from sklearn.linear_model import LogisticRegression

    train, dev = sampled(data / "train.jsonl.gz", 2 * most), sampled(data / "dev.jsonl.gz", most)
    model = LogisticRegression(C=10.0, max_iter=1_000)
    model.fit(encode([row["text"] for row in train]), [row["label"] for row in train])
    score = model.decision_function(encode([row["text"] for row in dev]))
    return np.array([row["label"] == 1 for row in dev]), np.array([row["source"] for row in dev]), score


def faithfulness(encode: Encode, data: Path, most: int) -> Scored:
    rows = [row for row in sampled(data / "dev.jsonl.gz", most // 5) if row["context"]]
    texts = list(dict.fromkeys(text for row in rows for text in (row["response"], *row["context"])))
    of = dict(zip(texts, encode(texts), strict=True))
    score = [max(float(of[row["response"]] @ of[text]) for text in row["context"]) for row in rows]
    return np.array([row["label"] == 0 for row in rows]), np.array([row["dataset"] for row in rows]), np.array(score)


# --- other ways to run it --------------------------------------------------------------------------------------------


def dynamic_int8() -> SentenceEncoder:
    import torch

    encoder = SentenceEncoder(EncoderConfig(device="cpu", cache_bytes=0))
    model: Any = getattr(encoder.model, "sentence_transformer")  # noqa: B009 (the model that is loaded by default has it)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is on its way to another package
        quantised = torch.ao.quantization.quantize_dynamic(model[0].model, {torch.nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    model[0].model = quantised
    return encoder


def int8_by_row() -> SentenceEncoder:
    """Activations with a scale for each token, so that a text's own numbers decide alone."""
    import torch

    class Linear(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            weight = linear.weight.detach()
            self.scale = weight.abs().amax(dim=1) / 127
            self.weight = torch.round(weight / self.scale[:, None]).to(torch.int8).t()
            self.bias = linear.bias.detach()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.reshape(-1, x.shape[-1])
            scale = flat.abs().amax(dim=1, keepdim=True).clamp_min(1e-8) / 127
            found = torch._int_mm(torch.round(flat / scale).to(torch.int8), self.weight)
            return (found * scale * self.scale + self.bias).reshape(*x.shape[:-1], -1)

    def swap(module: torch.nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, Linear(child))
            else:
                swap(child)

    encoder = SentenceEncoder(EncoderConfig(device="cpu", cache_bytes=0))
    model: Any = getattr(encoder.model, "sentence_transformer")  # noqa: B009 (as above)
    swap(model[0].model)
    return encoder


def onnx_int8(encoder: SentenceEncoder, folder: Path) -> Encode:
    import onnxruntime  # type: ignore[import-not-found, unused-ignore]
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-not-found, unused-ignore]

    model: Any = getattr(encoder.model, "sentence_transformer")  # noqa: B009 (as above)
    inner = copy.deepcopy(model[0].model)
    inner.config._attn_implementation = "eager"

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden = self.inner(input_ids=ids, attention_mask=mask).last_hidden_state
            keep = mask[:, :, None].to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * keep).sum(1) / keep.sum(1), dim=1)

    ids = torch.randint(100, 1_000, (3, 17))
    shapes = {name: {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")} for name in ("ids", "mask")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Pooled(), (ids, torch.ones_like(ids)), folder / "m.onnx", dynamo=True, dynamic_shapes=shapes, input_names=list(shapes)
        )
    quantize_dynamic(folder / "m.onnx", folder / "q.onnx", weight_type=QuantType.QInt8, per_channel=True)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "q.onnx"), settings)

    def encode(texts: Sequence[str]) -> Vectors:
        tokens = encoder.model.tokenize(list(texts))
        out = np.empty((len(texts), encoder.dimension), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: -len(tokens[i]))
        for at in range(0, len(order), 32):
            part = order[at : at + 32]
            given = np.zeros((len(part), len(tokens[part[0]])), dtype=np.int64)
            mask = np.zeros_like(given)
            for row, i in enumerate(part):
                given[row, : len(tokens[i])], mask[row, : len(tokens[i])] = tokens[i], 1
            out[part] = session.run(None, {"ids": given, "mask": mask})[0]
        return out

    return encode
