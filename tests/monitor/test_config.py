"""The config file: what it may say, and how it is told what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from detectors.modelfolder import find_model
from monitor import configfile
from monitor.config import Config, Seconds
from monitor.errors import ConfigError
from monitor.sources.follow import FollowConfig
from tests.monitor.support import check

GOOD: dict[str, Any] = {
    "models": [{"name": "houses", "task": "regression"}, {"name": "bot", "task": "llm"}],
    "checks": [check("mean")],
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "monitor.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def problems(folder: Path, content: Any) -> list[str]:
    path = write(folder, content)
    with pytest.raises(ConfigError) as caught:
        configfile.load(path)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [p.removeprefix(f"{path}: ") for p in caught.value.problems]


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    config = configfile.load(write(tmp_path, "models: []"))
    assert (config.server.listen, config.metrics.listen) == ("127.0.0.1:9710", "127.0.0.1:9711")
    assert config.server.max_body_bytes == 20 * 2**20
    assert config.checks == ()


def test_a_folder_that_holds_no_encoder_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        configfile.load(write(tmp_path, {**GOOD, "encoder": {"path": "."}}))
    assert [one.partition(": encoder.path: ")[2][:120] for one in caught.value.problems] == [
        f"{tmp_path}: there are no weights as .safetensors in it; pickled ones (.bin) are not loaded: convert them"[:120]
    ]


def test_paths_begin_at_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "tokens").touch()
    (tmp_path / "ref.csv").touch()
    (tmp_path / "encoder").symlink_to(find_model(None))
    content = {
        **GOOD,
        "store": {"path": "data"},
        "server": {"tokens_file": "tokens"},
        "encoder": {"path": "encoder"},
        "checks": [check("shift", "Shift", reference={"file": "ref.csv"})],
        "sources": [{"type": "follow", "name": "f", "path": "in.jsonl", "kind": "labels", "model": "houses"}],
    }
    config = configfile.load(write(tmp_path, content))
    assert config.store.path == tmp_path / "data"
    assert config.server.tokens_file == tmp_path / "tokens"
    assert config.encoder.path == tmp_path / "encoder"
    assert config.checks[0].reference is not None
    assert config.checks[0].reference.file == tmp_path / "ref.csv"
    (source,) = config.sources
    assert isinstance(source, FollowConfig)
    assert source.path == tmp_path / "in.jsonl"


def test_a_value_may_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWATCH_TEST_LISTEN", "127.0.0.1:1234")
    (tmp_path / "level").write_text("DEBUG\n")
    config = configfile.load(
        write(tmp_path, {"server": {"listen": "${env:MODELWATCH_TEST_LISTEN}"}, "log_level": "${file:level}"})
    )
    assert (config.server.port, config.log_level) == (1234, "DEBUG")


DURATIONS = {"90": 90, 90: 90, "90s": 90, " 15 m ": 900, "2h": 7200, "7d": 604800, "1w": 604800}


@pytest.mark.parametrize(("written", "seconds"), [(w, s) for w, s in DURATIONS.items() if w != "90"])
def test_a_duration_is_read_in_seconds(written: Any, seconds: int) -> None:
    assert TypeAdapter(Seconds).validate_python(written) == seconds


@given(st.integers(1, 10**6), st.sampled_from("smhdw"))
def test_every_whole_number_with_a_unit_is_a_duration(n: int, unit: str) -> None:
    assert TypeAdapter(Seconds).validate_python(f"{n}{unit}") == n * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]


PROBLEMS: dict[str, tuple[Any, list[str]]] = {
    # name: (what the file says, its problems)
    "a misspelled section": ({"modles": []}, ["modles: no such key; remove it or correct its spelling"]),
    "a misspelled key": (
        {"store": {"pth": "x"}}, ["store.pth: no such key; remove it or correct its spelling ('x')"],
    ),
    "a maintenance window of a model that is not there": (
        {**GOOD, "maintenance": [{"name": "w", "models": ["cars"], "weekly": {"at": "22:00", "lasts": "1h"}, "reason": "r"}]},
        ["maintenance.0.models.0: no model 'cars'; there are houses, bot"],
    ),
    "a maintenance window without an end": (
        {**GOOD, "maintenance": [{"name": "w", "start": "2026-03-01T00:00:00Z", "reason": "r"}]},
        ["maintenance.0: start and end must both be given, start before end"],
    ),
    "a link to nowhere": (
        {"external_url": "watch.example.org"},
        [
            "external_url: 'watch.example.org' is no URL of http or https; give one such as https://modelwatch.example.org "
            "('watch.example.org')"
        ],
    ),
    "an unknown task": (
        {"models": [{"name": "a", "task": "magic"}]},
        ["models.0.task: Input should be 'regression', 'binary', 'multiclass', 'multilabel', 'ranking' or 'llm' ('magic')"],
    ),
    "a name that is none": (
        {"models": [{"name": "../etc", "task": "llm"}]},
        ["models.0.name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' ('../etc')"],
    ),
    "names that differ in case": (
        {"models": [{"name": "a", "task": "llm"}, {"name": "A", "task": "llm"}]},
        ["models: the name 'A' is taken by 'a'; names must differ in more than case"],
    ),
    "features that differ in case": (
        {"models": [{"name": "a", "task": "binary", "features": {"Rooms": "number", "rooms": "number"}}]},
        ["models.0.features: the name 'rooms' is taken by 'Rooms'; names must differ in more than case"],
    ),
    "a feature that cannot be a column": (
        {"models": [{"name": "a", "task": "binary", "features": {"": "number"}}]},
        ["models.0.features: '' cannot be a column; a feature's name is 1 to 128 printable characters"],
    ),
    "a kind of feature that is none": (
        {"models": [{"name": "a", "task": "binary", "features": {"x": "text"}}]},
        ["models.0.features.x: Input should be 'number' or 'category' ('text')"],
    ),
    "a duration that is none": (
        {**GOOD, "checks": [check("c", every="soon")]},
        ["checks.0.every: 'soon' is not a duration; write it like 30s, 15m, 2h, 7d or 1w ('soon')"],
    ),
    "an unknown model": (
        {**GOOD, "checks": [check("c", model="cars")]},
        ["checks.0.model: no model 'cars'; there are houses, bot"],
    ),
    "a threshold without bounds": (
        {**GOOD, "checks": [check("c", threshold={})]}, ["checks.0.threshold: give lower, upper or both"],
    ),
    "a threshold upside down": (
        {**GOOD, "checks": [check("c", threshold={"lower": 0.3, "upper": 0.2})]},
        ["checks.0.threshold: lower (0.3) must be below upper (0.2)"],
    ),
    "a reference that is missing": (
        {**GOOD, "checks": [check("c", "Shift")]},
        ["checks.0: detector tests.plugins:Shift compares with a reference; give reference"],
    ),
    "a reference nobody asked for": (
        {**GOOD, "checks": [check("c", reference={"trailing": "1d"})]},
        ["checks.0: detector tests.plugins:Mean uses no reference; leave reference out"],
    ),
    "two references": (
        {**GOOD, "checks": [check("c", "Shift", reference={"trailing": "1d", "file": "x.csv"})]},
        ["checks.0.reference: give exactly one of start and end, trailing, seasonal, or file"],
    ),
    "half a week": (
        {**GOOD, "checks": [check("c", "Shift", reference={"seasonal": "10d"})]},
        ["checks.0.reference.seasonal: 864000 s are no whole weeks; give 1w, 4w and so on ('10d')"],
    ),
    "an unknown time zone": (
        {**GOOD, "checks": [check("c", "Shift", reference={"seasonal": "1w", "timezone": "Moon/Sea"})]},
        ["checks.0.reference.timezone: no time zone 'Moon/Sea'; give a name such as UTC or Europe/Berlin ('Moon/Sea')"],
    ),
    "a time zone for nothing": (
        {**GOOD, "checks": [check("c", "Shift", reference={"trailing": "1w", "timezone": "Europe/Berlin"})]},
        ["checks.0.reference: timezone (Europe/Berlin) belongs to seasonal; the others have no hours of the day"],
    ),
    "weeks that overlap": (
        {**GOOD, "checks": [check("c", "Shift", window="8d", reference={"seasonal": "4w"})]},
        ["checks.0: a window of 691200 s overlaps the same hours of the week before; at most 1w"],
    ),
    "half a range": (
        {**GOOD, "checks": [check("c", "Shift", reference={"start": "2026-01-01T00:00:00Z"})]},
        ["checks.0.reference: start and end must both be given, start before end"],
    ),
    "a time without a zone": (
        {**GOOD, "checks": [check("c", "Shift", reference={"start": "2026-01-01T00:00:00", "end": "2026-01-02T00:00:00Z"})]},
        ["checks.0.reference.start: 2026-01-01T00:00:00 has no time zone; end it with Z or an offset ('2026-01-01T00:00:00')"],
    ),
    "a setting the detector has not": (
        {**GOOD, "checks": [check("c", settings={"colum": "x"})]},
        ["checks.0.settings.colum: no such key; remove it or correct its spelling ('x')"],
    ),
    "a setting out of bounds": (
        {**GOOD, "checks": [check("c", "Bareness", model="bot", settings={"scale": 0})]},
        ["checks.0.settings.scale: Input should be greater than 0 ('0')"],
    ),
    "a flag for a window detector": (
        {**GOOD, "checks": [check("c", flag=0.5)]},
        ["checks.0: flag belongs to row detectors; tests.plugins:Mean gives one reading per window"],
    ),
    "a detector of answers on a model without": (
        {**GOOD, "checks": [check("c", "Bareness")]},
        ["checks.0.detector: tests.plugins:Bareness reads answers, but houses has task regression"],
    ),
    "a score of a check that is not there": (
        {**GOOD, "checks": [check("c", model="bot", columns={"prediction": "score.rude"})]},
        ["checks.0.detector: tests.plugins:Mean reads 'score.rude', but bot has no row check 'rude'; there are none"],
    ),
    "a detector that cannot be made": (
        {**GOOD, "checks": [check("c", settings={"column": "nowhere"})]},
        ["checks.0: detector tests.plugins:Mean cannot be made of these settings: there is nothing nowhere"],
    ),
    "a threshold that is no number": (
        {**GOOD, "checks": [check("c", threshold={"upper": float("nan")})]},
        ["checks.0.threshold.upper: Input should be a finite number ('nan')"],
    ),
    "a margin without room": (
        {**GOOD, "checks": [check("c", threshold={"lower": 0.0, "upper": 1.0, "margin": 0.5})]},
        ["checks.0.threshold: margin (0.5) leaves nothing between lower (0.0) and upper (1.0)"],
    ),
    "a public address": (
        {"server": {"listen": "0.0.0.0:9710"}},
        [
            "server: 0.0.0.0:9710 is reachable from outside without tls and tokens_file; "
            "set both, listen on 127.0.0.1, or say insecure: true"
        ],
    ),
    "public receivers of spans, and a model they do not find": (
        {"otlp": {"http": {"listen": "0.0.0.0:4318"}, "grpc": {"listen": "[::]:4317"}, "default_model": "nobody"}},
        [
            "otlp.http.listen: 0.0.0.0:4318 is reachable from outside without otlp.http.tls and server.tokens_file; "
            "set both, listen on 127.0.0.1, or say insecure: true",
            "otlp.grpc.listen: [::]:4317 is reachable from outside without otlp.grpc.tls and server.tokens_file; "
            "set both, listen on 127.0.0.1, or say insecure: true",
            "otlp.default_model: no model 'nobody'; there are none",
        ],
    ),
    "a certificate of a receiver that is not there": (
        {"otlp": {"grpc": {"tls": {"cert_file": "c.pem", "key_file": "k.pem"}}}},
        [
            "otlp.grpc.tls.cert_file: FOLDER/c.pem is not there; create it or correct the path",
            "otlp.grpc.tls.key_file: FOLDER/k.pem is not there; create it or correct the path",
        ],
    ),
    "a public name": (
        {"metrics": {"listen": "monitor.example:9711"}},
        ["metrics: monitor.example:9711 is reachable from outside; listen on 127.0.0.1, or say insecure: true"],
    ),
    "a port that is none": (
        {"server": {"listen": "127.0.0.1:70000"}}, ["server.listen: port 70000 is above 65535 ('127.0.0.1:70000')"],
    ),
    "a tokens file that is not there": (
        {"server": {"tokens_file": "tokens"}},
        ["server.tokens_file: FOLDER/tokens is not there; create it or correct the path"],
    ),
    "a certificate that is not there": (
        {"metrics": {"tls": {"cert_file": "c.pem", "key_file": "k.pem"}}},
        [
            "metrics.tls.cert_file: FOLDER/c.pem is not there; create it or correct the path",
            "metrics.tls.key_file: FOLDER/k.pem is not there; create it or correct the path",
        ],
    ),
    "a reference that is not there": (
        {**GOOD, "checks": [check("c", "Shift", reference={"file": "x.csv"})]},
        ["checks.0.reference.file: FOLDER/x.csv is not there; create it or correct the path"],
    ),
    "an environment variable that is not set": (
        {"server": {"listen": "${env:MODELWATCH_NOT_SET}"}},
        ["server.listen: the environment variable MODELWATCH_NOT_SET is not set (${env:MODELWATCH_NOT_SET}); set it"],
    ),
    "a file that is not there": (
        {"log_level": "${file:gone}"},
        ["log_level: cannot read gone (No such file or directory); create it or correct the path"],
    ),
    "no mapping": ("- a\n- b\n", ["must be a mapping of sections; `modelwatch init` prints a commented one"]),
    "nothing": ("", ["must be a mapping of sections; `modelwatch init` prints a commented one"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_says_where_it_is_and_what_to_do(tmp_path: Path, name: str) -> None:
    content, expected = PROBLEMS[name]
    assert problems(tmp_path, content) == [line.replace("FOLDER", str(tmp_path)) for line in expected]


def test_a_file_that_is_no_yaml_or_not_there_is_one_problem(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "a: [1\nb: }")
    assert found.startswith("cannot be read: while parsing")
    assert "\n" not in found
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: .*No such file"):
        configfile.load(tmp_path / "none.yaml")


def test_a_key_that_stands_twice_is_a_problem_and_not_half_a_config(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "store: {path: a}\nmodels:\n  - {name: a, task: llm}\nstore: {path: b}\n")
    assert found.startswith("cannot be read: 'store' stands here and in line 1; keep one of them")
    assert "line 4, column 1" in found


def test_an_unknown_detector_is_answered_with_those_there_are(tmp_path: Path) -> None:
    for wrong in ("data_drfit", "tests.plugins:Nothing", "tests.nowhere:Mean", "tests.plugins:NOON", ":", "json:loads"):
        found = problems(tmp_path, {**GOOD, "checks": [check("c") | {"detector": wrong}]})
        assert len(found) == 1
        assert found[0].startswith("checks.0.detector: ")
        assert wrong in found[0]
    assert (
        "there are answer_relevance, attribution_drift, "
        in problems(tmp_path, {**GOOD, "checks": [check("c") | {"detector": "drift"}]})[0]
    )


def test_a_detector_whose_module_is_broken_is_a_problem_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "half_written.py").write_text("def (:")
    (tmp_path / "raising.py").write_text("1 / 0")
    for module, error in (("half_written", "invalid syntax"), ("raising", "division by zero")):
        (found,) = problems(tmp_path, {**GOOD, "checks": [check("c") | {"detector": f"{module}:Thing"}]})
        assert found.startswith("checks.0.detector: ")
        assert error in found


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    content = {
        "store": {"threads": 0},
        "models": [{"name": "houses"}],
        "checks": [check("c", every="soon", settings={"colum": 1}), check("d", threshold={"upper": "high"})],
        "sources": [{"type": "follow", "name": "f", "kind": "spans", "path": "x"}],
        "surprise": 1,
    }
    places = [p.partition(": ")[0] for p in problems(tmp_path, content)]
    assert sorted(places) == [
        "checks.0.every",
        "checks.0.settings.colum",
        "checks.1.threshold.upper",
        "models.0.task",
        "sources.0.kind",
        "store.threads",
        "surprise",
    ]


def test_rules_between_sections_are_checked_although_others_hold_wrong_values(tmp_path: Path) -> None:
    content = {
        "store": {"threads": 0},
        "otlp": {"http": {"listen": "0.0.0.0:4318"}, "default_model": "nobody"},
        "masking": {"fields": {"user_id": "hash"}},
        "prices": {"file": "prices.yaml"},
        "models": [{"name": "houses", "task": "regresion"}, {"name": "bot", "task": "llm"}],
        "checks": [
            check("a", model="house", every="soon"),
            check("b", model="bot"),
            check("c", "Shift", reference={"file": "x.csv"}),
        ],
        "sources": [{"type": "follow", "name": "f", "kind": "spans", "path": "x", "model": "bat"}],
    }
    found = problems(tmp_path, content)
    assert len(found) == len(set(found))
    assert sorted(p.partition(": ")[0] for p in found) == [
        "checks.0.every",
        "checks.0.model",  # although its schedule is none
        "checks.1.detector",
        "checks.2.reference.file",
        "masking.fields.user_id",
        "models.0.task",
        "otlp.default_model",
        "otlp.http.listen",
        "prices.file",
        "sources.0.kind",
        "sources.0.model",
        "store.threads",
    ]
    assert "checks.0.model: no model 'house'; there are houses, bot" in found, "one with a wrong task has its name"


def test_what_cannot_be_told_for_a_wrong_value_elsewhere_is_not_guessed(tmp_path: Path) -> None:
    content = {
        "server": {"listen": "here", "tokens_file": "tokens"},  # so whether there are tokens for OTLP is open
        "otlp": {"http": {"listen": "0.0.0.0:4318"}},
        "models": [
            {"nane": "houses", "task": "regression"},
            {"name": "bot", "task": "llm", "masking": {"fields": {"a": "hash"}}},
        ],
        "masking": {"hash_key": "${env:MODELWATCH_NOT_SET}", "content": "some"},
        "encoder": {"path": "${env:MODELWATCH_NOT_SET}"},
        "checks": [check("a")],
    }
    assert sorted(p.partition(": ")[0] for p in problems(tmp_path, content)) == [
        "encoder.path",
        "masking.content",
        "masking.hash_key",
        "models.0.name",
        "models.0.nane",
        "server.listen",
    ]


def test_a_public_address_with_tls_and_tokens_is_taken_and_so_is_one_that_says_insecure(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem", "tokens"):
        (tmp_path / name).touch()
    guarded = {"listen": "0.0.0.0:9710", "tls": {"cert_file": "cert.pem", "key_file": "key.pem"}, "tokens_file": "tokens"}
    assert configfile.load(write(tmp_path, {"server": guarded})).server.public
    assert configfile.load(write(tmp_path, {"server": {"listen": "[::]:9710", "insecure": True}})).server.public
    for half in ("tls", "tokens_file"):
        assert len(problems(tmp_path, {"server": {k: v for k, v in guarded.items() if k != half}})) == 1


LOOPBACK = {"127.0.0.1:1": False, "127.8.8.8:1": False, "[::1]:1": False, "localhost:1": False, "10.0.0.1:1": True}


@pytest.mark.parametrize(("listen", "public"), LOOPBACK.items())
def test_an_address_is_public_unless_it_is_a_loopback(listen: str, public: bool) -> None:
    assert Config.model_validate({"metrics": {"listen": listen, "insecure": True}}).metrics.public is public


def test_a_secret_that_is_referred_to_is_not_shown_in_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWATCH_TEST_SECRET", "hunter2")
    (found,) = problems(tmp_path, {"server": {"listen": "${env:MODELWATCH_TEST_SECRET}"}})
    assert found.startswith("server.listen: ")
    assert found.endswith("('${env:MODELWATCH_TEST_SECRET}')")
    assert "hunter2" not in found


@pytest.mark.parametrize(
    "address",
    (
        "https://me:hunter2@g.example",
        "https://hunter2@g.example",
        "ftp://me:hunter2@g.example",
        "https://me:hunter2@g.example:99999",
        "https://me:hunter2#@g.example",
        "https://me:hunter2@[g",
        "https://me:" + "hunter2" * 20 + "@g.example",
        "ftp://g.example/hook?token=hunter2",
    ),
)
@pytest.mark.parametrize(
    "section",
    (
        lambda url: {"grafana": {"url": url, "token": "${env:MODELWATCH_TEST_SECRET}"}},
        lambda url: {"grafana": {"url": "http://g", "token": "${env:MODELWATCH_TEST_SECRET}", "datasource": {"url": url}}},
        lambda url: {"webhooks": [{"name": "a", "url": url, "secret": "${env:MODELWATCH_TEST_SECRET}"}]},
        lambda url: {"export": {"otlp": {"endpoint": url}}},
        lambda url: {"external_url": url},
    ),
)
def test_a_password_in_an_address_is_not_shown_in_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, section: Callable[[str], dict[str, Any]]
) -> None:
    monkeypatch.setenv("MODELWATCH_TEST_SECRET", "0123456789abcdef")
    found = problems(tmp_path, section(address))
    assert len(found) == 1
    assert "hunter2" not in found[0]


@pytest.mark.parametrize("word", ("off", "false", "null"))
def test_a_receiver_of_spans_is_on_unless_it_is_turned_off(tmp_path: Path, word: str) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text(f"otlp: {{http: {word}}}")
    found = configfile.load(path).otlp
    assert found.http is None
    assert found.grpc is not None
    assert found.grpc.listen == "127.0.0.1:4317"
    path.write_text("store: {}")
    assert [one.listen for one in configfile.load(path).otlp.listeners.values()] == ["127.0.0.1:4318", "127.0.0.1:4317"]
