"""What the page shows, for Prometheus: https://prometheus.io/docs/specs/om/open_metrics_spec/."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from upkeep.capacity.forecasts import newest_of
from upkeep.ledger import Ledger
from upkeep.page import backups, drills, now, windows
from upkeep.page.ask import ask
from upkeep.page.views import STRIP_DAYS, Reader

MEDIA_TYPE = CONTENT_TYPE_LATEST


class _Gathered:
    """As the library wants it: something that can be asked for its metrics."""

    def __init__(self, metrics: Iterable[GaugeMetricFamily]) -> None:
        self.metrics = list(metrics)

    def collect(self) -> list[GaugeMetricFamily]:
        return self.metrics


def text(ledger: Ledger, reader: Reader, at: datetime, zone: str) -> bytes:
    """All metrics of the platforms that the reader may see."""
    gathered: Any = _Gathered(
        [
            *_findings(ledger, reader, at),
            *_windows(ledger, reader, at, zone),
            *_backups(ledger, reader, at),
            *_capacity(ledger, reader, at),
            *_drills(ledger, reader),
        ]
    )
    # Its signature has no types.
    content: bytes = generate_latest(gathered)  # type: ignore[no-untyped-call]
    return content


def _findings(ledger: Ledger, reader: Reader, at: datetime) -> Iterator[GaugeMetricFamily]:
    yield _gauge(
        "findings",
        "Open findings; kind unknown is what could not be looked at.",
        ["platform", "severity", "kind", "waived"],
        (
            ([row["platform"], row["severity"], row["kind"], str(row["waived"]).lower()], row["number"])
            for row in ask(ledger, "open_by_severity", platforms=reader.names)
        ),
    )
    states = now.how(ledger, reader.platforms, at)
    yield _gauge(
        "incidents",
        "Incidents that somebody works on, without drills.",
        ["platform"],
        (([name], one.incidents) for name, one in states.items()),
    )
    # A platform that nobody has looked at has no sample: absent() finds it.
    yield _gauge(
        "last_look_timestamp",
        "When a run last recorded anything.",
        ["platform"],
        (([name], one.looked_at.timestamp()) for name, one in states.items() if one.looked_at),
        unit="seconds",
    )


def _windows(ledger: Ledger, reader: Reader, at: datetime, zone: str) -> Iterator[GaugeMetricFamily]:
    owners = {
        dag_id: (platform.name, window)
        for platform in reader.platforms
        for dag_id, window in reader.timetable(platform).items()
    }
    timetable = {dag_id: window for dag_id, (_, window) in owners.items()}
    made = windows.calendars(ledger, timetable, at, back=timedelta(days=STRIP_DAYS), zone=zone)
    yield _gauge(
        "windows",
        f"Maintenance windows of the last {STRIP_DAYS} days, by what became of them.",
        ["platform", "dag_id", "state"],
        (
            ([owners[dag_id][0], dag_id, state], count)
            for dag_id, calendar in made.items()
            if calendar.first_at
            for state, count in calendar.counts.items()
        ),
    )


def _backups(ledger: Ledger, reader: Reader, at: datetime) -> Iterator[GaugeMetricFamily]:
    proofs = backups.proofs(ledger, reader.platforms, at)
    kept = [([name, one.kind], one) for name, proof in proofs.items() for one in proof.kinds]
    yield _gauge(
        "backup_newest_timestamp",
        "Of when the newest backup is.",
        ["platform", "kind"],
        ((labels, one.newest_at.timestamp()) for labels, one in kept if one.newest_at),
        unit="seconds",
    )
    yield _gauge(
        "backup_proved_timestamp",
        "Of when the newest backup is that was restored and compared.",
        ["platform", "kind"],
        ((labels, one.proved_at.timestamp()) for labels, one in kept if one.proved_at),
        unit="seconds",
    )
    yield _gauge(
        "backup_loss",
        "So much of the newest data of the database would be lost now.",
        ["platform"],
        (([name], proof.loss_s) for name, proof in proofs.items() if proof.loss_s is not None),
        unit="seconds",
    )
    yield _gauge(
        "recovery_point_objective",
        "So much may be lost: recovery.rpo of the platform file.",
        ["platform"],
        (([name], proof.promise_s) for name, proof in proofs.items() if proof.promise_s is not None),
        unit="seconds",
    )


def _capacity(ledger: Ledger, reader: Reader, at: datetime) -> Iterator[GaugeMetricFamily]:
    names = [platform.name for platform in reader.platforms if platform.capacity]
    kept = [(name, one) for name, those in newest_of(ledger, names, at).items() for one in those if one.state != "free"]
    # What is not full within the horizon has no sample: nobody has seen that far.
    yield _gauge(
        "capacity_left",
        "Until this counts as full, if things go on as they did; early is the forecast's p10.",
        ["platform", "metric", "object", "when"],
        (
            ([name, one.metric, one.object, when], days * 86400)
            for name, one in kept
            for when, days in (("early", one.p10_days), ("expected", one.p50_days))
            if days is not None
        ),
        unit="seconds",
    )


def _drills(ledger: Ledger, reader: Reader) -> Iterator[GaugeMetricFamily]:
    rows = drills.rehearsed(ledger, [platform.name for platform in reader.platforms if platform.recovery])
    labels = ["platform", "act", "scenario"]
    yield _gauge(
        "drill_timestamp",
        "When the newest drill of this kind began.",
        [*labels, "state"],
        (([one.platform, one.act, one.scenario, one.state], one.at.timestamp()) for one in rows),
        unit="seconds",
    )
    for name, said in (
        ("rto", "So long the newest drill of this kind took to recover."),
        ("rpo", "So much of the newest data the newest drill of this kind lost."),
    ):
        yield _gauge(
            f"drill_{name}",
            said,
            labels,
            (
                ([one.platform, one.act, one.scenario], one.newest[f"{name}_s"])
                for one in rows
                if one.newest[f"{name}_s"] is not None
            ),
            unit="seconds",
        )


def _gauge(
    name: str, said: str, labels: list[str], samples: Iterable[tuple[list[str], float]], *, unit: str = ""
) -> GaugeMetricFamily:
    metric = GaugeMetricFamily(f"upkeep_{name}", said, labels=labels, unit=unit)
    for values, value in samples:
        metric.add_metric(values, value)
    return metric
