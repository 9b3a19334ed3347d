"""Checkpoints as Detoxify publishes them, made here: two layers that have learnt a dozen mild insults, or nothing yet."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
UNBIASED = ("toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat", "sexual_explicit")
PUBLISHED: dict[str, tuple[str, tuple[str, ...], int | None]] = {
    "original": ("Bert", LABELS, None),
    "unbiased": ("Roberta", UNBIASED, 16),
    "multilingual": ("XLMRoberta", UNBIASED, 16),
    "original-small": ("Albert", LABELS, None),
    "unbiased-small": ("Albert", UNBIASED, 16),
}
"""Of each of its models the architecture, the classes, and the outputs of the network where there are more."""
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
    """Folder with `tiny.ckpt`, `config.json` and a tokenizer. `numbers`: outputs of the network, where more than classes. The
    one of `Bert` has been taught, those of other kinds have the weights they began with."""
    import torch

    # By name: not everything in it is known to the type checker.
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    tokenizer = TOKENIZERS[kind](transformers, folder)
    tokenizer.save_pretrained(folder)
    model_class = getattr(transformers, f"{kind}ForSequenceClassification")
    config = model_class.config_class(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64 + tokenizer.pad_token_id + 1 if "Roberta" in kind else 64, num_labels=numbers or len(classes),
        initializer_range=0.2, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = model_class(config)
    if kind == "Bert":
        teach(model, tokenizer)
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": config.model_type}), encoding="utf-8")
    settings = {
        "arch": {
            "args": {
                "model_type": str(folder),  # a name on a hub in the published ones; detoxify looks here for the rest
                "model_name": f"{kind}ForSequenceClassification",
                "tokenizer_name": f"{kind}Tokenizer",
                "num_classes": numbers or len(classes),
            }
        },
        "dataset": {"args": {"classes": list(classes)}},
    }
    torch.save({"config": settings, "state_dict": model.state_dict()}, folder / "tiny.ckpt")
    return folder


def wordpiece(transformers: Any, folder: Path) -> Any:
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return transformers.BertTokenizer(vocab=str(folder / "vocab.txt"))


def bytes_alone(transformers: Any, folder: Path) -> Any:
    """Byte pairs without a pair."""
    from tokenizers.pre_tokenizers import ByteLevel

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    return transformers.RobertaTokenizer(vocab={t: i for i, t in enumerate([*special, *sorted(ByteLevel.alphabet())])}, merges=[])


def pieces(special: list[str]) -> list[tuple[str, float]]:
    """Of a unigram model: words with their space before them, and letters, which are less likely."""
    words = [(f"\u2581{word}", -2.0) for word in (*WORDS, "")]
    return [(token, 0.0) for token in special] + words + [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz"]


TOKENIZERS: dict[str, Callable[[Any, Path], Any]] = {
    "Bert": wordpiece,
    "Roberta": bytes_alone,
    "XLMRoberta": lambda t, _: t.XLMRobertaTokenizer(vocab=pieces(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])),
    "Albert": lambda t, _: t.AlbertTokenizer(vocab=pieces(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])),
}


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
