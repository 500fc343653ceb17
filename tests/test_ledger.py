"""The ledger against a real Postgres: findings open and end once, plans and actions survive a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psycopg
import pytest

from sandbox.home import REPOSITORY
from tests.conftest import run
from upkeep.errors import LedgerError
from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.ledger import Change, Ledger
from upkeep.ledger.migrate import migrate, newest
from upkeep.ledger.outbox import Message, NotDelivered, deliver


def full(used: int = 62, severity: Severity = Severity.P1) -> Outcome:
    finding = Finding(
        check="redis_memory", severity=severity, summary=f"{used} of 64 MiB in use", hint="look at big keys"
    )
    return judged("redis_memory", Severity.P1, [finding])


def message(change: Change) -> list[Message]:
    event = "resolve" if change.event == "resolved" else "trigger"
    return [
        Message(
            key=change.key, platform="studyspot", channel="pagerduty", event=event, severity="P1",
            payload={"summary": change.finding.summary},
        )
    ]  # fmt: skip


def test_migrating_twice_changes_nothing(ledger_conninfo: str) -> None:
    assert migrate(ledger_conninfo) == newest()


def test_a_finding_opens_once_and_resolves_once(ledger: Ledger) -> None:
    events = [
        [change.event for change in ledger.record(run(n), [outcome], message)]
        for n, outcome in enumerate(
            [full(), full(63), full(64), ok("redis_memory", Severity.P1), ok("redis_memory", Severity.P1)]
        )
    ]
    assert events == [["opened"], [], [], ["resolved"], []]
    assert [row["event"] for row in ledger.rows("select event from outbox order by id")] == ["trigger", "resolve"]
    (row,) = ledger.rows("select * from findings")
    assert row["summary"] == "64 of 64 MiB in use"
    assert row["looks"] == 3
    assert row["state"] == "resolved"


def test_a_finding_that_comes_back_is_reopened_and_told_again(ledger: Ledger) -> None:
    for n, outcome in enumerate([full(), ok("redis_memory", Severity.P1), full()]):
        changes = ledger.record(run(n), [outcome], message)
    assert [change.event for change in changes] == ["reopened"]
    assert len(ledger.rows("select 1 from outbox")) == 3


def test_getting_worse_and_better_is_seen(ledger: Ledger) -> None:
    seen = []
    for n, severity in enumerate([Severity.P3, Severity.P1, Severity.P2]):
        seen += [(c.event, c.peak) for c in ledger.record(run(n), [full(severity=severity)])]
    assert seen == [("opened", Severity.P3), ("worse", Severity.P1), ("better", Severity.P1)]


def test_could_not_look_repairs_nothing_and_opens_under_the_same_key(ledger: Ledger) -> None:
    ledger.record(run(1), [full()])
    assert ledger.record(run(2), [unknown("redis_memory", Severity.P1, "connection refused")]) == []
    (row,) = ledger.rows("select kind, state from findings")
    assert row == {"kind": "finding", "state": "open"}
    (change,) = ledger.record(run(3), [unknown("pods", Severity.P2, "API answered 500")])
    assert (change.event, change.kind, change.finding.severity) == ("opened", "unknown", Severity.P2)
    (change,) = ledger.record(run(4), [ok("pods", Severity.P2, object="api")])
    assert (change.event, change.key) == ("resolved", "studyspot/pods")


def test_an_unknown_that_is_explained_alerts_nobody_but_is_on_record(ledger: Ledger) -> None:
    outcome = unknown("redis_memory", Severity.P1, "no connection", explained_by="redis_connect")
    assert ledger.record(run(), [outcome], message) == []
    assert len(ledger.rows("select 1 from outcomes")) == 1


def test_an_outcome_speaks_only_for_its_scope(ledger: Ledger) -> None:
    def down(name: str) -> Outcome:
        return judged(
            "http",
            Severity.P0,
            [Finding(check="http", object=name, severity=Severity.P0, summary="500", hint="-")],
            object=name,
        )

    ledger.record(run(1), [down("api"), down("web")])
    (change,) = ledger.record(run(2), [ok("http", Severity.P0, object="api")])
    assert change.key == "studyspot/http/api"
    assert [row["key"] for row in ledger.rows("select key from findings where state = 'open'")] == [
        "studyspot/http/web"
    ]
    assert ledger.record(run(3, platform="adaptive_learning"), [ok("http", Severity.P0)]) == []


def test_what_is_recorded_is_recorded_whole_or_not_at_all(ledger: Ledger) -> None:
    def broken(change: Change) -> list[Message]:
        raise RuntimeError("no words")

    with pytest.raises(RuntimeError):
        ledger.record(run(), [full()], broken)
    assert ledger.rows("select 1 from outcomes union all select 1 from findings") == []


def test_hostile_text_is_kept_as_it_is(ledger: Ledger) -> None:
    nasty = "'; drop table findings; -- \" \\ \n 🔥 \0 end"
    finding = Finding(
        check="x",
        severity=Severity.P1,
        summary=nasty.replace("\0", ""),
        hint="h",
        facts={"t": nasty, "n": float("nan")},
    )
    ledger.record(run(), [judged("x", Severity.P1, [finding])])
    (row,) = ledger.rows("select summary, facts from findings")
    assert row["summary"] == nasty.replace("\0", "")
    assert row["facts"] == {"t": nasty.replace("\0", "�"), "n": None}


def test_the_same_finding_seen_by_eight_at_once_is_told_once(ledger_conninfo: str) -> None:
    def look(n: int) -> None:
        with Ledger(ledger_conninfo) as mine:
            for round_ in range(5):
                mine.record(run(100 * n + round_), [full(), ok("pods", Severity.P2)], message)

    threads = [threading.Thread(target=look, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger(ledger_conninfo) as ledger:
        assert len(ledger.rows("select 1 from outbox")) == 1
        assert len(ledger.rows("select 1 from finding_events")) == 1
        assert len(ledger.rows("select 1 from outcomes")) == 80


def test_the_outbox_keeps_order_waits_and_gives_up_only_when_refused(ledger: Ledger) -> None:
    ledger.record(run(1), [full()], message)
    ledger.record(run(2), [ok("redis_memory", Severity.P1)], message)
    sent: list[str] = []

    def busy(message: Message) -> str:
        raise NotDelivered("429 slow down", retry_after_s=0.2)

    def works(message: Message) -> str:
        sent.append(message.event)
        return "202"

    assert deliver(ledger, busy) == {"delivered": 0, "put off": 1, "refused": 0}
    # The trigger waits, so the resolve waits behind it.
    assert deliver(ledger, works) == {"delivered": 0, "put off": 0, "refused": 0}
    time.sleep(0.3)
    assert deliver(ledger, works)["delivered"] == 2
    assert sent == ["trigger", "resolve"]
    assert deliver(ledger, works)["delivered"] == 0

    def refuses(message: Message) -> str:
        raise NotDelivered("400 bad event", permanent=True)

    ledger.record(run(3), [full()], message)
    assert deliver(ledger, refuses)["refused"] == 1
    assert deliver(ledger, works)["delivered"] == 0
    answers = [row["answer"] for row in ledger.rows("select answer from deliveries order by id")]
    assert answers == ["429 slow down", "202", "202", "400 bad event"]


def test_two_deliverers_never_send_the_same_message(ledger_conninfo: str) -> None:
    with Ledger(ledger_conninfo) as ledger:
        for n in range(20):
            finding = Finding(check="pods", object=f"p{n}", severity=Severity.P1, summary="down", hint="-")
            ledger.record(run(n), [judged("pods", Severity.P1, [finding], object=f"p{n}")], message)
    sent: list[str] = []

    def send(message: Message) -> str:
        time.sleep(0.01)
        sent.append(message.key)
        return "202"

    def work() -> None:
        with Ledger(ledger_conninfo) as mine:
            deliver(mine, send)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent) == sorted({f"studyspot/pods/p{n}" for n in range(20)})


def test_an_action_is_open_while_it_runs_and_says_how_it_ended(ledger: Ledger, ledger_conninfo: str) -> None:
    plan = ledger.plan(run(), "logs", [{"path": "/var/log/a.log", "bytes": 7}])
    with ledger.action(run(), "logs", "delete", "/var/log", plan=plan, before={"bytes": 7}) as action:
        with Ledger(ledger_conninfo) as other:
            assert [row["state"] for row in other.rows("select state from actions")] == ["open"]
        action.after = {"bytes": 0}
    with ledger.action(run(), "postgres", "vacuum", "public.users") as action:
        action.skip("locked")
    with pytest.raises(ZeroDivisionError), ledger.action(run(), "postgres", "vacuum", "public.seats"):
        1 / 0  # noqa: B018
    rows = ledger.rows("select state, reason, before, after, plan_id from actions order by id")
    assert [row["state"] for row in rows] == ["done", "skipped", "failed"]
    assert rows[0]["plan_id"] == plan.id
    assert (rows[0]["before"], rows[0]["after"]) == ({"bytes": 7}, {"bytes": 0})
    assert rows[1]["reason"] == "locked"
    assert rows[2]["reason"].startswith("ZeroDivisionError")


def test_an_action_whose_process_was_killed_stays_open_until_the_next_one_abandons_it(
    ledger: Ledger, ledger_conninfo: str
) -> None:
    script = (
        "import sys, time\n"
        "from tests.conftest import run\n"
        "from upkeep.ledger import Ledger\n"
        "with Ledger(sys.argv[1]) as ledger, ledger.action(run(), 'postgres', 'vacuum', 'public.users'):\n"
        "    print('open', flush=True)\n"
        "    time.sleep(60)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{REPOSITORY}/plugins:{REPOSITORY}"}
    child = subprocess.Popen(
        [sys.executable, "-c", script, ledger_conninfo], env=env, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "open\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert [row["state"] for row in ledger.rows("select state from actions")] == ["open"]
    with ledger.action(run(2), "postgres", "vacuum", "public.users"):
        pass
    assert [row["state"] for row in ledger.rows("select state from actions order by id")] == ["abandoned", "done"]


def test_only_one_holds_a_lock_and_its_death_frees_it(ledger_conninfo: str) -> None:
    with Ledger(ledger_conninfo) as one, Ledger(ledger_conninfo) as other:
        with one.exclusive("studyspot/postgres") as mine, other.exclusive("studyspot/postgres") as theirs:
            assert mine
            assert not theirs
        with other.exclusive("studyspot/postgres") as theirs:
            assert theirs


def test_a_ledger_that_is_down_is_said_with_its_cure() -> None:
    with pytest.raises(LedgerError, match=r"(?s)connection `upkeep_ledger`.*cannot be used.*HINT: start its server"):
        Ledger("host=127.0.0.1 port=1 dbname=upkeep user=upkeep password=hunter2")


def test_a_ledger_without_tables_names_the_command_that_makes_them(control) -> None:  # type: ignore[no-untyped-def]
    connection = control.state()["connections"]["upkeep_ledger"]
    conninfo = psycopg.conninfo.make_conninfo(
        host=connection["host"],
        port=connection["port"],
        user=connection["login"],
        password=connection["password"],
        dbname="upkeep",
    )
    with (
        pytest.raises(LedgerError, match=r"HINT: run `python -m upkeep setup`"),
        Ledger(conninfo) as empty,
    ):
        empty.record(run(), [full()])


def test_samples_are_measurements_with_gaps(ledger: Ledger) -> None:
    assert ledger.latest("studyspot", "redis_reads") is None
    ledger.sample("studyspot", {("redis_reads", ""): 10.0, ("disk", "db-0:/"): 0.5})
    ledger.sample("studyspot", {("redis_reads", ""): 12.0})
    newest_sample = ledger.latest("studyspot", "redis_reads")
    assert newest_sample is not None
    assert newest_sample.value == 12.0


def test_evidence_is_the_hash_of_what_was_seen(ledger: Ledger) -> None:
    ledger.record(run(), [full()])
    (row,) = ledger.rows("select evidence, findings from outcomes")
    assert len(row["evidence"]) == 64
    assert json.loads(json.dumps(row["findings"]))[0]["summary"] == "62 of 64 MiB in use"
