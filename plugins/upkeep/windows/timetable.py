"""Which Dags serve a window of their platform, and when those are due."""

from __future__ import annotations

from datetime import UTC, datetime
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
    # By the clock on the wall, as Airflow does: an hour that comes twice in autumn counts as the later one, and one
    # that spring leaves out as the hour after it.
    schedule = croniter(window.start, until.astimezone(place).replace(tzinfo=None))
    wall = [schedule.get_prev(datetime) for _ in range(count)]
    return sorted(max(at.replace(tzinfo=place, fold=fold).astimezone(UTC) for fold in (0, 1)) for at in wall)
