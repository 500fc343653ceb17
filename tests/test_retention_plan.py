"""The plan: what is due, in what order, what speaks against it, and when a person is asked."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from sandbox.home import REPOSITORY
from tests.retention_server import BOOKINGS, USERS, RetentionServer, people
from upkeep.errors import SettingsError
from upkeep.findings import Severity
from upkeep.ledger import Ledger
from upkeep.plan import Asked, Slot
from upkeep.platforms import Platform, platforms
from upkeep.platforms.database import Deletion, Retention
from upkeep.retention import cap, plan, statements, wording
from upkeep.retention.items import Item

SERVER = RetentionServer
DIGEST = "d" * 64


def test_every_question_runs_under_the_least_role_on_every_version(server: RetentionServer) -> None:
    people(server)
    values = {"tables": ["users"], "columns": ["last_seen"], "key_column": "made"}
    files = sorted((REPOSITORY / "include/sql/retention").glob("*.sql"))
    assert files
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        (oid,) = connection.execute("select 'users'::regclass::oid::bigint").fetchone() or (0,)
        for file in files:
            connection.execute(file.read_bytes(), {**values, "oid": oid})
    item = server.plan(users=USERS)["public.users"]
    with psycopg.connect(server.deleter, autocommit=True) as connection:
        assert connection.execute("select usesuper from pg_user where usename = current_user").fetchone() == (False,)
        for statement in (statements.claim(item, after=True, inclusive=False), statements.claim_versions(item)):
            connection.execute(
                statement,
                {"cut_off": item.cut_off, "rows": 5, "after_key": item.oldest, "after_tid": "(0,1)", "tids": [],
                 "xmins": []},
            )  # fmt: skip
    with psycopg.connect(server.conninfo, autocommit=True) as connection, pytest.raises(psycopg.errors.Error):
        connection.execute("insert into upkeep.retention (relation, plan, cut_off) values ('x', 'x', now())")


def test_the_plan_counts_and_stores_its_cut_off(server: RetentionServer) -> None:
    people(server)
    server("update bookings set note = 'held' where id > 3990")
    rule = BOOKINGS.model_copy(update={"hold": "note = 'held'"})
    item = server.plan(bookings=rule)["public.bookings"]
    expired = server.ids("bookings", "made < now() - interval '1098 days'")
    assert (item.due, item.held, item.rows) == (len(expired) - 10, 10, 4000)
    assert abs(datetime.fromisoformat(item.cut_off) + timedelta(days=1098) - datetime.now(UTC)) < timedelta(minutes=1)
    assert item.oldest is not None
    assert item.newest is not None
    assert item.oldest < item.newest < item.cut_off.replace("T", " ")
    assert 0 < item.bytes < server("select pg_total_relation_size('bookings')")[0][0]
    assert Item.from_dict(item.as_dict()) == item


def test_without_an_index_nothing_is_deleted_and_the_cure_cures(server: RetentionServer) -> None:
    server("create table log (id int primary key, made timestamptz)")
    server("insert into log select i, now() - interval '9 years' from generate_series(1, 10) as i")
    server("create index on log (id, made)")
    server("create index on log (made) where id > 5")
    item = server.plan(log=BOOKINGS)["public.log"]
    assert item.refused == "no index leads with made"
    (finding,) = wording.planned([item], DIGEST, approved=False)[0].findings
    assert finding.severity == Severity.P2
    assert finding.summary == "public.log: nothing can be deleted: no index leads with made"
    assert finding.hint == "as its owner: create index concurrently on public.log (made);"
    server(item.hint.removeprefix("as its owner: "))
    assert server.plan(log=BOOKINGS)["public.log"].due == 10


def test_foreign_keys_that_cascade_or_lack_an_index_are_warned_about(seventeen: RetentionServer) -> None:
    people(seventeen)
    seventeen("create table tokens (id int primary key, owner int references users on delete cascade)")
    items = seventeen.plan(users=USERS)
    (finding,) = wording.planned(list(items.values()), DIGEST, approved=False)[0].findings
    assert finding.severity == Severity.P3
    assert "tokens_owner_fkey of public.tokens has no index" in finding.summary
    assert "tokens_owner_fkey would delete rows of public.tokens, for which there is no yes" in finding.summary
    assert "create index concurrently on public.tokens (owner);" in finding.hint


def test_triggers_and_publications_are_noted(seventeen: RetentionServer) -> None:
    people(seventeen)
    seventeen("create function slow() returns trigger language plpgsql as $$ begin return old; end $$")
    seventeen("create trigger audit after delete on bookings for each row execute function slow()")
    seventeen("create trigger other after insert on bookings for each row execute function slow()")
    seventeen.superuser("create publication search for table bookings")
    try:
        notes = seventeen.plan(bookings=BOOKINGS)["public.bookings"].notes
    finally:
        seventeen.superuser("drop publication search")
    assert notes == [
        "trigger audit fires on each deleted row", "publication search sends the deletes to its subscribers",
    ]  # fmt: skip


def test_tables_that_refer_to_each_other_in_a_circle_have_an_order_all_the_same(seventeen: RetentionServer) -> None:
    seventeen("create table a (id int primary key, b int, made timestamptz)")
    seventeen("create table b (id int primary key, a int references a, made timestamptz)")
    seventeen("alter table a add foreign key (b) references b (id)")
    for name in "ab":
        seventeen(f"create index on {name} (made)")
    assert set(seventeen.plan(a=BOOKINGS, b=BOOKINGS)) == {"public.a", "public.b"}


@pytest.mark.parametrize(
    ("table", "column", "said"),
    [
        ("nowhere", "made", "no table 'nowhere' in the database"),
        ("users", "made", "table 'users' has no column 'made'"),
        ("users", "status", "users.status is a text, not a time"),
    ],
)
def test_a_rule_for_what_is_not_there_is_an_error_with_a_cure(
    seventeen: RetentionServer, table: str, column: str, said: str
) -> None:
    people(seventeen, 10, 10)
    with pytest.raises(SettingsError, match=rf"{said}\nHINT: correct `postgres.tables` in the platform file."):
        seventeen.plan(**{table: Retention(column=column, keep="3y")})  # type: ignore[arg-type]


def item(due: int, rows: int = 100_000, rule: str = "bookings") -> Item:
    return Item(
        table=f"public.{rule}", schema="public", name=rule, rule=rule, column="made", due=due, rows=rows,
        type="timestamp with time zone", cut_off="2023-01-01T00:00:00+00:00",
    )  # fmt: skip


def judged(ledger: Ledger, *items: Item, now: datetime | None = None) -> list[str]:
    cap.judge(items, Deletion(), ledger, "studyspot", now or datetime.now(UTC))
    return [one.beyond for one in items]


def test_more_than_half_of_a_table_is_beyond_the_standing_yes(ledger: Ledger) -> None:
    (said,) = judged(ledger, item(50_001))
    assert said == "50,001 of 100,000 rows are due (50%), allowed are 50%"
    assert judged(ledger, item(50_000)) == [""]
    assert judged(ledger, item(0, rows=0)) == [""]
    assert all(judged(ledger, item(900, rows=1000), item(800, rows=1000))), "partitions count together"
    one = item(50_001)
    judged(ledger, one)
    (finding,) = wording.planned([one], DIGEST, approved=False)[0].findings
    assert finding.severity == Severity.P2
    assert f"`approve_plan` = {DIGEST}" in finding.hint
    assert wording.planned([one], DIGEST, approved=True)[0].state == "ok"


def test_more_than_three_times_the_usual_is_beyond_it_too(ledger: Ledger) -> None:
    now = datetime.now(UTC)
    for months in (4, 3):
        cap.remember(ledger, "studyspot", "bookings", 5000, 10.0, now - timedelta(days=30 * months))
    assert judged(ledger, item(20_000)) == [""], "two runs are no habit"
    cap.remember(ledger, "studyspot", "bookings", 5000, 10.0, now - timedelta(days=60))
    cap.remember(ledger, "studyspot", "bookings", 5000, 10.0, now - timedelta(days=30))
    assert judged(ledger, item(14_000)) == [""]
    assert judged(ledger, item(20_000)) == ["20,000 rows are due, usual are 5,000 (allowed 3 times that)"]
    later = now + timedelta(days=60)
    assert judged(ledger, item(20_000), now=later) == [""], "after three months without a run, three months are due"
    one = item(10_000)
    judged(ledger, one)
    assert one.seconds == 20.0


def test_the_coming_window_is_foretold(seventeen: RetentionServer, ledger: Ledger) -> None:
    people(seventeen)
    (studyspot,) = [platform for platform in platforms() if platform.name == "studyspot"]
    section = studyspot.postgres
    assert section is not None
    tables = [table.model_copy(update={"retention": BOOKINGS}) for table in section.tables if table.name == "bookings"]
    subject: Platform = studyspot.model_copy(update={"postgres": section.model_copy(update={"tables": tuple(tables)})})
    slot = Slot("monthly", datetime.now(UTC) + timedelta(days=3), timedelta(hours=6))
    asked = Asked(platform=subject, slots=[slot], maintenance=seventeen.conninfo, owner="", ledger=ledger)
    (planned,) = plan.coming(asked)
    assert (planned.object, planned.act, planned.left_out) == ("public.bookings", "DELETE in small transactions", "")
    assert re.match(r"[\d,]+ of 4,000 rows are older than 20\d\d-", planned.because)
    assert plan.coming(Asked(platform=subject, slots=[], maintenance="", owner="", ledger=None)) == []
