"""How numbers, times and lengths are said to people."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """``13002342`` → ``12.4 MiB``."""
    value = float(count)
    for unit in _SIZES[:-1]:
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_SIZES[-1]}"


def span(seconds: float) -> str:
    """``11520`` → ``3 h 12 min``; the two largest units, milliseconds below a second."""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, part, part_length in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part_length
            return f"{whole // length} {unit}" + (f" {rest} {part}" if rest else "")
    raise AssertionError(whole)


def about(seconds: float) -> str:
    """As ``span``, without the seconds once there are minutes."""
    return span(seconds // 60 * 60 if seconds >= 60 else seconds)


def number(value: float) -> str:
    """``1234567`` → ``1,234,567``; at most four significant digits behind the point."""
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "not a number"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.1f}"
    return f"{value:.4g}"


def counted(count: int, one: str, many: str = "") -> str:
    """``counted(2, "finding")`` → ``2 findings``."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def clock(at: datetime) -> str:
    """``2026-11-14 02:00:03 UTC``."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def hour(at: datetime, now: datetime) -> str:
    """The time of day, with its date when that is not today's."""
    return at.strftime("%H:%M UTC" if at.date() == now.date() else "%Y-%m-%d %H:%M UTC")


_BYTES = re.compile(r"(^|_)bytes($|_)|_size$|^size$")
_SECONDS = re.compile(r"(_s|seconds|_lag|_age)$")
_SHARE = re.compile(r"(^|_)(share|rate|ratio)$")

_MOMENT = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)$")


def fact(name: str, value: Any) -> str:
    """One fact for people; its name says its unit (``bytes_freed``, ``lag_s``, ``hit_rate``)."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if _BYTES.search(name):
            return size(value)
        if _SECONDS.search(name):
            return span(value)
        if _SHARE.search(name) and 0 <= value <= 1:
            return f"{value * 100:.3g} %"
        return number(value)
    if isinstance(value, str):
        return f"{value[:10]} {value[11:16]} UTC" if _MOMENT.match(value) else value
    return json.dumps(value, ensure_ascii=False, default=str)


def words(name: str) -> str:
    """``dead_tuples`` → ``dead tuples``."""
    return name.replace("_", " ").strip()


def label(name: str) -> str:
    """The name of a fact without the unit that ``fact`` puts behind the number: ``lag_s`` → ``lag``."""
    without = re.sub(r"(_s|_seconds|_bytes)$|^bytes_", "", name)
    return words("size" if without == "bytes" else without)


def facts_line(facts: Mapping[str, Any], most: int = 4, most_length: int = 60) -> str:
    """The first simple facts in one line: ``used 62.0 MiB · clients 12``."""
    shown: list[str] = []
    for name, value in facts.items():
        if isinstance(value, (list, dict)) or value in ("", None):
            continue
        text = fact(name, value)
        if len(text) <= most_length and len(shown) < most:
            shown.append(f"{label(name)} {text}")
    return " · ".join(shown)


def is_table(value: Any) -> bool:
    """Whether a fact is a list of records, and therefore shown as a table of its own."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)


def simple(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that are not tables."""
    return {name: value for name, value in facts.items() if not is_table(value)}


_SAID_ELSEWHERE = {"state", "reason", "seconds", "first"}


def change(before: Mapping[str, Any], after: Mapping[str, Any], most: int = 4) -> list[tuple[str, str, str]]:
    """
    ``[(what, before, after)]``: what changed first, then what only one side knows; an empty text for its silence.

    Plain values only, the most telling few; the whole of both is one click away.
    """
    changed = [
        (label(name), fact(name, value), fact(name, after[name]))
        for name, value in before.items()
        if name in after and _plain(value) and _plain(after[name]) and value != after[name]
    ]
    silent = after or before
    alone = [
        (label(name), "" if after else fact(name, value), fact(name, value) if after else "")
        for name, value in silent.items()
        if _plain(value) and (name not in before or not after) and name not in _SAID_ELSEWHERE
    ]
    return (changed + alone)[:most]


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and 0 < len(value) <= 60)


_IRREGULAR = {"drop": "dropped", "freeze": "frozen"}


def past(verb: str) -> str:
    """``vacuum`` → ``vacuumed``; ``delete`` → ``deleted``."""
    first, _, rest = verb.replace("_", " ").partition(" ")
    if first in _IRREGULAR:
        return f"{_IRREGULAR[first]} {rest}".strip()
    done = first if first.endswith("ed") else f"{first}d" if first.endswith("e") else f"{first}ed"
    return f"{done} {rest}".strip()
