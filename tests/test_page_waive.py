"""Living with a finding for a while: who may, what it changes, when it counts again, and who cannot forge it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from alembic import command
from sqlalchemy import create_engine

from sandbox.home import Home
from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from tests.alerts_inbox import actions, bad, pass_time, shown
from tests.conftest import fresh_ledger, libpq, run
from tests.page_server import PageServer, page_server, shop, token
from upkeep.alerts import tell
from upkeep.findings import Severity, ok
from upkeep.ledger import Ledger, migrate, waivers
from upkeep.platforms import Platform, platform

inboxes, inbox, studyspot = alerts_inbox.inboxes, alerts_inbox.inbox, alerts_inbox.studyspot

KEY = "studyspot/redis_memory"
WHY = "the cache moves to a larger machine on Friday"


@pytest.fixture(scope="module")
def server(control: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    platforms = [shop("studyspot"), shop("strict", approvers={"people": ["Ada"]})]
    with page_server(control, tmp_path_factory.mktemp("page"), platforms) as made:
        yield made


@pytest.fixture
def ledger(server: PageServer) -> Iterator[Ledger]:
    """The page's ledger, with nothing in it."""
    server.ask("truncate runs, outcomes, findings, finding_events, outbox, deliveries, threads, waivers, watermarks")
    with Ledger(server.conninfo) as opened:
        yield opened


def found(ledger: Ledger, name: str = "studyspot", severity: Severity = Severity.P1) -> None:
    ledger.record(run(1, platform=name), [bad(severity=severity)])


def fill_in(client: httpx.Client, key: str = KEY, **changed: str) -> dict[str, str]:
    """The fields of the form as the page made it, filled in by a person."""
    text = client.get("/upkeep/findings/waive", params={"key": key}).text
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))
    return {**hidden, "reason": WHY, "for": "14d", **changed}


def send(client: httpx.Client, fields: dict[str, str], **headers: str) -> httpx.Response:
    usual = {"origin": "http://airflow.example", "sec-fetch-site": "same-origin"}
    made = {**usual, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return client.post("/upkeep/findings/waive", data=fields, headers={name: v for name, v in made.items() if v})


# -- on the page -------------------------------------------------------------------------------------------


def test_who_may_run_its_maintenance_waives_a_finding_and_takes_it_back(server: PageServer, ledger: Ledger) -> None:
    found(ledger)
    with server.browser("USER", "jo") as jo:
        assert "1 finding open, worst P1" in jo.get("/upkeep/").text
        answer = send(jo, fill_in(jo))
        assert answer.status_code == 303
        text = jo.get(answer.headers["location"]).text
        assert "by jo until" in text
        assert WHY in text
        overview = jo.get("/upkeep/").text
        assert "No finding open" in overview
        assert "1 waived" in overview
        form = re.search(r'name="form" value="([^"]+)"', text)
        number = re.search(r"waivers/(\d+)/end", text)
        assert form
        assert number
        assert jo.post(f"/upkeep/waivers/{number[1]}/end", data={"form": form[1]}).status_code == 303
        assert "1 finding open, worst P1" in jo.get("/upkeep/").text
        assert jo.post(f"/upkeep/waivers/{number[1]}/end", data={"form": form[1]}).status_code == 409
    (row,) = ledger.rows("select owner, ended_by, severity from waivers")
    assert row == {"owner": "jo", "ended_by": "jo", "severity": "P1"}


def test_who_may_only_look_is_offered_nothing_and_refused(server: PageServer, ledger: Ledger) -> None:
    found(ledger)
    with server.browser("VIEWER") as viewer:
        for path in ("platforms/studyspot/", "findings/"):
            assert "findings/waive" not in viewer.get(f"/upkeep/{path}").text
        assert viewer.get("/upkeep/findings/waive", params={"key": KEY}).status_code == 403
    waivers.waive(ledger, KEY, owner="jo", reason=WHY, length=waivers.LONGEST)
    with server.program("VIEWER") as program:
        answer = program.post("/upkeep/findings/waive", data={"key": KEY, "reason": WHY, "for": "1d"})
        assert answer.status_code == 403
        assert answer.json()["detail"].endswith("whoever may trigger its daily maintenance may.")
        number = ledger.rows("select id from waivers")[0]["id"]
        assert program.post(f"/upkeep/waivers/{number}/end").status_code in (403, 415)
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert program.post(f"/upkeep/waivers/{number}/end", headers=form).status_code == 403
    assert ledger.rows("select count(*) as n from waivers where until > now() + interval '80 days'")[0]["n"] == 1


def test_where_approvers_are_named_only_they_may(server: PageServer, ledger: Ledger) -> None:
    found(ledger, "strict")
    asked = {"key": "strict/redis_memory", "reason": WHY, "for": "1d"}
    refused = server.program("ADMIN", "jo").post("/upkeep/findings/waive", data=asked)
    assert (refused.status_code, "its approvers may: Ada" in refused.text) == (403, True)
    assert server.program("USER", "ada").post("/upkeep/findings/waive", data=asked).status_code == 303
    assert server.program("VIEWER", "ada").post("/upkeep/findings/waive", data=asked).status_code == 403


@pytest.mark.parametrize(
    "forged",
    [
        {"form": ""},
        {"form": "somebody-elses"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "", "origin": "https://evil.example"},
        {"sec_fetch_site": "", "origin": "null"},
    ],
)
def test_a_form_that_another_site_made_changes_nothing(
    server: PageServer, ledger: Ledger, forged: dict[str, str]
) -> None:
    found(ledger)
    with server.browser("ADMIN", "jo") as jo:
        fields = fill_in(jo, **{name: value for name, value in forged.items() if name == "form"})
        answer = send(jo, fields, **{name: value for name, value in forged.items() if name != "form"})
        assert answer.status_code == 403
        assert "load the page again" in answer.text
        jo.cookies.delete("upkeep_form")
        assert send(jo, fields).status_code == 403
    assert ledger.rows("select 1 from waivers") == []


def test_a_browser_that_tells_its_origin_alone_is_believed(server: PageServer, ledger: Ledger) -> None:
    found(ledger)
    with server.browser("ADMIN", "jo") as jo:
        assert send(jo, fill_in(jo), sec_fetch_site="").status_code == 303
        assert send(jo, fill_in(jo), sec_fetch_site="", origin="http://localhost:8080").status_code == 303


def test_the_cookie_of_the_forms_is_for_nobody_else(server: PageServer, ledger: Ledger) -> None:
    found(ledger)
    with server.browser("ADMIN") as admin:
        cookie = admin.get("/upkeep/findings/").headers["set-cookie"].lower()
    for said in ("httponly", "samesite=strict", "path=/upkeep"):
        assert said in cookie


@pytest.mark.parametrize("planted", ['x"><b>', "short", "a" * 44])
def test_a_cookie_that_somebody_planted_is_not_taken_for_ours(server: PageServer, ledger: Ledger, planted: str) -> None:
    found(ledger)
    headers = {"cookie": f"_token={token('ADMIN')}; upkeep_form={planted}", "accept": "text/html"}
    with server.browser() as client:
        for path in ("findings/", f"findings/waive?key={KEY}"):
            answer = client.get(f"/upkeep/{path}", headers=headers)
            assert answer.status_code == 200
            assert planted not in answer.text
        asked = {"key": KEY, "reason": WHY, "for": "1d", "form": planted}
        assert client.post("/upkeep/findings/waive", data=asked, headers=headers).status_code == 403
        headers["authorization"] = "Bearer "
        assert client.post("/upkeep/findings/waive", data=asked, headers=headers).status_code == 403
    assert ledger.rows("select 1 from waivers") == []


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"reason": "later"}, 409, "a waiver has a reason of 10 to 500 characters, got 5"),
        ({"reason": " \n " * 50}, 409, "a waiver has a reason"),
        ({"reason": "x" * 501}, 409, "a waiver has a reason"),
        ({"for": "91d"}, 409, "a waiver lasts at most 90 days"),
        ({"for": "0s"}, 409, "a waiver lasts at most 90 days"),
        ({"for": "for ever"}, 422, "a duration is a number and one of"),
        ({"for": ""}, 422, "a duration is a number and one of"),
        ({"key": "studyspot/none"}, 404, "There is no such finding"),
        ({"key": "studyspot/\0"}, 404, "There is no such finding"),
        ({"key": ""}, 404, "There is no such finding"),
        ({"reason": "x" * 30_000}, 413, "A form has at most"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(
    server: PageServer, ledger: Ledger, changed: dict[str, str], status: int, said: str
) -> None:
    found(ledger)
    asked = {"key": KEY, "reason": WHY, "for": "1d", **changed}
    answer = server.program("ADMIN").post("/upkeep/findings/waive", data=asked)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text
    assert ledger.rows("select 1 from waivers") == []


def test_a_person_finds_what_they_typed_again_beside_what_is_wrong(server: PageServer, ledger: Ledger) -> None:
    found(ledger)
    with server.browser("ADMIN") as admin:
        answer = send(admin, fill_in(admin, reason="<b>soon", **{"for": "30d"}))
    assert answer.status_code == 409
    assert "a waiver has a reason of 10 to 500 characters, got 7" in answer.text
    assert "&lt;b&gt;soon</textarea>" in answer.text
    assert '<option value="30d" selected>' in answer.text


def test_what_is_over_cannot_be_waived(server: PageServer, ledger: Ledger) -> None:
    found(ledger)
    ledger.record(run(2), [ok("redis_memory", Severity.P1)])
    asked = {"key": KEY, "reason": WHY, "for": "1d"}
    answer = server.program("ADMIN").post("/upkeep/findings/waive", data=asked)
    assert (answer.status_code, "it may be over meanwhile" in answer.json()["detail"]) == (409, True)


# -- what it changes ---------------------------------------------------------------------------------------


@pytest.fixture
def subject(server: PageServer) -> Platform:
    return platform("studyspot")


def waive(ledger: Ledger, **changed: str) -> None:
    waivers.waive(ledger, KEY, owner="jo", reason=WHY, length=waivers.LONGEST)


def test_what_is_waived_calls_nobody_when_it_comes_back(inbox: Inbox, ledger: Ledger, subject: Platform) -> None:
    tell.record(subject, run(1), [bad()])
    waive(ledger)
    tell.record(subject, run(2), [ok("redis_memory", Severity.P1)])
    assert actions(inbox) == [("trigger", "redis_memory"), ("resolve", "redis_memory")], "its end is told all the same"
    pass_time(ledger, 7200)
    tell.record(subject, run(3), [bad()])
    tell.deliver_all(ledger, run(3, platform="upkeep"))
    assert len(actions(inbox)) == 2
    assert ledger.rows("select held from findings")[0]["held"].startswith("waiver ")


def test_nobody_is_reminded_until_the_waiver_is_over(inbox: Inbox, ledger: Ledger, subject: Platform) -> None:
    tell.record(subject, run(1), [bad()])
    waive(ledger)
    pass_time(ledger, 3 * 3600)
    tell.deliver_all(ledger, run(2, platform="upkeep"))
    assert len(shown(inbox)) == 1
    pass_time(ledger, waivers.LONGEST.total_seconds())
    tell.deliver_all(ledger, run(3, platform="upkeep"))
    assert any("Nobody has acknowledged this" in text for text in shown(inbox))


def test_when_its_time_is_over_what_was_held_back_is_told(inbox: Inbox, ledger: Ledger, subject: Platform) -> None:
    found(ledger)
    waive(ledger)
    ledger.record(run(2), [ok("redis_memory", Severity.P1)])
    tell.record(subject, run(3), [bad()])
    assert actions(inbox) == []
    pass_time(ledger, waivers.LONGEST.total_seconds() + 1)
    tell.deliver_all(ledger, run(4, platform="upkeep"))
    assert actions(inbox) == [("trigger", "redis_memory")]


def test_worse_than_it_was_waived_it_counts_again(
    inbox: Inbox, ledger: Ledger, subject: Platform, server: PageServer
) -> None:
    tell.record(subject, run(1), [bad(severity=Severity.P2)])
    waive(ledger)
    assert "No finding open" in server.browser("VIEWER").get("/upkeep/").text
    tell.record(subject, run(2), [bad(severity=Severity.P2)])
    assert actions(inbox) == []
    tell.record(subject, run(3), [bad(severity=Severity.P0)])
    assert actions(inbox) == [("trigger", "redis_memory")]
    assert "1 finding open, worst P0" in server.browser("VIEWER").get("/upkeep/").text


def test_a_waiver_does_not_change_what_the_task_and_its_record_say(ledger: Ledger) -> None:
    found(ledger)
    waive(ledger)
    assert ledger.red_tasks("studyspot_daily_maintenance", "manual__1", Severity.P2) == {"health"}
    assert json.loads(json.dumps(ledger.rows("select state from findings"))) == [{"state": "open"}]


def test_a_ledger_can_go_back_and_tells_what_a_waiver_held(control: Home) -> None:
    with fresh_ledger(control) as connection, Ledger(libpq(connection)) as ledger:
        found(ledger)
        waive(ledger)
        with ledger.transaction() as opened:
            opened.execute("update findings set held = 'waiver 1'")
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(libpq(connection)))
        with engine.begin() as to:
            config = migrate._config()
            config.attributes["connection"] = to
            command.downgrade(config, "0007")
        engine.dispose()
        assert ledger.rows("select held from findings") == [{"held": "silence 0"}], "no such silence: it is let go"
        migrate.migrate(libpq(connection))
        assert ledger.rows("select 1 from waivers") == []


@pytest.mark.parametrize("number", ["0", "-1", "9" * 30, "x"])
def test_a_waiver_that_does_not_exist_cannot_be_taken_back(server: PageServer, ledger: Ledger, number: str) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = server.program("ADMIN").post(f"/upkeep/waivers/{number}/end", headers=form)
    assert answer.status_code in (404, 422)
