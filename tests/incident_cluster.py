"""What the tests of remedies share: a living cluster that is as it was before each test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from kubernetes.client import ApiClient
from kubernetes.config import new_client_from_config

from sandbox.home import Home
from sandbox.servers.kubernetes import api, kubeconfig
from tests.kubernetes_cluster import API, NAMESPACE, PACE, WEB, running_cluster, set_image, settled
from upkeep.health.kubernetes_workloads import SCALED
from upkeep.incident import workloads

APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
SCALERS = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
MERGE = "application/merge-patch+json"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Home]:
    with running_cluster(**PACE) as home:
        settled(home)
        yield home


@pytest.fixture
def client(cluster: Home) -> Iterator[ApiClient]:
    """Everything as it was in the beginning."""
    yield new_client_from_config(str(kubeconfig(cluster, NAMESPACE)))
    api(cluster).send("DELETE", "/_sandbox/faults")
    patch(cluster, API, {"metadata": {"labels": {"argocd.argoproj.io/instance": None}}})
    for name, replicas in ((API, 3), (WEB, 2)):
        meta = {"annotations": {SCALED: None}}
        patch(cluster, name, {"metadata": meta, "spec": {"replicas": replicas, "paused": False}})
    set_image(cluster, API, "1.0")
    set_image(cluster, WEB, "1.0")
    scaler = {"metadata": {"annotations": {SCALED: None}}, "spec": {"minReplicas": 3, "maxReplicas": 10}}
    api(cluster).send("PATCH", f"{SCALERS}/{API}", scaler, media_type=MERGE)
    settled(cluster)


def patch(cluster: Home, name: str, body: dict[str, Any]) -> None:
    api(cluster).send("PATCH", f"{APPS}/{name}", body, media_type=MERGE)


@contextmanager
def scripted(cluster: Home, **fault: Any) -> Iterator[None]:
    api(cluster).send("POST", "/_sandbox/faults", {"name": "here", **fault})
    try:
        yield
    finally:
        api(cluster).send("DELETE", "/_sandbox/faults?name=here")


def writes(cluster: Home) -> list[str]:
    seen = api(cluster).get("/_sandbox/requests")
    return [one["path"].partition("?")[0] for one in seen if one["method"] == "PATCH" and "_sandbox" not in one["path"]]


def rollout(client: ApiClient, name: str, within_s: float = 20) -> workloads.Workload:
    return workloads.wait(client, NAMESPACE, name, within_s=within_s)


def settle(client: ApiClient, name: str, replicas: int) -> None:
    deadline = time.monotonic() + 20
    while (found := workloads.look(client, NAMESPACE, name)).wanted != replicas or not found.rolled_out:
        assert time.monotonic() < deadline, found.standing()
        time.sleep(0.1)
