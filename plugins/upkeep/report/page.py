"""The reports themselves, as the page serves them: behind the login, to whoever may read their Dag."""

# No ``from __future__ import annotations``: FastAPI reads the annotations.

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import APIRouter, Depends, HTTPException, Response

from upkeep.report.storage import CAPACITY, DATA, PAGE, read

reports = APIRouter(
    prefix="/reports/{platform}/{dag_id}/{run_id}", dependencies=[Depends(requires_access_dag(method="GET"))]
)


@reports.get("/")
def page(platform: str, dag_id: str, run_id: str) -> Response:
    return Response(_found(platform, dag_id, run_id, PAGE), media_type="text/html; charset=utf-8")


@reports.get("/report.json")
def data(platform: str, dag_id: str, run_id: str) -> Response:
    return Response(_found(platform, dag_id, run_id, DATA), media_type="application/json")


@reports.get("/capacity.html")
def capacity(platform: str, dag_id: str, run_id: str) -> Response:
    return Response(_found(platform, dag_id, run_id, CAPACITY, "capacity"), media_type="text/html; charset=utf-8")


@reports.get("/drill-{task}.html")
def drill(platform: str, dag_id: str, run_id: str, task: str) -> Response:
    return Response(_found(platform, dag_id, run_id, f"drill-{task}.html", task), media_type="text/html; charset=utf-8")


def _found(platform: str, dag_id: str, run_id: str, name: str, task: str = "report") -> bytes:
    content = read(platform, dag_id, run_id, name)
    if content is None:
        raise HTTPException(
            404,
            f"No report of {dag_id}, run {run_id}, for {platform}: its task `{task}` has not run yet or failed,"
            " or the report was removed.",
        )
    return content
