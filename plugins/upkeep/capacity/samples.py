"""The daily samples in the ledger: one per platform, metric, object and day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache

from upkeep.capacity.forecast import MOST_DAYS
from upkeep.capacity.sampling.measured import Measured
from upkeep.ledger import Ledger
from upkeep.ledger.jsonb import text
from upkeep.settings import ROOT

LIMIT_SAMPLES = 14
"""A limit that nobody has known for so many samples is none any more."""

MOST_NAME = 500
"""Letters of an object's name; labels may be anything."""


@dataclass(frozen=True)
class Series:
    """All that is known of one thing."""

    metric: str
    object: str
    values: Mapping[date, float]
    """The oldest first; a day that is not there was not measured."""

    most: float | None
    """The newest limit that was known within the last two weeks of samples."""

    @property
    def name(self) -> str:
        """``volume_share db-0:9100:/``: the object of its findings."""
        return f"{self.metric} {self.object}".strip()

    @property
    def last(self) -> tuple[date, float]:
        day = max(self.values)
        return day, self.values[day]


def record(ledger: Ledger, platform: str, measured: Iterable[Measured], now: datetime) -> int:
    """
    Keep what was measured, all or nothing; the number of samples that are new.

    A sample is of the day on which it was measured, whatever window its run is for: a backfilled day stays a gap.
    The first one of a day stays, so that a second run of it changes nothing but what the first could not measure.
    """
    today = now.astimezone(UTC).date()
    rows = [
        (
            platform,
            one.metric,
            text(one.object)[:MOST_NAME],
            today - timedelta(days=one.days_ago),
            one.value,
            one.most,
            now,
        )
        for one in measured
    ]
    with ledger.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into capacity_samples (platform, metric, object, day, value, most, at)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            rows,
        )
        return max(cursor.rowcount, 0)


def forget(ledger: Ledger, platform: str, keep: timedelta, now: datetime) -> int:
    """Drop the samples, and the forecasts, that are older than ``keep``; how many samples went."""
    before = now - keep
    with ledger.transaction() as connection:
        connection.execute("delete from capacity_forecasts where platform = %s and made_at < %s", [platform, before])
        gone = connection.execute(
            "delete from capacity_samples where platform = %s and day < %s", [platform, before.astimezone(UTC).date()]
        )
        return gone.rowcount


def read(ledger: Ledger, platform: str, today: date, *, seen_within: int = MOST_DAYS) -> list[Series]:
    """
    Every series of a platform, as far back as it says anything about tomorrow.

    :param seen_within: so many days; what was measured last before that is left out.
    """
    rows = ledger.rows(_text("series"), {"platform": platform, "since": today - timedelta(days=MOST_DAYS)})
    return [
        Series(
            row["metric"],
            row["object"],
            dict(zip(row["days"], row["values"], strict=True)),
            next((most for most in reversed(row["limits"][-LIMIT_SAMPLES:]) if most is not None), None),
        )
        for row in rows
        if (today - row["days"][-1]).days <= seen_within
    ]


@cache
def _text(question: str) -> str:
    return (ROOT / "include" / "sql" / "capacity" / f"{question}.sql").read_text()
