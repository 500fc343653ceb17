"""The fault matrix: each thing that can be wrong with a stored backup is caught and named, and a healthy one passes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.backup_server import KEY, OTHER_KEY, BackupServer
from upkeep.backup import manifest, restoring, scratch, verification
from upkeep.backup.dump import ARCHIVE
from upkeep.backup.manifest import Manifest
from upkeep.backup.restoring import ForbiddenTargetError
from upkeep.errors import UpkeepError
from upkeep.platforms.database import Query
from upkeep.postgres.session import connect

SERVER = BackupServer


@pytest.fixture(scope="module")
def server(each: Callable[..., Any]) -> Iterator[BackupServer]:
    server: BackupServer = each(17, BackupServer).empty()
    server.fill()
    yield server
    server.empty()


@pytest.fixture(scope="module")
def healthy(server: BackupServer) -> Manifest:
    return server.back_up()


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x01]) + content[at + 1 :]


STORED: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "truncated by a tenth": ("truncated", r"was cut off: [\d,]+ of [\d,]+ bytes", lambda c: c[: len(c) * 9 // 10]),
    "empty": ("empty", r"is empty; it had [\d,]+ bytes", lambda c: b""),
    "a byte flipped at the start": ("changed", "changed or replaced: SHA-256", lambda c: flipped(c, 5)),
    "a byte flipped in compressed data": ("changed", "changed or replaced: SHA-256", lambda c: flipped(c, len(c) // 2)),
    "something appended": ("longer", r"has [\d,]+ bytes; it had", lambda c: c + b"\0"),
}


@pytest.mark.parametrize("fault", STORED)
def test_a_stored_object_that_was_changed_is_caught_by_reading_it_back(
    server: BackupServer, healthy: Manifest, fault: str
) -> None:
    kind, said, change = STORED[fault]
    (archive,) = healthy.role(ARCHIVE)
    content = server.archive(healthy)
    server.store.put(archive.key, change(content))
    try:
        faults = dict(server.read_back(healthy.id))
        assert kind in faults
        assert re.search(said, faults[kind]), faults
    finally:
        server.store.put(archive.key, content)
    assert server.read_back(healthy.id) == []


def test_an_object_that_is_gone_is_caught(server: BackupServer, healthy: Manifest) -> None:
    (roles,) = healthy.role("roles")
    content = b"".join(server.store.read(roles.key))
    server.store.delete(roles.key)
    try:
        assert server.read_back(healthy.id) == [("missing", f"{roles.key} is not there")]
    finally:
        server.store.put(roles.key, content)


def test_another_dump_in_its_place_is_caught(server: BackupServer, healthy: Manifest) -> None:
    (now,), content = healthy.role(ARCHIVE), server.archive(healthy)
    # Dumps of one second and the same rows are the same bytes.
    server("insert into public.nothing values (1)")
    other = server.back_up()
    server("truncate public.nothing")
    server.store.put(now.key, server.archive(other))
    try:
        assert [kind for kind, _ in server.read_back(healthy.id)] in (["changed"], ["truncated"], ["longer"])
    finally:
        server.store.put(now.key, content)


def test_a_dump_of_the_schema_alone_is_caught_without_restoring_it(server: BackupServer, healthy: Manifest) -> None:
    forged = server.forge(healthy, server.pg_dump("--schema-only"))
    ((kind, said),) = server.read_back(forged.id)
    assert (kind, said) == ("tables", "the archive holds no data of any of its 9 tables: the schema alone")
    assert ("rows", "public.users has 0 rows; the snapshot had 2,000") in server.restore(forged.id)


def test_a_table_that_was_left_out_is_caught(server: BackupServer, healthy: Manifest) -> None:
    forged = server.forge(healthy, server.pg_dump("--exclude-table=audit.log"))
    assert server.read_back(forged.id) == [("tables", "the archive holds no data of audit.log")]
    assert server.restore(forged.id) == [("tables", "not restored: audit.log")]
    hollow = server.forge(healthy, server.pg_dump("--exclude-table-data=audit.log"))
    assert server.read_back(hollow.id) == [("tables", "the archive holds no data of audit.log")]


def test_a_byte_of_uncompressed_data_with_an_honest_checksum_is_caught_by_its_digest(
    server: BackupServer, healthy: Manifest
) -> None:
    archive = server.pg_dump("-Z0")
    at = archive.index(b"user-1234@")
    forged = server.forge(healthy, flipped(archive, at))
    assert server.read_back(forged.id) == [], "consistent in itself"
    assert server.restore(forged.id) == [
        ("digest", "public.users has all 2,000 rows, and their content is not the snapshot's")
    ]


def test_a_stale_copy_with_its_own_honest_checksum_is_caught(server: BackupServer) -> None:
    before = server.pg_dump()
    server("insert into bookings values (9999, 1, now(), 'later', null); select setval('tickets', 5000)")
    try:
        forged = server.forge(server.back_up(), before)
    finally:
        server("delete from bookings where id = 9999")
    assert server.read_back(forged.id) == []
    assert server.restore(forged.id) == [
        ("rows", "public.bookings has 5,000 rows; the snapshot had 5,001"),
        ("sequence", "sequence public.tickets stands at 4,711; it stood at 5,000"),
    ]


def test_a_manifest_of_another_backup_or_platform_is_caught(server: BackupServer, healthy: Manifest) -> None:
    other = server.back_up()
    place, content = manifest.folder(server.prefix, other.id) + manifest.NAME, other.json_bytes()
    server.store.put(place, healthy.json_bytes())
    ((kind, said),) = server.read_back(other.id)
    assert kind == "manifest"
    assert f"it is the manifest of another backup: '{healthy.id}', not '{other.id}'" in said
    server.store.put(place, content.replace(b'"studyspot"', b'"adaptive_learning"', 1))
    assert "another platform: 'adaptive_learning'" in server.read_back(other.id)[0][1]
    server.store.put(place, content.replace(b'"rows": 2000', b'"rows": 1999'))
    assert "not the manifest that was written" in server.read_back(other.id, sha256="0" * 64)[0][1]
    server.store.put(place, content[: len(content) // 2])
    assert "broken: " in server.read_back(other.id)[0][1]
    server.store.delete(place)
    assert "not there" in server.read_back(other.id)[0][1]
    server.store.put(place, content)
    assert server.read_back(other.id) == []


def test_a_wrong_key_says_which_one_it_is(server: BackupServer) -> None:
    backup = server.back_up(key=KEY)
    for key, said in ((OTHER_KEY, f"the connection holds key {OTHER_KEY.id}"), (None, "there is no key")):
        faults = server.read_back(backup.id, key=key)
        assert [kind for kind, _ in faults] == ["key", "key"]
        assert f"it was encrypted with key {KEY.id}, and {said}" in faults[0][1]
    assert [kind for kind, _ in server.restore(backup.id, key=OTHER_KEY)] == ["unreadable", "unreadable"]
    assert server.read_back(backup.id, key=KEY) == []


def test_the_platforms_own_questions_are_asked(server: BackupServer, healthy: Manifest) -> None:
    questions = [
        Query(name="users", sql="select count(*) from users", at_least=3000),
        Query(name="gone", sql="select count(*) from subscriptions", at_least=1),
    ]
    assert server.restore(healthy.id, questions) == [
        ("query", "question users: 2000, and at least 3000 is right"),
        ("query", 'question gone cannot be asked: relation "subscriptions" does not exist'),
    ]


def test_nothing_is_restored_into_the_server_that_was_dumped(server: BackupServer, healthy: Manifest) -> None:
    assert healthy.database is not None
    with connect(server.conninfo) as connection, pytest.raises(ForbiddenTargetError, match="came from"):
        restoring.refuse_the_source(connection, healthy.database)


def test_ids_that_are_none_are_refused(server: BackupServer, healthy: Manifest) -> None:
    for id in ("../" + healthy.id, "'; drop table users", "$(id)", "", healthy.id + "/x", healthy.id.upper() + "\n"):
        with pytest.raises(UpkeepError, match="is not the id of a backup"):
            manifest.folder(server.prefix, id)


def test_what_is_told_names_the_backup_and_what_is_wrong(server: BackupServer, healthy: Manifest) -> None:
    forged = server.forge(healthy, server.pg_dump("--schema-only"))
    verdict = verification.read_back(server.subject(forged.id))
    outcome = verification.outcome(verification.BYTES, server.subject(forged.id), verdict)
    (finding,) = outcome.findings
    assert finding.summary.startswith(f"backup {forged.id} is broken: the archive holds no data of any of its 9 tables")
    assert finding.hint.startswith("it cannot be relied on: make another now")
    assert json.dumps(outcome.facts)


def test_without_room_or_the_right_server_nobody_claims_to_know(
    server: BackupServer, healthy: Manifest, tmp_path: Any
) -> None:
    place = scratch.directory(tmp_path, "studyspot", healthy.id, 9 * 10**15)
    with pytest.raises(scratch.ScratchError, match=r"GB free, and restoring this backup takes 9000000\.0"), place:
        pass
    assert healthy.database is not None
    ancient = healthy.database.model_copy(update={"server_version": 90624})
    forged = server.forge(healthy, server.archive(healthy), database=ancient)
    verdict = verification.restore(server.subject(forged.id), tmp_path, (), lambda path: None, lambda path: None)
    assert verdict.unknown.startswith("no PostgreSQL 9 server on this worker to restore into; install postgresql-9")
    assert verification.outcome(verification.CONTENT, server.subject(forged.id), verdict).state == "unknown"


@pytest.mark.parametrize(
    "said",
    [
        'could not extend file "base/5/16384": No space left on device',
        "pg_restore was killed by SIGKILL: it said nothing",
        'extension "vector" is not available',
        'invalid locale name: "de_DE.utf8"',
    ],
)
def test_what_the_worker_lacks_is_not_blamed_on_the_backup(said: str) -> None:
    assert restoring.this_workers_fault(f"pg_restore ended with 1: error: could not execute query: ERROR: {said}")
    assert not restoring.this_workers_fault("pg_restore ended with 1: invalid input syntax for type integer")


@pytest.mark.soak
def test_fifty_healthy_backups_raise_no_alarm(server: BackupServer) -> None:
    for number in range(50):
        server("update bookings set note = note || '!' where id %% 50 = %s", number)
        backup = server.back_up(key=KEY if number % 2 else None)
        assert server.read_back(backup.id, key=KEY) == []
        assert server.restore(backup.id, key=KEY) == []
