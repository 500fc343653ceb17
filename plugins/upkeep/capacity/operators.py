"""The task `capacity`: of daily maintenance, which samples, and of the weekly and monthly one, which forecast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from upkeep.errors import SettingsError
from upkeep.operators import PlatformOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.capacity.sampling.measured import Collection, Measure
    from upkeep.findings import Outcome
    from upkeep.health.side_by_side import Probe
    from upkeep.ledger import Run
    from upkeep.platforms.growth import Capacity

DEADLINE_S = 300.0
"""For all sources together: counting a large table and listing a large bucket take minutes."""

NEEDED = {
    "postgres": "postgres_connect",
    "redis": "redis_connect",
    "kafka": "kafka_brokers",
    "kubernetes": "kubernetes_api",
}
"""Service → the check whose finding explains why there is no sample of it."""


class CapacityOperator(PlatformOperator):
    """Base of the operators that look after a platform's capacity."""

    converging = True

    @property
    def section(self) -> Capacity:
        """:raises SettingsError: the platform says nothing about it."""
        if self.subject.capacity is None:
            raise SettingsError(
                f"{self.subject.name} says nothing about capacity",
                hint="add the section `capacity` to its platform file, or remove this task.",
            )
        return self.subject.capacity


class SampleCapacityOperator(CapacityOperator):
    """
    Measure once a day how much of everything is in use, and what there is of it; see docs/capacity.md.

    A source that cannot be asked leaves a gap and is told as ``unknown``; it never costs the others their sample.
    """

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.capacity.samples import forget, record
        from upkeep.capacity.sampling.looks import busiest, looks, of_the_day
        from upkeep.capacity.sampling.measured import Collection
        from upkeep.health.side_by_side import look_side_by_side

        now = datetime.now(UTC)
        collection, explained = Collection(), list(self._explained(context))
        outcomes = look_side_by_side(self._probes(collection, context, now), deadline_s=DEADLINE_S)
        with self.ledger() as ledger:
            seen = looks(ledger, run.platform, now)
            measured = [busiest(one, seen) for one in collection.of(outcomes)]
            new = record(ledger, run.platform, [*measured, *of_the_day(seen)], now)
            gone = forget(ledger, run.platform, self.section.keep, now)
        self.log.info("%d samples for %s; %d are past their time and gone", new, now.date(), gone)
        return self.conclude(run, [*outcomes, *explained])

    def _usable(self, context: Context) -> dict[str, str]:
        return {service: self.unusable(context, service) for service in NEEDED}

    def _explained(self, context: Context) -> Iterator[Outcome]:
        """What the task `health` has just found to be away is not asked again, nor told again."""
        from upkeep.capacity.sampling.measured import CHECK, SEVERITY
        from upkeep.findings import unknown

        for service, reason in self._usable(context).items():
            if reason and getattr(self.subject, service) is not None:
                yield unknown(CHECK, SEVERITY, reason, object=service, explained_by=NEEDED[service])

    # As in the task `health`: connections are resolved here, in the task's own thread.
    def _probes(self, collection: Collection, context: Context, now: datetime) -> Iterator[Probe]:
        from upkeep import connections

        subject, away = self.subject, self._usable(context)
        if subject.metrics:
            yield collection.probe("metrics", dict(self._of_metrics()))
        if subject.postgres and not away["postgres"]:
            yield from self._of_postgres(collection, now)
        if subject.redis and not away["redis"]:
            arguments = self._resolved(connections.redis_arguments, subject.conn("redis"))
            yield collection.probe("redis", {"redis": partial(_redis, arguments)})
        if subject.kafka and not away["kafka"]:
            config = self._resolved(connections.kafka_config, subject.conn("kafka"))
            yield collection.probe("kafka", {"kafka": partial(_kafka, subject.kafka, config)})
        for bucket, conn_id in self._buckets():
            client = self._resolved(connections.s3_client, conn_id)
            yield collection.probe(f"bucket {bucket}", {f"bucket {bucket}": partial(_bucket, client, bucket)})
        if (kubernetes := subject.kubernetes) and not away["kubernetes"]:
            client = self._resolved(connections.kubernetes_client, subject.conn("kubernetes"))
            yield collection.probe(
                "kubernetes",
                {
                    "kubernetes use": partial(_use, kubernetes, client, self.section.limits),
                    "kubernetes autoscalers": partial(_autoscalers, kubernetes, client),
                },
            )

    def _of_metrics(self) -> Iterator[tuple[str, Measure]]:
        from upkeep.settings import settings

        metrics, connect_to = self.subject.metrics, settings().connect_to
        assert metrics is not None
        yield "volumes", partial(_volumes, metrics, connect_to)
        yield "memory", partial(_busy, metrics, "memory_share", metrics.memory_query, connect_to)
        if metrics.cpu_query:
            yield "cpu", partial(_busy, metrics, "cpu_share", metrics.cpu_query, connect_to)

    def _of_postgres(self, collection: Collection, now: datetime) -> Iterator[Probe]:
        from upkeep.connections import postgres_conninfo
        from upkeep.settings import settings

        free = partial(_free, self.subject.metrics, settings().connect_to)
        conninfo = self._resolved(postgres_conninfo, self.subject.conn("postgres"))
        yield collection.probe(
            "postgres",
            {
                "postgres database": partial(_database, conninfo, free, self.section.limits.storage),
                "postgres relations": partial(_relations, conninfo),
            },
        )
        if self.section.growth:
            # One table after the other: each is read whole.
            counts = {f"growth {one.name}": partial(_growth, conninfo, one, now) for one in self.section.growth}
            yield collection.probe("growth", counts)

    def _buckets(self) -> list[tuple[str, str]]:
        """Each bucket that the platform file names, with its connection."""
        backup = self.subject.backup
        if backup is None:
            return []
        found = {backup.bucket: self.subject.conn("backup_s3")}
        if backup.files:
            found.setdefault(backup.files.bucket, self.subject.conn("s3"))
        return list(found.items())

    def _resolved(self, resolve: Callable[[str], Any], conn_id: str) -> Callable[[], Any]:
        """A connection that is missing is its own source's trouble, not the others'."""
        try:
            made = resolve(conn_id)
        except SettingsError as missing:
            return partial(_raise, missing)
        return lambda: made


class ForecastCapacityOperator(CapacityOperator):
    """
    Forecast every series from its daily samples, say what runs out and when, and draw it: the capacity report.

    Reads the ledger alone. What has fewer samples than ``capacity.least_samples`` is ``unknown``, never ok.
    """

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.capacity import demand, outlook
        from upkeep.capacity.forecasts import keep, kept_of
        from upkeep.capacity.samples import read

        now = datetime.now(UTC)
        with self.ledger() as ledger:
            series = read(ledger, run.platform, now.date(), seen_within=2 * outlook.ENDED_DAYS)
            seen = [outlook.look_ahead(one, self.section, now.date()) for one in series]
            keep(ledger, run, [kept_of(one, now) for one in seen if one.age <= outlook.ENDED_DAYS])
        try:
            outcomes = [*outlook.outcomes(seen, self.section), *demand.outcomes(series, now.date())]
            return {**self.conclude(run, outcomes), "series": len(series)}
        finally:
            # Red or green, and with what has just been found.
            self._draw(run, now)

    def _draw(self, run: Run, now: datetime) -> None:
        """Write the capacity report; without it the findings stand all the same."""
        from upkeep.capacity.page import render
        from upkeep.capacity.view import view
        from upkeep.errors import LedgerError
        from upkeep.report.storage import CAPACITY, ReportError, keep

        try:
            with self.ledger() as ledger:
                shown = view(ledger, self.subject, now)
            where = keep(run.platform, run.dag_id, run.run_id, CAPACITY, render(shown, now))
        except (ReportError, LedgerError) as failed:
            self.log.error("no capacity report: %s", failed)
        else:
            self.log.info("capacity report: %s", where)


# -- in the probes' threads, where what is needed is imported ------------------------------------------------


def _raise(error: Exception) -> Any:
    raise error


def _volumes(metrics: Any, connect_to: Mapping[str, str]) -> Any:
    from upkeep.capacity.sampling.metrics import volumes

    return volumes(metrics, connect_to=connect_to)


def _busy(metrics: Any, metric: str, query: str, connect_to: Mapping[str, str]) -> Any:
    from upkeep.capacity.sampling.metrics import busy

    return busy(metrics, metric, query, connect_to=connect_to)


def _free(metrics: Any, connect_to: Mapping[str, str]) -> float | None:
    """Bytes left where the database's data are; the size is worth having without it."""
    from upkeep.health.metrics import NoAnswer, least

    if metrics is None or not metrics.database_free:
        return None
    try:
        return least(metrics, metrics.database_free, connect_to=connect_to)
    except NoAnswer:
        return None


def _database(conninfo: Callable[[], str], free: Callable[[], float | None], storage: float | None) -> Any:
    from upkeep.capacity.sampling.postgres import database

    return database(conninfo(), free, storage)


def _relations(conninfo: Callable[[], str]) -> Any:
    from upkeep.capacity.sampling.postgres import relations

    return relations(conninfo())


def _growth(conninfo: Callable[[], str], one: Any, now: datetime) -> Any:
    from upkeep.capacity.sampling.postgres import growth

    return growth(conninfo(), one, now.date())


def _redis(arguments: Callable[[], Any]) -> Any:
    from upkeep.capacity.sampling.redis import memory

    return memory(arguments())


def _kafka(section: Any, config: Callable[[], Any]) -> Any:
    from upkeep.capacity.sampling.kafka import topics

    return topics(section, config())


def _bucket(client: Callable[[], Any], name: str) -> Any:
    from upkeep.capacity.sampling.s3 import bucket

    return bucket(client(), name)


def _use(section: Any, client: Callable[[], Any], limits: Any) -> Any:
    from upkeep.capacity.sampling.kubernetes import use

    return use(section, client(), limits)


def _autoscalers(section: Any, client: Callable[[], Any]) -> Any:
    from upkeep.capacity.sampling.kubernetes import autoscalers

    return autoscalers(section, client())
