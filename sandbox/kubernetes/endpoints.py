"""The controllers that turn Services and their pods into Endpoints and EndpointSlices."""

from __future__ import annotations

import hashlib
from typing import Any

from sandbox.kubernetes.conditions import is_finished, is_ready, is_terminating
from sandbox.kubernetes.resources import ENDPOINTS, PODS, SERVICES, SLICES
from sandbox.kubernetes.selectors import selects
from sandbox.kubernetes.store import Store, owner_reference

Object = dict[str, Any]

_SERVICE = "kubernetes.io/service-name"


def sync_endpoints(store: Store) -> None:
    for service in store.all(SERVICES):
        selector = service["spec"].get("selector")
        if selector and not is_terminating(service):
            pods = [
                pod
                for pod in store.all(PODS, service["metadata"]["namespace"])
                if selects({"matchLabels": selector}, pod["metadata"].get("labels") or {})
                and pod["status"].get("podIP")
                and not is_finished(pod)
            ]
            _sync_endpoints(store, service, pods)
            _sync_slice(store, service, pods)


def _sync_endpoints(store: Store, service: Object, pods: list[Object]) -> None:
    alive = [pod for pod in pods if not is_terminating(pod)]
    ready = [_address(pod) for pod in alive if is_ready(pod)]
    unready = [_address(pod) for pod in alive if not is_ready(pod)]
    subset: Object = {}
    if ready:
        subset["addresses"] = ready
    if unready:
        subset["notReadyAddresses"] = unready
    if subset:
        subset["ports"] = _ports(service, pods)
    subsets = [subset] if subset else []
    metadata = service["metadata"]
    found = store.find(ENDPOINTS, metadata["namespace"], metadata["name"])
    if found is None:
        body = {
            "metadata": {
                "name": metadata["name"],
                "labels": dict(metadata.get("labels") or {}),
                "ownerReferences": [owner_reference(service)],
            },
            "subsets": subsets,
        }
        store.create(ENDPOINTS, metadata["namespace"], body)
    else:
        store.edit(ENDPOINTS, found, lambda new: new.update(subsets=subsets))


def _sync_slice(store: Store, service: Object, pods: list[Object]) -> None:
    metadata = service["metadata"]
    endpoints = [_endpoint(pod) for pod in pods]
    ports = _ports(service, pods)
    name = f"{metadata['name']}-{hashlib.sha256(metadata['uid'].encode()).hexdigest()[:5]}"
    found = store.find(SLICES, metadata["namespace"], name)
    if found is None:
        body = {
            "metadata": {
                "name": name,
                "labels": {
                    _SERVICE: metadata["name"],
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
                "ownerReferences": [owner_reference(service)],
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports,
        }
        store.create(SLICES, metadata["namespace"], body)
    else:
        store.edit(SLICES, found, lambda new: new.update(endpoints=endpoints, ports=ports))


def _reference(pod: Object) -> Object:
    metadata = pod["metadata"]
    return {"kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]}


def _address(pod: Object) -> Object:
    return {"ip": pod["status"]["podIP"], "nodeName": pod["spec"].get("nodeName"), "targetRef": _reference(pod)}


def _endpoint(pod: Object) -> Object:
    ready, leaving = is_ready(pod), is_terminating(pod)
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready and not leaving, "serving": ready, "terminating": leaving},
        "targetRef": _reference(pod),
        "nodeName": pod["spec"].get("nodeName"),
    }


def _ports(service: Object, pods: list[Object]) -> list[Object]:
    made = []
    for port in service["spec"].get("ports") or []:
        number = port["targetPort"]
        if isinstance(number, str):
            named = (
                each["containerPort"]
                for pod in pods
                for container in pod["spec"]["containers"]
                for each in container.get("ports") or []
                if each.get("name") == number
            )
            number = next(named, None)
        if number is not None:
            made.append({"name": port.get("name", ""), "port": number, "protocol": port["protocol"]})
    return made
