"""The objects, their versions and their history: what etcd and the registry do in a real cluster.

A stored object is never changed: every write puts a new one in its place. So whoever got one may read it
without a lock and must copy it to change it.
"""

from __future__ import annotations

import copy
import datetime
import secrets
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sandbox.kubernetes import clock
from sandbox.kubernetes.admission import admit, admit_change, check_body
from sandbox.kubernetes.errors import ApiError, already_exists, bad_request, conflict, expired, invalid, not_found
from sandbox.kubernetes.resources import BY_KIND, NAMESPACES, PODS, RESOURCES, Resource

Object = dict[str, Any]

HISTORY = 5000
"""Changes kept for watches; who comes from further back gets 410."""

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True)
class Change:
    """One entry of the history; ``before`` tells watches with a selector whether it used to match."""

    version: int
    type: str
    resource: Resource
    object: Object
    before: Object | None


def suffix(length: int = 5) -> str:
    return "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(length))


def owner_reference(owner: Object) -> Object:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owned_by(obj: Object, uid: str) -> bool:
    return any(reference["uid"] == uid for reference in obj["metadata"].get("ownerReferences") or [])


class Store:
    """Thread safe: every public method takes the lock; hold ``lock`` yourself to read and write as one step."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 1000
        self.compacted = 1000
        """Watches and list continuations from before this version are refused with 410."""
        self._history: deque[Change] = deque()
        self._objects: dict[Resource, dict[tuple[str, str], Object]] = {made: {} for made in RESOURCES.values()}

    # -- reading -------------------------------------------------------------------------------------------

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """:raises ApiError: 404."""
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource.qualified, name)
        return found

    def find(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        with self.lock:
            return self._objects[resource].get((namespace or "" if resource.namespaced else "", name))

    def all(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """Sorted by namespace and name."""
        with self.lock:
            found = sorted(self._objects[resource].items())
        return [obj for (where, _), obj in found if namespace is None or where == namespace]

    def owned(self, resource: Resource, owner: Object) -> list[Object]:
        namespace = owner["metadata"].get("namespace")
        return [obj for obj in self.all(resource, namespace) if owned_by(obj, owner["metadata"]["uid"])]

    def since(self, version: int) -> list[Change]:
        """Changes after ``version``, oldest first. :raises ApiError: 410, it was compacted."""
        with self.lock:
            if version < self.compacted:
                raise expired(f"too old resource version: {version} ({self.compacted})")
            newer = []
            for change in reversed(self._history):
                if change.version <= version:
                    break
                newer.append(change)
            return newer[::-1]

    # -- writing -------------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str | None, body: Object, *, dry_run: bool = False) -> Object:
        """:raises ApiError: 400, 403, 404, 409, 422 as the real one."""
        check_body(resource, body)
        obj = copy.deepcopy(body)
        obj["metadata"] = metadata = obj.get("metadata") or {}
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if resource.namespaced and metadata.get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata.pop("namespace", None)
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise invalid(resource.kind, "", ("metadata.name", "Required value: name or generateName is required"))
            metadata["name"] = metadata["generateName"] + suffix()
        with self.lock:
            if resource.namespaced:
                metadata["namespace"] = namespace
                self._open_namespace(namespace or "")
            key = (metadata.get("namespace") or "", metadata["name"])
            if key in self._objects[resource]:
                raise already_exists(resource.qualified, metadata["name"])
            metadata.update(uid=str(uuid.uuid4()), creationTimestamp=clock.now())
            for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
                metadata.pop(field, None)
            if resource.generation:
                metadata["generation"] = 1
            if "status" in resource.subresources:
                obj["status"] = _first_status(resource)
            obj.update(apiVersion=resource.api_version, kind=resource.kind)
            admit(resource, obj)
            return obj if dry_run else self._commit("ADDED", resource, obj, None)

    def _open_namespace(self, namespace: str) -> None:
        found = self.get(NAMESPACES, None, namespace)
        if found["metadata"].get("deletionTimestamp"):
            raise ApiError(
                403,
                "Forbidden",
                f"unable to create new content in namespace {namespace} because it is being terminated",
            )

    def update(
        self, resource: Resource, old: Object, body: Object, *, subresource: str = "", dry_run: bool = False
    ) -> Object:
        """
        Put ``body`` in the place of ``old``; ``subresource="status"`` changes the status alone.

        :raises ApiError: 409 when ``body`` names another resource version or uid than the stored one; 400, 404, 422.
        """
        check_body(resource, body)
        new = copy.deepcopy(body)
        given, was = new.get("metadata") or {}, old["metadata"]
        if given.get("name", was["name"]) != was["name"]:
            raise bad_request("the name of the object does not match the name on the URL")
        with self.lock:
            stored = self.get(resource, was.get("namespace"), was["name"])
            if given.get("uid", stored["metadata"]["uid"]) != stored["metadata"]["uid"]:
                raise conflict(resource.qualified, was["name"], "Precondition failed: UID in precondition differs")
            if given.get("resourceVersion") and given["resourceVersion"] != stored["metadata"]["resourceVersion"]:
                raise conflict(resource.qualified, was["name"])
            if subresource == "status":
                new = {**stored, "status": new.get("status") or {}, "metadata": dict(stored["metadata"])}
            else:
                new["metadata"] = given
                if "status" in resource.subresources:
                    new["status"] = stored.get("status", {})
                for field in ("uid", "creationTimestamp", "namespace", "name", "generation", "resourceVersion",
                              "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"):  # fmt: skip
                    given.pop(field, None)
                    if field in stored["metadata"]:
                        given[field] = stored["metadata"][field]
                new.update(apiVersion=resource.api_version, kind=resource.kind)
                admit(resource, new)
                admit_change(resource, stored, new)
            return new if dry_run else self._replace(resource, stored, new)

    def put(self, resource: Resource, body: Object) -> Object:
        """Store an object as it is, with its status and timestamps; one of that name is replaced."""
        obj = copy.deepcopy(body)
        metadata = obj["metadata"]
        with self.lock:
            old = self.find(resource, metadata.get("namespace"), metadata["name"])
            metadata.setdefault("uid", old["metadata"]["uid"] if old else str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", clock.now())
            if resource.generation:
                metadata.setdefault("generation", 1)
            if "status" in resource.subresources:
                obj.setdefault("status", _first_status(resource))
            admit(resource, obj)
            return self._commit("MODIFIED" if old else "ADDED", resource, obj, old)

    def edit(self, resource: Resource, obj: Object, change: Callable[[Object], None]) -> Object:
        """A controller's write: ``change`` a copy of what is stored now; nothing is written when it stays equal."""
        with self.lock:
            stored = self.find(resource, obj["metadata"].get("namespace"), obj["metadata"]["name"])
            if stored is None or stored["metadata"]["uid"] != obj["metadata"]["uid"]:
                return obj
            new = copy.deepcopy(stored)
            change(new)
            return self._replace(resource, stored, new)

    def set_status(self, resource: Resource, obj: Object, status: Object) -> Object:
        if obj.get("status") == status:
            # Most often; spares the copy.
            return obj
        return self.edit(resource, obj, lambda new: new.update(status=status))

    def _replace(self, resource: Resource, stored: Object, new: Object) -> Object:
        if new == stored:
            return stored
        if resource.generation and new.get("spec") != stored.get("spec"):
            new["metadata"]["generation"] = stored["metadata"].get("generation", 0) + 1
        metadata = new["metadata"]
        if (
            metadata.get("deletionTimestamp")
            and not metadata.get("finalizers")
            and stored["metadata"].get("finalizers")
        ):
            return self.remove(resource, new)
        return self._commit("MODIFIED", resource, new, stored)

    def _commit(self, kind: str, resource: Resource, obj: Object, before: Object | None) -> Object:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        key = (obj["metadata"].get("namespace") or "", obj["metadata"]["name"])
        if kind == "DELETED":
            self._objects[resource].pop(key, None)
        else:
            self._objects[resource][key] = obj
        self._history.append(Change(self.version, kind, resource, obj, before))
        while len(self._history) > HISTORY:
            self.compacted = self._history.popleft().version
        self.changed.notify_all()
        return obj

    # -- deleting ------------------------------------------------------------------------------------------

    def delete(
        self,
        resource: Resource,
        obj: Object,
        *,
        grace_s: int | None = None,
        orphan: bool = False,
        preconditions: Object | None = None,
        dry_run: bool = False,
    ) -> tuple[Object, bool]:
        """
        Delete, or begin to: running pods get their grace, finalizers are waited for.

        :returns: the object, and whether it is gone already.
        :raises ApiError: 409, a precondition does not hold.
        """
        with self.lock:
            obj = self.get(resource, obj["metadata"].get("namespace"), obj["metadata"]["name"])
            for field, wanted in (preconditions or {}).items():
                if wanted and obj["metadata"].get(field) != wanted:
                    raise conflict(resource.qualified, obj["metadata"]["name"], f"Precondition failed: {field} differs")
            if dry_run:
                return obj, True
            if orphan:
                self._let_go(obj["metadata"]["uid"])
            grace = self._grace(resource, obj, grace_s)
            if grace == 0 and not obj["metadata"].get("finalizers"):
                return self.remove(resource, obj), True
            return self.edit(resource, obj, lambda new: _mark(new, grace)), False

    def _grace(self, resource: Resource, obj: Object, grace_s: int | None) -> int:
        if resource is NAMESPACES:
            return 1
        if resource is not PODS or not obj["spec"].get("nodeName"):
            return 0
        if obj["status"].get("phase") in ("Succeeded", "Failed"):
            return 0
        return int(obj["spec"].get("terminationGracePeriodSeconds", 30)) if grace_s is None else grace_s

    def remove(self, resource: Resource, obj: Object) -> Object:
        """Take it out at once, and begin to delete what it owns."""
        with self.lock:
            gone = self._commit("DELETED", resource, copy.deepcopy(obj), obj)
            uid = gone["metadata"]["uid"]
            for kind, child in list(self._dependents(uid)):
                others = [ref for ref in child["metadata"]["ownerReferences"] if ref["uid"] != uid]
                if not any(self._exists(ref, child) for ref in others):
                    self.delete(kind, child)
            return gone

    def _exists(self, reference: Object, child: Object) -> bool:
        resource = BY_KIND.get((reference["apiVersion"], reference["kind"]))
        if resource is None:
            return False
        owner = self.find(resource, child["metadata"].get("namespace"), reference["name"])
        return owner is not None and owner["metadata"]["uid"] == reference["uid"]

    def _let_go(self, uid: str) -> None:
        for kind, child in list(self._dependents(uid)):
            others = [ref for ref in child["metadata"]["ownerReferences"] if ref["uid"] != uid]
            self.edit(kind, child, lambda new, kept=others: new["metadata"].update(ownerReferences=kept))  # type: ignore[misc]

    def _dependents(self, uid: str) -> Iterator[tuple[Resource, Object]]:
        for resource in self._objects:
            for obj in self.all(resource):
                if owned_by(obj, uid):
                    yield resource, obj

    # -- history and keeping -------------------------------------------------------------------------------

    def compact(self) -> None:
        """Forget the history: watches and continuations from before now are refused with 410."""
        with self.lock:
            self._history.clear()
            self.compacted = self.version
            self.changed.notify_all()

    def wait(self, version: int, timeout_s: float) -> None:
        """Until something changes after ``version``, at most ``timeout_s`` seconds."""
        with self.lock:
            self.changed.wait_for(lambda: self.version > version, timeout_s)

    def dump(self) -> Object:
        with self.lock:
            kept = [obj for objects in self._objects.values() for obj in objects.values()]
            return {"version": self.version, "objects": kept}

    def load(self, dumped: Object) -> None:
        with self.lock:
            self.version = self.compacted = int(dumped["version"])
            for obj in dumped["objects"]:
                resource = BY_KIND[obj["apiVersion"], obj["kind"]]
                key = (obj["metadata"].get("namespace") or "", obj["metadata"]["name"])
                self._objects[resource][key] = obj


def _mark(obj: Object, grace_s: int) -> None:
    metadata = obj["metadata"]
    if "deletionTimestamp" in metadata and grace_s >= metadata.get("deletionGracePeriodSeconds", 0):
        return
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=grace_s)
    metadata["deletionTimestamp"] = clock.stamp(moment)
    metadata["deletionGracePeriodSeconds"] = grace_s
    if obj["kind"] == "Namespace":
        obj["status"] = {"phase": "Terminating"}


# Counts that the real server sends even when they are zero; the official client refuses objects without them.
_COUNTS = {
    "ReplicaSet": ("replicas",),
    "StatefulSet": ("replicas", "availableReplicas"),
    "DaemonSet": ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"),
    "HorizontalPodAutoscaler": ("desiredReplicas",),
    "PodDisruptionBudget": ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"),
}


def _first_status(resource: Resource) -> Object:
    if resource is PODS:
        return {"phase": "Pending", "qosClass": "Burstable"}
    if resource is NAMESPACES:
        return {"phase": "Active"}
    return dict.fromkeys(_COUNTS.get(resource.kind, ()), 0)
