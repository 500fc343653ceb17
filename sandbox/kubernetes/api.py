"""From a request to its answer: the paths and verbs of the Kubernetes API."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from sandbox.kubernetes import access, discovery, metrics
from sandbox.kubernetes.access import Deed, User, authorize
from sandbox.kubernetes.cluster import Cluster
from sandbox.kubernetes.conditions import node_ready
from sandbox.kubernetes.errors import ApiError, bad_request, expired, no_such_path
from sandbox.kubernetes.messages import Request, Response
from sandbox.kubernetes.ownership import applied, updated
from sandbox.kubernetes.patches import json_patch, merge_patch, strategic_patch
from sandbox.kubernetes.podlogs import pod_log
from sandbox.kubernetes.resources import JOBS, NODES, PODS, RESOURCES, Resource
from sandbox.kubernetes.selectors import field_test, label_test
from sandbox.kubernetes.subresources import evict_pod, scale
from sandbox.kubernetes.tables import table, wants_table
from sandbox.kubernetes.watches import Watch

Object = dict[str, Any]

_APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Target:
    """What a path means."""

    resource: Resource
    namespace: str | None
    name: str | None = None
    sub: str = ""
    rest: str = ""
    """What follows ``proxy/``."""


def answer(cluster: Cluster, request: Request, user: User) -> Response:
    """:raises ApiError: every refusal."""
    parts = request.parts
    if parts in (["healthz"], ["readyz"], ["livez"]):
        return Response(b"ok", media_type="text/plain")
    documented = discovery.answer(parts, metrics=cluster.settings.available != "missing")
    if documented is not None:
        return Response(documented)
    if parts[:2] == ["apis", "metrics.k8s.io"]:
        # .../nodes, .../nodes/NAME, .../namespaces/NS/pods, .../namespaces/NS/pods/NAME
        plural = parts[-2] if len(parts) % 2 else parts[-1]
        namespace = parts[4] if "namespaces" in parts else None
        authorize(cluster.store, user, Deed("get", "metrics.k8s.io", plural, namespace))
        return Response(metrics.answer(cluster.store, cluster.settings, parts[3:], request.query))
    if parts == ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] and request.method == "POST":
        return Response(access.review(cluster.store, user, request.json()), 201)
    target = locate(parts)
    watching = request.flag("watch") and target.name is None
    authorize(cluster.store, user, _deed(request.method, target, watching))
    if target.name is None:
        return _collection(cluster, request, target, watching)
    return _single(cluster, request, target)


def locate(parts: list[str]) -> Target:
    """:raises ApiError: 404, the path leads nowhere."""
    match parts:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            raise no_such_path()
    namespace = None
    if len(rest) >= 3 and rest[0] == "namespaces" and (group or rest[2] not in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    resource = RESOURCES.get((group, version, rest[0])) if rest else None
    if resource is None or (namespace and not resource.namespaced):
        raise no_such_path()
    name = rest[1] if len(rest) > 1 else None
    sub = rest[2] if len(rest) > 2 else ""
    if (sub and sub not in resource.subresources) or (name and resource.namespaced and namespace is None):
        raise no_such_path()
    return Target(resource, namespace, name, sub, "/".join(rest[3:]))


def _deed(method: str, target: Target, watching: bool) -> Deed:
    verb = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(method, method)
    if target.name is None:
        verb = {"get": "watch" if watching else "list", "delete": "deletecollection"}.get(verb, verb)
    resource = target.resource.plural + (f"/{target.sub}" if target.sub else "")
    return Deed(verb, target.resource.group, resource, target.namespace, target.name)


# -- collections -------------------------------------------------------------------------------------------


def _collection(cluster: Cluster, request: Request, target: Target, watching: bool) -> Response:
    match request.method:
        case "GET" if watching:
            return _watch(cluster, request, target)
        case "GET":
            return _list(cluster, request, target)
        case "POST" if target.namespace or not target.resource.namespaced:
            body = request.json()
            if isinstance(body, dict) and body.get("metadata") is not None:
                body = updated(None, {"apiVersion": target.resource.api_version, **body}, request.manager)
            made = cluster.store.create(target.resource, target.namespace, body, dry_run=request.dry_run)
            return Response(made, 201)
        case "DELETE":
            return _delete_collection(cluster, request, target)
    raise _method_not_allowed()


def _method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def _selected(request: Request, target: Target) -> Any:
    by_label = label_test(request.query.get("labelSelector"))
    by_field = field_test(target.resource, request.query.get("fieldSelector"))

    def matches(obj: Object) -> bool:
        metadata = obj["metadata"]
        inside = target.namespace is None or metadata.get("namespace") == target.namespace
        return inside and by_label(metadata.get("labels") or {}) and by_field(obj)

    return matches


def _list(cluster: Cluster, request: Request, target: Target) -> Response:
    store, matches = cluster.store, _selected(request, target)
    with store.lock:
        version = str(store.version)
        items = [obj for obj in store.all(target.resource, target.namespace) if matches(obj)]
        if token := request.query.get("continue"):
            version, after = _continued(token, store.compacted)
            items = [obj for obj in items if _key(obj) > after]
    limit = int(request.query.get("limit") or 0)
    head: Object = {"resourceVersion": version}
    if limit and len(items) > limit:
        head["remainingItemCount"] = len(items) - limit
        items = items[:limit]
        head["continue"] = base64.b64encode(json.dumps({"v": version, "after": _key(items[-1])}).encode()).decode()
    if wants_table(request.headers):
        return Response(table(target.resource, items, head, request.query.get("includeObject", "Metadata")))
    if not target.resource.custom:
        # As the real server: the items of a list do not say their kind.
        items = [{key: value for key, value in obj.items() if key not in ("kind", "apiVersion")} for obj in items]
    kinds = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version}
    return Response({**kinds, "metadata": head, "items": items})


def _key(obj: Object) -> list[str]:
    return [obj["metadata"].get("namespace") or "", obj["metadata"]["name"]]


def _continued(token: str, compacted: int) -> tuple[str, list[str]]:
    try:
        read = json.loads(base64.b64decode(token))
        version, after = str(read["v"]), list(read["after"])
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request("continue key is not valid") from error
    if int(version) < compacted:
        raise expired("The provided continue parameter is too old to display a consistent list result.")
    return version, after


def _watch(cluster: Cluster, request: Request, target: Target) -> Response:
    query = request.query
    as_table = wants_table(request.headers)

    def present(obj: Object) -> Object:
        return table(target.resource, [obj], {}, query.get("includeObject", "Metadata")) if as_table else obj

    watch = Watch(
        cluster.store,
        target.resource,
        _selected(request, target),
        present,
        version=query.get("resourceVersion", ""),
        timeout_s=float(query.get("timeoutSeconds") or 1800),
        bookmarks=request.flag("allowWatchBookmarks") and not as_table,
        bookmark_s=cluster.pace.bookmark_s,
        initial_events=request.flag("sendInitialEvents"),
    )
    return Response(stream=watch.stream())


def _delete_collection(cluster: Cluster, request: Request, target: Target) -> Response:
    matches = _selected(request, target)
    options = _delete_options(request, target.resource)
    with cluster.store.lock:
        doomed = [obj for obj in cluster.store.all(target.resource, target.namespace) if matches(obj)]
        for obj in doomed:
            cluster.store.delete(target.resource, obj, **options)
    kinds = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version}
    return Response({**kinds, "metadata": {"resourceVersion": str(cluster.store.version)}, "items": doomed})


# -- single objects ----------------------------------------------------------------------------------------


def _single(cluster: Cluster, request: Request, target: Target) -> Response:
    store, name = cluster.store, target.name or ""
    if request.method == "PATCH" and request.media_type == _APPLY and target.sub in ("", "status"):
        return _apply(cluster, request, target)
    obj = store.get(target.resource, target.namespace, name)
    match target.sub, request.method:
        case "log", "GET":
            return pod_log(cluster, obj, request)
        case "eviction", "POST":
            return evict_pod(cluster, obj, request)
        case "scale", "GET" | "PUT" | "PATCH":
            return scale(cluster, target.resource, obj, request)
        case "proxy", "GET":
            return _node_proxy(cluster, obj, target.rest)
        case "" | "status", "GET":
            shown = table(target.resource, [obj], {}, "Metadata") if wants_table(request.headers) else obj
            return Response(shown)
        case "", "DELETE":
            return _delete(cluster, request, target, obj)
        case "" | "status", "PUT":
            return Response(_write(cluster, request, target, obj, request.json()))
        case "" | "status", "PATCH":
            return Response(_patch(cluster, request, target))
    raise _method_not_allowed()


def _write(cluster: Cluster, request: Request, target: Target, old: Object, new: Object) -> Object:
    if isinstance(new, dict) and not target.sub:
        new = {"metadata": {}, **new, "apiVersion": new.get("apiVersion") or target.resource.api_version}
        new = updated(old, new, request.manager)
    return cluster.store.update(target.resource, old, new, subresource=target.sub, dry_run=request.dry_run)


def _patch(cluster: Cluster, request: Request, target: Target) -> Object:
    body = request.json()
    with cluster.store.lock:
        old = cluster.store.get(target.resource, target.namespace, target.name or "")
        return _write(cluster, request, target, old, patched(target.resource, old, body, request.media_type))


def patched(resource: Resource, old: Object, body: Any, media_type: str) -> Object:
    """:raises ApiError: 415, no such kind of patch for this resource; 400, 422, a bad patch."""
    match media_type:
        case "application/json-patch+json":
            new = json_patch(old, body)
        case "application/merge-patch+json":
            new = merge_patch(old, body)
        case "application/strategic-merge-patch+json" if not resource.custom:
            if not isinstance(body, dict):
                raise bad_request("a strategic merge patch is an object")
            new = strategic_patch(old, body)
        case _:
            raise ApiError(
                415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {media_type}"
            )
    return dict(new)


def _apply(cluster: Cluster, request: Request, target: Target) -> Response:
    config, manager = request.json(), request.query.get("fieldManager")
    if not manager:
        raise ApiError(422, "Invalid", "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value")
    if not isinstance(config, dict) or not isinstance(config.get("metadata"), dict):
        raise bad_request("an apply needs an object with metadata")
    force, store = request.flag("force"), cluster.store
    with store.lock:
        old = store.find(target.resource, target.namespace, target.name or "")
        if old is None:
            config = {**config, "metadata": {**config["metadata"], "name": target.name}}
            new = applied(None, config, manager, force=force)
            return Response(store.create(target.resource, target.namespace, new, dry_run=request.dry_run), 201)
        new = applied(old, config, manager, force=force)
        if target.sub == "status":
            new = {**new, "status": merge_patch(old.get("status") or {}, config.get("status") or {})}
        return Response(store.update(target.resource, old, new, subresource=target.sub, dry_run=request.dry_run))


def _delete_options(request: Request, resource: Resource) -> Object:
    body = request.json() or {}
    grace = body.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
    # batch/v1 Jobs are the one kind whose pods stay unless the client asks otherwise.
    default = "Orphan" if resource is JOBS else "Background"
    policy = body.get("propagationPolicy") or request.query.get("propagationPolicy") or default
    if body.get("orphanDependents") is not None:
        policy = "Orphan" if body["orphanDependents"] else "Background"
    if policy not in ("Orphan", "Background", "Foreground"):
        raise bad_request(f"propagationPolicy: Unsupported value: {policy!r}")
    return {
        "grace_s": None if grace is None else int(grace),
        "orphan": policy == "Orphan",
        "preconditions": body.get("preconditions"),
        "dry_run": request.dry_run or body.get("dryRun") == ["All"],
    }


def _delete(cluster: Cluster, request: Request, target: Target, obj: Object) -> Response:
    deleted, gone = cluster.store.delete(target.resource, obj, **_delete_options(request, target.resource))
    if target.resource is PODS or not gone:
        return Response(deleted)
    details = {"name": target.name, "group": target.resource.group, "kind": target.resource.plural}
    details["uid"] = deleted["metadata"]["uid"]
    return Response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})


def _node_proxy(cluster: Cluster, node: Object, rest: str) -> Response:
    name = node["metadata"]["name"]
    if not node_ready(node):
        raise ApiError(
            503, "ServiceUnavailable", f'error trying to reach service: dial tcp: kubelet of "{name}" is down'
        )
    match rest.strip("/"):
        case "configz":
            return Response(metrics.configz(cluster.settings, name))
        case "stats/summary":
            return Response(metrics.summary(cluster.store, cluster.settings, cluster.store.get(NODES, None, name)))
        case "healthz":
            return Response(b"ok", media_type="text/plain")
    raise no_such_path()
