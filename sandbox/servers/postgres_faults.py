"""What can go wrong with the platforms' PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from psycopg import sql

from sandbox import processes
from sandbox.faults import fault
from sandbox.home import Home
from sandbox.servers import postgres
from sandbox.servers.held import hold, release

PRIMARY = "postgres.studyspot"
STANDBY = "postgres.studyspot_standby"
DATABASE = "studyspot"
SLOT = "sandbox_abandoned"


def _start_primary(home: Home) -> None:
    postgres.start_studyspot(home)
    wait_for_standby(home)


def _start_standby(home: Home) -> None:
    postgres.start_studyspot_standby(home)
    wait_for_standby(home)


def wait_for_standby(home: Home) -> None:
    """Healed is when the standby, if there is one, streams and has replayed what there was."""
    if processes.running(home, STANDBY) and processes.running(home, PRIMARY):
        with postgres.superuser(home, PRIMARY) as connection:
            row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
            question = "select from pg_stat_replication where state = 'streaming' and replay_lsn >= %s::pg_lsn"
            processes.wait_until(
                lambda: connection.execute(question, row).fetchone() is not None, 20, f"{STANDBY} to catch up"
            )


def _wrong_password(home: Home) -> None:
    with postgres.superuser(home, PRIMARY) as connection:
        postgres.set_password(connection, "upkeep", secrets.token_urlsafe(18))


def _right_password(home: Home) -> None:
    with postgres.superuser(home, PRIMARY) as connection:
        postgres.set_password(connection, "upkeep", home.facts(PRIMARY)["passwords"]["upkeep"])


def _pause(home: Home) -> None:
    with postgres.superuser(home, STANDBY) as connection:
        connection.execute("select pg_wal_replay_pause()")
    hold(home, "writes", PRIMARY)


def _resume(home: Home) -> None:
    release(home, "writes", PRIMARY)
    with postgres.superuser(home, STANDBY) as connection:
        connection.execute("select pg_wal_replay_resume()")
    wait_for_standby(home)


def _abandon_slot(home: Home) -> None:
    with postgres.superuser(home, PRIMARY) as connection:
        known = connection.execute("select slot_name from pg_replication_slots where slot_name = %s", (SLOT,))
        if known.fetchone():
            return
        connection.execute("select pg_create_physical_replication_slot(%s, true)", (SLOT,))
        # Three segments of 16 MB that nobody will fetch.
        for _ in range(3):
            connection.execute("select pg_logical_emit_message(true, 'sandbox', repeat('x', 8192))")
            connection.execute("select pg_switch_wal()")


def _drop_slot(home: Home) -> None:
    with postgres.superuser(home, PRIMARY) as connection:
        connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", (SLOT,)
        )


def _read_only(home: Home) -> None:
    with postgres.superuser(home, PRIMARY) as connection:
        statement = "alter database {} set default_transaction_read_only = on"
        connection.execute(sql.SQL(statement).format(sql.Identifier(DATABASE)))


def _writable(home: Home) -> None:
    with postgres.superuser(home, PRIMARY) as connection:
        statement = "alter database {} reset default_transaction_read_only"
        connection.execute(sql.SQL(statement).format(sql.Identifier(DATABASE)))


def _rename(old: str, new: str) -> Callable[[Home], None]:
    def rename(home: Home) -> None:
        with postgres.superuser(home, PRIMARY, DATABASE) as connection:
            statement = "alter table if exists {} rename to {}"
            connection.execute(sql.SQL(statement).format(sql.Identifier(old), sql.Identifier(new)))

    return rename


def _held(wrong: str) -> Callable[[Home], None]:
    return lambda home: hold(home, wrong, PRIMARY)


def _released(wrong: str) -> Callable[[Home], None]:
    def heal(home: Home) -> None:
        release(home, wrong, PRIMARY)
        if processes.running(home, PRIMARY):
            with postgres.superuser(home, PRIMARY) as connection:
                # Other faults may hold sessions of their own, so it is this one's that must have gone.
                question = "select from pg_stat_activity where application_name = %s"
                processes.wait_until(
                    lambda: connection.execute(question, (postgres.held(wrong),)).fetchone() is None,
                    10,
                    f"the sessions of {wrong} to end",
                )

    return heal


fault(
    "studyspot_postgres_down",
    "StudySpot's primary is stopped",
    break_=lambda home: processes.stop(home, PRIMARY),
    heal=_start_primary,
)
fault(
    "adaptive_learning_postgres_down",
    "Adaptive Learning's database is stopped",
    break_=lambda home: processes.stop(home, "postgres.adaptive_learning"),
    heal=postgres.start_adaptive_learning,
)
fault(
    "studyspot_postgres_wrong_password",
    "StudySpot's database refuses the maintenance role's published password",
    break_=_wrong_password,
    heal=_right_password,
)
fault(
    "studyspot_standby_down",
    "StudySpot's standby is stopped",
    break_=lambda home: processes.stop(home, STANDBY),
    heal=_start_standby,
)
fault(
    "studyspot_standby_paused",
    "StudySpot's standby receives and does not replay; its lag grows",
    break_=_pause,
    heal=_resume,
)
fault(
    "studyspot_idle_in_transaction",
    "a session holds a row lock and never commits",
    break_=_held("idle_in_transaction"),
    heal=_released("idle_in_transaction"),
)
fault(
    "studyspot_blocked_query",
    "an update waits for a row that an idle session has locked",
    break_=_held("blocked_query"),
    heal=_released("blocked_query"),
)
fault(
    "studyspot_long_query",
    "a statement that will take a day",
    break_=_held("long_query"),
    heal=_released("long_query"),
)
fault(
    "studyspot_table_missing",
    "there is no table seats any more",
    break_=_rename("seats", "seats_of_last_year"),
    heal=_rename("seats_of_last_year", "seats"),
)
fault(
    "studyspot_connections_full",
    "93 % of the sessions that ordinary roles may open are in use",
    break_=_held("connections"),
    heal=_released("connections"),
)
fault(
    "studyspot_inactive_slot",
    "an abandoned replication slot holds back 48 MB of WAL and counting",
    break_=_abandon_slot,
    heal=_drop_slot,
)
fault(
    "studyspot_read_only",
    "every new transaction of StudySpot's database is read-only",
    break_=_read_only,
    heal=_writable,
)
