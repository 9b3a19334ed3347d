"""The command line: what it prints, where to, and with which exit code."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import monitor
from monitor.cli import main, open_files
from tests.monitor.support import World, prediction


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_what_init_writes_passes_check_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "monitor.yaml"
    assert run("init", path) == 0
    assert f"modelwatch check-config {path}" in capsys.readouterr().out
    assert run("check-config", path) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == f"{path}: ok, 2 models, 3 checks, 0 sources"
    assert told[:-1] == [f"how often each would have fired: modelwatch backtest --config {path} --check NAME --from TIME"]


def test_init_prints_what_it_would_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("init", tmp_path / "a.yaml")
    capsys.readouterr()
    assert run("init") == 0
    assert capsys.readouterr().out == (tmp_path / "a.yaml").read_text()


def test_init_leaves_an_existing_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text("mine")
    assert run("init", path) == 1
    assert path.read_text() == "mine"
    assert capsys.readouterr().err == f"modelwatch: {path}: not written (File exists); choose another name\n"


def test_check_config_prints_every_problem_on_a_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text("store: {threads: 0}\nmodles: []\nmetrics: {listen: nowhere}\n")
    assert run("check-config", path) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"modelwatch: {path}: store.threads: Input should be greater than or equal to 1 ('0')",
        f"modelwatch: {path}: metrics.listen: String should match pattern '^.+:\\d{{1,5}}$' ('nowhere')",
        f"modelwatch: {path}: modles: no such key; remove it or correct its spelling",
    ]


def test_run_with_a_bad_config_says_the_same_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text("modles: []\n")
    assert run("run", path) == 1
    assert f"modelwatch: {path}: modles: no such key" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_sql_finds_the_store_by_its_folder_or_by_the_config(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    world.send("predictions", prediction("a"))
    world.audit.refresh()
    (tmp_path / "monitor.yaml").write_text(f"store: {{path: {world.store.root.name}}}\n")
    query = "SELECT record_id FROM predictions"
    assert run("sql", query, "--store", world.store.root, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"record_id": "a"}
    monkeypatch.chdir(tmp_path)
    assert run("sql", query, "--config", "monitor.yaml", "--format", "csv") == 0
    assert capsys.readouterr().out.split() == ["record_id", "a"]


def test_sql_says_what_is_wrong_and_fails(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world.store.root.parent)
    world.audit.refresh()
    for query, message in (("SELECT * FROM nothing", "nothing does not exist"), ("DROP VIEW labels", "nothing that writes")):
        assert run("sql", query, "--store", world.store.root) == 1
        captured = capsys.readouterr()
        assert (captured.out, captured.err.startswith("modelwatch: ")) == ("", True)
        assert message in captured.err
    assert run("sql", "SELECT 1", "--store", "/nowhere") == 1
    assert "/nowhere/audit.duckdb: not there" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(world: World) -> None:
    world.audit.refresh()
    command = [sys.executable, "-m", "monitor", "sql", "FROM range(1000000)", "--format", "json", "--store"]
    with subprocess.Popen([*command, str(world.store.root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline()) == {"range": 0}
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"modelwatch {monitor.__version__}\n"


STARTED = """
import os, sys
from monitor.__main__ import main
assert "numpy" not in sys.modules
sys.argv = ["modelwatch", "--version"]
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
import numpy as np
print(os.environ["OPENBLAS_THREAD_TIMEOUT"], (np.linspace(0, 1, 20_001) @ np.geomspace(1, 7, 20_001)).hex())
"""


def test_idle_threads_of_the_blas_sleep_at_once_and_sums_stay_the_same_to_the_last_bit() -> None:
    def started(**more: str) -> tuple[str, str]:
        bare = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
        done = subprocess.run([sys.executable, "-c", STARTED], env={**bare, **more}, capture_output=True, text=True, check=True)
        how, number = done.stdout.splitlines()[-1].split()
        return how, number

    how, number = started()
    assert how == "4"
    assert started(OPENBLAS_THREAD_TIMEOUT="26") == ("26", number), "its default, and what the user says stands"


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "usage: modelwatch" in capsys.readouterr().err


def test_asking_for_help_imports_no_engine() -> None:
    code = """
import sys
from monitor.cli import main, open_files
try:
    main(["--help"])
except SystemExit:
    print(sorted({"torch", "duckdb"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_daemon_may_open_as_many_files_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        open_files(512)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (512, hard)
        open_files(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (512, hard), "what was more stays"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
