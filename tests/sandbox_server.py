"""The sandbox's PostgreSQL, Redis and S3 as Airflow reaches them, for the tests of the sandbox itself."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import boto3
import psycopg
import redis
from botocore.config import Config

from sandbox import __main__ as sandbox
from sandbox.home import Home
from sandbox.servers import SERVERS, postgres

PRIMARY = "postgres.studyspot"
MINE = [name for name in SERVERS if name.startswith(("postgres.", "redis.")) or name == "s3"]


def new_home() -> Home:
    # Unix sockets have room for 107 characters, so not below pytest's own directories.
    return Home(Path(tempfile.mkdtemp(prefix="up-", dir="/tmp")))


def remove(home: Home) -> None:
    sandbox.down(home)
    for name in list(home.state().get("facts", {})):
        # Where user namespaces are forbidden, data lies outside the sandbox's directory.
        if "data" in (facts := home.facts(name)):
            base = Path(facts["data"]).parent.parent
            shutil.rmtree(base if base != home.path else Path(facts["data"]), ignore_errors=True)
    shutil.rmtree(home.path, ignore_errors=True)


def published(home: Home, conn_id: str) -> dict:
    return home.state()["connections"][conn_id]


def connect(home: Home, conn_id: str) -> psycopg.Connection:
    """As Airflow would, through the published connection."""
    connection = published(home, conn_id)
    return psycopg.connect(
        host=connection["host"],
        port=connection["port"],
        user=connection["login"],
        password=connection["password"],
        dbname=connection["schema"],
        autocommit=True,
        **connection["extra"],
    )


def row(home: Home, question: str, server: str = PRIMARY, database: str = "studyspot") -> tuple:
    with postgres.superuser(home, server, database) as connection:
        return connection.execute(question).fetchone()


def cache(home: Home, conn_id: str = "studyspot_redis") -> redis.Redis:
    connection = published(home, conn_id)
    return redis.Redis(
        host=connection["host"],
        port=connection["port"],
        password=connection["password"],
        db=connection["extra"]["db"],
        retry=None,
    )


def bucket_client(home: Home, conn_id: str = "studyspot_s3", **changed: str):
    connection = published(home, conn_id)
    extra = connection["extra"]
    return boto3.client(
        "s3",
        aws_access_key_id=connection["login"],
        aws_secret_access_key=changed.get("password", connection["password"]),
        endpoint_url=extra["endpoint_url"],
        region_name=extra["region_name"],
        config=Config(**extra["config_kwargs"], retries={"total_max_attempts": 1}),
    )


def streaming(home: Home) -> bool:
    return row(home, "select count(*) from pg_stat_replication where state = 'streaming'") == (1,)
