"""Copying single files: inside the store where it can, through the worker where it must, and compared afterwards."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any

from upkeep.backup.files.inventory import Entry, copy_key
from upkeep.backup.store import Store, Stored, StoreError, told

log = logging.getLogger(__name__)

TRIES = 3
"""A file that changes faster than it is copied is given up after so many."""


ONE_REQUEST = 4 * 1024**3
"""What the store copies in one request; S3 allows 5 GiB."""

PART = 8 * 1024 * 1024
"""Of a file that goes through the worker; three of them are held for each file on its way."""


@dataclass
class Copier:
    """From the application's bucket into that of backups."""

    source: Store
    target: Store
    prefix: str
    storage_class: str
    through_worker: bool = False
    """The target cannot read the source: another endpoint, or an account that may not."""

    etags_differ: bool = False
    """One of the buckets gives ETags that say nothing about content; sizes and samples are compared."""

    def copy(self, entry: Entry) -> Entry | None:
        """
        Copy one file, and look whether it arrived.

        :returns: what was copied, which is newer than ``entry`` when it changed meanwhile; None when it has gone.
        :raises StoreError: it cannot be read or written, or changes all the time.
        """
        for _ in range(TRIES):
            try:
                self._send(entry)
                if self._arrived(entry):
                    return entry
                self.target.delete(entry.copy)  # just made by us, under a name that is not its content's
            except StoreError as refused:
                if refused.code not in ("404", "NoSuchKey", "412", "PreconditionFailed"):
                    raise
            seen = self._now(entry.key)
            if seen is None:
                return None
            entry = replace(
                entry,
                bytes=seen.bytes,
                etag=seen.etag,
                modified=seen.modified.isoformat(),
                copy=copy_key(self.prefix, entry.key, seen),
            )
        raise StoreError(
            f"{self.source.url(entry.key)}: it changed {TRIES} times while it was copied, or arrives broken",
            hint="run the task again; if it stays, the store loses or mixes data.",
        )

    def _send(self, entry: Entry) -> None:
        if not self.through_worker:
            try:
                return self._inside(entry)
            except StoreError as refused:
                if refused.code not in ("AccessDenied", "403"):
                    raise
                log.info("the backups' key may not read %s: files go through the worker", self.source.bucket)
                self.through_worker = True
        return self._through(entry)

    def _inside(self, entry: Entry) -> None:
        """The store copies by itself, in parts where a file is large."""
        source = {"Bucket": self.source.bucket, "Key": entry.key}
        how = self._extra() | {"CopySourceIfMatch": f'"{entry.etag}"'}
        client, bucket = self.target.client, self.target.bucket
        with told(self.source.url(entry.key), "copied"):
            if entry.bytes < ONE_REQUEST:
                client.copy_object(CopySource=source, Bucket=bucket, Key=entry.copy, **how)
            else:
                client.copy(
                    source, bucket, entry.copy, how, SourceClient=self.source.client,
                    Config=_transfer(threshold=ONE_REQUEST),
                )  # fmt: skip

    def _through(self, entry: Entry) -> None:
        with told(self.source.url(entry.key), "copied"):
            answer = self.source.client.get_object(Bucket=self.source.bucket, Key=entry.key, IfMatch=f'"{entry.etag}"')
            self.target.client.upload_fileobj(
                answer["Body"],
                self.target.bucket,
                entry.copy,
                ExtraArgs=self._extra() | {"ContentType": answer.get("ContentType") or "application/octet-stream"},
                Config=_transfer(threshold=PART),
            )

    def _extra(self) -> dict[str, Any]:
        return {"StorageClass": self.storage_class} | self.target.locked()

    def _arrived(self, entry: Entry) -> bool:
        seen = look(self.target, entry.copy)
        if seen is None or seen.bytes != entry.bytes:
            return False
        # An ETag of parts depends on their size; one without is the MD5 of the content, unless a key service encrypts.
        if seen.etag == entry.etag or "-" in entry.etag + seen.etag or self.etags_differ:
            return True
        self.etags_differ = same(self.source, entry.key, self.target, entry.copy)
        return self.etags_differ

    def _now(self, key: str) -> Stored | None:
        return look(self.source, key)


def _transfer(*, threshold: int) -> Any:
    from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]

    chunk = max(PART, threshold // 16)
    config = TransferConfig(multipart_threshold=threshold, multipart_chunksize=chunk, max_concurrency=2)
    # Ten otherwise, of each file.
    config.max_in_memory_upload_chunks = 2
    return config


def look(store: Store, key: str) -> Stored | None:
    """Size, ETag and time of an object; None when it is not there."""
    try:
        with told(store.url(key), "looked at"):
            seen = store.client.head_object(Bucket=store.bucket, Key=key)
    except StoreError as refused:
        if refused.code in ("404", "NoSuchKey", "NotFound"):
            return None
        raise
    return Stored(key, seen["ContentLength"], seen["LastModified"], seen.get("ETag", "").strip('"'))


def same(one: Store, key: str, other: Store, copy: str) -> bool:
    """Whether two objects hold the same bytes."""
    return digest(one, key) == digest(other, copy)


def digest(store: Store, key: str) -> str | None:
    """SHA-256 of an object; None when it is not there. :raises StoreError: it cannot be read."""
    found = hashlib.sha256()
    try:
        for piece in store.read(key):
            found.update(piece)
    except StoreError as refused:
        if refused.code in ("404", "NoSuchKey", "NotFound"):
            return None
        raise
    return found.hexdigest()
