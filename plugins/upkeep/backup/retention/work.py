"""One run of retention over the backups of one kind: choose, store the plan, then step by step on the record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from upkeep.backup import records
from upkeep.backup.manifest import folder
from upkeep.backup.retention.choose import Choice, Decision, Rules, choose
from upkeep.backup.retention.deleting import delete
from upkeep.backup.retention.known import Known, Place, look
from upkeep.backup.store import LockedError, StoreError
from upkeep.errors import SettingsError, StrainError
from upkeep.ledger import Ledger, Plan, Run

log = logging.getLogger(__name__)

APPROVED_FOR = timedelta(days=7)
"""A person's yes is good for a plan no older than this."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run works with."""

    run: Run
    ledger: Ledger
    place: Place
    rules: Rules
    abandoned_after: timedelta = timedelta(days=7)
    """``backup.unfinished``."""

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass
class Result:
    """What a run saw and did."""

    known: Known
    choice: Choice
    plan: str
    """Digest."""

    marked: list[str] = field(default_factory=list)
    unmarked: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    bytes: int = 0
    deferred: dict[str, str] = field(default_factory=dict)
    """Object Lock keeps them for now, and until when."""

    failed: dict[str, str] = field(default_factory=dict)
    swept: list[str] = field(default_factory=list)
    """What killed backups had left."""


@dataclass(frozen=True)
class Approved:
    """A plan that a person has looked at and said yes to."""

    digest: str = ""
    ids: frozenset[str] = frozenset()
    """What it would mark or delete."""


NOBODY = Approved()


def carry_out(job: Job, *, dry_run: bool = False, approved: Approved = NOBODY) -> Result:
    """
    Mark what is past its time, delete what was marked long enough ago; or only say so.

    :param approved: what it names goes beyond the standing yes, as far as it is still past its time.
    :raises StrainError: another run is at it.
    :raises StoreError: the bucket cannot be listed. :raises LedgerError: the ledger is away: nothing is deleted.
    """
    with job.ledger.exclusive(f"{job.run.platform}/backup_retention/{job.place.kind}") as mine:
        if not mine:
            raise StrainError(
                f"another run deletes backups of {job.run.platform}", hint="it is tried again when that one is through."
            )
        known = _look(job)
        if approved.ids and not dry_run:
            for id in sorted(approved.ids & set(known.manifests)):
                _put_on_record(job, known, id)
                # It holds for marking and for deleting.
                records.approve(job.ledger, job.run.platform, id, approved.digest)
            known = _look(job)
        choice = choose(known.candidates, job.rules, job.clock())
        stored = job.ledger.plan(job.run, "backup", _rows(job, known, choice), dry_run=dry_run)
        for decision in choice.decisions:
            log.info("%s %s: %s", decision.verdict, decision.backup.id, decision.why)
        result = Result(known, choice, stored.digest)
        if not dry_run:
            for step in _steps(job, result, stored):
                _guarded(job, result, *step)
            job.ledger.close_records(
                job.run,
                "backup",
                ["mark", "unmark", "delete", "close", "sweep"],
                lambda object: object.startswith(f"{job.place.kind}/"),
                said="it was done already; only its record was missing",
                plan=stored,
            )
    return result


def _look(job: Job) -> Known:
    return look(job.ledger, job.place, now=job.clock(), abandoned_after=job.abandoned_after)


def _rows(job: Job, known: Known, choice: Choice) -> list[dict[str, Any]]:
    """Everything that is going to happen, and everything that is not, with the reasons."""
    kind = job.place.kind
    rows = [{"kind": kind, **decision.row()} for decision in choice.decisions]
    rows += [
        {"kind": kind, "id": id, "verdict": "delete", "why": "its deletion was interrupted"} for id in known.halves
    ]
    rows += [
        {"kind": kind, "id": id, "verdict": "sweep", "why": "it never became a backup, and nobody is at it"}
        for id in known.abandoned
    ]
    rows += [{"kind": kind, "id": id, "verdict": "keep", "why": why} for id, why in known.unread.items()]
    return rows


def plan_of(ledger: Ledger, platform: str, digest: str) -> Approved:
    """What a person said yes to; empty for no digest. :raises SettingsError: as ``approved_items``."""
    going = ("mark", "wait", "delete")
    items = approved_items(ledger, platform, digest)
    return Approved(digest, frozenset(item["id"] for item in items if item["verdict"] in going and "id" in item))


def approved_items(ledger: Ledger, platform: str, digest: str) -> list[dict[str, Any]]:
    """
    The items of the plan that a person said yes to; none for no digest.

    :raises SettingsError: no plan of this platform has it, or it is too old to mean what is there today.
    """
    if not digest:
        return []
    found = ledger.rows(
        "select items, created_at from plans where platform = %s and capability = 'backup' and digest = %s"
        " order by created_at limit 1",
        [platform, digest],
    )
    hint = "the finding that asks for a yes names the digest of the plan that waits for it."
    if not found:
        raise SettingsError(f"no plan about backups of {platform} has the digest {digest!r}", hint=hint)
    if (age := datetime.now(UTC) - found[0]["created_at"]) > APPROVED_FOR:
        raise SettingsError(f"plan {digest} is {age.days} days old", hint="look at a new one: run it as a dry run.")
    return list(found[0]["items"])


def _put_on_record(job: Job, known: Known, id: str) -> None:
    """Whoever made it may have died before the ledger knew."""
    records.remember(job.ledger, job.place.store.bucket, job.place.prefix, known.manifests[id])


Step = tuple[str, str, Callable[[Any], None], dict[str, Any], Plan]


def _steps(job: Job, result: Result, plan: Plan) -> Iterator[Step]:
    """What to do, in order: first what keeps, then what was begun, then the rest."""
    known, choice = result.known, result.choice

    def step(verb: str, id: str, deed: Callable[[str, Any], None], **before: Any) -> Step:
        return verb, id, lambda action: deed(id, action), before, plan

    for decision in choice.of("unmark"):
        yield step("unmark", decision.backup.id, lambda id, action: _unmark(job, result, id), why=decision.why)
    for id in known.halves:
        yield step("delete", id, lambda id, action: _delete(job, result, id, action), why="it was interrupted")
    for decision in _allowed(choice, "delete"):
        yield step("delete", decision.backup.id, lambda id, action: _delete(job, result, id, action), why=decision.why)
    for decision in _allowed(choice, "mark"):
        yield step("mark", decision.backup.id, lambda id, action: _mark(job, result, id), why=decision.why)
    for id, made in known.missing.items():
        if job.clock() - made > job.rules.keep:
            yield step("close", id, lambda id, action: records.deleted(job.ledger, job.run.platform, id))
    for id in known.abandoned:
        yield step("sweep", id, lambda id, action: _sweep(job, result, id, action))


def _allowed(choice: Choice, verdict: Any) -> list[Decision]:
    """Beyond the standing yes only what a person said yes to."""
    return [decision for decision in choice.of(verdict) if not choice.beyond or decision.backup.approved]


def _guarded(
    job: Job, result: Result, verb: str, id: str, deed: Callable[[Any], None], before: dict[str, Any], plan: Plan
) -> None:
    """One step: an action in the ledger; trouble with one backup keeps nobody from the next."""
    object = f"{job.place.kind}/{id}"
    try:
        with job.ledger.action(job.run, "backup", verb, object, plan=plan, before=before) as action:
            try:
                deed(action)
            except LockedError as locked:
                result.deferred[id] = locked.message
                action.skip(f"deferred: {locked.message}")
    except StoreError as trouble:
        log.exception("%s %s", verb, object)
        result.failed[id] = trouble.message


def _mark(job: Job, result: Result, id: str) -> None:
    _put_on_record(job, result.known, id)
    records.mark(job.ledger, job.run.platform, id)
    result.marked.append(id)


def _unmark(job: Job, result: Result, id: str) -> None:
    records.unmark(job.ledger, job.run.platform, id)
    result.unmarked.append(id)


def _delete(job: Job, result: Result, id: str, action: Any) -> None:
    if id not in result.known.halves and not records.may_go(job.ledger, job.run.platform, id):
        action.skip("somebody took the mark away, pinned it or put it on hold meanwhile")
        return
    done = delete(job.place.store, job.place.prefix, id)
    action.after = vars(done)
    records.deleted(job.ledger, job.run.platform, id)
    result.deleted.append(id)
    result.bytes += done.bytes


def _sweep(job: Job, result: Result, id: str, action: Any) -> None:
    place = folder(job.place.prefix, id)
    for upload in job.place.store.unfinished(place):
        job.place.store.abort(upload)
    done = delete(job.place.store, job.place.prefix, id)
    action.after = vars(done)
    result.swept.append(id)
