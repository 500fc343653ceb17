"""Kubernetes: what the connection's account may do, asked of the cluster itself (SelfSubjectAccessReview)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from upkeep.doctor.verdict import fine, missing
from upkeep.findings import Outcome
from upkeep.health.side_by_side import one_line
from upkeep.platforms.services import Kubernetes

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


class Right(NamedTuple):
    verb: str
    group: str
    resource: str
    subresource: str = ""


def _each(verbs: str, group: str, *resources: str) -> list[Right]:
    return [Right(verb, group, *resource.split("/")) for resource in resources for verb in verbs.split()]


NAMESPACED = [
    *_each("get", "", "namespaces"),
    *_each("list", "", "services"),
    *_each("list", "apps", "deployments"),
    *_each("list", "discovery.k8s.io", "endpointslices"),
    *_each("list", "metrics.k8s.io", "pods"),
    # Deleted are finished ones past their time that carry the platform's label, and nothing else.
    *_each("list delete", "", "pods"),
    *_each("list delete", "batch", "jobs"),
]
"""In the platform's namespace: health looks, clean-up deletes."""

OF_CLUSTER = [
    *_each("list", "", "nodes"),
    *_each("get", "", "nodes/proxy"),  # the kubelets' thresholds of image garbage collection
    *_each("list", "metrics.k8s.io", "nodes"),
]


def look(client: ApiClient, conn_id: str, settings: Kubernetes, timeout_s: float = 4.0) -> list[Outcome]:
    """Version and rights; nothing is read but these."""
    from kubernetes.client import ApiException, VersionApi
    from urllib3.exceptions import HTTPError

    try:
        version = VersionApi(client).get_code(_request_timeout=timeout_s).git_version
        outcomes = [fine("connect", conn_id, f"Kubernetes {version}, namespace {settings.namespace}")]
        lacking = [right for right in NAMESPACED if not _may(client, right, settings.namespace, timeout_s)]
        above = [right for right in OF_CLUSTER if not _may(client, right, None, timeout_s)]
    except ApiException as refused:
        said = f"{refused.status} {refused.reason}"
        cure = f"correct the credentials of connection {conn_id}"
        return [missing("connect", conn_id, said, cure)]
    except (HTTPError, OSError) as down:
        cure = f"correct the address or the certificate authority of connection {conn_id}, or start the cluster"
        return [missing("connect", conn_id, one_line(down), cure)]
    # The whole role and not only what it lacks: applying it must never take anything away.
    if lacking:
        said = f"may not {_words(lacking)} in {settings.namespace}"
        outcomes.append(missing("role", conn_id, said, manifest("Role", NAMESPACED, settings.namespace)))
    else:
        outcomes.append(fine("role", conn_id, f"{len(NAMESPACED)} rights in {settings.namespace}"))
    if above:
        said = f"may not {_words(above)} of the cluster"
        outcomes.append(missing("cluster role", conn_id, said, manifest("ClusterRole", OF_CLUSTER)))
    else:
        outcomes.append(fine("cluster role", conn_id, f"{len(OF_CLUSTER)} rights in the cluster"))
    return outcomes


def _may(client: ApiClient, right: Right, namespace: str | None, timeout_s: float) -> bool:
    from kubernetes.client import AuthorizationV1Api

    attributes: dict[str, Any] = {"verb": right.verb, "group": right.group, "resource": right.resource}
    if right.subresource:
        attributes["subresource"] = right.subresource
    if namespace:
        attributes["namespace"] = namespace
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = AuthorizationV1Api(client).create_self_subject_access_review(body, _request_timeout=timeout_s)
    return bool(answer.status.allowed)


def _words(rights: Iterable[Right]) -> str:
    """``get, list pods; delete jobs``"""
    verbs: dict[str, list[str]] = {}
    for right in rights:
        verbs.setdefault(_resource(right), []).append(right.verb)
    return "; ".join(f"{', '.join(them)} {resource}" for resource, them in verbs.items())


def _resource(right: Right) -> str:
    name = f"{right.resource}/{right.subresource}" if right.subresource else right.resource
    return f"{name}.{right.group}" if right.group else name


def manifest(kind: str, rights: Iterable[Right], namespace: str = "") -> str:
    """A Role or ClusterRole with these rights, for ``kubectl apply -f -``, and how it is bound to the account."""
    rules: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    verbs: dict[tuple[str, str], list[str]] = {}
    for right in rights:
        name = f"{right.resource}/{right.subresource}" if right.subresource else right.resource
        verbs.setdefault((right.group, name), []).append(right.verb)
    for (group, name), them in verbs.items():
        rules.setdefault((group, tuple(them)), []).append(name)
    lines = [
        "apiVersion: rbac.authorization.k8s.io/v1",
        f"kind: {kind}",
        f"metadata: {{name: upkeep{f', namespace: {namespace}' if namespace else ''}}}",
        "rules:",
    ]
    for (group, allowed), names in rules.items():
        lines.append(f'- {{apiGroups: ["{group}"], resources: [{", ".join(names)}], verbs: [{", ".join(allowed)}]}}')
    where = f" -n {namespace}" if namespace else ""
    bind = f"kubectl create {kind.lower()}binding upkeep --{kind.lower()}=upkeep --serviceaccount=NAMESPACE:NAME{where}"
    return "\n".join([*lines, f"# then: {bind}"])
