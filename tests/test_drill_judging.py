"""What a drill came to, against what is promised, now and soon; and its page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.conftest import run
from tests.test_drill_guards import platform
from upkeep.drill import judging, page, record
from upkeep.drill.record import Drill, Phase
from upkeep.findings import Outcome
from upkeep.ledger import Ledger

NOW = datetime(2027, 1, 2, 6, 0, tzinfo=UTC)


def drill(act: Any = "restoration", scenario: str = "newest", **how: Any) -> Drill:
    made = Drill(None, 7, "studyspot", act, scenario, "staging", NOW)  # type: ignore[arg-type]
    made.verdicts = {"act": "passed", "validation": "passed", "cleanup": "passed"}
    for name, value in how.items():
        setattr(made, name, value)
    return made


def past(*times: tuple[float, float, int]) -> list[dict[str, Any]]:
    """Days ago, seconds, bytes."""
    return [
        {
            "id": number, "started_at": datetime.now(UTC) - timedelta(days=days), "rto_s": seconds, "rpo_s": 60.0,
            "rto_target_s": 7200.0, "rpo_target_s": 86400.0, "source_bytes": size,
        }
        for number, (days, seconds, size) in enumerate(times)
    ]  # fmt: skip


def told(found: list[Outcome]) -> dict[str, str]:
    return {one.check: one.findings[0].summary if one.findings else one.state for one in found}


def judge(made: Drill, history: list[dict[str, Any]] | None = None) -> dict[str, str]:
    recovery = platform().recovery
    assert recovery is not None
    return told(judging.outcomes(made, recovery, history or []))


def test_a_drill_that_went_well_is_ok_everywhere() -> None:
    said = judge(drill(rto_s=60.0, rpo_s=3600.0))
    assert set(said.values()) == {"ok"}
    assert set(said) == {"drill_restoration", "drill_cleanup", "recovery_rto", "recovery_rpo", "recovery_forecast"}


def test_missed_promises_are_told_with_their_numbers() -> None:
    said = judge(drill(rto_s=9000.0, rpo_s=3 * 86400.0))
    assert said["recovery_rto"] == "recovery took 2 h 30 min, and 2 h is promised"
    assert said["recovery_rpo"] == "3 d of data would have been lost, and 1 d is promised"


def test_one_that_was_not_done_is_unknown_and_one_that_left_something_says_so() -> None:
    unsaid = drill(verdicts={"act": "unknown", "validation": "unknown", "cleanup": "passed"}, reason="no server here")
    assert judge(unsaid) == {"drill_restoration": "unknown", "drill_cleanup": "ok"}
    left = drill(verdicts={"act": "passed", "validation": "passed", "cleanup": "failed"}, reason="two has 5 replicas")
    assert judge(left)["drill_cleanup"] == "drill 7 left something behind: two has 5 replicas"
    broken = drill(verdicts={"act": "failed", "validation": "unknown", "cleanup": "passed"}, reason="it was cut off")
    assert judge(broken)["drill_restoration"] == "drill 7 (newest) failed: it was cut off"


def test_a_promise_that_growth_will_break_is_told_before_it_is_broken() -> None:
    growing = past(*((270 - 90 * n, 3000 + 1200 * n, 10**9 * (10 + 4 * n)) for n in range(4)))
    said = judge(drill(rto_s=6600.0), growing)["recovery_forecast"]
    assert "more each quarter: the promised 2 h will be missed about" in said
    assert judge(drill(rto_s=60.0), past((270, 60, 10), (180, 60, 10), (90, 60, 10)))["recovery_forecast"] == "ok"
    # One slow drill is no trend, and three on one day say nothing about days.
    spike = past((360, 60, 0), (270, 60, 0), (180, 6000, 0), (90, 60, 0), (0, 61, 0))
    assert judge(drill(rto_s=61.0), spike)["recovery_forecast"] == "ok"
    assert judging.trend(past((0, 1, 0), (0.1, 500, 0), (0.2, 1000, 0))) is None


def test_history_is_of_its_own_kind_and_oldest_first(ledger: Ledger) -> None:
    for act, scenario, rto_s in (
        ("failover", "kill", 1.0),
        ("failover", "kill", 2.0),
        ("failover", "switchover", 3.0),
        ("failover", "kill", None),
    ):
        one = record.begin(ledger, run(), act, scenario, "staging", rto_s=60, rpo_s=60)  # type: ignore[arg-type]
        one.rto_s = rto_s
        one.save(over=True)
    assert [row["rto_s"] for row in record.history(ledger, "studyspot", "failover", "kill")] == [1.0, 2.0]
    assert record.history(ledger, "studyspot", "failover", "kill", most=1)[0]["rto_s"] == 2.0


def test_what_others_wrote_cannot_break_the_page() -> None:
    evil = "<script>alert('x')</script>"
    made = drill(
        reason=evil, phases=[Phase("decide", NOW, 0.0), Phase(evil, NOW, 4.0)],
        facts={"deviations": [evil], "faults": [["rows", evil]], "used": {"backup": evil, "proof": "", "target": evil}},
        verdicts={"act": "failed", "validation": "unknown", "cleanup": "passed"},
    )  # fmt: skip
    ours = platform()
    assert ours.recovery is not None
    found = judging.outcomes(made, ours.recovery, [])
    html = page.render(made, ours, found, [], actor=evil, now=NOW).decode()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "studyspot-platform, until 2027-01-02 14:00:00 UTC" in html, "owner, and the time that P1 gives"


def test_an_empty_drill_and_a_long_history_have_a_page() -> None:
    ours = platform()
    empty = drill(verdicts={"act": "pending", "validation": "pending", "cleanup": "pending"})
    assert b"It ended before its first step" in page.render(empty, ours, [], [], actor="", now=NOW)
    long = past(*((900 - n, float(n % 7), 10) for n in range(500)))
    assert len(page.render(drill(rto_s=1.0), ours, [], long, actor="jo", now=NOW)) < 200_000
