"""The few protobuf bodies that kubectl insists on: evictions, delete options and questions about one's rights."""

from __future__ import annotations

from typing import Any

from sandbox.kubernetes.errors import unsupported_media_type

Object = dict[str, Any]

_MAGIC = b"k8s\x00"

# Field numbers as in the generated.proto files of k8s.io/api and k8s.io/apimachinery.
_DELETE_OPTIONS = {1: ("gracePeriodSeconds", int), 4: ("propagationPolicy", str), 5: ("dryRun", list)}
_ATTRIBUTES = {
    1: ("namespace", str), 2: ("verb", str), 3: ("group", str), 4: ("version", str),
    5: ("resource", str), 6: ("subresource", str), 7: ("name", str),
}  # fmt: skip
_SCHEMAS: dict[str, Object] = {
    "DeleteOptions": _DELETE_OPTIONS,
    "Eviction": {2: ("deleteOptions", _DELETE_OPTIONS)},
    "SelfSubjectAccessReview": {2: ("spec", {1: ("resourceAttributes", _ATTRIBUTES)})},
}


def decode(body: bytes) -> Object:
    """:raises ApiError: 415, a kind that this cluster reads as JSON only."""
    if not body.startswith(_MAGIC):
        raise unsupported_media_type("not a Kubernetes protobuf message")
    envelope = dict(_pieces(body[len(_MAGIC) :]))
    kinds = {number: bytes(value).decode() for number, value in _pieces(envelope[1])}
    kind = kinds.get(2, "")
    if kind not in _SCHEMAS:
        raise unsupported_media_type(f"this cluster reads {kind} as JSON or YAML only")
    return {"kind": kind, "apiVersion": kinds.get(1, ""), **_message(envelope.get(2, b""), _SCHEMAS[kind])}


def _message(data: bytes, schema: Object) -> Object:
    made: Object = {}
    for number, value in _pieces(data):
        name, kind = schema.get(number, (None, None))
        if name is None:
            continue
        if kind is int:
            made[name] = value
        elif kind is str:
            made[name] = bytes(value).decode()
        elif kind is list:
            made.setdefault(name, []).append(bytes(value).decode())
        else:
            made[name] = _message(value, kind)
    return made


def _pieces(data: bytes) -> list[tuple[int, Any]]:
    """Field numbers with their values: numbers for varints, bytes for what has a length."""
    found: list[tuple[int, Any]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value: Any
            value, at = _varint(data, at)
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise unsupported_media_type(f"protobuf wire type {tag & 7}")
        found.append((tag >> 3, value))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
