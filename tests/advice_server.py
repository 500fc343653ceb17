"""A server for the tests of advice, and reports made on it as the maintenance role."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pytest

from sandbox.home import Home
from tests.postgres_server import PostgresServer
from upkeep.findings import Finding, Outcome
from upkeep.platforms.services import Postgres
from upkeep.postgres.advice.memory import Snapshot
from upkeep.postgres.advice.reports import REPORTS

MONTH = timedelta(days=31)


def on(*versions: int) -> pytest.MarkDecorator:
    """Only on these: where no question and no answer differs between versions, one is enough."""
    return pytest.mark.parametrize("server", versions, indirect=True)


class AdviceServer(PostgresServer):
    """As safe as a server should be, remembering what the last report counted."""

    def __init__(self, home: Home, version: int, **settings: str | int | bool) -> None:
        safe = {"autovacuum": True, "autovacuum_naptime": "1d", "fsync": True}
        super().__init__(home, version, **{**safe, "idle_in_transaction_session_timeout": "10min", **settings})
        self.earlier: dict[str, Snapshot] = {}
        self.standbys: tuple[str, ...] = ()

    def report(
        self,
        name: str,
        *,
        later: timedelta = timedelta(0),
        observed: timedelta | None = None,
        area: str = "statistics",
        **advice: Any,
    ) -> dict[str, Outcome]:
        """
        The outcomes of one report, by check.

        :param later: how far in the future it is made: the only way to make a server wait for a month.
        """
        now = datetime.now(UTC) + later
        section = Postgres.model_validate({"advice": advice})
        if observed is not None:
            # Shorter than a platform file may say.
            section = section.model_copy(update={"advice": section.advice.model_copy(update={"observed": observed})})
        counted: dict[str, dict[str, Any]] = {}
        outcomes = REPORTS[area][name](
            conninfo=self.conninfo,
            section=section,
            standbys=self.standbys,
            earlier=self.earlier,
            now=now,
            counted=counted,
            measured={},
        )
        # As the ledger would give it back.
        self.earlier |= {kind: Snapshot(now, json.loads(json.dumps(content))) for kind, content in counted.items()}
        for outcome in outcomes:
            json.dumps([dict(outcome.facts), *(dict(finding.facts) for finding in outcome.findings)])
        return {outcome.check: outcome for outcome in outcomes}

    def empty(self) -> Self:
        """Nor was anything counted."""
        self("drop owned by app_owner cascade")
        self.earlier.clear()
        self.standbys = ()
        self.superuser("select pg_stat_statements_reset()")
        return self

    def settings(self) -> dict[str, Outcome]:
        return self.report("settings", area="settings")

    def administer(self, *statements: str) -> None:
        """As the superuser, each in a transaction of its own."""
        for statement in statements:
            self.superuser(statement)


def found(outcome: Outcome) -> Mapping[str, Finding]:
    """Its findings by object."""
    assert outcome.state != "unknown", outcome.reason
    return {finding.object: finding for finding in outcome.findings}
