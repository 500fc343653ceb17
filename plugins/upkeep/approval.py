"""Asking a person: what the questions of all Dags share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from upkeep.platforms import platform as platform_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class AskPersonOperator(ApprovalOperator):
    """
    Ask a person. Silence is a no.

    Who answers must be among `approvers` of the platform file or of include/upkeep.yaml, where these name anybody;
    what `approvers.second_for` names takes another person than the one who asked for it.

    :param platform: name of the platform (templated).
    """

    template_fields: Sequence[str] = ("platform", "subject", "body")

    deed = ""
    """As `approvers.second_for` names it; empty for what never takes two."""

    def __init__(self, *, platform: str, **kwargs: Any) -> None:
        super().__init__(defaults=self.REJECT, **kwargs)
        self.platform = platform

    def agreed(self, context: Context) -> str:
        """Who has said yes already (``the platform file``); empty: a person is asked."""
        return ""

    def asked(self, context: Context) -> None:
        """A person is about to be asked."""

    def say(self, context: Context, kind: str, said: str) -> None:
        """Keep what was answered (``approved`` or ``refused``), where it is kept."""

    def execute(self, context: Context) -> Any:
        if who := self.agreed(context):
            self.log.info("%s has said yes to this.", who[:1].upper() + who[1:])
            self.say(context, "approved", f"by {who}")
            return {"chosen_options": [self.APPROVE], "by": who}
        self.response_timeout = platform_of(self.platform).approvers.answer_within
        self.asked(context)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        from upkeep.settings import settings

        who = (event.get("responded_by_user") or {}).get("name") or ""
        approvers = platform_of(self.platform).approvers
        people = approvers.people or settings().approvers
        if event.get("chosen_options") == [self.APPROVE]:
            if people and who.lower() not in map(str.lower, people):
                raise AirflowFailException(
                    f"{who or 'nobody known'} may not say yes to this\n"
                    f"HINT: {', '.join(people)} may (`approvers` of the platform file); clear this task to ask again."
                )
            asker = getattr(context.get("dag_run"), "triggering_user_name", None) or ""
            if self.deed in approvers.second_for and who.lower() == asker.lower():
                raise AirflowFailException(
                    f"{who or 'nobody known'} asked for this and may not say yes to it as well\n"
                    "HINT: `approvers.second_for` wants two people; clear this task and let another one answer."
                )
        if option := event.get("chosen_options"):
            self.say(context, "approved" if option == [self.APPROVE] else "refused", f"by {who or 'silence'}")
        return super().execute_complete(context, event)
