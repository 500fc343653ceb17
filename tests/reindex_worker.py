"""What the monthly tasks do to indexes, in a process that tests can kill: ``python -m tests.reindex_worker``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from upkeep.ledger import Ledger, Run
from upkeep.platforms.database import Reindex
from upkeep.postgres.reindex import history, leftovers, rebuild, work
from upkeep.postgres.reindex.choose import choose
from upkeep.postgres.session import connect

SETTINGS = Reindex(wasted="64KiB", old_transaction=timedelta(seconds=1))


def stopping(step: str, wanted: str, function: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    """Says that it has come to ``wanted``, and goes on when told to."""

    def stop() -> None:
        if step == wanted:
            print(step, flush=True)
            sys.stdin.readline()

    def stopped(*values: Any, **named: Any) -> Any:
        if before:
            stop()
        result = function(*values, **named)
        if not before:
            stop()
        return result

    return stopped


def main(maintenance: str, owner: str, ledger_conninfo: str, wanted: str) -> None:
    rebuild.in_the_way = stopping("preflight", wanted, rebuild.in_the_way, before=False)
    leftovers.drop = stopping("drop", wanted, leftovers.drop, before=True)
    history.rebuilt = stopping("rebuilt", wanted, history.rebuilt, before=True)
    go = stopping("go", wanted, lambda: "", before=True)
    run = Run(platform="studyspot", dag_id="studyspot_monthly_maintenance", run_id="r", task_id="reindex")
    with Ledger(ledger_conninfo) as ledger:
        work.drop_leftovers(ledger, run, owner)
        known, speed = history.baselines(ledger, "studyspot"), history.speed(ledger, "studyspot")
        with connect(maintenance) as connection:
            choice = choose(connection, SETTINGS, known, speed)
        history.keep(ledger, "studyspot", choice.baselines)
        plan = ledger.plan(run, history.CAPABILITY, [one.as_dict() for one in choice.candidates])
        for one in choice.candidates:
            item = one.as_dict()
            work.rebuild_one(
                ledger, run, plan, maintenance, owner, item, SETTINGS, go=go, free=lambda: 1e12, pauses_s=(0.0,)
            )
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
