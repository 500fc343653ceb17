"""The page as Airflow serves it, without a whole Airflow: its own auth manager and tokens, its own database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx


def prepare_airflow(dag_ids: Iterable[str]) -> None:
    """Airflow's tables, with these Dags in them, and its auth manager."""
    from airflow.api_fastapi.app import init_auth_manager
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils import db
    from airflow.utils.session import create_session

    db.initdb()
    with create_session() as session:
        session.merge(DagBundleModel(name="page-tests"))
        session.flush()
        for dag_id in dag_ids:
            session.merge(
                DagModel(dag_id=dag_id, bundle_name="page-tests", is_stale=False, is_paused=False, max_active_tasks=1)
            )
    init_auth_manager()


def token(role: str, name: str = "") -> str:
    """As Airflow's login makes it."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=name or role.lower(), role=role))


def app() -> Any:
    """Mounted as a plugin's app is."""
    from fastapi import FastAPI

    from upkeep.page.app import build_app

    made = FastAPI()
    made.mount("/upkeep", build_app())
    return made


def browser(made: Any, role: str = "", name: str = "") -> httpx.Client:
    """Somebody with a browser, logged in by Airflow's cookie; without a role a stranger."""
    from fastapi.testclient import TestClient

    client = TestClient(
        made, "http://airflow.example", headers={"accept": "text/html"}, follow_redirects=False,
        raise_server_exceptions=True,
    )  # fmt: skip
    if role:
        client.cookies.set("_token", token(role, name))
    return client
