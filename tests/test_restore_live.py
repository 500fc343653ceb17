"""`restore` in a whole Airflow: backed up, verified, an accident, restored, a yes, and the way back."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from sandbox import processes
from sandbox.servers import postgres as servers
from tests.conftest import Live

pytestmark = [pytest.mark.live, pytest.mark.soak]

DAG, PLATFORM = "restore", "adaptive_learning"


def states(live: Live, run_id: str) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in live.api.tasks(DAG, run_id)}


def red(live: Live, run_id: str) -> str:
    """What the red tasks say."""
    return "\n".join(
        live.api.log(DAG, run_id, name)[-1500:] for name, state in states(live, run_id).items() if state == "failed"
    )


def answer(live: Live, run_id: str, option: str) -> dict[str, Any]:
    """What the person is asked, once they have answered."""
    processes.wait_until(
        lambda: states(live, run_id).get("approval") in ("awaiting_input", "failed", "upstream_failed", "skipped"),
        300,
        "a question",
    )
    time.sleep(8)  # see tests/test_incident_live.py
    path = f"/dags/{DAG}/dagRuns/{quote(run_id)}/taskInstances/approval/-1/hitlDetails"
    asked = dict(live.api("GET", path))
    live.api("PATCH", path, json={"chosen_options": [option], "params_input": {}})
    return asked


def ask(live: Live, statement: str) -> Any:
    dsn = servers.dsn(live.home, f"postgres.{PLATFORM}", "app_owner", PLATFORM)
    with psycopg.connect(dsn, autocommit=True) as connection:
        done = connection.execute(statement)  # type: ignore[call-overload]
        return done.fetchall() if done.description else done.rowcount


def databases(live: Live) -> set[str]:
    return {name for (name,) in ask(live, "select datname from pg_database where datname like 'adaptive%'")}


def test_an_accident_is_undone_and_the_undoing_too(live: Live) -> None:
    live.api.wait_for_dags(DAG, f"{PLATFORM}_backup", f"{PLATFORM}_backup_verification")
    run_id = live.api.trigger(f"{PLATFORM}_backup")
    live.api.wait(f"{PLATFORM}_backup", run_id)
    with live.ledger() as ledger:
        # The nightly one may have been made at the same time.
        backup = ledger.rows(
            "select * from backups where platform = %s and kind = 'database' order by started_at", [PLATFORM]
        )[-1]
    (whole,) = ask(live, "select count(*) from attempts")[0]
    lost = ask(live, "delete from attempts where id % 2 = 0")
    assert lost > 0

    wanted = {"platform": PLATFORM, "place": "replace", "backup": backup["id"]}
    no = live.api.trigger(DAG, wanted)
    asked = answer(live, no, "Reject")
    assert asked["subject"] == f"{PLATFORM}: replace the database {PLATFORM} by backup {backup['id']}?"
    assert "What is lost" in asked["body"]
    assert live.api.wait(DAG, no)["state"] == "success", red(live, no)
    assert {states(live, no)[name] for name in ("swap", "checked", "watcher")} == {"skipped"}
    assert databases(live) == {PLATFORM}, "what nobody wanted is gone"
    yes = live.api.trigger(DAG, wanted)
    answer(live, yes, "Approve")
    assert live.api.wait(DAG, yes)["state"] == "success", red(live, yes)
    assert ask(live, "select count(*) from attempts") == [(whole,)]
    with live.ledger() as ledger:
        (restore,) = ledger.rows("select * from restores where run_id = %s", [yes])
    assert restore["state"] == "swapped"
    assert databases(live) == {PLATFORM, restore["before"]}

    back = live.api.trigger(DAG, {"platform": PLATFORM, "action": "swap back", "restore": restore["id"]})
    answer(live, back, "Approve")
    assert live.api.wait(DAG, back)["state"] == "success", red(live, back)
    assert ask(live, "select count(*) from attempts") == [(whole - lost,)]
    live.deliver()
    said = [one["text"] for one in live.inbox.slack() if "/restore/" in one["metadata"]["event_payload"]["key"]]
    assert any("replace the database adaptive_learning by backup" in text for text in said)
    assert any(f"adaptive_learning is now backup {backup['id']}" in text for text in said)


def test_a_form_that_asks_for_too_much_is_refused_before_anything(live: Live) -> None:
    live.api.wait_for_dags(DAG)
    run_id = live.api.trigger(DAG, {"platform": PLATFORM, "backup": "'; drop database adaptive_learning; --"})
    assert live.api.wait(DAG, run_id)["state"] == "failed"
    assert "is not the id of a backup" in live.api.log(DAG, run_id, "choose")
    assert states(live, run_id)["load"] == "upstream_failed"
