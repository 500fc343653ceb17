"""Letting go of backups: marked, then deleted; on a real bucket, with the ledger's word on each."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from sandbox.home import Home
from tests.backup_bucket import DAY, Bucket
from tests.conftest import run
from upkeep.backup import records
from upkeep.backup.manifest import folder
from upkeep.backup.retention.choose import NO_GENERATIONS, Rules
from upkeep.backup.retention.known import Place
from upkeep.backup.retention.wording import told
from upkeep.backup.retention.work import Job, Result, carry_out, plan_of
from upkeep.errors import SettingsError, StrainError
from upkeep.findings import Finding, Severity
from upkeep.ledger import Ledger

RULES = Rules(
    keep=30 * DAY,
    keep_verified=2,
    generations=NO_GENERATIONS,
    deleted_after=DAY,
    most_share=0.6,
    fresh=timedelta(hours=36),
)


@pytest.fixture
def bucket(home: Home, ledger: Ledger) -> Bucket:
    return Bucket(home, ledger, f"{uuid4().hex}/")


def job(bucket: Bucket, *, hours: float = 0, **rules: object) -> Job:
    """A run so many hours from now."""
    return Job(
        run=run(task="retention"),
        ledger=bucket.ledger,
        place=Place(bucket.platform, "database", bucket.store, bucket.prefix),
        rules=replace(RULES, **rules),  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC) + timedelta(hours=hours),
    )


def findings(job: Job, result: Result) -> dict[str, Finding]:
    return {f.check: f for outcome in told(job, result, Severity.P1) for f in outcome.findings}


def test_marked_first_and_deleted_a_day_later_with_the_plan_before_the_deed(bucket: Bucket) -> None:
    young, old = [bucket.make(n * DAY) for n in (0.1, 1, 2)], [bucket.make(n * DAY) for n in (31, 32)]
    dry = carry_out(job(bucket), dry_run=True)
    assert (dry.marked, [d.backup.id for d in dry.choice.going()]) == ([], old)
    first = carry_out(job(bucket))
    assert (first.marked, first.deleted) == (old, [])
    assert bucket.row(old[0])["marked_at"] is not None
    assert carry_out(job(bucket, hours=23)).deleted == []
    last = carry_out(job(bucket, hours=25))
    assert last.deleted == old
    assert findings(job(bucket), last) == {}
    assert [bucket.keys(id) for id in old] == [[], []]
    assert all(bucket.keys(id) == ["archive", "manifest.json", "roles"] for id in young)
    assert all(bucket.row(id)["deleted_at"] for id in old)
    plans = bucket.ledger.rows("select items, dry_run, created_at from plans order by created_at")
    assert [plan["dry_run"] for plan in plans] == [True, False, False, False]
    said = {item["id"]: item["why"] for item in plans[1]["items"]}
    assert said[young[0]] == "it is the newest"
    assert said[old[0]].startswith("it is 31 days old, past its 30 days, and no other rule keeps it; deleted after ")
    actions = bucket.ledger.rows("select verb, state, object, after, plan_id from actions order by id")
    assert [(row["verb"], row["state"]) for row in actions] == [("mark", "done")] * 2 + [("delete", "done")] * 2
    assert actions[2]["after"] == {"objects": 3, "bytes": pytest.approx(1000, abs=3000)}
    assert all(row["plan_id"] for row in actions)


def test_a_pin_after_the_mark_takes_it_away_and_one_at_the_last_moment_stops_the_deed(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in (0.1, 1, 2):
        bucket.make(n * DAY)
    pinned, late = bucket.make(31 * DAY), bucket.make(32 * DAY)
    carry_out(job(bucket))
    records.pin(bucket.ledger, bucket.platform, pinned, datetime.now(UTC) + 9 * DAY, "audit")
    monkeypatch.setattr(
        "upkeep.backup.retention.work.log.info",
        lambda text, *words: (
            records.hold(bucket.ledger, bucket.platform, late, True, "a case") if late in words else None
        ),
    )
    result = carry_out(job(bucket, hours=25))
    assert (result.unmarked, result.deleted) == ([pinned], [])
    assert bucket.row(pinned)["marked_at"] is None
    assert bucket.keys(late) == ["archive", "manifest.json", "roles"]
    skipped = bucket.ledger.rows("select reason from actions where state = 'skipped'")
    assert skipped == [{"reason": "somebody took the mark away, pinned it or put it on hold meanwhile"}]


def test_backups_that_stopped_keep_everything_and_say_so(bucket: Bucket) -> None:
    made = [bucket.make(n * DAY) for n in (40, 41, 80, 90)]
    result = carry_out(job(bucket))
    assert result.choice.going() == []
    assert "backups have stopped" in findings(job(bucket), result)["backup_retention"].summary
    assert all(bucket.keys(id) for id in made)


def test_beyond_the_cap_a_person_is_asked_and_only_what_they_saw_goes(bucket: Bucket) -> None:
    for n in (0.1, 1):
        bucket.make(n * DAY)
    old = [bucket.make(n * DAY) for n in (31, 32, 33, 34)]
    asked = carry_out(job(bucket))
    assert asked.marked == []
    finding = findings(job(bucket), asked)["backup_retention"]
    assert finding.summary == ("nothing more is deleted: 4 of 6 backups are past their time (67%), allowed are 60%")
    assert f"`approve_plan` = {asked.plan}" in finding.hint
    also = bucket.make(35 * DAY)
    with pytest.raises(SettingsError, match="no plan about backups of studyspot has the digest"):
        plan_of(bucket.ledger, bucket.platform, "0" * 64)
    yes = plan_of(bucket.ledger, bucket.platform, asked.plan)
    approved = carry_out(job(bucket, most_share=0.1), approved=yes)
    assert approved.marked == old, "what was not in the plan that they saw waits"
    # The yes lasts until the deed.
    assert carry_out(job(bucket, hours=25, most_share=0.1)).deleted == old
    assert bucket.keys(also)


def test_a_manifest_that_cannot_be_believed_or_is_gone_is_told_and_nothing_of_it_deleted(bucket: Bucket) -> None:
    for n in (0.1, 1, 2):
        bucket.make(n * DAY)
    changed, swapped, gone, forgotten = (bucket.make(n * DAY) for n in (31, 3, 4, 33))
    key = f"{folder(bucket.prefix, changed)}manifest.json"
    content = bucket.store.get(key, most=10**6) or b""
    bucket.store.put(key, content.replace(b'"studyspot"', b'"studyspot" '))
    bucket.store.put(f"{folder(bucket.prefix, swapped)}manifest.json", content)
    for id in (gone, forgotten):
        bucket.store.delete(f"{folder(bucket.prefix, id)}manifest.json")
    result = carry_out(job(bucket))
    finding = findings(job(bucket), result)["backup_manifests"]
    assert finding.severity == Severity.P1
    assert f"{changed}: s3://studyspot-backups/{key}: it is not the manifest that was written" in finding.summary
    assert "it is the manifest of another backup" in finding.summary
    assert (
        f"1 backup on record, never marked for deletion, and not below s3://studyspot-backups/{bucket.prefix}: {gone}"
        in (finding.summary)
    )
    assert result.choice.going() == []
    assert bucket.row(forgotten)["deleted_at"], "its time was over anyway"
    assert bucket.keys(changed) == ["archive", "manifest.json", "roles"]


def test_what_a_killed_backup_left_is_swept_after_its_time(bucket: Bucket) -> None:
    bucket.make(0.1 * DAY)
    left = folder(bucket.prefix, "20261101T010000Z-00c0ffee")
    bucket.store.put(f"{left}archive", b"half a dump")
    begun = replace(job(bucket, hours=24, fresh=9 * DAY), abandoned_after=2 * DAY)
    assert carry_out(begun).swept == []
    later = replace(job(bucket, hours=49, fresh=9 * DAY), abandoned_after=2 * DAY)
    assert carry_out(later).swept == ["20261101T010000Z-00c0ffee"]
    assert list(bucket.store.objects(left)) == []


def test_a_backup_that_the_ledger_never_heard_of_is_marked_and_deleted_too(bucket: Bucket) -> None:
    for n in (0.1, 1, 2):
        bucket.make(n * DAY)
    unknown = bucket.make(40 * DAY, on_record=False)
    assert carry_out(job(bucket)).marked == [unknown]
    assert carry_out(job(bucket, hours=25)).deleted == [unknown]


def test_two_runs_do_not_delete_side_by_side(bucket: Bucket, ledger_conninfo: str) -> None:
    name = "studyspot/backup_retention/database"
    with Ledger(ledger_conninfo) as other, other.exclusive(name), pytest.raises(StrainError):
        carry_out(job(bucket))
