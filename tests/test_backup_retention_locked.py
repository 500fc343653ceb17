"""Object Lock and legal holds: what must not go yet is put off and whole, and goes when it may."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config

from sandbox.home import Home
from sandbox.servers import s3
from tests.backup_bucket import DAY, Bucket
from tests.backup_lock import locking
from tests.test_backup_retention import findings, job
from upkeep.backup.manifest import folder
from upkeep.backup.retention.work import carry_out
from upkeep.backup.store import Store
from upkeep.ledger import Ledger

WHOLE = ["archive", "manifest.json", "roles"]


@pytest.fixture
def bucket(home: Home, ledger: Ledger) -> Iterator[Bucket]:
    """Two young backups and an old one, marked two days ago, in a bucket with Object Lock."""
    made = Bucket(home, ledger, f"{uuid4().hex}/")
    connection = s3.connection_to(home)
    with locking(connection["extra"]["endpoint_url"]) as store:
        client = boto3.client(
            "s3", endpoint_url=store.url, region_name="us-east-1", aws_access_key_id=connection["login"],
            aws_secret_access_key=connection["password"], config=Config(**connection["extra"]["config_kwargs"]),
        )  # fmt: skip
        made.store = Store(client, made.store.bucket)
        yield made


def old(bucket: Bucket, lock: timedelta | None = None) -> str:
    for n in (0.1, 1):
        bucket.make(n * DAY)
    bucket.store.lock = lock
    id = bucket.make(40 * DAY)
    bucket.store.lock = None
    bucket.found(id, marked_at=bucket.row(id)["recorded_at"] - 2 * DAY)
    return id


def last_action(bucket: Bucket) -> dict[str, str]:
    return bucket.ledger.rows("select verb, state, reason from actions order by id desc limit 1")[0]


def test_what_object_lock_keeps_is_put_off_and_goes_when_the_lock_runs_out(bucket: Bucket) -> None:
    id = old(bucket, timedelta(seconds=4))
    result = carry_out(job(bucket))
    assert (result.deleted, list(result.deferred), result.failed) == ([], [id], {})
    assert findings(job(bucket), result) == {}, "put off is not failed"
    action = last_action(bucket)
    assert (action["verb"], action["state"]) == ("delete", "skipped")
    assert "deferred: s3://" in action["reason"]
    assert "Object Lock keeps it until" in action["reason"]
    assert bucket.keys(id) == WHOLE
    time.sleep(4)
    assert carry_out(job(bucket)).deleted == [id]
    assert bucket.keys(id) == []


def test_a_legal_hold_on_one_object_alone_keeps_all_of_the_backup(bucket: Bucket) -> None:
    id = old(bucket)
    key = f"{folder(bucket.prefix, id)}roles"
    where = {"Bucket": bucket.store.bucket, "Key": key}
    bucket.store.client.put_object_legal_hold(**where, LegalHold={"Status": "ON"})
    result = carry_out(job(bucket))
    assert result.deferred == {id: f"s3://{bucket.store.bucket}/{key}: it is on legal hold"}
    assert bucket.keys(id) == WHOLE, "its manifest as well"
    bucket.store.client.put_object_legal_hold(**where, LegalHold={"Status": "OFF"})
    assert carry_out(job(bucket)).deleted == [id]


def test_a_store_that_refuses_for_another_reason_is_a_finding_and_the_next_run_goes_on(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = old(bucket)
    monkeypatch.setattr("tests.backup_lock.LockingStore.locked", lambda store, path: path.endswith("/roles"))
    result = carry_out(job(bucket))
    assert list(result.failed) == [id]
    finding = findings(job(bucket), result)["backup_retention"]
    assert finding.summary.startswith(f"could not be deleted: {id}: s3://")
    assert "AccessDenied" in finding.summary
    assert last_action(bucket)["state"] == "failed"
    assert bucket.keys(id) == ["roles"], "half deleted, and no backup any more"
    monkeypatch.undo()
    again = carry_out(job(bucket))
    assert (again.deleted, bucket.keys(id)) == ([id], [])
    assert findings(job(bucket), again) == {}
