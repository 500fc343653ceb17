"""The ledger: whether it answers, and has the tables of this version."""

from __future__ import annotations

import psycopg

from upkeep.doctor.postgres import connect
from upkeep.doctor.verdict import fine, missing, note
from upkeep.findings import Outcome
from upkeep.ledger.migrate import newest

SETUP = "python -m upkeep setup"


def look(conninfo: str, conn_id: str) -> list[Outcome]:
    """:raises psycopg.Error: the connection broke while it was looked at."""
    connection = connect(conninfo, conn_id)
    if isinstance(connection, Outcome):
        return [connection]
    with connection:
        server = f"PostgreSQL {connection.info.parameter_status('server_version')}"
        outcomes = [fine("connect", conn_id, server)]
        try:
            row = connection.execute("select version_num as revision from upkeep_version").fetchone()
        except psycopg.errors.UndefinedTable:
            row = None
        found, wanted = (row or {}).get("revision"), newest()
        if found == wanted:
            outcomes.append(fine("revision", conn_id, f"revision {found}"))
        elif found is None:
            outcomes.append(missing("revision", conn_id, "the ledger has no tables yet", SETUP))
        elif found < wanted:
            outcomes.append(missing("revision", conn_id, f"revision {found}, this version needs {wanted}", SETUP))
        else:
            said = f"revision {found} is newer than this version's {wanted}"
            outcomes.append(note("revision", conn_id, said, "bring all machines to the same version of Upkeep"))
    return outcomes
