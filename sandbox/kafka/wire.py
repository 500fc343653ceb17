"""Kafka's wire format: the types that requests and answers are made of, before the compact encoding."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Malformed(Exception):
    """Bytes that are not what they claim to be."""


class Reader:
    """Bytes with a position."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise Malformed(f"{count} bytes wanted at {self.at} of {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        """An unsigned variable-length integer; only the compact encoding has them."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def skip_tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.take(self.varint())


@dataclass(frozen=True)
class Type:
    """How one value is read and written in a given version of its message."""

    read: Callable[[Reader, int], Any]
    write: Callable[[bytearray, Any, int], None]


def _number(code: str) -> Type:
    packed = struct.Struct(">" + code)
    return Type(
        read=lambda reader, version: packed.unpack(reader.take(packed.size))[0],
        write=lambda out, value, version: out.extend(packed.pack(value)),
    )


int8, int16, int32, int64 = _number("b"), _number("h"), _number("i"), _number("q")
boolean = _number("?")


def _lengthy(length: Type, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Type:
    """A length and that many bytes; length -1 is None."""

    def read(reader: Reader, version: int) -> Any:
        size = length.read(reader, version)
        return None if size < 0 else decode(reader.take(size))

    def write(out: bytearray, value: Any, version: int) -> None:
        if value is None:
            length.write(out, -1, version)
        else:
            encoded = encode(value)
            length.write(out, len(encoded), version)
            out.extend(encoded)

    return Type(read, write)


string = _lengthy(int16, bytes.decode, str.encode)
data = _lengthy(int32, bytes, bytes)


def array(*fields: Any) -> Type:
    """Several values of one type, or several structures with these fields; None is allowed."""
    item = fields[0] if isinstance(fields[0], Type) else struct_of(*fields)

    def read(reader: Reader, version: int) -> list[Any] | None:
        size = int32.read(reader, version)
        return None if size < 0 else [item.read(reader, version) for _ in range(size)]

    def write(out: bytearray, values: Sequence[Any] | None, version: int) -> None:
        int32.write(out, -1 if values is None else len(values), version)
        for value in values or ():
            item.write(out, value, version)

    return Type(read, write)


def struct_of(*fields: tuple[Any, ...]) -> Type:
    """
    Named values in this order: ``(name, type)``, ``(name, type, since)`` or ``(name, type, since, until)``.

    Reading gives a dict. Writing takes a dict; what this version does not know is left out.
    """
    known = [(name, kind, *(*span, *(0, 99)[len(span) :])) for name, kind, *span in fields]

    def read(reader: Reader, version: int) -> dict[str, Any]:
        return {name: kind.read(reader, version) for name, kind, since, until in known if since <= version <= until}

    def write(out: bytearray, value: dict[str, Any], version: int) -> None:
        for name, kind, since, until in known:
            if since <= version <= until:
                kind.write(out, value[name], version)

    return Type(read, write)


def uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
