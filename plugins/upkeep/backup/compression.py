"""gzip by all cores, for archives that pg_dump cannot compress with zstd itself; any gunzip reads it."""

from __future__ import annotations

import gzip
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from upkeep.errors import UpkeepError

BLOCK = 1024 * 1024
WORKERS = 2
LEVEL = 1


class CompressionError(UpkeepError):
    """It is no whole gzip file."""


def compress(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks of a megabyte, each a gzip member of its own, in their order; at most a few are held."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="gzip") as pool:
        waiting: deque[Future[bytes]] = deque()
        buffer = bytearray()
        for piece in pieces:
            buffer += piece
            while len(buffer) >= BLOCK:
                waiting.append(pool.submit(_pack, bytes(buffer[:BLOCK])))
                del buffer[:BLOCK]
                if len(waiting) > 2 * WORKERS:
                    yield waiting.popleft().result()
        waiting.append(pool.submit(_pack, bytes(buffer)))
        while waiting:
            yield waiting.popleft().result()


def _pack(block: bytes) -> bytes:
    return gzip.compress(block, LEVEL, mtime=0)


def decompress(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """:raises CompressionError: broken, or it ends too early."""
    inflate = zlib.decompressobj(wbits=31)
    at = 0
    try:
        for piece in pieces:
            rest = piece
            while rest:
                if inflate.eof:
                    inflate = zlib.decompressobj(wbits=31)
                if made := inflate.decompress(rest, 4 * BLOCK):
                    yield made
                rest = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            at += len(piece)
    except zlib.error as broken:
        raise CompressionError(
            f"near byte {at:,}: {broken}", hint="it was changed or cut off; use another backup."
        ) from None
    if not inflate.eof:
        raise CompressionError(
            f"it ends within a block, after {at:,} bytes", hint="it was cut off; use another backup."
        )
