"""Support of claims by a checkpoint that the user brings, in the place of the shipped heads of `faithfulness`.

Three kinds, of any architecture that transformers knows, from a local folder of safetensors; no code of a checkpoint runs:

    nli            a sequence classifier of pairs with a label for entailment (premise, hypothesis)
    hhem           a sequence classifier that says how consistent a text is with its source, by one logit or two classes, as
                   Vectara's Hughes Hallucination Evaluation Model (HHEM-1.0)
    lettucedetect  a token classifier that marks the tokens of an answer that its passages do not support, as LettuceDetect
                   (Kovacs and Recski, 2025) and, before it, Luna

The first two read each claim with the sentences that were nearest to it, the third reads passages and answer together.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from detectors.batching import Batches, OutOfDeviceMemory
from detectors.crossencoder import CrossConfig, CrossScorer, positions, untrained
from detectors.embedding import clean, precision_on, without_progress_bar
from detectors.modelfolder import ModelMissing, ModelUnfit, check_model, weight_shapes

FloatArray = NDArray[np.float64]
Backend = Literal["nli", "hhem", "lettucedetect"]

ENTAILS = re.compile(r"entail", re.IGNORECASE)
CONSISTENT = re.compile(r"consisten|entail|factual|support|faithful|grounded", re.IGNORECASE)
NOT = re.compile(r"^(not|non|un|in|no)|[ _-](not|non|un)[ _-]?", re.IGNORECASE)
HALLUCINATED = re.compile(r"halluc|unsupport|not[ _-]?support|incorrect", re.IGNORECASE)
UNNAMED = re.compile(r"LABEL_\d+")


class Asked(NamedTuple):
    """An answer whose claims are to be judged."""

    response: str
    question: str | None
    spans: Sequence[tuple[int, int]]
    premises: Sequence[str]
    """For each claim the sentences nearest to it, as one text."""
    passages: Sequence[str]


class Supports(NamedTuple):
    support: FloatArray
    """(claims,), 0 to 1; NaN for a claim that the model could not read."""
    truncated: bool
    """Something was longer than what the model reads."""


class Judge(Protocol):
    stage: str

    def support(self, asked: Sequence[Asked]) -> list[Supports]: ...


_loaded: WeakValueDictionary[tuple[object, ...], Judge] = WeakValueDictionary()
_loading = threading.Lock()


def load(backend: Backend, checkpoint: Path, device: str) -> Judge:
    """The judge of a folder. While somebody holds it, who asks for the same gets the same one: `faithfulness` and
    `hallucination` read one checkpoint, which may be of gigabytes. A folder whose files have changed is read anew.

    Raises:
        ModelMissing, ModelUnfit: nothing is there, or not a model of that kind. The message says what to do.
    """
    if problem := checkpoint_problem(checkpoint):
        raise ModelMissing(problem)
    files = sorted((str(path), stat.st_mtime_ns, stat.st_size) for path in checkpoint.iterdir() for stat in [path.stat()])
    key = (backend, device, *files)
    with _loading:
        if (found := _loaded.get(key)) is None:
            found = TokenJudge(checkpoint, device) if backend == "lettucedetect" else PairJudge(backend, checkpoint, device)
            _loaded[key] = found
        return found


def checkpoint_problem(folder: Path) -> str | None:
    """What is wrong with a folder, or None. Reads names and headers only: the check to make at start-up."""
    if not (folder / "config.json").is_file():
        return f"{folder}: there is no config.json in it; give the folder of a model, with its tokenizer and safetensors"
    try:
        check_model(folder)
    except ModelUnfit as exc:
        return str(exc)
    return None


# --- pairs: NLI and HHEM ---------------------------------------------------------------------------------------------


class PairJudge:
    """A sequence classifier that reads a claim together with its premise."""

    def __init__(self, backend: Literal["nli", "hhem"], folder: Path, device: str) -> None:
        self.stage: str = backend
        self._scorer = CrossScorer(CrossConfig(path=folder, device=device))
        self._column = column(backend, self._scorer.labels, folder)

    def support(self, asked: Sequence[Asked]) -> list[Supports]:
        pairs = [
            (premise, one.response[start:end])
            for one in asked
            for (start, end), premise in zip(one.spans, one.premises, strict=True)
        ]
        found, cut = self._scorer.predict_and_tell(pairs)
        supports, at = [], 0
        for one in asked:
            here = slice(at, at := at + len(one.spans))
            supports.append(Supports(found[here, self._column].astype(np.float64), bool(cut[here].any())))
        return supports


def column(backend: Literal["nli", "hhem"], labels: Sequence[str], folder: Path) -> int:
    """Which of the labels says that the claim is supported. Raises `ModelUnfit`.

    >>> column("nli", ["contradiction", "entailment", "neutral"], Path("m")), column("hhem", ["LABEL_0"], Path("m"))
    (1, 0)
    >>> column("nli", ["not_entailment", "entailment"], Path("m")), column("hhem", ["hallucinated", "consistent"], Path("m"))
    (1, 1)
    """
    wanted = ENTAILS if backend == "nli" else CONSISTENT
    named = [i for i, name in enumerate(labels) if wanted.search(name) and not NOT.search(name)]
    if len(named) == 1 and 2 <= len(labels) <= 3:
        return named[0]
    if backend == "hhem" and len(labels) == 1:
        return 0
    if backend == "hhem" and len(labels) == 2 and all(UNNAMED.fullmatch(name) for name in labels):
        return 1  # as Vectara has it: 1 is consistent
    fits = (
        "two or three labels, one of which says entailment"
        if backend == "nli"
        else "one logit, or two labels, one of them consistent"
    )
    raise ModelUnfit(
        f"{folder}: backend {backend} needs a classifier with {fits}, and this one has {', '.join(labels)}; "
        "name its labels in id2label of config.json if you know them, or choose another backend"
    )


# --- tokens: LettuceDetect -------------------------------------------------------------------------------------------

MAX_CLAIMS = 32  # of an answer's piece that is read at once: the width of what the model gives


class Piece(NamedTuple):
    """Part of an answer that is read at once, and its claims by their offsets in it."""

    prompt: str
    text: str
    spans: tuple[tuple[int, int], ...]


class Marked:
    """One piece, tokenized, and which tokens lie in which claim. Its length is that of its ids."""

    __slots__ = ("cut", "ids", "tokens", "types")

    def __init__(self, ids: list[int], types: list[int] | None, tokens: list[list[int]], cut: bool) -> None:
        self.ids = ids
        self.types = types
        self.tokens = tokens
        self.cut = cut

    def __len__(self) -> int:
        return len(self.ids)


class TokenJudge:
    """A token classifier. The support of a claim is one less the highest probability of a token in it to be made up."""

    stage = "lettucedetect"

    def __init__(self, folder: Path, device: str) -> None:
        self._model = LocalTokenClassifier(folder, device)
        self._batches = Batches(self._model, None)
        self._lock = threading.Lock()

    def support(self, asked: Sequence[Asked]) -> list[Supports]:
        pieces = [pieces_of(one, self._model.limit) for one in asked]
        with self._lock:
            found = self._batches.run([piece for of_one in pieces for piece in of_one])
            cut = self._model.cut
        supports, at = [], 0
        for of_one in pieces:
            rows = range(at, at := at + len(of_one))
            worst = np.concatenate([found[row, : len(piece.spans)] for row, piece in zip(rows, of_one, strict=True)])
            supports.append(Supports(1.0 - worst.astype(np.float64), any(cut[row] for row in rows)))
        return supports


def pieces_of(asked: Asked, most_bytes: int) -> list[Piece]:
    """The answer in pieces of whole claims, each of so many bytes or of one claim, behind the question and the passages."""
    shown = "\n".join(f"passage {i}: {text}" for i, text in enumerate(asked.passages, 1))
    prompt = f"{asked.question}\n{shown}" if asked.question else shown
    found: list[Piece] = []
    chosen: list[tuple[int, int]] = []
    for span in [*asked.spans, None]:
        full = chosen and (
            span is None
            or len(chosen) == MAX_CLAIMS
            or len(asked.response[chosen[0][0] : span[1]].encode("utf-8", "replace")) > most_bytes
        )
        if full:
            first, last = chosen[0][0], chosen[-1][1]
            spans = tuple((start - first, end - first) for start, end in chosen)
            # Half of a pair has no tokens; what stands in its place is as long.
            text = asked.response[first:last].encode("utf-8", "replace").decode()
            found.append(Piece(prompt.encode("utf-8", "replace").decode(), text, spans))
            chosen = []
        if span is not None:
            chosen.append((span[0], span[1]))
    return found


class LocalTokenClassifier:
    """Implements `batching.Model`: for each claim of a piece the highest probability of its tokens to be made up; NaN where the
    model read none of them. Raises `ModelUnfit`."""

    width = MAX_CLAIMS

    def __init__(self, folder: Path, device: str) -> None:
        # Imported here because torch takes seconds and hundreds of megabytes.
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        self._out_of_memory = torch.OutOfMemoryError
        self.device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self.cut: list[bool] = []  # of the pieces tokenized last
        try:
            auto: Any = AutoModelForTokenClassification
            with without_progress_bar():
                self._net: Any = auto.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
                ).eval()
            self._net.to(self.device)
            self.precision = precision_on(self.device, "auto")
            if self.precision != "float32":
                self._net.to(getattr(torch, self.precision))
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if not self._tokenizer.is_fast:
                raise ValueError("its tokenizer does not say where tokens lie in the text: it has no tokenizer.json")
            if drawn := untrained(self._net, weight_shapes(folder)):
                raise ValueError(f"its files hold no weights for {', '.join(drawn)}: it is no token classifier")
            self._column = marked_column([str(self._net.config.id2label[i]) for i in range(self._net.config.num_labels)])
            self.limit = int(min(4_096, self._tokenizer.model_max_length, positions(self._net, 4_096)))
            sample = self.compute(self.tokenize([Piece("It is warm.", "It is cold.", ((0, 11),))]))
        except Exception as exc:  # whatever a folder can hold that is no such model
            raise ModelUnfit(
                f"{folder}: cannot be used as a token classifier ({type(exc).__name__}: {str(exc)[:300]}); "
                "set checkpoint to one with two labels, or copy all its files again"
            ) from exc
        if not np.isfinite(sample[:, :1]).all():
            raise ModelUnfit(f"{folder}: its answers are not finite in {self.precision}; use another checkpoint, or the CPU")

    def tokenize(self, texts: list[Piece]) -> list[Marked]:
        found = self._tokenizer(
            [clean(piece.prompt, 4 * self.limit) for piece in texts],
            [piece.text for piece in texts],
            truncation="longest_first",
            max_length=self.limit,
            return_offsets_mapping=True,
        )
        marked = []
        for i, piece in enumerate(texts):
            ids, offsets, of_text = found["input_ids"][i], found["offset_mapping"][i], found.sequence_ids(i)
            tokens = [
                [k for k, (start, end) in enumerate(offsets) if of_text[k] == 1 and start < span[1] and end > span[0]]
                for span in piece.spans
            ]
            types = found["token_type_ids"][i] if "token_type_ids" in found else None
            marked.append(Marked(ids, types, tokens, len(ids) >= self.limit))
        self.cut = [one.cut for one in marked]
        return marked

    def compute(self, tokens: list[Marked]) -> NDArray[np.float32]:
        import torch

        given: dict[str, Any] = {"input_ids": [one.ids for one in tokens]}
        if tokens[0].types is not None:
            given["token_type_ids"] = [one.types or [] for one in tokens]
        try:
            padded = {name: tensor.to(self.device) for name, tensor in self._tokenizer.pad(given, return_tensors="pt").items()}
            with torch.inference_mode():
                # The host waits for the device here.
                made_up = self._net(**padded).logits.float().softmax(dim=-1)[:, :, self._column].cpu().numpy()
        except self._out_of_memory as exc:
            raise OutOfDeviceMemory(f"{len(tokens)} texts do not fit on {self.device}") from exc
        found = np.full((len(tokens), self.width), np.nan, dtype=np.float32)
        for row, one in enumerate(tokens):
            for claim, places in enumerate(one.tokens):
                if places:
                    found[row, claim] = made_up[row, places].max()
        return found

    def to_cpu(self) -> None:
        self._net.to("cpu").float()
        self.device, self.precision = "cpu", "float32"


def marked_column(labels: Sequence[str]) -> int:
    """Which of two labels marks what is made up. Raises `ValueError`.

    >>> marked_column(["LABEL_0", "LABEL_1"]), marked_column(["hallucinated", "supported"])
    (1, 0)
    """
    if len(labels) != 2:
        raise ValueError(f"it has {len(labels)} labels ({', '.join(labels[:5])}), and not two")
    named = [i for i, name in enumerate(labels) if HALLUCINATED.search(name)]
    if len(named) == 1:
        return named[0]
    if all(UNNAMED.fullmatch(name) for name in labels):
        return 1  # as LettuceDetect has it
    raise ValueError(f"none of its labels ({', '.join(labels)}) says hallucinated; name them in id2label of config.json")
