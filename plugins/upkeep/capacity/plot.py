"""One series as a picture: what was measured, how it goes on, and its limit; a box of 1000 by 1000, stretched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from upkeep.capacity.catalog import kind, said
from upkeep.capacity.forecasts import Kept
from upkeep.capacity.samples import Series

BOX = 1000

MOST_HISTORY = 400
"""Days of the past that are drawn."""

MOST_POINTS = 120
"""Of the past; more of them become averages of a few days each."""

FAR = 4.0
"""A limit that is so many times what is in use, or will be, would press everything else flat."""


Scale = Callable[[float], float]
"""From a day or a value to its place in the box."""


@dataclass(frozen=True)
class Label:
    """Text at a place, in per cent of the box."""

    x: float
    y: float
    text: str
    anchor: str = "start"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Paths of an SVG."""

    title: str
    """For those who hear it."""

    history: str
    dots: str
    """Days that stand alone between gaps."""

    band: str
    edges: str
    middle: str
    today: float | None
    """x; None without a forecast."""

    limit: float | None
    """y; None: there is none, or far above."""

    limit_said: str
    full: float | None
    far: str
    """The limit, in words, when it is far above."""

    shifts: Sequence[tuple[float, str]]
    labels: Sequence[Label]


def picture(series: Series, kept: Kept, full: float) -> Picture:
    """:param full: share of the limit from which on it counts as exhausted."""
    last = max(series.values)
    first = max(min(series.values), last - timedelta(days=MOST_HISTORY))
    points = _thinned({day: value for day, value in series.values.items() if day >= first}, first)
    path = kept.path
    horizon = int(path["days"][-1]) if path else 0
    # Samples that came after the forecast are drawn over it.
    origin = (kept.last_day - first).days
    began, width = (last - first).days, max(1, (last - first).days, origin + horizon)
    judged = kept.most if kept.most and kind(series.metric).hint else None
    drawn = [value for _, value in points] + [value for name in ("p10", "p50") for value in path.get(name, ())]
    top = max(drawn)
    # The late tenth may be far out: it is drawn as far as it has room.
    band = list(path.get("p90", ()))
    far = judged is not None and judged > FAR * max(top, 1e-300)
    limit = judged if judged is not None and not far else None
    high = max([top, min(max(band, default=top), 1.6 * max(top, limit or top)), *([limit] if limit else [])])
    low = min([0.0, *drawn]) if judged or kind(series.metric).unit == "share" else min(drawn)
    low, high = _room(low, high)

    def x(days: float) -> float:
        return round(BOX * days / width, 1)

    def y(value: float) -> float:
        return round(BOX * (1 - (min(max(value, low), high) - low) / (high - low)), 1)

    ahead = [x(origin + day) for day in path.get("days", ())]
    start = f"{x(origin)} {y(kept.value)}"
    lines = {name: [f"{at} {y(value)}" for at, value in zip(ahead, path.get(name, ()), strict=True)] for name in _PATHS}
    history, dots = _line(points, _step((last - first).days), x, y)
    return Picture(
        title=_title(series, kept),
        history=history,
        dots=dots,
        band="M" + "L".join([start, *lines["p90"], *reversed(lines["p10"])]) + "Z" if path else "",
        edges="M" + "L".join([start, *lines["p90"]]) + "M" + "L".join([start, *lines["p10"]]) if path else "",
        middle="M" + "L".join([start, *lines["p50"]]) if path else "",
        today=x(began) if path else None,
        limit=y(limit) if limit is not None else None,
        limit_said=f"limit {said(series.metric, limit)}" if limit is not None else "",
        full=y(full * limit) if limit is not None and full < 1 else None,
        far=f"limit {said(series.metric, judged)}, far above" if far and judged is not None else "",
        shifts=[
            (x((date.fromisoformat(day) - first).days), f"{day}: level shift of {_signed(series.metric, size)}")
            for day, size in kept.shifts
            if date.fromisoformat(day) >= first
        ],
        labels=_labels(series, low, None if limit is not None else high, first, last, width),
    )


_PATHS = ("p10", "p50", "p90")


def _labels(series: Series, low: float, high: float | None, first: date, last: date, width: int) -> list[Label]:
    """The ends of both axes, and where the past ends; a limit says its own height."""
    at = 100 * (last - first).days / width
    made = [] if high is None else [Label(0, 0, said(series.metric, high))]
    made += [Label(0, 100, said(series.metric, low)), Label(0, 112, str(first))]
    if at > 25:
        made.append(Label(at, 112, str(last), "end" if at > 80 else "middle"))
    if at <= 80:
        made.append(Label(100, 112, str(first + timedelta(days=width)), "end"))
    return made


def _title(series: Series, kept: Kept) -> str:
    _, value = series.last
    limit = f" of {said(series.metric, kept.most)}" if kept.most else ""
    return f"{len(series.values)} daily samples, last {said(series.metric, value)}{limit}; {kept.said}"


def _signed(metric: str, value: float) -> str:
    return f"{'−' if value < 0 else '+'}{said(metric, abs(value))}"


def _room(low: float, high: float) -> tuple[float, float]:
    """A little air, and no box without height."""
    if high <= low:
        return low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    air = 0.06 * (high - low)
    return (low - air if low else 0.0), high + air


def _step(days: int) -> int:
    return max(1, -(-days // MOST_POINTS))


def _thinned(values: dict[date, float], first: date) -> list[tuple[float, float]]:
    """``(days since first, value)``; averages over a few days where there are many. A gap stays a gap."""
    step = _step((max(values) - first).days)
    parts: dict[int, list[tuple[int, float]]] = {}
    for day, value in values.items():
        parts.setdefault((day - first).days // step, []).append(((day - first).days, value))
    return [
        (sum(day for day, _ in part) / len(part), sum(value for _, value in part) / len(part))
        for _, part in sorted(parts.items())
    ]


def _line(points: Sequence[tuple[float, float]], step: int, x: Scale, y: Scale) -> tuple[str, str]:
    """Lines between what was measured on neighbouring days, and dots where nothing is next to it."""
    runs: list[list[str]] = []
    before: float | None = None
    for day, value in points:
        place = f"{x(day)} {y(value)}"
        if before is None or day - before >= 2 * step:
            runs.append([])
        runs[-1].append(place)
        before = day
    lines = "".join("M" + "L".join(run) for run in runs if len(run) > 1)
    dots = "".join(f"M{run[0]}h0" for run in runs if len(run) == 1)
    return lines, dots
