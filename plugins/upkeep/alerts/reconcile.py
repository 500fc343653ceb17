"""
Failed runs of which no callback told: its process was killed, or there was nobody to run it.

Tasks may not read Airflow's own database, so this asks its public API, by the connection `upkeep_airflow_api`
(host: where the API server answers; login and password, or a token alone as the password).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from upkeep.alerts.rules import patience_of
from upkeep.alerts.tell import record
from upkeep.connections import connection, run_url
from upkeep.errors import SettingsError
from upkeep.findings import Finding, Severity, judged, ok
from upkeep.ledger import AT_ONCE, Ledger, Patience, Run
from upkeep.platforms import Platform, platforms

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

API = "upkeep_airflow_api"

GRACE_S = 60
"""So long a callback has to tell it itself."""

LOOK_BACK = timedelta(minutes=30)
"""Runs that ended within this time are looked at; what stood still for longer is told from then on."""


def reconcile(ledger: Ledger, run: Run, *, grace_s: float = GRACE_S) -> int:
    """
    Tell of failed runs that nobody told of, and end what was told of runs that have gone well since.

    :returns: how many were told. :raises SettingsError: no connection `upkeep_airflow_api`.
    :raises httpx.HTTPError: Airflow's API does not answer.
    """
    now = datetime.now(UTC)
    since = (_watermark(ledger) or now) - LOOK_BACK
    with api_client() as api:
        told = 0
        for failed in _runs(api, "~", state="failed", end_date_gte=since.isoformat(), order_by="end_date"):
            ended = datetime.fromisoformat(failed["end_date"])
            subject = _subject(failed["dag_id"])
            if subject and (now - ended).total_seconds() >= grace_s and not _known(ledger, failed, ended):
                told += _tell(api, ledger, subject, failed, run)
        for row in ledger.rows("select * from findings where check_name = 'run' and state = 'open'"):
            _end(api, row, run)
    _set_watermark(ledger, now)
    return told


def _end(api: httpx.Client, row: dict[str, Any], run: Run) -> None:
    """What was told of a Dag is over once a later run of it went well, also when no callback says so."""
    dag_id = row["object"]
    subject = _subject(dag_id)
    last = _runs(api, dag_id, order_by="-run_after", limit="1", state="success")
    if subject and last and datetime.fromisoformat(last[0]["end_date"]) > row["last_seen_at"]:
        outcome = ok("run", Severity.P1, object=dag_id)
        record(subject, _run(subject, last[0], run), [outcome], patience=_patience(subject, dag_id))


def _known(ledger: Ledger, failed: dict[str, Any], ended: datetime) -> bool:
    """A callback has told of this run, or a later one went well."""
    rows = ledger.rows(
        "select 1 from outcomes where check_name = 'run' and dag_id = %(dag)s"
        " and (run_id = %(run)s or (state = 'ok' and started_at > %(ended)s)) limit 1",
        {"dag": failed["dag_id"], "run": failed["dag_run_id"], "ended": ended},
    )
    return bool(rows)


def _tell(api: httpx.Client, ledger: Ledger, subject: Platform, failed: dict[str, Any], run: Run) -> int:
    dag_id, run_id = failed["dag_id"], failed["dag_run_id"]
    tasks = _get(api, f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", state="failed", limit="200")["task_instances"]
    names = {task["task_id"] for task in tasks} - {"watcher"}
    unexplained = sorted(names - ledger.red_tasks(dag_id, run_id, subject.severity.failing))
    if names and not unexplained:
        return 0
    what = f"in {', '.join(unexplained)}" if unexplained else "with no task that failed: it was stopped, or timed out"
    finding = Finding(
        check="run",
        object=dag_id,
        severity=Severity.P1,
        summary=f"the run {run_id} failed {what}; no callback told of it",
        hint="its process was killed, or the Dag processor is down: look at memory and at Airflow's health, then"
        " clear the red tasks.",
        facts={"tasks": unexplained, "ended": failed["end_date"]},
    )
    outcome = judged("run", Severity.P1, [finding], object=dag_id)
    changes = record(subject, _run(subject, failed, run), [outcome], patience=_patience(subject, dag_id))
    return len(changes)


def _patience(subject: Platform, dag_id: str) -> Patience:
    return patience_of(subject) if dag_id.endswith("_health_watch") else AT_ONCE


def _run(subject: Platform, found: dict[str, Any], run: Run) -> Run:
    dag_id, run_id = found["dag_id"], found["dag_run_id"]
    return replace(
        run, platform=subject.name, dag_id=dag_id, run_id=run_id, task_id="(run)", log_url="",
        run_url=run_url(dag_id, run_id),
    )  # fmt: skip


def _subject(dag_id: str) -> Platform | None:
    """Whose Dag it is; nobody's when it is not one of Upkeep's."""
    return next((platform for platform in platforms() if dag_id.startswith(f"{platform.name}_")), None)


def _watermark(ledger: Ledger) -> datetime | None:
    rows = ledger.rows("select at from watermarks where name = 'reconcile'")
    return rows[0]["at"] if rows else None


def _set_watermark(ledger: Ledger, at: datetime) -> None:
    with ledger.transaction() as made:
        made.execute(
            "insert into watermarks (name, at) values ('reconcile', %s)"
            " on conflict (name) do update set at = excluded.at",
            [at],
        )


# -- Airflow's public API ----------------------------------------------------------------------------------


def api_client() -> httpx.Client:
    """:raises SettingsError: no usable connection. :raises httpx.HTTPError: it does not answer, or refuses."""
    import httpx

    found = connection(API)
    host = found.host or ""
    base = host if "://" in host else f"{found.schema or 'https'}://{host}"
    if found.port and not base.rsplit(":", 1)[-1].isdigit():
        base = f"{base}:{found.port}"
    if not host:
        raise SettingsError(f"connection {API!r} has no host", hint="http://api-server:8080, as the workers see it.")
    base, token = base.rstrip("/"), found.password or ""
    if found.login:
        answer = httpx.post(f"{base}/auth/token", json={"username": found.login, "password": token}, timeout=5)
        token = answer.raise_for_status().json()["access_token"]
    return httpx.Client(base_url=base, timeout=5, headers={"Authorization": f"Bearer {token}"})


def _get(client: httpx.Client, path: str, **query: str) -> Any:
    return client.get(f"/api/v2{path}", params=query).raise_for_status().json()


def _runs(client: httpx.Client, dag_id: str, **query: str) -> list[dict[str, Any]]:
    found = _get(client, f"/dags/{dag_id}/dagRuns", **{"limit": "100", **query})["dag_runs"]
    return [one for one in found if one.get("end_date")]
