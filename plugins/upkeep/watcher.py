"""The leaf that keeps a run red when something in it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, TriggerRule
from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Context


class WatcherOperator(BaseOperator):
    """
    Fails as soon as any task before it failed; is skipped when none did.

    Without it the report, which runs whatever happened, would be the only leaf and turn every run green.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trigger_rule": TriggerRule.ONE_FAILED, "retries": 0, **kwargs})

    def execute(self, context: Context) -> None:
        raise AirflowFailException("a task of this run failed; the red ones say why")
