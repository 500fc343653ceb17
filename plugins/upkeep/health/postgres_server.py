"""How a PostgreSQL server is as a whole: its role, its standbys, its WAL, its transaction ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.platforms.services import Postgres

Ask = Callable[..., list[dict[str, Any]]]
"""``ask("slots", seconds=3)``: the rows of ``include/sql/health/slots.sql``."""

ARCHIVER_SEVERITY = Severity.P1
TABLES_SEVERITY = Severity.P2
VERSION_SEVERITY = Severity.P3

OLDEST_VERSION = 130000
"""The queries know the catalogs from PostgreSQL 13 on."""

SILENT_S = 30.0
"""A standby reports every 10 s (wal_receiver_status_interval) and is asked after 30 (half of wal_sender_timeout)."""

IDS = 2**31
"""Transaction ids (and multixact ids) that may be in use before PostgreSQL stops."""


def version(settings: Postgres, identity: Mapping[str, Any]) -> Outcome:
    """Whether the checks know this version."""
    facts = {"version": identity["version"], "version_text": identity["version_text"]}
    findings = []
    if identity["version"] < OLDEST_VERSION:
        findings.append(
            Finding(
                check="postgres_version",
                severity=VERSION_SEVERITY,
                summary=f"PostgreSQL {identity['version_text']} is older than 13: no fixes, and checks may fail",
                hint="plan its upgrade.",
                facts=facts,
            )
        )
    return judged("postgres_version", VERSION_SEVERITY, findings, **facts)


def primary(settings: Postgres, identity: Mapping[str, Any]) -> Outcome:
    """Whether the connection leads to a server that takes writes."""
    findings = []
    if identity["in_recovery"]:
        findings.append(
            Finding(
                check="postgres_primary",
                severity=settings.severity,
                summary="the server is a standby (in recovery), not the primary",
                hint="did it fail over? Point the connection (or the service in front) at the primary.",
            )
        )
    return judged("postgres_primary", settings.severity, findings, read_only=identity["read_only"])


def replication(settings: Postgres, ask: Ask) -> Outcome:
    """Whether all standbys stream, and how far behind each is."""
    rows = ask("replication")
    streaming = [row for row in rows if row["state"] == "streaming"]
    findings = []
    if len(streaming) < settings.standbys:
        others = ", ".join(f"{row['name']} is in state {row['state']}" for row in rows if row not in streaming)
        findings.append(
            Finding(
                check="postgres_replication",
                severity=settings.replication_severity,
                summary=f"{len(streaming)} of {settings.standbys} standbys stream{'; ' + others if others else ''}",
                hint="read the missing standby's log; one whose WAL is gone needs a new base backup.",
                facts={"expected": settings.standbys, "streaming": [row["name"] for row in streaming]},
            )
        )
    lags: dict[str, float] = {}
    for row in rows:
        # Without anything to replay there is no lag to report; a silent standby's last report is old news.
        lag_s = row["lag_s"] or 0.0
        if (row["silent_s"] or 0) > SILENT_S:
            lag_s = max(lag_s, row["silent_s"])
        name = str(row["name"])
        lags[name] = max(lags.get(name, 0.0), round(lag_s, 3))
        if severity := settings.replication_lag.severity(lag_s):
            findings.append(
                Finding(
                    check="postgres_replication",
                    object=name,
                    severity=severity,
                    summary=f"standby {name} is {span(lag_s)} and {size(row['lag_bytes'])} behind ({row['state']})",
                    hint="look for long queries on the standby, its disk and the network; a failover loses this much.",
                    facts={"lag_s": round(lag_s, 3), "lag_bytes": row["lag_bytes"], "state": row["state"]},
                )
            )
    facts: dict[str, Any] = {
        "standbys": len(streaming),
        "lag_s": lags,
        "lag_bytes": {row["name"]: row["lag_bytes"] for row in rows},
    }
    return judged("postgres_replication", settings.replication_severity, findings, **facts)


def slots(settings: Postgres, ask: Ask) -> Outcome:
    """Replication slots that nobody reads and that fill the disk, or that have lost their WAL."""
    rows = ask("slots")
    findings = []
    for row in rows:
        retained = row["retained_bytes"] or 0
        if row["wal_status"] == "lost":
            summary = f"slot {row['name']} has lost WAL that its reader still needs"
            hint = "drop the slot and build its standby (or subscription) anew."
        elif not row["active"] and retained > settings.slot_retained:
            summary = (
                f"slot {row['name']} is read by nobody and holds back {size(retained)} of WAL; "
                f"more than {size(settings.slot_retained)} is too much"
            )
            hint = "bring its reader back, or `select pg_drop_replication_slot(…)` before the disk is full."
        else:
            continue
        findings.append(
            Finding(
                check="postgres_slots",
                object=row["name"],
                severity=settings.replication_severity,
                summary=summary,
                hint=hint,
                facts={key: row[key] for key in ("slot_type", "active", "wal_status", "retained_bytes")},
            )
        )
    held = max((row["retained_bytes"] or 0 for row in rows), default=0)
    return judged("postgres_slots", settings.replication_severity, findings, slots=len(rows), most_retained_bytes=held)


def archiver(settings: Postgres, ask: Ask) -> Outcome:
    """Whether WAL archiving fails: backups then cannot be restored to a point in time, and WAL fills the disk."""
    (row,) = ask("archiver")
    facts = {key: row[key] for key in ("mode", "archived", "failed", "last_archived_wal", "last_failed_wal")}
    findings = []
    if row["mode"] != "off" and row["failing"]:
        findings.append(
            Finding(
                check="postgres_archiver",
                severity=ARCHIVER_SEVERITY,
                summary=f"archiving {row['last_failed_wal']} fails ({row['failed']} failures); "
                f"nothing was archived for {span(row['failing_s'] or 0)}",
                hint="the server's log has archive_command's output; no later point in time can be restored.",
                facts=facts,
            )
        )
    return judged("postgres_archiver", ARCHIVER_SEVERITY, findings, **facts)


def wraparound(settings: Postgres, ask: Ask) -> Outcome:
    """How much of the transaction ids (and multixact ids) each database has in use."""
    rows = ask("wraparound")
    findings = []
    for row in rows:
        kind, age = max((("transaction", row["xid_age"]), ("multixact", row["mxid_age"])), key=lambda pair: pair[1])
        if severity := settings.xid_age.severity(age / IDS):
            findings.append(
                Finding(
                    check="postgres_wraparound",
                    object=row["database"],
                    severity=severity,
                    summary=f"{row['database']} has used {age / IDS:.1%} of its {kind} ids ({age:,} of {IDS:,})",
                    hint="find what holds the oldest snapshot (sessions, slots, prepared transactions), "
                    "then VACUUM (FREEZE) the oldest tables; at 100 % the server takes no writes.",
                    facts={"xid_age": row["xid_age"], "mxid_age": row["mxid_age"]},
                )
            )
    most = max(max(row["xid_age"], row["mxid_age"]) for row in rows)
    return judged("postgres_wraparound", settings.xid_age.warn_severity, findings, most_used=round(most / IDS, 6))


def tables(settings: Postgres, ask: Ask) -> Outcome:
    """Whether the tables that the platform file names are there."""
    names = [table.name for table in settings.tables]
    findings = [
        Finding(
            check="postgres_tables",
            object=row["name"],
            severity=TABLES_SEVERITY,
            summary=f"there is no table {row['name']}, although the platform file names it",
            hint="correct postgres.tables in the platform file, or the search_path and database of the connection.",
        )
        for row in ask("missing_tables", names=names)
    ]
    return judged("postgres_tables", TABLES_SEVERITY, findings, tables=len(names))


def span(seconds: float) -> str:
    """A length of time for people: ``12 s``, ``7 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes for people: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
