"""One run of retention: plan, store the plan, then table by table, each on the record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg

from upkeep.errors import LedgerError, SettingsError, UpkeepError
from upkeep.findings import Outcome
from upkeep.ledger import Ledger, Plan, Run
from upkeep.platforms.database import Postgres
from upkeep.postgres import vacuum
from upkeep.postgres.brake import Go
from upkeep.postgres.session import Connection
from upkeep.retention import cap, records, wording
from upkeep.retention import plan as planning
from upkeep.retention.archive import Archive
from upkeep.retention.deleting import delete
from upkeep.retention.dropping import drop, unfinished
from upkeep.retention.items import Item
from upkeep.retention.watch import Watch, watch
from upkeep.retention.work import Record, Result

log = logging.getLogger(__name__)

APPROVED_FOR = timedelta(days=7)
"""A person's yes is good for a plan no older than this."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run works with."""

    run: Run
    ledger: Ledger
    section: Postgres
    maintenance: str
    """libpq connection string: counts, and VACUUMs."""

    owner: str
    """… : deletes."""

    archive: Archive | None = None
    """Where rows go before they are deleted, and the records of deletions after; None without a bucket."""

    brake: Callable[[Connection], Go] = lambda connection: lambda: ""
    ends: datetime | None = None


def carry_out(job: Job, *, dry_run: bool = False, approve: str = "") -> list[Outcome]:
    """
    Delete what the rules say, or say what they would.

    :param approve: digest of a stored plan that a person has looked at: it is carried out beyond the standing yes,
        with its cut-offs, and no more than it counted.
    :raises StrainError: another run is at it. :raises SettingsError: ``approve`` is no plan of this platform.
    :raises LedgerError: the ledger is away: nothing is deleted without a record.
    """
    with watch(job.maintenance, job.brake, job.ends) as eyes:
        items, stored = _approved(job, eyes.connection, approve) if approve else _fresh(job, eyes.connection, dry_run)
        outcomes = wording.planned(items, stored.digest, approved=bool(approve))
        for item in items:
            log.info("%s: %d rows due of %d %s", item.table, item.due, item.rows, item.refused or item.beyond)
        if dry_run:
            return outcomes
        taken: dict[str, tuple[int, float]] = {}
        for item in items:
            if not item.refused and (approve or not item.beyond):
                outcome, result = _one(job, eyes, item, stored)
                outcomes.append(outcome)
                rows, seconds = taken.get(item.rule, (0, 0.0))
                taken[item.rule] = rows + result.deleted, seconds + result.seconds
        for rule, (rows, seconds) in taken.items():
            cap.remember(job.ledger, job.run.platform, rule, rows, seconds, datetime.now(UTC))
    return outcomes


def _fresh(job: Job, connection: Connection, dry_run: bool) -> tuple[list[Item], Plan]:
    now = datetime.now(UTC)
    items = unfinished(job.owner, None if dry_run else job.archive)
    items += planning.make(connection, job.section.tables, now=now)
    cap.judge(items, job.section.deletion, job.ledger, job.run.platform, now)
    for item in items:
        if item.archive and job.archive is None and not item.refused:
            item.refused = "its rule wants an archive, and there is no bucket for one"
            item.hint = "name `postgres.deletion.archive_bucket` or `backup.bucket` in the platform file."
    return items, job.ledger.plan(job.run, "retention", [item.as_dict() for item in items], dry_run=dry_run)


def _approved(job: Job, connection: Connection, digest: str) -> tuple[list[Item], Plan]:
    rows = job.ledger.rows(
        "select id, items, created_at from plans where platform = %s and capability = 'retention' and digest = %s"
        " order by created_at limit 1",
        [job.run.platform, digest],
    )
    hint = "the finding `retention_plan` names the digest of the plan that waits for a yes."
    if not rows:
        raise SettingsError(f"no retention plan of {job.run.platform} has the digest {digest!r}", hint=hint)
    if (age := datetime.now(UTC) - rows[0]["created_at"]) > APPROVED_FOR:
        raise SettingsError(f"plan {digest} is {age.days} days old", hint="look at a new one: run it as a dry run.")
    items = [Item.from_dict(stored) for stored in rows[0]["items"]]
    planning.recount(connection, items)
    return items, Plan(rows[0]["id"], tuple(rows[0]["items"]), digest, False)


def _one(job: Job, eyes: Watch, item: Item, plan: Plan) -> tuple[Outcome, Result]:
    """One table or partition: an action in the ledger, and what it came to."""
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    before = {key: getattr(item, key) for key in ("due", "rows", "held", "referenced", "bytes", "cut_off", "oldest")}
    copy = records.Copier(job.ledger, job.run)
    result, stays = Result(), {}
    try:
        with job.ledger.action(job.run, "retention", item.act, item.table, plan=plan, before=before) as action:
            result = _act(job, item, plan, copy, eyes.over(item))
            action.after = dict(vars(result))
            if result.state != "done":
                action.skip(result.reason)
            if item.act == "delete":
                stays = dict(planning.stays(eyes.alive(), item))
                action.after |= {"held": stays["held"], "referenced": stays["referenced"], "left": stays["due"]}
                if result.deleted:
                    action.after["vacuum"] = _vacuum(job, item)
    except LedgerError:
        raise
    except (psycopg.Error, UpkeepError, BotoCoreError, ClientError) as trouble:
        log.exception("%s", item.table)
        said = " ".join(str(trouble).split()) or type(trouble).__name__
        result.state, result.reason = "failed", said
    finally:
        if job.archive is not None:
            _export(job, item, plan)
    return wording.carried_out(item, result, stays), result


def _act(job: Job, item: Item, plan: Plan, copy: Record, go: Go) -> Result:
    how: dict[str, Any] = {"plan": plan.digest, "record": copy, "go": go, "ends": job.ends, "archive": job.archive}
    if item.act == "drop":
        return drop(job.owner, item, **how)
    return delete(job.owner, item, job.section.deletion, **how, tidy=partial(_vacuum, job, item))


def _vacuum(job: Job, item: Item) -> str:
    """Give the space back to the table; what became of that."""
    done = vacuum.care(job.maintenance, item.schema, item.name, job.section.vacuum, brake=job.brake, ends=job.ends)
    return ": ".join(part for part in (done["state"], done["reason"]) if part)


def _export(job: Job, item: Item, plan: Plan) -> None:
    """To S3 as well; that it failed must not hide what else went wrong, and the next run writes it all."""
    from botocore.exceptions import BotoCoreError, ClientError

    assert job.archive is not None
    try:
        records.export(job.ledger, job.archive.client, job.archive.bucket, job.run.platform, item.table, plan.digest)
    except (BotoCoreError, ClientError, LedgerError):
        log.exception("the records of deletions from %s are in the ledger and not in S3", item.table)
