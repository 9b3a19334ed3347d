"""Distils the static encoder from MiniLM and writes it with its card: `python -m detectors.training.static --data DIR [DIR ...]`.

Each DIR holds train.jsonl.gz and dev.jsonl.gz with `text`, or with `question`, `response` and `context`. Labels are not read.

1. Each token of the vocabulary goes through MiniLM once, alone between [CLS] and [SEP]; its own output is its vector, times
   log(1 + rank), as the vocabulary is ordered by frequency (Model2Vec, Tulkens and van Dongen 2024, does the same).
2. What MiniLM says of the sentences of train gives the 256 directions that are kept (principal components, about zero).
3. Ridge regression moves the token vectors until a sentence's mean is near what MiniLM says of the sentence; a token that does
   not occur stays where step 1 put it. Convex, so there is one answer.
4. Rounded to int8, one scale for each token.

Takes some six minutes of processor time, nearly all of it MiniLM on the sentences.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from tqdm import tqdm

from detectors.claims import sentences
from detectors.embedding import EncoderConfig, SentenceEncoder, find_model
from detectors.static import StaticEncoder, read_tokenizer

Matrix = NDArray[np.float32]

SEED = 0
DIMENSION = 256
RIDGE = 0.1  # 0.01 is nearer to MiniLM on dev's cosines (0.885 against 0.868), and worse for words that train does not have
ROUNDS = 40
MOST_TEXTS = 12_000  # of a folder
MAX_TOKENS = 256
PAIRS = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Distil the static encoder.")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with train.jsonl.gz and dev.jsonl.gz")
    parser.add_argument("--out", type=Path, default=Path("detectors/weights/static"), help="where it goes, with its card")
    options = parser.parse_args(arguments)
    teacher = SentenceEncoder(EncoderConfig(max_tokens=MAX_TOKENS))
    card = distil(options.data, options.out, teacher)
    print(json.dumps(card["cosines"], indent=1))
    return 0


def distil(
    data: Sequence[Path], out: Path, teacher: SentenceEncoder, most: int = MOST_TEXTS, dimension: int = DIMENSION
) -> dict[str, Any]:
    """Fit on train, measure on dev, write; the card."""
    model = find_model(teacher.config.path)
    (out / "tokenizer.json").parent.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    tokenizer = read_tokenizer(out / "tokenizer.json", MAX_TOKENS)
    known = {folder.name: texts(folder / "train.jsonl.gz", most) for folder in data}
    both = [text for part in known.values() for text in part]
    wanted = encoded(teacher, both)
    _, directions = np.linalg.eigh(wanted.T @ wanted)
    kept = np.ascontiguousarray(directions[:, ::-1][:, :dimension])
    start = vocabulary(teacher, tokenizer.get_vocab_size())
    table = fitted(start @ kept, means(tokenizer, both), wanted @ kept)
    scale = np.maximum(np.abs(table).max(axis=1), 1e-12) / 127
    from safetensors.numpy import save

    content = save({"table": np.round(table / scale[:, None]).astype(np.int8), "scale": scale.astype(np.float32)})
    card = {
        "name": f"static-{dimension}",
        "file": "model.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "tokenizer_sha256": hashlib.sha256((out / "tokenizer.json").read_bytes()).hexdigest(),
        "made": datetime.now(UTC).date().isoformat(),
        "teacher": teacher.name,
        "dimension": dimension,
        "recipe": "token outputs of the teacher x log(1 + rank); principal components of sentences; ridge to sentences; int8",
        "settings": {"seed": SEED, "ridge": RIDGE, "rounds": ROUNDS, "max_tokens": MAX_TOKENS},
        "texts": {name: len(part) for name, part in known.items()},
    }
    (out / "model.safetensors").write_bytes(content)
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    pupil = StaticEncoder(out)
    card["cosines"] = {folder.name: cosines(teacher, pupil, texts(folder / "dev.jsonl.gz", most // 4)) for folder in data}
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


def texts(path: Path, most: int) -> list[str]:
    """At most so many distinct sentences and short texts of a file, seeded."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        found = list(dict.fromkeys(text for line in file for text in pieces(json.loads(line))))
    if len(found) > most:
        found = [found[i] for i in np.sort(np.random.default_rng(SEED).choice(len(found), most, replace=False))]
    return found


def pieces(row: dict[str, Any]) -> Iterator[str]:
    if isinstance(row.get("text"), str):
        yield row["text"]
    for part in (row.get("question"), row.get("response"), *(row.get("context") or ())):
        if isinstance(part, str):
            for start, end in sentences(part):
                yield part[start:end]


def encoded(teacher: SentenceEncoder, many: Sequence[str], batch: int = 512) -> Matrix:
    parts = tqdm(range(0, len(many), batch), desc="sentences", unit="batch", file=sys.stderr)
    return np.concatenate([teacher.encode(many[at : at + batch]) for at in parts])


def vocabulary(teacher: SentenceEncoder, size: int, batch: int = 512) -> Matrix:
    """float32 (size, 384): each token's own output, times log(1 + rank)."""
    import torch

    model: Any = getattr(teacher.model, "sentence_transformer")  # noqa: B009 (the model that is loaded by default has it)
    first, last = model.tokenizer.cls_token_id, model.tokenizer.sep_token_id
    out = []
    with torch.inference_mode():
        for at in tqdm(range(0, size, batch), desc="vocabulary", unit="batch", file=sys.stderr):
            ids = torch.arange(at, min(size, at + batch))
            given = torch.stack([torch.full_like(ids, first), ids, torch.full_like(ids, last)], dim=1)
            found = model({"input_ids": given, "attention_mask": torch.ones_like(given)})["token_embeddings"]
            out.append(found[:, 1].float().cpu().numpy())
    vectors = np.concatenate(out)
    weight = np.log1p(np.arange(1, size + 1, dtype=np.float32))[:, None]
    return np.asarray((vectors - vectors.mean(axis=0)) * weight, dtype=np.float32)


def means(tokenizer: Any, many: Sequence[str]) -> scipy.sparse.csr_matrix:
    """(texts, vocabulary): times a table of token vectors it gives the mean of each text."""
    ids = [found.ids for found in tokenizer.encode_batch_fast(list(many), add_special_tokens=False)]
    lengths = np.array([len(one) for one in ids])
    values = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    columns = np.concatenate([np.asarray(one, dtype=np.int64) for one in ids])
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return scipy.sparse.csr_matrix((values, columns, ends), shape=(len(ids), tokenizer.get_vocab_size()))


def fitted(start: Matrix, mean: scipy.sparse.csr_matrix, wanted: Matrix) -> Matrix:
    """The table nearest to `start` whose means are nearest to `wanted`: conjugate gradients, preconditioned by the diagonal."""
    mean.sum_duplicates()
    back = mean.T.tocsr()
    now = mean @ start
    start = start * (float((now * wanted).sum()) / float((now * now).sum()))
    moved = np.zeros_like(start)
    left = back @ (wanted - mean @ start)
    inverse = 1 / (np.asarray(mean.multiply(mean).sum(axis=0)).ravel() + RIDGE)[:, None]
    step = inverse * left
    size = (left * step).sum(axis=0)
    for _ in tqdm(range(ROUNDS), desc="ridge", unit="round", file=sys.stderr):
        seen = back @ (mean @ step) + RIDGE * step
        length = size / np.maximum((step * seen).sum(axis=0), 1e-12)
        moved += length * step
        left -= length * seen
        turned = inverse * left
        new = (left * turned).sum(axis=0)
        step = turned + (new / np.maximum(size, 1e-20)) * step
        size = new
    return np.asarray(start + moved, dtype=np.float32)


def cosines(teacher: SentenceEncoder, pupil: StaticEncoder, many: Sequence[str]) -> dict[str, float]:
    """How far the two agree on pairs of texts, half of them neighbours: Pearson correlation of the cosines."""
    rng = np.random.default_rng(SEED)
    left = np.concatenate([rng.integers(0, len(many), PAIRS), np.arange(len(many) - 1)])
    right = np.concatenate([rng.integers(0, len(many), PAIRS), np.arange(1, len(many))])
    sides = [(v[left] * v[right]).sum(axis=1) for v in (encoded(teacher, many), pupil.encode(many))]
    return {"correlation": round(float(np.corrcoef(*sides)[0, 1]), 3), "texts": len(many)}


if __name__ == "__main__":
    sys.exit(main())
