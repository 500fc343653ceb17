"""The dead man's switch, and what people say from a shell."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from sandbox.home import Home
from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from tests.alerts_inbox import actions, bad, pass_time, shown
from tests.conftest import run
from upkeep.__main__ import main
from upkeep.alerts import tell
from upkeep.alerts.callbacks import run_succeeded
from upkeep.alerts.lifesign import give_sign_of_life
from upkeep.alerts.operators import DeliverAlertsOperator
from upkeep.findings import Severity
from upkeep.ledger import Ledger
from upkeep.platforms import Platform

inboxes, inbox, studyspot = alerts_inbox.inboxes, alerts_inbox.inbox, alerts_inbox.studyspot


@pytest.fixture(autouse=True)
def _heartbeat(inboxes: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = inboxes.state()["connections"]["upkeep_heartbeat"]
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_HEARTBEAT", json.dumps(connection))


def deliver() -> None:
    ti = SimpleNamespace(
        dag_id="alert_delivery", run_id="scheduled__1", task_id="deliver", map_index=-1, try_number=1, log_url=""
    )
    DeliverAlertsOperator(task_id="deliver").execute({"ti": ti})  # type: ignore[typeddict-item]


def beats(inbox: Inbox) -> int:
    return int(inbox.heartbeats().get("a-sign-of-life", {}).get("count", 0))


def test_each_delivery_gives_a_sign_of_life_and_a_ledger_that_is_down_silences_it(
    inbox: Inbox, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver()
    deliver()
    assert beats(inbox) == 2
    monkeypatch.setenv(
        "AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps({"conn_type": "postgres", "host": "127.0.0.1", "port": 1})
    )
    with pytest.raises(AirflowFailException, match="the ledger"):
        deliver()
    assert beats(inbox) == 2


def test_a_page_that_reaches_nobody_silences_it_and_one_that_slack_took_does_not(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    inbox.script("/v2/*", status=503)
    tell.record(studyspot, run(1), [bad()])
    pass_time(ledger, 900)
    assert give_sign_of_life(ledger) == "given, answered 200"
    inbox.script("/api/*", status=503)
    tell.record(studyspot, run(2), [bad("http", "api", Severity.P0)])
    assert give_sign_of_life(ledger) == "given, answered 200"
    pass_time(ledger, 900)
    assert give_sign_of_life(ledger) == "silent: 1 pages reach nobody"
    inbox.unscript()
    deliver()
    assert beats(inbox) == 3


def test_one_that_does_not_arrive_is_said_without_its_secret_url(
    inbox: Inbox, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.script("/ping/*", status=500)
    assert give_sign_of_life(ledger) == "did not arrive: HTTPStatusError"
    monkeypatch.delenv("AIRFLOW_CONN_UPKEEP_HEARTBEAT")
    assert give_sign_of_life(ledger) == "nobody expects a sign of life: no connection upkeep_heartbeat"
    assert "/ping/a-sign-of-life" not in caplog.text


def test_what_a_run_changed_is_told_once_and_pages_nobody(inbox: Inbox, ledger: Ledger) -> None:
    mine = run(1)
    for n in range(3):
        with ledger.action(mine, "postgres", "vacuum", f"public.t{n}"):
            pass
    ti = SimpleNamespace(log_url="")
    for _ in range(2):
        run_succeeded(
            {"dag": SimpleNamespace(dag_id=mine.dag_id), "run_id": mine.run_id, "ti": ti}, platform_name="studyspot"
        )
    (change,) = inbox.changes()
    assert change["payload"]["summary"] == "studyspot_daily_maintenance changed StudySpot: postgres vacuum × 3"
    assert inbox.incidents() == []


def test_a_silence_from_the_shell_needs_an_owner_and_a_reason_and_can_be_ended(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["silence", "studyspot", "redis_*"]) == 1
    assert "a silence has an owner and a reason" in capsys.readouterr().err
    why = ["--owner", "jo", "--reason", "failover test"]
    assert main(["silence", "studyspot", "redis_*", "--for", "9 hours", *why]) == 1
    assert main(["silence", "studyspot", "redis_*", "--for", "2h", *why]) == 0
    assert "silence 1: nobody is called about studyspot/redis_* for 2h" in capsys.readouterr().out
    tell.record(studyspot, run(1), [bad()])
    assert inbox.pagerduty() == []
    assert main(["silence", "--end", "1"]) == 0
    assert main(["silence", "--end", "1"]) == 1
    deliver()
    assert actions(inbox) == [("trigger", "redis_memory")]


def test_acknowledging_from_the_shell_is_heard_in_pagerduty_and_slack(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    tell.record(studyspot, run(1), [bad()])
    assert main(["acknowledge", "studyspot/nothing", "--by", "jo"]) == 1
    assert main(["acknowledge", "studyspot/redis_memory", "--by", "jo <!here>"]) == 0
    deliver()
    assert actions(inbox) == [("trigger", "redis_memory"), ("acknowledge", "redis_memory")]
    assert shown(inbox)[1] == "Acknowledged by jo &lt;!here&gt;."
    assert inbox.slack()[1]["thread_ts"] == inbox.slack()[0]["ts"]
    pass_time(ledger, timedelta(hours=5).total_seconds())
    deliver()
    assert len(inbox.slack()) == 2
