"""A failover whose worker dies at each step: the janitor makes the pair whole, and nothing is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.home import REPOSITORY
from tests.pair_server import PairServer, running_pair
from upkeep.drill import janitor, record
from upkeep.ledger import Ledger

WORKS = """
import json, os, signal, sys
from pathlib import Path
from upkeep.drill import canary, record
from upkeep.drill.failover import act, local, node
from upkeep.ledger import Ledger, Run

said = json.loads(sys.argv[1])

def die_at(module, name, *, after=False):
    original = getattr(module, name)
    def dies(*arguments, **named):
        value = original(*arguments, **named) if after else None
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(module, name, dies)

STEPS = {
    "about to fail": lambda: die_at(local.LocalDriver, "fail"),
    "the primary dead": lambda: die_at(local.LocalDriver, "fail", after=True),
    "promotion asked for": lambda: die_at(local.LocalDriver, "promote", after=True),
    "promoted": lambda: die_at(act, "_writes"),
    "configuration kept": lambda: die_at(local, "keep_configuration", after=True),
    "half rewound": lambda: die_at(local, "configure"),
    "configured and not started": lambda: die_at(local.LocalDriver, "_start"),
    "started and not seen": lambda: die_at(local.LocalDriver, "_streams"),
    "streaming, its slots not dropped": lambda: die_at(local, "_drop_slots"),
    "whole, its rows not removed": lambda: die_at(canary, "sweep"),
    "clean, and not on record": lambda: die_at(act, "clean", after=True),
}
STEPS[said["dies"]]()
nodes = [node.Node(name, conninfo, Path(data), Path(programs)) for name, conninfo, data, programs in said["nodes"]]
run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="t")
with Ledger(said["ledger"]) as ledger, ledger.exclusive(record.lock("studyspot")) as mine:
    assert mine
    drill = record.begin(ledger, run, "failover", "kill", "staging", rto_s=60, rpo_s=60)
    with ledger.action(run, "drill", "failover", "kill"):
        act.rehearse(drill, local.LocalDriver(nodes), act.Conduct("kill"))
"""

STEPS = (
    "about to fail", "the primary dead", "promotion asked for", "promoted", "configuration kept", "half rewound",
    "configured and not started", "started and not seen", "streaming, its slots not dropped",
    "whole, its rows not removed", "clean, and not on record",
)  # fmt: skip
FEW = ("half rewound",)
PROMOTED = STEPS[2:]


@pytest.fixture(scope="module")
def pair() -> Iterator[PairServer]:
    with running_pair(17) as server:
        yield server


def no_cluster() -> Any:
    raise AssertionError("no Deployment was touched")


@pytest.mark.parametrize(
    "step", [step if step in FEW else pytest.param(step, marks=pytest.mark.soak) for step in STEPS]
)
def test_killed_at_any_step_the_pair_is_whole_again(
    pair: PairServer, ledger: Ledger, ledger_conninfo: str, step: str
) -> None:
    before, old = pair.left(), pair.driver().look().primary.name
    said = {
        "ledger": ledger_conninfo, "dies": step,
        "nodes": [[one.name, one.conninfo, str(one.data), str(one.programs)] for one in pair.nodes],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WORKS, json.dumps(said)], cwd=REPOSITORY,
        env={"PYTHONPATH": "plugins", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert ledger.rows("select state from actions") == [{"state": "open"}]
    ((ended, undo),) = [(row["ended_at"], row["undo"]) for row in ledger.rows("select * from drills")]
    assert ended is None
    assert [entry["kind"] for entry in undo] == ["pair", "canary"]
    if step == "the primary dead":
        assert not pair.driver().look()[old].up
    settled = swept(ledger, pair)
    assert settled.trouble == ""
    # The slot of the standby is on whoever is the primary now.
    assert {**pair.left(), "slots": 1} == {**before, "slots": 1}
    assert (pair.driver().look().primary.name != old) == (step in PROMOTED)
    assert pair("insert into writes values (-1, 0); delete from writes where writer = -1") == []
    (row,) = ledger.rows("select * from drills")
    assert (row["act_verdict"], row["cleanup_verdict"], row["undo"]) == ("stopped", "passed", [])
    assert row["reason"].startswith("its process died in phase ")
    assert janitor.put_back(ledger, "studyspot", janitor.Hands(no_cluster, pair.driver)) == []


def swept(ledger: Ledger, pair: PairServer) -> janitor.Settled:
    """As the teardown does it: as soon as the server has seen that the dead worker is gone."""
    while True:
        with ledger.exclusive(record.lock("studyspot")) as mine:
            if mine:
                (settled,) = janitor.put_back(ledger, "studyspot", janitor.Hands(no_cluster, pair.driver))
                return settled
        time.sleep(0.1)
