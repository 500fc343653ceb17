"""`incident_update`: an incident goes on in the record, in PagerDuty and in its channel, once, whatever is down."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from tests.dying import die_at
from tests.test_incidents import TITLE, open_outside
from upkeep.findings import Severity
from upkeep.incident import form, outside
from upkeep.incident.operators import CallOperator
from upkeep.incident.record import clocks, declare, find, note, tampered, timeline
from upkeep.incident.update import (
    DraftReviewOperator,
    RecordStepOperator,
    StepOperator,
    TellChannelOperator,
    TellPagerdutyOperator,
)
from upkeep.ledger import Ledger
from upkeep.platforms import Platform
from upkeep.settings import settings

inboxes, inbox, studyspot = alerts_inbox.inboxes, alerts_inbox.inbox, alerts_inbox.studyspot

TASKS: dict[str, type[StepOperator]] = {
    "record": RecordStepOperator,
    "review": DraftReviewOperator,
    "pagerduty": TellPagerdutyOperator,
    "slack": TellChannelOperator,
}


@pytest.fixture(autouse=True)
def _reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPKEEP_REPORTS", f"file://{tmp_path}")
    settings.cache_clear()


@pytest.fixture
def incident(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> str:
    declared, _ = declare(ledger, studyspot, Severity.P0, TITLE, actor="jo")
    open_outside(ledger, studyspot, declared.id)
    return declared.id


def task(name: str, run_id: str, *, link: str = "", **params: Any) -> Any:
    """One task of one run of the Dag."""
    ti = SimpleNamespace(
        dag_id="incident_update", run_id=run_id, task_id=name, map_index=-1, try_number=1, log_url="",
        xcom_pull=lambda task_ids: link,
    )  # fmt: skip
    dag_run = SimpleNamespace(triggering_user_name="max")
    context: Any = {"ti": ti, "params": {"platform": "studyspot", **params}, "dag_run": dag_run}
    return TASKS[name](task_id=name, platform="studyspot").execute(context)


def update(run_id: str, **params: Any) -> None:
    """All of the Dag, and all of it once more, as somebody clears the run."""
    for _ in range(2):
        task("record", run_id, **params)
        try:
            link = task("review", run_id, **params)
        except AirflowSkipException:
            link = ""
        task("pagerduty", run_id, **params)
        task("slack", run_id, link=link, **params)


def channels(inbox: Inbox) -> list[dict[str, Any]]:
    return [one for one in inbox.channels() if one["name"].startswith("inc-")]


def channel(inbox: Inbox) -> dict[str, Any]:
    (found,) = channels(inbox)
    return found


def test_from_acknowledged_to_closed(inbox: Inbox, ledger: Ledger, incident: str, tmp_path: Path) -> None:
    update("r1", incident=incident, becomes="acknowledged", said="I have it")
    assert inbox.incidents()[0]["state"] == "acknowledged"
    assert " · acknowledged · " in channel(inbox)["topic"]
    told = clocks(ledger, find(ledger, incident)).updated_at
    update("r2", incident=incident, said="rolled 4.2 back, <!channel>, password=hunter2")
    assert told is None
    assert clocks(ledger, find(ledger, incident)).updated_at is not None, "who has just heard is not told to ask"
    update("r3", incident=incident, becomes="mitigated")
    assert inbox.incidents()[0]["state"] == "acknowledged", "PagerDuty knows nothing of mitigated"
    update("r4", incident=incident, becomes="resolved", said="it was the pool")
    assert inbox.incidents()[0]["state"] == "resolved"
    (draft,) = tmp_path.rglob("review.md")
    assert "it was the pool" in draft.read_text()
    with pytest.raises(AirflowFailException, match=r"resolved cannot become closed\nHINT: .*review"):
        task("record", "r5", incident=incident, becomes="closed")
    update("r6", incident=incident, becomes="review")
    update("r7", incident=incident, becomes="closed", said="reviewed on Monday")
    assert channel(inbox)["archived"]
    said = [message["text"] for message in channel(inbox)["messages"]]
    assert [text.split(".")[0] for text in said[1:]] == [
        "studyspot-1 is acknowledged", "max on studyspot-1", "studyspot-1 is mitigated", "studyspot-1 is resolved",
        "studyspot-1 is review", "studyspot-1 is closed",
    ]  # fmt: skip
    assert "&lt;!channel&gt;" in said[2]
    assert "hunter2" not in str(timeline(ledger, incident)) + str(channel(inbox))
    assert "review.md" in str(channel(inbox)["messages"][4])
    kinds = [row["kind"] for row in timeline(ledger, incident) if row["actor"] == "max"]
    assert kinds == ["acknowledged", "said", "mitigated", "resolved", "review", "closed"]
    assert tampered(ledger, incident) is None


def test_one_that_came_back_is_opened_anew_in_pagerduty(inbox: Inbox, ledger: Ledger, incident: str) -> None:
    update("r1", incident=incident, becomes="resolved")
    update("r2", incident=incident, becomes="acknowledged", said="again")
    assert [one["state"] for one in inbox.incidents()] == ["resolved", "acknowledged"]
    assert find(ledger, incident).pagerduty_id == inbox.incidents()[1]["id"]


def test_what_is_down_leaves_the_record_right_and_is_told_once_when_it_is_back(
    inbox: Inbox, ledger: Ledger, incident: str
) -> None:
    step = {"incident": incident, "becomes": "resolved", "said": "over"}
    inbox.script("/incidents*", status=500)
    inbox.script("/api/chat.postMessage", accept=True, close=True, times=1)
    task("record", "r1", **step)
    with pytest.raises(AirflowFailException, match="PagerDuty answers 500"):
        task("pagerduty", "r1", **step)
    with pytest.raises(AirflowFailException, match=r"was not told[\s\S]*HINT: clear this task"):
        task("slack", "r1", **step)
    assert find(ledger, incident).state == "resolved"
    assert inbox.incidents()[0]["state"] == "triggered"
    inbox.unscript()
    update("r1", **step)
    assert inbox.incidents()[0]["state"] == "resolved"
    assert len(channel(inbox)["messages"]) == 2


@pytest.mark.parametrize(
    ("name", "owner", "function"),
    [
        ("record", "record", "append"),
        pytest.param("pagerduty", "outside", "set_status", marks=pytest.mark.soak),
        pytest.param("slack", "outside", "post_once", marks=pytest.mark.soak),
        ("slack", "outside", "archive"),
    ],
)
def test_killed_in_each_task_and_run_again(
    inbox: Inbox, ledger: Ledger, incident: str, name: str, owner: str, function: str
) -> None:
    for run_id, state in (("r1", "resolved"), ("r2", "review")):
        task("record", run_id, incident=incident, becomes=state)
    step = {"incident": incident, "becomes": "closed", "said": "done"}
    if name != "record":
        task("record", "r3", **step)

    def killed() -> None:
        from upkeep.incident import record

        die_at({"record": record, "outside": outside}[owner], function, after=function != "archive")
        task(name, "r3", **step)

    child = multiprocessing.get_context("fork").Process(target=killed)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    if name == "record":
        assert find(ledger, incident).state == "review", "nothing half-done"
    update("r3", **step)
    assert find(ledger, incident).state == "closed"
    assert inbox.incidents()[0]["state"] == "resolved"
    assert channel(inbox)["archived"]
    assert sum("is closed" in message["text"] for message in channel(inbox)["messages"]) == 1
    assert [row["kind"] for row in timeline(ledger, incident)].count("closed") == 1


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"incident": "studyspot-99", "said": "x"}, "no incident 'studyspot-99'"),
        ({"incident": "'; drop table incidents", "said": "x"}, "no incident"),
        ({"incident": "adaptive-learning-1", "said": "x"}, "is an incident of adaptive_learning, not of studyspot"),
        ({"incident": "studyspot-1"}, "nothing is said"),
        ({"incident": "studyspot-1", "becomes": "forgotten"}, "no state 'forgotten'"),
        ({"incident": "studyspot-1", "becomes": "review"}, "that is open cannot become review"),
    ],
)
def test_what_makes_no_sense_is_refused(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, params: dict[str, str], says: str
) -> None:
    from upkeep.platforms import platform

    declare(ledger, studyspot, Severity.P1, TITLE, actor="jo")
    declare(ledger, platform("adaptive_learning"), Severity.P1, TITLE, actor="jo")
    with pytest.raises(AirflowFailException, match=rf"{says}[\s\S]*HINT: "):
        task("record", "r1", **params)
    assert [row["kind"] for row in timeline(ledger, "studyspot-1")] == ["declared"]


def test_an_incident_that_called_nobody_has_nobody_to_tell(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> None:
    declare(ledger, studyspot, Severity.P4, TITLE, actor="jo")
    step = {"incident": "studyspot-1", "becomes": "resolved"}
    task("record", "r1", **step)
    for name, says in (("pagerduty", "never in PagerDuty"), ("slack", "no channel"), ("review", "no review")):
        with pytest.raises(AirflowSkipException, match=says):
            task(name, "r1", **step)


def call(studyspot: Platform, id: str) -> Any:
    asked = form.read(studyspot, {"severity": "Critical", "description": TITLE}).as_dict()
    ti = SimpleNamespace(
        dag_id="incident_response", run_id="r", task_id="call", map_index=-1, try_number=1, log_url="",
        xcom_pull=lambda task_ids: {"asked": asked, "incident": id},
    )  # fmt: skip
    return CallOperator(task_id="call", platform="studyspot").execute({"ti": ti})  # type: ignore[typeddict-item]


@pytest.mark.parametrize(("path", "where"), [("/api/*", "Slack"), ("/incidents*", "PagerDuty")])
def test_calling_people_while_one_way_is_down_goes_the_other_and_is_red(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, path: str, where: str
) -> None:
    declared, _ = declare(ledger, studyspot, Severity.P0, TITLE, actor="jo")
    inbox.script(path, status=503)
    with pytest.raises(AirflowFailException, match=rf"did not reach {where}\nHINT: call the people yourself"):
        call(studyspot, declared.id)
    assert [row["said"].split(":")[0] for row in timeline(ledger, declared.id) if row["kind"] == "unreached"] == [
        f"{where} was not reached"
    ]
    assert (len(inbox.incidents()), len(channels(inbox))) == ((1, 0) if where == "Slack" else (0, 1))
    inbox.unscript()
    for _ in range(2):
        assert call(studyspot, declared.id) == declared.id
    assert (len(inbox.incidents()), len(channels(inbox))) == (1, 1)
    note(ledger, declared.id, "jo", "note", "still whole")
    assert tampered(ledger, declared.id) is None
