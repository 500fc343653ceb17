"""Log retention on real directories: what goes, what stays, who asks, and what a kill leaves behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from sandbox.home import REPOSITORY
from tests.conftest import run
from upkeep.errors import SettingsError, StrainError
from upkeep.findings import Outcome
from upkeep.ledger import Ledger
from upkeep.logs import retention
from upkeep.logs.operators import LogRetentionOperator
from upkeep.operators import truth
from upkeep.platforms.services import Hosts
from upkeep.settings import settings
from upkeep.trees.deleting import Deleted, apply, delete, plan_rows
from upkeep.trees.looking import TreePlan, decode, encode, opened
from upkeep.trees.usual import Usual, remember, usual

NOW = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
DAY = 86400

HOSTS = Hosts.model_validate(
    {
        "logs": [
            {
                "path": "/var/log/studyspot",
                "classes": [
                    {"name": "audit", "pattern": "audit/**", "keep": "forever"},
                    {"name": "access", "pattern": "**/access-*.log", "keep": "30d"},
                    {"name": "application", "pattern": "**/*.log*", "keep": "7d"},
                ],
                "holds": ["case-17", "**/api-2026-03-*.log"],
            }
        ],
        "most_share": 1.0,
    }
)


def write(path: Path, days: float, size: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    at = NOW.timestamp() - days * DAY
    os.utime(path, (at, at))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``/var/log/studyspot`` as a worker sees it below ``tmp_path``."""
    top = tmp_path / "var/log/studyspot"
    top.mkdir(parents=True)
    return top


def everything(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_symlink() or not path.is_dir()}


def only(hosts: Hosts, root: Path, **how: Any) -> TreePlan:
    (made,) = retention.plan(hosts, root, NOW, **how)
    return made


def carry_out(root: Path, plan: TreePlan) -> Deleted:
    with opened(root, plan.tree) as top:
        return delete(top, plan.items)


def planned(plan: TreePlan) -> set[str]:
    return {decode(item.path) for item in plan.items}


def said(plan: TreePlan, done: Deleted | None = None) -> Outcome:
    return retention.outcome(plan, done, plan_id="p")


# -- what goes and what stays --------------------------------------------------------------------------


def test_each_class_keeps_its_files_as_long_as_it_says(tmp_path: Path, tree: Path) -> None:
    stays = [
        write(tree / "audit/2019.log", 2500),
        write(tree / "api.log", 6.9),
        write(tree / "web/access-1.log", 29),
        write(tree / "core.4711", 400),
        write(tree / "case-17/api.log", 400),
        write(tree / "web/api-2026-03-02.log", 263),
        write(tree / "future.log", -3),
    ]
    goes = [write(tree / "api.log.1", 7.1), write(tree / "web/deep/er/x.log", 8), write(tree / "access-2.log", 31)]
    plan = only(HOSTS, tmp_path)
    assert planned(plan) == {str(path.relative_to(tree)) for path in goes}
    assert {item.rule for item in plan.items} == {"application", "access"}
    assert everything(tree) == {str(path.relative_to(tree)) for path in [*stays, *goes]}, "a plan touches nothing"

    freed = sum(path.stat().st_blocks * 512 for path in goes)
    done = carry_out(tmp_path, plan)
    assert everything(tree) == {str(path.relative_to(tree)) for path in stays}
    assert (done.files, done.bytes, done.left) == (3, freed, {})
    outcome = said(plan, done)
    assert outcome.state == "ok"
    assert (outcome.facts["deleted_files"], outcome.facts["freed_bytes"]) == (3, freed)
    assert outcome.facts["stays"] == {
        "kept forever": 1, "not old enough": 3, "in no class": 1, "held": 2,
    }  # fmt: skip
    assert (tree / "web/deep/er").is_dir(), "directories are never removed"
    assert carry_out(tmp_path, only(HOSTS, tmp_path)).files == 0, "the second run finds nothing to do"


@pytest.mark.parametrize(
    ("pattern", "path", "yes"),
    [
        ("*.log", "a.log", True),
        ("*.log", "b/a.log", False),
        ("**/*.log", "a.log", True),
        ("**/*.log", "b/c/a.log", True),
        ("audit/**", "audit/x/y", True),
        ("audit/**", "audits/x", False),
        ("a?c", "a/c", False),
        ("[!a]*.log", "/.log", False),
        ("[ab]*.log", "b1.log", True),
        ("[!ab]*.log", "b1.log", False),
        ("[]x].log", "].log", True),
        ("[^a].log", "^.log", True),
        ("[.log", "[.log", True),
        ("a+b.(log)", "a+b.(log)", True),
        ("*", "two\nlines", True),
        ("x/**/y", "x/y", True),
        ("x/**/y", "x/1/2/y", True),
    ],
)
def test_patterns_mean_what_a_shell_means(pattern: str, path: str, yes: bool) -> None:
    assert retention.matches(pattern, path) is yes


def test_a_pattern_that_is_none_says_so() -> None:
    with pytest.raises(SettingsError, match=r"not a shell pattern: '\[z-a\]\.log'(.|\n)*HINT: correct it under"):
        retention.matches("[z-a].log", "x")


def test_symbolic_links_are_neither_followed_nor_deleted(tmp_path: Path, tree: Path) -> None:
    outside = write(tmp_path / "elsewhere/precious.log", 400)
    (tree / "out.log").symlink_to(outside)
    (tree / "outdir").symlink_to(outside.parent)
    (tree / "dangling.log").symlink_to("/nowhere")
    for link in ("out.log", "outdir", "dangling.log"):
        os.utime(tree / link, (0, 0), follow_symlinks=False)
    plan = only(HOSTS, tmp_path)
    assert planned(plan) == set()
    assert sorted(plan.examples["symbolic link"]) == ["dangling.log", "out.log", "outdir"]
    assert said(plan, carry_out(tmp_path, plan)).facts["stays"]["symbolic link"] == 3
    assert outside.exists()


def test_sockets_and_pipes_are_left(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tree / "pipe.log")
    # A socket's path has room for 107 bytes.
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("ear.log")
        for special in ("pipe.log", "ear.log"):
            os.utime(tree / special, (0, 0))
        plan = only(HOSTS, tmp_path)
        assert planned(plan) == set()
        assert plan.stays["special file"] == 2


def test_a_file_that_somebody_has_open_is_left_until_it_is_closed(tmp_path: Path, tree: Path) -> None:
    path = write(tree / "open.log", 30)
    with path.open("rb"):
        plan = only(HOSTS, tmp_path)
        done = carry_out(tmp_path, plan)
        assert done.left == {"in use": 1}
        assert said(plan, done).state == "ok"
    assert carry_out(tmp_path, only(HOSTS, tmp_path)).files == 1


def test_any_name_that_a_file_may_have_is_safe(tmp_path: Path, tree: Path, ledger: Ledger) -> None:
    names = [
        b"new\nline.log",
        b"\xff\xfe.log",
        b"100%.log",
        b"%41.log",
        "\u00fc\u2028.log".encode(),
        b"-rf .log",
        b"'\"; $(x).log",
    ]
    for name in names:
        write(tree / os.fsdecode(name), 30)
    plan = only(HOSTS, tmp_path)
    assert {decode(encode(os.fsdecode(name))) for name in names} == planned(plan)
    stored = ledger.plan(run(task="logs"), "logs", plan_rows([plan]))
    done = apply(ledger, run(task="logs"), "logs", tmp_path, plan, stored)
    assert done.files == len(names)
    assert everything(tree) == set()
    (row,) = ledger.rows("select items from plans")
    assert {item["path"] for item in row["items"]} == {encode(os.fsdecode(name)) for name in names}


def test_a_hard_linked_file_frees_nothing(tmp_path: Path, tree: Path) -> None:
    path = write(tree / "a.log", 30, 9000)
    (tmp_path / "second").hardlink_to(path)
    done = carry_out(tmp_path, only(HOSTS, tmp_path))
    assert (done.files, done.bytes) == (1, 0)


def test_a_tree_inside_another_has_its_own_classes(tmp_path: Path, tree: Path) -> None:
    hosts = Hosts.model_validate(
        {
            "logs": [
                {"path": "/var/log", "classes": [{"name": "all", "pattern": "**", "keep": "1d"}]},
                {"path": "/var/log/studyspot", "classes": [{"name": "kept", "pattern": "**", "keep": "forever"}]},
            ],
            "most_share": 1.0,
        }
    )
    write(tree / "mine.log", 400)
    write(tree.parent / "other.log", 400)
    outer, inner = retention.plan(hosts, tmp_path, NOW)
    assert planned(outer) == {"other.log"}
    assert planned(inner) == set()


# -- between plan and deed -----------------------------------------------------------------------------


def test_what_changed_after_the_plan_is_left(tmp_path: Path, tree: Path) -> None:
    for name in ("written", "replaced", "touched", "deleted", "link", "same"):
        write(tree / f"{name}.log", 30)
    plan = only(HOSTS, tmp_path)
    with (tree / "written.log").open("ab") as file:
        file.write(b"news")
    (tree / "replaced.log").unlink()
    write(tree / "filler", 30)
    write(tree / "replaced.log", 30)
    (tree / "touched.log").touch()
    (tree / "deleted.log").unlink()
    precious = write(tmp_path / "precious", 30)
    (tree / "link.log").unlink()
    (tree / "link.log").symlink_to(precious)
    done = carry_out(tmp_path, plan)
    assert (done.files, done.gone, done.left) == (1, 1, {"changed": 4})
    assert precious.exists()
    assert said(plan, done).state == "ok"


def test_a_directory_swapped_for_a_symbolic_link_after_the_plan_is_not_followed(tmp_path: Path, tree: Path) -> None:
    write(tree / "d/secret.log", 30)
    plan = only(HOSTS, tmp_path)
    (tree / "d").rename(tmp_path / "moved")
    (tree / "d").symlink_to(tmp_path / "moved")
    done = carry_out(tmp_path, plan)
    assert done.left == {"changed": 1}
    assert (tmp_path / "moved/secret.log").exists()


def test_a_swap_in_a_tight_loop_never_costs_a_file_outside(tmp_path: Path, tree: Path) -> None:
    """Somebody swaps a directory for a link to another one all the time; nothing behind the link ever goes."""
    for number in range(40):
        write(tree / f"d/{number}.log", 30)
        write(tmp_path / f"precious/{number}.log", 30)
    swapper = subprocess.Popen(
        [
            sys.executable, "-c",
            "import os, sys\n"
            "d, aside, link = sys.argv[1:]\n"
            "while True:\n"
            "    os.rename(d, aside); os.rename(link, d); os.rename(d, link); os.rename(aside, d)\n",
            tree / "d", tree / "aside", tree / "link",
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (tree / "link").symlink_to(tmp_path / "precious")
    try:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            carry_out(tmp_path, only(HOSTS, tmp_path))
            for number in range(40):
                for place in (tree / "d", tree / "aside"):
                    if place.is_dir() and not place.is_symlink():
                        try:
                            write(place / f"{number}.log", 30)
                        except OSError:
                            continue
            assert len(list((tmp_path / "precious").iterdir())) >= 40
    finally:
        swapper.kill()
        swapper.wait()


# -- the standing yes and its end ----------------------------------------------------------------------


def hosts_with(**limits: float) -> Hosts:
    return HOSTS.model_copy(update=limits)


def test_more_than_half_of_the_files_asks_a_person_and_deletes_nothing(tmp_path: Path, tree: Path) -> None:
    for number in range(6):
        write(tree / f"old-{number}.log", 30)
    for number in range(6):
        write(tree / f"new-{number}.log", 1)
    assert only(hosts_with(most_share=0.5), tmp_path).beyond == "", "exactly half is still inside"
    write(tree / "one-more.log", 30)
    plan = only(hosts_with(most_share=0.5), tmp_path)
    assert plan.beyond == "7 of 13 files are due (54%)"
    (finding,) = said(plan).findings
    assert (finding.severity, finding.object) == ("P2", "/var/log/studyspot")
    assert "nothing was deleted: 7 of 13 files are due (54%)" in finding.summary
    assert "plan p" in finding.hint


def test_more_than_half_of_the_bytes_asks_as_well(tmp_path: Path, tree: Path) -> None:
    write(tree / "big.log", 30, 9000)
    for number in range(6):
        write(tree / f"new-{number}.log", 1)
    assert only(hosts_with(most_share=0.5), tmp_path).beyond == "8.8KiB of 9.4KiB are due (94%)"


def test_three_times_the_usual_asks_a_person(tmp_path: Path, tree: Path) -> None:
    for number in range(31):
        write(tree / f"{number}.log", 30)
    unusual = only(HOSTS, tmp_path, usual={"/var/log/studyspot": Usual(files=10, bytes=10**9)})
    assert unusual.beyond == "31 files are due, usual are 10"
    assert only(HOSTS, tmp_path, usual={"/var/log/studyspot": Usual(files=11, bytes=10**9)}).beyond == ""


def test_usual_is_the_median_of_busy_days_times_the_days_since(ledger: Ledger) -> None:
    def day(number: int, files: int) -> None:
        remember(
            ledger, "studyspot", "logs", "/t", Deleted(files=files, bytes=files * 10), NOW - timedelta(days=number)
        )

    for number, files in [(9, 10), (8, 0), (7, 12), (6, 11), (5, 500)]:
        day(number, files)
    assert usual(ledger, "studyspot", "logs", "/t", NOW) is None, "four busy days are no habit"
    day(3, 9)
    assert usual(ledger, "studyspot", "logs", "/t", NOW) == Usual(files=33, bytes=330)
    assert usual(ledger, "studyspot", "logs", "/other", NOW) is None


# -- trees that are not as they should be --------------------------------------------------------------


def test_a_tree_that_is_not_there_is_a_finding_about_the_settings(tmp_path: Path) -> None:
    plan = only(HOSTS, tmp_path)
    (finding,) = said(plan).findings
    assert finding.severity == "P2"
    assert finding.summary == f"there is no /var/log/studyspot below {tmp_path}"
    assert "hosts.logs" in finding.hint


def test_a_tree_behind_a_symbolic_link_is_a_finding(tmp_path: Path) -> None:
    write(tmp_path / "real/studyspot/x.log", 30)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/log").symlink_to(tmp_path / "real")
    plan = only(HOSTS, tmp_path)
    assert plan.items == ()
    assert "symbolic link" in said(plan).findings[0].summary


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[Callable[[], Outcome]]:
    """Plans and deletes as a user who is not root, and says what the task would."""
    for directory in (each for each in (tmp_path, *tmp_path.parents) if len(each.parts) > 2):
        directory.chmod(directory.stat().st_mode | 0o055)

    def look() -> Outcome:
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            plan = only(HOSTS, tmp_path)
            return said(plan, carry_out(tmp_path, plan) if plan.items else None)
        finally:
            if root:
                os.seteuid(0)

    yield look
    for path in tmp_path.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def test_a_tree_that_must_not_be_read_is_unknown_and_not_empty(
    tmp_path: Path, tree: Path, nobody: Callable[[], Outcome]
) -> None:
    write(tree / "x.log", 30)
    tree.chmod(0o000)
    seen = nobody()
    assert (seen.state, seen.reason) == ("unknown", "1 directories cannot be read: .: Permission denied")
    tree.chmod(0o755)
    write(tree / "closed/y.log", 30)
    (tree / "x.log").unlink()
    (tree / "closed").chmod(0o000)
    seen = nobody()
    assert (seen.state, seen.reason) == ("unknown", "1 directories cannot be read: closed: Permission denied")


def test_files_that_must_not_be_deleted_are_a_finding(
    tmp_path: Path, tree: Path, nobody: Callable[[], Outcome]
) -> None:
    write(tree / "x.log", 30)
    tree.chmod(0o555)
    (finding,) = nobody().findings
    assert (finding.severity, finding.summary) == ("P2", "files that are due could not be deleted: 1 not permitted")
    assert (tree / "x.log").exists()


def test_memory_stays_bounded_and_the_oldest_go_first(tmp_path: Path, tree: Path) -> None:
    ages = random.Random(7).sample(range(10, 400), 50)
    for number, days in enumerate(ages):
        write(tree / f"{number}.log", days)
    plan = only(HOSTS, tmp_path, most_items=20)
    oldest = sorted(ages, reverse=True)[:20]
    assert [round((NOW.timestamp() - item.newest_ns / 1e9) / DAY) for item in plan.items] == oldest
    assert (len(plan.items), plan.due_files) == (20, 50)
    (finding,) = said(plan, carry_out(tmp_path, plan)).findings
    assert (finding.severity, finding.summary[:42]) == ("P4", "50 files are due, this run took 20 of them")


# -- the task ------------------------------------------------------------------------------------------


@pytest.fixture
def platform_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Path) -> Iterator[dict[str, Any]]:
    """A platform with one log tree, and Upkeep's settings pointing at it; change it with ``store()``."""
    made: dict[str, Any] = {
        "name": "studyspot",
        "title": "StudySpot",
        "severity": {
            "levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)},
            # Nothing is sent from here.
            "paging": "P0",
            "notify": "P0",
        },
        "hosts": {**HOSTS.model_dump(mode="json", exclude={"temporary"}), "most_share": 0.9},
    }
    directory = tmp_path / "platforms"
    directory.mkdir()
    (directory / "studyspot.yaml").write_text(yaml.safe_dump(made))
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(directory))
    monkeypatch.setenv("UPKEEP_HOST_ROOT", str(tmp_path))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    settings.cache_clear()
    yield made
    settings.cache_clear()


def execute(**arguments: Any) -> Any:
    """The task, run as a worker would."""
    ti = SimpleNamespace(
        dag_id="studyspot_daily_maintenance", run_id="manual__1", task_id="logs", map_index=-1, try_number=1, log_url=""
    )
    return LogRetentionOperator(task_id="logs", platform="studyspot", **arguments).execute({"ti": ti})  # type: ignore[typeddict-item]


def aged(path: Path, days: float) -> Path:
    """Written ``days`` before the real now: the task has no other clock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    at = time.time() - days * DAY
    os.utime(path, (at, at))
    return path


def test_the_task_stores_its_plan_deletes_it_and_says_what_it_freed(
    platform_file: dict[str, Any], tree: Path, ledger: Ledger
) -> None:
    aged(tree / "old.log", 8)
    aged(tree / "new.log", 1)
    assert execute() == {"ok": 1, "finding": 0, "unknown": 0}
    assert everything(tree) == {"new.log"}
    (plan,) = ledger.rows("select id, items, dry_run, created_at from plans")
    assert [item["path"] for item in plan["items"]] == ["old.log"]
    (action,) = ledger.rows("select * from actions")
    assert (action["state"], action["plan_id"], action["verb"]) == ("done", plan["id"], "delete")
    assert action["started_at"] >= plan["created_at"]
    (seen,) = ledger.rows("select state, facts from outcomes where check_name = 'logs'")
    assert seen["state"] == "ok"
    assert seen["facts"]["deleted_files"] == 1
    assert seen["facts"]["freed_bytes"] == action["after"]["bytes"] > 0
    assert execute() == {"ok": 1, "finding": 0, "unknown": 0}, "again: nothing to do"


@pytest.mark.parametrize("word", [True, "True", "true"])
def test_a_dry_run_stores_the_same_plan_and_deletes_nothing(
    platform_file: dict[str, Any], tree: Path, ledger: Ledger, word: bool | str
) -> None:
    aged(tree / "old.log", 8)
    aged(tree / "new.log", 1)
    execute(dry_run=word)
    assert everything(tree) == {"old.log", "new.log"}
    assert ledger.rows("select * from actions") == []
    execute(dry_run="False")
    dry, real = ledger.rows("select digest, dry_run from plans order by created_at")
    assert (dry["dry_run"], real["dry_run"]) == (True, False)
    assert dry["digest"] == real["digest"]
    assert everything(tree) == {"new.log"}


def test_a_flag_that_is_neither_true_nor_false_deletes_nothing(
    platform_file: dict[str, Any], tree: Path, ledger: Ledger
) -> None:
    aged(tree / "old.log", 8)
    aged(tree / "new.log", 1)
    with pytest.raises(AirflowFailException, match="dry_run is true or false, got 'None'"):
        execute(dry_run="None")
    assert everything(tree) == {"old.log", "new.log"}
    assert truth(" TRUE ") is True


def test_beyond_the_standing_yes_the_task_is_red_and_the_plan_is_there_to_be_read(
    platform_file: dict[str, Any], tree: Path, ledger: Ledger
) -> None:
    aged(tree / "old.log", 8)
    with pytest.raises(AirflowFailException, match=r"1 of 1 files are due \(100%\)"):
        execute()
    assert everything(tree) == {"old.log"}
    (plan,) = ledger.rows("select id, items from plans")
    (finding,) = ledger.rows("select hint, state from findings")
    assert str(plan["id"]) in finding["hint"]
    assert plan["items"][0]["waits_for_a_yes"] is True
    for number in range(20):
        aged(tree / f"new-{number}.log", 1)
    execute()
    assert "old.log" not in everything(tree)
    assert ledger.rows("select state from findings") == [{"state": "resolved"}]


def test_a_second_run_at_the_same_time_does_nothing(platform_file: dict[str, Any], tree: Path, ledger: Ledger) -> None:
    aged(tree / "old.log", 8)
    aged(tree / "new.log", 1)
    with ledger.exclusive("studyspot/logs"), pytest.raises(StrainError, match="another run is deleting logs"):
        execute()
    assert everything(tree) == {"old.log", "new.log"}
    execute()
    assert everything(tree) == {"new.log"}


# -- killed --------------------------------------------------------------------------------------------

DELETES = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from upkeep.ledger import Ledger, Run
from upkeep.logs import retention
from upkeep.platforms.services import Hosts
from upkeep.trees import deleting
conninfo, root, hosts = sys.argv[1], Path(sys.argv[2]), Hosts.model_validate_json(sys.argv[3])
run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="logs")
(plan,) = retention.plan(hosts, root, datetime(2026, 11, 20, 2, tzinfo=UTC))
with Ledger(conninfo) as ledger:
    stored = ledger.plan(run, "logs", deleting.plan_rows([plan]))
    deleting.apply(ledger, run, "logs", root, plan, stored, chunk=250)
"""


def start_deleting(conninfo: str, root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", DELETES, conninfo, root, HOSTS.model_dump_json()],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
    )


def kill_in_action(ledger: Ledger, process: subprocess.Popen[bytes], number: int) -> bool:
    """SIGKILL while the ``number``-th action of the process is open; False when it was too fast for us."""
    (begun,) = ledger.rows("select count(*) as actions from actions")
    while process.poll() is None:
        actions = ledger.rows("select state from actions order by id")[begun["actions"] :]
        if len(actions) >= number:
            # Stopped first: what we then read is what the kill will leave.
            process.send_signal(signal.SIGSTOP)
            while psutil.Process(process.pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                time.sleep(0.001)
            open_now = ledger.rows("select state from actions order by id desc limit 1")[0]["state"] == "open"
            if open_now:
                process.kill()
                process.wait()
                return True
            process.send_signal(signal.SIGCONT)
    return False


@pytest.mark.parametrize("number", [*(pytest.param(one, marks=pytest.mark.soak) for one in (1, 2, 4)), 3])
def test_killed_in_any_action_the_next_run_ends_in_the_right_state(
    tmp_path: Path, tree: Path, ledger: Ledger, ledger_conninfo: str, number: int
) -> None:
    for old in range(1000):
        write(tree / f"{old % 7}/old-{old}.log", 30 + old, 1)
    kept = {str(write(tree / f"{new % 7}/new-{new}.log", 1).relative_to(tree)) for new in range(50)}
    assert kill_in_action(ledger, start_deleting(ledger_conninfo, tmp_path), number), "killed while a step was open"
    left = everything(tree)
    assert kept <= left
    assert len(left) <= 1050 - 250 * (number - 1), "what the earlier actions say was done is done"

    assert start_deleting(ledger_conninfo, tmp_path).wait(timeout=30) == 0
    assert everything(tree) == kept
    states = [row["state"] for row in ledger.rows("select state from actions order by id")]
    assert "open" not in states
    assert states.count("abandoned") == 1
    deleted = ledger.rows("select sum((after->>'files')::int) as files from actions where state = 'done'")[0]["files"]
    assert deleted <= 1000, "nothing is counted twice"
