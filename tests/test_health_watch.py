"""The health watch against a real Redis that dies: from the fault to PagerDuty, and back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from sandbox import __main__ as sandbox
from sandbox.faults import break_it, heal_it
from sandbox.home import REPOSITORY, Home
from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from tests.alerts_inbox import actions
from upkeep.health.operators import HealthWatchOperator
from upkeep.ledger import Ledger
from upkeep.settings import settings

inboxes, inbox = alerts_inbox.inboxes, alerts_inbox.inbox


@pytest.fixture
def redis(inboxes: Home, inbox: Inbox, tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A platform that is made of nothing but a Redis."""
    sandbox.up(inboxes, only=["redis.studyspot"], scale=0.02)
    content = yaml.safe_load((REPOSITORY / "include" / "platforms" / "studyspot.yaml").read_text())
    kept = ("name", "title", "owner", "description", "severity", "alerts", "windows", "redis")
    content = {key: value for key, value in content.items() if key in kept}
    content["alerts"]["look_again"] = "1s"
    (tmp_path / "platforms").mkdir()
    (tmp_path / "platforms" / "studyspot.yaml").write_text(yaml.safe_dump(content))
    connection = inboxes.state()["connections"]["studyspot_redis"]
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_REDIS", json.dumps(connection))
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path / "platforms"))
    settings.cache_clear()
    return inboxes


def look(number: int) -> str:
    """One run of the watch: what it failed with."""
    ti = SimpleNamespace(
        dag_id="studyspot_health_watch", run_id=f"scheduled__{number}", task_id="health", map_index=-1, try_number=1,
        log_url="", xcom_push=lambda key, value: None,
    )  # fmt: skip
    try:
        HealthWatchOperator(task_id="health", platform="studyspot").execute({"ti": ti})  # type: ignore[typeddict-item]
    except AirflowFailException as red:
        return str(red)
    return ""


def test_a_service_that_dies_pages_within_one_run_and_its_return_resolves_once(
    redis: Home, inbox: Inbox, ledger: Ledger
) -> None:
    assert look(1) == ""
    break_it(redis, "studyspot_redis_down")
    try:
        began = time.monotonic()
        assert "redis_connect" in look(2)
        assert time.monotonic() - began < 10
        assert actions(inbox) == [("trigger", "redis_connect")]
        looks = ledger.rows("select 1 from outcomes where check_name = 'redis_connect' and state <> 'ok'")
        assert len(looks) == 2
        assert "redis_connect" in look(3)
    finally:
        heal_it(redis, "studyspot_redis_down")
    assert [look(n) for n in (4, 5, 6)] == ["", "", ""]
    assert actions(inbox) == [("trigger", "redis_connect"), ("resolve", "redis_connect")]


def test_a_service_that_is_back_at_the_second_look_calls_nobody(
    redis: Home, inbox: Inbox, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(redis, "studyspot_redis_down")
    # While the watch waits, the service comes back.
    monkeypatch.setattr(time, "sleep", lambda seconds: heal_it(redis, "studyspot_redis_down") if seconds == 1 else None)
    try:
        assert look(1) == ""
    finally:
        monkeypatch.undo()
        heal_it(redis, "studyspot_redis_down")
    assert (inbox.pagerduty(), inbox.slack()) == ([], [])
    assert len(ledger.rows("select 1 from outcomes where check_name = 'redis_connect'")) == 2
