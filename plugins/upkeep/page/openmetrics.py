"""What the page shows, for Prometheus: https://prometheus.io/docs/specs/om/open_metrics_spec/."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from upkeep.ledger import Ledger
from upkeep.page import backups, now, windows
from upkeep.page.ask import ask
from upkeep.page.views import STRIP_DAYS, Reader

MEDIA_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Sample = tuple[Mapping[str, str], float]


def text(ledger: Ledger, reader: Reader, at: datetime, zone: str) -> str:
    """All metrics of the platforms that the reader may see."""
    return "\n".join(
        [*_findings(ledger, reader, at), *_windows(ledger, reader, at, zone), *_backups(ledger, reader, at), "# EOF\n"]
    )


def _findings(ledger: Ledger, reader: Reader, at: datetime) -> Iterable[str]:
    rows = ask(ledger, "open_by_severity", platforms=reader.names)
    yield from _metric(
        "upkeep_findings",
        "Open findings; kind unknown is what could not be looked at.",
        [
            (
                {
                    "platform": row["platform"],
                    "severity": row["severity"],
                    "kind": row["kind"],
                    "waived": str(row["waived"]).lower(),
                },
                row["number"],
            )
            for row in rows
        ],
    )
    states = now.how(ledger, reader.platforms, at)
    yield from _metric(
        "upkeep_incidents",
        "Incidents that somebody works on, without drills.",
        [({"platform": name}, one.incidents) for name, one in states.items()],
    )
    # A platform that nobody has looked at has no sample: absent() finds it.
    yield from _metric(
        "upkeep_last_look_timestamp_seconds",
        "When a run last recorded anything.",
        [({"platform": name}, one.looked_at.timestamp()) for name, one in states.items() if one.looked_at],
        unit="seconds",
    )


def _windows(ledger: Ledger, reader: Reader, at: datetime, zone: str) -> Iterable[str]:
    owners = {
        dag_id: (platform.name, window)
        for platform in reader.platforms
        for dag_id, window in reader.timetable(platform).items()
    }
    timetable = {dag_id: window for dag_id, (_, window) in owners.items()}
    made = windows.calendars(ledger, timetable, at, back=timedelta(days=STRIP_DAYS), zone=zone)
    yield from _metric(
        "upkeep_windows",
        f"Maintenance windows of the last {STRIP_DAYS} days, by what became of them.",
        [
            ({"platform": owners[dag_id][0], "dag_id": dag_id, "state": state}, count)
            for dag_id, calendar in made.items()
            if calendar.first_at
            for state, count in calendar.counts.items()
        ],
    )


def _backups(ledger: Ledger, reader: Reader, at: datetime) -> Iterable[str]:
    proofs = backups.proofs(ledger, reader.platforms, at)
    kept = [({"platform": name, "kind": one.kind}, one) for name, proof in proofs.items() for one in proof.kinds]
    yield from _metric(
        "upkeep_backup_newest_timestamp_seconds",
        "Of when the newest backup is.",
        [(labels, one.newest_at.timestamp()) for labels, one in kept if one.newest_at],
        unit="seconds",
    )
    yield from _metric(
        "upkeep_backup_proved_timestamp_seconds",
        "Of when the newest backup is that was restored and compared.",
        [(labels, one.proved_at.timestamp()) for labels, one in kept if one.proved_at],
        unit="seconds",
    )
    yield from _metric(
        "upkeep_backup_loss_seconds",
        "So much of the database's newest data would be lost now.",
        [({"platform": name}, proof.loss_s) for name, proof in proofs.items() if proof.loss_s is not None],
        unit="seconds",
    )
    yield from _metric(
        "upkeep_recovery_point_objective_seconds",
        "So much may be lost: recovery.rpo of the platform file.",
        [({"platform": name}, proof.promise_s) for name, proof in proofs.items() if proof.promise_s is not None],
        unit="seconds",
    )


def _metric(name: str, said: str, samples: Iterable[Sample], *, unit: str = "") -> Iterable[str]:
    yield f"# TYPE {name} gauge"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {said}"
    for labels, value in samples:
        named = ",".join(f'{label}="{_escaped(content)}"' for label, content in labels.items())
        yield f"{name}{{{named}}} {value:g}" if isinstance(value, int) else f"{name}{{{named}}} {value!r}"


def _escaped(content: str) -> str:
    return content.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
