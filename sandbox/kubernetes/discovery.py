"""What the cluster says of itself: version, groups, kinds."""

from __future__ import annotations

from typing import Any

from sandbox.kubernetes.errors import no_such_path
from sandbox.kubernetes.resources import RESOURCES, Resource

Object = dict[str, Any]

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SUB_KINDS = {
    "scale": ("Scale", {"group": "autoscaling", "version": "v1"}, ["get", "patch", "update"]),
    "eviction": ("Eviction", {"group": "policy", "version": "v1"}, ["create"]),
    "log": ("Pod", {}, ["get"]),
    "proxy": ("NodeProxyOptions", {}, ["get"]),
}
# Served, but not stored.
_REVIEWS = {
    ("authorization.k8s.io", "v1"): [("selfsubjectaccessreviews", "SelfSubjectAccessReview", False, ["create"])]
}
_METRICS = {
    ("metrics.k8s.io", "v1beta1"): [
        ("nodes", "NodeMetrics", False, ["get", "list"]),
        ("pods", "PodMetrics", True, ["get", "list"]),
    ]
}

VERSION = {
    "major": "1",
    "minor": "34",
    "emulationMajor": "1",
    "emulationMinor": "34",
    "gitVersion": "v1.34.2",
    "gitCommit": "sandbox",
    "gitTreeState": "clean",
    "buildDate": "2025-11-11T19:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}


def answer(parts: list[str], *, metrics: bool) -> Any:
    """
    The document for a discovery path; None when the path is no such thing.

    :param metrics: whether a metrics-server is registered.
    :raises ApiError: 404, no such group or version.
    """
    unstored = {**_REVIEWS, **(_METRICS if metrics else {})}
    match parts:
        case ["version"]:
            return VERSION
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            groups = sorted({(group, version) for group, version, _ in RESOURCES if group} | unstored.keys())
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*each) for each in groups]}
        case ["apis", group]:
            versions = [v for g, v in {key[:2] for key in RESOURCES} | unstored.keys() if g == group]
            if not versions:
                raise no_such_path()
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, versions[0])}
        case ["api", version]:
            return _kinds("", version, unstored)
        case ["apis", group, version]:
            return _kinds(group, version, unstored)
        case ["openapi", "v3"]:
            versions = sorted({(resource.group, resource.version) for resource in RESOURCES.values()})
            paths = [f"apis/{group}/{version}" if group else f"api/{version}" for group, version in versions]
            return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}
        case ["openapi", "v3", "api", version]:
            return _open_api("", version)
        case ["openapi", "v3", "apis", group, version]:
            return _open_api(group, version)
    return None


def _group(group: str, version: str) -> Object:
    served = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [served], "preferredVersion": served}


def _kinds(group: str, version: str, unstored: dict[tuple[str, str], list[tuple[str, str, bool, list[str]]]]) -> Object:
    listed: list[Object] = []
    for resource in RESOURCES.values():
        if (resource.group, resource.version) == (group, version):
            listed += _described(resource)
    for plural, kind, namespaced, verbs in unstored.get((group, version), []):
        listed.append({"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs})
    if not listed:
        raise no_such_path()
    whole = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": whole, "resources": listed}


def _described(resource: Resource) -> list[Object]:
    common = {"namespaced": resource.namespaced}
    own = {**common, "name": resource.plural, "singularName": resource.kind.lower(), "kind": resource.kind}
    own.update({"verbs": _VERBS, "shortNames": list(resource.short)} if resource.short else {"verbs": _VERBS})
    made = [own]
    for sub in resource.subresources:
        kind, extra, verbs = _SUB_KINDS.get(sub, (resource.kind, {}, ["get", "patch", "update"]))
        made.append(
            {**common, "name": f"{resource.plural}/{sub}", "singularName": "", "kind": kind, "verbs": verbs, **extra}
        )
    return made


def _open_api(group: str, version: str) -> Object:
    """No schemas: just enough for kubectl to leave validation and dry runs to the server."""
    parameters = [{"name": name, "in": "query"} for name in ("dryRun", "fieldManager", "fieldValidation", "force")]
    paths = {}
    for resource in RESOURCES.values():
        if (resource.group, resource.version) == (group, version):
            names = {"group": group, "version": version, "kind": resource.kind}
            patch = {"parameters": parameters, "responses": {}, "x-kubernetes-group-version-kind": names}
            where = f"/apis/{group}/{version}" if group else f"/api/{version}"
            spot = "/namespaces/{namespace}" if resource.namespaced else ""
            paths[f"{where}{spot}/{resource.plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]}, "paths": paths}
