"""Telling of missed windows, beside the delivery of alerts: what has stopped cannot say so itself."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from upkeep.alerts.tell import record
from upkeep.findings import alert_key
from upkeep.ledger import Ledger, Run
from upkeep.platforms import platforms
from upkeep.windows.missed import CHECK, missed

log = logging.getLogger(__name__)

EVERY = timedelta(minutes=10)


def look_for_missed_windows(ledger: Ledger, run: Run, *, now: datetime | None = None) -> int:
    """
    Tell of windows that were missed, and end what was told once they are made up for.

    :returns: how many Dags have missed some; 0 when it was looked a moment ago.
    :raises LedgerError: the ledger cannot be used.
    """
    at = now or datetime.now(UTC)
    with ledger.transaction() as connection:
        mine = connection.execute(
            "insert into watermarks (name, at) values ('windows', %(at)s)"
            " on conflict (name) do update set at = excluded.at where watermarks.at <= %(at)s - %(every)s returning at",
            {"at": at, "every": EVERY},
        ).fetchone()
    if mine is None:
        return 0
    late = 0
    for platform in platforms():
        outcomes = missed(ledger, platform, at, airflow_zone())
        open_now = {
            row["key"]
            for row in ledger.rows(
                "select key from findings where platform = %s and check_name = %s and state = 'open'",
                [platform.name, CHECK],
            )
        }
        # An hour in which all is well leaves no trace.
        news = [o for o in outcomes if o.findings or alert_key(platform.name, CHECK, o.object) in open_now]
        if news:
            record(platform, replace(run, platform=platform.name), news)
        for outcome in news:
            for finding in outcome.findings:
                late += 1
                log.warning("%s: %s. %s", finding.object, finding.summary, finding.hint)
    return late


def airflow_zone() -> str:
    """Where Airflow's clock stands; a schedule is read by it."""
    from airflow.providers.common.compat.sdk import conf

    zone = str(conf.get("core", "default_timezone"))
    return "UTC" if zone in ("", "utc") else zone
