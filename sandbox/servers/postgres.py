"""PostgreSQL: Airflow's own cluster with the ledger, and the platforms' databases with their sample data.

Every step finds out by itself whether it was done, so an ``up`` that was killed anywhere can simply be run again.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sandbox import binaries, data, processes
from sandbox.home import REPOSITORY, Home, SandboxError
from sandbox.unprivileged import Unprivileged, unprivileged

PORTS = {
    "postgres.control": 25432,
    "postgres.studyspot": 25433,
    "postgres.studyspot_standby": 25434,
    "postgres.adaptive_learning": 25435,
}
"""Tried first; another one when taken."""

SETTINGS: dict[str, str | int | bool] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_permissions": "0700",
    "shared_buffers": "48MB",
    "max_connections": 100,
    "shared_preload_libraries": "pg_stat_statements",
    # A sandbox survives its processes being killed, not the machine.
    "fsync": False,
    "wal_level": "replica",
    "wal_log_hints": True,
    "wal_keep_size": "64MB",
    # A standby comes back soon after its primary.
    "wal_retrieve_retry_interval": "500ms",
    "max_wal_size": "512MB",
    "max_slot_wal_keep_size": "4GB",
    "log_lock_waits": True,
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "track_io_timing": True,
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A loader that was killed must not go on in the server.
    "client_connection_check_interval": "1s",
}

SUPERUSER = "postgres"


def start_cluster(
    home: Home,
    name: str,
    version: int,
    *,
    settings: Mapping[str, str | int | bool] | None = None,
    programs: Path | None = None,
) -> None:
    """
    Start the cluster ``name`` of PostgreSQL ``version`` (15, 17 or 18), made when it is not there.

    ``facts(name)`` then holds ``version, bin, data, port, socket_directory, password`` and ``superuser_dsn``.

    :param settings: of ``postgresql.conf``, beside ``SETTINGS``; only a new cluster takes them.
    :param programs: the ``bin`` directory, when it is not to be looked for.
    :raises SandboxError: it does not start; ends with the last lines of its log.
    """
    if processes.running(home, name):
        return
    user = unprivileged(home)
    place = _place(home, name, version, programs or binaries.postgres(version), user)
    if not (place / "PG_VERSION").exists():
        with _draft(place, user) as draft:
            _initdb(home, name, draft, user)
            _configure(home, name, draft, {**SETTINGS, **(settings or {})}, user)
    _start(home, name, user)


def start_standby(home: Home, primary: str, name: str) -> None:
    """Start ``name``, a streaming standby of the running ``primary``; made by ``pg_basebackup`` when not there."""
    if processes.running(home, name):
        return
    user = unprivileged(home)
    known = home.facts(primary)
    place = _place(home, name, known["version"], Path(known["bin"]), user, password=known["password"])
    slot = name.rpartition(".")[2]
    if not (place / "PG_VERSION").exists():
        with superuser(home, primary) as connection:
            _role(connection, "replicator", _password(home, primary, "replicator"), "replication")
            # Before the copy, so that no WAL is missing between the copy and the first start.
            slots = connection.execute("select slot_name from pg_replication_slots where slot_name = %s", (slot,))
            if slots.fetchone() is None:
                connection.execute("select pg_create_physical_replication_slot(%s, true)", (slot,))
        source = make_conninfo(known["superuser_dsn"], user="replicator", dbname="", password="")
        with _draft(place, user) as draft:
            user.run(
                [
                    *(_program(home, name, "pg_basebackup"), "-d", source, "-D", draft),
                    *("-R", "-X", "stream", "-c", "fast", "--no-sync"),
                ],
                env={"PGPASSWORD": _password(home, primary, "replicator"), **_environment(known)},
            )
            _configure(home, name, draft, {"primary_slot_name": slot}, user)
    _start(home, name, user)


def start_control(home: Home) -> None:
    """PostgreSQL 17 with the databases ``airflow`` and ``upkeep`` (the ledger)."""
    name = "postgres.control"
    start_cluster(home, name, 17, settings={"max_connections": 200})
    for role in ("airflow", "upkeep"):
        password = _password(home, name, role)
        with superuser(home, name) as connection:
            _role(connection, role, password)
            _database(connection, role, owner=role)
    port = home.facts(name)["port"]
    airflow = _password(home, name, "airflow")
    home.remember(name, airflow_dsn=f"postgresql+psycopg2://airflow:{airflow}@127.0.0.1:{port}/airflow")
    home.connect("upkeep_ledger", connection_to(home, name, "upkeep", "upkeep"))


def start_studyspot(home: Home) -> None:
    # Few sessions, so that a fault can use them up without thousands of processes.
    _start_platform(home, "studyspot", 17, settings={"max_connections": 60})


def start_studyspot_standby(home: Home) -> None:
    start_standby(home, "postgres.studyspot", "postgres.studyspot_standby")


def start_adaptive_learning(home: Home) -> None:
    _start_platform(home, "adaptive_learning", 18)


def _start_platform(
    home: Home, platform: str, version: int, *, settings: Mapping[str, str | int | bool] | None = None
) -> None:
    name = f"postgres.{platform}"
    # As safe as a production server should be, or the advice on settings would be red.
    safe = {"fsync": True, "idle_in_transaction_session_timeout": "1h"}
    start_cluster(home, name, version, settings={**safe, **(settings or {})})
    prepare_platform(home, name, platform)
    owner = dsn(home, name, "app_owner", platform)
    data.load(owner, platform, float(home.facts("sandbox").get("scale", 1.0)))
    data.churn(owner)
    home.connect(f"{platform}_postgres", connection_to(home, name, "upkeep", platform))
    home.connect(f"{platform}_postgres_owner", connection_to(home, name, "upkeep_owner", platform))


def prepare_platform(home: Home, name: str, database: str) -> None:
    """The application's roles and empty database, and Upkeep's roles by the very file administrators run."""
    with superuser(home, name) as connection:
        for role in ("app_owner", "app"):
            _role(connection, role, _password(home, name, role))
        _database(connection, database, owner="app_owner")
    roles = (REPOSITORY / "include" / "sql" / "postgres" / "roles.sql").read_bytes()
    with superuser(home, name, database) as connection:
        connection.execute("select set_config('upkeep.tables_owner', 'app_owner', false)")
        connection.execute("select set_config('upkeep.restores', 'on', false)")
        connection.execute(roles)
        connection.execute(
            "alter default privileges for role app_owner grant select, insert, update, delete on tables to app;"
            "alter default privileges for role app_owner grant usage, select on sequences to app"
        )
        for role in ("upkeep", "upkeep_owner"):
            _role(connection, role, _password(home, name, role))


# -- what others ask -----------------------------------------------------------------------------------


def superuser(home: Home, name: str, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
    """
    A connection of the superuser to a running cluster, each statement its own transaction.

    :raises SandboxError: it does not run.
    """
    if processes.running(home, name) is None:
        raise SandboxError(f"{name} does not run\nHINT: python -m sandbox up --only {name}")
    target = make_conninfo(home.facts(name)["superuser_dsn"], dbname=database, application_name="sandbox")
    return psycopg.connect(target, autocommit=True)


def dsn(home: Home, name: str, role: str, database: str) -> str:
    """Where ``role`` of cluster ``name`` connects to ``database``, password included."""
    return make_conninfo(
        home.facts(name)["superuser_dsn"], user=role, password=_password(home, name, role), dbname=database
    )


def held(wrong: str) -> str:
    """Application name of the sessions that a fault holds open."""
    return f"api {wrong}"


def connection_to(home: Home, name: str, role: str, database: str) -> dict[str, Any]:
    """The same as an Airflow connection."""
    parts = conninfo_to_dict(dsn(home, name, role, database))
    return {
        "conn_type": "postgres",
        "host": parts["host"],
        "port": int(parts["port"]),
        "login": role,
        "password": parts["password"],
        "schema": database,
        "extra": {"connect_timeout": 3, "application_name": "upkeep"},
    }


# -- making a cluster ----------------------------------------------------------------------------------


def _place(
    home: Home, name: str, version: int, programs: Path, user: Unprivileged, *, password: str | None = None
) -> Path:
    """Remember where everything of a cluster is; return its data directory, which may not be there yet."""
    port = home.port(name, PORTS.get(name))
    tree = user.reachable(binaries.tree(programs))
    place = user.directory(home, name) / "data"
    password = home.facts(name).get("password") or password or secrets.token_urlsafe(18)
    home.remember(
        name,
        version=version,
        bin=str(tree / programs.relative_to(binaries.tree(programs))),
        library_path=binaries.library_path(tree),
        data=str(place),
        port=port,
        socket_directory=str(_socket_directory(home, user)),
        password=password,
        superuser_dsn=f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres",
    )
    return place


def _socket_directory(home: Home, user: Unprivileged) -> Path:
    """One directory for all clusters; elsewhere when the sandbox's path is too long for a socket (107 bytes)."""
    if len(str((user.base or home.path) / "s" / ".s.PGSQL.65535.lock")) <= 107:
        return user.directory(home, "s")
    known = home.facts("postgres").get("socket_directory")
    if known is None or not Path(known).is_dir():
        known = tempfile.mkdtemp(prefix="upkeep-")
        user.give(Path(known))
        home.remember("postgres", socket_directory=known)
    return Path(known)


@contextlib.contextmanager
def _draft(place: Path, user: Unprivileged) -> Iterator[Path]:
    """A data directory that becomes ``place`` only when it is complete."""
    _remove_drafts(place)
    # A name of its own each time: what a killed `up` left running may still be writing into the last one.
    draft = Path(tempfile.mkdtemp(prefix="draft", dir=place.parent))
    user.give(draft)
    yield draft
    shutil.rmtree(place, ignore_errors=True)
    draft.rename(place)
    _remove_drafts(place)


def _remove_drafts(place: Path) -> None:
    for abandoned in place.parent.glob("draft*"):
        if abandoned.is_dir():
            shutil.rmtree(abandoned, ignore_errors=True)
        else:
            abandoned.unlink(missing_ok=True)


def _initdb(home: Home, name: str, draft: Path, user: Unprivileged) -> None:
    secret = draft.with_suffix(".password")
    secret.write_text(home.facts(name)["password"])
    secret.chmod(0o600)
    user.give(secret)
    try:
        user.run(
            [
                *(_program(home, name, "initdb"), "-D", draft, "-U", SUPERUSER, "--pwfile", secret),
                *("-A", "scram-sha-256", "--locale=C.UTF-8", "--encoding=UTF8"),
                *("--data-checksums", "--no-sync", "--no-instructions"),
            ],
            env=_environment(home.facts(name)),
        )
    finally:
        secret.unlink(missing_ok=True)


def _configure(
    home: Home, name: str, draft: Path, settings: Mapping[str, str | int | bool], user: Unprivileged
) -> None:
    facts = home.facts(name)
    own = {"cluster_name": name, "port": facts["port"], "unix_socket_directories": facts["socket_directory"]}
    lines = [f"{key} = {_setting(value)}" for key, value in {**settings, **own}.items()]
    with (draft / "postgresql.conf").open("a") as conf:
        # The last entry of a name wins, so a standby's follow those copied from its primary.
        conf.write("\n# sandbox\n" + "\n".join(lines) + "\n")


def _setting(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _program(home: Home, name: str, program: str) -> Path:
    return Path(home.facts(name)["bin"]) / program


def _start(home: Home, name: str, user: Unprivileged) -> None:
    facts = home.facts(name)
    place = Path(facts["data"])
    argv = [*user.prefix, str(_program(home, name, "postgres")), "-D", str(place)]
    if survivor := _survivor(place):
        processes.adopt(home, name, survivor, argv, stop_signal=signal.SIGINT)
        processes.wait_until(
            lambda: _answers(facts["superuser_dsn"]), 30, f"{name} to answer", home.logs / f"{name}.log"
        )
        return
    processes.start(
        home,
        name,
        argv,
        env=_environment(facts),
        cwd=Path("/"),
        ready=lambda: _answers(facts["superuser_dsn"]),
        timeout_s=30,
        # Fast shutdown; SIGTERM would wait until the last client has gone.
        stop_signal=signal.SIGINT,
        **user.popen,
    )


def _environment(facts: Mapping[str, Any]) -> dict[str, str]:
    libraries = {"LD_LIBRARY_PATH": facts["library_path"]} if facts["library_path"] else {}
    return {"LC_ALL": "C.UTF-8", **libraries}


def _survivor(place: Path) -> int | None:
    """The postmaster of this data directory that an ``up`` started just before it was killed."""
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
        pid = int((place / "postmaster.pid").read_text().splitlines()[0])
        if str(place) in psutil.Process(pid).cmdline():
            return pid
    return None


def _answers(target: str) -> bool:
    try:
        psycopg.connect(target, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


# -- roles and databases -------------------------------------------------------------------------------


def _password(home: Home, name: str, role: str) -> str:
    """The password of a role, drawn at the first call and remembered before any server knows it."""
    with home.change() as state:
        passwords = state.setdefault("facts", {}).setdefault(name, {}).setdefault("passwords", {})
        return str(passwords.setdefault(role, secrets.token_urlsafe(18)))


def _role(connection: psycopg.Connection[Any], role: str, password: str, options: str = "") -> None:
    """Create a role that may log in; give it its password when it has none (a fault's wrong one stays)."""
    known = connection.execute("select rolpassword from pg_authid where rolname = %s", (role,)).fetchone()
    if known is None:
        connection.execute(sql.SQL("create role {} login " + options).format(sql.Identifier(role)))
    if known is None or known[0] is None:
        set_password(connection, role, password)


def set_password(connection: psycopg.Connection[Any], role: str, password: str) -> None:
    connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(role), password))


def _database(connection: psycopg.Connection[Any], database: str, *, owner: str) -> None:
    if connection.execute("select from pg_database where datname = %s", (database,)).fetchone() is None:
        statement = sql.SQL("create database {} owner {}").format(sql.Identifier(database), sql.Identifier(owner))
        connection.execute(statement)
