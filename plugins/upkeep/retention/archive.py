"""
Rows copied to S3 before they are deleted: JSON lines, gzip, one object per segment, confirmed by reading it back.

A segment is three objects: ``….jsonl.gz`` with the rows (``json_populate_record`` reads them back), ``….versions.gz``
with the place and transaction of each (what exactly may be deleted), and ``….json``, the manifest, written last.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import sql

from upkeep.errors import UpkeepError
from upkeep.postgres.session import Connection, statement_timeout
from upkeep.retention import statements
from upkeep.retention.items import Item
from upkeep.retention.progress import Progress

ROWS = 100_000
"""Of one segment; their places are held in memory."""

PART = 8 * 1024 * 1024
"""Of a multipart upload; S3 wants at least 5 MiB."""

READ_S = timedelta(minutes=5)
"""For reading one segment from the database."""


class ArchiveError(UpkeepError):
    """What arrived in S3 is not what was sent; nothing was deleted for it."""


@dataclass(frozen=True)
class Segment:
    """A confirmed archive."""

    key: str
    """Of the object with the rows, without ``.jsonl.gz``."""

    tids: Sequence[str]
    xmins: Sequence[str]
    last_key: str | None = None
    last_tid: str | None = None


class Archive:
    """A place in S3."""

    def __init__(self, client: Any, bucket: str, prefix: str = "retention/", *, rows: int = ROWS) -> None:
        """
        :param client: boto3's, for S3.
        :param prefix: ends with ``/``.
        """
        self.client, self.bucket, self.prefix, self.rows = client, bucket, prefix, rows

    def write(self, connection: Connection, item: Item, progress: Progress) -> Segment | None:
        """
        Copy the next rows that may go, and read them back; None when no expired rows are left to look at.

        :raises ArchiveError: what was read back differs.
        """
        key = f"{self.prefix}{item.table}/{progress.plan[:16]}/{progress.turn:02d}-{progress.segments:06d}"
        values = {
            "cut_off": item.cut_off,
            "after_key": progress.after_key,
            "after_tid": progress.after_tid,
            "rows": self.rows,
        }
        span = statements.span(item, after=progress.after_key is not None, inclusive=progress.after_tid is None)
        tids: list[str] = []
        xmins: list[str] = []

        def lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
            for row in rows:
                tids.append(row["tid"])
                xmins.append(row["xmin"])
                yield row["row"].encode() + b"\n"

        with statement_timeout(connection, READ_S), connection.transaction():
            # One snapshot for both questions.
            connection.execute("set transaction isolation level repeatable read, read only")
            last = connection.execute(_last(span), values).fetchone()
            if last is None:
                return None
            with connection.cursor() as cursor:
                digest, size = self._upload(f"{key}.jsonl.gz", lines(cursor.stream(_rows(item, span), values)))
        segment = Segment(key, tids, xmins, last["last_key"], last["last_tid"])
        if not tids:
            self.client.delete_object(Bucket=self.bucket, Key=f"{key}.jsonl.gz")
            return segment
        versions = (f"{tid} {xmin}\n".encode() for tid, xmin in zip(tids, xmins, strict=True))
        versions_digest, _ = self._upload(f"{key}.versions.gz", versions)
        self._confirm(f"{key}.jsonl.gz", digest, len(tids))
        self._confirm(f"{key}.versions.gz", versions_digest, len(tids))
        manifest = {
            "table": item.table,
            "plan": progress.plan,
            "condition": statements.condition(item),
            "key_column": item.column,
            "last_key": last["last_key"],
            "rows": len(tids),
            "bytes": size,
            "sha256": digest,
            "versions_sha256": versions_digest,
            "format": "one row per line, as row_to_json writes it; times in UTC",
            "archived_at": datetime.now(UTC).isoformat(),
            "state": "archived",
        }
        self._put(f"{key}.json", manifest)
        return segment

    def load(self, key: str) -> Segment:
        """The places of a confirmed archive, to go on deleting. :raises ArchiveError: it is not what it was."""
        manifest = self.manifest(key)
        digest, content = hashlib.sha256(), bytearray()
        for piece in self._pieces(f"{key}.versions.gz"):
            digest.update(piece)
            content += piece
        if digest.hexdigest() != manifest["versions_sha256"]:
            raise _differs(f"s3://{self.bucket}/{key}.versions.gz", manifest["versions_sha256"], digest.hexdigest())
        tids, xmins = [], []
        for line in content.decode().splitlines():
            tid, _, xmin = line.partition(" ")
            tids.append(tid)
            xmins.append(xmin)
        return Segment(key, tids, xmins)

    def finish(self, segment: Segment, kept: Sequence[int]) -> None:
        """Say in the manifest which of its rows were deleted: all but ``kept``, by line, from 0."""
        manifest = self.manifest(segment.key)
        manifest |= {
            "state": "deleted",
            "deleted": len(segment.tids) - len(kept),
            "kept": list(kept),
            "deleted_at": datetime.now(UTC).isoformat(),
        }
        self._put(f"{segment.key}.json", manifest)

    def finish_folder(self, folder: str) -> None:
        """As ``finish``, for all segments of a partition that was dropped."""
        for key in self._segments(folder):
            manifest = self.manifest(key)
            if manifest["state"] != "deleted":
                self.finish(self.load(key), ())

    def sweep(self, table: str, active: str | None) -> list[str]:
        """
        Remove copies of rows that were not deleted by them: their attempt was killed before it could begin.

        :param active: the archive, or folder, whose rows are being deleted; left alone.
        :returns: the keys that were removed.
        """
        folder, gone = f"{self.prefix}{table}/", []
        finished = {key for key in self._segments(folder) if self.manifest(key)["state"] == "deleted"}
        for key in list(self._keys(folder)):
            segment = folder + key[len(folder) :].partition(".")[0]
            if segment not in finished and not (active and segment.startswith(active)):
                self.client.delete_object(Bucket=self.bucket, Key=key)
                gone.append(key)
        return gone

    def _segments(self, folder: str) -> list[str]:
        return [key.removesuffix(".json") for key in self._keys(folder) if key.endswith(".json")]

    def _keys(self, folder: str) -> Iterator[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=folder)
        return (one["Key"] for page in pages for one in page.get("Contents", ()))

    def manifest(self, key: str) -> dict[str, Any]:
        return dict(json.loads(self.client.get_object(Bucket=self.bucket, Key=f"{key}.json")["Body"].read()))

    def _put(self, key: str, content: Mapping[str, Any]) -> None:
        body = (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType="application/json")

    def _confirm(self, key: str, digest: str, count: int) -> None:
        seen, lines = hashlib.sha256(), 0
        for piece in self._pieces(key):
            seen.update(piece)
            lines += piece.count(b"\n")
        if (seen.hexdigest(), lines) != (digest, count):
            raise _differs(
                f"s3://{self.bucket}/{key}", f"{count:,} rows, {digest}", f"{lines:,} rows, {seen.hexdigest()}"
            )

    def _pieces(self, key: str) -> Iterator[bytes]:
        """The content of an object, decompressed."""
        inflate = zlib.decompressobj(wbits=31)
        try:
            for piece in self.client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(1024 * 1024):
                yield inflate.decompress(piece)
            yield inflate.flush()
        except zlib.error as broken:
            raise _differs(f"s3://{self.bucket}/{key}", "gzip", str(broken)) from None

    def _upload(self, key: str, lines: Iterable[bytes]) -> tuple[str, int]:
        """Stream ``lines`` into an object; SHA-256 and length of what they are before compression."""
        digest, size, buffer = hashlib.sha256(), 0, io.BytesIO()
        upload = _Multipart(self.client, self.bucket, key)
        try:
            with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as packed:
                for line in lines:
                    digest.update(line)
                    size += len(line)
                    packed.write(line)
                    if buffer.tell() >= PART:
                        upload.part(buffer)
            upload.complete(buffer)
        except BaseException:
            upload.abort()
            raise
        return digest.hexdigest(), size


class _Multipart:
    """An upload in parts, or in one request when there is only one."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self.client, self.where = client, {"Bucket": bucket, "Key": key}
        self.id = ""
        self.parts: list[dict[str, Any]] = []

    def part(self, buffer: io.BytesIO) -> None:
        if not self.id:
            self.id = self.client.create_multipart_upload(**self.where)["UploadId"]
        number = len(self.parts) + 1
        sent = self.client.upload_part(**self.where, UploadId=self.id, PartNumber=number, Body=buffer.getvalue())
        self.parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        buffer.seek(0)
        buffer.truncate()

    def complete(self, buffer: io.BytesIO) -> None:
        if not self.id:
            self.client.put_object(**self.where, Body=buffer.getvalue())
            return
        self.part(buffer)
        self.client.complete_multipart_upload(**self.where, UploadId=self.id, MultipartUpload={"Parts": self.parts})

    def abort(self) -> None:
        if self.id:
            self.client.abort_multipart_upload(**self.where, UploadId=self.id)


def _last(span: sql.Composed) -> sql.Composed:
    return sql.SQL(
        "select span.key::text as last_key, span.tid::text as last_tid from ({}) as span"
        " order by span.key desc, span.tid desc limit 1"
    ).format(span)


def _rows(item: Item, span: sql.Composed) -> sql.Composed:
    return sql.SQL(
        "with span as materialized ({span}) select {ctid}::text as tid, {xmin}::text as xmin,"
        " row_to_json({table}.*)::text as row from {table}"
        " where {ctid} = any(array(select tid from span)) and {may_go}"
    ).format(
        span=span,
        ctid=statements.column(item, "ctid"),
        xmin=statements.column(item, "xmin"),
        table=statements.table(item),
        may_go=statements.may_go(item),
    )


def _differs(what: str, sent: str, read: str) -> ArchiveError:
    return ArchiveError(
        f"{what}: sent {sent}, read back {read}",
        hint="nothing of it was deleted; look at the bucket's health, then run the task again.",
    )
