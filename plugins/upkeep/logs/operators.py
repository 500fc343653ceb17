"""The task `logs` of daily maintenance."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upkeep.errors import SettingsError, StrainError
from upkeep.operators import PlatformOperator, truth
from upkeep.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Run


class LogRetentionOperator(PlatformOperator):
    """
    Delete the log files whose class says that they are old enough; the plan is stored first.

    :param dry_run: store the plan and delete nothing (templated). The rules of the platform file are the standing
        yes, so scheduled runs do delete; beyond its cap nothing is deleted and a person is asked.
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "dry_run")

    def __init__(self, *, dry_run: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Hides BaseOperator.dry_run, which only prints templates for `airflow tasks test --dry-run`.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.logs import retention
        from upkeep.trees.deleting import apply, plan_rows
        from upkeep.trees.usual import remember, usual

        dry_run = truth(self.dry_run)  # type: ignore[arg-type]
        hosts = self.subject.hosts
        if hosts is None or not hosts.logs:
            raise SettingsError(
                f"{run.platform} has no log trees", hint="add `hosts.logs` to its platform file, or remove this task."
            )
        root, now, outcomes = Path(settings().host_root), datetime.now(UTC), []
        with self.ledger() as ledger, ledger.exclusive(f"{run.platform}/logs") as mine:
            if not mine:
                raise StrainError(
                    f"another run is deleting logs of {run.platform}",
                    hint="it is tried again when that one is through.",
                )
            known = {tree.path: usual(ledger, run.platform, "logs", tree.path, now) for tree in hosts.logs}
            plans = retention.plan(hosts, root, now, {path: value for path, value in known.items() if value})
            stored = ledger.plan(run, "logs", plan_rows(plans), dry_run=dry_run)
            for plan in plans:
                done = None
                if not dry_run and not plan.beyond and not plan.problem:
                    done = apply(ledger, run, "logs", root, plan, stored)
                    remember(ledger, run.platform, "logs", plan.tree, done, now)
                    self.log.info("%s: deleted %d files, freed %d bytes", plan.tree, done.files, done.bytes)
                outcomes.append(retention.outcome(plan, done, plan_id=str(stored.id)))
        return self.conclude(run, outcomes)
