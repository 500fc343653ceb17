"""VACUUM and ANALYZE by need, on real servers: who is chosen, what is done, what stands in the way, who is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import yaml
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from psycopg import sql
from psycopg.conninfo import make_conninfo

from sandbox import __main__ as sandbox
from sandbox import processes
from sandbox.home import REPOSITORY, Home
from sandbox.servers import postgres as servers
from tests.postgres_server import DATABASE, VERSIONS, PostgresServer, empty, table
from upkeep.errors import CredentialsError, SettingsError
from upkeep.ledger import Ledger
from upkeep.platforms.services import Vacuum
from upkeep.postgres import vacuum, wording
from upkeep.postgres.needs import Need, tables_in_need
from upkeep.postgres.operators import ChooseTablesOperator, VacuumTableOperator
from upkeep.postgres.snapshots import old_snapshot
from upkeep.settings import settings

VACUUM = Vacuum()


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    home = Home(Path(tempfile.mkdtemp(prefix="up-", dir="/tmp")))
    try:
        yield home
    finally:
        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)


class Server(PostgresServer):
    """With the questions of this file."""

    def needs(self, settings: Vacuum = VACUUM, **how: Any) -> dict[str, Need]:
        with vacuum.gentle(self.conninfo, settings) as connection:
            return {need.table: need for need in tables_in_need(connection, settings, **how)}

    def care(self, name: str, settings: Vacuum = VACUUM, schema: str = "public", **how: Any) -> dict[str, Any]:
        return vacuum.care(self.conninfo, schema, name, settings, **how)


@pytest.fixture(scope="module")
def each(home: Home) -> Callable[[int], Server]:
    made: dict[int, Server] = {}

    def server(version: int) -> Server:
        if version not in made:
            made[version] = Server(home, version)
        return made[version]

    return server


@pytest.fixture(params=VERSIONS)
def server(each: Callable[[int], Server], request: pytest.FixtureRequest) -> Iterator[Server]:
    """The same test on every version; leaves an empty schema."""
    yield from empty(each(request.param))


@pytest.fixture
def seventeen(each: Callable[[int], Server]) -> Iterator[Server]:
    yield from empty(each(17))


# -- choosing ------------------------------------------------------------------------------------------


def test_the_bloated_table_is_chosen_and_the_fresh_one_is_not(server: Server) -> None:
    table(server, "bloated", dead=4000)
    table(server, "fresh", dead=500)
    needs = server.needs()
    assert list(needs) == ["public.bloated"]
    need = needs["public.bloated"]
    # 4,000 dead over 50 + 0.2 × 10,000; 4,000 changed over 50 + 0.1 × 10,000.
    assert need.arm == "vacuum"
    assert need.facts["dead_score"] == pytest.approx(4000 / 2050, rel=0.01)
    assert need.score == need.facts["analyze_score"] == pytest.approx(4000 / 1050, rel=0.01)
    assert need.because == "4,000 rows changed since the last ANALYZE (3.8 × autovacuum's threshold)"
    assert need.allowed
    assert need.facts["last_vacuum"].startswith(str(datetime.now(UTC).year))
    assert json.loads(json.dumps(need.as_dict()))["table"] == "public.bloated", "XCom takes it as it is"


def test_vacuum_removes_the_dead_rows_once_and_says_what_it_did(server: Server) -> None:
    table(server, "bookings", dead=4000)
    done = server.care("bookings")
    options = "analyze, skip_locked, truncate false, parallel 0" + (
        ", buffer_usage_limit '4MB', skip_database_stats" if server.version >= 16 else ""
    )
    assert done["statement"] == f'vacuum ({options}) "public"."bookings"'
    assert done["state"] == "done"
    assert (done["before"]["dead_rows"], done["after"]["dead_rows"]) == (4000, 0)
    assert done["after"]["live_rows"] == 10_000
    assert done["wal_bytes"] > 0
    assert 0 < done["seconds"] < 10
    assert wording.cared("public.bookings", done).state == "ok"
    assert server.needs() == {}
    again = server.care("bookings")
    assert again["state"] == "not needed"
    assert server("select vacuum_count from pg_stat_user_tables where relname = 'bookings'") == [(2,)]


def test_only_analyze_where_only_statistics_are_stale(server: Server) -> None:
    table(server, "grown", rows=10_000)
    server("insert into grown select i, 'x' from generate_series(10001, 12500) as i")
    need = server.needs()["public.grown"]
    assert (need.arm, round(need.facts["analyze_score"], 1)) == ("analyze", 2.4)
    # 2,500 inserted over 1,000 + 0.2 × 10,000; from 18 on frozen pages do not count.
    assert need.facts["insert_score"] < 1 or server.version >= 18
    done = server.care("grown")
    assert done["statement"] == 'analyze (skip_locked) "public"."grown"'
    assert done["state"] == "done"
    assert server.needs() == {}


def test_many_inserts_call_for_vacuum(server: Server) -> None:
    table(server, "log", rows=100)
    server("insert into log select i, 'x' from generate_series(101, 5000) as i")
    need = server.needs()["public.log"]
    assert need.arm == "vacuum"
    assert need.facts["insert_score"] > 1
    assert server.care("log")["state"] == "done"


def test_storage_parameters_of_a_table_are_honoured(server: Server) -> None:
    table(server, "eager", dead=60, options="autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0")
    table(
        server, "calm", dead=5000,
        options="autovacuum_vacuum_scale_factor = 0.9, autovacuum_analyze_scale_factor = 0.9",
    )  # fmt: skip
    table(server, "off", dead=4000, options="autovacuum_enabled = false")
    needs = server.needs()
    assert set(needs) == {"public.eager", "public.off"}, "where autovacuum is off, we are needed the more"
    assert needs["public.eager"].facts["dead_score"] == pytest.approx(60 / 50)


def test_dead_rows_of_toast_count_for_the_table(server: Server) -> None:
    server(
        "create table documents (id int primary key, body text) with (toast.autovacuum_vacuum_threshold = 100,"
        " toast.autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_threshold = 1000)"
    )
    server("alter table documents alter column body set storage external")
    server("insert into documents select i, repeat('x', 9000) from generate_series(1, 200) as i")
    server("vacuum analyze documents")
    server("update documents set body = repeat('y', 9000) where id <= 45")
    need = server.needs()["public.documents"]
    assert need.facts["toast_dead_rows"] == 45 * 5
    assert need.facts["dead_score"] == pytest.approx(45 * 5 / 100)
    done = server.care("documents")
    assert (done["before"]["dead_rows"], done["after"]["dead_rows"]) == (45 * 6, 0)


def test_from_18_on_the_threshold_has_a_cap(each: Callable[[int], Server]) -> None:
    for server in empty(each(18)):
        table(server, "large", rows=20_000, dead=400, options="autovacuum_vacuum_max_threshold = 200")
        assert server.needs()["public.large"].facts["dead_score"] == pytest.approx(2.0)


def test_freezing_comes_before_everything_and_is_done(seventeen: Server) -> None:
    table(seventeen, "bloated", dead=9000)
    table(seventeen, "ancient", rows=1000, options="autovacuum_freeze_max_age = 100000")
    seventeen("do $$ begin for i in 1..61000 loop perform txid_current(); commit; end loop; end $$")
    needs = list(seventeen.needs().values())
    assert [(need.table, need.arm) for need in needs][:1] == [("public.ancient", "freeze")]
    assert needs[0].score < needs[1].score, "although its score is lower"
    assert "transactions not frozen" in needs[0].because
    over = datetime.now(UTC) - timedelta(minutes=1)
    assert seventeen.care("bloated", ends=over)["state"] == "stopped"
    done = seventeen.care("ancient", ends=over)
    assert done["state"] == "done", "wraparound does not wait for windows"
    assert "freeze" in done["statement"]
    assert done["before"]["transactions_unfrozen"] > 61_000
    assert done["after"]["transactions_unfrozen"] < 1000
    assert "public.ancient" not in seventeen.needs()


def test_near_wraparound_nothing_but_freezing_counts(seventeen: Server) -> None:
    table(seventeen, "old", rows=10, dead=10)
    need = replace(seventeen.needs(Vacuum(least_score=0.1))["public.old"], arm="freeze", failsafe=True)
    assert vacuum.compose(need, 170000).as_string(None) == (
        "vacuum (skip_locked, truncate false, freeze, index_cleanup off, buffer_usage_limit 0, skip_database_stats)"
        ' "public"."old"'
    )


def test_at_most_so_many_tables_the_neediest_first(seventeen: Server) -> None:
    for number, dead in enumerate((3000, 9000, 6000)):
        table(seventeen, f"t{number}", dead=dead)
    assert list(seventeen.needs(Vacuum(most_tables=2))) == ["public.t1", "public.t2"]


def test_any_name_that_a_table_may_have_is_safe(server: Server) -> None:
    schema, name = 'My "Schema"; drop', 'Tä.ble\n%s "x"'
    quoted = sql.Identifier(schema, name).as_string(None)
    server(sql.SQL("create schema {}").format(sql.Identifier(schema)).as_string(None))
    table(server, quoted, dead=4000)
    (need,) = server.needs().values()
    assert (need.schema, need.name) == (schema, name)
    assert server.care(name, schema=schema)["after"]["dead_rows"] == 0


def test_what_is_being_vacuumed_now_is_left_alone(seventeen: Server) -> None:
    table(seventeen, "busy", dead=9000)
    with psycopg.connect(seventeen.owner, autocommit=True) as other:
        other.execute("set vacuum_cost_delay = 100; set vacuum_cost_limit = 1")

        def until_cancelled() -> None:
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                other.execute("vacuum busy")

        thread = threading.Thread(target=until_cancelled)
        thread.start()
        processes.wait_until(
            lambda: seventeen("select count(*) from pg_stat_progress_vacuum")[0][0] == 1, 5, "VACUUM to be at work"
        )
        assert seventeen.needs() == {}
        assert seventeen.care("busy")["state"] == "not needed"
        other.cancel_safe()
        thread.join()
    assert "public.busy" in seventeen.needs()


# -- what stands in the way ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["share update exclusive", "access exclusive"])
def test_a_locked_table_is_skipped_within_two_seconds_and_its_holder_named(server: Server, mode: str) -> None:
    table(server, "locked", dead=4000)
    with server.session(f"lock table locked in {mode} mode") as holder:
        began = time.monotonic()
        done = server.care("locked")
        assert time.monotonic() - began < 2
        assert done["state"] == "locked"
        assert done["reason"] == f"pid {holder.info.backend_pid} (app_owner api) holds {MODES[mode]} on it"
    outcome = wording.cared("public.locked", done)
    (finding,) = outcome.findings
    assert (finding.severity, finding.object) == ("P3", "public.locked")
    assert finding.summary == f"skipped: {done['reason']}"
    assert server.care("locked")["state"] == "done"


MODES = {"share update exclusive": "ShareUpdateExclusiveLock", "access exclusive": "AccessExclusiveLock"}


def test_a_missing_right_is_a_finding_with_the_grant_that_cures_it(server: Server) -> None:
    table(server, "bookings", dead=4000)
    server.superuser("drop role if exists weak")
    server.superuser("create role weak login password 'weak'; grant pg_monitor to weak")
    weak = make_conninfo(server.conninfo, user="weak", password="weak")
    try:
        with vacuum.gentle(weak, VACUUM) as connection:
            (need,) = tables_in_need(connection, VACUUM)
            grant = vacuum.grant(connection, [need])
            assert not need.allowed
            # PostgreSQL itself only warns, and reports success.
            state = vacuum._state(connection, "public", "bookings")
            assert state is not None
            trusting = vacuum._do(connection, replace(need, allowed=True), state, timedelta(seconds=5))
        assert trusting["state"] == "refused"
        refused = vacuum.care(weak, "public", "bookings", VACUUM)
        assert refused["state"] == "refused"
        (finding,) = wording.cared("public.bookings", refused).findings
        assert finding.severity == "P2"
        assert grant in finding.hint
        rights = next(o for o in wording.chosen([need], grant, []) if o.check == "postgres_vacuum_rights")
        assert [f.severity for f in rights.findings] == ["P2"], "all of them: the task is pointless"
        server.superuser(grant)
        assert vacuum.care(weak, "public", "bookings", VACUUM)["state"] == "done"
    finally:
        server.superuser("drop owned by weak; drop role weak")


def test_whoever_holds_an_old_snapshot_is_named(server: Server) -> None:
    table(server, "bookings")
    with server.session("set transaction isolation level repeatable read", "select 1") as reader:
        server("update bookings set note = 'changed' where id <= 4000")
        done = server.care("bookings")
        assert done["state"] == "done"
        assert done["after"]["dead_rows"] == 4000
        pid = reader.info.backend_pid
        assert done["held_by"].startswith(f"session app_owner api (pid {pid}), ")
        (finding,) = wording.cared("public.bookings", done).findings
        assert (finding.severity, finding.summary[:39]) == ("P3", "VACUUM left 4,000 of 4,000 dead rows: s")
        with vacuum.gentle(server.conninfo, VACUUM) as connection:
            assert old_snapshot(connection) is None, "not for long yet"
            assert old_snapshot(connection, timedelta(0)).pid == pid
    server("update bookings set note = 'again' where id <= 4000")
    assert server.care("bookings")["after"]["dead_rows"] == 0


def test_prepared_transactions_and_slots_hold_snapshots_too(seventeen: Server) -> None:
    table(seventeen, "bookings")
    with seventeen.session("create table other ()", "prepare transaction 'forgotten'"):
        pass
    with vacuum.gentle(seventeen.conninfo, VACUUM) as connection:
        assert str(old_snapshot(connection, timedelta(0))).startswith("prepared transaction forgotten, ")
        seventeen("rollback prepared 'forgotten'")
        assert old_snapshot(connection, timedelta(0), 0) is None


def test_a_vacuum_that_takes_too_long_is_given_up(seventeen: Server) -> None:
    table(seventeen, "large", dead=9000)
    slow = Vacuum(cost_limit=1, cost_delay="100ms", statement_timeout="1s")  # type: ignore[arg-type]
    done = seventeen.care("large", slow)
    assert done["state"] == "cancelled"
    assert done["reason"] == "it was not through after 1 s"
    (finding,) = wording.cared("public.large", done).findings
    assert (finding.severity, "statement_timeout" in finding.hint) == ("P3", True)
    ends = datetime.now(UTC) + timedelta(milliseconds=900)
    began = time.monotonic()
    assert seventeen.care("large", Vacuum(cost_limit=1, cost_delay="100ms"), ends=ends)["state"] == "cancelled"  # type: ignore[arg-type]
    assert time.monotonic() - began < 3, "the end of the window ends it"


def test_a_vacuum_that_the_server_has_not_counted_is_not_called_done(seventeen: Server) -> None:
    table(seventeen, "bookings", dead=4000)
    seventeen.superuser("alter role upkeep set track_counts = off")
    try:
        done = seventeen.care("bookings")
    finally:
        seventeen.superuser("alter role upkeep reset track_counts")
    assert done["state"] == "unconfirmed"
    (finding,) = wording.cared("public.bookings", done).findings
    assert (finding.severity, "track_counts" in finding.hint) == ("P3", True)


def test_the_brake_is_asked_before_each_table(seventeen: Server) -> None:
    table(seventeen, "bookings", dead=4000)
    done = seventeen.care("bookings", brake=lambda connection: lambda: "standby is 1.2 GB behind")
    assert (done["state"], done["reason"]) == ("stopped", "standby is 1.2 GB behind")
    (finding,) = wording.cared("public.bookings", done).findings
    assert (finding.severity, finding.summary) == ("P4", "not begun: standby is 1.2 GB behind")
    assert "public.bookings" in seventeen.needs()


def test_a_table_dropped_meanwhile_is_no_failure(seventeen: Server) -> None:
    table(seventeen, "bookings", dead=4000)
    (need,) = seventeen.needs().values()
    with vacuum.gentle(seventeen.conninfo, VACUUM) as connection:
        state = vacuum._state(connection, "public", "bookings")
        assert state is not None
        seventeen("drop table bookings")
        assert vacuum._do(connection, need, state, timedelta(seconds=5))["state"] == "gone"
    assert seventeen.care("bookings")["state"] == "not needed"


def test_sessions_of_maintenance_are_polite(seventeen: Server) -> None:
    with vacuum.gentle(seventeen.conninfo, Vacuum(cost_limit=300, cost_delay="1.5ms")) as connection:  # type: ignore[arg-type]
        shown = {
            name: connection.execute(f"show {name}").fetchone()  # type: ignore[call-overload]
            for name in ("application_name", "lock_timeout", "vacuum_cost_limit", "vacuum_cost_delay")
        }
    assert {name: next(iter(row.values())) for name, row in shown.items() if row} == {
        "application_name": "upkeep", "lock_timeout": "2s", "vacuum_cost_limit": "300", "vacuum_cost_delay": "1500us",
    }  # fmt: skip


def test_wrong_credentials_say_so(seventeen: Server) -> None:
    wrong = make_conninfo(seventeen.conninfo, password="wrong")
    with pytest.raises(CredentialsError, match=r"refused the role of maintenance(.|\n)*HINT"):
        vacuum.care(wrong, "public", "x", VACUUM)


def test_a_standby_is_not_vacuumed(home: Home, seventeen: Server) -> None:
    servers.start_standby(home, seventeen.name, "postgres.v17_standby")
    standby = make_conninfo(seventeen.conninfo, port=home.facts("postgres.v17_standby")["port"])
    with vacuum.gentle(standby, VACUUM) as connection, pytest.raises(SettingsError, match="this server is a standby"):
        tables_in_need(connection, VACUUM)
    processes.stop(home, "postgres.v17_standby")


# -- killed --------------------------------------------------------------------------------------------

CARES = """
import signal, sys
from upkeep.ledger import Ledger, Run
from upkeep.platforms.services import Vacuum
from upkeep.postgres import vacuum
conninfo, ledger_conninfo, slow = sys.argv[1:]

def told_to_end(*_):
    raise SystemExit("told to end")

signal.signal(signal.SIGTERM, told_to_end)
settings = Vacuum(cost_limit=1, cost_delay="100ms") if slow == "slow" else Vacuum()
run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="vacuum")
with Ledger(ledger_conninfo) as ledger:
    with ledger.action(run, "postgres", "vacuum", "public.bookings") as action:
        action.after = vacuum.care(conninfo, "public", "bookings", settings)
print(action.after["state"])
"""


def start_caring(server: Server, ledger_conninfo: str, speed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CARES, server.conninfo, ledger_conninfo, speed],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_of_a_vacuum_the_server_ends_it_and_the_next_run_does_it(
    seventeen: Server, ledger: Ledger, ledger_conninfo: str, sig: signal.Signals
) -> None:
    table(seventeen, "bookings", rows=50_000, dead=40_000)
    at_work = "select count(*) from pg_stat_progress_vacuum"
    process = start_caring(seventeen, ledger_conninfo, "slow")
    processes.wait_until(lambda: seventeen(at_work)[0][0] == 1, 20, "VACUUM to be at work")
    assert [row["state"] for row in ledger.rows("select state from actions")] == ["open"], (
        "killed while a step was open"
    )
    process.send_signal(sig)
    process.wait(timeout=10)
    processes.wait_until(lambda: seventeen(at_work)[0][0] == 0, 5, "the server to notice")
    again = start_caring(seventeen, ledger_conninfo, "fast")
    said, _ = again.communicate(timeout=60)
    assert said.strip() == "done"
    states = [row["state"] for row in ledger.rows("select state from actions order by id")]
    assert states == (["abandoned", "done"] if sig == signal.SIGKILL else ["failed", "done"])
    assert seventeen.needs() == {}
    assert seventeen("select count(*) from bookings") == [(50_000,)]


# -- the tasks -----------------------------------------------------------------------------------------

DAG_FILE = '''
from airflow.sdk import DAG, BaseOperator
from upkeep.postgres.operators import ChooseTablesOperator, VacuumTableOperator
from upkeep.postgres.session import connect


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
    seventeen: Server, ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def execute(task: BaseOperator, *, unusable: Any = None, began: datetime | None = None) -> Any:
    """One task, as a worker would run it."""
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id=task.task_id, map_index=-1, try_number=1, log_url="",
        xcom_pull=lambda task_ids, key: unusable,
    )  # fmt: skip
    return task.execute({"ti": ti, "dag_run": SimpleNamespace(start_date=began)})  # type: ignore[typeddict-item]


def choose(**how: Any) -> list[dict[str, Any]]:
    return list(execute(ChooseTablesOperator(task_id="choose_tables", platform="studyspot"), **how))


def care_for(need: dict[str, Any], **how: Any) -> Any:
    return execute(VacuumTableOperator(task_id="vacuum", platform="studyspot", need=need), **how)


def test_the_tasks_choose_map_vacuum_and_do_not_do_it_twice(seventeen: Server, ledger: Ledger, platform: Path) -> None:
    table(seventeen, "bookings", dead=4000)
    table(seventeen, "users", dead=9000)
    table(seventeen, "seats")
    dry, real, again, down = run_the_dag(platform, {"dry_run": "true"}, {}, {}, {"unusable": "connection refused"})

    assert dry == ["success", [["choose_tables", -1, None, "success"], ["health", -1, None, "success"],
                               ["vacuum", -1, None, "skipped"]]]  # fmt: skip
    assert real[0] == "success"
    assert real[1][2:] == [["vacuum", 0, "public.users", "success"], ["vacuum", 1, "public.bookings", "success"]]
    assert again[1][2:] == [["vacuum", -1, None, "skipped"]], "nothing is in need any more"
    assert down == ["success", [["choose_tables", -1, None, "skipped"], ["health", -1, None, "success"],
                                ["vacuum", -1, None, "skipped"]]]  # fmt: skip

    plans = ledger.rows("select id, items, dry_run from plans order by created_at")
    assert [(plan["dry_run"], [item["table"] for item in plan["items"]]) for plan in plans] == [
        (True, ["public.users", "public.bookings"]), (False, ["public.users", "public.bookings"]), (False, []),
    ]  # fmt: skip
    actions = ledger.rows("select * from actions order by map_index")
    assert [(row["object"], row["state"], row["plan_id"], row["map_index"]) for row in actions] == [
        ("public.users", "done", plans[1]["id"], 0), ("public.bookings", "done", plans[1]["id"], 1),
    ]  # fmt: skip
    assert (actions[0]["before"]["dead_rows"], actions[0]["after"]["dead_rows"]) == (9000, 0)
    assert actions[0]["after"]["seconds"] > 0
    outcomes = ledger.rows("select check_name, object, state from outcomes where check_name = 'postgres_vacuum'")
    assert {(row["object"], row["state"]) for row in outcomes} == {("public.users", "ok"), ("public.bookings", "ok")}


def test_what_stops_one_table_is_found_told_and_over_when_it_is_over(
    seventeen: Server, ledger: Ledger, platform: Path
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


def test_the_end_of_the_window_stops_what_has_not_begun(seventeen: Server, ledger: Ledger, platform: Path) -> None:
    table(seventeen, "bookings", dead=4000)
    (need,) = choose()
    done = care_for(need, began=datetime.now(UTC) - timedelta(hours=3))
    assert (done["state"], done["reason"]) == ("stopped", "the maintenance window is over")
    assert care_for(need, began=datetime.now(UTC))["state"] == "done"


def test_a_database_that_cannot_be_reached_skips_only_when_health_has_said_so(
    seventeen: Server, ledger: Ledger, platform: Path, monkeypatch: pytest.MonkeyPatch
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
    seventeen: Server, ledger: Ledger, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES")
    with pytest.raises(AirflowFailException, match=r"no connection 'studyspot_postgres'(.|\n)*HINT: add it in Airflow"):
        choose()
    file = platform / "platforms/studyspot.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(file.read_text()).items() if k != "postgres"}))
    with pytest.raises(AirflowFailException, match=r"studyspot has no database(.|\n)*HINT: add the section"):
        choose()
