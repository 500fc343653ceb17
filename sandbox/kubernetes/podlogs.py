"""The logs of containers, as a whole or followed."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox.kubernetes import clock, containers
from sandbox.kubernetes.cluster import Cluster
from sandbox.kubernetes.conditions import is_finished
from sandbox.kubernetes.errors import bad_request
from sandbox.kubernetes.messages import Request, Response
from sandbox.kubernetes.resources import PODS

Object = dict[str, Any]


def pod_log(cluster: Cluster, pod: Object, request: Request) -> Response:
    """:raises ApiError: 400, no such container, or it has not run yet."""
    names = [each["name"] for each in pod["spec"]["containers"]]
    name = request.query.get("container") or names[0]
    if len(names) > 1 and "container" not in request.query:
        raise bad_request(
            f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: {names}"
        )
    if name not in names:
        raise bad_request(f"container {name} is not valid for pod {pod['metadata']['name']}")
    statuses = {each["name"]: each for each in pod["status"].get("containerStatuses") or []}
    status = statuses.get(name) or {}
    waiting = (status.get("state") or {"waiting": {"reason": "ContainerCreating"}}).get("waiting")
    if waiting and not status.get("lastState"):
        what = f'container "{name}" in pod "{pod["metadata"]["name"]}" is waiting to start'
        raise bad_request(f"{what}: {waiting['reason']}")
    restart = int(status.get("restartCount", 0)) - (1 if request.flag("previous") else 0)
    if restart < 0:
        raise bad_request(f'previous terminated container "{name}" in pod "{pod["metadata"]["name"]}" not found')
    log = containers.log_path(cluster.logs, pod, name, restart)
    since, timestamps = _since(request), request.flag("timestamps")
    if request.flag("follow"):
        stream = _followed(cluster, pod, log, since, timestamps, request.query.get("tailLines"))
        return Response(stream=stream, media_type="text/plain")
    text, _ = containers.read_log(log, since=since, timestamps=timestamps)
    text = _tail(text, request.query.get("tailLines"))
    if limit := request.query.get("limitBytes"):
        text = text[: int(limit)]
    return Response(text, media_type="text/plain")


def _tail(text: bytes, lines: str | None) -> bytes:
    if lines is None:
        return text
    return b"".join(text.splitlines(keepends=True)[-int(lines) :]) if int(lines) else b""


def _since(request: Request) -> float | None:
    if moment := request.query.get("sinceTime"):
        return clock.parse(moment).timestamp()
    if seconds := request.query.get("sinceSeconds"):
        return datetime.datetime.now(datetime.UTC).timestamp() - float(seconds)
    return None


def _followed(
    cluster: Cluster, pod: Object, log: Path, since: float | None, timestamps: bool, tail: str | None
) -> Iterator[bytes]:
    text, offset = containers.read_log(log, since=since, timestamps=timestamps)
    yield _tail(text, tail)
    metadata = pod["metadata"]
    while True:
        now = cluster.store.find(PODS, metadata["namespace"], metadata["name"])
        over = now is None or now["metadata"]["uid"] != metadata["uid"] or is_finished(now)
        text, offset = containers.read_log(log, since=since, timestamps=timestamps, offset=offset)
        yield text
        if over:
            return
        containers.wait_for_output()
