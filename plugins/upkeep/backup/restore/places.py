"""Which database has which name: swapped in, put back, dropped; each can be killed and run again."""

from __future__ import annotations

from datetime import datetime

from upkeep.backup.restore import record, replay, swap, target
from upkeep.backup.restore.choose import RefusedError
from upkeep.backup.restore.job import SWAP, Job, alone, erase_again, needs, untold
from upkeep.backup.restore.record import Restore


def put_in_place(job: Job, restore: Restore) -> tuple[Restore, swap.Swapped]:
    """
    The new database gets the living one's name; that one is kept.

    :raises RefusedError: it is not what it was, or somebody would not leave; everything is as it was.
    """
    if not (restore.state == "proved" and restore.facts.get("erased_at")):
        needs(restore, "replayed", "swapped")
    assert restore.made_oid is not None
    names = swap.Names(restore.live, restore.made, restore.before, restore.live_oid, restore.made_oid)
    with alone(job, SWAP, restore.id):
        comments = {restore.live: _comment(job, restore.live)}
        if restore.live_oid is not None:
            comments[restore.before] = (
                f"replaced by restore {restore.id} of backup {restore.backup}; kept until a person drops it"
            )
        if restore.state != "swapped" and not _has(job, restore.live, restore.made_oid):
            # The answer may have taken days.
            restore = erase_again(job, restore)
        done = _swap(job, "swap", names, comments)
        restore = record.become(job.ledger, restore, "swapped", swap=done.as_dict())
        _erase_late(job, restore)
        return restore, done


def put_back(job: Job, restore: Restore) -> tuple[Restore, swap.Swapped]:
    """
    The database that was replaced gets its name back; the restored one is kept.

    :raises RefusedError: it is gone, or somebody would not leave.
    """
    needs(restore, "swapped", "back")
    if restore.live_oid is None:
        raise RefusedError(
            f"restore {restore.id} replaced nothing: there was no {restore.live}", hint="there is no way back."
        )
    assert restore.made_oid is not None
    names = swap.Names(restore.live, restore.before, restore.made, restore.made_oid, restore.live_oid)
    with alone(job, SWAP, restore.id):
        comments = {restore.live: _comment(job, restore.live), restore.made: target.marker(restore)}
        done = _swap(job, "swap back", names, comments)
        return record.become(job.ledger, restore, "back", swap_back=done.as_dict()), done


def _swap(job: Job, verb: str, names: swap.Names, comments: dict[str, str]) -> swap.Swapped:
    before = {"live_oid": names.live_oid, "come": names.come, "come_oid": names.come_oid, "leave": names.leave}
    with job.ledger.action(job.run, "backup", verb, names.live, before=before) as action:
        done = swap.exchange(
            job.owner, job.maintenance, names, wait=job.rules.wait, within=job.rules.within, comments=comments
        )
        action.after = done.as_dict()
    return done


def _has(job: Job, name: str, oid: int) -> bool:
    """Whether the database with this oid has that name."""
    with target.server(job.owner) as connection:
        return target.named(connection, oid) == name


def _comment(job: Job, live: str) -> str:
    with target.server(job.owner) as connection:
        found = target.look(connection, live)
    return found.comment if found else ""


def remove(job: Job, restore: Restore) -> Restore:
    """Drop the new database; one that was swapped in is never touched. :raises RefusedError: it is not ours."""
    if restore.state == "swapped":
        raise RefusedError(f"{restore.made} is in use as {restore.live}", hint="swap back first, if you mean it.")
    with (
        alone(job, restore.id),
        target.server(job.owner) as connection,
        job.ledger.action(job.run, "backup", "drop", restore.made) as action,
    ):
        action.after = {"dropped": target.drop(connection, restore)}
        return record.become(job.ledger, restore, "removed")


def drop_old(job: Job, restore: Restore) -> Restore:
    """Drop what is no longer in use, of the two, for good. :raises RefusedError: it is not what it was."""
    if restore.state == "back":
        return remove(job, restore)
    needs(restore, "swapped")
    with (
        alone(job, SWAP, restore.id),
        target.server(job.owner) as connection,
        job.ledger.action(job.run, "backup", "drop", restore.before) as action,
    ):
        action.after = {"dropped": target.drop_old(connection, restore)}
        return record.become(job.ledger, restore, "removed")


def _erase_late(job: Job, restore: Restore) -> None:
    """What was deleted in the old database in the last moments before the swap."""
    since = datetime.fromisoformat(restore.facts["erased_at"])
    late = replay.together(replay.recorded(job.ledger, restore.platform, since), untold(job, restore.before, since))
    replay.replay(target.beside(job.owner, restore.live), late)
