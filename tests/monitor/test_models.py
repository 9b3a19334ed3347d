"""Placing checkpoints: whole or not at all, with hashes, and found again by the config by their name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from detectors.entailment import Backend
from monitor import configfile, models
from monitor.errors import ConfigError
from monitor.models import ModelRefused
from monitor.modelscommand import DETOXIFY
from monitor.rowchecks import RowCheck
from tests.monitor.test_cli import run

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "downloaded"
    (folder / "nested").mkdir(parents=True)
    contents = {
        "config.json": b'{"model_type": "bert"}',
        "vocab.txt": b"a\n",
        "weights.safetensors": b"\0" * 100,
        "LICENSE": b"MIT",
    }
    contents |= {"modeling.py": b"import os", ".gitattributes": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def add(store: Path, *sources: Path, name: str = "tiny") -> models.Manifest:
    return models.add(store, name, sources, revision="v1", license="MIT", now=NOW)[0]


def test_a_model_is_placed_with_its_hashes_and_where_it_came_from(tmp_path: Path, source: Path) -> None:
    found, left_out = models.add(tmp_path / "store", "tiny", [source], revision="v1", license="MIT", now=NOW)
    folder = tmp_path / "store" / "models" / "tiny"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "vocab.txt", "weights.safetensors", "LICENSE", "modelwatch.json",
    }  # fmt: skip
    assert left_out == ["modeling.py"]
    assert {file.path: file.sha256 for file in found.files}["vocab.txt"] == hashlib.sha256(b"a\n").hexdigest()
    assert models.manifest(tmp_path / "store", "tiny") == found
    assert (found.revision, found.license, found.added_at, found.source) == ("v1", "MIT", NOW, "downloaded")
    assert models.names(tmp_path / "store") == ["tiny"]
    assert list(models.damage(tmp_path / "store", found)) == []
    assert models.changed(folder) is None


def test_files_and_folders_are_put_together(tmp_path: Path, source: Path) -> None:
    extra = tmp_path / "head.ckpt"
    extra.write_bytes(b"w")
    assert "head.ckpt" in [file.path for file in add(tmp_path / "store", extra, source).files]


def test_the_hash_is_that_of_the_contents_and_not_of_their_order(tmp_path: Path, source: Path) -> None:
    extra = tmp_path / "a.ckpt"
    extra.write_bytes(b"w")
    one = add(tmp_path / "store", extra, source, name="one")
    other = add(tmp_path / "store", source, extra, name="other")
    extra.write_bytes(b"v")
    assert one.sha256 == other.sha256 != add(tmp_path / "store", source, extra, name="third").sha256


def test_a_name_stands_for_one_content(tmp_path: Path, source: Path) -> None:
    add(tmp_path, source)
    with pytest.raises(ModelRefused, match="is there already; a name stands for one content"):
        add(tmp_path, source)


@pytest.mark.parametrize("name", ("", "../up", "a/b", ".hidden", "-x", "a" * 64))
def test_a_name_cannot_lead_elsewhere(tmp_path: Path, source: Path, name: str) -> None:
    with pytest.raises(ModelRefused, match="is no name"):
        add(tmp_path, source, name=name)


def test_what_fails_half_way_leaves_nothing(tmp_path: Path, source: Path) -> None:
    wrong = tmp_path / "toxic_original-c1212f89.ckpt"
    wrong.write_bytes(b"cut off")
    with pytest.raises(
        ModelRefused, match=r"promises a SHA-256 beginning with c1212f89, it is [0-9a-f]{16}\.\.\.; download it again"
    ):
        add(tmp_path / "store", source, wrong)
    assert list((tmp_path / "store" / "models").iterdir()) == []
    right = tmp_path / f"head-{hashlib.sha256(b'whole').hexdigest()[:8]}.ckpt"
    right.write_bytes(b"whole")
    assert len(add(tmp_path / "store", source, right).files) == 5


@pytest.mark.parametrize(
    ("spoil", "word"),
    (
        pytest.param(lambda f: (f / "none").mkdir(), "no file of a model in it", id="empty folder"),
        pytest.param(lambda f: None, "is not there; `modelwatch models how`", id="missing"),
        pytest.param(
            lambda f: [(f / "none").mkdir(), (f / "none" / "vocab.txt").touch()], "vocab.txt stands both in", id="twice"
        ),
    ),
)
def test_what_cannot_be_placed_is_said(tmp_path: Path, source: Path, spoil: object, word: str) -> None:
    assert callable(spoil)
    spoil(tmp_path)
    sources = [tmp_path / "none"] if "both" not in word else [source, tmp_path / "none"]
    with pytest.raises(ModelRefused, match=re.escape(word)):
        add(tmp_path / "store", *sources)


def test_verify_finds_what_changed(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, source)
    add(tmp_path, source, name="other")
    assert run("models", "verify", "--store", tmp_path) == 0
    assert capsys.readouterr().out == "other: as it was added\ntiny: as it was added\n"
    folder = tmp_path / "models" / "tiny"
    (folder / "weights.safetensors").write_bytes(b"\1" * 100)
    (folder / "vocab.txt").unlink()
    (folder / "more.bin").touch()
    assert run("models", "verify", "--store", tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["other: as it was added", "tiny: delete its folder and add it again"]
    assert [line.rpartition("/")[2] for line in lines[2:]] == [
        "vocab.txt: cannot be read (No such file or directory)",
        "weights.safetensors: changed since it was added",
        "more.bin: was not added",
    ]
    assert run("models", "verify", "other", "--store", tmp_path) == 0
    assert run("models", "verify", "nobody", "--store", tmp_path) == 1
    assert "no model 'nobody' in " in capsys.readouterr().err


def test_the_command_places_and_lists(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "modelwatch.yaml"
    config.write_text("store: {path: data}\nmodles: [nonsense]\n")  # models are placed before the file can be right
    assert run("models", "list", "--config", config) == 0
    assert "no models in " in capsys.readouterr().out
    assert run("models", "add", "tiny", "--from", source, "--license", "MIT", "--config", config) == 0
    out = capsys.readouterr().out
    assert "in the config: checkpoint: tiny" in out
    assert "left out, as no model needs them: modeling.py" in out
    assert "its license or revision is not recorded" in out
    assert (tmp_path / "data" / "models" / "tiny" / "config.json").is_file()
    run("models", "list", "--config", config)
    assert "tiny" in capsys.readouterr().out.splitlines()[1]
    run("models", "list", "--store", tmp_path / "data", "--json")
    assert json.loads(capsys.readouterr().out)["license"] == "MIT"


def test_how_prints_commands_for_every_model_of_detoxify(capsys: pytest.CaptureFixture[str]) -> None:
    import detoxify.detoxify

    assert run("models", "how") == 0
    out = capsys.readouterr().out
    for name, url in detoxify.detoxify.MODEL_URLS.items():
        assert f"curl -fLO {url}\n" in out
        assert f"modelwatch models add detoxify-{name} --from {DETOXIFY[name].file}" in out
    assert run("models", "how", "unbiased") == 0
    assert "FacebookAI/roberta-base config.json" in capsys.readouterr().out


@pytest.mark.parametrize("backend", get_args(Backend))
def test_how_prints_commands_for_every_backend_that_takes_a_checkpoint(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "how", backend) == 0
    out = capsys.readouterr().out
    program = out.partition("<<'END'\n")[2].partition("    END")[0]
    compile(textwrap.dedent(program), "how", "exec")
    assert f"modelwatch models add {backend} --from {backend} " in out
    assert f"settings: {{backend: {backend}, checkpoint: {backend}}}" in out


# --- in a config -----------------------------------------------------------------------------------------------------

CONFIG = """
store: {path: data}
models: [{name: bot, task: llm}]
checks:
- {name: rude, model: bot, detector: "detectors.toxicity:Toxicity", every: 10m, threshold: {upper: 0.1},
   settings: {backend: detoxify, checkpoint: CHECKPOINT}}
"""


@pytest.fixture
def checkpoint(source: Path) -> Path:
    (source / "weights.safetensors").rename(source / "tiny.ckpt")
    return source


def written(folder: Path, checkpoint: str) -> Path:
    path = folder / "modelwatch.yaml"
    path.write_text(CONFIG.replace("CHECKPOINT", checkpoint))
    return path


def test_a_config_refers_to_a_placed_model_by_its_name_or_by_a_path(tmp_path: Path, checkpoint: Path) -> None:
    add(tmp_path / "data", checkpoint)
    [check] = configfile.load(written(tmp_path, "tiny")).checks
    assert check.settings.checkpoint == tmp_path / "data" / "models" / "tiny"  # type: ignore[attr-defined]
    [check] = configfile.load(written(tmp_path, checkpoint.name)).checks
    assert check.settings.checkpoint == checkpoint  # type: ignore[attr-defined]


def test_another_checkpoint_under_the_same_path_is_told_apart(tmp_path: Path, checkpoint: Path) -> None:
    config = written(tmp_path, checkpoint.name)

    def settings_hash() -> str:
        [check] = configfile.load(config).checks
        return RowCheck(check.detector, check.settings).hash

    before, known = settings_hash(), configfile.load(config).checks
    os.utime(checkpoint / "tiny.ckpt", (0, 0))
    assert (settings_hash(), configfile.load(config).checks) == (before, known), "the content counts"
    data = bytearray((checkpoint / "tiny.ckpt").read_bytes())
    data[-1] ^= 1
    (checkpoint / "tiny.ckpt").write_bytes(data)
    assert settings_hash() != before
    assert configfile.load(config).checks != known, "else a reload would keep the one and make the other"


def test_what_is_no_file_is_no_part_of_a_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "more.txt").mkdir()
    (checkpoint / "more.txt" / "loop").symlink_to("loop")
    (checkpoint / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert configfile.load(written(tmp_path, checkpoint.name)).checks, "what is no file is none of it"


def problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        configfile.load(path)
    [found] = caught.value.problems
    return found


def test_a_missing_checkpoint_is_a_problem_of_the_config_that_says_how_to_get_it(tmp_path: Path) -> None:
    found = problem(written(tmp_path, "detoxify-original"))
    assert "checks.0.settings.checkpoint: there is no " in found
    assert "`modelwatch models how` prints how to get one; nothing is downloaded" in found
    assert run("run", written(tmp_path, "detoxify-original")) == 1


def test_a_checkpoint_that_lacks_a_file_is_a_problem_of_the_config(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "vocab.txt").unlink()
    add(tmp_path / "data", checkpoint)
    assert "checks.0.settings.checkpoint: " in problem(written(tmp_path, "tiny"))
    assert "no tokenizer in it" in problem(written(tmp_path, "tiny"))


def test_a_placed_model_that_changed_its_size_is_a_problem_of_the_config(tmp_path: Path, checkpoint: Path) -> None:
    add(tmp_path / "data", checkpoint)
    (tmp_path / "data" / "models" / "tiny" / "tiny.ckpt").write_bytes(b"short")
    assert "tiny.ckpt: changed since it was added; delete the folder and add the model again" in problem(
        written(tmp_path, "tiny")
    )


def test_a_problem_of_the_checkpoint_is_said_together_with_others(tmp_path: Path) -> None:
    path = written(tmp_path, "none")
    path.write_text(path.read_text().replace("task: llm", "task: lm"))
    with pytest.raises(ConfigError) as caught:
        configfile.load(path)
    assert len(caught.value.problems) == 2
