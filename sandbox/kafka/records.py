"""Record batches (format 2): what a log is made of, on the wire and in the file alike."""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox.kafka.wire import Malformed, uvarint

_HEADER = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader epoch, magic, checksum, attributes, last offset delta, first and last timestamp,
producer id, producer epoch, first sequence, count."""

_GZIP = 1


@dataclass(frozen=True)
class Batch:
    """Where one batch lies in its file, and which offsets it holds."""

    first: int
    last: int
    at: int
    size: int
    newest_ms: int


class Log:
    """One partition: a file of batches, and the offsets from ``start`` (the oldest kept) to ``end`` (the next one)."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path, self.start, self.batches = path, start, list[Batch]()
        path.touch()
        known = path.read_bytes()
        for batch, _ in _scan(known):
            self.batches.append(batch)

    @property
    def end(self) -> int:
        return self.batches[-1].last + 1 if self.batches else 0

    @property
    def size(self) -> int:
        """Bytes of the batches that are still kept."""
        return sum(batch.size for batch in self.batches if batch.last >= self.start)

    def append(self, records: bytes) -> int:
        """
        Store what a producer sent; return the offset of its first record.

        Only the offset is written into it, which the checksum leaves out on purpose. The checksum is not verified.

        :raises Malformed: not record batches of format 2.
        """
        offset = first = self.end
        position = self.path.stat().st_size
        with self.path.open("ab") as file:
            for batch, raw in _scan(records):
                file.write(struct.pack(">q", offset) + raw[8:])
                count = batch.last - batch.first
                self.batches.append(Batch(offset, offset + count, position, batch.size, batch.newest_ms))
                offset, position = offset + count + 1, position + batch.size
        return first

    def read(self, offset: int, most_bytes: int) -> bytes:
        """Whole batches from the one that holds ``offset`` on: as many as fit, but at least one."""
        wanted: list[Batch] = []
        for batch in self._from(offset):
            if wanted and batch.at + batch.size - wanted[0].at > most_bytes:
                break
            wanted.append(batch)
        if not wanted:
            return b""
        with self.path.open("rb") as file:
            file.seek(wanted[0].at)
            return file.read(wanted[-1].at + wanted[-1].size - wanted[0].at)

    def since(self, moment_ms: int) -> tuple[int, int]:
        """Timestamp and first offset of the first batch that is not older; ``(-1, -1)`` when all are."""
        for batch in self.batches:
            if batch.newest_ms >= moment_ms:
                return batch.newest_ms, batch.first
        return -1, -1

    def _from(self, offset: int) -> Iterator[Batch]:
        low, high = 0, len(self.batches)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.batches[middle].last < offset else (low, middle)
        return (self.batches[index] for index in range(low, len(self.batches)))


def _scan(data: bytes) -> Iterator[tuple[Batch, bytes]]:
    at = 0
    while at < len(data):
        if at + _HEADER.size > len(data):
            raise Malformed(f"a batch of {len(data) - at} bytes")
        first, length, _, magic, _, _, delta, _, newest, *_ = _HEADER.unpack_from(data, at)
        size = length + 12
        if magic != 2 or at + size > len(data) or delta < 0:
            raise Malformed(f"a batch of format {magic} and {size} bytes")
        yield Batch(first, first + delta, at, size, newest), data[at : at + size]
        at += size


def batch_of(value: bytes, count: int) -> bytes:
    """One compressed batch of ``count`` records that all hold ``value``: a backlog that costs next to nothing."""
    records = bytearray()
    for delta in range(count):
        body = b"\0\0" + _zigzag(delta) + _zigzag(-1) + _zigzag(len(value)) + value + b"\0"
        records += _zigzag(len(body)) + body
    packed = gzip.compress(bytes(records), 6)
    now = int(time.time() * 1000)
    checked = struct.pack(">hiqqqhii", _GZIP, count - 1, now, now, -1, -1, -1, count) + packed
    return struct.pack(">qiibI", 0, 9 + len(checked), -1, 2, _crc32c(checked)) + checked


def _zigzag(value: int) -> bytes:
    return uvarint((value << 1) ^ (value >> 63))


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
