"""Label selectors and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.kubernetes.errors import bad_request
from sandbox.kubernetes.resources import Resource

Labels = Mapping[str, str]

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET = re.compile(rf"({_NAME})\s+(in|notin)\s*\(([^)]*)\)")
_EQUAL = re.compile(rf"({_NAME})\s*(==|=|!=)\s*([-A-Za-z0-9_.]*)")
_EXISTS = re.compile(rf"(!?)\s*({_NAME})")

# What the real server indexes, per kind; anything else is refused there too.
_FIELDS = {
    "pods": {
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    },
    "nodes": {"spec.unschedulable"},
    "namespaces": {"status.phase"},
    "secrets": {"type"},
    "services": {"spec.clusterIP", "spec.type"},
    "jobs": {"status.successful"},
    "replicasets": {"status.replicas"},
    "events": {
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
        "reason", "reportingComponent", "source", "type",
    },
}  # fmt: skip


def label_test(text: str | None) -> Callable[[Labels], bool]:
    """:raises ApiError: 400, the selector cannot be parsed."""
    tests = [_label_term(term.strip()) for term in re.split(r",(?![^(]*\))", text) if term.strip()] if text else []
    return lambda labels: all(test(labels) for test in tests)


def _label_term(term: str) -> Callable[[Labels], bool]:
    if match := _SET.fullmatch(term):
        key, verb, listed = match.groups()
        values = {value.strip() for value in listed.split(",")}
        return lambda labels: (labels.get(key) in values) == (verb == "in")
    if match := _EQUAL.fullmatch(term):
        key, operator, value = match.groups()
        return lambda labels: (labels.get(key) == value) == (operator != "!=")
    if match := _EXISTS.fullmatch(term):
        absent, key = match.groups()
        return lambda labels: (key in labels) != bool(absent)
    raise bad_request(f"unable to parse requirement: found {term!r}")


def field_test(resource: Resource, text: str | None) -> Callable[[dict[str, Any]], bool]:
    """:raises ApiError: 400, the selector cannot be parsed or names a field the server does not index."""
    wanted: list[tuple[str, bool, str]] = []
    for term in filter(None, (text or "").split(",")):
        match = re.fullmatch(r"\s*([A-Za-z.]+)\s*(==|=|!=)\s*(.*?)\s*", term)
        if not match:
            raise bad_request(f'invalid field selector: "{term}"')
        path, operator, value = match.groups()
        if path not in {"metadata.name", "metadata.namespace"} | _FIELDS.get(resource.plural, set()):
            raise bad_request(f"field label not supported: {path}")
        wanted.append((path, operator != "!=", value))
    return lambda obj: all((_text(obj, path) == value) == equal for path, equal, value in wanted)


def _text(obj: dict[str, Any], path: str) -> str:
    found: Any = obj
    if path == "source":
        return str((obj.get("source") or {}).get("component", ""))
    if path == "status.successful":
        path = "status.succeeded"
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, bool) or (found is None and path.startswith("spec.unsched")):
        return str(bool(found)).lower()
    return "" if found is None else str(found)


def selects(selector: Mapping[str, Any] | None, labels: Labels) -> bool:
    """Whether a ``LabelSelector`` (matchLabels, matchExpressions) matches; an absent one matches nothing."""
    if selector is None:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or []:
        key, values = term["key"], term.get("values") or []
        match term["operator"]:
            case "In":
                right = labels.get(key) in values
            case "NotIn":
                right = labels.get(key) not in values
            case "Exists":
                right = key in labels
            case _:
                right = key not in labels
        if not right:
            return False
    return True


def written(selector: Mapping[str, Any] | None) -> str:
    """A ``LabelSelector`` as a query string would have it (``Scale.status.selector``)."""
    terms = [f"{key}={value}" for key, value in sorted(((selector or {}).get("matchLabels") or {}).items())]
    for term in (selector or {}).get("matchExpressions") or []:
        values = ",".join(term.get("values") or [])
        match term["operator"]:
            case "In" | "NotIn":
                terms.append(f"{term['key']} {term['operator'].lower()} ({values})")
            case "Exists":
                terms.append(term["key"])
            case _:
                terms.append("!" + term["key"])
    return ",".join(terms)
