"""Detoxify's models from a local checkpoint, with the predictions of its version 0.5.4 (Hanu and Unitary, 2020).

A checkpoint is a folder with either the `.ckpt` that Detoxify publishes beside the `config.json` and the tokenizer files of the
model it was made from, or a Hugging Face sequence classifier in safetensors (`unitary/toxic-bert` and its kin). Nothing is
downloaded, nothing is unpickled but tensors, and no code of a checkpoint is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors.batching import Batches, OutOfDeviceMemory
from detectors.modelfolder import ModelMissing, ModelUnfit

if TYPE_CHECKING:
    from detectors.toxicity import Judged

TOKEN_CHARS = 3  # a window has so many characters for each token that the model reads: 1,536 of 512
RENAMED = {"toxic": "toxicity", "identity_hate": "identity_attack", "severe_toxic": "severe_toxicity"}  # as Detoxify does
PICKLED = ("*.ckpt", "*.pt", "*.pth", "*.bin")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
MODELS = ("Bert", "Roberta", "XLMRoberta", "Albert", "DistilBert")
CLASSES = tuple(f"{name}ForSequenceClassification" for name in MODELS)
TOKENIZERS = ("AutoTokenizer", *(f"{name}Tokenizer{fast}" for name in MODELS for fast in ("", "Fast")))


def checkpoint_problem(folder: Path) -> str | None:
    """What is missing of a checkpoint, with the remedy, or None. Looks at names only: the check to make at start-up."""
    how = "place one with `modelwatch models add` (its --help has the commands; nothing is downloaded)"
    if not folder.is_dir():
        return f"there is no folder {folder}; {how}"
    if not (folder / "config.json").is_file():
        return f"{folder}: no config.json in it (the one of the model that the checkpoint was made from); {how}"
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return f"{folder}: no tokenizer in it (one of {', '.join(TOKENIZER_FILES)}); {how}"
    if len(found := _weights(folder)) != 1:
        names = ", ".join(path.name for path in found) or "none"
        return f"{folder}: there must be one file of weights (.ckpt or .safetensors), there is {names}; {how}"
    return None


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(path for pattern in PICKLED for path in folder.glob(pattern))


class Detoxify:
    """Implements `toxicity.Backend`.

    Gives:  on a CPU what Detoxify's own `predict` gives, up to 1e-5; in half precision on a GPU up to 5e-3.
    Costs:  constructing it imports torch and transformers and loads the model.
    Raises: ModelMissing or ModelUnfit, on construction.
    """

    window_chars: tuple[int, int]
    labels: tuple[str, ...]

    def __init__(self, folder: Path, device: str, label: str) -> None:
        if problem := checkpoint_problem(folder):
            raise ModelMissing(problem)
        self._model = Classifier(folder, device)
        self._batches = Batches(self._model, None)
        self.labels = self._model.labels
        size = TOKEN_CHARS * self._model.limit
        self.window_chars = (size, size)  # as much at once as it reads, since it understands more than a sentence
        if label not in self.labels:
            raise ModelUnfit(f"{folder}: label {label!r} is none of this checkpoint's; there are {', '.join(self.labels)}")
        self._label = self.labels.index(label)

    def judge(self, texts: Sequence[str]) -> Judged:
        from detectors.toxicity import Judged  # it imports this module where a checkpoint is asked for

        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        labels = self._batches.run(clean).astype(np.float64)
        return Judged(labels[:, self._label], labels, ["detoxify"] * len(texts), self._model.full)


class Classifier:
    """Implements `batching.Model`: a probability for each label."""

    def __init__(self, folder: Path, device: str) -> None:
        # Imported here because torch takes seconds and hundreds of megabytes.
        import torch
        import transformers

        self._torch = torch
        self.device = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        path = _weights(folder)[0]
        try:
            if path.suffix == ".safetensors":
                found = transformers.AutoModelForSequenceClassification.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
                )
                names = [found.config.id2label[i] for i in range(found.config.num_labels)]
                self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            else:
                found, names, self.tokenizer = _of_detoxify(folder, path)
        except ModelUnfit:
            raise
        except Exception as exc:  # whatever these loaders raise, it is about the files
            raise ModelUnfit(f"{path}: cannot be loaded ({type(exc).__name__}: {str(exc)[:300]}); copy it again") from exc
        self.labels = tuple(RENAMED.get(name, name) for name in names)
        self.width = len(self.labels)
        self.full: list[bool] = []  # of the texts tokenized last: did they fill what the model reads, and may have been cut
        self._half = not self.device.startswith("cpu")
        self._net: Any = found.to(self.device).eval()
        if self._half:
            self._net.half()
        places = getattr(found.config, "max_position_embeddings", 512)
        # RoBERTa and its kin begin to count behind the padding's number.
        places -= (found.config.pad_token_id or 0) + 1 if "roberta" in found.config.model_type else 0
        self.limit = min(self.tokenizer.model_max_length, places)
        sample = self.compute(self.tokenize(["a text"]))
        if sample.shape != (1, self.width) or not np.isfinite(sample).all():
            raise ModelUnfit(
                f"{path}: gives {sample.shape[1]} numbers for {self.width} labels, or none; copy all files of one model"
            )

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self.tokenizer(texts, truncation=True, max_length=self.limit)["input_ids"]
        self.full = [len(one) >= self.limit for one in found]
        return found

    def compute(self, tokens: list[list[int]]) -> NDArray[np.float32]:
        torch = self._torch
        try:
            with torch.inference_mode():
                padded = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(self.device)
                logits = self._net(**padded)[0]
                # The host waits for the device here.
                found: NDArray[np.float32] = torch.sigmoid(logits.float())[:, : self.width].cpu().numpy()
                return found
        except torch.OutOfMemoryError as exc:
            raise OutOfDeviceMemory(f"{len(tokens)} texts do not fit on {self.device}") from exc

    def to_cpu(self) -> None:
        self._net.float().to("cpu")
        self.device = "cpu"


def _of_detoxify(folder: Path, path: Path) -> tuple[Any, list[str], Any]:
    """Model, label names and tokenizer, as detoxify.load_checkpoint makes them."""
    import pickle

    import torch
    import transformers

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ModelUnfit(
            f"{path}: holds more than tensors and settings, or is damaged; only such files are read ({exc})"
        ) from exc
    try:
        arguments, state = loaded["config"]["arch"]["args"], loaded["state_dict"]
        names = list(loaded["config"]["dataset"]["args"]["classes"])
        kind, tokenizer, classes = arguments["model_name"], arguments["tokenizer_name"], int(arguments["num_classes"])
    except (KeyError, TypeError) as exc:
        raise ModelUnfit(
            f"{path}: no checkpoint of Detoxify: it has no {exc} where that belongs; copy the published file"
        ) from exc
    if kind not in CLASSES or tokenizer not in TOKENIZERS:
        raise ModelUnfit(f"{path}: wants {kind} and {tokenizer}; known are {', '.join((*CLASSES, *TOKENIZERS))}")
    model_class = getattr(transformers, kind)
    config = model_class.config_class.from_pretrained(folder, num_labels=classes, local_files_only=True)
    model = model_class(config)
    wrong = _misfits(model.state_dict(), state)
    if wrong:
        raise ModelUnfit(f"{path}: does not fit {folder / 'config.json'}: {wrong}; copy all files of one model")
    model.load_state_dict(state, strict=False)
    return model, names, getattr(transformers, tokenizer).from_pretrained(folder, local_files_only=True)


def _misfits(wanted: dict[str, Any], given: dict[str, Any]) -> str:
    """The first difference in names and shapes that matters, in words. Older checkpoints carry positions as a tensor."""
    for name, tensor in wanted.items():
        if name not in given:
            return f"there is no {name} in it"
        if given[name].shape != tensor.shape:
            return f"{name} is {list(given[name].shape)}, the configuration says {list(tensor.shape)}"
    more = sorted(name for name in given if name not in wanted and not name.endswith("position_ids"))
    return f"{more[0]} has no place" if more else ""
