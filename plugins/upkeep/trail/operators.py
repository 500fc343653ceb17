"""The task `trail` of the nightly backup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upkeep.backup.operators import BackupBase

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Run


class TrailOperator(BackupBase):
    """
    Seal what is over, look whether all that was sealed is as it was, and leave a witness in the bucket of backups.

    No witness is left of a trail that is broken: the newest one still tells where it was whole.
    """

    __test__ = False

    converging = True

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from datetime import UTC, datetime

        from upkeep.backup.store import StoreError
        from upkeep.findings import Finding, Severity, judged, unknown
        from upkeep.trail.chain import look, seal
        from upkeep.trail.witness import disagreements, leave, witnesses

        store = self.store()
        with self.ledger() as ledger:
            self.log.info("%d facts sealed", seal(ledger))
            try:
                said = list(disagreements(ledger, witnesses(store)))
                seen = look(ledger)
                broken = [*said, *seen.breaks]
                if seen.head is not None and not broken:
                    self.log.info("%s", leave(store, seen.head, datetime.now(UTC)))
            except StoreError as away:
                return self.conclude(run, [unknown("trail", Severity.P2, away.message)])
        findings = []
        if broken:
            findings.append(
                Finding(
                    check="trail",
                    severity=Severity.P1,
                    summary=f"{broken[0]}" + (f", and {len(broken) - 1} more" if len(broken) > 1 else ""),
                    hint="`python -m upkeep verify-trail` lists everything; docs/trail.md says how to go on.",
                    facts={"broken": broken[:20], "facts": seen.facts},
                )
            )
        return self.conclude(run, [judged("trail", Severity.P1, findings, facts=seen.facts)])
