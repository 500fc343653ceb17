"""What a person asks for, read strictly: nothing of it is ever run, it only chooses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from upkeep.backup import manifest
from upkeep.errors import SettingsError

ACTIONS = ("restore", "swap back", "drop the old one")
PLACES = ("beside", "replace")
REFUSED = ("remove", "keep")
KNOWN = ("platform", "action", "backup", "at", "place", "if_refused", "restore")
RESTORE_ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class Asked:
    """One thing to do."""

    platform: str
    action: str = "restore"
    backup: str = ""
    """Its id; empty for the newest that is content-verified, or the one that ``at`` means."""

    at: str = ""
    """ISO 8601, UTC; the newest backup of before. Empty: none."""

    place: str = "beside"
    """``replace``: swapped for the living database, after a yes."""

    if_refused: str = "remove"
    """What becomes of the new database when the answer is no: ``remove`` or ``keep``."""

    restore: str = ""
    """Which restore is taken back, or whose old database is dropped."""

    @property
    def moment(self) -> datetime | None:
        return datetime.fromisoformat(self.at) if self.at else None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read(platform: str, params: Mapping[str, Any], *, now: datetime | None = None) -> Asked:
    """:raises SettingsError: it is none of what may be asked. :raises ManifestError: that is no id of a backup."""
    if unknown := sorted(set(params) - set(KNOWN)):
        raise SettingsError(
            f"the form has no field {_shown(unknown[0])}",
            hint=f"there are: {', '.join(KNOWN)}; a misspelt one would have been passed by.",
        )
    action = _one_of(params, "action", ACTIONS)
    place, refused = _one_of(params, "place", PLACES), _one_of(params, "if_refused", REFUSED)
    backup, restore = _word(params, "backup"), _word(params, "restore")
    at = _moment(_word(params, "at"), now or datetime.now(UTC))
    if action != "restore":
        if not RESTORE_ID.fullmatch(restore):
            raise SettingsError(
                f"restore is {_shown(restore)}, not the id of a restore",
                hint="eight digits and letters a to f, as the restore's messages and its databases' names have them.",
            )
        if backup or at:
            raise SettingsError(
                f"a backup is named, and {action} takes none", hint="leave `backup` and `at` empty for it."
            )
        return Asked(platform, action=action, restore=restore)
    if restore:
        raise SettingsError(
            f"restore is {_shown(restore)}, and a new restore has no id yet",
            hint="leave it empty, or choose the action `swap back` or `drop the old one`.",
        )
    if backup:
        manifest.folder("", backup)
        if at:
            raise SettingsError("both a backup and a point in time", hint="one of them: an id, or `at`.")
    return Asked(platform, backup=backup, at=at, place=place, if_refused=refused)


def _one_of(params: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    said = params.get(name)
    if said is None or said == "":
        return allowed[0]
    if said not in allowed:
        raise SettingsError(f"{name} is {_shown(said)}", hint=f"one of: {', '.join(allowed)}.")
    return str(said)


def _word(params: Mapping[str, Any], name: str) -> str:
    said = params.get(name)
    if said is not None and not isinstance(said, str):
        raise SettingsError(f"{name} is {_shown(said)}, not a text", hint="put it into quotes.")
    return (said or "").strip()


def _moment(said: str, now: datetime) -> str:
    if not said:
        return ""
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        raise SettingsError(
            f"at is {_shown(said)}, not a time", hint="ISO 8601, for example 2026-11-22T14:30:00Z; without a zone, UTC."
        ) from None
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    if moment > now:
        raise SettingsError(f"at is {moment:%Y-%m-%d %H:%M:%S} UTC, in the future", hint="name a time that has been.")
    return moment.isoformat()


def _shown(value: Any) -> str:
    """As Python would write it, and no more of it than fits a line."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
