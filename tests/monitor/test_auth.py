"""Tokens: who may do what, and how a file of them is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from monitor.auth import Tokens
from monitor.errors import ConfigError


def line(role: str, token: str) -> str:
    return f"{role}:{hashlib.sha256(token.encode()).hexdigest()}"


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "tokens"
    lines = [
        "# who sends",
        line("ingest", "one"),
        line("ingest", "two").upper().replace("INGEST", "ingest"),
        "",
        line("query", "q"),
        line("admin", "root"),
    ]
    path.write_text("\n".join(lines))
    return Tokens(path)


@pytest.mark.parametrize("token", ("one", "two", "root"))
def test_every_token_of_a_role_and_every_admin_is_let_in(tokens: Tokens, token: str) -> None:
    assert tokens.allow("ingest", f"Bearer {token}")
    assert tokens.allow("ingest", f"bearer  {token} ")


NOBODY = (
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer q",
    "Bearer One",
    "Basic one",
    "one",
    "Bearer one two",
    "Bearer ä\ud800".encode(errors="replace").decode(),
)


@pytest.mark.parametrize("header", NOBODY)
def test_nobody_else_is(tokens: Tokens, header: str | None) -> None:
    assert not tokens.allow("ingest", header)


def test_a_role_without_tokens_lets_only_admins_in(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("admin", "root"))
    assert Tokens(path).allow("query", "Bearer root")
    assert not Tokens(path).allow("query", "Bearer other")


def test_an_empty_file_lets_nobody_in_and_no_file_everybody(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("# nobody yet\n")
    assert not Tokens(tmp_path / "tokens").allow("ingest", "Bearer x")
    assert Tokens(None).allow("ingest", None)


def test_every_wrong_line_is_named_without_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"ingest:plain-text-token\n{line('ingest', 'one')}\nreader:{'0' * 64}\nadmin:{'g' * 64}\n")
    with pytest.raises(ConfigError) as caught:
        Tokens(path)
    assert [p.split(": ")[1] for p in caught.value.problems] == ["line 1", "line 3", "line 4"]
    assert "plain-text-token" not in str(caught.value)
    assert "roles are ingest, query, admin" in caught.value.problems[0]


def test_a_file_that_cannot_be_read_is_a_problem_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\)"):
        Tokens(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokens(tmp_path / "binary")
