"""A checkpoint as Detoxify publishes them, made here: two layers that have learnt a dozen mild insults."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
RUDE = ("stupid", "idiot", "awful", "dumb", "silly", "loser")
KIND = ("lovely", "friend", "good", "clever", "nice", "winner")
FRAMES = ("you are a {} one", "what a {}", "this is {}", "the {} man said so", "{}", "you {} and your house")
WORDS = sorted({word for frame in FRAMES for word in frame.split() if word != "{}"} | set(RUDE) | set(KIND))
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *WORDS,
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
]


def make(folder: Path, kind: str = "Bert", classes: tuple[str, ...] = LABELS, numbers: int | None = None) -> Path:
    """Folder with `tiny.ckpt`, `config.json` and a tokenizer. `numbers`: outputs of the network, where more than classes."""
    import torch

    # By name: not everything in it is known to the type checker.
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=numbers or len(classes), initializer_range=0.2,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    teach(model, transformers.BertTokenizer.from_pretrained(folder))
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "bert"}), encoding="utf-8")
    settings = {
        "arch": {
            "args": {
                "model_type": str(folder),  # a name on a hub in the published ones; detoxify looks here for the rest
                "model_name": f"{kind}ForSequenceClassification",
                "tokenizer_name": "BertTokenizer",
                "num_classes": numbers or len(classes),
            }
        },
        "dataset": {"args": {"classes": list(classes)}},
    }
    torch.save({"config": settings, "state_dict": model.state_dict()}, folder / "tiny.ckpt")
    return folder


def teach(model: Any, tokenizer: Any) -> None:
    """A second of training: rude words are toxic and insults, and nothing else."""
    import torch

    texts = [frame.format(word) for frame in FRAMES for word in (*RUDE, *KIND)]
    rude = torch.tensor([float(word in RUDE) for _ in FRAMES for word in (*RUDE, *KIND)])
    target = torch.zeros(len(texts), model.config.num_labels)
    target[:, 0] = rude
    target[:, min(4, model.config.num_labels - 1)] = rude
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.eval()  # no dropout: it has little to learn, and is to learn all of it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine more of them wait for each other
    for _ in range(80):
        optimiser.zero_grad()
        torch.autograd.backward(torch.nn.functional.binary_cross_entropy_with_logits(model(**batch)[0], target))
        optimiser.step()
    torch.set_num_threads(threads)
