"""Delivering what waits in the outbox and the spool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from upkeep.errors import UpkeepError

if TYPE_CHECKING:
    from airflow.sdk import Context


class DeliverAlertsOperator(BaseOperator):
    """Send every message that is due, and take in what waited in the spool while the ledger was down."""

    def execute(self, context: Context) -> dict[str, Any]:
        from upkeep.alerts.tell import deliver_all
        from upkeep.connections import open_ledger, run_of

        try:
            with open_ledger() as ledger:
                counts = deliver_all(ledger, run_of(context, "upkeep"))
        except UpkeepError as wrong:
            raise AirflowFailException(str(wrong)) from wrong
        self.log.info("%s", counts)
        if counts["refused"]:
            raise AirflowFailException(
                f"{counts['refused']} messages were refused for good\n"
                "HINT: the ledger's table `deliveries` has the answers."
            )
        return counts
