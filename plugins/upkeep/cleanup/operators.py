"""The task `cleanup` of daily maintenance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upkeep.errors import LedgerError, StrainError
from upkeep.findings import Outcome, Severity, unknown
from upkeep.operators import PlatformOperator, truth
from upkeep.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.health.kubernetes import Api
    from upkeep.ledger import Ledger, Run
    from upkeep.platforms.backup import Recovery
    from upkeep.platforms.services import Hosts, Kafka, Kubernetes

Part = Callable[[], list[Outcome]]

REQUEST_S, DEADLINE_S = 3.0, 60.0
"""For one request to the Kubernetes API, and for all that one part asks."""


class CleanupOperator(PlatformOperator):
    """
    Remove finished Jobs and Pods and old temporary files; look at the kubelets' image collection and Kafka's retention.

    Each part is on its own: what stands in the way of one is its unknown, and the others go on.

    :param dry_run: store the plan and delete nothing (templated).
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "dry_run")

    def __init__(self, *, dry_run: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Hides BaseOperator.dry_run, which only prints templates for `airflow tasks test --dry-run`.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        dry_run = truth(self.dry_run)  # type: ignore[arg-type]
        outcomes: list[Outcome] = []
        with self.ledger() as ledger, ledger.exclusive(f"{run.platform}/cleanup") as mine:
            if not mine:
                raise StrainError(
                    f"another run is cleaning up {run.platform}", hint="it is tried again when that one is through."
                )
            for check, part in self._parts(context, run, ledger, dry_run):
                try:
                    outcomes += part()
                except LedgerError:
                    raise
                except Exception as trouble:
                    # One part failing must not keep the others from their work.
                    self.log.exception("%s", check)
                    said = " ".join(str(trouble).split())[:300]
                    outcomes.append(unknown(check, Severity.P2, f"{type(trouble).__name__}: {said}"))
        return self.conclude(run, outcomes)

    def _parts(self, context: Context, run: Run, ledger: Ledger, dry_run: bool) -> Iterator[tuple[str, Part]]:
        """What there is to do, by the check that an error counts as."""
        subject = self.subject
        if section := subject.kubernetes:
            if down := self.unusable(context, "kubernetes"):
                yield "jobs", partial(_explained, "jobs", down, "kubernetes_api")
                yield "image_gc", partial(_explained, "image_gc", down, "kubernetes_api")
            else:
                yield "jobs", partial(self._jobs, section, run, ledger, dry_run)
                yield "image_gc", partial(self._image_gc, section)
        if subject.hosts and subject.hosts.temporary:
            yield "temporary_files", partial(self._temporary, subject.hosts, run, ledger, dry_run)
        if topics := subject.kafka:
            if down := self.unusable(context, "kafka"):
                yield "kafka_retention", partial(_explained, "kafka_retention", down, "kafka_brokers")
            else:
                yield "kafka_retention", partial(self._topics, topics)

        if subject.recovery and not dry_run:
            yield "drill_cleanup", partial(self._drills, ledger, subject.recovery)

    def _drills(self, ledger: Ledger, recovery: Recovery) -> list[Outcome]:
        """What a drill left whose run was killed as a whole, teardown and all."""
        from upkeep.drill import janitor, judging, record

        if not record.unfinished(ledger, self.subject.name):
            return []
        with ledger.exclusive(record.lock(self.subject.name)) as mine:
            if not mine:
                return []
            from upkeep.drill.reach import hands

            settled = janitor.put_back(ledger, self.subject.name, hands(self.subject))
        for one in settled:
            self.log.warning("drill %d, dead in phase %s: %s", one.id, one.phase, "; ".join(one.done) or "nothing left")
        return [judging.left(settled, recovery)]

    def _jobs(self, section: Kubernetes, run: Run, ledger: Ledger, dry_run: bool) -> list[Outcome]:
        from upkeep.cleanup import jobs
        from upkeep.health.kubernetes import NotAnswered

        api, now = self._api(), datetime.now(UTC)
        try:
            plan = jobs.plan(api, section, now, jobs.usual(jobs.recent(ledger, run.platform, now)))
        except NotAnswered as refused:
            return [unknown(jobs.CHECK, jobs.SEVERITY, refused.reason)]
        stored = ledger.plan(run, "cleanup", plan.rows(), dry_run=dry_run)
        done = None
        if not dry_run and not plan.beyond:
            done = jobs.apply(ledger, run, api, plan, stored)
            ledger.sample(run.platform, {(jobs.METRIC, ""): len(done.deleted)}, now)
            self.log.info("deleted %d Jobs and Pods: %s", len(done.deleted), ", ".join(done.deleted))
        return [jobs.outcome(plan, done, plan_id=str(stored.id))]

    def _image_gc(self, section: Kubernetes) -> list[Outcome]:
        from upkeep.cleanup import image_gc

        return image_gc.look(section, self._api())

    def _temporary(self, hosts: Hosts, run: Run, ledger: Ledger, dry_run: bool) -> list[Outcome]:
        from upkeep.cleanup import temporary
        from upkeep.trees.deleting import apply, plan_rows
        from upkeep.trees.usual import remember, usual

        root, now = Path(settings().host_root), datetime.now(UTC)
        names = [temporary.name_of(tree) for tree in hosts.temporary]
        known = {name: usual(ledger, run.platform, "cleanup", name, now) for name in names}
        plans = temporary.plan(hosts, root, now, {name: value for name, value in known.items() if value})
        stored = ledger.plan(run, "cleanup", plan_rows(plans), dry_run=dry_run)
        outcomes = []
        for tree, name, plan in zip(hosts.temporary, names, plans, strict=True):
            done = None
            if not dry_run and not plan.beyond and not plan.problem:
                done = apply(ledger, run, "cleanup", root, plan, stored)
                remember(ledger, run.platform, "cleanup", name, done, now)
                self.log.info("%s: deleted %d, freed %d bytes", name, done.files, done.bytes)
            outcomes.append(temporary.outcome(tree, plan, done, plan_id=str(stored.id)))
        return outcomes

    def _topics(self, section: Kafka) -> list[Outcome]:
        from upkeep.cleanup import topics
        from upkeep.connections import kafka_config

        return topics.look(section, kafka_config(self.subject.conn("kafka")))

    def _api(self) -> Api:
        """A client of the platform's cluster. :raises SettingsError: there is no such connection."""
        from upkeep.connections import kubernetes_client
        from upkeep.health.kubernetes import Api

        api = Api(kubernetes_client(self.subject.conn("kubernetes")), REQUEST_S)
        # Its own deadline is that of a health check; a large namespace takes longer to list.
        api.deadline = time.monotonic() + DEADLINE_S
        return api


def _explained(check: str, why: str, by: str) -> list[Outcome]:
    return [unknown(check, Severity.P3, why, explained_by=by)]
