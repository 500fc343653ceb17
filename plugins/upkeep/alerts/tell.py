"""Putting outcomes on record and telling who must be told, also when the ledger is down."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from upkeep.alerts import spool
from upkeep.alerts.digest import send_digest
from upkeep.alerts.escalate import mail_instead, remind, storm_grows
from upkeep.alerts.messages import messages_for
from upkeep.alerts.redact import redact, redact_all
from upkeep.alerts.rules import rules_of
from upkeep.alerts.senders import acknowledgements, send
from upkeep.connections import open_ledger
from upkeep.errors import LedgerError, SettingsError, UpkeepError
from upkeep.findings import Finding, Outcome, Severity, alert_key, judged, ok
from upkeep.incident.clocks import remind_of_incidents
from upkeep.ledger import AT_ONCE, Change, Ledger, Patience, Run
from upkeep.ledger.holding import let_go
from upkeep.ledger.outbox import NotDelivered, deliver, enqueue
from upkeep.platforms import Platform, platform, platforms
from upkeep.settings import settings

log = logging.getLogger(__name__)

BUDGET_S = 6.0
"""What a task or callback spends on telling at once; Airflow kills a task's callback after 20 s."""


def record(subject: Platform, run: Run, outcomes: Sequence[Outcome], *, patience: Patience = AT_ONCE) -> list[Change]:
    """
    Write outcomes to the ledger and make one bounded attempt to deliver what they call for.

    :param patience: how often looks must agree; a watch that looks every few minutes has some.

    :raises LedgerError: the ledger is down. :raises SettingsError: its connection is missing. Either way the
        outcomes are in the spool, and who is paged has been paged.
    """
    outcomes = [as_the_platform_says(subject, outcome) for outcome in outcomes]
    try:
        with open_ledger() as ledger:
            changes = ledger.record(
                run, outcomes, lambda change: messages_for(subject, change), patience=patience, rules=rules_of(subject)
            )
            if changes:
                counts = deliver(ledger, send, keys=[change.key for change in changes], budget_s=BUDGET_S)
                log.info("%d changes; told: %s", len(changes), counts)
            return changes
    except (LedgerError, SettingsError) as down:
        # A connection that is missing leaves us as blind as a server that is down.
        _without_ledger(subject, run, outcomes, down)
        raise


def as_the_platform_says(subject: Platform, outcome: Outcome) -> Outcome:
    """The outcome with the platform's own severities, and without secrets and personal data."""
    personal = subject.alerts.personal

    def mend(finding: Finding) -> Finding:
        return replace(
            finding,
            object=redact(finding.object, personal),
            severity=subject.severity_of(finding.check, finding.severity),
            summary=redact(" ".join(finding.summary.split()), personal),
            hint=redact(finding.hint, personal),
            facts=redact_all(finding.facts, personal),
        )

    return replace(
        outcome,
        object=redact(outcome.object, personal),
        severity=subject.severity_of(outcome.check, outcome.severity),
        reason=redact(" ".join(outcome.reason.split()), personal),
        findings=tuple(mend(finding) for finding in outcome.findings),
        facts=redact_all(outcome.facts, personal),
    )


def _without_ledger(subject: Platform, run: Run, outcomes: Sequence[Outcome], down: UpkeepError) -> None:
    """Page at once, by the same stable keys, and keep the outcomes for later."""
    blind = judged(
        "ledger",
        Severity.P1,
        [
            Finding(
                check="ledger",
                severity=subject.severity_of("ledger", Severity.P1),
                summary=redact(down.message),
                hint=down.hint,
            )
        ],
    )
    kept = [*outcomes, blind]
    told = spool.told(settings().spool)
    spool.put(settings().spool, run, kept)
    began = datetime.now(UTC)
    for change in _opened(run, kept):
        for message in messages_for(subject, change):
            if message.channel != "pagerduty" or change.key in told:
                continue
            if (datetime.now(UTC) - began).total_seconds() > BUDGET_S:
                continue
            try:
                send(message)
                told.add(change.key)
            except NotDelivered as failure:
                log.error("%s was not told to PagerDuty: %s; it waits in the spool", change.key, failure.answer)
    spool.put(settings().spool, run, kept, told)


def _opened(run: Run, outcomes: Sequence[Outcome]) -> list[Change]:
    """What would be opened if nothing were open: all one can know without the ledger."""
    changes = []
    for outcome in outcomes:
        findings = list(outcome.findings)
        if outcome.state == "unknown" and not outcome.explained_by:
            findings = [
                Finding(
                    check=outcome.check,
                    object=outcome.object,
                    severity=outcome.severity,
                    summary=f"could not look: {outcome.reason}",
                    hint="",
                )
            ]
        for finding in findings:
            changes.append(
                Change(
                    event="opened",
                    key=alert_key(run.platform, finding.check, finding.object),
                    run=run,
                    finding=finding,
                    kind="unknown" if outcome.state == "unknown" else "finding",
                    before=None,
                    peak=finding.severity,
                )
            )
    return changes


def deliver_all(ledger: Ledger, run: Run) -> dict[str, int]:
    """Take in what waited in the spool, tell what is held no longer and what nobody answers, send all that is due."""
    waiting = spool.waiting(settings().spool)
    taken = spool.take_in(ledger, settings().spool, lambda change: messages_for(platform(change.run.platform), change))
    for subject in platforms():
        mine = replace(run, platform=subject.name)
        if waiting:
            # The ledger answers again: whoever was told that it was down is told that, too.
            ledger.record(mine, [ok("ledger", Severity.P1)], partial(messages_for, subject))
        with ledger.transaction() as connection:
            for change in let_go(connection, mine, subject.name, rules_of(subject)):
                for message in messages_for(subject, change):
                    enqueue(connection, message)
        acknowledgements(ledger, subject)
        storm_grows(ledger, subject, mine)
        remind(ledger, subject, mine)
        remind_of_incidents(ledger, subject)
        send_digest(
            ledger, subject, datetime.now(UTC), f"{settings().airflow_url}/upkeep/findings/?platform={subject.name}"
        )
    counts = deliver(ledger, send, budget_s=45)
    if sum(mail_instead(ledger, subject) for subject in platforms()):
        mailed = deliver(ledger, send, budget_s=10)
        counts = {name: count + mailed[name] for name, count in counts.items()}
    return {**counts, "taken in": taken}
