"""Tables partitioned by the key: expired partitions go whole, where the rule says so and nothing speaks against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from sandbox import processes
from sandbox.home import REPOSITORY, Home
from tests.retention_server import BOOKINGS, PLAN, Nobody, RetentionServer, archived, bucket
from upkeep.retention import dropping
from upkeep.retention.archive import Archive
from upkeep.retention.items import Item
from upkeep.retention.work import Result

SERVER = RetentionServer
WHOLE = BOOKINGS.model_copy(update={"drop_partitions": True})


def partitioned(server: RetentionServer) -> None:
    """Partitions of a year each, a hundred rows a year; the edge of three years lies within one of them."""
    server("create table log (id int, made timestamptz not null, primary key (id, made)) partition by range (made)")
    server("create index on log (made)")
    for ago in range(6):
        server(
            f"do $$ begin execute format('create table log_{ago} partition of log for values from (%L) to (%L)',"
            f" current_date - {ago} * 365 - 200, current_date - {ago - 1} * 365 - 200); end $$"
        )
    server("insert into log select i, now() - i * interval '3.6 days' from generate_series(1, 550) as i")
    server("analyze log")


def drop(server: RetentionServer, item: Item, **how: Any) -> Result:
    how.setdefault("record", Nobody())
    return dropping.drop(server.deleter, item, plan=PLAN, **how)


def names(server: RetentionServer) -> set[str]:
    return {row[0] for row in server("select relname from pg_class where relname ~ '^log_[0-9]$'")}


def test_expired_partitions_are_dropped_and_the_edge_is_deleted_row_by_row(server: RetentionServer) -> None:
    partitioned(server)
    items = server.plan(log=WHOLE)
    acts = {item.name: item.act for item in items.values()}
    assert acts == {"log_0": "delete", "log_1": "delete", "log_2": "delete", "log_3": "delete", "log_4": "drop",
                    "log_5": "drop"}  # fmt: skip
    due = sum(item.due for item in items.values())
    for item in items.values():
        result = drop(server, item) if item.act == "drop" else server.delete(item)
        assert (result.state, result.deleted) == ("done", item.due)
    assert names(server) == {"log_0", "log_1", "log_2", "log_3"}
    assert server("select count(*), max(id) from log") == [(550 - due, 550 - due)]
    assert server.recorded() == due
    assert server.superuser("select sum(ids) is not null from upkeep.deletions") == [(True,)]


def test_without_the_rules_yes_partitions_stay_and_their_rows_go(seventeen: RetentionServer) -> None:
    partitioned(seventeen)
    items = seventeen.plan(log=BOOKINGS)
    assert {item.act for item in items.values()} == {"delete"}
    for item in items.values():
        seventeen.delete(item)
    assert len(names(seventeen)) == 6
    assert seventeen("select count(*) from log_5") == [(0,)]


def test_a_row_that_stays_keeps_its_partition(seventeen: RetentionServer) -> None:
    partitioned(seventeen)
    rule = WHOLE.model_copy(update={"hold": "id = 549"})
    items = {item.name: item for item in seventeen.plan(log=rule).values()}
    assert (items["log_5"].act, items["log_5"].notes) == ("delete", ["not dropped as a whole: 1 of its rows stay"])
    assert items["log_4"].act == "drop"
    # A hold that comes after the plan was made.
    late = Item.from_dict({**items["log_4"].as_dict(), "hold": "id in (select id from log where id < 450)"})
    result = drop(seventeen, late)
    assert result.state == "stopped"
    assert result.reason.endswith("of its rows stay")
    assert "log_4" in names(seventeen)
    assert drop(seventeen, items["log_4"]).state == "done"


def test_a_partition_in_use_is_waited_for_and_left_for_later(
    seventeen: RetentionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    partitioned(seventeen)
    item = {item.name: item for item in seventeen.plan(log=WHOLE).values()}["log_5"]
    monkeypatch.setattr(dropping, "_most", lambda ends: dropping.timedelta(seconds=1))
    with seventeen.session("set transaction isolation level repeatable read", "select count(*) from log"):
        result = drop(seventeen, item)
        assert result.state == "stopped"
        assert result.reason.startswith("somebody uses it: ")
        seventeen("insert into log values (9000, now())")
    assert "log_5" in names(seventeen)
    again = {item.name: item for item in seventeen.plan(log=WHOLE).values()}["log_5"]
    assert drop(seventeen, again).deleted == item.due


DROPS = """
import json, os, signal, sys
from upkeep.retention import dropping
from upkeep.retention.items import Item
from upkeep.retention.work import Result
class Nobody:
    def catch_up(self, connection):
        pass
conninfo, item, step = sys.argv[1:]
original = getattr(dropping, step)
def dies(*arguments, **named):
    if step == "_detach":
        original(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(dropping, step, dies)
dropping.drop(conninfo, Item.from_dict(json.loads(item)), plan="a" * 64, record=Nobody())
"""


@pytest.mark.parametrize("step", ["_detach", "_drop"])
def test_killed_half_way_it_is_found_and_finished(seventeen: RetentionServer, step: str, home: Home) -> None:
    partitioned(seventeen)
    item = {item.name: item for item in seventeen.plan(log=WHOLE).values()}["log_5"]
    done = subprocess.run(
        [sys.executable, "-c", DROPS, seventeen.deleter, json.dumps(item.as_dict()), step],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")}, check=False, timeout=60, capture_output=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    gone = "select count(*) = 0 from pg_stat_activity where usename = 'upkeep_owner' and datname = 'studyspot'"
    processes.wait_until(lambda: seventeen.superuser(gone)[0][0], 10, "the killed worker's session to end")
    assert "log_5" in names(seventeen), "detached, and not dropped"
    assert "log_5" not in {one.name for one in seventeen.plan(log=WHOLE).values()}
    (found,) = dropping.unfinished(seventeen.deleter, None)
    assert found == item
    client, name = bucket(home)
    archive = Archive(client, name, f"drop{step}/", rows=40)
    archiving = Item.from_dict({**found.as_dict(), "archive": True})
    assert drop(seventeen, archiving, archive=archive).deleted == item.due
    assert "log_5" not in names(seventeen)
    assert {row["id"] for row in archived(archive)} == set(range(551 - item.due, 551))
    assert dropping.unfinished(seventeen.deleter, archive) == []
    assert seventeen.recorded() == item.due
