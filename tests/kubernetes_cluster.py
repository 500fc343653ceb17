"""A cluster of its own for a test module, and the questions that tests ask it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox import __main__ as sandbox
from sandbox.home import Home
from sandbox.servers.kubernetes import api, start_kubernetes

NAMESPACE = "studyspot"
API, WEB = "studyspot-api", "studyspot-web"
PACE = {"start_s": 0.1, "backoff_s": 0.2, "autoscale_s": 0.3}
"""Faster than the demo's."""


@contextmanager
def running_cluster(**pace: float) -> Iterator[Home]:
    """A sandbox with nothing but a cluster in it, gone afterwards."""
    home = Home(Path(tempfile.mkdtemp(prefix="k8s-", dir="/tmp")))
    try:
        start_kubernetes(home, **pace)
        yield home
    finally:
        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)


def until(true: Callable[[], Any], what: str, timeout_s: float = 30) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (answer := true()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)
    return answer


def deployment(home: Home, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    return dict(api(home).get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"))


def rolled_out(found: dict[str, Any]) -> bool:
    """Every word of what ``kubectl rollout status`` waits for."""
    spec, status = found["spec"], found["status"]
    return status.get("observedGeneration", 0) >= found["metadata"]["generation"] and (
        status.get("updatedReplicas", 0)
        == status.get("replicas", 0)
        == status.get("availableReplicas", 0)
        == spec["replicas"]
    )


def settled(home: Home) -> None:
    """Everything that should run runs."""

    def well() -> bool:
        found = api(home).get("/apis/apps/v1/deployments")["items"]
        return len(found) == 6 and all(map(rolled_out, found))

    until(well, "all deployments to be rolled out")


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((each for each in obj["status"].get("conditions", []) if each["type"] == kind), {})


def pods(home: Home, app: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    found = api(home).get(f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def set_image(home: Home, name: str, tag: str) -> None:
    image = f"registry.example.com/studyspot/{name}:{tag}"
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}"
    api(home).send("PATCH", path, patch, media_type="application/json-patch+json")
