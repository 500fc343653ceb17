"""What the tests of alerts share: inboxes behind Upkeep's connections, an empty spool, and time that passes at once."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import __main__ as sandbox
from sandbox.home import Home
from sandbox.inboxes.client import Inbox
from sandbox.servers import prepare
from sandbox.servers.inboxes import start_inboxes
from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.ledger import Ledger
from upkeep.platforms import Platform, platform
from upkeep.settings import settings

CONNECTIONS = (
    "upkeep_pagerduty_events", "upkeep_pagerduty_rest", "upkeep_slack", "upkeep_slack_webhook", "upkeep_smtp",
)  # fmt: skip


@pytest.fixture(scope="module")
def inboxes() -> Iterator[Home]:
    home = Home(Path(tempfile.mkdtemp(prefix="up-", dir="/tmp")))
    try:
        prepare(home, scale=0.02)
        start_inboxes(home)
        yield home
    finally:
        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)


@pytest.fixture
def inbox(inboxes: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Empty inboxes behind Upkeep's connections, and an empty spool."""
    for conn_id in CONNECTIONS:
        if connection := inboxes.state()["connections"].get(conn_id):
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    monkeypatch.setenv("SSL_CERT_FILE", str(inboxes.path / "certificates" / "trust.pem"))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    settings.cache_clear()
    start_inboxes(inboxes)
    found = Inbox(inboxes)
    found.reset()
    yield found
    settings.cache_clear()


@pytest.fixture
def studyspot() -> Platform:
    return platform("studyspot")


def bad(
    check: str = "redis_memory", object: str = "", severity: Severity = Severity.P1, said: str = "broken"
) -> Outcome:
    found = Finding(check=check, object=object, severity=severity, summary=said, hint="mend it", facts={"n": 1})
    return judged(check, severity, [found], object=object)


def actions(inbox: Inbox) -> list[tuple[str, str]]:
    return [(event["action"], event["dedup_key"].removeprefix("studyspot/")) for event in inbox.pagerduty()]


def shown(inbox: Inbox) -> list[str]:
    return [message["text"] for message in inbox.slack()]


def altered(subject: Platform, **alerts: Any) -> Platform:
    """The platform with other words in its section ``alerts``."""
    return subject.model_copy(update={"alerts": subject.alerts.model_copy(update=alerts)})


TIMES = {
    "findings": ("opened_at", "last_seen_at", "resolved_at", "acknowledged_at"),
    "finding_events": ("at",),
    "outbox": ("next_attempt_at", "created_at", "delivered_at"),
    "silences": ("starts_at", "until"),
    "waivers": ("starts_at", "until"),
    "watermarks": ("at",),
}


def pass_time(ledger: Ledger, seconds: float) -> None:
    """The ledger's clock goes on: everything in it happened so much longer ago."""
    with ledger.transaction() as connection:
        for table, columns in TIMES.items():
            moved = ", ".join(f"{column} = {column} - make_interval(secs => {float(seconds)})" for column in columns)
            connection.execute(f"update {table} set {moved}")
