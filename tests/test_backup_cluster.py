"""Base backups and the archive of the log: what was there comes back, to the newest point or to a given one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.backup_server import KEY
from tests.cluster_server import ClusterServer
from upkeep.backup import restoring
from upkeep.backup.physical import archive
from upkeep.backup.physical.archive import Target, UnrecoverableError
from upkeep.backup.physical.lsn import Gap, Segment, gaps
from upkeep.backup.physical.source import SourceError
from upkeep.platforms.database import Query

SERVER = ClusterServer

QUESTIONS = (Query(name="users", sql="select count(*) from users", at_least=2000),)


def test_what_was_there_comes_back_to_the_newest_point_and_to_any_other(server: ClusterServer) -> None:
    server.fill()
    key = KEY if server.version == 17 else None
    server.ship(key=key)
    base = server.take(key=key)
    assert base.cluster is not None
    assert (base.kind, base.engine, base.cluster.database) == ("cluster", "basebackup", "studyspot")
    server("insert into audit.log (said) values ('before')")
    server.ship(key=key)
    before = server.now()
    server("insert into audit.log (said) values ('after')")
    server.next_segment()
    server("drop table bookings")
    end = server.ship(key=key)
    assert server.look(base.id, key=key) == []
    assert archive.cluster(end.stretches[-1]).end == end.end
    if server.version == 17:
        with server.recovered(target=Target(time=before), key=key) as earlier:
            assert said(earlier.conninfo()) == ["before", "it was so"]
            assert there(earlier.conninfo(), "bookings")
            assert earlier.until is not None
            assert earlier.until <= before
        return
    with server.recovered(key=key) as newest:
        assert said(newest.conninfo()) == ["after", "before", "it was so"]
        assert not there(newest.conninfo(), "bookings")
        assert newest.until is not None
        assert newest.until > before
        assert newest.timeline == 2
        assert set(newest.seconds) >= {"find", "fetch", "verify", "replay"}
        assert restoring.ask(newest.conninfo(), QUESTIONS) == []


def said(conninfo: str) -> list[str]:
    import psycopg

    with psycopg.connect(conninfo) as connection:
        return [row[0] for row in connection.execute("select said from audit.log order by said")]


def there(conninfo: str, table: str) -> bool:
    import psycopg

    with psycopg.connect(conninfo) as connection:
        row = connection.execute("select to_regclass(%s) is not null", [table]).fetchone()
    return bool(row and row[0])


@pytest.mark.soak
def test_only_what_changed_since(seventeen: ClusterServer) -> None:
    seventeen.fill()
    seventeen.ship()
    full = seventeen.take()
    seventeen("insert into audit.log (said) values ('first')")
    first = seventeen.take(since=full)
    assert first.size < full.size / 2
    found = archive.look(seventeen.store, seventeen.prefix, "studyspot")
    assert [one.id for one in archive.chain(found, first)] == [full.id, first.id]
    seventeen("insert into audit.log (said) values ('second')")
    seventeen.ship()
    assert seventeen.look(first.id) == []
    with seventeen.recovered(first.id) as recovered:
        assert said(recovered.conninfo()) == ["first", "it was so", "second"]
        assert "combine" in recovered.seconds


def test_a_target_that_cannot_be_reached_is_refused_with_the_reason(seventeen: ClusterServer) -> None:
    seventeen.fill()
    begun = seventeen.now()
    seventeen.ship()
    base = seventeen.take()
    seventeen.ship()
    too_early, refused = Target(time=begun - timedelta(hours=1)), r"no base backup is older than .*; the oldest is of"
    with pytest.raises(UnrecoverableError, match=refused), seventeen.recovered(target=too_early):
        pass
    too_late = Target(time=seventeen.now() + timedelta(hours=1))
    with pytest.raises(UnrecoverableError, match=r"the log ends before "), seventeen.recovered(base.id, too_late):
        pass


def test_without_the_right_to_replicate_the_grant_and_the_line_are_named(seventeen: ClusterServer) -> None:
    seventeen.replication(on=False)
    try:
        with pytest.raises(SourceError, match=r"alter role upkeep replication;(.|\n)*host replication upkeep"):
            seventeen.take()
        assert list(seventeen.store.objects(seventeen.prefix)) == []
    finally:
        seventeen.replication(on=True)


SIZE = 16 * 1024 * 1024


def test_gaps_by_the_arithmetic_of_names() -> None:
    one = [Segment(1, number) for number in range(250, 260)]
    assert Segment(1, 256).name(SIZE) == "000000010000000100000000"
    assert Segment.of("000000010000000100000000", SIZE) == Segment(1, 256)
    assert gaps(one, one[0]) == []
    assert gaps(one[:3] + one[5:], one[0]) == [Gap(Segment(1, 253), Segment(1, 254))]
    assert gaps(one[2:], one[0]) == [Gap(Segment(1, 250), Segment(1, 251))]
    # A failover at 255: the new timeline begins with the segment in which the old one ended.
    two = [Segment(2, number) for number in range(255, 262)]
    assert gaps(one + two, one[0]) == []
    assert gaps(one[:5] + two, one[0]) == []
    assert gaps(one[:4] + two, one[0]) == [Gap(Segment(1, 254), Segment(1, 254))]
    # What the old primary wrote after it was left does not stand in for the new one's.
    assert gaps(one + two[:2] + two[3:], one[0]) == [Gap(Segment(2, 257), Segment(2, 257))]
