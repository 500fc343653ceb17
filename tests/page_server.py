"""The page as Airflow serves it, without a whole Airflow: its own auth manager, tokens and database, a real ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from sandbox.home import Home
from tests.conftest import fresh_ledger, libpq
from upkeep.settings import settings

CLOCKS = {"levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)}}

DAGS = ("daily_maintenance", "backup", "weekly_maintenance", "monthly_maintenance", "health_watch")


@dataclass
class PageServer:
    """The app, mounted as a plugin's app is; its ledger; and its platform files."""

    app: Any
    conninfo: str
    platforms: Path

    def browser(self, role: str = "", name: str = "") -> httpx.Client:
        """Somebody with a browser, logged in by Airflow's cookie; without a role a stranger."""
        client = self._client({"accept": "text/html"})
        if role:
            client.cookies.set("_token", token(role, name))
        return client

    def program(self, role: str = "", name: str = "") -> httpx.Client:
        """A program with a bearer token; without a role it has none."""
        bearer = {"authorization": f"Bearer {token(role, name)}"} if role else {}
        return self._client({"accept": "application/json", **bearer})

    def _client(self, headers: dict[str, str]) -> httpx.Client:
        from fastapi.testclient import TestClient

        return TestClient(self.app, "http://airflow.example", headers=headers, follow_redirects=False)

    def ask(self, query: str, *parameters: Any) -> Any:
        """As the ledger's owner: the first value of the first row, if there is one."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(query, parameters or None)  # type: ignore[call-overload]
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


@contextmanager
def page_server(control: Home, directory: Path, platforms: Iterable[dict[str, Any]]) -> Iterator[PageServer]:
    """A page that looks after these platforms; whatever is started ends with it."""
    from fastapi import FastAPI

    files = directory / "platforms"
    files.mkdir()
    for content in platforms:
        (files / f"{content['name']}.yaml").write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patch, fresh_ledger(control) as connection:
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "only-for-tests-" * 6)
        patch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps(connection))
        patch.setenv("UPKEEP_PLATFORMS", str(files))
        settings.cache_clear()
        with airflow_with(f"{file.stem}_{dag}" for file in files.iterdir() for dag in DAGS):
            from upkeep.page.app import build_app

            app = FastAPI()
            app.mount("/upkeep", build_app())
            yield PageServer(app, libpq(connection), files)
    settings.cache_clear()


def shop(name: str, **sections: Any) -> dict[str, Any]:
    """A platform file's content."""
    return {"name": name, "title": name.replace("_", " ").title(), "severity": CLOCKS, **sections}


@contextmanager
def airflow_with(dag_ids: Iterable[str]) -> Iterator[None]:
    """Airflow's tables, with these Dags in them until the end, and its auth manager."""
    from airflow.api_fastapi.app import init_auth_manager
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils import db
    from airflow.utils.session import create_session
    from sqlalchemy import delete, select

    db.initdb()
    with create_session() as session:
        session.merge(DagBundleModel(name="page-tests"))
        session.flush()
        for dag_id in set(dag_ids) - set(session.scalars(select(DagModel.dag_id))):
            session.add(DagModel(dag_id=dag_id, bundle_name="page-tests", is_stale=False, max_active_tasks=1))
    init_auth_manager()
    try:
        yield
    finally:
        with create_session() as session:
            session.execute(delete(DagModel).where(DagModel.bundle_name == "page-tests"))
            session.execute(delete(DagBundleModel).where(DagBundleModel.name == "page-tests"))


def token(role: str, name: str = "") -> str:
    """As Airflow's login makes it."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=name or role.lower(), role=role))
