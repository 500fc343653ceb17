"""Rebuilding and dropping on the record: an action in the ledger before, during and after, and what was learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from upkeep.ledger import Ledger, Plan, Run
from upkeep.platforms.database import Reindex
from upkeep.postgres.reindex import history, leftovers
from upkeep.postgres.reindex.preflight import Free
from upkeep.postgres.reindex.rebuild import PAUSES_S, rebuild


def rebuild_one(
    ledger: Ledger,
    run: Run,
    plan: Plan | None,
    conninfo: str,
    owner: str,
    item: Mapping[str, Any],
    settings: Reindex,
    *,
    go: Callable[[], str],
    free: Free,
    ends: datetime | None = None,
    pauses_s: Sequence[float] = PAUSES_S,
) -> dict[str, Any]:
    """``rebuild.rebuild`` of one chosen index, recorded; how long it will take is predicted from the newest speeds."""
    keys = ("table", "bytes", "bloat", "wasted", "by", "seconds")
    before = {key: item[key] for key in keys}
    with ledger.action(run, history.CAPABILITY, history.VERB, item["index"], plan=plan, before=before) as action:
        seconds = history.speed(ledger, run.platform).seconds(item["index"], item["work_bytes"])
        result = rebuild(
            conninfo, owner, item, settings, seconds=seconds, go=go, free=free, ends=ends, pauses_s=pauses_s
        )  # fmt: skip
        action.after = dict(result)
        if result["state"] != "done":
            action.skip(f"{result['state']}: {result['reason']}")
            return result
        history.rebuilt(
            ledger,
            run.platform,
            item["index"],
            oid=result["oid"],
            rows=result["rows"],
            before=result["bytes_before"],
            after=result["bytes_after"],
            estimated=item["wasted"],
        )
    return result


def drop_leftovers(
    ledger: Ledger, run: Run, owner: str, *, dry_run: bool = False
) -> list[tuple[leftovers.Leftover, dict[str, Any]]]:
    """
    Close what dead workers left open in the ledger, and drop what they left in the database.

    :param owner: of the role that acts as the tables' owner.
    :returns: each leftover with what ``leftovers.drop`` says; ``unknown`` is a state of those that nobody may drop.
    """
    from upkeep.postgres.session import connect

    with connect(owner) as connection:
        found = leftovers.find(connection)
    mine = leftovers.ours(found)
    plan = ledger.plan(run, history.CAPABILITY, [one.as_dict() for one in mine], dry_run=dry_run)
    if not dry_run:
        history.abandon(ledger, run.platform, (history.VERB, history.DROP), {})
    said = []
    for one in found:
        if one not in mine or dry_run:
            why = "" if one in mine else "no index of its table has that name" if one.allowed else "another owner's"
            said.append((one, {"state": "planned" if one in mine else "unknown", "reason": why}))
            continue
        if one.kind == "ccold" and one.of_index and one.of_oid:
            # The rebuild was done; only its end was not recorded. Ten days begin now.
            schema = one.schema
            history.swapped(ledger, run.platform, f"{schema}.{one.of_index}", one.of_oid)
        with ledger.action(run, history.CAPABILITY, history.DROP, one.index, plan=plan, before=one.as_dict()) as action:
            result = leftovers.drop(owner, one.as_dict())
            action.after = dict(result)
            if result["state"] != "done":
                action.skip(f"{result['state']}: {result['reason']}")
        said.append((one, result))
    return said
