"""A server with expired rows, for the tests of retention."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

import psycopg

from sandbox.home import Home
from sandbox.servers import postgres as servers
from sandbox.servers import s3
from tests.postgres_server import DATABASE, PostgresServer
from upkeep.platforms.database import Deletion, Retention, Table
from upkeep.postgres.session import Connection, connect
from upkeep.retention import deleting, work
from upkeep.retention import plan as planning
from upkeep.retention.archive import Archive
from upkeep.retention.items import Item

PLAN = "a" * 64
FAST = Deletion(rest=0, least_rows=100)


class Nobody:
    """No ledger: what is written down stays in the platform's database."""

    def tell(self, row: Mapping[str, Any]) -> None:
        pass

    def catch_up(self, connection: Connection) -> None:
        pass


class RetentionServer(PostgresServer):
    """Counts as the maintenance role, deletes as the owner role."""

    def __init__(self, home: Home, version: int, **how: Any) -> None:
        super().__init__(home, version, **how)
        self.superuser("alter role upkeep_owner set client_connection_check_interval = '1s'")
        self.deleter = servers.dsn(home, self.name, "upkeep_owner", DATABASE)

    def empty(self) -> Self:
        super().empty()
        self.superuser("truncate upkeep.retention, upkeep.deletions; drop function if exists slow")
        return self

    def plan(self, **rules: Retention) -> dict[str, Item]:
        """In the order of the plan, by ``schema.name``."""
        tables = [Table(name=name, retention=rule) for name, rule in rules.items()]
        with connect(self.conninfo, settings={"TimeZone": "UTC"}) as connection:
            return {item.table: item for item in planning.make(connection, tables, now=datetime.now(UTC))}

    def delete(self, item: Item, settings: Deletion = FAST, *, plan: str = PLAN, **how: Any) -> work.Result:
        how.setdefault("record", Nobody())
        return deleting.delete(self.deleter, item, settings, plan=plan, **how)

    def ids(self, table: str, where: str = "true") -> set[int]:
        return {row[0] for row in self(f"select id from {table} where {where}")}

    def recorded(self) -> int:
        """Rows that the local record says were deleted."""
        return int(self.superuser("select coalesce(sum(rows), 0) from upkeep.deletions")[0][0])

    def longest_wait(self, statement: str, times: int) -> float:
        """The longest time in seconds that an application's statement took."""
        with psycopg.connect(self.owner, autocommit=True) as connection:
            longest = 0.0
            for number in range(times):
                began = datetime.now(UTC)
                connection.execute(statement, [number])  # type: ignore[call-overload]
                longest = max(longest, (datetime.now(UTC) - began).total_seconds())
        return longest


def people(server: RetentionServer, users: int = 400, bookings: int = 4000) -> None:
    """Users of one a week for years back, and ten bookings a day: what is older than three years is a quarter."""
    server("create table users (id int primary key, status text not null, last_seen timestamptz)")
    server(
        "create table bookings (id int primary key, user_id int references users, made timestamptz, note text,"
        " paid numeric(9, 2))"
    )
    server(
        f"insert into users select i, 'inactive', now() - i * interval '7 days' from generate_series(1, {users}) as i"
    )
    server(
        f"insert into bookings select i, 1 + i % {users}, now() - i * interval '1460 days' / {bookings},"
        f" 'note ''\" ü ' || i, i / 7.0 from generate_series(1, {bookings}) as i"
    )
    server("create index on users (last_seen)")
    server("create index on bookings (made)")
    server("create index on bookings (user_id)")
    server("vacuum analyze users")
    server("vacuum analyze bookings")


BOOKINGS = Retention(column="made", keep="3y")  # type: ignore[arg-type]
USERS = Retention(column="last_seen", keep="7y", only="status = 'inactive'")  # type: ignore[arg-type]


def bucket(home: Home, name: str = "studyspot-backups") -> tuple[Any, str]:
    """boto3's client for the sandbox's S3 server, and a bucket."""
    import boto3
    from botocore.config import Config

    s3.start_s3(home)
    connection = s3.connection_to(home)
    client = boto3.client(
        "s3",
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
        endpoint_url=connection["extra"]["endpoint_url"],
        region_name="us-east-1",
        config=Config(**connection["extra"]["config_kwargs"]),
    )
    return client, name


def archived(archive: Archive) -> list[dict[str, Any]]:
    """The rows that an archive says were deleted: all but the kept ones."""
    rows = []
    listed = archive.client.list_objects_v2(Bucket=archive.bucket, Prefix=archive.prefix).get("Contents", [])
    for manifest in sorted(one["Key"] for one in listed if one["Key"].endswith(".json")):
        said = archive.manifest(manifest.removesuffix(".json"))
        body = archive.client.get_object(Bucket=archive.bucket, Key=manifest.removesuffix(".json") + ".jsonl.gz")[
            "Body"
        ].read()
        lines = gzip.decompress(body).splitlines()
        assert len(lines) == said["rows"]
        assert said["state"] == "deleted", manifest
        rows += [json.loads(line) for place, line in enumerate(lines) if place not in set(said["kept"])]
    return rows
