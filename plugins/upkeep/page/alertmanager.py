"""
Where Prometheus' Alertmanager delivers: behind a password of each platform's own, not behind Airflow's login.

Alertmanager holds no login of Airflow's, whose tokens end within a day. No ``from __future__ import annotations``:
FastAPI reads annotations.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from upkeep.connections import connection, open_ledger
from upkeep.errors import LedgerError, SettingsError
from upkeep.incident.alertmanager import ACTOR, LEAST_PASSWORD, PayloadError, read, take_in
from upkeep.incident.record import Incident, append
from upkeep.ledger import Ledger
from upkeep.platforms import Platform, read_all
from upkeep.platforms.alerting import Alertmanager

inbound = APIRouter()

PATH = re.compile(r"/alertmanager/[^/]+")
"""Below the page's own path; what is sent there is asked for the password here."""

MOST_BYTES = 4_000_000
"""A group of some thousand alerts; `max_alerts` in Alertmanager keeps it smaller."""

RESPONSE = "incident_response"


@inbound.post("/alertmanager/{name}")
async def deliver(request: Request, name: str) -> Response:
    known = await run_in_threadpool(_admitted, name, request.headers.get("authorization", ""))
    if known is None:
        # The same for a platform that does not exist: strangers learn no names.
        return _said(401, "not the password of this platform's connection", {"WWW-Authenticate": "Bearer"})
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            return _said(413, f"more than {MOST_BYTES} bytes: set max_alerts in Alertmanager's receiver")
    try:
        return await run_in_threadpool(_take, *known, content)
    except PayloadError as wrong:
        return _said(400, f"{wrong.message}; {wrong.hint}")
    except (LedgerError, SettingsError) as away:
        # Alertmanager tries again what is answered with 5xx, and nothing else.
        return _said(503, away.message, {"Retry-After": "30"})


def _admitted(name: str, header: str) -> tuple[Platform, Alertmanager] | None:
    """The platform, where it takes alerts and this is its password: as a bearer token, or of a login of any name."""
    own = next((one for one in read_all()[0] if one.name == name), None)
    given = _password(header)
    if own is None or own.alertmanager is None or not given:
        return None
    try:
        wanted = connection(own.conn("alertmanager")).password or ""
    except SettingsError:
        return None
    if len(wanted) < LEAST_PASSWORD or not secrets.compare_digest(given.encode(), wanted.encode()):
        return None
    return own, own.alertmanager


def _password(header: str) -> str:
    scheme, _, given = header.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _take(platform: Platform, policy: Alertmanager, content: bytes) -> Response:
    group = read(content)
    with open_ledger() as ledger:
        taken = take_in(ledger, platform, policy, group)
        begun = _respond(ledger, platform, taken.incident) if taken.incident and taken.respond else ""
    return _said(200, taken.said, incident=taken.incident.id if taken.incident else None, run=begun or None)


def _respond(ledger: Ledger, platform: Platform, incident: Incident) -> str:
    """
    Begin the run that calls people, once for the incident and again when it has become graver.

    :returns: its id.
    """
    from airflow.api.common.trigger_dag import trigger_dag
    from airflow.exceptions import DagNotFound, DagRunAlreadyExists
    from airflow.utils.types import DagRunTriggeredByType

    run_id = f"alertmanager__{incident.id}__{incident.severity}"
    conf = {
        "platform": platform.name,
        "severity": platform.severity_name(incident.severity),
        "description": incident.title,
        "incident": incident.id,
    }
    by = DagRunTriggeredByType.REST_API
    # Another replica of Alertmanager may ask another API server in the same moment.
    with ledger.transaction() as connection:
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"upkeep.{run_id}"])
        try:
            trigger_dag(RESPONSE, triggered_by=by, triggering_user_name=ACTOR, run_id=run_id, conf=conf)
        except DagRunAlreadyExists:
            return run_id
        except DagNotFound:
            raise SettingsError(f"Airflow knows no Dag {RESPONSE}", hint="is its Dag processor at work?") from None
        append(connection, incident.id, ACTOR, "respond", f"began {RESPONSE}", {"run": run_id})
    return run_id


def _said(status: int, said: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    return JSONResponse({"detail": said, **more}, status, dict(headers or {}))
