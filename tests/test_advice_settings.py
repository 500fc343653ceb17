"""Settings: the dangerous ones, what waits for a restart, mistakes in the files, and what has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox import processes
from tests.advice_server import AdviceServer, found
from upkeep.findings import Outcome, Severity
from upkeep.postgres.advice.judgement import RULES, Server, wrong
from upkeep.postgres.advice.settings import DRIFT, FILES, PENDING, SETTINGS

SERVER = AdviceServer

RELOAD = "select pg_reload_conf()"


@contextmanager
def altered(server: AdviceServer, check: str, *statements: str) -> Iterator[Outcome]:
    """What is found while the statements hold; checks that nothing was before, and that nothing is afterwards."""
    assert server.settings()[check].state == "ok"
    try:
        server.administer(*statements, RELOAD)
        processes.wait_until(lambda: server.settings()[check].state != "ok", 5, f"{check} to be found")
        yield server.settings()[check]
    finally:
        server.administer("alter system reset all", RELOAD)
    processes.wait_until(lambda: server.settings()[check].state == "ok", 5, f"{check} to be ok again")


def test_what_the_platform_file_accepts_is_not_told_again_but_p0_is(seventeen: AdviceServer) -> None:
    server = seventeen
    with altered(server, SETTINGS, "alter system set log_lock_waits = off"):
        accepted = {"log_lock_waits": "logged by the pooler", "fsync": "who needs it"}
        outcome = server.report("settings", area="settings", accepted=accepted)[SETTINGS]
        assert outcome.state == "ok"
        assert outcome.facts["accepted"] == {"log_lock_waits": "logged by the pooler"}
        server.administer("alter system set fsync = off", RELOAD)
        processes.wait_until(lambda: "fsync" in found(server.settings()[SETTINGS]), 5, "fsync to be found")
        told = found(server.report("settings", area="settings", accepted=accepted)[SETTINGS])
        assert set(told) == {"fsync"}


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_what_can_lose_the_database_is_p0(setting: str, server: AdviceServer) -> None:
    with altered(server, SETTINGS, f"alter system set {setting} = off") as outcome:
        (finding,) = found(outcome).values()
        assert (finding.object, finding.severity) == (setting, Severity.P0)
        assert f"{setting} = off (" in finding.summary
        assert "postgresql.auto.conf:" in finding.summary


DANGERS = {
    "autovacuum = off": Severity.P1,
    "track_counts = off": Severity.P1,
    "zero_damaged_pages = on": Severity.P0,
    "synchronous_commit = off": Severity.P2,
    "password_encryption = 'md5'": Severity.P2,
    "session_replication_role = 'replica'": Severity.P1,
    "log_lock_waits = off": Severity.P4,
    "track_activities = off": Severity.P2,
    "compute_query_id = off": Severity.P3,
    "idle_in_transaction_session_timeout = 0": Severity.P4,
}


def test_every_danger_is_found_with_its_severity(seventeen: AdviceServer) -> None:
    server = seventeen
    statements = [f"alter system set {assignment}" for assignment in DANGERS]
    with altered(server, SETTINGS, *statements):
        processes.wait_until(lambda: len(found(server.settings()[SETTINGS])) == len(DANGERS), 5, "the last of them")
        told = found(server.settings()[SETTINGS])
        assert {name: finding.severity for name, finding in told.items()} == {
            assignment.split()[0]: severity for assignment, severity in DANGERS.items()
        }


def test_what_a_role_or_a_database_has_for_itself_counts_as_well(server: AdviceServer) -> None:
    server.administer(
        "alter role app set synchronous_commit = off", "alter database studyspot set session_replication_role = replica"
    )
    try:
        told = found(server.settings()[SETTINGS])
        assert told["synchronous_commit of role app"].severity == Severity.P2
        assert told["session_replication_role of database studyspot"].severity == Severity.P1
    finally:
        server.administer(
            "alter role app reset synchronous_commit", "alter database studyspot reset session_replication_role"
        )
    assert server.settings()[SETTINGS].state == "ok"


def test_what_waits_for_a_restart_is_told_with_file_and_line(server: AdviceServer) -> None:
    with altered(server, PENDING, "alter system set max_connections = 150") as outcome:
        (finding,) = found(outcome).values()
        assert finding.object == "max_connections"
        assert "100 → 150 in /" in finding.summary
        assert finding.facts["file"].endswith("postgresql.auto.conf")
        assert finding.facts["line"] == 3
        assert server.settings()[FILES].state == "ok", "that is no mistake"


def test_without_the_right_the_file_is_not_known_but_the_restart_is(seventeen: AdviceServer) -> None:
    server = seventeen
    server.superuser("revoke execute on function pg_show_all_file_settings() from upkeep")
    try:
        outcome = server.settings()[FILES]
        assert outcome.state == "unknown"
        with altered(server, PENDING, "alter system set max_connections = 150") as pending:
            (finding,) = found(pending).values()
            assert "the files say something else" in finding.summary
        server.superuser(outcome.reason.partition("as a superuser: ")[2])
        assert server.settings()[FILES].state == "ok"
    finally:
        server.superuser("grant execute on function pg_show_all_file_settings() to upkeep")


def test_a_mistake_in_the_files_is_found_before_the_next_start(server: AdviceServer) -> None:
    conf = Path(server.home.facts(server.name)["data"]) / "postgresql.conf"
    before = conf.read_text()
    lines = before.count("\n")
    try:
        conf.write_text(before + "work_mem = 'lots'\n")
        (finding,) = found(server.settings()[FILES]).values()
        assert finding.severity == Severity.P1
        assert f"work_mem in {conf}:{lines + 1}: " in finding.summary
    finally:
        conf.write_text(before)
    assert server.settings()[FILES].state == "ok"


def test_what_changed_since_the_last_time_is_told_once(server: AdviceServer) -> None:
    first = server.settings()[DRIFT]
    assert first.state == "ok"
    assert "recorded now" in first.facts["baseline"]
    server.superuser("alter database studyspot set work_mem = '64MB'")
    try:
        (finding,) = found(server.settings()[DRIFT]).values()
        assert "work_mem 4 MB → 64 MB" in finding.summary
        assert "work_mem of database studyspot (not set) → 64MB" in finding.summary
        assert server.settings()[DRIFT].state == "ok", "what was told is the new baseline"
    finally:
        server.superuser("alter database studyspot reset work_mem")


def test_secrets_in_settings_stay_there(seventeen: AdviceServer) -> None:
    server = seventeen
    secret = "alter system set primary_conninfo = 'host=db password=hunter2 user=x'"
    server.administer(secret, RELOAD, "alter role app set my.api_token = 'hunter2'")
    try:
        server.settings()
        assert "hunter2" not in str(server.settings()) + str(server.earlier)
    finally:
        server.administer("alter system reset all", RELOAD, "alter role app reset my.api_token")


def of(version: int, **settings: str) -> Server:
    return Server(version=version, database_bytes=1e12, slots=1, standbys=0, has_statements=True, settings=settings)


@pytest.mark.parametrize(
    ("version", "name", "value", "others", "severity"),
    [
        (140010, "log_checkpoints", "off", {}, Severity.P4),
        (150010, "log_checkpoints", "off", {}, None),
        (130010, "compute_query_id", "off", {}, None),
        (170010, "archive_command", "/bin/true", {"archive_mode": "on"}, Severity.P1),
        (170010, "archive_command", "/bin/true", {"archive_mode": "off"}, None),
        (170010, "archive_command", "", {"archive_mode": "on", "archive_library": "basic_archive"}, None),
        (170010, "shared_buffers", "16384", {"block_size": "8192"}, Severity.P4),
        (170010, "shared_buffers", "262144", {"block_size": "8192"}, None),
        (170010, "max_slot_wal_keep_size", "-1", {}, Severity.P4),
        (170010, "autovacuum_freeze_max_age", "1900000000", {}, Severity.P2),
        (170010, "autovacuum_freeze_max_age", "not a number", {}, None),
        (170010, "fsync", None, {}, None),
    ],
)
def test_judgement_depends_on_version_and_surroundings(
    version: int, name: str, value: str | None, others: dict[str, str], severity: Severity | None
) -> None:
    rule = wrong(of(version, **others), name, value)
    assert (rule.severity if rule else None) == severity


def test_every_rule_names_a_setting_that_postgres_has(server: AdviceServer) -> None:
    known = {name for (name,) in server("select name from pg_settings")}
    # The newest come with later versions.
    assert {rule.name for rule in RULES} <= known
