"""A whole Airflow that loses its parts: somebody is told all the same."""

from __future__ import annotations

import time

import psutil
import pytest

from sandbox import airflow, processes
from sandbox.faults import break_it, heal_it
from tests.conftest import Live

pytestmark = [pytest.mark.live, pytest.mark.soak]

DAG = "studyspot_daily_maintenance"
KEY = f"studyspot/run/{DAG}"


def told(live: Live) -> list[str]:
    return [event["action"] for event in live.inbox.pagerduty() if event["dedup_key"] == KEY]


def test_with_the_dag_processor_dead_a_killed_task_is_told_within_five_minutes(live: Live) -> None:
    live.api.wait_for_dags(DAG, "alert_delivery")
    live.deliver()
    live.inbox.reset()
    break_it(live.home, "all_endpoints_hang")
    try:
        run_id = live.api.trigger(DAG)
        processes.wait_until(
            lambda: any(t["task_id"] == "health" and t["state"] == "running" for t in live.api.tasks(DAG, run_id)),
            60,
            "health to run",
        )
        processes.stop(live.home, "airflow.dag-processor", timeout_s=20)
        (task,) = [t for t in live.api.tasks(DAG, run_id) if t["task_id"] == "health"]
        killed = time.monotonic()
        psutil.Process(task["pid"]).kill()
        assert live.api.wait(DAG, run_id)["state"] == "failed"
    finally:
        heal_it(live.home, "all_endpoints_hang")
    processes.wait_until(lambda: told(live) == ["trigger"], 300, "the page for the killed task")
    print(f"told {time.monotonic() - killed:.0f} s after the kill")
    (event,) = [event for event in live.inbox.pagerduty() if event["dedup_key"] == KEY]
    assert "failed in health; no callback told of it" in event["summary"]
    # The processor is back and runs the callback that it owes: nobody is told twice.
    airflow.start(live.home, timeout_s=120)
    live.api.wait_for_dags(DAG)
    assert live.maintain("studyspot")[1][""] == "success"
    processes.wait_until(lambda: told(live) == ["trigger", "resolve"], 180, "the resolve")


def test_with_the_scheduler_dead_the_sign_of_life_is_missed_within_five_minutes(live: Live) -> None:
    live.deliver()
    assert live.inbox.heartbeats()["a-sign-of-life"]["silent_s"] < 60
    processes.stop(live.home, "airflow.scheduler", timeout_s=20)
    try:
        processes.wait_until(
            lambda: live.inbox.heartbeats()["a-sign-of-life"]["silent_s"] > 120, 300, "the sign of life to be missed"
        )
    finally:
        airflow.start(live.home, timeout_s=120)
    live.deliver()
    assert live.inbox.heartbeats()["a-sign-of-life"]["silent_s"] < 60


def test_a_watch_pages_within_a_minute_and_a_half_of_its_look_and_resolves_once(live: Live) -> None:
    """Before it, at most five minutes pass until the next look: the watch's schedule."""
    watch, key = "studyspot_health_watch", "studyspot/redis_connect"
    live.api.wait_for_dags(watch, "alert_delivery")
    live.deliver()
    live.inbox.reset()

    def told_of_redis() -> list[str]:
        return [event["action"] for event in live.inbox.pagerduty() if event["dedup_key"] == key]

    break_it(live.home, "studyspot_redis_down")
    try:
        began = time.monotonic()
        run_id = live.api.trigger(watch)
        processes.wait_until(lambda: told_of_redis() == ["trigger"], 90, "the page")
        print(f"paged {time.monotonic() - began:.0f} s after the look began")
        live.api.wait(watch, run_id)
    finally:
        heal_it(live.home, "studyspot_redis_down")
    # Two good looks in a row end it.
    for _ in range(2):
        live.api.wait(watch, live.api.trigger(watch))
    processes.wait_until(lambda: told_of_redis() == ["trigger", "resolve"], 90, "the resolve")
