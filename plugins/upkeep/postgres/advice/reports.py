"""Which reports there are, and how one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from upkeep.findings import Outcome, Severity
from upkeep.platforms.services import Postgres
from upkeep.postgres.advice import activity, copies, indexes, numbers, settings, statements, tables
from upkeep.postgres.advice.look import Look
from upkeep.postgres.advice.memory import Snapshot
from upkeep.postgres.session import connect

QUESTION = timedelta(seconds=30)
"""One question may take this long; all of them read catalogs and counters only."""


def make(
    report: Callable[[Look], list[Outcome]],
    *,
    conninfo: str,
    section: Postgres,
    standbys: Sequence[str],
    earlier: Mapping[str, Snapshot],
    now: datetime,
    counted: dict[str, dict[str, Any]],
    measured: dict[tuple[str, str], float],
) -> list[Outcome]:
    """
    The outcomes of one report, on a connection of its own.

    :param standbys: libpq connection strings. :param earlier: what an earlier run counted, by kind.
    :param counted: filled with what the next run will compare with. :param measured: filled with trends.
    :raises psycopg.Error: the server could not be asked. :raises CredentialsError: it refused the role.
    """
    with connect(conninfo, statement_timeout=QUESTION) as connection:
        look = Look(
            connection=connection, settings=section, conninfo=conninfo, earlier=earlier, now=now, standbys=standbys
        )
        outcomes = [_without_the_accepted(outcome, section.advice.accepted) for outcome in report(look)]
    # Only when the whole report came through: half a snapshot would look like a reset to the next run.
    counted.update(look.counted)
    measured.update(look.measured)
    return outcomes


def _without_the_accepted(outcome: Outcome, accepted: Mapping[str, str]) -> Outcome:
    """The outcome without what the platform file accepts; nobody accepts losing the database."""
    findings = tuple(each for each in outcome.findings if each.object not in accepted or each.severity == Severity.P0)
    if len(findings) == len(outcome.findings):
        return outcome
    named = {each.object: accepted[each.object] for each in outcome.findings if each not in findings}
    facts = {**outcome.facts, "accepted": named}
    return replace(outcome, state="finding" if findings else "ok", findings=findings, facts=facts)


REPORTS: Mapping[str, Mapping[str, Callable[..., list[Outcome]]]] = {
    "statistics": {
        "slow_queries": partial(make, statements.report),
        "unused_indexes": partial(make, indexes.report),
        "stale_statistics": partial(make, tables.report),
        "sequences": partial(make, numbers.report),
        "cache_hits": partial(make, activity.report),
        "postgres_copies": partial(make, copies.report),
    },
    "settings": {"settings": partial(make, settings.report)},
}
"""By task; each under the name of the check that is unknown when the report fails."""
