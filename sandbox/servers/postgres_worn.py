"""What goes wrong with the platforms' PostgreSQL over months, or when somebody changes what they should not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from sandbox import processes
from sandbox.faults import fault
from sandbox.home import Home, SandboxError
from sandbox.servers import postgres
from sandbox.servers.held import hold, release
from sandbox.servers.postgres_faults import DATABASE, PRIMARY, STANDBY, wait_for_standby
from sandbox.unprivileged import unprivileged

LEARNING = "postgres.adaptive_learning"
LEARNING_DATABASE = "adaptive_learning"

BURNT = 1_050_000
"""Transactions since the snapshot of the report that never ends."""

USED = 1_100_000_000
"""Transaction ids of 2,147,483,648 that are in use then; fewer than where autovacuum would freeze at any hour."""

NO_AUTOMATIC_FREEZE = 2_000_000_000
"""The largest autovacuum_freeze_max_age, as somebody sets who wants to be left alone."""


# -- a snapshot that is never given up -----------------------------------------------------------------


def _hold_snapshot(home: Home) -> None:
    with postgres.superuser(home, STANDBY) as standby:
        standby.execute("alter system set hot_standby_feedback = on")
        standby.execute("select pg_reload_conf()")
    fresh = not processes.running(home, f"hold.{STANDBY}.old_snapshot")
    hold(home, "old_snapshot", STANDBY)
    if not fresh:
        return
    with postgres.superuser(home, PRIMARY, DATABASE) as primary:
        _wait_for_feedback(primary, there=True)
        # Rows that die now stay until the report ends; autovacuum is off for this table since the sandbox was filled.
        primary.execute("update bookings set updated_at = updated_at where hashint8extended(id, 0) & 1 = 0")
        primary.execute("set synchronous_commit = off")
        primary.execute(
            f"do $$ begin for i in 1..{BURNT} loop perform pg_current_xact_id(); commit; end loop; end $$",
            prepare=False,
        )
    wait_for_standby(home)


def _end_snapshot(home: Home) -> None:
    release(home, "old_snapshot", STANDBY)
    if processes.running(home, STANDBY):
        with postgres.superuser(home, STANDBY) as standby:
            standby.execute("alter system reset hot_standby_feedback")
            standby.execute("select pg_reload_conf()")
        if processes.running(home, PRIMARY):
            with postgres.superuser(home, PRIMARY) as primary:
                _wait_for_feedback(primary, there=False)


def _wait_for_feedback(primary: psycopg.Connection[Any], *, there: bool) -> None:
    """A standby says every ten seconds what its sessions still need to see."""
    question = "select coalesce(bool_or(xmin is not null), false) from pg_replication_slots where active"
    what = f"the standby's snapshot to {'come' if there else 'go'}"
    processes.wait_until(lambda: primary.execute(question).fetchone() == (there,), 30, what)


# -- transaction ids ------------------------------------------------------------------------------------


def _wear_out(home: Home) -> None:
    """The counter of the stopped server is set forward, as some busy years would."""
    with postgres.superuser(home, LEARNING) as server:
        question = "select max(age(datfrozenxid)), pg_current_xact_id()::text::bigint from pg_database"
        row = server.execute(question).fetchone()
        assert row
        age, now = row
        if age > USED // 2:
            return
        server.execute(f"alter system set autovacuum_freeze_max_age = {NO_AUTOMATIC_FREEZE}")
    processes.stop(home, LEARNING, timeout_s=30)
    facts, user = home.facts(LEARNING), unprivileged(home)
    data = Path(facts["data"])
    epoch, next_id = divmod(now + USED, 2**32)
    # After 4,294,967,295 comes 3.
    next_id = max(3, next_id)
    user.run(
        [Path(facts["bin"]) / "pg_resetwal", "-e", str(epoch), "-x", str(next_id), "-D", data],
        env={"LC_ALL": "C.UTF-8"},
    )
    # The commit log of the ids in between, 2 bits each: none of them was ever used.
    segment = data / "pg_xact" / f"{next_id // (8192 * 4 * 32):04X}"
    if not segment.exists():
        segment.write_bytes(bytes(8192 * 32))
        segment.chmod(0o600)
        user.give(segment)
    postgres.start_adaptive_learning(home)


def _freeze(home: Home) -> None:
    postgres.start_adaptive_learning(home)
    with postgres.superuser(home, LEARNING) as server:
        server.execute("alter system reset autovacuum_freeze_max_age")
        databases = [name for (name,) in server.execute("select datname from pg_database").fetchall()]
        server.execute("alter database template0 allow_connections true")
    try:
        for database in databases:
            with postgres.superuser(home, LEARNING, database) as connection:
                connection.execute("vacuum (freeze)")
    finally:
        with postgres.superuser(home, LEARNING) as server:
            server.execute("alter database template0 allow_connections false")
    _restart_learning(home)


def _restart_learning(home: Home) -> None:
    processes.stop(home, LEARNING, timeout_s=30)
    postgres.start_adaptive_learning(home)


# -- the archive of the log -----------------------------------------------------------------------------


def _archive_in_vain(home: Home) -> None:
    with postgres.superuser(home, LEARNING) as server:
        server.execute("alter system set archive_mode = on")
        server.execute("alter system set archive_command = '/bin/false'")
    _restart_learning(home)
    with postgres.superuser(home, LEARNING) as server:
        server.execute("select pg_logical_emit_message(true, 'sandbox', 'x')")
        server.execute("select pg_switch_wal()")
        question = "select failed_count > 0 and last_archived_time is null from pg_stat_archiver"
        processes.wait_until(lambda: server.execute(question).fetchone() == (True,), 30, "the archive to fail")


def _archive_nothing(home: Home) -> None:
    postgres.start_adaptive_learning(home)
    with postgres.superuser(home, LEARNING) as server:
        server.execute("alter system reset archive_mode")
        server.execute("alter system reset archive_command")
    _restart_learning(home)
    with postgres.superuser(home, LEARNING) as server:
        server.execute("select pg_stat_reset_shared('archiver')")


# -- rights, and a connection ---------------------------------------------------------------------------


def _revoke_maintenance(home: Home) -> None:
    with postgres.superuser(home, LEARNING, LEARNING_DATABASE) as server:
        server.execute("revoke pg_maintain from upkeep")
        # Without anything to do nobody would miss it.
        server.execute("update attempts set created_at = created_at")


def _grant_maintenance(home: Home) -> None:
    with postgres.superuser(home, LEARNING, LEARNING_DATABASE) as server:
        server.execute("grant pg_maintain to upkeep")


_COUNTER = "pg_catalog.pg_stat_get_dead_tuples(oid)"


def _hide_statistics(home: Home) -> None:
    with postgres.superuser(home, LEARNING, LEARNING_DATABASE) as server:
        server.execute(f"revoke execute on function {_COUNTER} from public")


def _show_statistics(home: Home) -> None:
    with postgres.superuser(home, LEARNING, LEARNING_DATABASE) as server:
        server.execute(f"grant execute on function {_COUNTER} to public")


def _lead_to_standby(home: Home) -> None:
    facts = home.facts(STANDBY)
    if not facts:
        raise SandboxError(f"there is no {STANDBY}\nHINT: python -m sandbox up --only {STANDBY}")
    primary = postgres.connection_to(home, PRIMARY, "upkeep", DATABASE)
    home.connect(f"{DATABASE}_postgres", {**primary, "port": facts["port"]})


def _lead_to_primary(home: Home) -> None:
    home.connect(f"{DATABASE}_postgres", postgres.connection_to(home, PRIMARY, "upkeep", DATABASE))


fault(
    "studyspot_old_snapshot",
    "a report on StudySpot's standby holds a snapshot a million transactions old: dead rows stay on the primary",
    break_=_hold_snapshot,
    heal=_end_snapshot,
)
fault(
    "studyspot_connection_to_standby",
    "after a failover nobody corrected the connection studyspot_postgres: it leads to the standby",
    break_=_lead_to_standby,
    heal=_lead_to_primary,
)
fault(
    "adaptive_learning_transaction_ids",
    "Adaptive Learning's database has used half of its transaction ids, and autovacuum was told not to freeze",
    break_=_wear_out,
    heal=_freeze,
)
fault(
    "adaptive_learning_archive_fails",
    "Adaptive Learning's database shall archive its log, and every attempt fails",
    break_=_archive_in_vain,
    heal=_archive_nothing,
)
fault(
    "adaptive_learning_vacuum_forbidden",
    "the maintenance role may no longer vacuum, and a table has dead rows",
    break_=_revoke_maintenance,
    heal=_grant_maintenance,
)
fault(
    "adaptive_learning_statistics_hidden",
    "nobody but a superuser may read how many dead rows a table has",
    break_=_hide_statistics,
    heal=_show_statistics,
)
