"""Each guard broken in turn refuses the drill, with the fact, its value and a cure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import run
from upkeep.drill import guards
from upkeep.drill.guards import Asked, GuardError
from upkeep.findings import Finding, Severity, judged
from upkeep.ledger import Ledger
from upkeep.platforms import Platform, read_all

NOW = datetime(2027, 1, 2, 6, 30, tzinfo=UTC)
"""In the quarterly window, which opens at five on the second."""

GOOD = Asked("production", approved_by="mira")


def platform(where: str = "production", **sections: Any) -> Platform:
    (ours,) = [one for one in read_all()[0] if one.name == "studyspot"]
    said = ours.model_dump(mode="json")
    said["recovery"]["drill"]["where"] = where
    for name, value in sections.items():
        said[name] = value
    return Platform.model_validate(said)


def verified(ledger: Ledger, at: datetime, state: str = "verified") -> None:
    with ledger.transaction() as connection:
        connection.execute("delete from backups")
        connection.execute(
            "insert into backups (platform, id, kind, engine, bucket, prefix, started_at, finished_at, bytes,"
            " manifest_sha256, dag_id, run_id, content_state, content_at) values ('studyspot', 'b1', 'database',"
            " 'dump', 'b', 'p', %s, %s, 1, repeat('0', 64), 'd', 'r', %s, %s)",
            [at, at, state, at],
        )


def found(ledger: Ledger, check: str, severity: Severity = Severity.P1) -> None:
    finding = Finding(check=check, object="o", severity=severity, summary="it is broken", hint="mend it")
    ledger.record(run(), [judged(check, severity, [finding], object="o")])


def refused(ledger: Ledger, asked: Asked = GOOD, of: Platform | None = None, now: datetime = NOW) -> list[str]:
    return [str(one) for one in guards.against(ledger, of or platform(), asked, now=now)]


@pytest.fixture
def well(ledger: Ledger) -> Ledger:
    """Nothing speaks against it."""
    verified(ledger, NOW - timedelta(hours=3))
    assert refused(ledger) == []
    return ledger


def incident(ledger: Ledger, **columns: Any) -> None:
    said = {
        "id": "studyspot-1",
        "platform": "studyspot",
        "key": "k",
        "severity": "P0",
        "title": "all is down",
        **columns,
    }
    names = ", ".join(said)
    with ledger.transaction() as connection:
        connection.execute(
            f"insert into incidents ({names}) values ({', '.join(['%s'] * len(said))})", list(said.values())
        )


@pytest.mark.parametrize(
    ("breaks", "asked", "says"),
    [
        (lambda ledger: None, Asked("production"), "nobody has said yes to a drill in production\nHINT: answer the"),
        (
            lambda ledger: None,
            Asked(
                "production", approved_by="mira", unhealthy="deployment studyspot/web: 1 of 2 replicas are available"
            ),
            "not everything is whole: deployment studyspot/web: 1 of 2 replicas are available\nHINT: mend",
        ),
        (
            lambda ledger: found(ledger, "redis_memory"),
            GOOD,
            "P1 studyspot/redis_memory/o is open: it is broken\nHINT:",
        ),
        (lambda ledger: found(ledger, "drill_restoration"), GOOD, "P1 studyspot/drill_restoration/o is open"),
        (lambda ledger: found(ledger, "drill_cleanup"), GOOD, "P1 studyspot/drill_cleanup/o is open"),
        (lambda ledger: incident(ledger), GOOD, "incident studyspot-1 (P0) is open: all is down\nHINT: close it first"),
        (
            lambda ledger: verified(ledger, NOW - timedelta(hours=25)),
            GOOD,
            "backup b1 was the last to be verified, on 01 Jan 2027 05:30 UTC; within 1d is asked for\nHINT: run the",
        ),
        (
            lambda ledger: verified(ledger, NOW, "broken"),
            GOOD,
            "no backup is verified, and one within 1d is asked for\nHINT: run the verification Dag",
        ),
    ],
    ids=lambda value: value.replace("\n", " ")[:40] if isinstance(value, str) else "",
)
def test_each_guard_refuses_by_itself(well: Ledger, breaks: Callable[[Ledger], None], asked: Asked, says: str) -> None:
    breaks(well)
    (said,) = refused(well, asked)
    assert said.startswith(says)


def test_outside_the_window_production_is_left_alone(well: Ledger) -> None:
    verified(well, NOW + timedelta(hours=6))
    (said,) = refused(well, now=NOW + timedelta(hours=7))
    assert said.startswith("the quarterly window is closed: it opened last on 02 Jan 2027 05:00 UTC for 8h\nHINT: wait")
    assert refused(well, now=NOW + timedelta(hours=6)) == []


def test_what_is_production_needs_the_files_word(well: Ledger) -> None:
    (said,) = refused(well, of=platform("staging"))
    assert said.startswith(
        "this is production, and `recovery.drill.where` is staging\nHINT: point the drill at staging"
    )


def test_staging_needs_neither_window_nor_yes_nor_backup(ledger: Ledger) -> None:
    later = NOW + timedelta(days=20)
    assert refused(ledger, Asked("staging"), platform("staging"), later) == []
    found(ledger, "redis_memory")
    assert len(refused(ledger, Asked("staging"), platform("staging"), later)) == 1


def test_what_only_a_drill_repairs_what_is_lesser_and_what_is_waived_do_not_refuse(well: Ledger) -> None:
    for check in ("drill_failover", "drill_application", "recovery_rto"):
        found(well, check)
    found(well, "redis_hit_rate", Severity.P2)
    incident(well, severity="P3")
    incident(well, id="studyspot-2", key="l", state="resolved")
    incident(well, id="studyspot-3", key="m", drill=True)
    assert refused(well) == []
    found(well, "redis_memory")
    assert len(refused(well)) == 1
    with well.transaction() as connection:
        connection.execute(
            "insert into waivers (platform, key, severity, summary, owner, reason, until)"
            " values ('studyspot', 'studyspot/redis_memory/o', 'P1', 's', 'jo', 'it is meant so',"
            " clock_timestamp() + interval '1 day')"
        )
    assert refused(well) == []


def test_all_that_speaks_against_it_is_said_at_once(ledger: Ledger) -> None:
    with pytest.raises(GuardError, match=r"(?s)nobody has said yes.*\(and 1 more: no backup is verified.*HINT: answer"):
        guards.refuse(ledger, platform(), Asked("production"), now=NOW)
    with pytest.raises(GuardError, match=r"studyspot has no recovery section.*\nHINT: add `recovery`"):
        guards.refuse(ledger, platform().model_copy(update={"recovery": None}), GOOD, now=NOW)
