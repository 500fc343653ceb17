"""Where outcomes wait while the ledger is down: one JSON file per task, on a volume that all processes share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from upkeep.errors import SettingsError
from upkeep.findings import Finding, Outcome, Severity
from upkeep.ledger import Change, Ledger, Run
from upkeep.ledger.outbox import Message

log = logging.getLogger(__name__)


def put(spool: Path, run: Run, outcomes: Sequence[Outcome], told: Iterable[str] = ()) -> Path:
    """
    Keep outcomes until the ledger is back; the same task and try overwrites its own file.

    :param told: keys that PagerDuty has confirmed already.
    """
    spool.mkdir(parents=True, exist_ok=True)
    identity = f"{run.dag_id}/{run.run_id}/{run.task_id}/{run.map_index}/{run.try_number}"
    file = spool / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    content = {"run": asdict(run), "outcomes": [asdict(outcome) for outcome in outcomes], "told": sorted(told)}
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(content, default=_json))
    draft.replace(file)
    return file


def waiting(spool: Path) -> list[Path]:
    """Files to be taken in, oldest first."""
    return sorted(spool.glob("*.json"), key=lambda file: file.stat().st_mtime) if spool.is_dir() else []


def told(spool: Path) -> set[str]:
    """Keys that PagerDuty has confirmed since the ledger went down, whichever task told them."""
    keys: set[str] = set()
    for file in waiting(spool):
        # Another process may take a file in meanwhile, and an unreadable one is take_in's business.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            keys.update(json.loads(file.read_text()).get("told", ()))
    return keys


def take_in(ledger: Ledger, spool: Path, messages: Callable[[Change], Iterable[Message]]) -> int:
    """
    Write what waited into the ledger as if it had been reachable; return the number of files.

    An outcome older than what the ledger has seen of the same check since is history: recorded nowhere, told nobody.
    A file that cannot be read is put aside as ``.unreadable``, never deleted.
    """
    taken = 0
    for file in waiting(spool):
        try:
            content = json.loads(file.read_text())
            run = Run(**content["run"])
            outcomes = [_outcome(item) for item in content["outcomes"]]
        except (ValueError, KeyError, TypeError) as wrong:
            log.error("%s cannot be read (%s); kept as .unreadable", file, wrong)
            file.replace(file.with_suffix(".unreadable"))
            continue
        told = set(content.get("told", ()))
        fresh = [outcome for outcome in outcomes if not _overtaken(ledger, run.platform, outcome)]

        def untold(change: Change, told: set[str] = told) -> list[Message]:
            return [m for m in messages(change) if not (m.channel == "pagerduty" and m.key in told)]

        try:
            ledger.record(run, fresh, untold)
        except SettingsError as gone:
            log.error("%s cannot be told: %s; kept as .unreadable", file, gone.message)
            file.replace(file.with_suffix(".unreadable"))
            continue
        file.unlink()
        taken += 1
    return taken


def _overtaken(ledger: Ledger, platform: str, outcome: Outcome) -> bool:
    rows = ledger.rows(
        "select 1 from outcomes where platform = %s and check_name = %s and object = %s and started_at > %s limit 1",
        [platform, outcome.check, outcome.object, outcome.at],
    )
    return bool(rows)


def _json(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _outcome(item: dict[str, Any]) -> Outcome:
    findings = tuple(Finding(**{**f, "severity": Severity(f["severity"])}) for f in item["findings"])
    return Outcome(
        **{
            **item,
            "severity": Severity(item["severity"]),
            "findings": findings,
            "at": datetime.fromisoformat(item["at"]),
        }
    )
