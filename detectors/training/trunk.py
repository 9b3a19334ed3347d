"""What the frozen layers of MiniLM make of pairs, computed once and kept, and the training of what stands above them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.modelfolder import find_model
from detectors.reader import ANSWERS, PAIR_TOKENS, Tokens, joined, open_base
from detectors.training.examples import Example

FloatArray = NDArray[np.float64]
Indices = NDArray[np.intp]


class Trunk:
    """The frozen layers, run in bfloat16."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer

        path = find_model(None)
        self.model = open_base(path)
        self.tokenizer: Any = Tokenizer.from_file(str(path / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def tokens(self, examples: Sequence[Example], most: int = PAIR_TOKENS) -> list[Tokens]:
        sides = ([one.claim for one in examples], [one.evidence for one in examples])
        claims, evidence = (self.tokenizer.encode_batch_fast(side, add_special_tokens=False) for side in sides)
        start, separator = (self.tokenizer.token_to_id(mark) for mark in ("[CLS]", "[SEP]"))
        return [joined(c.ids, e.ids, start, separator, most) for c, e in zip(claims, evidence, strict=True)]

    def below(self, tokens: list[Tokens], batch: int = 48) -> list[Any]:
        """What comes out of them: bfloat16 (tokens, width) for each pair."""
        import torch

        found: list[Any] = [None] * len(tokens)
        order = np.argsort([-len(one) for one in tokens], kind="stable")
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            for at in range(0, len(order), batch):
                chosen = order[at : at + batch]
                ids, mask, second = padded([tokens[i] for i in chosen])
                hidden = self.model(input_ids=ids, attention_mask=mask, token_type_ids=second).last_hidden_state
                for row, i in enumerate(chosen):
                    found[i] = hidden[row, : len(tokens[i])].to(torch.bfloat16).clone()
        return found


def padded(tokens: Sequence[Tokens]) -> tuple[Any, Any, Any]:
    """Ids, mask and where the evidence is, int64 (pairs, tokens)."""
    import torch

    ids, mask, second = (torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.long) for _ in range(3))
    for row, one in enumerate(tokens):
        ids[row, : len(one)] = torch.tensor(one.ids)
        mask[row, : len(one)] = 1
        second[row, one.first : len(one)] = 1
    return ids, mask, second


class Fitted(NamedTuple):
    """Pairs, ready to train on: their tokens, and what the frozen layers make of them."""

    tokens: list[Tokens]
    below: list[Any]

    def where(self, chosen: Indices) -> Fitted:
        return Fitted([self.tokens[i] for i in chosen], [self.below[i] for i in chosen])

    def batch(self, chosen: Indices) -> tuple[Any, Any, Any]:
        import torch

        _, mask, second = padded([self.tokens[i] for i in chosen])
        hidden = torch.zeros(*mask.shape, 384, dtype=torch.bfloat16)
        for row, i in enumerate(chosen):
            hidden[row, : len(self.tokens[i])] = self.below[i]
        return hidden, mask, second


class Schedule(NamedTuple):
    epochs: int
    rate: float
    batch: int


def fit(model: Any, given: Fitted, answer: Indices, weight: FloatArray, how: Schedule, seed: int = 0) -> Any:
    """AdamW with a linear rise and fall of the rate; pairs of like length share a batch."""
    import torch

    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    epochs, rate, batch = how
    below = [weight for name, weight in model.named_parameters() if not name.startswith("answer.")]
    parts = [{"params": below, "lr": rate}, {"params": model.answer.parameters(), "lr": 5 * rate}]
    optimizer = torch.optim.AdamW(parts, weight_decay=0.01)
    rates = [part["lr"] for part in optimizer.param_groups]
    lengths = np.array([len(one) for one in given.tokens])
    answers, weights = torch.tensor(answer), torch.tensor(weight, dtype=torch.float32)
    steps = epochs * math.ceil(len(lengths) / batch)
    step, loss_so_far, started = 0, 0.0, time.monotonic()
    model.train()
    for _ in range(epochs):
        order = rng.permutation(len(lengths))
        batches: list[Indices] = []
        for at in range(0, len(order), 20 * batch):
            near = order[at : at + 20 * batch]
            near = near[np.argsort(lengths[near], kind="stable")]
            batches += [near[k : k + batch] for k in range(0, len(near), batch)]
        for k in rng.permutation(len(batches)):
            chosen = batches[k]
            for part, full in zip(optimizer.param_groups, rates, strict=True):
                part["lr"] = full * min(1.0, step / (0.1 * steps + 1)) * max(0.0, 1 - step / steps)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(*given.batch(chosen))
            loss: Any = torch.nn.functional.cross_entropy(logits.float(), answers[chosen], reduction="none")
            loss = (loss * weights[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, loss_so_far = step + 1, 0.98 * loss_so_far + 0.02 * float(loss.detach())
            if step % 50 == 0:
                seconds = time.monotonic() - started
                print(f"{step}/{steps} loss {loss_so_far / (1 - 0.98**step):.4f} {seconds:.0f} s", file=sys.stderr, flush=True)
    return model.eval()


def logits_of(model: Any, given: Fitted, batch: int = 64) -> FloatArray:
    """(pairs, answers), as trained: in bfloat16."""
    import torch

    found = np.zeros((len(given.tokens), len(ANSWERS)))
    order = np.argsort([-len(one) for one in given.tokens], kind="stable")
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for at in range(0, len(order), batch):
            chosen = order[at : at + batch]
            found[chosen] = model(*given.batch(chosen)).float().numpy()
    return found
