"""The tasks of `restore`: what each says, who may say yes, and what is left behind when nobody does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sandbox.home import Home
from sandbox.servers import postgres as servers
from sandbox.servers import s3
from tests.conftest import fresh_ledger
from tests.postgres_server import DATABASE
from tests.restore_server import RestoreServer, emptied
from upkeep.backup.restore import deeds, operators
from upkeep.doctor import postgres as doctor
from upkeep.doctor.text import lines
from upkeep.ledger import Ledger
from upkeep.platforms import load_file
from upkeep.settings import settings

SERVER = RestoreServer
TASKS = {
    "choose": operators.ChooseOperator, "room": operators.RoomOperator, "load": operators.LoadOperator,
    "prove": operators.ProveOperator, "erase_again": operators.EraseAgainOperator,
    "question": deeds.QuestionOperator, "approval": deeds.AskOperator, "swap": deeds.SwapOperator,
    "checked": deeds.CheckedOperator, "settle": deeds.SettleOperator,
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(control: Home) -> Iterator[dict[str, Any]]:
    with fresh_ledger(control) as made:
        yield made


@pytest.fixture
def ledger_conninfo(kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """One ledger for this file, emptied for each test."""
    return emptied(kept, monkeypatch)


@pytest.fixture
def server(each: Callable[..., Any], ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A platform whose database and bucket are the server's."""
    server: RestoreServer = each(17, RestoreServer).fresh()
    connections = {
        "POSTGRES": servers.connection_to(server.home, server.name, "upkeep", DATABASE),
        "POSTGRES_OWNER": servers.connection_to(server.home, server.name, "upkeep_owner", DATABASE),
        "BACKUP_S3": s3.connection_to(server.home),
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_STUDYSPOT_{name}", json.dumps(connection))
    level = {"respond": "15m", "resolve": "2h"}
    content = {
        "name": "studyspot",
        "title": "StudySpot",
        "severity": {"levels": {f"P{rank}": {"name": f"P{rank}", **level} for rank in range(4)}},
        "postgres": {"queries": [{"name": "users", "sql": "select count(*) from users", "at_least": 1}]},
        "backup": {
            "bucket": "studyspot-backups",
            "database": {"prefix": server.prefix, "restore": {"wait": "100ms", "within": "30s"}},
        },
        "approvers": {"people": ["mira", "ada"], "second_for": ["restore"]},
    }
    (tmp_path / "platforms").mkdir()
    (tmp_path / "platforms" / "studyspot.yaml").write_text(yaml.safe_dump(content))
    programs = json.dumps([str(server.directories[0])])
    for name, value in {"PLATFORMS": tmp_path / "platforms", "SPOOL": tmp_path, "POSTGRES_PROGRAMS": programs}.items():
        monkeypatch.setenv(f"UPKEEP_{name}", str(value))
    settings.cache_clear()
    yield server
    settings.cache_clear()


class Dag:
    """Its tasks one after the other, as a worker would run them; what is skipped is ``skipped``."""

    def __init__(self, run_id: str = "r", **params: Any) -> None:
        self.run_id, self.params = run_id, {"platform": "studyspot", **params}
        self.results: dict[str, Any] = {}

    def __call__(self, *tasks: str) -> Any:
        for name in tasks:
            ti = SimpleNamespace(
                dag_id="restore", run_id=self.run_id, task_id=name, map_index=-1, try_number=1, max_tries=0,
                log_url="", xcom_pull=lambda task_ids, key="return_value": self.results.get(task_ids),
            )  # fmt: skip
            self.context: Any = {
                "ti": ti, "params": self.params, "dag_run": SimpleNamespace(triggering_user_name="mira"),
            }  # fmt: skip
            try:
                self.results[name] = TASKS[name](task_id=name, platform="studyspot", **self._asks(name)).execute(
                    self.context
                )
            except AirflowSkipException:
                self.results[name] = None
        return self.results[tasks[-1]]

    def _asks(self, name: str) -> dict[str, Any]:
        return self.results["question"] if name == "approval" else {}

    def answer(self, option: str, who: str) -> None:
        task = deeds.AskOperator(task_id="approval", platform="studyspot", **self.results["question"])
        self.context["ti"].task_id = "approval"
        event = {
            "chosen_options": [option], "params_input": {}, "responded_at": datetime.now(UTC),
            "responded_by_user": {"id": who, "name": who} if who else None,
        }  # fmt: skip
        task.execute_complete(self.context, event)

    def prepare(self) -> None:
        self("choose", "room", "load", "prove", "erase_again", "question")


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators.RestoreOperator, "free", lambda self: 1e12)


def slack(ledger: Ledger) -> list[str]:
    rows = ledger.rows("select payload #>> '{message,text}' as said from outbox where channel = 'slack' order by id")
    return [row["said"] for row in rows]


def lose(server: RestoreServer) -> None:
    server("delete from bookings where id <= 4000")
    server("insert into users (email) select 'new-' || i from generate_series(1, 7) as i")


def test_replaced_after_a_yes_of_a_second_person_and_put_back(
    server: RestoreServer, ledger: Ledger, plenty: None
) -> None:
    backup = server.backed_up(ledger)
    lose(server)
    dag = Dag(place="replace")
    dag.prepare()
    question = dag.results["question"]
    assert question["subject"] == f"studyspot: replace the database studyspot by backup {backup.id}?"
    assert "7 rows newer than the backup, and every change since, in 2 of" in question["body"]
    assert "nothing was erased since the backup" in question["body"].lower()
    for who, said in (("eve", "eve may not say yes"), ("mira", "mira asked for this and may not say yes to it as")):
        with pytest.raises(AirflowFailException, match=said):
            dag.answer("Approve", who)
    dag.answer("Approve", "Ada")
    dag("swap", "checked", "settle")
    assert server.ask(DATABASE, "select count(*) from users") == [(2000,)]
    (told,) = slack(ledger)
    restore = dag.results["choose"]["restore"]
    assert told.startswith(f"StudySpot: studyspot is now backup {backup.id} (restore {restore});")
    assert f"is kept as studyspot_before_{restore}, and alone has 7 rows newer than the backup" in told
    assert "Have a superuser run include/sql/postgres/roles.sql in studyspot" in told

    server("insert into users (email) values ('after')")
    back = Dag("back", action="swap back", restore=restore)
    back.prepare()
    assert [back.results[name] for name in ("room", "load", "prove", "erase_again")] == [None] * 4
    assert back.results["question"]["subject"] == f"studyspot: put studyspot_before_{restore} back as studyspot?"
    back.answer("Approve", "ada")
    back("swap", "checked", "settle")
    assert server.ask(DATABASE, "select count(*) from users") == [(2007,)]
    assert "what was written since the swap is in studyspot_upkeep_restore_" in slack(ledger)[-1]

    drop = Dag("drop", action="drop the old one", restore=restore)
    drop.prepare()
    assert "There is no way back" in drop.results["question"]["body"]
    drop.answer("Approve", "ada")
    drop("swap", "checked", "settle")
    assert set(server.databases()) == {DATABASE}
    assert {row["state"] for row in ledger.rows("select state from actions")} == {"done"}


def test_beside_asks_nobody_and_keeps_what_it_made(server: RestoreServer, ledger: Ledger, plenty: None) -> None:
    server.backed_up(ledger)
    before = server.databases()
    dag = Dag()
    dag.prepare()
    assert dag.results["question"] is None
    said = dag("settle")
    assert "is restored and proved in the database studyspot_upkeep_restore_" in said
    assert "drop database studyspot_upkeep_restore_" in said
    made = server.databases()
    assert made.keys() - before.keys() == {f"studyspot_upkeep_restore_{dag.results['choose']['restore']}"}
    assert made[DATABASE] == before[DATABASE]


@pytest.mark.parametrize(
    ("if_refused", "who", "left"),
    [pytest.param("remove", "ada", 0, marks=pytest.mark.soak), ("remove", "", 0), ("keep", "ada", 1)],
)
def test_a_no_or_silence_touches_nothing_and_leaves_what_the_form_says(
    server: RestoreServer, ledger: Ledger, plenty: None, if_refused: str, who: str, left: int
) -> None:
    server.backed_up(ledger)
    before = server.databases()
    dag = Dag(place="replace", if_refused=if_refused)
    dag.prepare()
    dag.answer("Reject", who)
    said = dag("settle")
    made = server.databases()
    assert made[DATABASE] == before[DATABASE]
    assert len(made.keys() - before.keys()) == left
    assert ("which was not touched" if left else "ends without a swap: nobody said yes") in said


@pytest.mark.soak
def test_a_restore_that_fails_is_removed_and_one_that_only_could_not_swap_waits(
    server: RestoreServer, ledger: Ledger, plenty: None
) -> None:
    backup = server.backed_up(ledger)
    server("update users set email = 'changed' where id = 7")
    forged = server.forge(backup, server.pg_dump())
    dag = Dag("forged", place="replace", backup=forged.id)
    dag("choose", "room", "load")
    with pytest.raises(AirflowFailException, match="their content is not the snapshot's"):
        dag("prove")
    assert "it could not be restored; the red task says why" in dag("settle")
    assert set(server.databases()) == {DATABASE}

    dag = Dag("busy", place="replace")
    dag.prepare()
    dag.answer("Approve", "ada")
    with (
        servers.superuser(server.home, server.name, DATABASE),
        pytest.raises(AirflowFailException, match=r"which only an administrator can end(.|\n)*everything is as it was"),
    ):
        dag("swap")
    assert "waits: the red task of the run says what spoke against it" in dag("settle")
    dag("swap", "checked")
    assert server.ask(DATABASE, "select email from users where id = 7") == [("user-7@example.com",)]


def test_what_is_refused_is_refused_in_the_first_task(server: RestoreServer, ledger: Ledger) -> None:
    server.backed_up(ledger)
    for params, said in (
        ({"backup": "../x"}, r"'\.\./x' is not the id of a backup"),
        ({"backup": "'; drop table backups"}, "is not the id of a backup"),
        ({"backup": "$(id)"}, "is not the id of a backup"),
        ({"backup": "20200101T000000Z-00000000"}, r"manifest\.json: not there"),
        ({"action": "swap back", "restore": "1a2b3c4d"}, "no restore '1a2b3c4d' of studyspot is on record"),
        ({"surprise": 1}, "the form has no field 'surprise'"),
    ):
        with pytest.raises(AirflowFailException, match=said):
            Dag(**params)("choose")
    dag = Dag()
    dag("choose")
    with pytest.raises(AirflowFailException, match=r"how much is free is not known(.|\n)*metrics\.database_free"):
        dag("room")
    assert set(server.databases()) == {DATABASE}


def test_check_names_the_rights_that_restoring_takes_and_only_where_it_is_wanted(
    server: RestoreServer, tmp_path: Path
) -> None:
    file = tmp_path / "platforms" / "studyspot.yaml"

    def told() -> list[tuple[str, str, str]]:
        found = lines(doctor.owner(server.deleter, "studyspot_postgres_owner", load_file(file)))
        return [(one.mark, one.said, one.cure) for one in found if one.check == "restore"]

    assert told() == [("ok", "may make a database and swap it in", "")]
    taken = "alter role upkeep_owner nocreatedb; revoke pg_signal_backend from upkeep_owner"
    server.superuser(taken)
    ((mark, said, cure),) = told()
    assert (mark, said) == (
        "missing", "upkeep_owner may not create databases; upkeep_owner may not end sessions of others",
    )  # fmt: skip
    wanted = yaml.safe_load(file.read_text())
    del wanted["backup"]["database"]["restore"]
    other = tmp_path / "studyspot.yaml"
    other.write_text(yaml.safe_dump(wanted))
    assert "restore" not in {
        one.check for one in lines(doctor.owner(server.deleter, "studyspot_postgres_owner", load_file(other)))
    }
    for statement in cure.splitlines():
        server.superuser(statement)
    assert [mark for mark, _, _ in told()] == ["ok"]
