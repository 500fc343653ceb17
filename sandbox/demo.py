"""``make demo``: two platforms, looked after in a real Airflow, while you watch."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from sandbox import __main__ as sandbox
from sandbox import airflow, processes
from sandbox.home import REPOSITORY, Home, SandboxError

PLATFORMS = ("studyspot", "adaptive_learning")
LIMIT_S = 240
"""For both runs together; they take about half a minute."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop everything afterwards")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the sample data")
    parser.add_argument("--home", type=Path, help="directory of the sandbox (default: .sandbox)")
    arguments = parser.parse_args(argv)
    home = Home(arguments.home.resolve(), usual_ports=True) if arguments.home else Home.default()
    meter = MemoryMeter(home)
    meter.start()
    try:
        good = demo(home, scale=arguments.scale)
        say(f"memory at its peak {meter.peak / 2**30:.2f} GiB (PSS of all processes)")
        return 0 if good else 1
    except SandboxError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if arguments.once:
            stop(home)
        else:
            where_to_look(home)


def demo(home: Home, *, scale: float) -> bool:
    """Everything up, both daily runs, their reports' summaries; True when both runs succeeded."""
    say("servers: databases with sample data, cache, broker, cluster, endpoints, metrics, inboxes")
    sandbox.up(home, only=["postgres.control"], scale=scale)
    # Airflow takes longest to start, so it starts while the platforms do.
    starting = Starting(home)
    starting.start()
    sandbox.up(home, scale=scale)
    say("Airflow: scheduler, Dag processor, API server, triggerer; python -m upkeep setup")
    print(starting.wait(), flush=True)
    api = airflow.Api(home)
    dag_ids = [f"{name}_daily_maintenance" for name in PLATFORMS]
    api.wait_for_dags(*dag_ids, "alert_delivery")
    api.unpause("alert_delivery")
    began = time.monotonic()
    runs = {dag_id: api.trigger(dag_id) for dag_id in dag_ids}
    say("daily maintenance of both platforms")
    states = watch(api, runs, began)
    for dag_id, run_id in runs.items():
        print()
        summary(home, api, dag_id, run_id)
    return all(state == "success" for state in states.values())


class Starting(threading.Thread):
    """Airflow and what it needs of Upkeep, starting beside everything else."""

    def __init__(self, home: Home) -> None:
        super().__init__(daemon=True)
        self.home = home
        self.error: SandboxError | None = None
        self.said = ""

    def run(self) -> None:
        try:
            airflow.start(self.home, timeout_s=300)
            self.said = upkeep_setup(self.home)
        except SandboxError as error:
            self.error = error

    def wait(self) -> str:
        """What `setup` said. :raises SandboxError: something did not start."""
        self.join()
        if self.error:
            raise self.error
        return self.said


def upkeep_setup(home: Home) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "upkeep", "setup"],
        env={**os.environ, **airflow.environment(home)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise SandboxError(f"python -m upkeep setup failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return "\n".join(
        f"  {line}" for line in done.stdout.splitlines() if line.startswith(("ledger:", "pools:", "roles:"))
    )


def watch(api: airflow.Api, runs: dict[str, str], began: float) -> dict[str, str]:
    """Print each task as it ends, until both runs are over."""
    seen: set[tuple[str, str, int]] = set()
    states: dict[str, str] = {}
    while len(states) < len(runs):
        if time.monotonic() - began > LIMIT_S:
            raise SandboxError(f"not finished after {LIMIT_S} s; look at {api.url}")
        for dag_id, run_id in runs.items():
            if dag_id in states:
                continue
            state = api.run(dag_id, run_id)["state"]
            for task in api.tasks(dag_id, run_id):
                key = (dag_id, task["task_id"], task["map_index"])
                if task["state"] in (None, "scheduled", "queued", "running", "up_for_retry") or key in seen:
                    continue
                if task["state"] == "skipped" and task["task_id"] == "watcher":
                    continue
                seen.add(key)
                name = task.get("rendered_map_index") or ""
                took = f"{task['duration']:5.1f} s" if task.get("duration") is not None else ""
                print(
                    f"  {time.monotonic() - began:5.1f} s  {dag_id.removesuffix('_daily_maintenance'):18}"
                    f" {task['task_id']:14} {task['state']:16} {took:8} {name}",
                    flush=True,
                )
            if state in airflow.FINISHED:
                states[dag_id] = state
        time.sleep(1)
    for dag_id, state in states.items():
        run = api.run(dag_id, runs[dag_id])
        print(f"  {dag_id}: {state} in {_seconds(run):.1f} s", flush=True)
    return states


def _seconds(run: dict[str, Any]) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds()


def summary(home: Home, api: airflow.Api, dag_id: str, run_id: str) -> None:
    """What the run's report says, in a few lines."""
    # Only now: the settings of this sandbox must be in the environment before Upkeep reads them.
    os.environ.update(airflow.environment(home))
    from upkeep.ledger import Ledger
    from upkeep.platforms import platform
    from upkeep.report.gather import gather
    from upkeep.report.render import summary_text
    from upkeep.report.storage import page_url

    name = dag_id.removesuffix("_daily_maintenance")
    states = {task["task_id"]: task["state"] for task in api.tasks(dag_id, run_id)}
    with Ledger(airflow.ledger_conninfo(home)) as ledger:
        report = gather(ledger, platform(name), dag_id, run_id, states=states)
    print(summary_text(report, page_url(name, dag_id, run_id)))


def where_to_look(home: Home) -> None:
    state = home.state()
    ports = state.get("ports", {})
    print()
    if processes.running(home, "airflow.api-server"):
        print(f"Airflow         http://127.0.0.1:{ports['airflow']}      user admin, password admin")
    if "inboxes.page" in ports:
        print(f"PagerDuty/Slack http://127.0.0.1:{ports['inboxes.page']}      what arrived")
    print("break something .venv/bin/python -m sandbox break studyspot_redis_down      (then trigger the Dag again)")
    print("stop            make down")


def stop(home: Home) -> None:
    began = time.monotonic()
    airflow.stop(home)
    sandbox.down(home)
    say(f"stopped everything in {time.monotonic() - began:.1f} s")


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", flush=True)


STARTED = time.monotonic()


class MemoryMeter(threading.Thread):
    """The most memory that all processes of the sandbox had at once (PSS: shared pages count once)."""

    def __init__(self, home: Home) -> None:
        super().__init__(daemon=True)
        self.home = home
        self.peak = 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, self._now())
            time.sleep(2)

    def _now(self) -> int:
        total = 0
        for record in self.home.state().get("processes", {}).values():
            try:
                process = psutil.Process(record["pid"])
                for one in [process, *process.children(recursive=True)]:
                    total += one.memory_full_info().pss
            except psutil.Error:
                continue
        return total


if __name__ == "__main__":
    sys.exit(main())
