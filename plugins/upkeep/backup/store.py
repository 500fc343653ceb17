"""
S3, as backups use it: streams go up in parts of one size, with their SHA-256, and whatever fails leaves nothing behind.

Only boto3's client is asked for; ``upkeep.connections.s3_client`` makes one from an Airflow connection.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Protocol

from upkeep.errors import CredentialsError, UpkeepError

PART = 16 * 1024 * 1024
"""Of a multipart upload. S3 takes 10,000 of them, so this also bounds an object."""

VOLUME = 8192 * PART
"""128 GiB: what is longer goes on in the next object."""

SENDERS = 2
"""Parts on their way at once; with the one being filled and one waiting this is all the memory a stream takes."""

CHUNK = 1024 * 1024


class StoreError(UpkeepError):
    """The store did not do what it was asked."""

    def __init__(self, message: str, *, hint: str, code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        """S3's own word: ``SlowDown``, ``AccessDenied``, ``NoSuchKey`` … or the status; empty when it was away."""


class LockedError(StoreError):
    """Object Lock or a legal hold forbids deleting this now; that is no failure."""


@dataclass(frozen=True)
class Written:
    """One object that arrived."""

    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Stored:
    """One object or version as a listing shows it."""

    key: str
    bytes: int
    modified: datetime
    etag: str = ""
    version: str | None = None
    """None where the bucket keeps no versions."""

    latest: bool = True
    marker: bool = False
    """A delete marker."""


@dataclass(frozen=True)
class Unfinished:
    """A multipart upload that nobody completed; its parts cost money and no listing shows them."""

    key: str
    id: str
    begun: datetime


class Expected(Protocol):
    """What an object must be: ``Written``, or an ``Object`` of a manifest."""

    @property
    def key(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class Store:
    """A bucket."""

    def __init__(self, client: Any, bucket: str, *, lock: timedelta | None = None) -> None:
        """
        :param client: boto3's, for S3.
        :param lock: retention that Object Lock enforces on what is written from now on.
        """
        self.client, self.bucket, self.lock = client, bucket, lock

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    # -- looking -------------------------------------------------------------------------------------------

    def objects(self, prefix: str) -> Iterator[Stored]:
        """Every object below ``prefix``."""
        with told(self.url(prefix), "listed"):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for one in page.get("Contents", ()):
                    yield Stored(one["Key"], one["Size"], one["LastModified"], one.get("ETag", "").strip('"'))

    def folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders right below ``prefix``, without their content: it may be millions."""
        with told(self.url(prefix), "listed"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix, Delimiter="/"
            )
            for page in pages:
                for one in page.get("CommonPrefixes", ()):
                    yield one["Prefix"][len(prefix) :].rstrip("/")

    def versions(self, prefix: str) -> Iterator[Stored]:
        """Every version and delete marker below ``prefix``; the objects alone where the store has no versions."""
        try:
            with told(self.url(prefix), "listed"):
                pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=prefix)
                for page in pages:
                    for kind in ("Versions", "DeleteMarkers"):
                        for one in page.get(kind, ()):
                            version = None if one["VersionId"] == "null" else one["VersionId"]
                            yield Stored(
                                one["Key"], one.get("Size", 0), one["LastModified"], one.get("ETag", "").strip('"'),
                                version, one["IsLatest"], kind == "DeleteMarkers",
                            )  # fmt: skip
        except StoreError as refused:
            if refused.code not in ("NotImplemented", "501"):
                raise
            yield from self.objects(prefix)

    def size(self, key: str, version: str | None = None) -> int | None:
        """In bytes; None when there is no such object."""
        which = {"VersionId": version} if version else {}
        try:
            with told(self.url(key), "looked at"):
                return int(self.client.head_object(Bucket=self.bucket, Key=key, **which)["ContentLength"])
        except StoreError as refused:
            if refused.code in ("404", "NoSuchKey", "NotFound"):
                return None
            raise

    def check(self, objects: Iterable[Expected]) -> None:
        """:raises StoreError: one is not there, or not in its size."""
        for one in objects:
            if (size := self.size(one.key)) != one.bytes:
                is_there = "not there" if size is None else f"{size:,} bytes"
                raise StoreError(
                    f"{self.url(one.key)}: {is_there}, and {one.bytes:,} were sent",
                    hint="run the task again; the store lost it.",
                    code="Differs",
                )

    def read(self, key: str, version: str | None = None) -> Iterator[bytes]:
        """
        The content, piece by piece; of the newest version, or of one.

        :raises StoreError: not there, or the connection was lost on the way.
        """
        with told(self.url(key), "read"):
            which = {"VersionId": version} if version else {}
            body = self.client.get_object(Bucket=self.bucket, Key=key, **which)["Body"]
            with contextlib.closing(body):
                yield from body.iter_chunks(CHUNK)

    def get(self, key: str, *, most: int, version: str | None = None) -> bytes | None:
        """The content of a small object; None when there is none. :raises StoreError: it has more than ``most``."""
        if (size := self.size(key, version)) is None:
            return None
        if size > most:
            raise StoreError(
                f"{self.url(key)}: {size:,} bytes, at most {most:,} were expected", hint="that is something else."
            )
        return b"".join(self.read(key, version))

    # -- writing -------------------------------------------------------------------------------------------

    def put(self, key: str, content: bytes, *, content_type: str = "application/octet-stream") -> Written:
        """Write a small object in one request."""
        with told(self.url(key), "written"):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=content, ContentType=content_type, **self.locked())
        return Written(key, len(content), hashlib.sha256(content).hexdigest())

    def write(self, key: str, pieces: Iterable[bytes], *, volume: int = VOLUME) -> Sequence[Written]:
        """
        Stream ``pieces`` into ``key`` and, beyond ``volume`` bytes, ``key.001`` and so on; an empty stream makes one.

        Whatever goes wrong, here or in ``pieces``, aborts the open upload; finished volumes stay for the sweep.
        Of a killed process an open upload is left: ``unfinished`` finds it.
        """
        made: list[Written] = []
        source = iter(pieces)
        rest = b""
        while True:
            name = key if not made else f"{key}.{len(made):03d}"
            upload = _Upload(self, name)
            try:
                rest = upload.take(rest, source, volume)
                made.append(upload.finish())
            except BaseException:
                upload.abort()
                raise
            if not rest:
                return made

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """Multipart uploads below ``prefix`` that were neither completed nor aborted."""
        try:
            with told(self.url(prefix), "asked for unfinished uploads"):
                pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
                return [
                    Unfinished(one["Key"], one["UploadId"], one["Initiated"])
                    for page in pages
                    for one in page.get("Uploads", ())
                    if one["Key"].startswith(prefix)
                ]
        except StoreError as refused:
            # What some stores say when there has never been one.
            if refused.code == "NoSuchUpload":
                return []
            raise

    def abort(self, upload: Unfinished) -> None:
        """Forget an unfinished upload; one that is gone already is fine."""
        try:
            with told(self.url(upload.key), "aborted"):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload.key, UploadId=upload.id)
        except StoreError as refused:
            if refused.code not in ("NoSuchUpload", "404"):
                raise

    def delete(self, key: str, version: str | None = None) -> None:
        """
        Delete an object (where versions are kept: hide it), or one version of it for good.

        :raises LockedError: Object Lock forbids it now.
        """
        which = {"VersionId": version} if version else {}
        try:
            with told(self.url(key), "deleted"):
                self.client.delete_object(Bucket=self.bucket, Key=key, **which)
        except StoreError as refused:
            if refused.code in ("AccessDenied", "ObjectLocked", "InvalidRequest") and self._is_locked(key, version):
                raise LockedError(
                    f"{self.url(key)}: Object Lock keeps it",
                    hint="it is deleted when the lock has run out.",
                    code=refused.code,
                ) from None
            raise

    def lock_of(self, key: str, version: str | None = None) -> str:
        """Why Object Lock forbids deleting it now; empty when nothing does, or it is not there."""
        which = {"VersionId": version} if version else {}
        try:
            with told(self.url(key), "asked for its lock"):
                seen = self.client.head_object(Bucket=self.bucket, Key=key, **which)
        except StoreError as refused:
            if refused.code in ("404", "NoSuchKey", "NotFound", "405"):
                return ""
            raise
        if seen.get("ObjectLockLegalHoldStatus") == "ON":
            return "it is on legal hold"
        until = seen.get("ObjectLockRetainUntilDate")
        return f"Object Lock keeps it until {until:%Y-%m-%d %H:%M} UTC" if until and until > datetime.now(UTC) else ""

    def _is_locked(self, key: str, version: str | None) -> bool:
        try:
            return bool(self.lock_of(key, version))
        except StoreError:
            return False

    def locked(self) -> dict[str, Any]:
        """What a request that writes must say, so that Object Lock keeps it."""
        if self.lock is None:
            return {}
        return {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": datetime.now(UTC) + self.lock}


class _Upload:
    """One object on its way: filled here, sent by ``SENDERS`` threads."""

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.key = store, key
        self.where = {"Bucket": store.bucket, "Key": key}
        self.id = ""
        self.sent: list[Future[dict[str, Any]]] = []
        self.digest, self.bytes = hashlib.sha256(), 0
        self.senders: ThreadPoolExecutor | None = None

    def take(self, first: bytes, source: Iterator[bytes], volume: int) -> bytes:
        """Fill the volume; what the last piece held beyond it, or ``b""`` when the source has ended."""
        held: list[bytes] = []
        size = 0
        # Not `yield from`: leaving this loop would close the source.
        for piece in chain([first] if first else [], source):
            room = volume - self.bytes
            fits = piece if len(piece) <= room else piece[:room]
            self.digest.update(fits)
            self.bytes += len(fits)
            held.append(fits)
            size += len(fits)
            if size >= PART:
                whole = b"".join(held)
                parts = size // PART
                for number in range(parts):
                    self._send(whole if size == PART else whole[number * PART : (number + 1) * PART])
                held, size = [whole[parts * PART :]], size - parts * PART
            if len(piece) > room:
                self._last(b"".join(held))
                return piece[room:]
        self._last(b"".join(held))
        return b""

    def _last(self, part: bytes) -> None:
        if self.id:
            if part:
                self._send(part)
        else:
            self.store.put(self.key, part)

    def _send(self, part: bytes) -> None:
        if not self.id:
            with told(self.store.url(self.key), "begun"):
                begun = self.store.client.create_multipart_upload(**self.where, **self.store.locked())
            self.id = begun["UploadId"]
            self.senders = ThreadPoolExecutor(SENDERS, thread_name_prefix="upload")
        assert self.senders is not None
        number = len(self.sent) + 1
        self.sent.append(self.senders.submit(self._put, number, part))
        # At most so many parts are held; and who failed is heard of soon.
        if number > SENDERS:
            self.sent[number - SENDERS - 1].result()

    def _put(self, number: int, part: bytes) -> dict[str, Any]:
        with told(self.store.url(self.key), f"given part {number}"):
            answer = self.store.client.upload_part(**self.where, UploadId=self.id, PartNumber=number, Body=part)
        seen = {"PartNumber": number, "ETag": answer["ETag"]}
        return seen | {name: answer[name] for name in ("ChecksumCRC32", "ChecksumCRC64NVME") if name in answer}

    def finish(self) -> Written:
        if self.id:
            parts = [future.result() for future in self.sent]
            self._end()
            with told(self.store.url(self.key), "completed"):
                self.store.client.complete_multipart_upload(
                    **self.where, UploadId=self.id, MultipartUpload={"Parts": parts}
                )
        return Written(self.key, self.bytes, self.digest.hexdigest())

    def abort(self) -> None:
        for future in self.sent:
            future.cancel()
        self._end()
        if self.id:
            with contextlib.suppress(StoreError):
                self.store.abort(Unfinished(self.key, self.id, datetime.now(UTC)))

    def _end(self) -> None:
        if self.senders is not None:
            self.senders.shutdown(wait=True)


@contextmanager
def told(what: str, verb: str) -> Iterator[None]:
    """boto3's errors as ours, in one line."""
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as refused:
        error = refused.response.get("Error", {})
        code = str(error.get("Code", ""))
        said = f"{code} {error.get('Message', '')}".strip()
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
            raise CredentialsError(
                f"{what}: cannot be {verb}: {said}", hint="correct the connection's access key and secret."
            ) from None
        raise StoreError(f"{what}: cannot be {verb}: {said}", hint=_HINTS.get(code, _AGAIN), code=code) from None
    except (BotoCoreError, HTTPError, OSError) as away:
        said = " ".join(f"{type(away).__name__}: {away}".split())[:300]
        raise StoreError(f"{what}: cannot be {verb}: {said}", hint=_AGAIN) from None


_AGAIN = "look whether the store answers, then run the task again: it starts from nothing half-done."
_HINTS = {
    "AccessDenied": "give the connection's key the right to list, read, write and delete in this bucket.",
    "NoSuchBucket": "make the bucket, or correct `backup.bucket` in the platform file.",
    "NoSuchKey": "somebody deleted it; use another backup.",
    "404": "somebody deleted it; use another backup.",
}
