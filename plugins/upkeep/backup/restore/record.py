"""The ledger's table of restores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from upkeep.backup.restore.form import Asked
from upkeep.errors import LedgerError, SettingsError
from upkeep.ledger import Ledger, Run
from upkeep.ledger.jsonb import jsonb, text

State = Literal["chosen", "loading", "loaded", "proved", "replayed", "swapped", "back", "removed"]

LONGEST = 63
"""Bytes of a name in PostgreSQL."""


@dataclass(frozen=True)
class Restore:
    """One restore, as far as it has come."""

    id: str
    platform: str
    backup: str
    live: str
    """The database that is used."""

    made: str
    """The one that is restored beside it."""

    before: str
    """What the old one is called after the swap."""

    state: State
    live_oid: int | None
    made_oid: int | None
    facts: dict[str, Any]


def id_of(run: Run) -> str:
    """The same at every try of a run."""
    return hashlib.sha256(f"{run.platform}\0{run.dag_id}\0{run.run_id}".encode()).hexdigest()[:8]


def names(live: str, id: str) -> tuple[str, str]:
    """Of the new database and of the old one afterwards: ``studyspot_upkeep_restore_1a2b3c4d``."""
    made, before = f"_upkeep_restore_{id}", f"_before_{id}"
    head = live.encode()[: LONGEST - len(made)].decode(errors="ignore")
    return head + made, head + before


def begin(ledger: Ledger, run: Run, asked: Asked, backup: str, live: str, actor: str) -> Restore:
    """
    Put a restore on record before anything is done; a later try of the same run gets what is there.

    :raises SettingsError: an earlier try of this run chose another backup.
    """
    id = id_of(run)
    made, before = names(live, id)
    with ledger.transaction() as connection:
        connection.execute(
            "insert into restores (id, platform, backup, asked, live, made, before, state, actor, dag_id, run_id)"
            " values (%s, %s, %s, %s, %s, %s, %s, 'chosen', %s, %s, %s) on conflict do nothing",
            [
                id, run.platform, backup, jsonb(asked.as_dict()), live, made, before, text(actor[:200]), run.dag_id,
                run.run_id,
            ],
        )  # fmt: skip
    found = find(ledger, run.platform, id)
    if found.backup != backup:
        raise SettingsError(
            f"this run restores backup {found.backup} already, and now {backup} would be chosen",
            hint="trigger a new run; this one goes on with what it began when its other tasks are cleared.",
        )
    return found


def find(ledger: Ledger, platform: str, id: str) -> Restore:
    """:raises SettingsError: no such restore of this platform."""
    rows = ledger.rows(
        "select id, platform, backup, live, made, before, state, live_oid, made_oid, facts from restores"
        " where platform = %s and id = %s",
        [platform, id],
    )
    if not rows:
        raise SettingsError(
            f"no restore {id!r} of {platform} is on record",
            hint="its id stands in the messages of that restore, and in the names of its databases.",
        )
    return Restore(**rows[0])


def become(
    ledger: Ledger, restore: Restore, state: State, *, oids: tuple[int | None, int | None] | None = None, **facts: Any
) -> Restore:
    """
    It has come further.

    :param oids: of the living database and of the new one, where they are known now.
    """
    live_oid, made_oid = oids or (restore.live_oid, restore.made_oid)
    with ledger.transaction() as connection:
        row = connection.execute(
            "update restores set state = %s, live_oid = %s, made_oid = %s, facts = facts || %s,"
            " changed_at = clock_timestamp() where id = %s returning facts",
            [state, live_oid, made_oid, jsonb(facts), restore.id],
        ).fetchone()
    if row is None:
        raise LedgerError(f"restore {restore.id} is no longer on record", hint="somebody deleted its row.")
    changed = {"state": state, "live_oid": live_oid, "made_oid": made_oid, "facts": row["facts"]}
    return Restore(**{**vars(restore), **changed})
