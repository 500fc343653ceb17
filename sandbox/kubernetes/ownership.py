"""Who manages which field, and server-side apply on top of it (the basics: no defaulted or moved fields)."""

from __future__ import annotations

import copy
import json
from typing import Any

from sandbox.kubernetes import clock
from sandbox.kubernetes.errors import ApiError
from sandbox.kubernetes.patches import merge_key

Object = dict[str, Any]
Path = tuple[str, ...]

_NOT_OWNED = {
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields",
    "deletionTimestamp", "deletionGracePeriodSeconds", "generateName", "selfLink",
}  # fmt: skip


def fields(obj: Object) -> dict[Path, Any]:
    """Every leaf that somebody can own, by its path as ``fieldsV1`` writes it, with its value."""
    kept = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "status", "metadata")}
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _NOT_OWNED}
    found: dict[Path, Any] = {}
    _collect((), "", {**kept, "metadata": metadata} if metadata else kept, found)
    return found


def _collect(path: Path, field: str, value: Any, found: dict[Path, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            _collect((*path, f"f:{key}"), key, part, found)
    elif isinstance(value, list) and value and all(isinstance(item, dict) and merge_key(field, item) for item in value):
        for item in value:
            key = merge_key(field, item)
            place = (*path, f"k:{json.dumps({key: item[key]})}")
            found[(*place, ".")] = None
            _collect(place, "", item, found)
    elif path:
        found[path] = value


def _to_tree(paths: set[Path]) -> Object:
    tree: Object = {}
    for path in sorted(paths):
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
    return tree


def _from_tree(tree: Object, path: Path = ()) -> set[Path]:
    if not tree:
        return {path} if path else set()
    return set().union(*(_from_tree(branch, (*path, part)) for part, branch in tree.items()))


def _owners(obj: Object) -> dict[tuple[str, str], set[Path]]:
    return {
        (entry["manager"], entry["operation"]): _from_tree(entry.get("fieldsV1") or {})
        for entry in obj["metadata"].get("managedFields") or []
    }


def _write(obj: Object, owners: dict[tuple[str, str], set[Path]], touched: tuple[str, str]) -> None:
    times = {
        (entry["manager"], entry["operation"]): entry.get("time")
        for entry in obj["metadata"].get("managedFields") or []
    }
    obj["metadata"]["managedFields"] = [
        {
            "manager": manager,
            "operation": operation,
            "apiVersion": obj["apiVersion"],
            "time": clock.now() if (manager, operation) == touched else times.get((manager, operation)) or clock.now(),
            "fieldsType": "FieldsV1",
            "fieldsV1": _to_tree(paths),
        }
        for (manager, operation), paths in owners.items()
        if paths
    ]


def updated(old: Object | None, new: Object, manager: str) -> Object:
    """``new``, in which ``manager`` owns what an ordinary write has changed."""
    before, after = fields(old) if old else {}, fields(new)
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    gone = before.keys() - after.keys()
    if old and not changed and not gone:
        return new
    result = copy.deepcopy(new)
    if old:
        result["metadata"]["managedFields"] = old["metadata"].get("managedFields") or []
    owners = {who: paths - changed - gone for who, paths in _owners(result).items()}
    me = (manager, "Update")
    owners[me] = owners.get(me, set()) | changed
    _write(result, owners, me)
    return result


def applied(old: Object | None, config: Object, manager: str, *, force: bool) -> Object:
    """
    The object after ``manager`` applied ``config``: merged, and without what it had applied before and left out now.

    :raises ApiError: 409, another manager owns a field with another value and ``force`` is not set.
    """
    me = (manager, "Apply")
    config = {**config, "metadata": {**config["metadata"]}}
    config["metadata"].pop("managedFields", None)
    if old is None:
        result = copy.deepcopy(config)
        _write(result, {me: set(fields(config))}, me)
        return result
    present, wanted, owners = fields(old), fields(config), _owners(old)
    clashes = {
        path: who
        for path, value in wanted.items()
        for who, paths in owners.items()
        if who != me and path in paths and path in present and present[path] != value
    }
    if clashes and not force:
        raise _conflict(clashes)
    result = _merged(old, config)
    others: set[Path] = set().union(*(paths for who, paths in owners.items() if who != me))
    for path in sorted(owners.get(me, set()) - wanted.keys() - others, key=len, reverse=True):
        _drop(result, path)
    owners = {who: paths - clashes.keys() for who, paths in owners.items()}
    owners[me] = set(wanted)
    if fields(result) == present and owners == _owners(old):
        return old
    _write(result, owners, me)
    return result


def _conflict(clashes: dict[Path, tuple[str, str]]) -> ApiError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"', "field": _readable(path)}
        for path, (manager, _) in clashes.items()
    ]
    listed = "; ".join(f"{each['message']}: {each['field']}" for each in causes)
    return ApiError(
        409, "Conflict", f"Apply failed with {len(causes)} conflict(s): {listed}", details={"causes": causes}
    )


def _readable(path: Path) -> str:
    text = ""
    for part in path:
        kind, _, rest = part.partition(":")
        text += f".{rest}" if kind == "f" else f"[{rest}]" if kind == "k" else ""
    return text


def _merged(current: Any, config: Any, field: str = "") -> Any:
    if isinstance(config, dict):
        merged = dict(current) if isinstance(current, dict) else {}
        for key, value in config.items():
            merged[key] = _merged(merged.get(key), value, key)
        return merged
    if (
        isinstance(config, list)
        and config
        and all(isinstance(each, dict) and merge_key(field, each) for each in config)
    ):
        merged_list = list(current or [])
        for item in config:
            key = merge_key(field, item)
            at = next((at for at, each in enumerate(merged_list) if each.get(key) == item[key]), None)
            if at is None:
                merged_list.append(copy.deepcopy(item))
            else:
                merged_list[at] = _merged(merged_list[at], item)
        return merged_list
    return copy.deepcopy(config)


def _drop(obj: Any, path: Path) -> None:
    """Remove a leaf, or the list item that ``.`` stands for, when nothing of it is left but its key."""
    parent, last = obj, path[-1]
    for part in path[:-1] if last != "." else path[:-2]:
        parent = _step(parent, part)
        if parent is None:
            return
    if last == ".":
        key = json.loads(path[-2][2:])
        if isinstance(parent, list):
            parent[:] = [item for item in parent if not key.items() <= item.items()]
    elif isinstance(parent, dict):
        parent.pop(last[2:], None)


def _step(value: Any, part: str) -> Any:
    if part.startswith("f:"):
        return value.get(part[2:]) if isinstance(value, dict) else None
    key = json.loads(part[2:])
    return next((item for item in value if key.items() <= item.items()), None) if isinstance(value, list) else None
