"""A whole Airflow in which fifty mapped tasks fail at once, and one whose Dag runs out of time."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import processes
from tests.conftest import Live

pytestmark = [pytest.mark.live, pytest.mark.soak]

MANY, STORM = 50, 10
DAG, SLOW = "stormy_looks", "stormy_sleeps"

PLATFORM = """
    name: stormy
    title: Stormy
    severity:
      levels:
        P0: {name: Outage, respond: 15m, resolve: 2h}
        P1: {name: Broken, respond: 1h, resolve: 8h}
        P2: {name: Annoying, respond: 4h, resolve: 24h}
        P3: {name: Ugly, respond: 24h, resolve: 1w}
    alerts: {channel: "#alerts", storm: 10, storm_within: 5m}
"""

DAGS = """
    \"\"\"Fifty looks that all find something while the file `broken` is there; and a Dag that lasts too long.\"\"\"

    import time
    from datetime import timedelta
    from pathlib import Path

    from airflow.sdk import DAG, task

    from upkeep.defaults import dag_defaults
    from upkeep.findings import Finding, Severity, judged
    from upkeep.operators import PlatformOperator
    from upkeep.platforms import platforms

    BROKEN = Path(__file__).with_name("broken")


    def sleep():
        time.sleep(120)


    class Look(PlatformOperator):
        def __init__(self, *, number: int, **kwargs):
            super().__init__(**kwargs)
            self.number = number

        def act(self, context, run):
            name = f"shop-{self.number}"
            found = Finding(check="shop", object=name, severity=Severity.P1, summary="is shut", hint="open it.")
            return self.conclude(run, [judged("shop", Severity.P1, [found] * BROKEN.exists(), object=name)])


    for platform in platforms():
        if platform.name == "stormy":
            with DAG(**dag_defaults(platform, "daily") | {"dag_id": "stormy_looks"}):
                Look.partial(task_id="look", platform="stormy").expand(number=list(range(50)))
            slow = dag_defaults(platform, "weekly") | {"dag_id": "stormy_sleeps"}
            with DAG(**slow, dagrun_timeout=timedelta(seconds=10)):
                task(task_id="sleep")(sleep)()
"""


@pytest.fixture(scope="module")
def broken(live: Live) -> Iterator[Path]:
    """The file that makes every look find something."""
    platform, dags = live.platforms / "stormy.yaml", live.dags / "stormy.py"
    platform.write_text(textwrap.dedent(PLATFORM))
    dags.write_text(textwrap.dedent(DAGS))
    live.deliver()
    live.inbox.reset()
    try:
        live.api.wait_for_dags(DAG, SLOW)
        yield live.dags / "broken"
    finally:
        platform.unlink()
        dags.unlink()


def test_fifty_mapped_failures_are_one_storm(live: Live, broken: Path) -> None:
    broken.touch()
    began = time.monotonic()
    run_id = live.api.trigger(DAG)
    assert live.api.wait(DAG, run_id, timeout_s=300)["state"] == "failed"
    print(f"{MANY} failures in {time.monotonic() - began:.0f} s")
    live.deliver()
    assert open_shops(live) == MANY
    pages = told(live, "trigger")
    umbrellas = [page for page in pages if "/storm" in page["dedup_key"]]
    assert len(umbrellas) == 1, pages
    # Those before anybody could know that it is a storm.
    assert len(pages) <= STORM + 1
    assert len([m for m in live.inbox.slack() if m["channel"] == "alerts"]) <= 20
    broken.unlink()
    assert live.api.wait(DAG, live.api.trigger(DAG), timeout_s=300)["state"] == "success"
    assert open_shops(live) == 0

    def all_over() -> bool:
        live.deliver()
        return {e["dedup_key"] for e in told(live, "resolve")} == {e["dedup_key"] for e in told(live, "trigger")}

    processes.wait_until(all_over, 240, "every page to be resolved")
    assert len(told(live, "resolve")) == len(told(live, "trigger")), "each once"


def test_a_dag_that_runs_out_of_time_is_told_within_five_minutes(live: Live, broken: Path) -> None:
    live.inbox.reset()
    began = time.monotonic()
    run_id = live.api.trigger(SLOW)
    assert live.api.wait(SLOW, run_id)["state"] == "failed"
    processes.wait_until(lambda: bool(told(live, "trigger")), 300, "the page for the Dag that took too long")
    print(f"told {time.monotonic() - began:.0f} s after its start, with 10 s allowed")
    (page,) = told(live, "trigger")
    assert page["dedup_key"] == f"stormy/run/{SLOW}"
    time.sleep(20)
    live.deliver()
    assert len(told(live, "trigger")) == 1, "by callback or by reconciling, once"


def told(live: Live, action: str) -> list[dict[str, Any]]:
    return [e for e in live.inbox.pagerduty() if e["action"] == action and e["dedup_key"].startswith("stormy/")]


def open_shops(live: Live) -> int:
    with live.ledger() as ledger:
        (row,) = ledger.rows(
            "select count(*) as n from findings where platform = 'stormy' and check_name = 'shop' and state = 'open'"
        )
    return int(row["n"])
