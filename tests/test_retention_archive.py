"""Rows copied to S3 before they are deleted: what is in the archive is what went, whatever happened meanwhile."""

from __future__ import annotations

import gzip
import threading
from typing import Any

import psycopg
import pytest

from sandbox.home import Home
from tests.retention_server import BOOKINGS, FAST, RetentionServer, archived, bucket, people
from upkeep.platforms.database import Retention
from upkeep.retention import archive as archives
from upkeep.retention import deleting
from upkeep.retention.archive import Archive, ArchiveError

ARCHIVED = BOOKINGS.model_copy(update={"archive": True})

SERVER = RetentionServer


@pytest.fixture
def server(seventeen: RetentionServer) -> RetentionServer:
    return seventeen


@pytest.fixture
def archive(home: Home, request: pytest.FixtureRequest) -> Archive:
    client, name = bucket(home)
    return Archive(client, name, f"{abs(hash(request.node.name))}/", rows=300)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deleting, "AGAIN_S", 0.2)


def old(server: RetentionServer) -> dict[int, Any]:
    """What is expired, as JSON, by id."""
    rows = server("select id, row_to_json(b) from bookings as b where made < now() - interval '1098 days'")
    return dict(rows)


def utc(rows: dict[int, Any]) -> set[tuple[Any, ...]]:
    return {(row["id"], row["user_id"], row["note"], row["paid"]) for row in rows.values()}


def by_id(rows: list[dict[str, Any]]) -> dict[int, Any]:
    assert len({row["id"] for row in rows}) == len(rows), "nothing twice"
    return {row["id"]: row for row in rows}


def test_what_is_archived_is_what_went_and_can_be_read_back(server: RetentionServer, archive: Archive) -> None:
    people(server)
    before, whole = old(server), server("select * from bookings order by id")
    item = server.plan(bookings=ARCHIVED)["public.bookings"]
    result = server.delete(item, archive=archive)
    assert (result.state, result.deleted, result.changed) == ("done", len(before), 0)
    assert result.archives == -(-len(before) // 300)
    rows = by_id(archived(archive))
    assert utc(rows) == utc(before)
    assert not old(server)
    lines = []
    for one in archive.client.list_objects_v2(Bucket=archive.bucket, Prefix=archive.prefix)["Contents"]:
        if one["Key"].endswith(".jsonl.gz"):
            body = archive.client.get_object(Bucket=archive.bucket, Key=one["Key"])["Body"].read()
            lines += gzip.decompress(body).decode().splitlines()
    with psycopg.connect(server.owner, autocommit=True) as connection, connection.cursor() as cursor:
        back = "insert into bookings select * from json_populate_record(null::bookings, %s)"
        cursor.executemany(back, [(line,) for line in lines])
    assert server("select * from bookings order by id") == whole


def test_rows_that_change_after_they_were_archived_stay_and_the_manifest_says_so(
    server: RetentionServer, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(server)
    before = old(server)
    changed, held = sorted(before)[-3:], sorted(before)[-5:-3]
    first = deleting._Work._drain

    def application_comes_in_between(work: Any, connection: Any, segment: Any) -> None:
        server("update bookings set note = 'changed' where id = any(%s) and note <> 'changed'", changed)
        with server.session(f"select from bookings where id = any(array{held}) for update"):
            first(work, connection, segment)

    monkeypatch.setattr(deleting._Work, "_drain", application_comes_in_between)
    item = server.plan(bookings=ARCHIVED)["public.bookings"]
    result = server.delete(item, archive=archive)
    assert result.changed == 5
    assert result.deleted == len(before) - 5
    assert set(old(server)) == {*changed, *held}
    assert set(by_id(archived(archive))) == set(before) - {*changed, *held}
    monkeypatch.undo()
    assert server.delete(server.plan(bookings=ARCHIVED)["public.bookings"], plan="b" * 64, archive=archive).deleted == 5
    rows = by_id(archived(archive))
    assert set(rows) == set(before)
    assert all(rows[number]["note"] == "changed" for number in changed)


def test_what_arrived_broken_is_not_deleted(
    server: RetentionServer, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(server)
    before = old(server)
    upload = archives._Multipart.complete

    def loses_its_end(self: Any, buffer: Any) -> None:
        content = gzip.decompress(buffer.getvalue())
        buffer.seek(0)
        buffer.truncate()
        buffer.write(gzip.compress(content[: content.rstrip(b"\n").rfind(b"\n") + 1]))
        upload(self, buffer)

    monkeypatch.setattr(archives._Multipart, "complete", loses_its_end)
    item = server.plan(bookings=ARCHIVED)["public.bookings"]
    with pytest.raises(ArchiveError, match=r"sent 300 rows, \w{64}, read back 299 rows(.|\n)*HINT: nothing of it"):
        server.delete(item, archive=archive)
    assert old(server) == before
    monkeypatch.undo()
    assert server.delete(item, archive=archive).deleted == len(before)
    assert utc(by_id(archived(archive))) == utc(before)


def test_large_segments_go_in_parts(server: RetentionServer, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    # S3 wants 5 MiB at least, but for the last.
    monkeypatch.setattr(archives, "PART", 5 * 1024 * 1024)
    server("create table log (id int primary key, made timestamptz, body text)")
    server(
        "insert into log select i, now() - interval '4 years', string_agg(md5(i || ' ' || j), '')"
        " from generate_series(1, 400) as i, generate_series(1, 1100) as j group by i"
    )
    server("create index on log (made)")
    archive.rows = 1000
    sent = []
    part = archives._Multipart.part
    monkeypatch.setattr(archives._Multipart, "part", lambda *a: (sent.append(a[1].tell()), part(*a))[1])
    item = server.plan(log=ARCHIVED)["public.log"]
    assert server.delete(item, archive=archive).deleted == 400
    assert len(sent) > 1
    assert set(by_id(archived(archive))) == set(range(1, 401))


def test_a_row_held_between_archive_and_deletion_stays(
    server: RetentionServer, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(server)
    server("create table holds (booking int primary key)")
    rule = Retention(
        column="made", keep="3y", archive=True,  # type: ignore[arg-type]
        hold="exists (select from holds where holds.booking = bookings.id)",
    )  # fmt: skip
    item = server.plan(bookings=rule)["public.bookings"]
    load = archive._confirm
    monkeypatch.setattr(
        archive, "_confirm",
        lambda *a: (load(*a), server("insert into holds values (4000), (3999) on conflict do nothing"))[0],
    )  # fmt: skip
    result = server.delete(item, archive=archive)
    assert result.changed == 2
    assert set(old(server)) == {3999, 4000}
    assert not {3999, 4000} & set(by_id(archived(archive)))


def test_an_archive_confirmed_under_an_older_plan_is_finished_first(server: RetentionServer, archive: Archive) -> None:
    people(server)
    before = old(server)
    item = server.plan(bookings=ARCHIVED)["public.bookings"]
    asked = threading.Event()

    def once() -> str:
        # The first segment is confirmed, and the window closes.
        active = server.superuser("select archive from upkeep.retention where archive is not null")
        return "the standby is behind" if active and not asked.set() else ""

    assert server.delete(item, FAST, archive=archive, go=once).state == "stopped"
    assert len(old(server)) == len(before)
    later = server.plan(bookings=ARCHIVED)["public.bookings"]
    server.delete(later, plan="c" * 64, archive=archive)
    assert not old(server)
    assert utc(by_id(archived(archive))) == utc(before)
    assert server.recorded() == len(before)
