"""The ways to patch: JSON patch (RFC 6902), merge patch (RFC 7396) and Kubernetes' strategic merge."""

from __future__ import annotations

import copy
from typing import Any

from sandbox.kubernetes.errors import ApiError, bad_request

_MERGE_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "ports": ("containerPort", "port"),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "conditions": ("type",),
    "addresses": ("type",),
    "ownerReferences": ("uid",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey",),
    "webhooks": ("name",),
}
"""Lists that merge item by item, with the key of an item (the first that it has)."""

_MERGED_PRIMITIVES = {"finalizers"}


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396; the arguments stay as they are."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def merge_key(field: str, item: dict[str, Any]) -> str | None:
    """Which key tells the items of list ``field`` apart; None when the list is replaced as a whole."""
    return next((key for key in _MERGE_KEYS.get(field, ()) if key in item), None)


def strategic_patch(target: Any, patch: dict[str, Any]) -> dict[str, Any]:
    """Kubernetes' own merge: lists of named things merge by name, ``$patch`` and its like are obeyed."""
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    merged = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        merged = {key: value for key, value in merged.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            merged[field] = [item for item in merged.get(field) or [] if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            if value.get("$patch") == "delete":
                merged.pop(key, None)
            else:
                merged[key] = strategic_patch(merged.get(key), value)
        elif isinstance(value, list):
            merged[key] = _merge_list(key, merged.get(key) or [], value)
        else:
            merged[key] = value
    return merged


def _merge_list(field: str, current: list[Any], patch: list[Any]) -> list[Any]:
    if field in _MERGED_PRIMITIVES:
        return current + [item for item in patch if item not in current]
    if field not in _MERGE_KEYS or not all(isinstance(item, dict) for item in patch):
        return copy.deepcopy(patch)
    if any(item.get("$patch") == "replace" and len(item) == 1 for item in patch):
        return [copy.deepcopy(item) for item in patch if "$patch" not in item]
    merged = list(current)
    for item in patch:
        key = merge_key(field, item)
        if key is None:
            raise bad_request(f"map: {item} does not contain declared merge key: {_MERGE_KEYS[field][0]}")
        place = next((at for at, old in enumerate(merged) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del merged[place]
        elif place is None:
            merged.append({name: copy.deepcopy(value) for name, value in item.items() if name != "$patch"})
        else:
            merged[place] = strategic_patch(merged[place], item)
    return merged


def json_patch(target: Any, operations: Any) -> Any:
    """
    RFC 6902; the target stays as it is.

    :raises ApiError: 422, a path does not exist or a ``test`` fails; 400, not a patch.
    """
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    document = {"root": copy.deepcopy(target)}
    for operation in operations:
        try:
            _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise _refused(f"{operation}: {error!r}") from error
    return document["root"]


def _operate(document: dict[str, Any], operation: dict[str, Any]) -> None:
    where = _pointer(operation["path"])
    match operation["op"]:
        case "add":
            _put(document, where, copy.deepcopy(operation["value"]), replace=False)
        case "replace":
            _value(document, where)
            _put(document, where, copy.deepcopy(operation["value"]), replace=True)
        case "remove":
            _remove(document, where)
        case "move":
            _put(document, where, _remove(document, _pointer(operation["from"])), replace=False)
        case "copy":
            _put(document, where, copy.deepcopy(_value(document, _pointer(operation["from"]))), replace=False)
        case "test":
            if _value(document, where) != operation["value"]:
                raise _refused(f"testing value {operation['path']} failed")
        case other:
            raise _refused(f"unexpected kind: {other}")


def _refused(why: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {why}")


def _pointer(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise ValueError(f"not a JSON pointer: {path!r}")
    return ["root", *(part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:])]


def _value(document: Any, where: list[str]) -> Any:
    for part in where:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _put(document: Any, where: list[str], value: Any, *, replace: bool) -> None:
    parent, last = _value(document, where[:-1]), where[-1]
    if not isinstance(parent, list):
        parent[last] = value
    elif replace:
        parent[int(last)] = value
    else:
        at = len(parent) if last == "-" else int(last)
        if not 0 <= at <= len(parent):
            raise IndexError(at)
        parent.insert(at, value)


def _remove(document: Any, where: list[str]) -> Any:
    parent, last = _value(document, where[:-1]), where[-1]
    return parent.pop(int(last)) if isinstance(parent, list) else parent.pop(last)
