"""The tasks of monthly maintenance: leftovers, choosing, rebuilding; where free disk is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sandbox import __main__ as sandbox
from sandbox.faults import break_it, heal_it
from sandbox.home import REPOSITORY
from sandbox.servers import postgres as servers
from sandbox.servers.prometheus import start_node_exporter, start_prometheus
from tests.postgres_server import DATABASE
from tests.reindex_server import ReindexServer, bloated
from upkeep.ledger import Ledger
from upkeep.platforms import platform as platform_of
from upkeep.postgres.reindex.operators import ChooseIndexesOperator, DropLeftoversOperator, RebuildIndexOperator
from upkeep.postgres.reindex.preflight import DiskUnknown
from upkeep.settings import settings


@pytest.fixture(scope="module")
def only() -> Iterator[ReindexServer]:
    with sandbox.temporary() as home:
        start_node_exporter(home)
        start_prometheus(home)
        yield ReindexServer(home, 17)


@pytest.fixture
def server(only: ReindexServer) -> ReindexServer:
    return only.empty()


@pytest.fixture
def platform(
    server: ReindexServer, ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """StudySpot with nothing but its database and its metrics, for this process and those it starts."""
    whole = yaml.safe_load((REPOSITORY / "include/platforms/studyspot.yaml").read_text())
    content = {
        "name": "studyspot",
        "title": "StudySpot",
        "severity": {
            "levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)},
            # Nothing is sent from here.
            "paging": "P0",
            "notify": "P0",
        },
        "postgres": {"reindex": {"wasted": "64KiB", "old_transaction": "1s"}},
        "metrics": whole["metrics"],
    }
    (tmp_path / "platforms").mkdir()
    (tmp_path / "platforms/studyspot.yaml").write_text(yaml.safe_dump(content))
    for conn_id, role in (("POSTGRES", "upkeep"), ("POSTGRES_OWNER", "upkeep_owner")):
        connection = servers.connection_to(server.home, server.name, role, DATABASE)
        monkeypatch.setenv(f"AIRFLOW_CONN_STUDYSPOT_{conn_id}", json.dumps(connection))
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path / "platforms"))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("UPKEEP_CONNECT_TO", json.dumps(server.home.state()["connect_to"]))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def execute(task: BaseOperator, *, unusable: Any = None, began: datetime | None = None) -> Any:
    """One task, as a worker would run it."""
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id=task.task_id, map_index=-1, try_number=1, log_url="",
        xcom_pull=lambda task_ids, key: unusable,
    )  # fmt: skip
    return task.execute({"ti": ti, "dag_run": SimpleNamespace(start_date=began)})  # type: ignore[typeddict-item]


def leftovers(**how: Any) -> Any:
    return execute(DropLeftoversOperator(task_id="leftovers", platform="studyspot"), **how)


def choose(dry_run: bool = False, **how: Any) -> list[dict[str, Any]]:
    return list(execute(ChooseIndexesOperator(task_id="choose_indexes", platform="studyspot", dry_run=dry_run), **how))


def reindex(item: dict[str, Any], **how: Any) -> Any:
    return execute(RebuildIndexOperator(task_id="reindex", platform="studyspot", item=item), **how)


def test_the_tasks_drop_choose_and_rebuild_on_the_record(server: ReindexServer, ledger: Ledger, platform: Path) -> None:
    bloated(server, "bookings")
    server("create index bookings_note_ccnew on bookings (note)")
    server.superuser("update pg_index set indisvalid = false where indexrelid = 'bookings_note_ccnew'::regclass")
    assert choose(dry_run=True) == []
    assert leftovers()["done"] == 1
    items = choose()
    assert [item["index"] for item in items] == ["public.bookings_note", "public.bookings_pkey"]
    assert json.loads(json.dumps(items)) == items, "XCom takes them as they are"
    with server.session("select count(*) from bookings"):
        assert reindex(items[0])["state"] == "in the way", "P3 is no red task"
    (finding,) = ledger.rows("select object, severity, state from findings")
    assert tuple(finding.values()) == ("public.bookings_note", "P3", "open")
    assert [reindex(item)["state"] for item in items] == ["done", "done"]
    assert ledger.rows("select state from findings") == [{"state": "resolved"}]
    assert choose() == []
    plans = ledger.rows("select id, dry_run, items from plans order by created_at")
    assert [(plan["dry_run"], len(plan["items"])) for plan in plans] == [(True, 2), (False, 1), (False, 2), (False, 0)]
    actions = ledger.rows("select verb, object, state, plan_id, before, after from actions order by id")
    assert [(row["verb"], row["object"], row["state"]) for row in actions] == [
        ("drop_leftover", "public.bookings_note_ccnew", "done"),
        ("reindex", "public.bookings_note", "skipped"),
        ("reindex", "public.bookings_note", "done"),
        ("reindex", "public.bookings_pkey", "done"),
    ]
    assert actions[2]["plan_id"] == plans[2]["id"]
    assert actions[2]["after"]["bytes_after"] < actions[2]["before"]["bytes"] / 2


def test_free_disk_is_what_the_platforms_metrics_say_or_unknown(
    server: ReindexServer, ledger: Ledger, platform: Path
) -> None:
    task = RebuildIndexOperator(task_id="reindex", platform="studyspot", item={})
    assert task.free() == pytest.approx(0.43 * 500 * 1024**3, rel=0.01)
    break_it(server.home, "studyspot_metrics_missing")
    with pytest.raises(DiskUnknown, match="Prometheus: no series for node_filesystem_avail_bytes"):
        task.free()
    bloated(server, "bookings")
    item = choose()[0]
    done = reindex(item)
    assert done["state"] == "no room"
    assert done["reason"].startswith("nobody knows whether there is room for it")
    heal_it(server.home, "studyspot_metrics_missing")
    file = platform / "platforms/studyspot.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, "metrics": {"prometheus": content["metrics"]["prometheus"]}}))
    assert "does not say where free disk is read (`metrics.database_free`)" in reindex(item)["reason"]
    file.write_text(yaml.safe_dump(content))
    assert reindex(item)["state"] == "done"


def test_a_window_that_is_over_and_a_database_that_is_down(
    server: ReindexServer, ledger: Ledger, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bloated(server, "bookings")
    item = choose()[0]
    done = reindex(item, began=datetime.now(UTC) - timedelta(hours=7))
    assert (done["state"], done["reason"]) == ("stopped", "the maintenance window is over")
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", "postgres://u:p@127.0.0.1:1/x")
    for task in (leftovers, choose):
        with pytest.raises(AirflowSkipException, match="the database cannot be used: "):
            task(unusable={"postgres": "connection refused"})
    with pytest.raises(AirflowFailException, match="P2 postgres_reindex_need: could not look: "):
        choose()
    monkeypatch.delenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES_OWNER")
    with pytest.raises(AirflowFailException, match="no connection 'studyspot_postgres_owner'"):
        leftovers()


def test_the_free_disk_of_both_platform_files_names_one_disk(server: ReindexServer) -> None:
    from upkeep.health.metrics import least

    for name in ("studyspot", "adaptive_learning"):
        metrics = platform_of(name).metrics
        assert metrics
        connect_to = server.home.state()["connect_to"]
        assert least(metrics, metrics.database_free, connect_to=connect_to) > 1024**3


RUNS = """
import json, sys
from airflow.utils.db import initdb
initdb()
from airflow.dag_processing.dagbag import DagBag
run = DagBag(sys.argv[1]).dags["studyspot_monthly_maintenance"].test()
print("RUN " + json.dumps([run.state, sorted(
    [ti.task_id, ti.map_index, ti.rendered_map_index, str(ti.state)] for ti in run.get_task_instances())]))
"""


@pytest.mark.soak
def test_the_dag_maps_one_rebuild_per_index(server: ReindexServer, ledger: Ledger, platform: Path) -> None:
    bloated(server, "bookings")
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(platform / "airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{platform}/airflow/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "PYTHONPATH": str(REPOSITORY / "plugins"),
        "UPKEEP_REPORTS": str(platform / "reports"),
    }
    (platform / "airflow").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUNS, REPOSITORY / "dags/monthly_maintenance.py"],
        env=env,
        capture_output=True,
        text=True,
    )
    runs = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("RUN ")]
    assert runs, done.stdout + done.stderr
    states = {f"{task}[{name}]" if name else task: state for task, _, name, state in runs[0][1]}
    assert states["reindex[public.bookings_note]"] == states["reindex[public.bookings_pkey]"] == "success"
    assert states["leftovers"] == states["choose_indexes"] == states["report"] == "success"
