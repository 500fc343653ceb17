"""Capacity of one platform for people, from the ledger alone: the report and the page in Airflow show the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from upkeep.capacity.catalog import kind, named, of_limit, said
from upkeep.capacity.demand import AT_MOST, REQUESTS
from upkeep.capacity.forecasts import CURRENT, Kept, newest
from upkeep.capacity.growing import Grows, growing
from upkeep.capacity.outlook import SHRINK
from upkeep.capacity.plot import Picture, picture
from upkeep.capacity.samples import Series, read
from upkeep.capacity.sampling.measured import CHECK
from upkeep.ledger import Ledger
from upkeep.platforms import Platform
from upkeep.report.wording import number

MOST_PLOTS = 60
"""On the page; the report draws every series."""

RANK = {"finding": 0, "unknown": 1, "ok": 2, "free": 3}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One series, ready to be shown."""

    name: str
    kept: Kept
    now: str
    limit: str
    """`` of 97``; empty for a share."""

    share: float | None
    """In use now, of the limit."""

    days: str
    """Days left, in few words: ``41``, ``none``, ``> 180``, ``?``."""

    range: str
    """Early and late tenth: ``35 – 52``."""

    error: str
    picture: Picture | None
    """None: too many of them for one page."""

    @property
    def limited(self) -> bool:
        """Whether there is an end that anybody minds."""
        return bool(self.limit) or self.share is not None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One growth table, ready to be shown."""

    card: Card
    per_day: str
    ahead: Mapping[int, tuple[str, str]]
    """Days → what is expected, and its range."""

    beside: Sequence[str]
    """What came with each thousand more."""


@dataclass(frozen=True, kw_only=True)
class View:
    platform: Platform
    made_at: datetime | None
    """Of the newest forecast; None: there was none yet."""

    days_sampled: int
    limited: Sequence[Card]
    """What has a limit, the nearest first."""

    free: Sequence[tuple[str, Sequence[Card]]]
    """The rest, by kind."""

    growth: Sequence[Row]
    advice: Sequence[dict[str, Any]]
    """Open findings about autoscalers, requests and what is larger than needed."""

    gaps: Sequence[dict[str, Any]]
    """Sources that could not be sampled last time."""


def view(ledger: Ledger, platform: Platform, now: datetime, *, most_plots: int | None = None) -> View:
    """
    :param most_plots: so many pictures, the most urgent series first; None for all.
    :raises LedgerError: the ledger cannot be used.
    """
    return view_of(
        platform,
        read(ledger, platform.name, now.astimezone(UTC).date(), seen_within=CURRENT.days),
        newest(ledger, platform.name, now),
        advice=_open(ledger, platform.name, [AT_MOST, REQUESTS, SHRINK]),
        gaps=_open(ledger, platform.name, [CHECK]),
        most_plots=most_plots,
    )


def view_of(
    platform: Platform,
    listed: Sequence[Series],
    forecasts: Sequence[Kept],
    *,
    advice: Sequence[dict[str, Any]] = (),
    gaps: Sequence[dict[str, Any]] = (),
    most_plots: int | None = None,
) -> View:
    """The same of what has been read already."""
    series = {(one.metric, one.object): one for one in listed}
    kept = [one for one in forecasts if (one.metric, one.object) in series]
    full = platform.capacity.full if platform.capacity else 0.9
    kept.sort(key=lambda one: (RANK[one.state], _soonness(one), one.metric, one.object))
    plots = len(kept) if most_plots is None else most_plots
    cards = [_card(series[one.metric, one.object], one, full, plot=place < plots) for place, one in enumerate(kept)]
    limited = [card for card in cards if card.limited]
    rest: dict[str, list[Card]] = {}
    for card in cards:
        if not card.limited and card.kept.metric not in ("rows", "new_rows"):
            rest.setdefault(card.kept.metric, []).append(card)
    by_name = {(card.kept.metric, card.kept.object): card for card in cards}
    return View(
        platform=platform,
        made_at=max((one.made_at for one in kept), default=None),
        days_sampled=max((len(one.values) for one in series.values()), default=0),
        limited=limited,
        free=[
            (_words(metric), sorted(those, key=lambda card: -card.kept.value)) for metric, those in sorted(rest.items())
        ],
        growth=[_row(one, by_name["rows", one.name]) for one in growing(listed, kept)],
        advice=advice,
        gaps=gaps,
    )


def _card(series: Series, kept: Kept, full: float, *, plot: bool) -> Card:
    limit = kept.most if kept.most and kept.most > 0 and kind(kept.metric).hint else None
    _, value = series.last
    return Card(
        name=named(kept.metric, kept.object),
        kept=kept,
        now=said(kept.metric, value),
        limit=of_limit(kept.metric, limit) if limit else "",
        share=value / limit if limit else None,
        days=_days(kept),
        range=_range(kept),
        error=said(kept.metric, kept.error) if kept.error is not None else "",
        picture=picture(series, kept, full) if plot else None,
    )


def _row(one: Grows, card: Card) -> Row:
    return Row(
        card=card,
        per_day="?" if one.per_day is None else f"{one.per_day:+,.1f}",
        ahead={
            days: (number(round(p50)), f"{number(round(p10))} – {number(round(p90))}")
            for days, (p10, p50, p90) in one.ahead
        },
        beside=[f"{named(each.metric, each.object)}: {said(each.metric, each.per_thousand)}" for each in one.beside],
    )


def _days(kept: Kept) -> str:
    if kept.state in ("unknown", "free") or kept.horizon is None:
        return "?" if kept.state == "unknown" else ""
    if kept.p10_days == 0 == kept.p50_days:
        return "full"
    return f"> {kept.horizon}" if kept.p50_days is None else str(kept.p50_days)


def _range(kept: Kept) -> str:
    if kept.p10_days is None or kept.p50_days == 0 or kept.state in ("unknown", "free"):
        return ""
    return f"{kept.p10_days} – {kept.p90_days if kept.p90_days is not None else 'later'}"


def _soonness(kept: Kept) -> tuple[float, float, float]:
    never = 1e9
    early, middle = (never if days is None else days for days in (kept.p10_days, kept.p50_days))
    return early, middle, -(kept.value / kept.most if kept.most else 0.0)


def _words(metric: str) -> str:
    words = kind(metric).words or metric
    return words.removesuffix(" of").removesuffix(",").removesuffix(" in bucket")


def _open(ledger: Ledger, platform: str, checks: Sequence[str]) -> list[dict[str, Any]]:
    return ledger.rows(
        "select check_name, object, severity, summary, hint, opened_at from findings"
        " where platform = %s and check_name = any(%s) and state = 'open' order by severity, check_name, object"
        " limit 200",
        [platform, list(checks)],
    )


def left(ledger: Ledger, platform: str, now: datetime, most: int = 5) -> list[Kept]:
    """What runs out first: for the platform's own page. Within 40 days of the newest forecast."""
    kept = [one for one in newest(ledger, platform, now) if one.most is not None and kind(one.metric).hint]
    kept.sort(key=lambda one: (RANK[one.state], _soonness(one)))
    return kept[:most]
