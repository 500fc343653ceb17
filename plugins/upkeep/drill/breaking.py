"""The acts that break something of the platform on purpose: a failover, and the loss of an application's Pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.drill.operators import ASK, DrillOperator
from upkeep.errors import SettingsError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.drill.application import Place
    from upkeep.drill.failover.local import LocalDriver
    from upkeep.drill.failover.pair import Scenario
    from upkeep.drill.record import Drill, Environment
    from upkeep.ledger import Ledger, Run


class TouchingOperator(DrillOperator):
    """An act that breaks something of the platform: guarded, and in production approved."""

    def approved(self, context: Context) -> str:
        answer = context["ti"].xcom_pull(task_ids=ASK) or {}
        if "Approve" not in (answer.get("chosen_options") or []):
            raise AirflowSkipException("nobody said yes to breaking production on purpose")
        return str(answer.get("by") or (answer.get("responded_by_user") or {}).get("name") or "a person")

    def guard(self, context: Context, ledger: Ledger, environment: Environment, unhealthy: str) -> Environment:
        from upkeep.drill import guards
        from upkeep.windows.watch import airflow_zone

        by = self.approved(context)
        # The platform file's own yes is one for staging alone.
        person = "" if by == "the platform file" else by
        asked = guards.Asked(environment, approved_by=person, unhealthy=unhealthy)
        guards.refuse(ledger, self.subject, asked, zone=airflow_zone())
        return environment


class FailoverDrillOperator(TouchingOperator):
    """
    Take the primary of a streaming pair away; promote, count, make the old one a standby.

    :param scenario: ``kill`` or ``switchover``.
    """

    act_name = "failover"

    def __init__(self, *, scenario: Scenario = "kill", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scenario = scenario

    def guarded(self, context: Context, ledger: Ledger) -> Environment:
        driver = self.driver()
        return self.guard(context, ledger, self._where(driver), driver.ill())

    def _where(self, driver: LocalDriver) -> Environment:
        """Production is what the platform's own connection leads to, whatever the other one is called."""
        from upkeep.drill.failover import pair

        seen = pair.look({"production": self.conninfo()})["production"]
        known = {one.system_identifier for one in driver.look().servers if one.up}
        if seen.up:
            return "production" if seen.system_identifier in known else "staging"
        # Who cannot be asked may be production.
        return "production" if self.environment == "production" else self._unknown(seen.said)

    def _unknown(self, said: str) -> Environment:
        from upkeep.drill.guards import GuardError

        raise GuardError(
            f"whether this pair is production cannot be said: {self.subject.conn('postgres')} does not answer: {said}",
            hint="mend that connection first: production is never broken by mistake.",
        )

    def rehearse(self, context: Context, run: Run, ledger: Ledger, drill: Drill) -> None:
        from upkeep.drill.failover.act import Conduct, rehearse

        rules = self.recovery.drill
        scenario: Any = self.scenario
        conduct = Conduct(scenario, rules.canary.total_seconds(), rules.gap.total_seconds(), rules.abort_errors)
        rehearse(drill, self.driver(), conduct)


class ApplicationDrillOperator(TouchingOperator):
    """Lose the Pods of each deployment, raise and lower its replicas within their bounds, put all back."""

    act_name = "application"
    scenario = "pods"

    def place(self) -> Place:
        from upkeep.connections import kubernetes_client
        from upkeep.drill.application import Place

        kubernetes = self.subject.kubernetes
        if kubernetes is None or not kubernetes.deployments:
            raise SettingsError(
                f"{self.subject.name} names no deployments", hint="add them to its platform file, or remove this task."
            )
        staging = self.environment == "staging"
        if staging and not kubernetes.staging_namespace:
            raise SettingsError(
                f"{self.subject.name} has no kubernetes.staging_namespace, and drills are in staging",
                hint="name one, or write `recovery.drill.where: production` (which asks each time).",
            )
        namespace = (kubernetes.staging_namespace or "") if staging else kubernetes.namespace
        client = kubernetes_client(self.subject.conn("kubernetes"))
        return Place(client, namespace, kubernetes.deployments, everything=staging)

    def guarded(self, context: Context, ledger: Ledger) -> Environment:
        from upkeep.drill.application import unhealthy

        environment = self.environment
        kubernetes = self.subject.kubernetes
        if kubernetes and kubernetes.staging_namespace == kubernetes.namespace:
            environment = "production"
        return self.guard(context, ledger, environment, unhealthy(self.place()))

    def rehearse(self, context: Context, run: Run, ledger: Ledger, drill: Drill) -> None:
        from upkeep.drill.application import Conduct, rehearse

        rules = self.recovery.drill
        probes = self._endpoints() if drill.environment == "production" else {}
        rehearse(drill, self.place(), Conduct(rules.gap.total_seconds(), rules.abort_errors, probes))

    def _endpoints(self) -> dict[str, Any]:
        """What the outside world sees: the endpoints of the platform file are production's."""
        from upkeep.health import http
        from upkeep.settings import settings

        section = self.subject.http
        if section is None:
            return {}

        def look() -> str:
            seen = http.look(section, connect_to=settings().connect_to)
            wrong = [one for one in seen if one.check == "http" and one.state != "ok"]
            return "; ".join(one.reason or one.findings[0].summary for one in wrong)

        return {"endpoints": look}
