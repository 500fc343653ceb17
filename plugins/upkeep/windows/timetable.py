"""Which Dags serve a window of their platform, and when those are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from upkeep.platforms import Platform
from upkeep.platforms.alerting import Window


def timetable(platform: Platform) -> dict[str, Window]:
    """By Dag id. What runs every few minutes has no windows: a look that was missed is missed."""
    windows = platform.windows
    served = {
        f"{platform.name}_daily_maintenance": windows.daily,
        f"{platform.name}_weekly_maintenance": windows.weekly,
        f"{platform.name}_monthly_maintenance": windows.monthly,
    }
    if platform.recovery:
        served[f"{platform.name}_quarterly_maintenance"] = windows.quarterly
    if platform.backup:
        served[f"{platform.name}_backup"] = windows.backup
    return served


def due(window: Window, until: datetime, count: int, zone: str = "UTC") -> list[datetime]:
    """
    The last ``count`` times that the window was due before ``until``, the oldest first.

    :param zone: Airflow's, in which it reads a schedule.
    """
    from croniter import croniter  # type: ignore[import-untyped]

    place = ZoneInfo(zone)
    schedule = croniter(window.start, until.astimezone(place).replace(tzinfo=None))
    return sorted(_instant(schedule.get_prev(datetime), place) for _ in range(count))


def between(window: Window, since: datetime, until: datetime, zone: str = "UTC") -> list[datetime]:
    """All times that the window is due from ``since`` until before ``until``, the oldest first."""
    first = since.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    found: list[datetime] = []
    while first < until:
        following = (first + timedelta(days=32)).replace(day=1)
        found += _in_month(window.start, first, following, zone)
        first = following
    return [at for at in found if since <= at < until]


# A year of a daily window takes 50 ms to work out, and a month that is over never changes.
@lru_cache(maxsize=8192)
def _in_month(start: str, since: datetime, until: datetime, zone: str) -> tuple[datetime, ...]:
    from croniter import croniter

    place = ZoneInfo(zone)
    schedule = croniter(start, until.astimezone(place).replace(tzinfo=None))
    found: list[datetime] = []
    while (at := _instant(schedule.get_prev(datetime), place)) >= since:
        found.append(at)
    return tuple(reversed(found))


def _instant(wall: datetime, place: ZoneInfo) -> datetime:
    """
    By the clock on the wall, as Airflow does.

    An hour that comes twice in autumn counts as the later one, and one that spring leaves out as the hour after it.
    """
    return max(wall.replace(tzinfo=place, fold=fold).astimezone(UTC) for fold in (0, 1))
