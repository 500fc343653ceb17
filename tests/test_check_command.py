"""``python -m upkeep``: each missing thing is found on real servers, and the printed cure mends it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg.conninfo import make_conninfo
from slack_sdk import WebClient

from sandbox import __main__ as sandbox
from sandbox import faults, processes
from sandbox.home import REPOSITORY, Home
from sandbox.servers import environment
from sandbox.servers import kafka as kafka_server
from sandbox.servers import kubernetes as cluster
from sandbox.servers import postgres as server
from sandbox.servers import redis as redis_server
from upkeep.__main__ import main
from upkeep.doctor import channels, hosts, kafka, kubernetes, postgres, redis, s3
from upkeep.doctor import ledger as ledger_doctor
from upkeep.doctor.text import Line, Part, as_json, complete, lines, table
from upkeep.doctor.verdict import fine, missing, note, unseen
from upkeep.findings import Outcome
from upkeep.platforms import Platform, load_file
from upkeep.platforms.hosts import Hosts
from upkeep.settings import settings

SERVERS = [
    "postgres.control", "postgres.studyspot", "postgres.studyspot_standby", "redis.studyspot", "s3", "kafka",
    "kubernetes", "inboxes", "hosts",
]  # fmt: skip
STUDYSPOT = REPOSITORY / "include" / "platforms" / "studyspot.yaml"
ROLES = (REPOSITORY / "include" / "sql" / "postgres" / "roles.sql").read_bytes()
CONN = "studyspot_postgres"


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with sandbox.temporary() as home:
        sandbox.up(home, only=SERVERS, scale=0.02)
        yield home


@pytest.fixture(scope="module")
def old(home: Home) -> str:
    """PostgreSQL 15, without ``pg_maintain``, and with nothing preloaded; its conninfo for role upkeep."""
    server.start_cluster(home, "postgres.old", 15, settings={"shared_preload_libraries": ""})
    server.prepare_platform(home, "postgres.old", "studyspot")
    with server.superuser(home, "postgres.old", "studyspot") as connection:
        connection.execute(
            "set role app_owner; create table users (id int, created_at timestamptz, last_login timestamptz);"
            "create table bookings (id int, created_at timestamptz)"
        )
    return server.dsn(home, "postgres.old", "upkeep", "studyspot")


@pytest.fixture(scope="module")
def studyspot() -> Platform:
    return load_file(STUDYSPOT)


@pytest.fixture
def maintenance(home: Home, studyspot: Platform) -> Callable[[], list[Line]]:
    """What the doctor says about the maintenance role of StudySpot's database."""
    conninfo = server.dsn(home, "postgres.studyspot", "upkeep", "studyspot")
    return lambda: bad(postgres.maintenance(conninfo, CONN, studyspot))


def bad(outcomes: list[Outcome]) -> list[Line]:
    return [line for line in lines(outcomes) if line.mark != "ok"]


def only(outcomes: list[Outcome]) -> Line:
    (line,) = bad(outcomes)
    return line


def good(outcomes: list[Outcome]) -> str:
    """The first line, when nothing is wrong."""
    assert bad(outcomes) == []
    return lines(outcomes)[0].said


# -- PostgreSQL ---------------------------------------------------------------------------------------------------


def test_the_roles_of_the_shipped_file_lack_nothing(home, studyspot):
    for role, look in (("upkeep", postgres.maintenance), ("upkeep_owner", postgres.owner)):
        outcomes = look(server.dsn(home, "postgres.studyspot", role, "studyspot"), CONN, studyspot)
        assert good(outcomes) == f"PostgreSQL 17.10, {role} in studyspot"


RIGHTS = {
    # what is taken away: (check, what is said)
    "revoke pg_monitor from upkeep": ("pg_monitor", "upkeep has not the rights of pg_monitor"),
    "revoke pg_read_all_data from upkeep": ("pg_read_all_data", "upkeep has not the rights of pg_read_all_data"),
    "revoke pg_maintain from upkeep": ("vacuum", "may not vacuum 4 tables"),
    "revoke insert, delete on upkeep.canary from upkeep": ("canary", "upkeep may not write into upkeep.canary"),
    "drop extension amcheck": ("amcheck", "extension not in studyspot"),
    "drop extension pg_stat_statements": ("pg_stat_statements", "extension not in studyspot"),
    "revoke execute on function bt_index_check(regclass, boolean) from upkeep": (
        "amcheck",
        "may not call 1 of its functions",
    ),
    "revoke execute on function pg_show_all_file_settings() from upkeep": (
        "settings",
        "mistakes in the configuration files stay unseen until the next start",
    ),
    "revoke execute on function upkeep.sample_index_pages(regclass, int) from upkeep": (
        "page_sampler",
        "may not call upkeep.sample_index_pages",
    ),
    "alter role upkeep superuser": ("superuser", "upkeep is a superuser, more than Upkeep needs"),
}


@pytest.mark.parametrize("taken", RIGHTS)
def test_a_missing_right_is_named_and_the_printed_grant_gives_it_back(taken, home, maintenance):
    check, said = RIGHTS[taken]
    assert maintenance() == []
    with server.superuser(home, "postgres.studyspot", "studyspot") as connection:
        try:
            connection.execute(taken)
            (line,) = maintenance()
            assert (line.check, line.said) == (check, said)
            assert line.mark == ("note" if check in ("superuser", "settings", "page_sampler") else "missing")
            statements = [part for part in re.split(r"or: |\n", line.cure) if part.endswith(";")]
            for statement in statements:
                connection.execute(statement)
            rest = maintenance()
            # A new extension gives its functions to nobody; the next look says so.
            for line in rest:
                assert taken.startswith("drop extension amcheck")
                connection.execute(line.cure)
            assert maintenance() == []
        finally:
            connection.execute("alter role upkeep nosuperuser")
            connection.execute("select set_config('upkeep.tables_owner', 'app_owner', false)")
            connection.execute(ROLES)


def test_statements_that_get_no_ids_are_found(home, maintenance):
    with server.superuser(home, "postgres.studyspot", "studyspot") as connection:
        connection.execute("alter system set compute_query_id = off")
        connection.execute("select pg_reload_conf()")
        line = wait_for(maintenance)
        assert (line.check, line.said) == ("pg_stat_statements", "compute_query_id is off: it counts nothing")
        for statement in line.cure.splitlines():
            connection.execute(statement)
        connection.execute("alter system reset compute_query_id")
    processes.wait_until(lambda: maintenance() == [], 5, "statements to be counted again")


def wait_for(look: Callable[[], list[Line]]) -> Line:
    """A reload takes a moment."""
    processes.wait_until(lambda: look() != [], 5, "a finding")
    return look()[0]


def test_a_schema_that_may_not_be_entered_is_told_with_its_grant(home, maintenance):
    with server.superuser(home, "postgres.studyspot", "studyspot") as connection:
        # Membership in pg_read_all_data would let it in as well.
        connection.execute("revoke usage on schema upkeep from upkeep; revoke pg_read_all_data from upkeep")
        told = {line.check: line for line in maintenance()}
        assert told["canary"].cure == "grant usage on schema upkeep to upkeep;"
        for line in told.values():
            connection.execute(line.cure)
    assert maintenance() == []


def test_a_database_without_the_canary_is_told_to_run_the_roles(home, maintenance):
    with server.superuser(home, "postgres.studyspot", "studyspot") as connection:
        connection.execute("drop table upkeep.canary")
        (line,) = maintenance()
        assert (line.check, line.cure) == ("canary", "run include/sql/postgres/roles.sql")
        connection.execute("select set_config('upkeep.tables_owner', 'app_owner', false)")
        connection.execute(ROLES)
    assert maintenance() == []


def test_before_17_membership_of_the_owner_stands_in_for_pg_maintain(home, old, studyspot):
    look = partial(postgres.maintenance, old, CONN, studyspot)
    assert [line.check for line in bad(look())] == ["pg_stat_statements"]
    with server.superuser(home, "postgres.old", "studyspot") as connection:
        connection.execute("revoke app_owner from upkeep")
        line = bad(look())[0]
        assert line.said == "may not vacuum 2 tables, of app_owner"
        connection.execute(line.cure)
    assert [line.check for line in bad(look())] == ["pg_stat_statements"]


def test_statistics_that_are_installed_and_not_preloaded_are_found(home, old, studyspot):
    look = partial(postgres.maintenance, old, CONN, studyspot)
    line = only(look())
    assert line.said == "installed, but not preloaded: it counts nothing"
    assert line.cure.startswith("alter system set shared_preload_libraries = 'pg_stat_statements';\n-- then restart")
    with server.superuser(home, "postgres.old") as connection:
        connection.execute(line.cure.splitlines()[0])
    processes.stop(home, "postgres.old")
    server.start_cluster(home, "postgres.old", 15)
    assert good(look()).startswith("PostgreSQL 15.")


def test_an_owner_role_that_is_no_member_is_told_the_grant(home, studyspot):
    look = partial(
        postgres.owner, server.dsn(home, "postgres.studyspot", "upkeep_owner", "studyspot"), "x_owner", studyspot
    )
    with server.superuser(home, "postgres.studyspot", "studyspot") as connection:
        connection.execute("revoke app_owner from upkeep_owner")
        line = only([outcome for outcome in look() if outcome.check == "owner"])
        assert (line.said, line.cure) == (
            "no member of app_owner, owner of 4 tables",
            "grant app_owner to upkeep_owner;",
        )
        connection.execute(line.cure)
    assert bad(look()) == []


def test_names_in_the_file_that_the_database_does_not_have_are_found(home, studyspot):
    content = yaml.safe_load(STUDYSPOT.read_text())
    content["postgres"]["tables"][0]["retention"]["column"] = "made_at"
    content["capacity"]["growth"] = [{"name": "seats", "table": "seats", "column": "floor"}]
    wrong = Platform.model_validate(content)
    told = bad(postgres.maintenance(server.dsn(home, "postgres.studyspot", "upkeep", "studyspot"), CONN, wrong))
    assert [line.said for line in told] == [
        "no column bookings.made_at in the database",
        "seats.floor is a integer, not a time",
    ]


def test_who_cannot_connect_is_told_why(home, studyspot):
    right = server.dsn(home, "postgres.studyspot", "upkeep", "studyspot")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for wrong, said in (
            ({"password": "wrong"}, "password authentication failed"),
            ({"dbname": "nowhere"}, 'database "nowhere" does not exist'),
            ({"port": 1}, "Connection refused"),
            ({"port": silent.getsockname()[1]}, "timeout expired"),
        ):
            line = only(postgres.maintenance(make_conninfo(right, **wrong), CONN, studyspot))
            assert (line.check, line.mark) == ("connect", "missing")
            assert said in line.said
            assert f"of connection {CONN}" in line.cure


def test_a_connection_to_a_standby_is_found(home, studyspot):
    conninfo = make_conninfo(
        server.dsn(home, "postgres.studyspot", "upkeep", "studyspot"),
        port=home.facts("postgres.studyspot_standby")["port"],
    )
    assert only(postgres.maintenance(conninfo, CONN, studyspot)).said == "the server is a standby"


@pytest.mark.parametrize(("version", "mark"), [(120022, "missing"), (130023, "ok"), (190001, "ok"), (200000, "note")])
def test_versions_from_13_to_19_are_supported(version, mark):
    me = {"version": version, "version_name": "x", "role": "upkeep", "database": "shop", "encrypted": True}
    (line,) = lines([postgres._server(me, CONN)])
    assert line.mark == mark


def test_a_connection_without_tls_to_another_machine_is_noted():
    me = {"standby": False, "superuser": False, "encrypted": False, "local": False, "role": "upkeep"}
    (line,) = lines(list(postgres._caveats(me, CONN)))
    assert (line.mark, line.check) == ("note", "encryption")
    assert list(postgres._caveats({**me, "encrypted": True}, CONN)) == []
    assert list(postgres._caveats({**me, "local": True}, CONN)) == []


# -- the ledger ---------------------------------------------------------------------------------------------------


def test_a_ledger_of_this_version_is_fine_and_others_are_not(ledger_conninfo, ledger, control):
    look = partial(ledger_doctor.look, ledger_conninfo, "upkeep_ledger")
    assert good(look()).startswith("PostgreSQL 17.10")
    for revision, mark, said in (("0000", "missing", "this version needs 0"), ("9999", "note", "is newer than")):
        ledger.connection.execute("update upkeep_version set version_num = %s", [revision])
        line = only(look())
        assert line.mark == mark
        assert said in line.said
    empty = control.facts("postgres.control")["superuser_dsn"]
    line = only(ledger_doctor.look(empty, "upkeep_ledger"))
    assert (line.said, line.cure) == ("the ledger has no tables yet", "python -m upkeep setup")
    down = ledger_doctor.look(make_conninfo(ledger_conninfo, port=1), "upkeep_ledger")
    assert only(down).check == "connect"


# -- Redis --------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis_of(home: Home) -> dict[str, Any]:
    facts = home.facts("redis.studyspot")
    return {"host": "127.0.0.1", "port": facts["port"], "username": None, "password": facts["password"], "db": 0}


def test_redis_that_lets_us_in_is_fine_and_one_that_does_not_is_told(redis_of):
    assert good(redis.look(redis_of, "r")).startswith("Redis ")
    line = only(redis.look({**redis_of, "password": "wrong"}, "r"))
    assert (line.check, line.cure) == ("connect", "correct login and password of connection r")
    line = only(redis.look({**redis_of, "port": 1}, "r"))
    assert "refused" in line.said


def test_a_redis_user_without_info_is_told_the_rule_that_allows_it(home, redis_of):
    admin = redis_server.client(home, "redis.studyspot")
    admin.acl_setuser("reader", enabled=True, passwords=["+secret"], commands=["+get"])
    try:
        reader = {**redis_of, "username": "reader", "password": "secret"}
        line = only(redis.look(reader, "r"))
        assert line.cure == "ACL SETUSER reader +ping +info"
        admin.execute_command(*line.cure.split())
        assert good(redis.look(reader, "r")).endswith("as reader")
    finally:
        admin.acl_deluser("reader")


def test_a_redis_without_password_is_noted(home, redis_of):
    admin = redis_server.client(home, "redis.studyspot")
    try:
        admin.config_set("requirepass", "")
        line = only(redis.look({**redis_of, "password": None}, "r"))
        assert (line.mark, line.said) == ("note", "it asks for no password")
    finally:
        admin.config_set("requirepass", redis_of["password"])


# -- Kafka --------------------------------------------------------------------------------------------------------


def test_kafka_that_answers_is_fine_and_what_is_missing_there_is_told(home):
    brokers = load_file(STUDYSPOT.with_name("adaptive_learning.yaml")).kafka
    assert brokers is not None
    config = {"bootstrap.servers": kafka_server.bootstrap_of(home)}
    assert good(kafka.look(config, "k", brokers)).startswith("3 brokers, ")
    line = only(kafka.look(config, "k", brokers.model_copy(update={"brokers": 5})))
    assert line.said == "3 of 5 brokers are in the cluster"
    other = brokers.groups[0].model_copy(update={"topics": ("orders",)})
    line = only(kafka.look(config, "k", brokers.model_copy(update={"groups": (other,)})))
    assert line.said == "no topic orders, or it may not be described"
    assert "--operation Describe --topic orders" in line.cure
    line = only(kafka.look({"bootstrap.servers": "127.0.0.1:1"}, "k", brokers, timeout_s=2))
    assert line.said.startswith("no Kafka broker answers at 127.0.0.1:1")
    line = only(kafka.look({**config, "no.such.key": "x"}, "k", brokers))
    assert "librdkafka does not take" in line.said


# -- Kubernetes ---------------------------------------------------------------------------------------------------


def kube(home: Home, user: str) -> Any:
    from kubernetes import config

    return config.new_client_from_config(str(cluster.kubeconfig(home, "studyspot", user=user)))


def test_an_account_without_rights_is_told_the_roles_that_give_them(home, studyspot):
    settings = studyspot.kubernetes
    assert good(kubernetes.look(kube(home, "upkeep"), "k", settings)).startswith("Kubernetes v1.")
    role, cluster_role = bad(kubernetes.look(kube(home, "viewer"), "k", settings))
    assert "delete pods; delete jobs.batch in studyspot" in role.said
    assert "get nodes/proxy" in cluster_role.said
    api = cluster.api(home)
    group = "/apis/rbac.authorization.k8s.io/v1"
    viewer = [{"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}]
    for line, path in ((role, f"{group}/namespaces/studyspot/roles"), (cluster_role, f"{group}/clusterroles")):
        document = yaml.safe_load(line.cure)
        api.send("POST", path, document)
        kind = document["kind"]
        binding = {
            "apiVersion": document["apiVersion"],
            "kind": f"{kind}Binding",
            "metadata": {"name": "upkeep"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "upkeep"},
            "subjects": viewer,
        }
        api.send("POST", path.replace("roles", "rolebindings"), binding)
    assert good(kubernetes.look(kube(home, "viewer"), "k", settings))


def test_a_cluster_that_refuses_or_is_away_is_told(home, studyspot):
    from kubernetes import config

    document = yaml.safe_load(cluster.kubeconfig(home, "studyspot").read_text())
    document["users"][0]["user"]["token"] = "wrong"
    line = only(kubernetes.look(config.new_client_from_config_dict(document), "k", studyspot.kubernetes))
    assert line.said == "401 Unauthorized"
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    line = only(kubernetes.look(config.new_client_from_config_dict(document), "k", studyspot.kubernetes))
    assert "correct the address" in line.cure


# -- S3, PagerDuty, Slack, hosts ----------------------------------------------------------------------------------


def bucket_client(home: Home, **wrong: str) -> Any:
    import boto3
    from botocore.config import Config

    facts = {**home.facts("s3"), **wrong}
    return boto3.client(
        "s3",
        endpoint_url=facts["endpoint_url"],
        aws_access_key_id=facts["key"],
        aws_secret_access_key=facts["secret"],
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, connect_timeout=2, s3={"addressing_style": "path"}),
    )


def test_a_bucket_that_is_there_is_fine_and_others_are_told(home):
    assert good(s3.look(bucket_client(home), "s", "studyspot-files", writes=False))
    line = only(s3.look(bucket_client(home), "s", "no-such-bucket", writes=True))
    assert (line.said, line.cure) == ("no bucket no-such-bucket", "aws s3 mb s3://no-such-bucket, or correct the name")
    line = only(s3.look(bucket_client(home, secret="wrong"), "s", "studyspot-backups", writes=True))
    assert "s3:PutObject, s3:DeleteObject on arn:aws:s3:::studyspot-backups" in line.cure
    line = only(s3.look(bucket_client(home, endpoint_url="http://127.0.0.1:1"), "s", "studyspot-files", writes=False))
    assert line.check == "connect"


@contextmanager
def answering(status: int, body: dict[str, Any], **headers: str) -> Iterator[str]:
    """The address of a server that gives everybody this answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            for name, value in ({"content-length": str(len(text))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{there.server_port}"
        there.shutdown()


def alerting(home: Home, conn_id: str) -> dict[str, Any]:
    return dict(home.state()["connections"][conn_id])


@pytest.fixture
def trust(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", environment(home)["SSL_CERT_FILE"])


def test_pagerduty_is_reached_without_an_event(home, trust):
    from sandbox.inboxes.client import Inbox

    found = alerting(home, "upkeep_pagerduty_events")
    look = partial(channels.pagerduty, conn_id="p", base_url=found["host"])
    before = len(Inbox(home).pagerduty())
    assert "answers; whether it takes the key shows" in good(look(found["password"]))
    assert only(look("R0UTINGKEY")).said == "a routing key has 32 letters and digits, this one has 10 characters"
    with answering(503, {}) as url:
        line = only(channels.pagerduty(found["password"], url, "p"))
    assert (line.mark, line.said) == ("unknown", f"{url} answers 503")
    assert only(channels.pagerduty(found["password"], "https://127.0.0.1:1", "p")).mark == "unknown"
    assert len(Inbox(home).pagerduty()) == before


def test_slack_says_whose_token_it_is_and_nothing_is_posted(home, trust):
    from sandbox.inboxes.client import Inbox

    found = alerting(home, "upkeep_slack")
    client = partial(WebClient, base_url=found["extra"]["base_url"], timeout=4, retry_handlers=[])
    before = len(Inbox(home).slack())
    outcomes = channels.slack(client(token=found["password"]), "s", ["#alerts"])
    assert good(outcomes) == "bot upkeep of Upkeep sandbox; posts to #alerts"
    line = only(channels.slack(client(token="xoxb-1-wrong"), "s", []))
    assert (line.check, line.said) == ("token", "Slack says invalid_auth")
    faults.break_it(home, "slack_refuses")
    try:
        assert only(channels.slack(client(token=found["password"]), "s", [])).mark == "unknown"
    finally:
        faults.heal_it(home, "slack_refuses")
    assert only(channels.slack(WebClient(token="x", base_url="https://127.0.0.1:1/"), "s", [])).mark == "unknown"
    assert len(Inbox(home).slack()) == before


def test_a_slack_token_without_the_scope_to_write_is_told():
    with answering(200, {"ok": True, "user": "upkeep", "team": "Ops"}, x_oauth_scopes="channels:read") as url:
        line = only(channels.slack(WebClient(token="xoxb-x", base_url=f"{url}/"), "s", []))
    assert line.said == "the token has channels:read, not chat:write"


def test_trees_that_are_not_mounted_or_not_ours_are_told(tmp_path):
    settings = Hosts.model_validate(
        {
            "logs": [{"path": "/var/log/shop", "classes": [{"name": "all", "pattern": "*", "keep": "7d"}]}],
            "temporary": [{"path": "/tmp", "pattern": "shop-*"}],
        }
    )
    (tmp_path / "var/log/shop").mkdir(parents=True)
    line = only(list(hosts.look(settings, str(tmp_path))))
    assert line.said == f"{tmp_path}/tmp is no directory on this machine"
    (tmp_path / "tmp").mkdir()
    assert bad(list(hosts.look(settings, str(tmp_path)))) == []
    (tmp_path / "tmp").chmod(0o555)
    assert said_by_nobody(tmp_path, lambda: only(list(hosts.look(settings, str(tmp_path)))).said) == (
        f"{tmp_path}/tmp may not be read and written by us"
    )


def said_by_nobody(directory: Path, say: Callable[[], str]) -> str:
    """What ``say`` returns in a process without root's powers."""
    above = [each for each in directory.parents if len(each.parts) > 2]
    for each in (directory, *above, directory / "var/log/shop"):
        each.chmod(0o777)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writer, say().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


# -- what people and machines read --------------------------------------------------------------------------------


PARTS = [
    Part("upkeep", "what all share", [fine("connect", "upkeep_ledger", "PostgreSQL 17.10")]),
    Part(
        "shop",
        "The Shop",
        [
            fine("file", "shop.yaml", "valid"),
            fine("connect", "shop_postgres", "PostgreSQL 17.10, upkeep in shop"),
            fine("canary", "shop_postgres", "may be written"),
            missing("vacuum", "shop_postgres", "may not vacuum 4 tables", "grant pg_maintain to upkeep;"),
            note("encryption", "shop_postgres", "not encrypted on its way", "one\ntwo"),
            unseen("connect", "shop_redis", "did not return within 12 s " * 6),
        ],
    ),
]


def test_the_table_is_short_and_every_word_of_it_is_there_without_colours():
    plain = list(table(PARTS, colour=False, width=100))
    assert plain == [
        "upkeep  what all share",
        "  ok       upkeep_ledger  PostgreSQL 17.10",
        "",
        "shop  The Shop",
        "  ok       shop.yaml      valid",
        "  ok       shop_postgres  PostgreSQL 17.10, upkeep in shop; canary",
        "  missing                 vacuum: may not vacuum 4 tables",
        "                          → grant pg_maintain to upkeep;",
        "  note                    encryption: not encrypted on its way",
        "                          → one",
        "                            two",
        "  unknown  shop_redis     did not return within 12 s did not return within 12 s did not return",
        "                          within 12 s did not return within 12 s did not return within 12 s did not",
        "                          return within 12 s",
        "",
        "1 missing, 1 unknown, 1 note, 4 ok. Do what follows each →, then run it again.",
    ]
    colours = list(table(PARTS, colour=True, width=100))
    assert "\033[1;31mmissing\033[0m" in "".join(colours)
    assert [re.sub(r"\033\[[0-9;]*m", "", line) for line in colours] == plain
    assert any("canary: may be written" in line for line in table(PARTS, colour=False, width=100, everything=True))
    assert list(table(PARTS[:1], colour=False, width=100))[-1] == "Everything is there: 1 checks."


def test_unknown_is_not_complete_and_a_note_is():
    assert not complete(PARTS)
    assert not complete([Part("x", "", [unseen("a", "b", "c")])])
    assert complete([Part("x", "", [note("a", "b", "c", "d"), fine("a", "b", "c")])])
    document = json.loads(as_json(PARTS))
    assert document["complete"] is False
    states = [check["state"] for part in document["parts"] for check in part["checks"]]
    assert states == ["ok", "ok", "ok", "ok", "missing", "note", "unknown"]


# -- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shell(home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a shell needs: the sandbox's connections, and StudySpot's file alone."""
    platforms = tmp_path_factory.mktemp("platforms")
    shutil.copy(STUDYSPOT, platforms)
    return {
        **os.environ,
        **environment(home),
        "UPKEEP_PLATFORMS": str(platforms),
        "PYTHONPATH": str(REPOSITORY / "plugins"),
    }


def test_check_says_everything_that_is_missing_at_once(home, shell, tmp_path):
    shutil.copy(STUDYSPOT, tmp_path)
    (tmp_path / "shop.yaml").write_text("name: shop\ntitle: Shop\nwindows: always\n")
    broken = {**shell, "UPKEEP_PLATFORMS": str(tmp_path)}
    del broken["AIRFLOW_CONN_STUDYSPOT_REDIS"]
    broken["AIRFLOW_CONN_STUDYSPOT_KUBERNETES"] = '{"conn_type": "kubernetes", "extra": {"kube_config_path": "/nope"}}'
    broken["AIRFLOW_CONN_STUDYSPOT_POSTGRES"] = '{"conn_type": "postgres", "extra": {"nonsense": "x"}}'
    # Airflow without a database: what was not found might be there.
    broken["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{tmp_path}/airflow.db"
    command = [sys.executable, "-m", "upkeep", "check", "--json"]
    done = subprocess.run(command, env=broken, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1
    assert done.stderr == ""
    document = json.loads(done.stdout)
    told = {(check["object"], check["state"]): check for part in document["parts"] for check in part["checks"]}
    assert [part["name"] for part in document["parts"]] == ["upkeep", "studyspot", "shop"]
    redis_line = told["studyspot_redis", "missing"]
    assert redis_line["said"] == "no such connection in Airflow"
    assert redis_line["cure"] == "add it: Redis; host, port, password"
    assert "out of reach" in told["Airflow", "unknown"]["said"]
    assert "Invalid kube-config file" in told["studyspot_kubernetes", "missing"]["said"]
    assert told["studyspot_kubernetes", "missing"]["cure"].startswith("correct it: Kubernetes; ")
    assert "nonsense" in told[CONN, "missing"]["said"]
    assert "`windows` is wrong" in told["shop.yaml", "missing"]["said"]
    assert "`severity` is missing" in told["shop.yaml", "missing"]["said"]


@pytest.fixture
def here(shell: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The same for commands in this process, which is quicker: Airflow is loaded already."""
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    # What the command sets for itself is put back as well.
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
    settings.cache_clear()
    yield monkeypatch
    settings.cache_clear()


def test_check_is_content_with_the_sandbox_once_it_is_set_up(home, here, capsys):
    from upkeep.ledger.migrate import migrate

    migrate(server.dsn(home, "postgres.control", "upkeep", "upkeep"))
    status = main(["check"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "Everything is there: " in said
    for conn_id in ("upkeep_ledger", "upkeep_slack", CONN, f"{CONN}_owner", "studyspot_redis", "studyspot_backup_s3"):
        assert re.search(rf"^  ok +{conn_id} ", said, re.M), conn_id
    passwords = [connection.get("password") for connection in home.state()["connections"].values()]
    assert not any(password in said for password in passwords if password)


def test_check_of_a_platform_that_is_not_there_says_which_are(here, capsys):
    assert main(["check", "shop"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("no platform 'shop'; there are: studyspot\nHINT: platform files are in ")


def test_setup_without_a_ledger_says_what_to_do(here, capsys):
    here.delenv("AIRFLOW_CONN_UPKEEP_LEDGER")
    assert main(["setup"]) == 1
    said = capsys.readouterr().err
    assert "no connection 'upkeep_ledger'" in said
    assert "HINT: " in said


def test_schema_is_written_beside_the_platform_files(here, shell, capsys):
    assert main(["schema"]) == 0
    written = Path(shell["UPKEEP_PLATFORMS"]) / "platform.schema.json"
    assert capsys.readouterr().out == f"{written}\n"
    assert written.read_text() == (STUDYSPOT.parent / "platform.schema.json").read_text()
    assert main(["schema", "--print"]) == 0
    assert capsys.readouterr().out == written.read_text()


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["check", "--no-such-option"]])
def test_a_command_that_does_not_exist_shows_those_that_do(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: python -m upkeep" in capsys.readouterr().err
