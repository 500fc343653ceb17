"""S3 on a bad day: what it can get over it gets over, and what it cannot leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.home import Home
from sandbox.servers import s3
from tests.backup_proxy import Proxy, proxied
from upkeep.backup import manifest
from upkeep.backup import store as stores
from upkeep.backup.store import Store, StoreError
from upkeep.errors import CredentialsError

PART = 5 * 1024 * 1024


@pytest.fixture
def proxy(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(stores, "PART", PART)
    s3.start_s3(home)
    with proxied(home.facts("s3")["endpoint_url"]) as proxy:
        yield proxy


def client(home: Home, url: str, **changed: Any) -> Any:
    import boto3
    from botocore.config import Config

    known = s3.connection_to(home)
    config = Config(
        **known["extra"]["config_kwargs"], read_timeout=1, retries={"mode": "standard", "total_max_attempts": 3}
    )
    keys = {"aws_access_key_id": known["login"], "aws_secret_access_key": known["password"], **changed}
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config, **keys)


@pytest.fixture
def store(home: Home, proxy: Proxy) -> Store:
    return Store(client(home, proxy.url), "studyspot-backups")


def pieces(size: int) -> tuple[bytes, list[bytes]]:
    content = os.urandom(size)
    return content, [content[at : at + 700_001] for at in range(0, size, 700_001)]


@pytest.mark.parametrize("wrong", ["500", "503", "reset", pytest.param("silence", marks=pytest.mark.soak)])
def test_a_moment_of_trouble_is_got_over(store: Store, proxy: Proxy, wrong: str) -> None:
    content, cut = pieces(2 * PART + 1000)
    proxy.wrong, proxy.when, proxy.count = wrong, "partNumber=2", 1
    (written,) = store.write(f"store/{wrong}", cut)
    assert proxy.done == 1
    assert (written.bytes, written.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    proxy.when, proxy.count, proxy.done = "GET /studyspot-backups/store/", 1, 0
    assert b"".join(store.read(f"store/{wrong}")) == content
    assert proxy.done == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("503", r"s3://studyspot-backups/store/x: cannot be given part 2: SlowDown injected(.|\n)*run the task again"),
        ("403", r"cannot be given part 2: AccessDenied injected(.|\n)*HINT: give the connection's key the right"),
        ("reset", r"cannot be given part 2: \w+"),
        pytest.param("silence", r"cannot be given part 2: ReadTimeoutError", marks=pytest.mark.soak),
    ],
)
def test_trouble_that_lasts_leaves_nothing(store: Store, proxy: Proxy, wrong: str, said: str) -> None:
    _, cut = pieces(2 * PART + 1000)
    proxy.wrong, proxy.when, proxy.count = wrong, "partNumber=2", 99
    with pytest.raises(StoreError, match=said):
        store.write("store/x", cut)
    assert store.size("store/x") is None
    assert store.unfinished("store/") == []


def test_long_streams_go_on_in_the_next_object(home: Home, store: Store) -> None:
    content, cut = pieces(2 * PART + 1500)
    written = store.write("store/long", cut, volume=PART + 999)
    assert [one.key for one in written] == ["store/long", "store/long.001"]
    assert [one.bytes for one in written] == [PART + 999, PART + 501]
    assert b"".join(b"".join(store.read(one.key)) for one in written) == content
    store.check(written)


def test_wrong_keys_and_buckets_say_what_to_do(home: Home, proxy: Proxy, store: Store) -> None:
    with pytest.raises(CredentialsError, match=r"SignatureDoesNotMatch(.|\n)*correct the connection's access key"):
        Store(client(home, proxy.url, aws_secret_access_key="wrong"), "studyspot-backups").put("store/x", b"")
    with pytest.raises(StoreError, match=r"s3://nowhere/x: cannot be listed: NoSuchBucket(.|\n)*`backup.bucket`"):
        list(Store(store.client, "nowhere").objects("x"))
    store.put("store/five", b"12345")
    with pytest.raises(StoreError, match="5 bytes, at most 4"):
        store.get("store/five", most=4)
    assert store.get("store/none", most=4) is None


def test_what_is_gone_or_of_another_size_is_noticed(store: Store) -> None:
    written = store.put("store/kept", b"12345")
    store.check([written])
    store.put("store/kept", b"1234")
    with pytest.raises(StoreError, match="store/kept: 4 bytes, and 5 were sent"):
        store.check([written])
    store.delete("store/kept")
    with pytest.raises(StoreError, match="not there, and 5 were sent"):
        store.check([written])


def test_a_folder_whose_objects_went_between_two_questions_is_no_backup(store: Store) -> None:
    id = "20260101T000000Z-00000000"
    # The folder is named by the first question, and empty at the second, whatever the store does with empty ones.
    store.folders = lambda prefix: iter([id])  # type: ignore[method-assign]
    assert list(manifest.ids(store, "gone/")) == []
    assert manifest.committed(store, "gone/") == []
