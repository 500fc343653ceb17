"""
The app that Airflow mounts at ``/upkeep``: routes, permissions, and nothing else.

It reads what tasks have written and never asks a platform. No ``from __future__ import annotations`` here: FastAPI
reads the annotations.
"""

import secrets
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.models.dag import DagModel
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse

from upkeep.connections import open_ledger
from upkeep.incident.states import IncidentError
from upkeep.ledger import Ledger, waivers
from upkeep.page import openmetrics, views
from upkeep.page.alertmanager import PATH, inbound
from upkeep.page.guard import airflow_path, form_of, form_token, guard, user_of, with_token
from upkeep.page.shared import Shared
from upkeep.platforms import Platform, read_all
from upkeep.platforms.base import parse_duration
from upkeep.report.page import reports
from upkeep.report.render import environment
from upkeep.settings import settings
from upkeep.windows.timetable import timetable
from upkeep.windows.watch import airflow_zone

pages = APIRouter()

shared = Shared()
"""The pages that are under way, for all who may see the same and ask for the same at once."""

ANY_TOKEN = secrets.token_hex(16)
"""Stands in a shared page where each reader's own token goes."""

LENGTHS = {"1d": "a day", "7d": "a week", "14d": "two weeks", "30d": "30 days", "90d": "90 days"}
"""How long one may live with a finding."""


def build_app() -> FastAPI:
    # FastAPI's own documentation pages would name what there is.
    app = FastAPI(title="Upkeep", docs_url=None, redoc_url=None, openapi_url=None)
    guard(app, PATH)
    app.include_router(inbound)
    app.include_router(reports)
    app.include_router(pages)
    return app


@pages.get("/")
def overview(request: Request) -> Response:
    reader = _reader(request)

    def gather(ledger: Ledger, at: datetime) -> dict[str, Any]:
        broken = [file.file.name for file in read_all()[1]]
        return {**views.overview(ledger, reader, at, airflow_zone()), "broken": broken}

    return _shared(request, reader, "overview", gather)


@pages.get("/platforms/{name}/")
def platform(request: Request, name: str) -> Response:
    reader = _reader(request)
    own = _platform(reader, name)
    reader = _who_waives(request, reader, [own])
    return _shared(
        request, reader, "platform", lambda ledger, at: views.one(ledger, reader, own, at, airflow_zone()), name
    )


@pages.get("/platforms/{name}/capacity/")
def capacity(request: Request, name: str) -> Response:
    reader = _reader(request)
    own = _platform(reader, name)
    return _shared(request, reader, "capacity", lambda ledger, at: views.capacity(ledger, own, at), name)


@pages.get("/findings/")
def findings(request: Request) -> Response:
    reader, wanted = _reader(request), views.Filter.of(request.query_params)
    reader = _who_waives(request, reader, reader.platforms)

    def gather(ledger: Ledger, at: datetime) -> dict[str, Any]:
        return {**views.findings(ledger, reader, wanted), "may": reader.may_waive, "token": ANY_TOKEN}

    made, token = _shared(request, reader, "findings", gather, wanted), form_token(request)
    return with_token(request, _copy(made, token), token)


@pages.get("/findings/waive")
def ask_to_waive(request: Request, key: str) -> Response:
    return _waive_form(request, key)


@pages.post("/findings/waive")
async def waive(request: Request) -> Response:
    fields = await form_of(request)
    return await _in_thread(_waive, request, fields)


@pages.post("/waivers/{number}/end")
async def take_back(request: Request, number: int) -> Response:
    await form_of(request)
    return await _in_thread(_take_back, request, number)


@pages.get("/incidents/")
def incidents(request: Request) -> Response:
    reader = _reader(request)
    return _shared(request, reader, "incidents", lambda ledger, at: {"incidents": views.incidents(ledger, reader)})


@pages.get("/incidents/{id}/")
def incident(request: Request, id: str) -> Response:
    reader = _reader(request)

    def gather(ledger: Ledger, at: datetime) -> dict[str, Any]:
        try:
            shown = views.incident(ledger, reader, id)
        except IncidentError:
            shown = None
        if shown is None:
            raise HTTPException(404, "There is no such incident, or you may read none of its platform's Dags.")
        return shown

    return _shared(request, reader, "incident", gather, id)


@pages.get("/metrics")
def metrics(request: Request) -> Response:
    """For Prometheus, which brings a bearer token."""
    reader, at = _reader(request), datetime.now(UTC)
    with open_ledger() as ledger:
        content = openmetrics.text(ledger, reader, at, airflow_zone())
    return Response(content, media_type=openmetrics.MEDIA_TYPE)


# -- waiving ---------------------------------------------------------------------------------------------------


def _waive_form(
    request: Request, key: str, *, reason: str = "", length: str = "14d", wrong: str = "", status: int = 200
) -> Response:
    reader, at = _reader(request), datetime.now(UTC)
    with open_ledger() as ledger:
        rows = ledger.rows("select platform from findings where key = %s", [key.replace("\0", "")[:2000]])
        if not rows:
            raise HTTPException(404, "There is no such finding.")
        own = _platform(reader, rows[0]["platform"])
        _must_be_allowed(request, own)
        shown = views.finding(ledger, reader, own, key)
    if shown is None:
        raise HTTPException(404, "There is no such finding.")
    token = form_token(request)
    filled = {"reason": reason, "length": length, "lengths": LENGTHS, "wrong": wrong, "token": token}
    filled["user"] = user_of(request).get_name()
    limits = {"least": waivers.LEAST_REASON, "most": waivers.MOST_REASON}
    made = _page(request, "waive", at, status=status, finding=shown, platform=own, **filled, **limits)
    return with_token(request, made, token)


def _waive(request: Request, fields: Mapping[str, str]) -> Response:
    key, reason, length = fields.get("key", ""), fields.get("reason", ""), fields.get("for", "")
    reader = _reader(request)
    with open_ledger() as ledger:
        rows = ledger.rows("select platform from findings where key = %s", [key.replace("\0", "")[:2000]])
        if not rows:
            raise HTTPException(404, "There is no such finding.")
        _must_be_allowed(request, _platform(reader, rows[0]["platform"]))
        try:
            until = parse_duration(length)
        except ValueError as wrong:
            raise HTTPException(422, f"for: {wrong}, got {length[:40]!r}") from None
        try:
            made = waivers.waive(ledger, key, owner=user_of(request).get_name(), reason=reason, length=until)
        except waivers.WaiverError as refused:
            if "text/html" not in request.headers.get("accept", ""):
                raise HTTPException(409, f"{refused.message}. {refused.hint}") from None
            return _waive_form(request, key, reason=reason, length=length, wrong=str(refused), status=409)
    query = urlencode({"state": "waived", "platform": made["platform"]})
    return RedirectResponse(f"{airflow_path(request)}/upkeep/findings/?{query}", 303)


def _take_back(request: Request, number: int) -> Response:
    reader = _reader(request)
    with open_ledger() as ledger:
        rows = ledger.rows("select platform from waivers where id = %s", [number])
        if not rows:
            raise HTTPException(404, "There is no such waiver.")
        own = _platform(reader, rows[0]["platform"])
        _must_be_allowed(request, own)
        if not waivers.take_back(ledger, number, user_of(request).get_name()):
            raise HTTPException(409, "It was over already.")
    return RedirectResponse(f"{airflow_path(request)}/upkeep/findings/?{urlencode({'platform': own.name})}", 303)


# -- who may ---------------------------------------------------------------------------------------------------


def _reader(request: Request) -> views.Reader:
    """Whoever may read none of a platform's Dags is not told how it is, nor that it exists."""
    user = user_of(request)
    dag_ids = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
    good, _ = read_all()
    seen = [one for one in good if dag_ids & {*timetable(one), f"{one.name}_health_watch"}]
    return views.Reader(seen, dag_ids)


def _who_waives(request: Request, reader: views.Reader, platforms: Iterable[Platform]) -> views.Reader:
    """Asked for these alone: some auth managers ask a server each time."""
    may = {platform.name for platform in platforms if _may_waive(user_of(request), platform)}
    return replace(reader, may_waive=may)


def _may_waive(user: Any, platform: Platform) -> bool:
    """Whoever may run its maintenance; where approvers are named, only they."""
    people = platform.approvers.people or settings().approvers
    if people and (user.get_name() or "").lower() not in map(str.lower, people):
        return False
    dag_id = f"{platform.name}_daily_maintenance"
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return bool(
        get_auth_manager().is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=details, user=user
        )
    )


def _must_be_allowed(request: Request, platform: Platform) -> None:
    if not _may_waive(user_of(request), platform):
        people = platform.approvers.people or settings().approvers
        who = f"its approvers may: {', '.join(people)}" if people else "whoever may trigger its daily maintenance may"
        raise HTTPException(403, f"You may not waive findings of {platform.title}; {who}.")


def _platform(reader: views.Reader, name: str) -> Platform:
    found = reader.platform(name)
    if found is None:
        raise HTTPException(404, "There is no such platform, or you may read none of its Dags.")
    return found


# -- showing ---------------------------------------------------------------------------------------------------


def _page(request: Request, name: str, at: datetime, status: int = 200, **shown: Any) -> Response:
    home = f"{airflow_path(request)}/upkeep/"
    content = (
        environment()
        .get_template(f"page/{name}.html")
        .render(
            airflow=airflow_path(request) + "/",
            at=at,
            here=name,
            home=home,
            link=lambda *parts: home + "/".join(quote(part, safe="") for part in parts) + "/",
            run_link=lambda dag_id, run_id: (
                f"{airflow_path(request)}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
            ),
            waive_link=lambda key: f"{home}findings/waive?{urlencode({'key': key})}",
            **shown,
        )
    )
    return HTMLResponse(content, status)


def _shared(
    request: Request,
    reader: views.Reader,
    name: str,
    gather: Callable[[Ledger, datetime], dict[str, Any]],
    *asked: Hashable,
) -> Response:
    def work() -> Response:
        at = datetime.now(UTC)
        with open_ledger() as ledger:
            shown = gather(ledger, at)
        return _page(request, name, at, **shown)

    may_see = (tuple(reader.names), frozenset(reader.dag_ids), frozenset(reader.may_waive))
    return _copy(shared.ask((airflow_path(request), name, may_see, asked), work))


def _copy(made: Response, token: str = ANY_TOKEN) -> Response:
    """Each reader gets headers and a token of their own."""
    content = bytes(made.body).replace(ANY_TOKEN.encode(), token.encode())
    return Response(content, made.status_code, media_type="text/html; charset=utf-8")


async def _in_thread(function: Any, *arguments: Any) -> Response:
    """As FastAPI does with plain functions; these need the body first, which only a coroutine can read."""
    answer: Response = await run_in_threadpool(function, *arguments)
    return answer
