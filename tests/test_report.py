"""The report against a real ledger: what one run saw, did and told is on the page, and nothing else can get onto it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import psycopg
import pytest

from sandbox.home import Home
from tests.conftest import run
from upkeep.errors import LedgerError
from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.ledger import Change, Ledger
from upkeep.ledger.migrate import migrate
from upkeep.ledger.outbox import Message, NotDelivered, deliver
from upkeep.platforms import Platform
from upkeep.report import wording
from upkeep.report.gather import freed, gather
from upkeep.report.model import Report
from upkeep.report.render import render_html, render_json, summary_text

MIB = 1024 * 1024
NIGHT = run(14)
"""The run that is reported on."""

LEVELS = {
    "P0": {"name": "P1 Critical", "respond": "15m", "resolve": "1h"},
    "P1": {"name": "P2 High", "respond": "30m", "resolve": "4h"},
    "P2": {"name": "P3 Medium", "respond": "4h", "resolve": "1d"},
    "P3": {"name": "P4 Low", "respond": "1d", "resolve": "7d"},
}


def studyspot(**sections: Any) -> Platform:
    return Platform.model_validate(
        {"name": "studyspot", "title": "StudySpot", "severity": {"levels": LEVELS}, **sections}
    )


SERVICES: dict[str, Any] = {
    "http": {
        "endpoints": [
            {"name": "api", "url": "https://api.studyspot.com/health"},
            {"name": "web", "url": "https://studyspot.com/"},
        ]
    },
    "postgres": {},
    "redis": {},
}


def messages(change: Change) -> list[Message]:
    if change.finding.severity.rank > 2:
        return []
    return [
        Message(
            key=change.key,
            platform="studyspot",
            channel=channel,
            event="resolve" if change.event == "resolved" else "trigger",
            severity=change.finding.severity.value,
            payload={"summary": change.finding.summary},
        )
        for channel in ("pagerduty", "slack")
    ]


def slack_is_down(message: Message) -> str:
    if message.channel == "slack":
        raise NotDelivered("503 Service Unavailable")
    return "202 Accepted"


def finding(check: str, severity: Severity, summary: str, hint: str = "look", **more: Any) -> Finding:
    return Finding(check=check, severity=severity, summary=summary, hint=hint, **more)


def memory(used: int = 62) -> Outcome:
    found = finding(
        "redis_memory",
        Severity.P0,
        f"{used} of 64 MiB in use (97 %)",
        "list the largest keys with `redis-cli --bigkeys`; cache keys may be cleared by the on-request Dag.",
        facts={"used_bytes": used * MIB, "maxmemory_bytes": 64 * MIB, "share": used / 64, "clients": 12},
    )
    return judged("redis_memory", Severity.P0, [found], used_bytes=used * MIB, maxmemory_bytes=64 * MIB)


def idle() -> Outcome:
    found = finding(
        "postgres_idle_in_transaction",
        Severity.P2,
        "idle in a transaction for 6 min 12 s, 3 sessions wait for it",
        "ask the owner of the session; it may be ended with pg_terminate_backend.",
        object="booking-worker",
        facts={"seconds": 372, "waiting": 3},
    )
    return judged("postgres_idle_in_transaction", Severity.P2, [found])


def busy_night(ledger: Ledger, run_id: str = NIGHT.run_id) -> None:
    """Findings old and new, one repaired, tables vacuumed, logs removed, messages delivered and not."""
    night, logs, vacuum = (replace(run(14, task=task), run_id=run_id) for task in ("health", "logs", "vacuum"))
    earlier = run(13)
    broken = finding("http", Severity.P0, "answered 500 after 0.2 s", object="web")
    ledger.record(earlier, [judged("http", Severity.P0, [broken], object="web"), memory(58)], messages)
    deliver(ledger, lambda message: "202 Accepted")
    ledger.record(
        night,
        [
            ok("http", Severity.P0, object="api", status=200, seconds=0.118),
            ok("http", Severity.P0, object="web", status=200, seconds=0.231),
            ok("tls", Severity.P1, object="api", days_left=61),
            memory(),
            unknown("redis_hit_rate", Severity.P3, "only 14 reads since the last look"),
            ok("postgres_connect", Severity.P0, seconds=0.004, version="17.10"),
            ok("postgres_replication", Severity.P1, standbys=1, lag_s=0.2),
            idle(),
        ],
        messages,
    )
    deliver(ledger, slack_is_down)
    plan = ledger.plan(logs, "logs", [{"path": f"/var/log/studyspot/app.{n}.log", "bytes": MIB} for n in range(13)])
    due = {"files": 13, "bytes": 13 * MIB}
    with ledger.action(logs, "logs", "delete", "/var/log/studyspot", plan=plan, before=due) as action:
        action.after = {"files": 12, "bytes": 13_002_342, "left": {"in use": 1}, "examples": {"in use": ["app.7.log"]}}
    for number, table in enumerate(["bookings", "seats", "users"], 1):
        before = {"dead_rows": 41_200 * number, "bytes": 96 * MIB * number, "arm": "vacuum", "score": 4.2}
        with ledger.action(vacuum, "postgres", "vacuum", f"public.{table}", before=before) as action:
            action.after = {"dead_rows": 0, "bytes": 96 * MIB * number - 4 * MIB, "arm": "vacuum", "wal_bytes": MIB}
    with ledger.action(vacuum, "postgres", "vacuum", "public.libraries", before={"dead_rows": 900}) as action:
        action.skip("locked by another session for 2 s")
    now = datetime.now(UTC)
    for hours in range(24 * 29):
        ledger.sample(
            "studyspot",
            {("redis_used_bytes", ""): 62 * MIB - hours * 48_000, ("postgres_connections", ""): 12 + hours % 24},
            now - timedelta(hours=hours),
        )


def report_of(ledger: Ledger, platform: Platform | None = None, **more: Any) -> Report:
    return gather(ledger, platform or studyspot(**SERVICES), NIGHT.dag_id, NIGHT.run_id, **more)


@pytest.fixture(scope="module")
def night(control: Home) -> Iterator[Ledger]:
    """The ledger after the busy night, for tests that only read."""
    superuser = control.facts("postgres.control")["superuser_dsn"]
    conninfo = psycopg.conninfo.make_conninfo(superuser, dbname="busy_night")
    with psycopg.connect(superuser, autocommit=True) as server:
        server.execute("create database busy_night")
        migrate(conninfo)
        with Ledger(conninfo) as opened:
            busy_night(opened)
            yield opened
        server.execute("drop database busy_night with (force)")


class Page(HTMLParser):
    """The page as a browser reads it: its elements, and its text."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(report: Report) -> Page:
    page = Page(render_html(report))
    assert page.open == []
    return page


def test_the_verdict_says_it_all_in_one_sentence_with_its_numbers(night: Ledger) -> None:
    report = report_of(night)
    assert report.verdict == "findings"
    assert report.headline == "2 findings, worst P1 Critical"
    assert report.sentence == (
        "2 findings, worst P1 Critical; 1 check could not look; 5 checks ok; 1 finding repaired;"
        " 12.4 MiB of logs deleted, 3 tables vacuumed"
    )


def test_open_findings_come_worst_first_with_their_age_their_hint_and_the_platforms_own_word(night: Ledger) -> None:
    first, second, third = report_of(night).findings
    assert (first.key, first.level.name, first.level.severity) == ("studyspot/redis_memory", "P1 Critical", "P0")
    assert first.looks == 2
    assert first.event == ""
    assert first.respond_by == first.opened_at + timedelta(minutes=15)
    assert first.facts["used_bytes"] == 62 * MIB
    assert (second.check, second.event) == ("postgres_idle_in_transaction", "opened")
    assert (third.check, third.kind) == ("redis_hit_rate", "unknown")


def test_a_finding_of_another_run_is_shown_and_said_to_be_that(ledger: Ledger) -> None:
    other = run(3)
    ledger.record(other, [judged("kafka_lag", Severity.P1, [finding("kafka_lag", Severity.P1, "12 000 behind")])])
    ledger.record(NIGHT, [ok("redis_memory", Severity.P1)])
    report = report_of(ledger, studyspot(redis={}))
    assert [f.seen_by_run for f in report.findings] == [False]
    assert report.verdict == "findings"
    assert "this run did not see it itself" in page_of(report).text


def test_what_this_run_found_repaired_is_shown_once_and_not_as_open(night: Ledger) -> None:
    report = report_of(night)
    assert [(was.check, was.object, was.summary) for was in report.resolved] == [
        ("http", "web", "answered 500 after 0.2 s")
    ]
    assert "http" not in [f.check for f in report.findings]


def test_actions_are_shown_with_before_after_seconds_and_bytes(night: Ledger) -> None:
    deeds = {deed.object: deed for deed in report_of(night).actions}
    assert deeds["public.users"].bytes == 4 * MIB
    assert deeds["/var/log/studyspot"].bytes == 13_002_342
    assert deeds["public.libraries"].state == "skipped"
    assert deeds["public.users"].seconds is not None
    page = page_of(report_of(night))
    assert "dead rows 123,600 → 0" in page.text
    assert "locked by another session for 2 s" in page.text
    assert "12.4 MiB" in page.text


def test_plans_are_shown_with_their_digest_and_how_much_of_them_was_begun(night: Ledger) -> None:
    (plan,) = report_of(night).plans
    assert (plan.items_total, len(plan.items), plan.dry_run, plan.actions_begun) == (13, 13, False, 1)
    assert plan.digest in page_of(report_of(night)).text


def test_a_dry_run_is_never_counted_as_done(ledger: Ledger) -> None:
    task = run(14, task="logs")
    plan = ledger.plan(task, "logs", [{"path": "/var/log/a"}], dry_run=True)
    with ledger.action(task, "logs", "remove", "/var/log", plan=plan) as action:
        action.after = {"bytes_freed": MIB}
    report = report_of(ledger, studyspot())
    assert "1.0 MiB of logs removed (dry run)" in report.sentence
    assert "dry run" in page_of(report).text


def test_who_was_told_is_shown_with_what_has_not_arrived(night: Ledger) -> None:
    told = [(m.key, m.channel, m.event, m.state) for m in report_of(night).told]
    assert ("studyspot/http/web", "pagerduty", "resolve", "delivered") in told
    assert ("studyspot/postgres_idle_in_transaction/booking-worker", "pagerduty", "trigger", "delivered") in told
    assert ("studyspot/postgres_idle_in_transaction/booking-worker", "slack", "trigger", "pending") in told
    assert "503 Service Unavailable" in page_of(report_of(night)).text
    # What an earlier run opened was told by that run.
    assert ("studyspot/http/web", "pagerduty", "trigger", "delivered") not in told


def test_measurements_of_thirty_days_become_lines_of_at_most_61_points(night: Ledger) -> None:
    trends = {trend.metric: trend for trend in report_of(night).trends}
    assert trends["postgres_connections"].samples == 24 * 29
    assert 50 <= len(trends["redis_used_bytes"].points) <= 61
    assert trends["redis_used_bytes"].last == pytest.approx(62 * MIB)
    assert [part for part, _ in trends["redis_used_bytes"].points] == sorted(
        part for part, _ in trends["redis_used_bytes"].points
    )
    assert trends["postgres_connections"].least == 12
    assert trends["postgres_connections"].most == 35


def test_numbers_that_are_none_do_not_spoil_the_report(ledger: Ledger) -> None:
    now = datetime.now(UTC)
    for number, value in enumerate([1.0, float("nan"), float("inf"), 3.0]):
        ledger.sample("studyspot", {("lag_s", "a"): value}, now - timedelta(minutes=number))
    (trend,) = report_of(ledger).trends
    assert (trend.least, trend.most, trend.samples) == (1.0, 3.0, 2)
    render_json(report_of(ledger))


# -- absence is evidence of nothing ------------------------------------------------------------------------


def test_a_section_of_the_platform_file_that_left_no_outcome_is_a_gap_and_the_run_is_not_ok(ledger: Ledger) -> None:
    ledger.record(NIGHT, [ok("http", Severity.P0, object="api"), ok("http", Severity.P0, object="web")])
    report = report_of(ledger)
    assert report.verdict == "unknown"
    assert [gap.what for gap in report.gaps] == ["postgres", "redis"]
    assert "2 gaps" in report.sentence
    assert "absence is evidence of nothing" in page_of(report).text


def test_an_endpoint_that_no_check_looked_at_is_a_gap(ledger: Ledger) -> None:
    ledger.record(NIGHT, [ok("http", Severity.P0, object="api")])
    report = report_of(ledger, studyspot(http=SERVICES["http"]))
    assert [gap.what for gap in report.gaps] == ["http web"]


def test_a_check_made_last_time_and_not_now_is_a_gap(ledger: Ledger) -> None:
    ledger.record(run(13), [ok("redis_memory", Severity.P0), ok("redis_hit_rate", Severity.P3)])
    ledger.record(NIGHT, [ok("redis_memory", Severity.P0)])
    report = report_of(ledger, studyspot(redis={}))
    assert [gap.what for gap in report.gaps] == ["redis_hit_rate"]
    assert report.verdict == "unknown"


def test_a_check_of_a_table_that_needs_nothing_today_is_no_gap(ledger: Ledger) -> None:
    whole = ok("postgres_connect", Severity.P0)
    ledger.record(run(13), [whole, ok("postgres_vacuum", Severity.P2, object="public.users")])
    ledger.record(NIGHT, [whole])
    report = report_of(ledger, studyspot(postgres={}))
    assert (report.gaps, report.verdict) == ((), "ok")


def test_work_is_called_what_was_done_and_a_deletion_of_nothing_is_not_mentioned(ledger: Ledger) -> None:
    task = run(14, task="vacuum")
    for table, arm in (("a", "vacuum"), ("b", "analyze"), ("c", "freeze"), ("d", "vacuum")):
        with ledger.action(task, "postgres", "vacuum", table, before={"arm": arm}) as action:
            action.after = {"arm": arm}
    for files in (0, 3):
        with ledger.action(run(14, task="logs"), "logs", "delete", f"/var/log/{files}") as action:
            action.after = {"files": files, "bytes": 0}
    said = report_of(ledger, studyspot()).sentence
    assert said.endswith("2 tables vacuumed, 1 table analyzed, 1 table frozen, 3 items of logs deleted")


def test_a_dag_is_only_asked_for_the_sections_it_looks_after(ledger: Ledger) -> None:
    ledger.record(NIGHT, [ok("redis_memory", Severity.P0)])
    assert report_of(ledger, sections=["redis"]).gaps == ()
    assert report_of(ledger, sections=["redis"]).verdict == "ok"


def test_a_run_that_left_no_trace_at_all_is_unknown(ledger: Ledger) -> None:
    report = report_of(ledger, studyspot())
    assert (report.verdict, report.began_at) == ("unknown", None)
    assert "the run left no trace" in report.headline
    page_of(report)


def test_a_task_that_failed_without_a_finding_makes_the_run_failed(ledger: Ledger) -> None:
    ledger.record(NIGHT, [ok("redis_memory", Severity.P0)])
    report = report_of(
        ledger, studyspot(redis={}), states={"health": "success", "vacuum[2]": "failed", "logs": "upstream_failed"}
    )
    assert report.verdict == "failed"
    assert report.headline == "1 task failed"
    assert [gap.what for gap in report.gaps] == ["task logs", "task vacuum[2]"]


def test_a_task_that_is_red_because_of_its_findings_did_its_work(ledger: Ledger) -> None:
    ledger.record(NIGHT, [memory()])
    report = report_of(ledger, studyspot(redis={}), states={"health": "failed", "watcher": "failed"})
    assert report.verdict == "findings"
    assert report.gaps == ()


def test_an_action_that_was_killed_or_failed_makes_the_run_failed_until_a_later_try_ends_well(ledger: Ledger) -> None:
    task = run(14, task="vacuum")
    with pytest.raises(RuntimeError), ledger.action(task, "postgres", "vacuum", "public.users"):
        raise RuntimeError("canceling statement due to lock timeout")
    report = report_of(ledger, studyspot())
    assert report.verdict == "failed"
    assert "1 action failed" in report.sentence
    assert "RuntimeError: canceling statement due to lock timeout" in page_of(report).text
    with ledger.action(task, "postgres", "vacuum", "public.users") as action:
        action.after = {"dead_tuples": 0}
    assert report_of(ledger, studyspot()).verdict == "ok"


def test_a_check_that_looked_twice_counts_with_its_last_look(ledger: Ledger) -> None:
    ledger.record(NIGHT, [memory()])
    ledger.record(NIGHT, [ok("redis_memory", Severity.P0)])
    (check,) = report_of(ledger, studyspot(redis={})).checks
    assert (check.state, check.looks) == ("ok", 2)


def test_an_unknown_that_another_finding_explains_is_shown_with_it_and_counted_no_second_time(ledger: Ledger) -> None:
    down = finding("postgres_connect", Severity.P0, "connection refused")
    ledger.record(
        NIGHT,
        [
            judged("postgres_connect", Severity.P0, [down]),
            unknown("postgres_replication", Severity.P1, "not connected", explained_by="postgres_connect"),
        ],
    )
    report = report_of(ledger, studyspot(postgres={}))
    assert "could not look" not in report.sentence
    assert "because of postgres_connect" in page_of(report).text.replace("( ", "(")


# -- what others wrote ---------------------------------------------------------------------------------------

HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>\n🧨\x1b[31m &amp;"


def hostile_night(ledger: Ledger) -> None:
    found = finding("redis_memory", Severity.P0, HOSTILE, HOSTILE, object=HOSTILE, facts={HOSTILE: HOSTILE})
    ledger.record(
        NIGHT, [judged("redis_memory", Severity.P0, [found], object=HOSTILE, deep={"a": [HOSTILE]})], messages
    )
    deliver(ledger, lambda message: HOSTILE)
    task = run(14, task="logs")
    plan = ledger.plan(task, "logs", [{"path": HOSTILE}, HOSTILE])  # type: ignore[list-item]
    with ledger.action(task, "logs", "remove", HOSTILE, plan=plan, before={HOSTILE: HOSTILE}) as action:
        action.after = {HOSTILE: HOSTILE}
        action.skip(HOSTILE)
    ledger.sample("studyspot", {("lag_s", HOSTILE): 1.0})


def test_names_with_markup_quotes_emoji_and_control_characters_stay_text(ledger: Ledger) -> None:
    hostile_night(ledger)
    platform = studyspot(redis={}).model_copy(update={"title": HOSTILE})
    report = report_of(ledger, platform, states={HOSTILE: "failed"})
    content = render_html(report)
    page = Page(content)
    assert not [tag for tag, _ in page.elements if tag in ("script", "img")]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<script>alert('x')</script>" in page.text
    assert "🧨" in page.text
    assert b"\x1b" not in content


def test_the_page_asks_for_nothing_from_outside(night: Ledger) -> None:
    page = page_of(report_of(night))
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for tag, attributes in page.elements:
        assert "src" not in attributes
        if tag == "link":
            assert (attributes["href"] or "").startswith("data:")
    assert b"@import" not in render_html(report_of(night))
    assert b"url(" not in render_html(report_of(night))


def test_facts_of_a_megabyte_are_cut_and_say_so(ledger: Ledger) -> None:
    found = finding("redis_memory", Severity.P1, "x" * 1_000_000, facts={"dump": "y" * 1_000_000})
    many = {f"key{n}": "z" * 1000 for n in range(3000)}
    ledger.record(NIGHT, [judged("redis_memory", Severity.P1, [found], all=many, list=list(range(100_000)))])
    report = report_of(ledger, studyspot(redis={}))
    assert len(render_html(report)) < 200_000
    assert len(render_json(report)) < 200_000
    text = page_of(report).text
    assert "cut: 1,000,000 characters; the ledger has them all" in text
    assert "cut: 100,000 entries" in text


def test_more_actions_than_a_page_can_hold_are_counted_and_those_that_failed_come_first(ledger: Ledger) -> None:
    with ledger.transaction() as connection:
        connection.execute(
            "insert into actions (platform, capability, verb, object, dag_id, run_id, task_id, state, ended_at)"
            " select 'studyspot', 'logs', 'remove', 'file ' || n, %s, %s, 'logs',"
            " case when n = 4999 then 'failed' else 'done' end, now() from generate_series(1, 5000) as n",
            [NIGHT.dag_id, NIGHT.run_id],
        )
    report = report_of(ledger, studyspot())
    assert len(report.actions) == 1000
    assert report.verdict == "failed"
    assert "1,000 of 5,000 actions are shown; the ledger has them all." in page_of(report).text


def test_secrets_that_reached_the_ledger_do_not_reach_the_report(ledger: Ledger) -> None:
    found = finding(
        "redis_memory",
        Severity.P1,
        "redis://user:hunter22@redis:6379 refused",
        facts={"password": "hunter22", "nested": {"api_key": "hunter22"}, "url": "postgres://u:hunter22@h/d"},
    )
    ledger.record(NIGHT, [judged("redis_memory", Severity.P1, [found])])
    report = report_of(ledger, studyspot(redis={}))
    assert b"hunter22" not in render_html(report) + render_json(report) + summary_text(report).encode()


# -- JSON and terminal -----------------------------------------------------------------------------------------


def test_the_json_is_canonical_and_holds_the_same_numbers(night: Ledger) -> None:
    at = datetime(2026, 11, 14, 2, 0, 7, tzinfo=UTC)
    first, second = render_json(report_of(night, now=at)), render_json(report_of(night, now=at))
    assert first == second
    content = json.loads(first)
    assert content["made_at"] == "2026-11-14T02:00:07.000000Z"
    assert first == json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    assert content["verdict"] == "findings"
    assert content["findings"][0]["facts"]["used_bytes"] == 62 * MIB


def test_the_summary_for_a_terminal_says_what_is_wrong_what_to_do_and_where_to_look(night: Ledger) -> None:
    text = summary_text(report_of(night), "http://localhost:8080/upkeep/reports/studyspot/d/r/")
    lines = text.splitlines()
    assert lines[0].startswith("StudySpot studyspot_daily_maintenance: FINDINGS: 2 findings, worst P1 Critical;")
    assert "  P1 Critical  redis_memory: 62 of 64 MiB in use (97 %)" in lines
    assert any(line.startswith("      do: list the largest keys") for line in lines)
    assert lines[-1] == "  report: http://localhost:8080/upkeep/reports/studyspot/d/r/"


def test_foreign_text_cannot_forge_lines_of_the_summary(ledger: Ledger) -> None:
    hostile_night(ledger)
    text = summary_text(report_of(ledger, studyspot(redis={})))
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line.startswith("🧨")]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (wording.size(0), "0 B"),
        (wording.size(1023), "1023 B"),
        (wording.size(13_002_342), "12.4 MiB"),
        (wording.size(5 * 1024**6), "5120.0 PiB"),
        (wording.span(0.0042), "4 ms"),
        (wording.span(59.96), "60.0 s"),
        (wording.span(3599.7), "1 h"),
        (wording.span(11_520), "3 h 12 min"),
        (wording.span(-90), "-1 min 30 s"),
        (wording.number(1_234_567), "1,234,567"),
        (wording.number(float("nan")), "not a number"),
        (wording.fact("hit_rate", 0.873), "87.3 %"),
        (wording.fact("lag_s", 90), "1 min 30 s"),
        (wording.fact("bytes_freed", 2048), "2.0 KiB"),
        (wording.past("vacuum"), "vacuumed"),
        (wording.past("delete"), "deleted"),
        (wording.counted(1, "entry", "entries"), "1 entry"),
    ],
)
def test_numbers_are_said_to_people(said: str, meant: str) -> None:
    assert said == meant


@pytest.mark.parametrize(
    ("verb", "before", "after", "bytes"),
    [
        ("clear", {}, {"bytes_freed": 5}, 5),
        ("vacuum", {"bytes": 10}, {"bytes": 4}, 6),
        ("vacuum", {"total_bytes": 10}, {"total_bytes": 12}, -2),
        ("vacuum", {"rows": 10}, {"rows": 4}, None),
        ("delete", {"bytes": 10}, {"bytes": 9}, 9),
        ("delete", {"bytes": 10}, {}, None),
    ],
)
def test_freed_space_is_what_the_action_says_or_measured(
    verb: str, before: Mapping[str, int], after: Mapping[str, int], bytes: int | None
) -> None:
    assert freed(verb, before, after) == bytes


def test_a_ledger_that_is_down_is_said_to_be_that(ledger: Ledger) -> None:
    ledger.connection.close()
    with pytest.raises(LedgerError, match="the ledger \\(connection `upkeep_ledger`\\) cannot be used"):
        report_of(ledger)
