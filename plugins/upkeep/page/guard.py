"""
Who may come in: Airflow's own login before anything is looked up, its permissions, and forms that only we made.

An app that a plugin mounts is public unless it guards itself. No ``from __future__ import annotations``: FastAPI reads
annotations.
"""

import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials
from starlette.exceptions import HTTPException as StarletteHTTPException

from upkeep.errors import UpkeepError
from upkeep.report.render import environment
from upkeep.settings import settings

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    # Forms say where they come from, links to elsewhere say nothing.
    "Referrer-Policy": "same-origin",
    # What it says is nobody else's business, and old when it is shown again.
    "Cache-Control": "private, no-store",
}

FORM_COOKIE, FORM_FIELD = "upkeep_form", "form"

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
"""Whatever else is in that cookie was not put there by us."""

MOST_FORM_BYTES = 20_000

TITLES = {401: "Not logged in", 403: "Not for you", 404: "There is nothing here", 409: "That cannot be done"}


def guard(app: FastAPI, by_password: re.Pattern[str]) -> None:
    """
    Nobody without a login learns even which addresses exist; every answer carries ``HEADERS``.

    :param by_password: what is sent to such a path, and to no other, is asked for a password of its own.
    """

    @app.middleware("http")
    async def log_in_first(request: Request, call_next: Any) -> Response:
        path = request.url.path.removeprefix(f"{airflow_path(request)}/upkeep")
        asks_itself = request.method == "POST" and by_password.fullmatch(path)
        refusal = None if asks_itself else await _refusal(request)
        response = refusal or await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(UpkeepError)
    async def broken(request: Request, error: UpkeepError) -> Response:
        said = f"{error.message}\nHINT: {error.hint}"
        return message(request, 503, "This page cannot be shown now", said)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        title = TITLES.get(error.status_code, "That did not work")
        return message(request, error.status_code, title, str(error.detail), error.headers)


async def _refusal(request: Request) -> Response | None:
    """What a stranger is told; None for who is logged in."""
    try:
        request.state.upkeep_user = await _user(request)
    except HTTPException as refused:
        return _log_in(request, refused)
    return None


def user_of(request: Request) -> Any:
    """Airflow's user, who has logged in."""
    return request.state.upkeep_user


async def _user(request: Request) -> Any:
    """By Airflow's cookie or a bearer token. :raises HTTPException: 401 or 403."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = None
    if scheme.lower() == "bearer" and token:
        bearer = HTTPAuthorizationCredentials(scheme="Bearer", credentials=token.strip())
    request.state.upkeep_bearer = bearer is not None
    return await get_user(request, None, bearer)


def _log_in(request: Request, refused: HTTPException) -> Response:
    """A program gets its 401 or 403; so does a browser, with a page that leads to Airflow's login and back here."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": refused.detail}, refused.status_code)
    # As it was asked for: a run id holds what must stay quoted.
    back = request.scope["raw_path"].decode("ascii", "replace")
    if query := request.scope["query_string"].decode("ascii", "replace"):
        back += f"?{query}"
    login = f"{airflow_path(request)}/api/v2/auth/login?next={quote(back, safe='')}"
    content = environment().get_template("page/login.html").render(login=login)
    return HTMLResponse(content, 401, {"Refresh": f"0; url={login}"})


# -- forms -----------------------------------------------------------------------------------------------------


def form_token(request: Request) -> str:
    """What a form of ours carries; the same is in a cookie that no other site can read or send."""
    kept = request.cookies.get(FORM_COOKIE, "")
    return kept if _TOKEN.fullmatch(kept) else secrets.token_urlsafe(32)


def with_token(request: Request, response: Response, token: str) -> Response:
    response.set_cookie(
        FORM_COOKIE,
        token,
        path=f"{airflow_path(request)}/upkeep",
        httponly=True,
        samesite="strict",
        secure="https" in (request.url.scheme, urlsplit(settings().airflow_url).scheme),
    )
    return response


async def form_of(request: Request) -> dict[str, str]:
    """
    The fields of a form that this page made and this person sent.

    :raises HTTPException: 403 when another site may have sent it; 413 and 415 for what is no form of ours.
    """
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise HTTPException(415, "A form is application/x-www-form-urlencoded.")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MOST_FORM_BYTES:
            raise HTTPException(413, f"A form has at most {MOST_FORM_BYTES} bytes.")
    fields = {name: values[-1] for name, values in parse_qs(content.decode("utf-8", "replace")).items()}
    # A token in the header is nothing that a browser adds by itself.
    if not request.state.upkeep_bearer:
        _same_site(request, fields.pop(FORM_FIELD, ""))
    return fields


def _same_site(request: Request, token: str) -> None:
    said, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if said is not None:
        foreign = said not in ("same-origin", "none")
    else:
        # Plain http: browsers tell the origin alone. A proxy may have changed the host.
        ours = {request.headers.get("host", "").lower(), urlsplit(settings().airflow_url).netloc.lower()}
        foreign = origin is not None and urlsplit(origin).netloc.lower() not in ours
    cookie = request.cookies.get(FORM_COOKIE, "")
    if foreign or not _TOKEN.fullmatch(cookie) or not secrets.compare_digest(cookie.encode(), token.encode()):
        raise HTTPException(403, "This form was not made by this page, or is old: load the page again and repeat it.")


# -- answers ---------------------------------------------------------------------------------------------------


def airflow_path(request: Request) -> str:
    """The path below which Airflow lives; usually none."""
    own: str = request.scope.get("root_path", "")
    return own.removesuffix("/").removesuffix("/upkeep")


def message(request: Request, status: int, title: str, said: str, headers: Mapping[str, str] | None = None) -> Response:
    """For a browser a page, for a program JSON."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": said}, status, dict(headers or {}))
    home = f"{airflow_path(request)}/upkeep/"
    content = environment().get_template("message.html").render(title=title, said=said, home=home)
    return HTMLResponse(content, status, dict(headers or {}))
