"""Kubernetes: the API, then pods, Deployments, Services and nodes of a platform, and what they use."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import urllib3
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.health import kubernetes_nodes, kubernetes_workloads
from upkeep.health.side_by_side import PAUSE_S, one_line
from upkeep.platforms.services import Kubernetes

MOST_SECONDS = 5.5
"""Of everything together: Airflow takes a second or two to make the client, and all must end within ten."""

PAGE = 500
"""Objects per request, as kubectl's default chunk."""

Object = dict[str, Any]


class NotAnswered(Exception):
    """One question was not answered; ``status`` is HTTP's, 0 when there was no answer at all."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class Api:
    """Reading from the Kubernetes API, bounded: each request by ``timeout_s``, all together by ``MOST_SECONDS``."""

    def __init__(self, client: ApiClient, timeout_s: float) -> None:
        configuration = copy.copy(client.configuration)
        # urllib3 would try a hanging server four times.
        configuration.retries = False
        self.client = ApiClient(configuration)
        self.client.default_headers.update(client.default_headers)
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + MOST_SECONDS

    def get(self, path: str, **query: Any) -> Object:
        """One object, or a page of a list. :raises NotAnswered: refused, not found, or not in time."""
        wait_s = min(self.timeout_s, self.deadline - time.monotonic())
        if wait_s <= 0:
            raise NotAnswered(f"no time left to ask for {path}")
        headers = {"Accept": "application/json", **self.client.default_headers}
        parameters = list(query.items())
        self.client.update_params_for_auth(headers, parameters, ["BearerToken"])
        try:
            # Below call_api, which stumbles over refusals that have no body.
            response = self.client.rest_client.GET(
                self.client.configuration.host + path,
                headers=headers,
                query_params=parameters,
                _request_timeout=wait_s,
            )
            return dict(json.loads(response.data))
        except ValueError:
            raise NotAnswered(f"{path} was not answered with JSON") from None
        except ApiException as refusal:
            raise NotAnswered(_refusal(refusal, path), refusal.status or 0) from None
        except urllib3.exceptions.NewConnectionError as refused:
            # To urllib3 even a refused connection is a kind of time-out.
            raise NotAnswered(_trouble(refused)) from None
        except urllib3.exceptions.TimeoutError:
            raise NotAnswered(f"no answer within {wait_s:.1f} s") from None
        except urllib3.exceptions.HTTPError as trouble:
            raise NotAnswered(_trouble(trouble)) from None

    def items(self, path: str) -> list[Object]:
        """All objects of a list. :raises NotAnswered: as ``get``."""
        found: list[Object] = []
        query: dict[str, Any] = {"limit": PAGE}
        while True:
            page = self.get(path, **query)
            found += page.get("items") or []
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return found
            query["continue"] = more


def look(
    settings: Kubernetes,
    api_client: ApiClient,
    *,
    timeout_s: float = 3.0,
    now: datetime | None = None,
    conn_id: str = "the Kubernetes connection",
) -> list[Outcome]:
    """
    ``kubernetes_api``, ``pods``, ``deployments``, ``scaling``, ``services``, ``nodes`` and ``usage`` of one namespace.

    :param api_client: as Airflow's KubernetesHook makes it; its settings are used, its retries are not.
    :param timeout_s: for each request.
    :param now: against which ages are judged.
    :param conn_id: what hints call the connection.
    """
    api = Api(api_client, timeout_s)
    now = now or datetime.now(UTC)
    at, began = datetime.now(UTC), time.monotonic()
    reached = replace(_reach(settings, api, conn_id), at=at, seconds=max(0.001, round(time.monotonic() - began, 3)))
    if reached.state != "ok":
        reason = reached.reason or reached.findings[0].summary
        rest = [
            unknown(check, severity, reason, explained_by="kubernetes_api") for check, severity in _checks(settings)
        ]
        return [reached, *rest]
    return [reached, *_look(settings, api, now)]


def _checks(settings: Kubernetes) -> list[tuple[str, Severity]]:
    """What is asked once the API answers, and what each counts with when it could not look."""
    return [
        ("pods", Severity.P2),
        ("deployments", min((d.severity for d in settings.deployments), key=lambda s: s.rank, default=Severity.P2)),
        ("scaling", kubernetes_workloads.PODS_SEVERITY),
        ("services", settings.severity),
        ("nodes", kubernetes_nodes.NODES_SEVERITY),
        ("usage", kubernetes_nodes.USAGE_UNKNOWN),
    ]


def _reach(settings: Kubernetes, api: Api, conn_id: str) -> Outcome:
    """Ask for the version, twice before it counts; then for the namespace."""
    said, status, version = "", 0, None
    for last in (False, True):
        try:
            version = api.get("/version/")
            break
        except NotAnswered as failed:
            said, status = failed.reason, failed.status
        if last or status in (401, 403):
            break
        time.sleep(PAUSE_S)
    if version is None:
        if status in (401, 403):
            hint = f"correct the token or certificate of connection `{conn_id}`; trying again does not help."
        else:
            hint = "is the control plane up? Try `kubectl get --raw /readyz?verbose` from a worker's network."
        return _unreachable(settings, f"the API does not answer: {said}", hint)
    try:
        api.get(f"/api/v1/namespaces/{settings.namespace}")
    except NotAnswered as failed:
        if failed.status == 404:
            hint = "correct kubernetes.namespace in the platform file, or the cluster of the connection."
            return _unreachable(settings, f"there is no namespace {settings.namespace}", hint)
        # A role of this namespace alone may not read the namespace itself; the lists below will show.
    return ok("kubernetes_api", settings.severity, version=str(version.get("gitVersion", "")))


def _unreachable(settings: Kubernetes, summary: str, hint: str) -> Outcome:
    finding = Finding(check="kubernetes_api", severity=settings.severity, summary=summary, hint=hint)
    return judged("kubernetes_api", settings.severity, [finding])


def _look(settings: Kubernetes, api: Api, now: datetime) -> Iterator[Outcome]:
    inside = f"namespaces/{settings.namespace}"
    kept: dict[str, list[Object]] = {}

    def items(path: str) -> list[Object]:
        """Each list is asked for once, by whichever check needs it first."""
        if path not in kept:
            kept[path] = api.items(path)
        return kept[path]

    def pods() -> list[Object]:
        return items(f"/api/v1/{inside}/pods")

    def deployments() -> Outcome:
        path = f"/apis/apps/v1/{inside}/deployments"
        found = items(path)
        if kubernetes_workloads.lagging(settings, found):
            # The controller may just be about to see the change.
            time.sleep(min(1.0, max(0.0, api.deadline - time.monotonic() - 1)))
            found = api.items(path)
        return kubernetes_workloads.deployments(settings, found)

    def scaling() -> Outcome:
        try:
            scalers = items(f"/apis/autoscaling/v2/{inside}/horizontalpodautoscalers")
        except NotAnswered as failed:
            # Who may not read them has not scaled through them either.
            if failed.status not in (403, 404):
                raise
            scalers = []
        return kubernetes_workloads.scaling(settings, items(f"/apis/apps/v1/{inside}/deployments"), scalers, now)

    looks: dict[str, Callable[[], Outcome]] = {
        "pods": lambda: kubernetes_workloads.pods(settings, pods(), now),
        "deployments": deployments,
        "scaling": scaling,
        "services": lambda: kubernetes_workloads.services(
            settings, items(f"/api/v1/{inside}/services"), items(f"/apis/discovery.k8s.io/v1/{inside}/endpointslices")
        ),
        "nodes": lambda: kubernetes_nodes.nodes(items("/api/v1/nodes")),
        "usage": lambda: kubernetes_nodes.usage(
            settings,
            items("/api/v1/nodes"),
            items("/apis/metrics.k8s.io/v1beta1/nodes"),
            pods(),
            items(f"/apis/metrics.k8s.io/v1beta1/{inside}/pods"),
        ),
    }
    for check, severity in _checks(settings):
        at, began = datetime.now(UTC), time.monotonic()
        try:
            outcome = looks[check]()
        except NotAnswered as failed:
            missing = check == "usage" and failed.status in (404, 503)
            reason = (
                f"there is no metrics API (metrics.k8s.io): {failed}; install metrics-server"
                if missing
                else str(failed)
            )
            outcome = unknown(check, severity, reason)
        yield replace(outcome, at=at, seconds=max(0.001, round(time.monotonic() - began, 3)))


def _refusal(refused: ApiException, path: str) -> str:
    match refused.status:
        case 401:
            return "the API refuses who we are (401 Unauthorized)"
        case 403:
            return f"not allowed to read {path} (403 Forbidden); grant get and list on it to Upkeep's service account"
        case 404:
            return f"{path} is not found (404)"
        case 0 | None:
            return one_line(Exception(refused.reason or "no reason given")).partition(": ")[2]
        case status:
            return f"{path} was answered with {status} {refused.reason}"


def _trouble(trouble: Exception) -> str:
    cause: BaseException = trouble
    while (cause.__cause__ or cause.__context__) is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, ConnectionRefusedError):
        return "the connection was refused"
    return one_line(cause)
