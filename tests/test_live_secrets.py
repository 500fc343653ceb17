"""After runs that go well and that fail: no password is in a log, an XCom, a rendered field, the ledger or a report."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from sandbox import airflow
from sandbox.faults import break_it, heal_it
from tests.conftest import Live

pytestmark = [pytest.mark.live, pytest.mark.soak]

FAULTS = ("studyspot_redis_wrong_password", "studyspot_postgres_wrong_password")
"""What fails tells about passwords most easily."""


def planted(live: Live) -> dict[str, list[bytes]]:
    """Every password of the sandbox's connections, in each spelling in which it might get out."""
    found = {}
    for conn_id, connection in live.home.state()["connections"].items():
        secret = str(connection.get("password") or "")
        # Shorter ones are words of their own.
        if len(secret) >= 12:
            plain = secret.encode()
            spellings = {plain, quote(secret, safe="").encode(), base64.b64encode(plain)}
            found[conn_id] = sorted(spellings)
    return found


def files(*directories: Path) -> Iterator[tuple[str, bytes]]:
    for directory in directories:
        for file in sorted(directory.rglob("*")):
            if file.is_file() and not file.is_symlink() and file.stat().st_size < 100_000_000:
                yield str(file), file.read_bytes()


def tables(conninfo: str, leave: str = "^$") -> Iterator[tuple[str, bytes]]:
    """Every row of every table, as JSON."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        names = connection.execute(
            "select quote_ident(tablename) from pg_tables where schemaname = 'public'"
        ).fetchall()
        for (name,) in names:
            if re.search(leave, name):
                continue
            with connection.cursor().copy(f"copy (select to_jsonb(t) from {name} as t) to stdout") as rows:
                yield name, b"".join(bytes(row) for row in rows)


def places(live: Live) -> Iterator[tuple[str, bytes]]:
    environment = airflow.environment(live.home)
    yield from files(live.home.logs, Path(environment["AIRFLOW_HOME"]) / "logs", live.home.path / "reports")
    yield from tables(airflow.ledger_conninfo(live.home))
    # Where Airflow itself keeps connections, and what it signs cookies with.
    dsn = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    yield from tables(dsn, leave="^(connection|session|ab_user)$")


def test_no_password_leaves_the_connections(live: Live) -> None:
    secrets = planted(live)
    assert len(secrets) >= 5, "passwords were planted"
    for name in FAULTS:
        break_it(live.home, name)
    try:
        secrets = {**secrets, **{f"{conn_id} (wrong)": spelt for conn_id, spelt in planted(live).items()}}
        live.maintain_all(("studyspot", "adaptive_learning"))
    finally:
        for name in FAULTS:
            heal_it(live.home, name)
    live.maintain_all(("studyspot", "adaptive_learning"))
    live.deliver()
    looked, out = 0, []
    for place, content in places(live):
        looked += len(content)
        out += [f"{conn_id} in {place}" for conn_id, spelt in secrets.items() for one in spelt if one in content]
    assert out == []
    assert looked > 1_000_000, "there was something to look through"


def test_the_search_finds_what_is_there(live: Live) -> None:
    """Its own negative control."""
    secret = next(iter(planted(live).values()))[0]
    file = live.home.logs / "planted.log"
    file.write_bytes(b"dsn=" + secret)
    try:
        assert any(secret in content for place, content in files(live.home.logs) if place == str(file))
    finally:
        file.unlink()
