"""What goes into the archive: files below host trees, and the objects of a namespace, each in a settled form."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from upkeep.backup.configuration import secrets
from upkeep.health.kubernetes import Api, NotAnswered
from upkeep.trees.looking import opened

MOST_BYTES = 64 * 1024 * 1024
"""Of one file; what is larger is no configuration, and is told."""

DERIVED = frozenset(
    {
        "events", "endpoints", "endpointslices", "pods", "replicasets", "controllerrevisions", "leases", "jobs",
        "bindings", "localsubjectaccessreviews",
    }
)  # fmt: skip
"""Kinds that the cluster makes by itself, or that are over when they are done."""

_OF_THE_SERVER = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")
_ANNOTATIONS = ("kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision")
"""The first repeats the whole object, with its secrets."""


@dataclass(frozen=True)
class Member:
    """One entry of the archive."""

    name: str
    """``hosts/etc/studyspot/app.conf``, ``kubernetes/studyspot/deployments.apps/studyspot-api.yaml``."""

    content: bytes = b""
    mode: int = 0o644
    link: str | None = None
    """Where a symbolic link points; it is kept, and never followed."""

    directory: bool = False
    hidden: bool = False
    """Values of secrets were hidden in it."""


@dataclass
class Notes:
    """What is not in the archive as it is on the platform."""

    missing: list[str] = field(default_factory=list)
    """Trees, files and kinds of object that could not be read, and why: the archive is not whole."""

    left_out: list[str] = field(default_factory=list)
    """Secrets, because nothing is encrypted, and what is too large or no file."""

    hidden: list[str] = field(default_factory=list)
    """Members in which secrets were hidden."""


def trees(root: Path, paths: Sequence[str], notes: Notes, *, encrypted: bool) -> Iterator[Member]:
    """
    Everything below ``paths``, in the order of names; no symbolic link is followed below ``root``.

    :param root: where a worker sees the host's trees.
    """
    chosen = sorted(set(paths))
    for path in chosen:
        if any(path.startswith(f"{other.rstrip('/')}/") for other in chosen if other != path):
            continue  # it is part of another
        parent, _, name = path.rpartition("/")
        try:
            with opened(root, parent, to_read=False) as directory:
                yield from _entry(directory, name or ".", f"hosts{path}", notes, encrypted)
        except OSError as gone:
            notes.missing.append(f"{path}: {_why(gone)}")


def _entry(directory: int, entry: str, path: str, notes: Notes, encrypted: bool) -> Iterator[Member]:
    """:raises OSError: it cannot be read, or has gone."""
    seen = os.stat(entry, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISDIR(seen.st_mode):
        with opened(directory, entry) as below:
            yield from _below(below, path, notes, encrypted)
    elif stat.S_ISLNK(seen.st_mode):
        yield Member(path, mode=0o777, link=os.readlink(entry, dir_fd=directory))
    elif stat.S_ISREG(seen.st_mode):
        if (member := _file(directory, entry, path, notes, encrypted)) is not None:
            yield member
    else:
        notes.left_out.append(f"{path}: a socket, pipe or device")


def _below(directory: int, name: str, notes: Notes, encrypted: bool) -> Iterator[Member]:
    yield Member(name, mode=stat.S_IMODE(os.fstat(directory).st_mode), directory=True)
    with os.scandir(directory) as scan:
        entries = sorted(entry.name for entry in scan)
    for entry in entries:
        try:
            yield from _entry(directory, entry, f"{name}/{entry}", notes, encrypted)
        except FileNotFoundError:
            continue  # it went while we looked
        except OSError as refused:
            notes.missing.append(f"{name}/{entry}: {_why(refused)}")


def _why(refused: OSError) -> str:
    return (refused.strerror or type(refused).__name__).lower()


def _file(directory: int, entry: str, path: str, notes: Notes, encrypted: bool) -> Member | None:
    if not encrypted and secrets.STORES.search(path):
        notes.left_out.append(f"{path}: holds secrets")
        return None
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(entry, flags, dir_fd=directory), "rb") as file:
        content = file.read(MOST_BYTES + 1)
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    if len(content) > MOST_BYTES:
        notes.left_out.append(f"{path}: larger than {MOST_BYTES // 1024**2} MiB")
        return None
    kept = content if encrypted else secrets.without_in(content)
    if kept != content:
        notes.hidden.append(path)
    return Member(path, kept, mode, hidden=kept != content)


def objects(api: Api, namespace: str, notes: Notes, *, encrypted: bool) -> Iterator[Member]:
    """
    Every object of the namespace that somebody made, without what the server adds, in the order of names.

    :raises NotAnswered: the API is away; a kind that must not be listed is noted.
    """
    for group_version, plural in sorted(_kinds(api, notes)):
        group = group_version.rpartition("/")[0]
        base = f"/apis/{group_version}" if group else f"/api/{group_version}"
        kind = f"{plural}.{group}" if group else plural
        if plural == "secrets" and not group and not encrypted:
            count = _secrets(api, namespace)
            notes.left_out += [f"kubernetes/{namespace}/secrets: {count}"] if count else []
            continue
        try:
            found = api.items(f"{base}/namespaces/{namespace}/{plural}")
        except NotAnswered as refused:
            if refused.status in (404, 405):
                continue  # it went away, or is not there to be listed
            if not refused.status:
                raise
            notes.missing.append(f"kubernetes/{namespace}/{kind}: {refused.reason}")
            continue
        for one in sorted(found, key=lambda one: str(one["metadata"]["name"])):
            if one["metadata"].get("ownerReferences") or one["metadata"]["name"] == "kube-root-ca.crt":
                continue  # somebody else makes it
            yield _member(one, group_version, f"kubernetes/{namespace}/{kind}", notes, encrypted)


def _secrets(api: Api, namespace: str) -> str:
    """How many Secret objects stay behind; their content is not even asked for where that can be."""
    try:
        page = api.get(f"/api/v1/namespaces/{namespace}/secrets", limit=1)
    except NotAnswered:
        return "encryption is off"
    count = len(page.get("items") or []) + int((page.get("metadata") or {}).get("remainingItemCount") or 0)
    return f"{count} Secret objects, because encryption is off" if count else ""


def _kinds(api: Api, notes: Notes) -> Iterator[tuple[str, str]]:
    """``("apps/v1", "deployments")`` for every kind that can be listed, each in its preferred version."""
    groups = [group["preferredVersion"]["groupVersion"] for group in api.get("/apis").get("groups") or []]
    for group_version in ("v1", *groups):
        if group_version.startswith("metrics.k8s.io/"):
            continue
        path = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
        try:
            found = api.get(path).get("resources") or []
        except NotAnswered as refused:
            if not refused.status:
                raise
            # An aggregated API whose server is away: its objects are not in the archive.
            notes.missing.append(f"{path}: {refused.reason}")
            continue
        for one in found:
            listed = one.get("namespaced") and "list" in one.get("verbs", ()) and "/" not in one["name"]
            if listed and one["name"] not in DERIVED:
                yield group_version, one["name"]


def _member(one: dict[str, Any], group_version: str, place: str, notes: Notes, encrypted: bool) -> Member:
    name = f"{place}/{one['metadata']['name']}.yaml"
    settled = {"apiVersion": one.get("apiVersion") or group_version, "kind": one.get("kind") or "", **_settled(one)}
    kept = settled if encrypted else secrets.cleaned(settled)
    if kept != settled:
        notes.hidden.append(name)
    return Member(name, _yaml(kept), hidden=kept != settled)


def _settled(one: dict[str, Any]) -> dict[str, Any]:
    """The object as somebody would write it."""
    metadata = {key: value for key, value in one["metadata"].items() if key not in _OF_THE_SERVER}
    annotations = {k: v for k, v in (metadata.pop("annotations", None) or {}).items() if k not in _ANNOTATIONS}
    if annotations:
        metadata["annotations"] = annotations
    return {key: value for key, value in one.items() if key not in ("status", "metadata", "apiVersion", "kind")} | {
        "metadata": metadata
    }


def _yaml(content: dict[str, Any]) -> bytes:
    return yaml.safe_dump(content, sort_keys=True, allow_unicode=True, width=120).encode()
