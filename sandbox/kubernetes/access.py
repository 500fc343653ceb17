"""Who may do what: bearer tokens, and RBAC as the stored roles and bindings say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sandbox.kubernetes.errors import ApiError
from sandbox.kubernetes.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES
from sandbox.kubernetes.store import Store

Object = dict[str, Any]

MASTERS = "system:masters"
"""Members of this group may do everything, as in any cluster."""


@dataclass(frozen=True)
class User:
    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Access:
    """Tokens and whose they are."""

    tokens: dict[str, User]

    def user(self, authorization: str | None) -> User:
        """:raises ApiError: 401."""
        kind, _, token = (authorization or "").partition(" ")
        if kind != "Bearer" or token not in self.tokens:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return self.tokens[token]


@dataclass(frozen=True)
class Deed:
    """What a request wants to do."""

    verb: str
    group: str
    resource: str
    """Plural, with the subresource: ``deployments/scale``."""

    namespace: str | None = None
    name: str | None = None


def allowed(store: Store, user: User, deed: Deed) -> bool:
    if MASTERS in user.groups:
        return True
    return any(_covers(rule, deed) for rule in _rules(store, user, deed.namespace))


def authorize(store: Store, user: User, deed: Deed) -> None:
    """:raises ApiError: 403."""
    if not allowed(store, user, deed):
        where = f'in the namespace "{deed.namespace}"' if deed.namespace else "at the cluster scope"
        what = f'"{deed.resource}" in API group "{deed.group}"'
        whole = f"{deed.resource}.{deed.group}" if deed.group else deed.resource
        raise ApiError(
            403,
            "Forbidden",
            f'{whole} "{deed.name or ""}" is forbidden: User "{user.name}" cannot {deed.verb} resource {what} {where}',
            details={"name": deed.name or "", "group": deed.group, "kind": deed.resource},
        )


def _rules(store: Store, user: User, namespace: str | None) -> Iterator[Object]:
    for binding in store.all(CLUSTER_ROLE_BINDINGS):
        if _names(binding, user):
            yield from _role(store, binding, None)
    for binding in store.all(ROLE_BINDINGS, namespace) if namespace else []:
        if _names(binding, user):
            yield from _role(store, binding, namespace)


def _role(store: Store, binding: Object, namespace: str | None) -> list[Object]:
    reference = binding["roleRef"]
    if reference["kind"] == "ClusterRole":
        role = store.find(CLUSTER_ROLES, None, reference["name"])
    else:
        role = store.find(ROLES, namespace, reference["name"])
    return (role or {}).get("rules") or []


def _names(binding: Object, user: User) -> bool:
    for subject in binding.get("subjects") or []:
        match subject["kind"]:
            case "Group":
                named = subject["name"] in user.groups
            case "ServiceAccount":
                named = user.name == f"system:serviceaccount:{subject.get('namespace')}:{subject['name']}"
            case _:
                named = subject["name"] == user.name
        if named:
            return True
    return False


def _covers(rule: Object, deed: Deed) -> bool:
    resources = rule.get("resources") or []
    kind = deed.resource.partition("/")[2]
    return (
        bool({"*", deed.verb} & set(rule.get("verbs") or []))
        and bool({"*", deed.group} & set(rule.get("apiGroups") or []))
        and bool({"*", deed.resource, *([f"*/{kind}"] if kind else [])} & set(resources))
        and (not rule.get("resourceNames") or deed.name in rule["resourceNames"])
    )


def review(store: Store, user: User, body: Object) -> Object:
    """Answer a ``SelfSubjectAccessReview`` (what ``kubectl auth can-i`` posts)."""
    asked = (body.get("spec") or {}).get("resourceAttributes") or {}
    resource = asked.get("resource", "")
    if asked.get("subresource"):
        resource += "/" + asked["subresource"]
    deed = Deed(
        asked.get("verb", ""),
        asked.get("group", ""),
        resource,
        asked.get("namespace") or None,
        asked.get("name") or None,
    )
    return {**body, "status": {"allowed": allowed(store, user, deed)}}
