"""The task `health` of the daily maintenance and of the health watch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from upkeep.errors import LedgerError, SettingsError
from upkeep.findings import Outcome, Severity, alert_key, unknown
from upkeep.health.samples import headlines
from upkeep.health.side_by_side import Probe, look_side_by_side
from upkeep.operators import PlatformOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Run

NEEDED = {
    "postgres_connect": "postgres",
    "postgres_primary": "postgres",
    "redis_connect": "redis",
    "kafka_brokers": "kafka",
    "kubernetes_api": "kubernetes",
}
"""Checks without which a service cannot be worked on."""


class HealthCheckOperator(PlatformOperator):
    """
    Look at everything the platform is made of, all at once, within ten seconds.

    Pushes the XCom ``unusable``: ``{"postgres": "postgres_connect: …"}``, services that later tasks need not try.
    """

    converging = True

    def act(self, context: Context, run: Run) -> Any:
        outcomes = self._look()
        context["ti"].xcom_push(key="unusable", value=unusable(outcomes))
        return self.conclude(run, outcomes)

    def _look(self) -> list[Outcome]:
        earlier = self._earlier()
        counters: dict[str, float] = {}
        outcomes = look_side_by_side(self._probes(earlier, counters))
        self._keep(outcomes, counters)
        return outcomes

    # Connections are resolved here, in the task's own thread: Airflow's supervisor answers one question at a time.
    # Only then does the probe leave for a thread of its own, where it imports what it needs.
    def _probes(self, earlier: Mapping[str, Any], counters: dict[str, float]) -> Iterator[Probe]:
        """Kubernetes last: making its client takes Airflow a second, in which the others are already looking."""
        from upkeep import connections
        from upkeep.settings import settings

        subject, connect_to = self.subject, settings().connect_to
        if http := subject.http:
            worst = min((endpoint.severity for endpoint in http.endpoints), key=lambda severity: severity.rank)
            yield Probe("http", worst, partial(_http, http, connect_to=connect_to))
        if metrics := subject.metrics:
            yield Probe("disk", metrics.disk.critical_severity, partial(_metrics, metrics, connect_to=connect_to))
        if postgres := subject.postgres:
            conn_id = subject.conn("postgres")
            yield self._probe(
                "postgres_connect",
                postgres.severity,
                connections.postgres_conninfo,
                conn_id,
                partial(_postgres, postgres),
            )
        if redis := subject.redis:
            conn_id = subject.conn("redis")
            look = partial(_redis, redis, previous=earlier.get("redis", {}), counters=counters)
            yield self._probe("redis_connect", redis.severity, connections.redis_arguments, conn_id, look)
        if kafka := subject.kafka:
            conn_id = subject.conn("kafka")
            look = partial(_kafka, kafka, earlier=earlier.get("kafka", {}))
            yield self._probe("kafka_brokers", kafka.severity, connections.kafka_config, conn_id, look)
        if kubernetes := subject.kubernetes:
            conn_id = subject.conn("kubernetes")
            look = partial(_kubernetes, kubernetes)
            yield self._probe("kubernetes_api", kubernetes.severity, connections.kubernetes_client, conn_id, look)

    def _probe(self, check: str, severity: Severity, resolve: Any, conn_id: str, look: Any) -> Probe:
        """A probe with its connection; a connection that is missing is that probe's trouble, not the others'."""
        try:
            resolved = resolve(conn_id)
        except SettingsError as missing:
            return Probe(check, severity, partial(_no_connection, check, severity, missing))
        return Probe(check, severity, partial(look, resolved, conn_id=conn_id))

    def _earlier(self) -> dict[str, Any]:
        """What the last look counted; nothing when the ledger is away, for looking matters more than comparing."""
        platform = self.subject.name
        try:
            with self.ledger() as ledger:
                counters = ledger.rows(
                    "select distinct on (metric) metric, value from samples where platform = %s and object = ''"
                    " and metric in ('redis_run', 'redis_hits', 'redis_misses', 'redis_evicted', 'redis_rejected')"
                    " order by metric, at desc",
                    [platform],
                )
                lags = ledger.rows(
                    "select distinct on (object) object, facts from outcomes where platform = %s"
                    " and check_name = 'kafka_lag' and state <> 'unknown'"
                    " and started_at > clock_timestamp() - interval '1 hour' order by object, started_at desc",
                    [platform],
                )
        except (LedgerError, SettingsError) as away:
            self.log.warning("nothing to compare with: %s", away)
            return {}
        return {
            "redis": {row["metric"]: row["value"] for row in counters},
            "kafka": {row["object"]: row["facts"] for row in lags},
        }

    def _keep(self, outcomes: list[Outcome], counters: Mapping[str, float]) -> None:
        values = {**headlines(outcomes), **{(name, ""): value for name, value in counters.items()}}
        try:
            with self.ledger() as ledger:
                ledger.sample(self.subject.name, values)
        except (LedgerError, SettingsError) as away:
            self.log.warning("%d measurements are lost: %s", len(values), away)


class HealthWatchOperator(HealthCheckOperator):
    """
    The same look, every few minutes: one bad look calls nobody, and what is new is looked at again in a moment.

    The platform's ``alerts`` says how many looks must agree (``bad_looks``, ``good_looks``) and how soon the next
    one follows (``look_again``).
    """

    def act(self, context: Context, run: Run) -> Any:
        import time

        from upkeep.alerts.rules import patience_of
        from upkeep.alerts.tell import record

        patience = patience_of(self.subject)
        outcomes = self._look()
        for _ in range(patience.bad_looks - 1):
            if not self._new(run, outcomes):
                break
            record(self.subject, run, outcomes, patience=patience)
            wait_s = self.subject.alerts.look_again.total_seconds()
            self.log.warning("something is new; looking again in %g s before anybody is called", wait_s)
            time.sleep(wait_s)
            outcomes = self._look()
        return self.conclude(run, outcomes, patience=patience)

    def _new(self, run: Run, outcomes: list[Outcome]) -> set[str]:
        """Keys of what is bad enough to be told and is not told yet."""
        from upkeep.alerts.tell import as_the_platform_says

        notify = self.subject.severity.notify
        bad = {
            alert_key(run.platform, check, object)
            for outcome in outcomes
            for check, object, severity in _bad(as_the_platform_says(self.subject, outcome))
            if severity.at_least(notify)
        }
        with self.ledger() as ledger:
            rows = ledger.rows("select key from findings where key = any(%s) and state = 'open'", [sorted(bad)])
        return bad - {row["key"] for row in rows}


def _bad(outcome: Outcome) -> list[tuple[str, str, Severity]]:
    if outcome.state == "unknown":
        return [] if outcome.explained_by else [(outcome.check, outcome.object, outcome.severity)]
    return [(finding.check, finding.object, finding.severity) for finding in outcome.findings]


def unusable(outcomes: list[Outcome]) -> dict[str, str]:
    """Services that cannot be worked on now, with the reason: ``{"postgres": "postgres_connect: refused"}``."""
    found: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.check in NEEDED and outcome.state != "ok" and not outcome.explained_by:
            said = outcome.reason or "; ".join(finding.summary for finding in outcome.findings)
            found.setdefault(NEEDED[outcome.check], f"{outcome.check}: {said}")
    return found


# -- in the probes' threads ----------------------------------------------------------------------------


def _no_connection(check: str, severity: Severity, missing: SettingsError) -> list[Outcome]:
    return [unknown(check, severity, f"{missing.message}; {missing.hint}")]


def _http(section: Any, *, connect_to: Mapping[str, str]) -> list[Outcome]:
    from upkeep.health import http

    return http.look(section, connect_to=connect_to)


def _metrics(section: Any, *, connect_to: Mapping[str, str]) -> list[Outcome]:
    from upkeep.health import metrics

    return metrics.look(section, connect_to=connect_to)


def _postgres(section: Any, conninfo: str, *, conn_id: str) -> list[Outcome]:
    from upkeep.health import postgres

    return postgres.look(section, conninfo, conn_id=conn_id)


def _redis(
    section: Any,
    arguments: Mapping[str, Any],
    *,
    conn_id: str,
    previous: Mapping[str, float],
    counters: dict[str, float],
) -> list[Outcome]:
    from upkeep.health import redis

    outcomes, now = redis.look(section, arguments, previous=previous, conn_id=conn_id)
    counters.update(now)
    return outcomes


def _kafka(section: Any, config: Mapping[str, Any], *, conn_id: str, earlier: Mapping[str, Any]) -> list[Outcome]:
    from upkeep.health import kafka

    return kafka.look(section, config, earlier=earlier)


def _kubernetes(section: Any, client: Any, *, conn_id: str) -> list[Outcome]:
    from upkeep.health import kubernetes

    return kubernetes.look(section, client, conn_id=conn_id)
