"""What a real cluster does not have: the strings by which tests and faults pull. All below ``/_sandbox/``.

================  ======  ====================================================================================
path              method  does
================  ======  ====================================================================================
``requests``      GET     the log: ``[{"time", "method", "path", "status", "user"}]``; DELETE empties it
``faults``        POST    adds a script (``faults.Fault``'s fields); DELETE ``?name=`` removes one or all; GET lists
``metrics``       PATCH   merges into ``metrics.Settings``; null removes an entry; GET reads
``age``           POST    ``{"path": "/api/v1/...", "seconds": n}``: moves all its timestamps back
``objects``       POST    ``{"items": [...]}``: stores objects as they are, status and timestamps included
``controllers``   PATCH   ``{"paused": ["deployments", ...]}``: these stand still
``compact``       POST    forgets the history: older watches and list continuations get 410
================  ======  ====================================================================================
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sandbox.kubernetes import clock
from sandbox.kubernetes.api import locate
from sandbox.kubernetes.cluster import Cluster
from sandbox.kubernetes.errors import bad_request, no_such_path
from sandbox.kubernetes.messages import Request, Response
from sandbox.kubernetes.patches import merge_patch
from sandbox.kubernetes.resources import BY_KIND

Object = dict[str, Any]


def answer(cluster: Cluster, request: Request) -> Response:
    """:raises ApiError: 404, no such string; 400, a bad body."""
    body = request.json()
    match request.parts[1:], request.method:
        case ["requests"], "GET":
            return Response(list(cluster.faults.requests))
        case ["requests"], "DELETE":
            cluster.faults.requests.clear()
        case ["faults"], "POST":
            return Response(dataclasses.asdict(cluster.faults.add(body)), 201)
        case ["faults"], "DELETE":
            cluster.faults.remove(request.query.get("name"))
        case ["faults"], "GET":
            return Response([dataclasses.asdict(each) for each in cluster.faults.active.values()])
        case ["metrics"], "PATCH":
            _set_metrics(cluster, body)
            return Response(dataclasses.asdict(cluster.settings))
        case ["metrics"], "GET":
            return Response(dataclasses.asdict(cluster.settings))
        case ["age"], "POST":
            _age(cluster, body)
        case ["objects"], "POST":
            _put(cluster, body["items"])
        case ["controllers"], "PATCH":
            cluster.paused = set(body.get("paused") or [])
        case ["compact"], "POST":
            cluster.store.compact()
        case _:
            raise no_such_path()
    return Response({})


def _set_metrics(cluster: Cluster, body: Object) -> None:
    known = {field.name for field in dataclasses.fields(cluster.settings)}
    if unknown := set(body) - known:
        raise bad_request(f"unknown metrics settings {sorted(unknown)}; there are {sorted(known)}")
    merged = merge_patch(dataclasses.asdict(cluster.settings), body)
    with cluster.store.lock:
        for name in body:
            setattr(cluster.settings, name, merged[name])


def _age(cluster: Cluster, body: Object) -> None:
    target = locate([part for part in body["path"].split("/") if part])
    obj = cluster.store.get(target.resource, target.namespace, target.name or "")

    def change(new: Object) -> None:
        metadata, seconds = new["metadata"], float(body["seconds"])
        metadata["creationTimestamp"] = clock.aged(metadata["creationTimestamp"], seconds)
        for field in new.keys() - {"metadata", "spec"}:
            new[field] = clock.aged(new[field], seconds)

    cluster.store.edit(target.resource, obj, change)


def _put(cluster: Cluster, items: list[Object]) -> None:
    with cluster.store.lock:
        for item in items:
            cluster.store.put(BY_KIND[item["apiVersion"], item["kind"]], item)
