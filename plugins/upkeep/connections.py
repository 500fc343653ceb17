"""From an Airflow connection id to the plain values that Upkeep's modules take.

Light on purpose: Dag files import it through the operators, so providers are imported where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upkeep.errors import SettingsError
from upkeep.ledger import Ledger, Run
from upkeep.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import Connection, Context
    from kubernetes.client import ApiClient

    from upkeep.incident.cdn import Access as CdnAccess

LEDGER = "upkeep_ledger"

HOLD = "upkeep_hold"
"""Extra of a platform's connection that makes maintenance wait: ``{"upkeep_hold": "migration until noon"}``."""

STANDBYS = "upkeep_standbys"
"""Extra of a platform's connection that names its standbys: ``{"upkeep_standbys": "db-2:5432,db-3:5432"}``."""


def connection(conn_id: str) -> Connection:
    """:raises SettingsError: there is no such connection."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise SettingsError(
            f"no connection {conn_id!r}",
            hint=f"add it in Airflow (Admin → Connections) or as AIRFLOW_CONN_{conn_id.upper()};"
            " `python -m upkeep check` lists what each platform needs.",
        ) from None


def postgres_conninfo(conn_id: str) -> str:
    """libpq connection string; IAM tokens are fetched when the connection asks for them."""
    import psycopg

    found = connection(conn_id)
    login, password, port = found.login, found.password, found.port
    if found.extra_dejson.get("iam"):
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        login, password, port = PostgresHook(conn_id).get_iam_token(found)
    # Extras that are the hook's own, or ours, and mean nothing to libpq.
    own = {
        "iam", "redshift", "redshift-serverless", "cursor", "cluster-identifier", "workgroup-name", "aws_conn_id",
        "sqlalchemy_scheme", "sqlalchemy_query", "azure_conn_id",
        HOLD, STANDBYS,
    }  # fmt: skip
    extra = {key: value for key, value in found.extra_dejson.items() if key not in own}
    values = {"host": found.host, "port": port, "user": login, "password": password, "dbname": found.schema}
    made = {"application_name": "upkeep", "connect_timeout": 3, **extra, **{k: v for k, v in values.items() if v}}
    try:
        return psycopg.conninfo.make_conninfo(**made)
    except psycopg.ProgrammingError as wrong:
        raise SettingsError(
            f"connection {conn_id!r}: {' '.join(str(wrong).split())}",
            hint="its extra holds libpq parameters: https://www.postgresql.org/docs/current/libpq-connect.html.",
        ) from None


def postgres_standbys(conn_id: str) -> list[str]:
    """
    libpq connection strings of the standbys that the connection's extra names; none means that nobody named any.

    ``{"upkeep_standbys": "standby-1.internal,standby-2.internal:5433"}``, reached with the same login and password.
    """
    import psycopg

    conninfo = postgres_conninfo(conn_id)
    named = connection(conn_id).extra_dejson.get(STANDBYS) or []
    made = []
    for name in named.split(",") if isinstance(named, str) else named:
        host, _, port = str(name).strip().rpartition(":") if ":" in str(name) else (str(name).strip(), "", "")
        made.append(psycopg.conninfo.make_conninfo(conninfo, host=host, **({"port": port} if port else {})))
    return made


def hold_flag(conn_id: str) -> str:
    """Why a person wants maintenance on this connection to wait, read afresh; empty when nobody does."""
    said = connection(conn_id).extra_dejson.get(HOLD)
    if said is True or str(said).strip().lower() == "true":
        return f"`{HOLD}` is set on connection {conn_id}"
    return "" if said in (None, False) or str(said).strip().lower() == "false" else str(said).strip()


def redis_arguments(conn_id: str) -> dict[str, Any]:
    """Arguments for ``redis.Redis``; extras as the redis provider names them (``db``, ``ssl``, ``ssl_ca_certs``…)."""
    found = connection(conn_id)
    extra = found.extra_dejson
    made: dict[str, Any] = {
        "host": found.host or "localhost",
        "port": int(found.port or 6379),
        "username": found.login or None,
        "password": found.password or None,
        "db": int(extra.get("db") or 0),
    }
    tls = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_keyfile", "ssl_certfile", "ssl_check_hostname")
    if str(extra.get("ssl", "")).lower() in ("1", "true", "yes"):
        made |= {"ssl": True, **{key: extra[key] for key in tls if key in extra}}
    return made


def kafka_config(conn_id: str) -> dict[str, Any]:
    """librdkafka configuration: the connection's extra as it is."""
    config = dict(connection(conn_id).extra_dejson)
    if not config.get("bootstrap.servers"):
        raise SettingsError(
            f"connection {conn_id!r} names no brokers",
            hint='its extra is librdkafka configuration: {"bootstrap.servers": "host:9092", …}.',
        )
    return config


def kubernetes_client(conn_id: str) -> ApiClient:
    """The official client, made by Airflow's own hook."""
    connection(conn_id)
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    return KubernetesHook(conn_id=conn_id).get_conn()


def cdn_access(conn_id: str, api: str) -> CdnAccess:
    """
    :param api: base address, unless the connection names a host of its own.
    :raises SettingsError: no token, or no zone.
    """
    from upkeep.incident.cdn import Access

    found = connection(conn_id)
    zone = str(found.extra_dejson.get("zone") or "")
    if not found.password or not zone.isalnum():
        raise SettingsError(
            f"connection {conn_id!r} has no {'zone' if found.password else 'token'}",
            hint='its password is an API token that may purge the cache, its extra {"zone": "the zone\'s id"}.',
        )
    return Access(found.host or api, zone, found.password)


def s3_client(conn_id: str) -> Any:
    """
    boto3's client for S3, made by the amazon provider's hook, with patience for a store that is busy for a moment.

    Bodies are not signed: hashing all of a backup a second time costs more than sending it. What arrived is compared
    when it is read back, and on the way by the checksum that boto3 adds wherever the store takes one.
    """
    connection(conn_id)
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from botocore.config import Config  # type: ignore[import-untyped]

    hook = S3Hook(conn_id)
    usual = hook.conn_config.botocore_config or Config()
    ours = Config(
        retries={"mode": "standard", "total_max_attempts": 6},
        connect_timeout=5,
        read_timeout=60,
        s3={"payload_signing_enabled": False, **(usual.s3 or {})},
    )
    return S3Hook(conn_id, config=usual.merge(ours)).get_conn()


def open_ledger() -> Ledger:
    """:raises LedgerError: it cannot be reached. :raises SettingsError: no connection ``upkeep_ledger``."""
    return Ledger(postgres_conninfo(LEDGER))


def run_of(context: Context, platform: str) -> Run:
    """Who is at work, with links for people."""
    ti: Any = context["ti"]
    return Run(
        platform=platform,
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=ti.map_index if ti.map_index is not None else -1,
        try_number=ti.try_number,
        log_url=getattr(ti, "log_url", None) or "",
        run_url=run_url(ti.dag_id, ti.run_id),
    )


def run_url(dag_id: str, run_id: str) -> str:
    from urllib.parse import quote

    return f"{settings().airflow_url}/dags/{quote(dag_id)}/runs/{quote(run_id)}"
