"""What others wrote, made fit for a report: without secrets, and cut to a length that can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upkeep.alerts.redact import redact

MOST_TEXT = 2000
"""Characters of one text."""

MOST_ITEMS = 50
"""Entries of one mapping or list inside facts."""

MOST_FACTS = 8000
"""Characters of all texts in one set of facts."""

MOST_DEPTH = 6


def text(value: Any, most: int = MOST_TEXT) -> str:
    """
    ``value`` as text of at most ``most`` characters and a notice of what is missing.

    Control characters other than tab and newline become U+FFFD: neither HTML nor a terminal should see them.
    """
    whole = str(value)
    # A secret that starts before the cut may end behind it, and a regular expression over megabytes takes its time.
    kept = redact(whole[: most + 1000])[:most]
    kept = "".join(c if (c >= " " and c != "\x7f") or c in "\n\t" else "\ufffd" for c in kept)
    # Half of a surrogate pair cannot be written as UTF-8.
    kept = kept.encode("utf-8", "replace").decode()
    return kept if len(whole) <= most else f"{kept} … (cut: {len(whole):,} characters; the ledger has them all)"


def facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without secrets, few and short enough to be read; what was cut says so in its place."""
    return dict(_Budget().mapping(values, 0))


def entries(values: Sequence[Any], most: int) -> tuple[Any, ...]:
    """The first ``most`` of ``values``, together no longer than ten sets of facts."""
    budget = _Budget(10 * MOST_FACTS)
    return tuple(budget.value(value, 0) for value in values[:most])


class _Budget:
    """How much text one set of facts may still bring."""

    def __init__(self, left: int = MOST_FACTS) -> None:
        self.left = left

    def value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, (Mapping, list, tuple)) and depth >= MOST_DEPTH:
            return "… (cut: nested too deep; the ledger has it all)"
        if isinstance(value, Mapping):
            return self.mapping(value, depth)
        if isinstance(value, (list, tuple)):
            kept = [self.value(item, depth + 1) for item in value[:MOST_ITEMS]]
            return [*kept, f"… (cut: {len(value):,} entries)"] if len(value) > MOST_ITEMS else kept
        return self.text(value)

    def mapping(self, values: Mapping[str, Any], depth: int) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, value in list(values.items())[:MOST_ITEMS]:
            key = self.text(name)
            kept[key] = "***" if isinstance(value, str) and value and _secret(name) else self.value(value, depth + 1)
        if len(values) > MOST_ITEMS:
            kept["…"] = f"cut: {len(values):,} entries; the ledger has them all"
        return kept

    def text(self, value: Any) -> str:
        kept = text(value, max(min(MOST_TEXT, self.left), 20))
        self.left -= len(kept)
        return kept


def _secret(name: str) -> bool:
    """Whether a value of this name is one that is never shown."""
    return redact(f"{name}=x") != f"{name}=x"
