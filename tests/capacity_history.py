"""Histories of daily samples, for tests that cannot wait for months."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

import numpy as np

from bench.growing import grow
from upkeep.ledger import Ledger

GIB = 1024.0**3

Key = tuple[str, str]


def today() -> date:
    return datetime.now(UTC).date()


def fill(
    ledger: Ledger,
    values: Iterable[float],
    metric: str,
    object: str = "",
    *,
    most: float | None = None,
    platform: str = "studyspot",
    ends: int = 0,
) -> None:
    """One value a day, the last one ``ends`` days ago; NaN is a gap."""
    listed = [float(value) for value in values]
    first = today() - timedelta(days=ends + len(listed) - 1)
    rows = [
        (platform, metric, object, first + timedelta(days=place), value, most)
        for place, value in enumerate(listed)
        if not math.isnan(value)
    ]
    with ledger.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into capacity_samples (platform, metric, object, day, value, most) values (%s, %s, %s, %s, %s, %s)",
            rows,
        )


def a_year_of(ledger: Ledger, platform: str = "studyspot") -> None:
    """Something of everything: growth, a purge, the week, a spike, gaps, a beginner, and what needs nothing."""
    rng = np.random.default_rng(7)

    def growing(kind: str, seed: int = 1, days: int = 200) -> np.ndarray:
        return grow(kind, seed, days, 0).history

    histories: Mapping[Key, tuple[Iterable[float], float | None]] = {
        ("volume_share", "db-0:9100:/var/lib/postgresql"): (growing("plain") / 800, 1.0),
        ("volume_share", "db-1:9100:/var/lib/postgresql"): (growing("purge") / 1000, 1.0),
        ("volume_share", "node-0:9100:/"): (0.38 + rng.normal(0, 0.002, 200), 1.0),
        ("database_bytes", "studyspot"): (growing("acceleration") * 0.2 * GIB, 400 * GIB),
        ("connections", ""): (growing("week") / 8, 97.0),
        ("redis_bytes", ""): (growing("outliers") * 1024**2, 1.0 * GIB),
        ("memory_share", "db-0:9100"): (0.2 + rng.normal(0, 0.01, 90), 1.0),
        ("node_share", "node-1/cpu"): (growing("gaps") / 1500, 1.0),
        ("topic_bytes", "attempts.events"): ([1e9, 1.1e9, 1.2e9, 1.1e9, 1.3e9], 5e9),
        ("table_bytes", "public.bookings"): (growing("plain", 2) * 0.1 * GIB, None),
        ("index_bytes", "public.bookings_pkey"): (growing("plain", 3) * 0.02 * GIB, None),
        ("bucket_bytes", "studyspot-files"): (growing("plain", 4) * GIB, None),
        ("rows", "users"): (growing("plain", 5, 400) * 100, None),
        ("rows", "bookings"): (growing("week", 6) * 900, None),
        ("autoscaler_replicas", "studyspot-api"): ([9] * 30, 10),
        ("autoscaler_at_most_share", "studyspot-api"): ([0.2] * 30, None),
        ("request_share", "studyspot-web/web/cpu"): ([0.04] * 30, None),
    }
    for (metric, object), (values, most) in histories.items():
        fill(ledger, values, metric, object, most=most, platform=platform)
