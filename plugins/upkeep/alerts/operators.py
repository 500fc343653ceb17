"""Delivering what waits in the outbox and the spool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from upkeep.errors import SettingsError, UpkeepError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Ledger, Run


class DeliverAlertsOperator(BaseOperator):
    """
    Send every message that is due, remind, look for failed runs of which nobody told and for windows that
    were missed, seal what is over (docs/trail.md), and give a sign of life.

    What waited in the spool while the ledger was down is taken in first.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        from upkeep.alerts.lifesign import give_sign_of_life
        from upkeep.alerts.tell import deliver_all
        from upkeep.connections import open_ledger, run_of
        from upkeep.trail.chain import seal
        from upkeep.windows.watch import look_for_missed_windows

        try:
            with open_ledger() as ledger:
                run = run_of(context, "upkeep")
                counts = deliver_all(ledger, run)
                # After what waited in the spool was taken in: that explains runs as well.
                self._reconcile(ledger, run)
                look_for_missed_windows(ledger, run)
                self.log.info("%d facts sealed", seal(ledger))
                self.log.info("sign of life: %s", give_sign_of_life(ledger))
        except UpkeepError as wrong:
            raise AirflowFailException(str(wrong)) from wrong
        self.log.info("%s", counts)
        if counts["refused"]:
            raise AirflowFailException(
                f"{counts['refused']} messages were refused for good\n"
                "HINT: the ledger's table `deliveries` has the answers."
            )
        return counts

    def _reconcile(self, ledger: Ledger, run: Run) -> None:
        """Beside the delivery, never in its way."""
        import httpx

        from upkeep.alerts.reconcile import reconcile

        try:
            told = reconcile(ledger, run)
        except SettingsError as missing:
            self.log.warning("failed runs without a callback are not looked for: %s", missing)
        except (httpx.HTTPError, KeyError, ValueError) as away:
            self.log.error("failed runs without a callback could not be looked for: %s", away)
        else:
            self.log.info("%d failed runs of which no callback told", told)
