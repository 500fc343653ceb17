"""The task `retention`: on the record, inside the standing yes, and beyond it only with a person's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sandbox import processes
from sandbox.home import Home
from sandbox.servers import postgres as servers
from sandbox.servers import s3
from tests.postgres_server import DATABASE
from tests.retention_server import RetentionServer, archived, bucket, people
from upkeep.ledger import Ledger
from upkeep.report.model import Deed
from upkeep.report.verdict import deeds
from upkeep.retention import deleting, watch
from upkeep.retention.archive import Archive
from upkeep.retention.operators import RetentionOperator
from upkeep.settings import settings

SERVER = RetentionServer


@pytest.fixture
def server(seventeen: RetentionServer) -> RetentionServer:
    return seventeen


class Place:
    """A platform whose database is the server."""

    def __init__(self, path: Path) -> None:
        self.file = path / "platforms/studyspot.yaml"
        self.file.parent.mkdir()
        self.content: dict[str, Any] = {
            "name": "studyspot",
            "title": "StudySpot",
            "severity": {
                "levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)},
                "paging": "P0",
                "notify": "P0",
            },
            "postgres": {
                "deletion": {"rest": 0},
                "tables": [
                    {
                        "name": "users",
                        "retention": {"column": "last_seen", "keep": "7y", "only": "status = 'inactive'"},
                    },
                    {"name": "bookings", "retention": {"column": "made", "keep": "3y"}},
                ],
            },
        }
        self.write()

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump(self.content))
        settings.cache_clear()

    def rule(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.content["postgres"]["tables"][number]["retention"]
        return found


@pytest.fixture
def place(
    server: RetentionServer, ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    for conn_id, role in (("POSTGRES", "upkeep"), ("POSTGRES_OWNER", "upkeep_owner")):
        connection = servers.connection_to(server.home, server.name, role, DATABASE)
        monkeypatch.setenv(f"AIRFLOW_CONN_STUDYSPOT_{conn_id}", json.dumps(connection))
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path / "platforms"))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    yield Place(tmp_path)
    settings.cache_clear()


def retain(*, unusable: Any = None, began: datetime | None = None, **how: Any) -> Any:
    """The task, as a worker would run it."""
    task = RetentionOperator(task_id="retention", platform="studyspot", **how)
    ti = SimpleNamespace(
        dag_id="studyspot_monthly_maintenance", run_id="r", task_id="retention", map_index=-1, try_number=1, log_url="",
        xcom_pull=lambda task_ids, key: unusable,
    )  # fmt: skip
    return task.execute({"ti": ti, "dag_run": SimpleNamespace(start_date=began)})  # type: ignore[typeddict-item]


def test_planned_done_and_on_record(server: RetentionServer, ledger: Ledger, place: Place) -> None:
    people(server)
    due = len(server.ids("bookings", "made < now() - interval '1098 days'"))
    assert retain(dry_run="true") == {"ok": 2, "finding": 0, "unknown": 0}
    assert server("select count(*) from bookings") == [(4000,)]
    assert ledger.rows("select from actions") == []

    assert retain() == {"ok": 4, "finding": 0, "unknown": 0}
    assert server("select count(*) from bookings") == [(4000 - due,)]
    dry, real = ledger.rows("select id, items, dry_run, digest from plans order by created_at")
    assert (dry["dry_run"], real["dry_run"]) == (True, False)
    assert (real["items"][0]["table"], real["items"][0]["due"]) == ("public.bookings", due)
    bookings, users = ledger.rows("select * from actions order by id")
    assert (bookings["object"], bookings["verb"], bookings["state"]) == ("public.bookings", "delete", "done")
    assert (bookings["plan_id"], users["object"]) == (real["id"], "public.users")
    assert (bookings["before"]["due"], bookings["after"]["deleted"], bookings["after"]["left"]) == (due, due, 0)
    assert bookings["after"]["vacuum"] == "done"
    told = ledger.rows("select relation, sum(rows) as rows, min(plan) as plan from deletions group by 1 order by 1")
    assert (told[0]["relation"], told[0]["rows"], told[0]["plan"]) == ("public.bookings", due, real["digest"])
    samples = ledger.rows("select object, value from samples where metric = 'retention_deleted_rows' order by object")
    assert (samples[0]["object"], samples[0]["value"]) == ("bookings", due)
    assert retain() == {"ok": 4, "finding": 0, "unknown": 0}, "again, and nothing is due"


def test_beyond_the_standing_yes_a_person_is_asked_and_her_yes_is_for_that_plan(
    server: RetentionServer, ledger: Ledger, place: Place
) -> None:
    people(server)
    place.content["postgres"]["deletion"]["most_share"] = 0.2
    place.write()
    with pytest.raises(AirflowFailException, match=r"P2 retention_plan bookings: nothing is deleted: 9\d\d of 4,000"):
        retain()
    assert server("select count(*) from bookings") == [(4000,)]
    assert server("select count(*) from users where last_seen < now() - interval '2562 days'")[0][0] < 36, (
        "the table beside it is cared for"
    )
    (plan,) = ledger.rows("select digest, items from plans")
    (finding,) = ledger.rows("select hint from findings where check_name = 'retention_plan' and state = 'open'")
    assert f"`approve_plan` = {plan['digest']}" in finding["hint"]

    with pytest.raises(AirflowFailException, match="no retention plan of studyspot has the digest 'ffff"):
        retain(approve_plan="f" * 64)
    server("insert into bookings values (9000, 1, now() - interval '5 years')")
    with pytest.raises(AirflowFailException, match=r"rows are due by the approved plan, approved were 9\d\d"):
        retain(approve_plan=plan["digest"])
    server("delete from bookings where id = 9000")
    assert retain(approve_plan=plan["digest"])["finding"] == 0
    cut_off = plan["items"][0]["cut_off"]
    assert server("select count(*) from bookings where made < %s::timestamptz", cut_off) == [(0,)]
    assert ledger.rows("select from findings where state = 'open'") == []

    ledger.connection.execute("update plans set created_at = created_at - interval '8 days'")
    with pytest.raises(AirflowFailException, match=r"is 8 days old(.|\n)*HINT: look at a new one"):
        retain(approve_plan=plan["digest"])


def test_a_rule_that_wants_an_archive_gets_one_or_deletes_nothing(
    server: RetentionServer, ledger: Ledger, place: Place, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(server)
    place.rule(1)["archive"] = True
    place.write()
    with pytest.raises(AirflowFailException, match="its rule wants an archive, and there is no bucket for one"):
        retain()
    assert server("select count(*) from bookings") == [(4000,)]

    place.content["postgres"]["deletion"]["archive_bucket"] = "upkeep-reports"
    place.write()
    with pytest.raises(AirflowFailException, match="no connection 'studyspot_backup_s3'"):
        retain()

    client, name = bucket(home, "upkeep-reports")
    connection = s3.connection_to(home)
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_BACKUP_S3", json.dumps({**connection, "password": "wrong"}))
    with pytest.raises(AirflowFailException, match=r"P2 retention_delete public\.bookings: given up after 0 of"):
        retain()
    assert server("select count(*) from bookings") == [(4000,)]
    assert ledger.rows("select state from actions where object = 'public.bookings'") == [{"state": "failed"}]

    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_BACKUP_S3", json.dumps(connection))
    retain()
    gone = 4000 - server("select count(*) from bookings")[0][0]
    assert len(archived(Archive(client, name, "retention/public.bookings/"))) == gone > 0
    listed = client.list_objects_v2(Bucket=name, Prefix="retention/deletions/studyspot/public.bookings/")["Contents"]
    lines = client.get_object(Bucket=name, Key=listed[-1]["Key"])["Body"].read().decode().splitlines()
    assert sum(json.loads(line)["rows"] for line in lines) == gone
    assert "note" not in lines[0], "no content"


def test_a_refused_table_does_not_keep_the_others(server: RetentionServer, ledger: Ledger, place: Place) -> None:
    people(server)
    server("drop index users_last_seen_idx")
    with pytest.raises(AirflowFailException, match=r"no index leads with last_seen(.|\n)*create index concurrently on"):
        retain()
    assert not server.ids("bookings", "made < now() - interval '1098 days'")


def test_the_window_the_health_task_and_the_flag_are_heeded(
    server: RetentionServer, ledger: Ledger, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(server)
    with pytest.raises(AirflowSkipException, match="the database cannot be used: connection refused"):
        retain(unusable={"postgres": "connection refused"})
    assert retain(began=datetime.now(UTC) - timedelta(days=1))["finding"] == 2, "P4: not begun"
    assert {row["state"] for row in ledger.rows("select state from actions")} == {"skipped"}
    flagged = servers.connection_to(server.home, server.name, "upkeep", DATABASE)
    flagged["extra"]["upkeep_hold"] = "migration until noon"
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", json.dumps(flagged))
    place.content["brake"] = {"first_wait": "1s", "longest_wait": "1s"}
    place.write()
    assert retain(began=datetime.now(UTC) - timedelta(hours=6, seconds=-2))["finding"] == 2
    (reason,) = {row["reason"] for row in ledger.rows("select reason from actions order by id desc limit 1")}
    assert "migration until noon" in reason or "window is over" in reason
    assert server("select count(*) from bookings") == [(4000,)]


def test_without_the_tables_for_its_progress_it_says_where_they_come_from(
    server: RetentionServer, ledger: Ledger, place: Place
) -> None:
    people(server)
    server.superuser("alter table upkeep.retention rename to elsewhere")
    try:
        with pytest.raises(AirflowFailException, match=r"cannot keep its progress(.|\n)*HINT: run include/sql"):
            retain()
    finally:
        server.superuser("alter table upkeep.elsewhere rename to retention")
    assert retain()["finding"] == 0


def test_a_restart_of_the_server_is_survived_by_the_whole_task(
    server: RetentionServer, ledger: Ledger, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(server, bookings=20_000)
    monkeypatch.setattr(watch, "ASK_S", 0)
    monkeypatch.setattr(deleting, "OUTAGE_S", (0.5,) * 20)
    place.content["postgres"]["deletion"] |= {"least_rows": 100, "most_rows": 200}
    place.write()
    asked = 0

    def brake(self: RetentionOperator, connection: Any, ends: Any) -> Any:
        def go() -> str:
            nonlocal asked
            asked += 1
            if asked == 5:
                processes.stop(server.home, server.name)
                threading.Timer(0.7, lambda: servers.start_cluster(server.home, server.name, 17)).start()
            return ""

        return go

    monkeypatch.setattr(RetentionOperator, "brake", brake)
    assert retain()["finding"] == 0
    assert not server.ids("bookings", "made < now() - interval '1098 days'")
    (action,) = ledger.rows("select state, after from actions where object = 'public.bookings'")
    assert action["state"] == "done"
    assert action["after"]["outages"] > 0
    told = ledger.rows("select sum(rows) as rows from deletions where relation = 'public.bookings'")
    assert told == [{"rows": 20_000 - server("select count(*) from bookings")[0][0]}]


def test_the_report_counts_rows() -> None:
    def deed(verb: str, **after: Any) -> Deed:
        return Deed(
            capability="retention", verb=verb, object="public.bookings", task_id="retention", try_number=1,
            state="done", dry_run=False, before={}, after=after, reason="", started_at=datetime.now(UTC), seconds=1.0,
            bytes=None, plan="",
        )  # fmt: skip

    assert deeds([deed("delete", deleted=4040), deed("delete", deleted=2)]) == ["4,042 rows deleted"]
    assert deeds([deed("delete", deleted=0)]) == []
    assert deeds([deed("drop", deleted=7)]) == ["1 table dropped"]
