"""
The page: the newest report of each Dag, and the reports themselves, behind Airflow's login.

It reads what tasks have written and never asks a platform. No ``from __future__ import annotations`` here: FastAPI
reads the annotations, and could not resolve those that are defined inside ``build_app``.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException

from upkeep.connections import open_ledger
from upkeep.errors import UpkeepError
from upkeep.findings import Severity
from upkeep.platforms import Platform, read_all
from upkeep.report.gather import SQL
from upkeep.report.render import environment
from upkeep.report.storage import DATA, PAGE, read
from upkeep.settings import settings

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A report is written again when its task is; what it says is nobody else's business.
    "Cache-Control": "private, no-store",
}


class LoginNeeded(Exception):
    """A browser came without a valid login."""


async def user_of(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> Any:
    """
    Airflow's user, by its cookie or a bearer token.

    :raises LoginNeeded: a browser is better served by the login page than by a bare 401.
    """
    try:
        return await get_user(request, None, bearer)
    except HTTPException:
        if bearer is None and request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            raise LoginNeeded from None
        raise


def build_app() -> FastAPI:
    """The app that Airflow mounts at ``/upkeep``."""
    # FastAPI's own documentation pages would be public.
    app = FastAPI(title="Upkeep", docs_url=None, redoc_url=None, openapi_url=None)
    may_read_dag = [Depends(user_of), Depends(requires_access_dag(method="GET"))]

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(LoginNeeded)
    async def log_in(request: Request, needed: LoginNeeded) -> Response:
        # As it was asked for: a run id holds what must stay quoted.
        back = request.scope["raw_path"].decode("ascii")
        return RedirectResponse(f"{_airflow_path(request)}/api/v2/auth/login?next={quote(back, safe='')}", 303)

    @app.exception_handler(UpkeepError)
    async def broken(request: Request, error: UpkeepError) -> Response:
        return _message(request, 503, "This page cannot be shown now", f"{error.message}\nHINT: {error.hint}")

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        titles = {401: "Not logged in", 403: "Not for you", 404: "There is nothing here"}
        title = titles.get(error.status_code, "That did not work")
        return _message(request, error.status_code, title, str(error.detail), error.headers)

    @app.get("/", response_class=HTMLResponse)
    def index(request: Request, user: Annotated[Any, Depends(user_of)]) -> str:
        with open_ledger() as ledger:
            rows = ledger.rows((SQL / "latest_reports.sql").read_text())
        allowed = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
        good, bad = read_all()
        return (
            environment()
            .get_template("index.html")
            .render(
                airflow_url=settings().airflow_url,
                platforms=[_platform(platform, [r for r in rows if r["dag_id"] in allowed]) for platform in good],
                broken=[file.file.name for file in bad],
            )
        )

    @app.get("/reports/{platform}/{dag_id}/{run_id}/", dependencies=may_read_dag)
    def page(platform: str, dag_id: str, run_id: str) -> Response:
        return Response(_found(platform, dag_id, run_id, PAGE), media_type="text/html; charset=utf-8")

    @app.get("/reports/{platform}/{dag_id}/{run_id}/report.json", dependencies=may_read_dag)
    def data(platform: str, dag_id: str, run_id: str) -> Response:
        return Response(_found(platform, dag_id, run_id, DATA), media_type="application/json")

    return app


def _found(platform: str, dag_id: str, run_id: str, name: str) -> bytes:
    content = read(platform, dag_id, run_id, name)
    if content is None:
        raise HTTPException(
            404,
            f"No report of {dag_id}, run {run_id}, for {platform}: its task `report` has not run yet or failed,"
            " or the report was removed.",
        )
    return content


def _platform(platform: Platform, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One platform as the index shows it. Whoever may read none of its Dags is not told how it is either."""
    own = [row for row in rows if row["platform"] == platform.name]
    worst = own[0]["worst"] if own else None
    level = platform.severity.levels.get(Severity(worst)) if worst else None
    return {
        "name": platform.name,
        "title": platform.title,
        "open": own[0]["open_findings"] if own else 0,
        "blind": own[0]["blind"] if own else 0,
        "worst": level.name if level else worst,
        "rows": [
            {
                "dag_id": row["dag_id"],
                "run_id": row["run_id"],
                "at": row["first_seen_at"],
                "href": "reports/"
                + "/".join(quote(part, safe="") for part in (row["platform"], row["dag_id"], row["run_id"]))
                + "/",
            }
            for row in own
        ],
    }


def _airflow_path(request: Request) -> str:
    """The path below which Airflow lives; usually none."""
    own: str = request.scope.get("root_path", "")
    return own.removesuffix("/").removesuffix("/upkeep")


def _message(
    request: Request, status: int, title: str, said: str, headers: Mapping[str, str] | None = None
) -> Response:
    """For a browser a page, for a program JSON."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": said}, status, dict(headers or {}))
    home = f"{_airflow_path(request)}/upkeep/"
    content = environment().get_template("message.html").render(title=title, said=said, home=home)
    return HTMLResponse(content, status, dict(headers or {}))
