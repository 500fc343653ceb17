"""Rows of large tables are dealt out to several sessions: none lost, none torn, whatever they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backup_server import BackupServer
from upkeep.backup import loading, restoring
from upkeep.backup.loading import Rows
from upkeep.backup.programs import ProgramError
from upkeep.postgres.session import connect

SERVER = BackupServer

HEAD = b"--\n-- PostgreSQL database dump\n--\n\\restrict x\nSET client_encoding = 'LATIN1';\n\n"
COPY = b'COPY public."odd ""names" (a, "b\nc") FROM stdin;\n'
TAIL = b"\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict x\n"


@pytest.fixture(scope="module")
def server(each: Callable[..., Any]) -> Iterator[BackupServer]:
    server: BackupServer = each(17, BackupServer).empty()
    server.fill()
    yield server
    server.empty()


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from([b"", b"\\\\.", b"1\t2", b"a\\nb", b"\\N", b"x" * 50, b" \\."]), max_size=30),
    st.lists(st.integers(1, 90), min_size=1, max_size=10),
)
def test_every_row_comes_out_whole_however_the_script_arrives(rows: list[bytes], sizes: list[int]) -> None:
    script = HEAD + COPY + b"".join(row + b"\n" for row in rows) + TAIL
    pieces, at = [], 0
    while at < len(script):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(script[at : at + size])
        at += size
    found = Rows(iter(pieces))
    assert (found.encoding, found.statement) == ("LATIN1", 'COPY public."odd ""names" (a, "b\nc") FROM stdin')
    chunks = list(found)
    assert b"".join(chunks) == b"".join(row + b"\n" for row in rows)
    assert all(chunk.endswith(b"\n") for chunk in chunks)


@pytest.mark.parametrize("script", [b"", HEAD, HEAD + COPY + b"1\t2\n"])
def test_a_script_that_ends_too_early_is_no_end_of_the_rows(script: bytes) -> None:
    with pytest.raises(ProgramError, match=r"wrote no COPY|ended within a table"):
        list(Rows(iter([script])))


def test_all_tables_dealt_out_hold_what_the_snapshot_held(
    server: BackupServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LARGE", 1)
    dealt: list[str] = []
    original = loading._deal_out

    def noted(*arguments: Any) -> None:
        dealt.append(arguments[1].read_text())
        original(*arguments)

    monkeypatch.setattr(loading, "_deal_out", noted)
    made = server.back_up()
    assert server.restore(made.id) == []
    assert sum(" TABLE DATA " in entry for entry in dealt) >= 5
    assert any('odd "names' in entry for entry in dealt)


def test_rows_that_the_table_refuses_are_a_fault_and_nobody_waits(
    server: BackupServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LARGE", 1)
    made = server.back_up()
    plain = server.pg_dump("-Z0")
    at = plain.index(b"user-1234@example.com\t")
    # The first letter of a date that follows.
    broken = bytearray(plain)
    broken[at + len(b"user-1234@example.com\t")] = ord("x")
    forged = server.forge(made, bytes(broken))
    ((kind, said),) = server.restore(forged.id)
    assert kind == "restore"
    assert "invalid input syntax for type date" in said


def test_an_application_without_partitions_is_loaded_without_a_log(
    server: BackupServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, int]] = []
    compare = restoring.compare

    def look(conninfo: str, database: Any) -> Any:
        with connect(conninfo) as connection:
            rows = connection.execute(
                "select relpersistence::text as p, count(*) as n from pg_class where relkind = 'r' and oid >= 16384"
                " group by 1"
            ).fetchall()
            seen.append({row["p"]: row["n"] for row in rows})
        return compare(conninfo, database)

    monkeypatch.setattr(restoring, "compare", look)
    assert server.restore(server.back_up().id) == []
    server("drop table events")
    try:
        assert server.restore(server.back_up().id) == []
    finally:
        server.empty().fill()
    assert [set(kinds) for kinds in seen] == [{"p"}, {"u"}]
