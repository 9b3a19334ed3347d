"""Small checkpoints of several architectures with random weights, saved as their libraries save them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectors.embedding import find_model

SMALL: dict[str, Any] = {"vocab_size": 30_522, "max_position_embeddings": 160}


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SMALL, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64))


def _distilbert() -> Any:
    from transformers import DistilBertConfig, DistilBertModel

    return DistilBertModel(DistilBertConfig(**SMALL, dim=32, n_layers=2, n_heads=2, hidden_dim=64))


def _mpnet() -> Any:
    from transformers import MPNetConfig, MPNetModel

    return MPNetModel(MPNetConfig(**SMALL, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64))


KINDS: dict[str, Callable[[], Any]] = {"bert": _bert, "distilbert": _distilbert, "mpnet": _mpnet}


def encoder(folder: Path, kind: str) -> Path:
    """A sentence-transformers model in `folder`, with MiniLM's tokenizer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer

    inner = folder.parent / f"{folder.name}-{kind}"
    torch.manual_seed(0)
    KINDS[kind]().save_pretrained(inner)
    AutoTokenizer.from_pretrained(find_model(None)).save_pretrained(inner)
    module = Transformer(str(inner), max_seq_length=128)
    width = module.get_embedding_dimension()
    SentenceTransformer(modules=[module, Pooling(width)], device="cpu").save(str(folder))
    return folder


def classifier(folder: Path, kind: str, labels: int, names: Sequence[str] = ()) -> Path:
    """A sequence classifier in `folder`, with MiniLM's tokenizer. Its head is not small, so that pairs differ."""
    from transformers import AutoModelForSequenceClassification

    return _with_head(AutoModelForSequenceClassification, folder, kind, labels, names)


def token_classifier(folder: Path, kind: str, labels: int = 2, names: Sequence[str] = ()) -> Path:
    """A token classifier in `folder`, with MiniLM's tokenizer."""
    from transformers import AutoModelForTokenClassification

    return _with_head(AutoModelForTokenClassification, folder, kind, labels, names)


def _with_head(auto: Any, folder: Path, kind: str, labels: int, names: Sequence[str]) -> Path:
    import torch
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    config = KINDS[kind]().config
    config.num_labels = labels
    if names:
        config.id2label = dict(enumerate(names))
    torch.manual_seed(1)
    auto.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_model(None)).save_pretrained(folder)
    return folder
