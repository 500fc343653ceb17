"""The tasks `choose_tables`, `vacuum` and `finish_vacuum`, with a real database and a real ledger."""

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

from sandbox.home import REPOSITORY
from sandbox.servers import postgres as servers
from tests.postgres_server import DATABASE, PostgresServer, table
from upkeep.alerts import spool
from upkeep.ledger import Ledger, Run
from upkeep.platforms.services import Vacuum
from upkeep.postgres.operators import ChooseTablesOperator, VacuumTableOperator
from upkeep.settings import settings

VACUUM = Vacuum()


DAG_FILE = '''
from airflow.sdk import DAG, BaseOperator, TriggerRule
from upkeep.postgres.operators import ChooseTablesOperator, FinishVacuumOperator, VacuumTableOperator


class Health(BaseOperator):
    """Says what the real one says when the database is down."""

    template_fields = ("unusable",)

    def __init__(self, *, unusable, **kwargs):
        super().__init__(**kwargs)
        self.unusable = unusable

    def execute(self, context):
        if self.unusable:
            context["ti"].xcom_push(key="unusable", value={"postgres": self.unusable})


with DAG(dag_id="care", schedule=None, params={"unusable": "", "dry_run": "false"}):
    health = Health(task_id="health", unusable="{{ params.unusable }}")
    choose = ChooseTablesOperator(task_id="choose_tables", platform="studyspot", dry_run="{{ params.dry_run }}")
    vacuum = VacuumTableOperator.partial(
        task_id="vacuum", platform="studyspot", map_index_template="{{ task.need['table'] }}"
    ).expand(need=choose.output)
    health >> choose
    vacuum >> FinishVacuumOperator(
        task_id="finish_vacuum", platform="studyspot", trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    )
'''

RUNS = """
import json, sys
from airflow.utils.db import initdb
initdb()
from airflow.dag_processing.dagbag import DagBag
for conf in json.loads(sys.argv[2]):
    run = DagBag(sys.argv[1]).dags["care"].test(run_conf=conf)
    print("RUN " + json.dumps([run.state, sorted(
        [ti.task_id, ti.map_index, ti.rendered_map_index, str(ti.state)] for ti in run.get_task_instances())]))
"""


@pytest.fixture
def platform(
    seventeen: PostgresServer, ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A platform whose database is ``seventeen``, for this process and those it starts."""
    content = {
        "name": "studyspot",
        "title": "StudySpot",
        "severity": {
            "levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)},
            # Nothing is sent from here.
            "paging": "P0",
            "notify": "P0",
        },
        "postgres": {},
    }
    (tmp_path / "platforms").mkdir()
    (tmp_path / "platforms/studyspot.yaml").write_text(yaml.safe_dump(content))
    connection = servers.connection_to(seventeen.home, seventeen.name, "upkeep", DATABASE)
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", json.dumps(connection))
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path / "platforms"))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def run_the_dag(place: Path, *confs: dict[str, Any]) -> list[Any]:
    """The Dag above, once per configuration: ``[[state, [[task, map index, its name, state], …]], …]``."""
    for directory in ("dags", "airflow"):
        (place / directory).mkdir()
    (place / "dags/care.py").write_text(DAG_FILE)
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(place / "airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{place}/airflow/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(place / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "PYTHONPATH": str(REPOSITORY / "plugins"),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUNS, place / "dags", json.dumps(confs)], env=env, capture_output=True, text=True
    )
    runs = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("RUN ")]
    assert len(runs) == len(confs), done.stdout + done.stderr
    return runs


def execute(task: BaseOperator, *, unusable: Any = None, began: datetime | None = None, map_index: int = -1) -> Any:
    """One task, as a worker would run it."""
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id=task.task_id, map_index=map_index, try_number=1, log_url="",
        xcom_pull=lambda task_ids, key: unusable,
    )  # fmt: skip
    return task.execute({"ti": ti, "dag_run": SimpleNamespace(start_date=began)})  # type: ignore[typeddict-item]


def choose(**how: Any) -> list[dict[str, Any]]:
    return list(execute(ChooseTablesOperator(task_id="choose_tables", platform="studyspot"), **how))


def care_for(need: dict[str, Any], **how: Any) -> Any:
    return execute(VacuumTableOperator(task_id="vacuum", platform="studyspot", need=need), **how)


@pytest.mark.soak  # a Dag run of its own; tests/test_live.py sees one in a whole Airflow
def test_the_tasks_choose_map_vacuum_and_do_not_do_it_twice(
    seventeen: PostgresServer, ledger: Ledger, platform: Path
) -> None:
    table(seventeen, "bookings", dead=4000)
    table(seventeen, "users", dead=9000)
    table(seventeen, "seats")
    dry, real = run_the_dag(platform, {"dry_run": "true"}, {})

    idle = [["finish_vacuum", -1, None, "skipped"], ["health", -1, None, "success"], ["vacuum", -1, None, "skipped"]]
    assert dry == ["success", [["choose_tables", -1, None, "success"], *idle]]
    assert real == ["success", [
        ["choose_tables", -1, None, "success"], ["finish_vacuum", -1, None, "success"],
        ["health", -1, None, "success"],
        ["vacuum", 0, "public.users", "success"], ["vacuum", 1, "public.bookings", "success"],
    ]]  # fmt: skip
    assert seventeen.needs() == {}

    plans = ledger.rows("select id, items, dry_run from plans order by created_at")
    assert [(plan["dry_run"], [item["table"] for item in plan["items"]]) for plan in plans] == [
        (True, ["public.users", "public.bookings"]), (False, ["public.users", "public.bookings"]),
    ]  # fmt: skip
    assert {item["predicted_s"] > 0 for plan in plans for item in plan["items"]} == {True}
    actions = ledger.rows("select * from actions where verb = 'vacuum' order by map_index")
    assert [(row["object"], row["state"], row["plan_id"], row["map_index"]) for row in actions] == [
        ("public.users", "done", plans[1]["id"], 0), ("public.bookings", "done", plans[1]["id"], 1),
    ]  # fmt: skip
    assert (actions[0]["before"]["dead_rows"], actions[0]["after"]["dead_rows"]) == (9000, 0)
    assert actions[0]["after"]["seconds"] > 0
    outcomes = ledger.rows("select check_name, object, state from outcomes where check_name = 'postgres_vacuum'")
    assert {(row["object"], row["state"]) for row in outcomes} == {("public.users", "ok"), ("public.bookings", "ok")}


def test_what_stops_one_table_is_found_told_and_over_when_it_is_over(
    seventeen: PostgresServer, ledger: Ledger, platform: Path
) -> None:
    table(seventeen, "bookings", dead=4000)
    (need,) = choose()
    with seventeen.session("lock table bookings in share mode"):
        assert care_for(need)["state"] == "locked", "P3 is no red task"
    (action,) = ledger.rows("select state, reason from actions")
    assert (action["state"], action["reason"][:7]) == ("skipped", "locked:")
    (finding,) = ledger.rows("select check_name, object, severity, state from findings")
    assert tuple(finding.values()) == ("postgres_vacuum", "public.bookings", "P3", "open")

    # Somebody else took care of it: nobody needs to vacuum it, and the finding must not stay for ever.
    seventeen("vacuum analyze bookings")
    assert care_for(need)["state"] == "not needed", "a task that is cleared does nothing twice"
    seventeen("update bookings set note = 'again' where id <= 4000")
    with seventeen.session("lock table bookings in share mode"):
        care_for(need)
    seventeen("vacuum analyze bookings")
    assert choose() == []
    assert ledger.rows("select state from findings where check_name = 'postgres_vacuum'") == [{"state": "resolved"}]


def test_the_end_of_the_window_stops_what_has_not_begun(
    seventeen: PostgresServer, ledger: Ledger, platform: Path
) -> None:
    table(seventeen, "bookings", dead=4000)
    (need,) = choose()
    done = care_for(need, began=datetime.now(UTC) - timedelta(hours=3))
    assert (done["state"], done["reason"]) == ("stopped", "the maintenance window is over")
    assert care_for(need, began=datetime.now(UTC))["state"] == "done"


def test_a_database_that_cannot_be_reached_skips_only_when_health_has_said_so(
    seventeen: PostgresServer, ledger: Ledger, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", "postgres://u:p@127.0.0.1:1/x")
    for said in ({"postgres": "postgres_connect: connection refused"}, ["redis", "postgres"]):
        with pytest.raises(AirflowSkipException, match="the database cannot be used: "):
            choose(unusable=said)
    with pytest.raises(AirflowFailException, match="P2 postgres_vacuum_need: could not look: "):
        choose(unusable={"redis": "down"})
    (row,) = ledger.rows("select check_name, state, reason from outcomes")
    assert (row["check_name"], row["state"]) == ("postgres_vacuum_need", "unknown")
    assert "p@127" not in row["reason"], "no password"


def test_a_missing_connection_and_a_missing_section_say_what_to_do(
    seventeen: PostgresServer, ledger: Ledger, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES")
    with pytest.raises(AirflowFailException, match=r"no connection 'studyspot_postgres'(.|\n)*HINT: add it in Airflow"):
        choose()
    file = platform / "platforms/studyspot.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(file.read_text()).items() if k != "postgres"}))
    with pytest.raises(AirflowFailException, match=r"studyspot has no database(.|\n)*HINT: add the section"):
        choose()


def test_a_hold_on_the_connection_makes_the_task_wait_for_its_window(
    seventeen: PostgresServer, ledger: Ledger, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(seventeen, "bookings", dead=4000)
    file = platform / "platforms/studyspot.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "brake": {"first_wait": "1s"}}))
    (need,) = choose()
    connection = json.loads(os.environ["AIRFLOW_CONN_STUDYSPOT_POSTGRES"])
    held = {**connection, "extra": {**connection["extra"], "upkeep_hold": "migration until noon"}}
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", json.dumps(held))
    # A window of two hours that closes in a second.
    done = care_for(need, began=datetime.now(UTC) - timedelta(hours=2) + timedelta(seconds=1.5))
    assert done["state"] == "stopped"
    assert done["reason"].startswith("a person asked for a hold: migration until noon (waited 1.")
    (finding,) = ledger.rows("select severity, summary from findings where state = 'open'")
    assert (finding["severity"], finding["summary"][:44]) == ("P4", "not begun: a person asked for a hold: migrat")
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", json.dumps(connection))
    assert care_for(need)["state"] == "done"


def test_without_the_ledger_tables_are_cared_for_and_the_outcomes_wait(
    seventeen: PostgresServer, ledger: Ledger, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(seventeen, "bookings", dead=4000)
    table(seventeen, "users", dead=4000)
    there = os.environ["AIRFLOW_CONN_UPKEEP_LEDGER"]
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", "postgres://nobody:x@127.0.0.1:1/ledger")
    needs = choose()
    assert [need["table"] for need in needs] == ["public.bookings", "public.users"]
    with seventeen.session("lock table users in share mode"):
        states = [care_for(need, map_index=number)["state"] for number, need in enumerate(needs)]
    assert states == ["done", "locked"]
    assert set(seventeen.needs()) == {"public.users"}

    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", there)
    assert ledger.rows("select * from outcomes") == []
    spool.take_in(ledger, settings().spool, lambda change: ())
    assert ledger.rows("select object from findings where check_name = 'postgres_vacuum' and state = 'open'") == [
        {"object": "public.users"}
    ]
    (row,) = ledger.rows("select facts from outcomes where object = 'public.bookings'")
    assert (row["facts"]["dead_rows_before"], row["facts"]["dead_rows_after"]) == (4000, 0)


def test_a_ledger_that_goes_away_in_the_middle_does_not_undo_the_deed(
    seventeen: PostgresServer, ledger: Ledger, platform: Path
) -> None:
    table(seventeen, "bookings", dead=4000)
    (need,) = choose()
    task = VacuumTableOperator(task_id="vacuum", platform="studyspot", need=need)
    run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="vacuum")
    others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
    with task.action(run, "postgres", "vacuum", need["table"], before={}) as action:
        ledger.rows(others + " and pid <> pg_backend_pid()")
        action.after = {"state": "done"}
    assert ledger.rows("select state from actions") == [{"state": "open"}], "and the next run calls it abandoned"
