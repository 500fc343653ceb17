"""
The only file Airflow loads as a plugin: the page at ``/upkeep/``, and its entry in the navigation.

Every Airflow process executes this file, each task's as well: nothing heavy is imported before the first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "/upkeep"


class LazyASGI:
    """An app that is built when it is first asked for, which only happens in the API server."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if self._app is None:
            from upkeep.page.app import build_app

            self._app = build_app()
        await self._app(scope, receive, send)


class UpkeepPlugin(AirflowPlugin):
    name = "upkeep"
    fastapi_apps: ClassVar[list[Any]] = [{"app": LazyASGI(), "name": "Upkeep", "url_prefix": PREFIX}]
    # No `url_route`: that would be a sandboxed frame, out of which no link could lead to a run or its log. In a menu,
    # because Airflow 3.3.2 draws a top-level entry without `url_route` as a button that does nothing.
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Upkeep",
            # Airflow may live below a path of its own; the navigation takes hrefs as they are.
            "href": f"{urlsplit(conf.get('api', 'base_url', fallback='') or '').path.rstrip('/')}{PREFIX}/",
            "destination": "nav",
            "category": "browse",
        }
    ]
