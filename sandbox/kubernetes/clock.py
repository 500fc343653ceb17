"""Timestamps as Kubernetes writes them: RFC 3339, UTC, whole seconds (microseconds in a few fields)."""

from __future__ import annotations

import datetime
import re
from typing import Any

_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def now() -> str:
    return stamp(datetime.datetime.now(datetime.UTC))


def now_micro() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def stamp(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def ago(seconds: float) -> str:
    return stamp(datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds))


def seconds_since(text: str) -> float:
    return (datetime.datetime.now(datetime.UTC) - parse(text)).total_seconds()


def aged(value: Any, seconds: float) -> Any:
    """A copy of a JSON value in which every timestamp lies ``seconds`` further back."""
    if isinstance(value, dict):
        return {key: aged(part, seconds) for key, part in value.items()}
    if isinstance(value, list):
        return [aged(part, seconds) for part in value]
    if isinstance(value, str) and _STAMP.fullmatch(value):
        moment = parse(value) - datetime.timedelta(seconds=seconds)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if "." in value else stamp(moment)
    return value


def age(text: str) -> str:
    """The way kubectl prints ages: ``45s``, ``7m``, ``3h``, ``2d``."""
    seconds = max(0, int(seconds_since(text)))
    for unit, size, least in (("d", 86400, 2 * 86400), ("h", 3600, 3 * 3600), ("m", 60, 120)):
        if seconds >= least:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
