"""The pair on which a failover is rehearsed: whether it is whole, and whether the role may do what that takes."""

from __future__ import annotations

from upkeep.doctor.verdict import fine, missing
from upkeep.drill.failover.pair import Driver
from upkeep.findings import Outcome
from upkeep.postgres.session import connect
from upkeep.settings import ROOT

RIGHTS = ROOT / "include" / "sql" / "drill" / "rights.sql"
CURE = (
    "PGOPTIONS='-c upkeep.tables_owner=app_owner -c upkeep.drills=on' psql -X -v ON_ERROR_STOP=1"
    " -f include/sql/postgres/roles.sql"
)
LACKS = {
    "replication": "it may not replicate: no server can follow another as this role",
    "promotes": "it may not promote a standby",
    "rewinds": "it may not read the files that pg_rewind compares",
    "writes": "there is no table upkeep.drill_canary that it may write",
}


def look(driver: Driver, conn_id: str) -> list[Outcome]:
    """:raises psycopg.Error: the primary does not answer."""
    if wrong := driver.ill():
        return [missing("pair", conn_id, wrong, "mend it: a drill begins with a whole pair")]
    outcomes = [fine("pair", conn_id, f"{driver.look()}, streaming")]
    with connect(f"{driver.conninfo()} target_session_attrs=read-write") as connection:
        row = connection.execute(RIGHTS.read_text()).fetchone()
    assert row is not None
    outcomes += [missing("rights", conn_id, said, CURE) for name, said in LACKS.items() if not row[name]]
    return outcomes
