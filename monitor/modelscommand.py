"""`modelwatch models`: places checkpoints, lists and verifies them, and says how to get one. It never downloads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from monitor import configfile, models
from monitor.config import StoreConfig
from monitor.terminal import table

RELEASES = "https://github.com/unitaryai/detoxify/releases/download"
BERT = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
ROBERTA = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
ALBERT = ("tokenizer.json", "tokenizer_config.json", "spiece.model")
XLM = ("tokenizer.json", "tokenizer_config.json", "sentencepiece.bpe.model")


class Published(NamedTuple):
    """A model of Detoxify: its file, and the model whose configuration and tokenizer it needs beside it."""

    release: str
    file: str
    base: str
    tokenizer: tuple[str, ...]
    languages: str = "English"


DETOXIFY = {
    "original": Published("v0.1-alpha", "toxic_original-c1212f89.ckpt", "google-bert/bert-base-uncased", BERT),
    "unbiased": Published("v0.3-alpha", "toxic_debiased-c7548aa0.ckpt", "FacebookAI/roberta-base", ROBERTA),
    "multilingual": Published(
        "v0.4-alpha", "multilingual_debiased-0b549669.ckpt", "FacebookAI/xlm-roberta-base", XLM,
        "English, French, Spanish, Italian, Portuguese, Turkish, Russian",
    ),
    "original-small": Published("v0.1.2", "original-albert-0e1d6498.ckpt", "albert/albert-base-v2", ALBERT),
    "unbiased-small": Published("v0.1.2", "unbiased-albert-c8519128.ckpt", "albert/albert-base-v2", ALBERT),
}  # fmt: skip
"""As detoxify 0.5.4 names them (detoxify.detoxify.MODEL_URLS). The code and these weights are under Apache-2.0."""


class OnHub(NamedTuple):
    """A checkpoint for a backend of faithfulness and hallucination. Loaded and saved there, whatever form it was published in
    comes here as safetensors."""

    repository: str
    license: str
    auto: str = "AutoModelForSequenceClassification"
    revision: str = "main"
    about: str = ""


ENTAILMENT = {
    "nli": OnHub(
        "cross-encoder/nli-deberta-v3-small", "Apache-2.0",
        about="any sequence classifier of pairs with a label entailment will do",
    ),
    "hhem": OnHub(
        "vectara/hallucination_evaluation_model", "Apache-2.0", revision="hhem-1.0-open",
        about="HHEM-2.1 comes as code of its own, which is not run here",
    ),
    "lettucedetect": OnHub(
        "KRLabsOrg/lettucedect-base-modernbert-en-v1", "MIT", "AutoModelForTokenClassification",
        about="any token classifier with two labels, one for what is made up, will do",
    ),
}  # fmt: skip
"""By backend. Names and licences as their authors give them; look again before you use one."""


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser("models", help="checkpoints for detectors that take one", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    add = _action(actions, "add", _add, "copy a checkpoint into the store's folder, with its hashes", epilog=how("original"))
    add.add_argument("name", metavar="NAME", help="what the config will call it; letters, digits, _, . and -")
    add.add_argument("--from", dest="sources", type=Path, action="append", required=True, metavar="PATH",
                     help="a file, or a folder whose files are taken; may be given several times")  # fmt: skip
    add.add_argument("--revision", help="of what was downloaded: a tag or a commit")
    add.add_argument("--license", help="under which it may be used, such as Apache-2.0")
    listed = _action(actions, "list", _list, "what has been placed")
    listed.add_argument("--json", action="store_true", help="one JSON object a line")
    verify = _action(actions, "verify", _verify, "read every file again and compare its hash; exit code 1 when one differs")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    told = actions.add_parser("how", help="print the commands that get a model on a machine with internet")
    told.add_argument("model", nargs="?", choices=sorted({*DETOXIFY, *ENTAILMENT}), help="default: all")
    told.set_defaults(do=_how)


def _action(actions: Any, name: str, do: Callable[[argparse.Namespace], int], help: str, epilog: str | None = None) -> Any:
    parser = actions.add_parser(
        name, help=help, description=help, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, help="the store's folder (default: store.path of --config)")
    parser.add_argument("--config", type=Path, help="a config file that says where the store is")
    parser.set_defaults(do=do)
    return parser


def _store(arguments: argparse.Namespace) -> Path:
    if arguments.store is not None:
        return Path(arguments.store)
    if arguments.config is None:
        return StoreConfig().path
    return configfile.store_path(arguments.config)


def _add(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    found, left_out = models.add(
        store,
        arguments.name,
        arguments.sources,
        revision=arguments.revision,
        license=arguments.license,
        now=datetime.now(UTC).replace(microsecond=0),
    )
    print(f"{store / models.FOLDER / found.name}: {len(found.files)} files, {found.bytes:,} bytes, sha256 {found.sha256}")
    if left_out:
        print(f"left out, as no model needs them: {', '.join(left_out)}")
    if found.license is None or found.revision is None:
        print("its license or revision is not recorded; delete the folder and add it again with --license and --revision")
    print(f"in the config: checkpoint: {found.name}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    found = [models.manifest(store, name) for name in models.names(store)]
    if arguments.json:
        for one in found:
            print(json.dumps(one.model_dump(mode="json")))
        return 0
    head = ("name", "revision", "license", "bytes", "sha256", "added", "from")
    rows = [
        (one.name, one.revision, one.license, f"{one.bytes:,}", one.sha256[:16], f"{one.added_at:%Y-%m-%d %H:%M}", one.source)
        for one in found
    ]
    print(table(head, rows) if rows else f"no models in {store / models.FOLDER}; `modelwatch models add` places one")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    wrong = 0
    for name in arguments.names or models.names(store):
        damage = list(models.damage(store, models.manifest(store, name)))
        wrong += len(damage)
        print(f"{name}: {'as it was added' if not damage else 'delete its folder and add it again'}")
        for line in damage:
            print(f"  {line}")
    return 1 if wrong else 0


def _how(arguments: argparse.Namespace) -> int:
    print("\n\n".join(how(name) for name in ([arguments.model] if arguments.model else (*DETOXIFY, *ENTAILMENT))))
    return 0


def how(name: str) -> str:
    """The commands, for a machine with internet and then for this one."""
    if name in ENTAILMENT:
        return how_on_hub(name)
    one = DETOXIFY[name]
    folder = one.base.partition("/")[2]
    return (
        f"Detoxify's {name} ({one.languages}), on a machine with internet (pip install huggingface_hub):\n\n"
        f"    curl -fLO {RELEASES}/{one.release}/{one.file}\n"
        f"    hf download {one.base} config.json {' '.join(one.tokenizer)} --local-dir {folder}\n\n"
        f"then bring {one.file} and {folder} here, and:\n\n"
        f"    modelwatch models add detoxify-{name} --from {one.file} --from {folder} \\\n"
        f"        --revision {one.release} --license Apache-2.0 --config modelwatch.yaml\n\n"
        "and in the check: `settings: {backend: detoxify, checkpoint: "
        f"detoxify-{name}}}`."
    )


def how_on_hub(backend: str) -> str:
    """The same for a backend of faithfulness and hallucination."""
    one = ENTAILMENT[backend]
    return (
        f"For backend {backend}, such as {one.repository} ({one.license}; {one.about}),\n"
        "on a machine with internet (pip install transformers torch sentencepiece protobuf):\n\n"
        f"    python - <<'END'\n"
        f"    from transformers import AutoTokenizer, {one.auto}\n"
        f"    source = {{'pretrained_model_name_or_path': '{one.repository}', 'revision': '{one.revision}'}}\n"
        f"    {one.auto}.from_pretrained(**source).save_pretrained('{backend}')\n"
        f"    AutoTokenizer.from_pretrained(**source).save_pretrained('{backend}')\n"
        "    END\n\n"
        f"then bring the folder {backend} here, and:\n\n"
        f"    modelwatch models add {backend} --from {backend} \\\n"
        f"        --revision {one.revision} --license {one.license} --config modelwatch.yaml\n\n"
        f"and in the check of faithfulness or hallucination: `settings: {{backend: {backend}, checkpoint: {backend}}}`."
    )
