"""`python -m upkeep verify-trail`: whether what the ledger says was done is what was written then."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from upkeep.backup.store import Store, StoreError
from upkeep.connections import open_ledger, s3_client
from upkeep.errors import SettingsError
from upkeep.ledger import Ledger
from upkeep.platforms import Platform, platforms
from upkeep.report.wording import span
from upkeep.trail.chain import look, seal
from upkeep.trail.witness import disagreements, witnesses


def verified() -> dict[str, Any]:
    """
    Ask the ledger and every bucket of backups.

    :returns: ``{"whole": bool, "facts": 120, "since": …, "head": {…} | None, "broken": [sentence, …],
        "witnesses": [{"platform", "bucket", "count", "newest", "locked", "unseen"}, …]}``.
    :raises LedgerError: the ledger is down.
    """
    with open_ledger() as ledger:
        # What is over and was not sealed yet is no break.
        seal(ledger)
        told = [_witness(ledger, one) for one in platforms() if one.backup is not None]
        seen = look(ledger)
    broken = [*(sentence for one in told for sentence in one.pop("broken")), *seen.breaks]
    head = seen.head
    return {
        "whole": not broken,
        "facts": seen.facts,
        "since": seen.since.astimezone(UTC).isoformat() if seen.since else None,
        "head": {"number": head.number, "at": head.at.astimezone(UTC).isoformat(), "hash": head.hash} if head else None,
        "broken": broken,
        "witnesses": told,
    }


def lines(said: dict[str, Any], now: datetime) -> Iterator[str]:
    """For people."""
    for sentence in said["broken"]:
        yield f"BROKEN   {sentence}"
    for one in said["witnesses"]:
        if one["unseen"]:
            yield f"unseen   the witnesses of {one['platform']}: {one['unseen']}"
        elif not one["count"]:
            yield f"unseen   {one['platform']} has no witness in {one['bucket']} yet: its nightly backup leaves one"
        else:
            age = span((now - datetime.fromisoformat(one["newest"])).total_seconds())
            lock = "under Object Lock" if one["locked"] else "without Object Lock: whoever may delete there may lie"
            verb = "witness" if one["count"] == 1 else "witnesses"
            yield f"witness  {one['count']} {verb} in {one['bucket']}, the newest {age} old, {lock}"
    if said["head"] is None:
        yield "the trail is empty: nothing was done yet"
    elif said["whole"]:
        since, hash = said["since"][:10], said["head"]["hash"][:16]
        yield f"the trail is whole: {said['facts']:,} facts since {since}, head {hash}"
    else:
        yield f"the trail is BROKEN in {len(said['broken'])} places"


def _witness(ledger: Ledger, subject: Platform) -> dict[str, Any]:
    assert subject.backup is not None
    rules = subject.backup
    made: dict[str, Any] = {
        "platform": subject.name, "bucket": rules.bucket, "count": 0, "newest": None,
        "locked": rules.object_lock is not None, "unseen": "", "broken": [],
    }  # fmt: skip
    try:
        heads = list(witnesses(Store(s3_client(subject.conn("backup_s3")), rules.bucket)))
    except (StoreError, SettingsError) as away:
        return {**made, "unseen": away.message}
    moments = [one.at for one in heads if not isinstance(one, str)]
    newest = max(moments).astimezone(UTC).isoformat() if moments else None
    return {**made, "count": len(heads), "newest": newest, "broken": list(disagreements(ledger, heads))}
