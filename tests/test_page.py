"""The page against a real ledger: who sees what, what it says, and that it never calls well what nobody looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from sandbox.home import Home
from tests.conftest import run
from tests.page_server import PageServer, page_server, shop
from upkeep.findings import Finding, Severity, judged, ok, unknown
from upkeep.incident import record as incidents
from upkeep.ledger import Ledger
from upkeep.platforms import platform
from upkeep.report.storage import announce

PATHS = [
    "/upkeep/",
    "/upkeep/platforms/shop/",
    "/upkeep/findings/",
    "/upkeep/findings/waive?key=shop/http/api",
    "/upkeep/incidents/",
    "/upkeep/incidents/shop-1/",
    "/upkeep/metrics",
    "/upkeep/reports/shop/shop_daily_maintenance/manual__1/",
    "/upkeep/reports/shop/shop_daily_maintenance/manual__1/report.json",
    "/upkeep/alertmanager/",
    "/upkeep/alertmanager/shop/more",
    "/upkeep/docs",
    "/upkeep/openapi.json",
    "/upkeep/there-is-no-such-page",
]


@pytest.fixture(scope="module")
def server(control: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    platforms = [shop("shop"), shop("calm"), shop("new"), shop("veiled")]
    with page_server(control, tmp_path_factory.mktemp("page"), platforms) as made:
        from airflow.models.dag import DagModel
        from airflow.utils.session import create_session
        from sqlalchemy import delete

        with create_session() as session:
            # As if this reader might read none of its Dags.
            session.execute(delete(DagModel).where(DagModel.dag_id.startswith("veiled_")))
        with Ledger(made.conninfo) as ledger:
            fill(ledger)
        yield made


def fill(ledger: Ledger) -> None:
    """One platform in trouble, one that is well, one that nobody has looked at; and one that nobody may see."""
    shop = run(1, platform="shop")
    down = Finding(
        check="http", object="api", severity=Severity.P0, summary="answered 500 after 0.2 s", hint="look at its log."
    )
    odd = Finding(
        check="disk",
        object="/data <b>",
        severity=Severity.P3,
        summary="81 % of <script>alert(1)</script> used",
        hint="",
    )
    ledger.record(
        shop,
        [
            judged("http", Severity.P0, [down], object="api"),
            judged("disk", Severity.P3, [odd], object="/data <b>"),
            unknown("redis_connect", Severity.P1, "connection refused"),
            judged("cache", Severity.P3, [Finding(check="cache", severity=Severity.P3, summary="100% full", hint="")]),
        ],
    )
    ledger.record(shop, [ok("cache", Severity.P3)])
    announce(ledger, shop, "https://airflow.example/upkeep/reports/…")
    ledger.record(run(1, platform="calm"), [ok("http", Severity.P0)])
    incident, _ = incidents.declare(ledger, platform("shop"), Severity.P0, "Nobody can pay", actor="jo")
    incidents.note(ledger, incident.id, "jo", "update", "the card provider is down <i>again</i>")
    hidden = Finding(check="secret", severity=Severity.P0, summary="of the veiled platform", hint="")
    ledger.record(run(1, platform="veiled"), [judged("secret", Severity.P0, [hidden])])
    incidents.declare(ledger, platform("veiled"), Severity.P0, "A veiled incident", actor="jo")


# -- who sees what -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_without_a_login_every_address_answers_401_and_nothing_else(server: PageServer, path: str) -> None:
    stranger = server.program()
    for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        answer = stranger.request(method, path)
        assert (answer.status_code, answer.content or b'{"detail":"Not authenticated"}') == (
            401,
            b'{"detail":"Not authenticated"}',
        )


def test_a_browser_without_a_login_gets_401_and_is_led_to_it_and_back(server: PageServer) -> None:
    answer = server.browser().get("/upkeep/findings/?state=all&words=a%2Fb")
    assert answer.status_code == 401
    assert "Shop" not in answer.text
    target = urlsplit(answer.headers["refresh"].removeprefix("0; url="))
    assert target.path == "/api/v2/auth/login"
    assert parse_qs(target.query) == {"next": ["/upkeep/findings/?state=all&words=a%2Fb"]}


@pytest.mark.parametrize("forged", ["forged", "a.b.c"])
def test_a_forged_login_opens_nothing(server: PageServer, forged: str) -> None:
    client = server.program()
    for headers in ({"authorization": f"Bearer {forged}"}, {"cookie": f"_token={forged}"}):
        for path in PATHS:
            assert client.get(path, headers=headers).status_code in (401, 403)


def test_a_platform_of_which_one_may_read_no_dag_does_not_exist(server: PageServer) -> None:
    with server.browser("ADMIN") as admin:
        for path in ("", "findings/?state=all", "incidents/", "findings/?platform=veiled&state=all"):
            answer = admin.get(f"/upkeep/{path}")
            assert answer.status_code == 200
            assert "eiled" not in answer.text
        for path in ("platforms/veiled/", "incidents/veiled-1/", "findings/waive?key=veiled/secret"):
            assert admin.get(f"/upkeep/{path}").status_code == 404, path


def test_every_answer_forbids_scripts_frames_and_everything_from_outside(server: PageServer) -> None:
    with server.browser("VIEWER") as viewer:
        for path in PATHS:
            answer = viewer.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "form-action 'self'" in policy
            assert "frame-ancestors 'self'" in policy
            assert answer.headers["cache-control"] == "private, no-store"
            assert "<script" not in answer.text
            assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', answer.text)


# -- what it says ------------------------------------------------------------------------------------------


def test_the_worst_comes_first_and_what_nobody_looked_at_is_not_called_well(server: PageServer) -> None:
    text = server.browser("VIEWER").get("/upkeep/").text
    rows = re.findall(r'<tr><td class="name".*?</tr>', text, re.S)
    assert [re.search(r">(\w+)</a>", row)[1] for row in rows] == ["Shop", "New", "Calm"]  # type: ignore[index]
    assert "1 incident at work; 2 findings open, worst P0; 1 thing could not be looked at" in rows[0]
    assert "Nobody has looked yet" in rows[1]
    assert "no report yet" in rows[1]
    assert "No finding open" in rows[2]
    assert 'href="/upkeep/reports/shop/shop_daily_maintenance/manual__1/"' in rows[0]


def test_after_a_day_without_a_look_nobody_knows_how_it_is(server: PageServer) -> None:
    server.ask("update runs set first_seen_at = first_seen_at - interval '27 hours' where platform = 'calm'")
    try:
        text = server.browser("VIEWER").get("/upkeep/platforms/calm/").text
        assert "Nobody has looked for 1 d 3 h" in text
        assert 'class="verdict unknown"' in text
    finally:
        server.ask("update runs set first_seen_at = first_seen_at + interval '27 hours' where platform = 'calm'")
    assert 'class="verdict ok"' in server.browser("VIEWER").get("/upkeep/platforms/calm/").text


def test_what_others_wrote_is_shown_and_never_obeyed(server: PageServer) -> None:
    with server.browser("ADMIN") as admin:
        for path in ("platforms/shop/", "findings/", "incidents/shop-1/"):
            text = admin.get(f"/upkeep/{path}").text
            assert "<script>" not in text
            assert "<i>again" not in text
        assert "81 % of &lt;script&gt;alert(1)&lt;/script&gt; used" in admin.get("/upkeep/findings/").text


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ["http", "redis_connect", "disk"]),
        ("?worst=P1", ["http", "redis_connect"]),
        ("?state=resolved", ["cache"]),
        ("?state=all", ["http", "redis_connect", "disk", "cache"]),
        ("?state=waived", []),
        ("?platform=calm&state=all", []),
        ("?platform=shop&words=ANSWERED+500", ["http"]),
        ("?state=all&words=100%25", ["cache"]),
        ("?state=all&words=shop/disk/", ["disk"]),
        ("?state=all&words=h_tp", []),
        ("?words=%00%27%3B--", []),
        ("?state=nonsense&worst=P9", ["http", "redis_connect", "disk"]),
    ],
)
def test_findings_are_narrowed_down_as_asked(server: PageServer, query: str, shown: list[str]) -> None:
    text = server.browser("VIEWER").get(f"/upkeep/findings/{query}").text
    assert re.findall(r"</a> <code>(\w+)</code>", text) == shown


def test_an_incident_is_told_line_by_line_and_a_changed_line_shows(server: PageServer) -> None:
    with server.browser("VIEWER") as viewer:
        assert "Nobody can pay" in viewer.get("/upkeep/incidents/").text
        text = viewer.get("/upkeep/incidents/shop-1/").text
        assert "shop-1 is open" in text
        assert text.index("P0: Nobody can pay") < text.index("the card provider is down")
        assert "unchanged since it was written" in text
        with psycopg.connect(server.conninfo) as connection:
            connection.execute("alter table timeline disable trigger user")
            connection.execute(
                "update timeline set said = 'nothing happened' where incident_id = 'shop-1' and number = 2"
            )
            connection.execute("alter table timeline enable trigger user")
        assert "changed after it was written, from line 2" in viewer.get("/upkeep/incidents/shop-1/").text


@pytest.mark.parametrize(
    "path",
    ["platforms/none/", "incidents/none-1/", "incidents/%00/", "platforms/%2e%2e%2f/", "findings/waive?key=none"],
)
def test_what_does_not_exist_is_said_to_be_that(server: PageServer, path: str) -> None:
    answer = server.browser("ADMIN").get(f"/upkeep/{path}")
    assert answer.status_code == 404
    assert "There is nothing here" in answer.text or answer.text == ""


def test_without_the_ledger_it_says_what_to_do_and_no_password(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", "postgres://u:hunter22@127.0.0.1:1/none")
    answer = server.browser("ADMIN").get("/upkeep/")
    assert answer.status_code == 503
    assert "HINT: start its server" in answer.text
    assert "hunter22" not in answer.text


def test_the_page_of_a_ledger_without_any_history_is_whole(server: PageServer) -> None:
    for path in ("", "platforms/new/", "findings/?platform=new", "incidents/"):
        assert server.browser("VIEWER").get(f"/upkeep/{path}").status_code == 200
    text = server.browser("VIEWER").get("/upkeep/platforms/new/").text
    assert "not in service yet: it has never served a window" in text
    assert "No run has looked yet" in text
