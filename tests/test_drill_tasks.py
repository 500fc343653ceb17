"""The quarterly tasks that break something, run as a worker runs them, and refused where they must be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from tests.conftest import run
from tests.drill_platform import APPROVED, PERSON, connect, execute, page, write
from tests.pair_server import PairServer, running_pair
from tests.postgres_server import DATABASE
from upkeep.cleanup.operators import CleanupOperator
from upkeep.doctor import failover as failover_check
from upkeep.drill import record
from upkeep.drill.breaking import FailoverDrillOperator
from upkeep.drill.failover.local import LocalDriver
from upkeep.drill.operators import AskDrillOperator, DrillJanitorOperator
from upkeep.ledger import Ledger
from upkeep.settings import settings

SECTIONS: dict[str, Any] = {
    "postgres": {"standbys": 1},
    "backup": {"bucket": "studyspot-backups", "database": {"prefix": "database/"}},
}


@pytest.fixture(scope="module")
def pair() -> Iterator[PairServer]:
    with running_pair(17) as server:
        yield server


def failover_connection(pair: PairServer) -> dict[str, Any]:
    from psycopg.conninfo import conninfo_to_dict

    parts = [conninfo_to_dict(node.conninfo) for node in pair.nodes]
    nodes = [
        {"name": node.name, "host": part["host"], "port": int(part["port"]), "data": str(node.data),
         "programs": str(node.programs)}
        for node, part in zip(pair.nodes, parts, strict=True)
    ]  # fmt: skip
    return {
        "conn_type": "postgres", "login": parts[0]["user"], "password": parts[0]["password"], "schema": DATABASE,
        "extra": {"nodes": nodes},
    }  # fmt: skip


@pytest.fixture
def platform(
    pair: PairServer, ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """Its database is another server: the ledger's; the pair is its staging."""
    from psycopg.conninfo import conninfo_to_dict

    other = conninfo_to_dict(ledger_conninfo)
    production = {
        "conn_type": "postgres", "host": other["host"], "port": int(other["port"]), "login": other["user"],
        "password": other["password"], "schema": other["dbname"],
    }  # fmt: skip
    connect(monkeypatch, POSTGRES=production, FAILOVER=failover_connection(pair))
    drill(tmp_path, monkeypatch, pair)
    yield monkeypatch
    settings.cache_clear()


def drill(place: Path, monkeypatch: pytest.MonkeyPatch, pair: PairServer, **rules: Any) -> None:
    recovery = {"rto": "2h", "rpo": "24h", "drill": {"failover": "streaming", **rules}}
    write(place, monkeypatch, place / "scratch", pair.nodes[0].programs, recovery=recovery, **SECTIONS)


def failover(**how: Any) -> Any:
    return execute(FailoverDrillOperator(task_id="failover", platform="studyspot"), **how)


def test_a_failover_in_staging_is_rehearsed_and_has_a_page(
    platform: Any, pair: PairServer, ledger: Ledger, tmp_path: Path
) -> None:
    assert failover() == {"ok": 5, "finding": 0, "unknown": 0}
    (row,) = ledger.rows("select * from drills")
    assert (row["environment"], row["approved_by"], row["cleanup_verdict"]) == (
        "staging",
        "the platform file",
        "passed",
    )
    (action,) = ledger.rows("select state, after from actions")
    assert (action["state"], action["after"]["rto_s"]) == ("done", row["rto_s"])
    shown = page(tmp_path, "failover")
    for said in ("Failover after the loss of the primary", "by pg_rewind", "Recovery works", "Data-loss window"):
        assert said in shown
    secret = failover_connection(pair)["password"]
    assert secret not in shown
    assert secret not in json.dumps(row, default=str)


def test_what_is_production_by_its_identity_is_not_touched(
    platform: pytest.MonkeyPatch, pair: PairServer, ledger: Ledger
) -> None:
    before = pair.driver().look().standing()
    nodes = failover_connection(pair)
    first = nodes["extra"]["nodes"][0]
    connect(platform, POSTGRES={**nodes, "host": first["host"], "port": first["port"], "extra": {}})
    with pytest.raises(
        AirflowFailException, match=r"(?s)P2 drill_failover kill: could not look: this is production, and"
    ):
        failover()
    assert [one["role"] for one in pair.driver().look().standing()] == [one["role"] for one in before]
    assert ledger.rows("select from drills") == []
    connect(platform, POSTGRES={**nodes, "host": "127.0.0.1", "port": 1, "extra": {}})
    with pytest.raises(AirflowFailException, match="whether this pair is production cannot be said"):
        failover()


def test_refused_while_the_pair_is_ill_or_something_is_open(
    platform: pytest.MonkeyPatch, pair: PairServer, ledger: Ledger
) -> None:
    standby = pair.driver().look().standbys[0].name
    LocalDriver(pair.nodes).fail(standby, "switchover")
    try:
        with pytest.raises(AirflowFailException, match=rf"not everything is whole: {standby} does not answer"):
            failover()
    finally:
        pair.driver().mend(pair.driver().look().primary.name)
    assert pair.left()["whole"] == ""


def test_a_no_is_a_no_and_skips(platform: Any, ledger: Ledger) -> None:
    for answer in ({"chosen_options": ["Reject"]}, {}, None):
        with pytest.raises(AirflowSkipException, match="nobody said yes"):
            failover(answer=answer)
    assert ledger.rows("select from drills") == []
    assert AskDrillOperator(task_id="ask", platform="studyspot", subject="s").agreed({}) == "the platform file"  # type: ignore[typeddict-item]
    assert PERSON["chosen_options"] == APPROVED["chosen_options"]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({}, r"connection 'studyspot_failover' does not describe its servers: KeyError 'nodes'"),
        (
            {"nodes": [{"name": "a"}]},
            r"does not describe its servers: KeyError 'data'(?s:.)*HINT: its extra is \{\"nodes",
        ),
        (
            {"nodes": [{"name": name, "data": "/tmp", "programs": "/usr/bin"} for name in "ab"]},
            r"a: /tmp is no data directory",
        ),
        ({"nodes": []}, r"0 server of a pair is named"),
    ],
)
def test_a_connection_that_does_not_describe_a_pair(
    platform: pytest.MonkeyPatch, pair: PairServer, extra: Any, says: str
) -> None:
    connect(platform, FAILOVER={**failover_connection(pair), "extra": extra})
    with pytest.raises(Exception, match=says):
        failover()


def test_a_controller_without_a_driver_is_said(platform: pytest.MonkeyPatch, pair: PairServer, tmp_path: Path) -> None:
    drill(tmp_path, platform, pair, failover="patroni", cluster="shop")
    with pytest.raises(AirflowFailException, match=r"recovery.drill.failover: patroni is not there yet\nHINT: use"):
        failover()


def test_the_check_command_says_what_the_pair_lacks(platform: Any, pair: PairServer) -> None:
    def told() -> dict[str, list[str]]:
        seen = failover_check.look(pair.driver(), "studyspot_failover")
        return {one.check: [finding.summary for finding in one.findings] for one in seen}

    assert told() == {"pair": []}
    pair.superuser("revoke execute on function pg_promote(boolean, integer) from upkeep")
    pair.superuser("revoke insert on upkeep.drill_canary from upkeep")
    try:
        assert told()["rights"] == ["there is no table upkeep.drill_canary that it may write"]
        assert len(failover_check.look(pair.driver(), "c")) == 3
    finally:
        pair.superuser("grant execute on function pg_promote(boolean, integer) to upkeep")
        pair.superuser("grant insert on upkeep.drill_canary to upkeep")


def test_what_a_killed_run_left_the_janitor_and_the_daily_cleanup_put_back(
    platform: Any, pair: PairServer, ledger: Ledger
) -> None:
    old = pair.driver().look().primary.name

    def leave() -> None:
        made = record.begin(ledger, run(), "failover", "kill", "staging", rto_s=60, rpo_s=60)
        made.remember({"kind": "pair", "primary": old})
        made.remember({"kind": "canary"})
        pair.driver().fail(old, "kill")

    leave()
    body = execute(DrillJanitorOperator(task_id="prepare", platform="studyspot"))
    assert "rehearse recovery in production now?" in body["subject"]
    assert pair.driver().ill() == ""
    leave()
    counts = execute(CleanupOperator(task_id="cleanup", platform="studyspot"))
    assert counts == {"ok": 1, "finding": 0, "unknown": 0}
    assert pair.driver().ill() == ""
    assert {row["act_verdict"] for row in ledger.rows("select act_verdict from drills")} == {"stopped"}
    assert execute(CleanupOperator(task_id="cleanup", platform="studyspot")) == {"ok": 0, "finding": 0, "unknown": 0}
