"""The subresources ``scale`` and ``eviction``."""

from __future__ import annotations

import copy
from typing import Any

from sandbox.kubernetes.autoscaling import evict
from sandbox.kubernetes.cluster import Cluster
from sandbox.kubernetes.errors import bad_request, conflict
from sandbox.kubernetes.messages import Request, Response
from sandbox.kubernetes.ownership import updated
from sandbox.kubernetes.patches import json_patch, merge_patch
from sandbox.kubernetes.resources import Resource
from sandbox.kubernetes.selectors import written

Object = dict[str, Any]


def _as_scale(obj: Object) -> Object:
    metadata = obj["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": kept,
        "spec": {"replicas": obj["spec"]["replicas"]},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": written(obj["spec"].get("selector")),
        },
    }


def scale(cluster: Cluster, resource: Resource, obj: Object, request: Request) -> Response:
    """Read or change the number of replicas alone."""
    if request.method == "GET":
        return Response(_as_scale(obj))
    with cluster.store.lock:
        old = cluster.store.get(resource, obj["metadata"]["namespace"], obj["metadata"]["name"])
        body, present = request.json(), _as_scale(old)
        if request.method == "PATCH":
            json_kind = request.media_type == "application/json-patch+json"
            body = json_patch(present, body) if json_kind else merge_patch(present, body)
        wanted = (body.get("spec") or {}).get("replicas", 0) if isinstance(body, dict) else None
        if not isinstance(wanted, int) or wanted < 0:
            raise bad_request("spec.replicas: Invalid value: must be a number of at least 0")
        given = (body.get("metadata") or {}).get("resourceVersion")
        if given and given != old["metadata"]["resourceVersion"]:
            raise conflict(resource.qualified, old["metadata"]["name"])
        new = copy.deepcopy(old)
        new["spec"]["replicas"] = wanted
        new = updated(old, new, request.manager)
        return Response(_as_scale(cluster.store.update(resource, old, new, dry_run=request.dry_run)))


def evict_pod(cluster: Cluster, pod: Object, request: Request) -> Response:
    options = request.json().get("deleteOptions") or {}
    dry_run = request.dry_run or options.get("dryRun") == ["All"]
    evict(cluster.store, pod, grace_s=options.get("gracePeriodSeconds"), dry_run=dry_run)
    return Response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)
