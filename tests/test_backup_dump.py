"""Dumps and the digests of their snapshot: what is stored is what was there, and what failed is not stored."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.backup_server import KEY, BackupServer
from upkeep.backup import programs
from upkeep.backup.programs import ProgramError, Programs
from upkeep.errors import SettingsError
from upkeep.platforms.database import Query

SERVER = BackupServer

QUESTIONS = (
    Query(name="users", sql="select count(*) from users", at_least=2000),
    Query(name="half", sql="select 0.5", at_least=0.5),
)


def test_what_was_there_is_what_comes_back(server: BackupServer) -> None:
    server.fill()
    backup = server.back_up(key=KEY if server.version == 17 else None)
    assert backup.database is not None
    tables = {one.full_name: one for one in backup.database.tables}
    assert tables["public.bookings"].rows == 5000
    assert tables["public.events_2025"].rows == 500
    assert "public.events" not in tables
    assert {name for name, one in tables.items() if one.method == "text"} == {'public.odd "names', "upkeep.retention"}
    assert backup.database.sequences[0].full_name == "public.tickets"
    assert backup.database.sequences[0].after == 4711
    assert backup.compression == ("archive" if server.version == 17 else "gzip")
    assert {one.role for one in backup.objects} == {"archive", "roles"}
    assert server.read_back(backup.id, key=KEY) == []
    assert server.restore(backup.id, QUESTIONS, key=KEY) == []


def test_what_is_written_meanwhile_is_in_neither_dump_nor_digests(seventeen: BackupServer) -> None:
    seventeen.fill()
    stop = threading.Event()

    def application() -> None:
        number = 10_000
        while not stop.wait(0.001):
            number += 1
            seventeen("insert into bookings values (%s, 1, now(), 'new', null)", number)
            seventeen("update users set pay = nextval('tickets') where id = 1 + %s %% 2000", number)

    def choose(version: int) -> Programs:
        # The snapshot is taken; from here on nothing counts.
        seventeen("delete from bookings where id <= 1000")
        return seventeen.choose(version)

    writer = threading.Thread(target=application)
    writer.start()
    try:
        backup = seventeen.back_up(choose=choose)
    finally:
        stop.set()
        writer.join()
    assert backup.database is not None
    (bookings,) = [one for one in backup.database.tables if one.name == "bookings"]
    assert bookings.rows >= 5000
    assert seventeen.restore(backup.id) == []


def test_every_row_as_text_for_another_version(seventeen: BackupServer) -> None:
    seventeen.fill()
    backup = seventeen.back_up(portable=True)
    assert backup.database is not None
    assert {one.method for one in backup.database.tables} == {"text"}
    assert {one.full_name: one.rows for one in backup.database.tables}["public.users"] == 2000


def test_a_client_older_than_the_server_is_refused(seventeen: BackupServer, monkeypatch: pytest.MonkeyPatch) -> None:
    seventeen.fill()
    old = Programs(Path("/nowhere"), 150018, "15.18")
    monkeypatch.setattr(programs, "installed", lambda more: [old])
    refused = (
        r"newest pg_dump on this worker is 15\.18, and the server is version 17(.|\n)*install postgresql-client-17"
    )
    with pytest.raises(SettingsError, match=refused):
        seventeen.back_up()
    assert list(seventeen.store.objects(seventeen.prefix)) == []


def test_the_programs_of_the_servers_version_come_before_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Programs(Path("/x"), version, "") for version in (180006, 170010, 170004, 150018)]
    monkeypatch.setattr(programs, "installed", lambda more: found)
    assert programs.client(170002).version == 170010
    assert programs.client(160002).version == 170010
    assert programs.client(180001).version == 180006


def broken(server: BackupServer, path: Path, script: str) -> Programs:
    """The server's programs, with a pg_dump of our own."""
    real = server.choose(server.version * 10_000)
    path.mkdir()
    for name in ("pg_dumpall", "pg_restore", "psql"):
        (path / name).symlink_to(real(name))
    (path / "pg_dump").write_text(f"#!/bin/sh\nreal={real('pg_dump')}\n{script}\n")
    (path / "pg_dump").chmod(stat.S_IRWXU)
    return Programs(path, real.version, real.text)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('"$real" "$@" | head -c 20000; echo "connection was lost" >&2; exit 1', "ended with 1: connection was lost"),
        ('"$real" "$@" | head -c 20000; kill -9 $$', "was killed by SIGKILL"),
    ],
    ids=["fails half way", "is killed half way"],
)
def test_a_dump_that_failed_half_way_leaves_nothing(
    seventeen: BackupServer, tmp_path: Path, script: str, said: str
) -> None:
    seventeen.fill()
    with pytest.raises(ProgramError, match=said):
        seventeen.back_up(choose=lambda version: broken(seventeen, tmp_path / "bin", script))
    assert list(seventeen.store.objects(seventeen.prefix)) == []
    assert seventeen.store.unfinished(seventeen.prefix) == []


def test_no_password_stands_among_the_arguments_or_in_the_bucket(seventeen: BackupServer, tmp_path: Path) -> None:
    seventeen.fill()
    note = tmp_path / "seen"
    script = f'echo "$@" > {note}; exec "$real" "$@"'
    backup = seventeen.back_up(choose=lambda version: broken(seventeen, tmp_path / "bin", script))
    password = seventeen.conninfo.split("password=")[1].split()[0]
    assert "snapshot=" in note.read_text()
    assert password not in note.read_text()
    roles = b"".join(seventeen.store.read(backup.role("roles")[0].key)).decode()
    assert "CREATE ROLE upkeep_owner" in roles
    assert "PASSWORD" not in roles
    assert os.environ.get("PGPASSWORD") is None
