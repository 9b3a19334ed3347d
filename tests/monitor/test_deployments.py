"""Deployments as they are pushed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.monitor.support import NOON, Door, World


def deployment(**fields: Any) -> dict[str, Any]:
    return {"model": "houses", "version": "7", "timestamp": NOON.isoformat(), "approver": "ann", **fields}


def test_a_deployment_is_stored_with_what_it_is_made_of(world: World) -> None:
    made = {"data_hash": "d1", "code_commit": "c1", "prompt_hash": "p1", "ticket": "OPS-3", "metadata": {"canary": True}}
    assert world.send("deployments", deployment(**made)).accepted == 1
    row = world.rows("deployments")[0]
    assert (row["version"], row["event_time"], row["approver"]) == ("7", NOON, "ann")
    assert (row["data_hash"], row["code_commit"], row["prompt_hash"]) == ("d1", "c1", "p1")
    assert (row["origin"], row["event"], row["alias"]) == ("push", "deployed", None)
    assert row["attributes"] == '{"ticket":"OPS-3","metadata":{"canary":true}}'


def test_a_deployment_sent_again_is_stored_once_and_the_same_version_later_is_another(world: World) -> None:
    world.send("deployments", deployment())
    assert world.send("deployments", deployment()).duplicates == 1
    later = deployment(timestamp="2026-03-02T12:00:00Z")  # a rollback to it
    assert world.send("deployments", later).accepted == 1


def test_a_deployment_with_an_id_and_other_content_is_a_conflict(world: World) -> None:
    world.send("deployments", deployment(record_id="d-1"))
    refused = world.send("deployments", deployment(record_id="d-1", approver="bob"))
    assert [r.reason for r in refused.rejects] == ["conflict"]
    assert refused.rejects[0].message.endswith("send a new id")


@pytest.mark.parametrize(
    ("fields", "reason"),
    (
        ({"version": None}, "missing_field"),
        ({"version": ["7"]}, "wrong_type"),
        ({"timestamp": None}, "missing_id"),
        ({"timestamp": "2026-03-01T12:00:00"}, "bad_timestamp"),
        ({"event": "exploded"}, "wrong_type"),
        ({"approver": 3}, "wrong_type"),
        ({"model": "nobody"}, "unknown_model"),
    ),
)
def test_what_is_wrong_is_set_aside_with_a_reason(world: World, fields: dict[str, Any], reason: str) -> None:
    assert [r.reason for r in world.send("deployments", deployment(**fields)).rejects] == [reason]


def test_a_version_may_be_a_number_and_the_model_of_any_task(world: World) -> None:
    assert world.send("deployments", deployment(version=8), deployment(model="bot")).accepted == 2
    assert [r["version"] for r in world.rows("deployments")] == ["8"]


def test_a_deployment_moves_no_watermark(world: World) -> None:
    world.send("deployments", deployment())
    assert world.store.watermark("houses") is None


def test_deployments_come_by_push(door: Door) -> None:
    assert door.post("deployments", deployment()).status_code == 200
    assert door.world.rows("deployments")[0]["version"] == "7"
