"""The record of an incident: one row that changes, and a timeline that only grows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from upkeep.alerts.messages import cut
from upkeep.alerts.redact import redact, redact_all
from upkeep.findings import Severity
from upkeep.incident.states import AT_WORK, Clocks, IncidentError, Kind, State, move
from upkeep.ledger import Ledger
from upkeep.ledger.jsonb import jsonb, text
from upkeep.ledger.run import Connection
from upkeep.platforms import Platform

MOST_TITLE = 200
MOST_SAID = 20_000

MOMENTS = {
    "acknowledged": "acknowledged_at",
    "mitigated": "mitigated_at",
    "resolved": "resolved_at",
    "closed": "closed_at",
}


@dataclass(frozen=True, kw_only=True)
class Incident:
    """One declared incident, as its row stands."""

    id: str
    platform: str
    key: str
    severity: Severity
    state: State
    title: str
    description: str
    drill: bool
    pagerduty_id: str | None
    channel_id: str | None
    channel_name: str | None
    declared_at: datetime
    acknowledged_at: datetime | None
    mitigated_at: datetime | None
    resolved_at: datetime | None
    closed_at: datetime | None


def declare(
    ledger: Ledger,
    platform: Platform,
    severity: Severity,
    title: str,
    *,
    actor: str,
    key: str = "",
    description: str = "",
    drill: bool = False,
) -> tuple[Incident, bool]:
    """
    Open an incident, or join the one that is open under the same key (by default its title).

    :returns: the incident, and whether it is new.
    """
    personal = platform.alerts.personal
    title = cut(redact(" ".join(text(title).split()), personal), MOST_TITLE) or "(without a title)"
    description = cut(redact(text(description), personal), MOST_SAID)
    key = text(key)[:500] or title
    with ledger.transaction() as connection:
        connection.execute(
            "select pg_advisory_xact_lock(hashtextextended('upkeep.incident.' || %s, 0))", [platform.name]
        )
        row = connection.execute(
            "select * from incidents where platform = %s and key = %s and state = any(%s)",
            [platform.name, key, list(AT_WORK)],
        ).fetchone()
        if row:
            return incident_of(row), False
        number = connection.execute(
            "select count(*) + 1 as number from incidents where platform = %s", [platform.name]
        ).fetchone()
        assert number is not None
        row = connection.execute(
            "insert into incidents (id, platform, key, severity, title, description, drill)"
            " values (%s, %s, %s, %s, %s, %s, %s) returning *",
            [
                f"{platform.name.replace('_', '-')}-{number['number']}", platform.name, key, severity.value, title,
                description, drill,
            ],
        ).fetchone()  # fmt: skip
        assert row is not None
        incident = incident_of(row)
        append(connection, incident.id, actor, "declared", f"{severity}: {title}", {"description": description})
    return incident, True


def find(ledger: Ledger, id: str) -> Incident:
    """:raises IncidentError: there is no such incident."""
    rows = ledger.rows("select * from incidents where id = %s", [id])
    if not rows:
        raise IncidentError(f"no incident {cut(id, 100)!r}", hint="its id stands in its channel's topic: studyspot-7.")
    return incident_of(rows[0])


def join(ledger: Ledger, platform: Platform, id: str) -> Incident:
    """:raises IncidentError: there is none of this platform, or it is over."""
    incident = find(ledger, id)
    if incident.platform != platform.name:
        raise IncidentError(f"{incident.id} is an incident of {incident.platform}", hint="choose that platform.")
    if incident.state not in AT_WORK:
        raise IncidentError(f"{incident.id} is {incident.state}", hint="leave the id empty: a new one is declared.")
    return incident


def become(ledger: Ledger, id: str, to: State, *, actor: str, said: str = "", review: bool, run: str = "") -> Incident:
    """
    Move it on, and say so in the timeline.

    :param run: of whoever does it, kept in the line's facts. :raises IncidentError: that does not follow.
    """
    with ledger.transaction() as connection:
        row = connection.execute("select * from incidents where id = %s for update", [id]).fetchone()
        if row is None:
            raise IncidentError(
                f"no incident {cut(id, 100)!r}", hint="its id stands in its channel's topic: studyspot-7."
            )
        move(row["state"], to, review=review)
        moment = f", {MOMENTS[to]} = clock_timestamp()" if to in MOMENTS else ""
        changed = connection.execute(
            f"update incidents set state = %s{moment} where id = %s returning *",  # the columns are ours
            [to, id],
        ).fetchone()
        assert changed is not None
        append(connection, id, actor, to, redact(said) or f"it is {to}", {"before": row["state"], "run": run})
    return incident_of(changed)


def note(ledger: Ledger, id: str, actor: str, kind: str, said: str, facts: Mapping[str, Any] | None = None) -> int:
    """Add a line to the timeline; its number."""
    with ledger.transaction() as connection:
        return append(connection, id, actor, kind, said, facts or {})


def reached(ledger: Ledger, id: str, **columns: str) -> None:
    """Remember what exists outside: ``pagerduty_id``, ``channel_id``, ``channel_name``; before anything follows."""
    for column, value in columns.items():
        if column not in ("pagerduty_id", "channel_id", "channel_name"):
            raise ValueError(f"incidents remember no {column}")
        with ledger.transaction() as connection:
            connection.execute(f"update incidents set {column} = %s where id = %s", [value, id])


def timeline(ledger: Ledger, id: str) -> list[dict[str, Any]]:
    """``{"number", "at", "actor", "kind", "said", "facts", "hash"}``, in order."""
    return ledger.rows("select * from timeline where incident_id = %s order by number", [id])


def tampered(ledger: Ledger, id: str) -> int | None:
    """The number of the first line that is not what was written; None when all are."""
    before = ""
    for expected, row in enumerate(timeline(ledger, id), start=1):
        if row["number"] != expected or row["hash"] != _hash(before, row):
            return expected
        before = row["hash"]
    return None


def clocks(ledger: Ledger, incident: Incident) -> Clocks:
    """What the timers need, from the timeline."""
    kinds: tuple[Kind | Literal["said"], ...] = ("unacknowledged", "unresolved", "update", "review_due", "said")
    rows = ledger.rows(
        "select kind, count(*) as times, max(at) as last from timeline where incident_id = %s and kind = any(%s)"
        " group by kind",
        [incident.id, list(kinds)],
    )
    return Clocks(
        state=incident.state,
        severity=incident.severity,
        declared_at=incident.declared_at,
        resolved_at=incident.resolved_at,
        told={row["kind"]: row["times"] for row in rows if row["kind"] != "said"},
        # Who has just been told is not asked to tell.
        updated_at=max((row["last"] for row in rows if row["kind"] in ("update", "said")), default=None),
    )


def append(connection: Connection, id: str, actor: str, kind: str, said: str, facts: Mapping[str, Any]) -> int:
    """A line more, inside the caller's transaction; its number."""
    # The row of the incident orders those who write at the same time.
    connection.execute("select 1 from incidents where id = %s for update", [id])
    last = connection.execute(
        "select number, hash from timeline where incident_id = %s order by number desc limit 1", [id]
    ).fetchone()
    row = {
        "number": (last["number"] if last else 0) + 1,
        "at": datetime.now(UTC),
        "actor": text(cut(actor, 200)),
        "kind": kind,
        "said": text(cut(redact(said), MOST_SAID)),
        "facts": json.loads(json.dumps(redact_all(dict(facts)), default=str).replace("\\u0000", "\\ufffd")),
    }
    connection.execute(
        "insert into timeline (incident_id, number, at, actor, kind, said, facts, hash)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s)",
        [
            id, row["number"], row["at"], row["actor"], row["kind"], row["said"], jsonb(row["facts"]),
            _hash(last["hash"] if last else "", row),
        ],
    )  # fmt: skip
    return int(row["number"])


def _hash(before: str, row: Mapping[str, Any]) -> str:
    at = row["at"].astimezone(UTC).isoformat(timespec="microseconds")
    content = [before, row["number"], at, row["actor"], row["kind"], row["said"], row["facts"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def incident_of(row: Mapping[str, Any]) -> Incident:
    """The incident that a row keeps."""
    return Incident(**{**row, "severity": Severity(row["severity"])})
