"""What Prometheus' Alertmanager sends: who is let in, what becomes of it, and that nothing is lost or done twice."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from sandbox import processes
from sandbox.binaries import debian
from sandbox.home import REPOSITORY, Home
from tests.conftest import fresh_ledger, libpq
from tests.page_server import PageServer, page_server, shop, token
from upkeep.doctor import channels, needs
from upkeep.incident.alertmanager import PayloadError, read
from upkeep.incident.record import join, timeline
from upkeep.ledger import Ledger
from upkeep.platforms import Platform, read_all

PASSWORD, OTHERS = "a-password-of-studyspot", "a-password-of-another"
BUNDLE = "response-tests"
NOW = datetime(2026, 11, 20, 2, 14, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(control: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    platforms = [
        shop("studyspot", alertmanager={}),
        shop("another", alertmanager={"respond": False}),
        shop("silent"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, password in {"studyspot": PASSWORD, "another": OTHERS, "silent": PASSWORD}.items():
            connection = {"conn_type": "http", "password": password}
            patch.setenv(f"AIRFLOW_CONN_{name.upper()}_ALERTMANAGER", json.dumps(connection))
        with page_server(control, tmp_path_factory.mktemp("page"), platforms) as made, responding():
            yield made


def known() -> None:
    """Airflow knows `incident_response`, as its Dag processor would have told it."""
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    file = REPOSITORY / "dags" / "incident_response.py"
    with create_session() as session:
        session.merge(DagBundleModel(name=BUNDLE))
    sync_bag_to_db(DagBag(file, bundle_path=file.parent, bundle_name=BUNDLE), BUNDLE, None)


@contextmanager
def responding() -> Iterator[None]:
    """While it lasts, Airflow knows `incident_response`."""
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    known()
    yield
    with create_session() as session:
        session.execute(delete(DagRun))
        session.execute(delete(DagModel).where(DagModel.bundle_name == BUNDLE))


@pytest.fixture
def ledger(server: PageServer, control: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger with nothing in it (a timeline cannot be emptied), and no runs of the response."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    with create_session() as session:
        session.execute(delete(DagRun))
    with fresh_ledger(control) as made:
        monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps(made))
        with Ledger(libpq(made)) as opened:
            yield opened


@pytest.fixture
def studyspot(server: PageServer) -> Platform:
    return next(one for one in read_all()[0] if one.name == "studyspot")


def alert(name: str = "CheckoutSlow", severity: str | None = "critical", **changed: Any) -> dict[str, Any]:
    labels = {"alertname": name, "pod": "api-1", **({"severity": severity} if severity is not None else {})}
    made = {
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": f"{name} since five minutes"},
        "startsAt": NOW.isoformat(),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example/graph?g0.expr=up",
        "fingerprint": f"{abs(hash(name)):016x}"[:16],
    }
    return {**made, **changed}


def group(*alerts: dict[str, Any], key: str = '{}:{alertname="CheckoutSlow"}', **changed: Any) -> dict[str, Any]:
    made = {
        "version": "4",
        "groupKey": key,
        "truncatedAlerts": 0,
        "status": "firing" if any(one["status"] == "firing" for one in alerts) else "resolved",
        "receiver": "upkeep",
        "groupLabels": {"alertname": "CheckoutSlow"},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example",
        "alerts": list(alerts),
    }
    return {**made, **changed}


def send(server: PageServer, content: Any, name: str = "studyspot", password: str = PASSWORD) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"authorization": f"Bearer {password}", "content-type": "application/json"}
    return server.program().post(f"/upkeep/alertmanager/{name}", content=body, headers=headers)


def runs() -> list[tuple[str, dict[str, Any]]]:
    """Of the response: their ids and what each was asked."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(DagRun).order_by(DagRun.id)).all()
        return [(one.run_id, dict(one.conf)) for one in found]


def incidents(ledger: Ledger) -> list[dict[str, Any]]:
    return ledger.rows("select * from incidents order by id")


def kinds(ledger: Ledger, id: str) -> list[str]:
    return [line["kind"] for line in timeline(ledger, id)]


# -- what becomes of it ------------------------------------------------------------------------------------


def test_a_group_opens_one_incident_and_begins_one_response(server: PageServer, ledger: Ledger) -> None:
    for _ in range(3):
        answer = send(server, group(alert()))
        assert answer.status_code == 200, answer.text
    (row,) = incidents(ledger)
    assert (row["id"], row["severity"], row["state"]) == ("studyspot-1", "P1", "open")
    assert row["title"] == "CheckoutSlow: CheckoutSlow since five minutes"
    assert "pod=api-1" in row["description"]
    assert "2026-11-20 02:14 UTC" in row["description"]
    ((run_id, asked),) = runs()
    assert run_id == "alertmanager__studyspot-1__P1"
    assert asked == {
        "platform": "studyspot", "severity": "P1", "description": row["title"], "incident": "studyspot-1",
    }  # fmt: skip
    assert kinds(ledger, "studyspot-1") == ["declared", "alerts", "respond"]


def test_what_changes_is_told_once_and_what_is_graver_calls_again(server: PageServer, ledger: Ledger) -> None:
    mild = alert(severity="warning")
    worse = alert("CheckoutDown", "P0")
    send(server, group(mild))
    assert incidents(ledger)[0]["severity"] == "P2"
    for _ in range(2):
        assert "made graver" in send(server, group(mild, worse)).text or _
    assert incidents(ledger)[0]["severity"] == "P0"
    # Milder again: who was called stays called.
    send(server, group(mild))
    assert incidents(ledger)[0]["severity"] == "P0"
    assert [run_id for run_id, _ in runs()] == ["alertmanager__studyspot-1__P2", "alertmanager__studyspot-1__P0"]
    told = [line["said"].splitlines()[0] for line in timeline(ledger, "studyspot-1") if line["kind"] == "alerts"]
    assert told == ["1 firing", "2 firing", "1 firing"]


def test_the_end_is_told_once_and_people_say_whether_it_is_over(server: PageServer, ledger: Ledger) -> None:
    send(server, group(alert()))
    over = group(alert(status="resolved", endsAt=(NOW + timedelta(hours=1)).isoformat()))
    for _ in range(2):
        assert "fires no longer" in send(server, over).json()["detail"]
    (row,) = incidents(ledger)
    assert row["state"] == "open"
    assert kinds(ledger, row["id"]) == ["declared", "alerts", "respond", "alerts"]
    # It comes back: the same incident, and one line more.
    send(server, group(alert()))
    assert len(incidents(ledger)) == 1
    assert kinds(ledger, row["id"])[-1] == "alerts"
    assert len(runs()) == 1


def test_the_end_of_what_was_never_open_and_what_is_too_mild_leave_nothing(server: PageServer, ledger: Ledger) -> None:
    assert send(server, group(alert(status="resolved"))).json()["detail"] == "nothing was open"
    watchdog = group(alert("Watchdog", "none"), key="{}:{}")
    assert send(server, watchdog).json()["detail"] == "too mild for an incident"
    assert incidents(ledger) == [] == runs()


@pytest.mark.parametrize(
    ("label", "severity"),
    [("critical", "P1"), ("WARNING", "P2"), ("P0", "P0"), ("page", "P1"), (None, "P1"), ("sev-unheard-of", "P1")],
)
def test_a_severity_is_the_files_then_the_platforms_then_p1(
    label: str | None, severity: str, server: PageServer, ledger: Ledger
) -> None:
    send(server, group(alert(severity=label)))
    assert incidents(ledger)[0]["severity"] == severity


def test_groups_and_platforms_are_incidents_of_their_own(server: PageServer, ledger: Ledger) -> None:
    send(server, group(alert()))
    send(server, group(alert("Other"), key='{}:{alertname="Other"}'))
    send(server, group(alert()), "another", OTHERS)
    assert [row["id"] for row in incidents(ledger)] == ["another-1", "studyspot-1", "studyspot-2"]
    # Where the file wants the record alone, nobody is called.
    assert [asked["platform"] for _, asked in runs()] == ["studyspot", "studyspot"]


def test_many_alerts_are_counted_and_long_keys_stay_apart(server: PageServer, ledger: Ledger) -> None:
    many = [alert(f"A{number}", fingerprint=f"{number:016x}") for number in range(300)]
    send(server, group(*many, key="x" * 5000, truncatedAlerts=7))
    send(server, group(*many[:1], key="x" * 5001))
    first, second = incidents(ledger)
    assert first["description"].splitlines()[-1] == "and 287 more"
    assert second["key"] != first["key"]


def test_a_storm_of_groups_is_one_incident_more_and_one_response_more(server: PageServer, ledger: Ledger) -> None:
    groups = [group(alert(f"A{number}"), key=f"{{}}:{{alertname=A{number}}}") for number in range(30)]
    for _ in range(2):
        for one in groups:
            assert send(server, one).status_code == 200
    rows = ledger.rows("select id, title, key from incidents order by declared_at")
    assert len(rows) == 11, "ten of their own, and the storm's"
    assert rows[-1]["title"] == "More than 10 groups of alerts of Prometheus within 5m"
    assert len(runs()) == 11
    assert kinds(ledger, rows[-1]["id"]).count("alerts") == 20, "each of the others once"
    # The end of one that was taken in, and of one of its own.
    for number, id in ((25, rows[-1]["id"]), (3, rows[3]["id"])):
        over = group(alert(f"A{number}", status="resolved"), key=f"{{}}:{{alertname=A{number}}}")
        assert send(server, over).json()["incident"] == id
        assert f"A{number}" in timeline(ledger, id)[-1]["said"]


def test_personal_data_and_secrets_stay_outside(server: PageServer, ledger: Ledger) -> None:
    said = {"summary": "login of jane.doe@example.com fails with password=hunter2-hunter2"}
    send(server, group(alert(annotations=said)))
    (row,) = incidents(ledger)
    kept = json.dumps([row, timeline(ledger, row["id"]), runs()], default=str)
    assert "jane.doe" not in kept
    assert "hunter2" not in kept


def test_two_replicas_at_the_same_moment_are_one_incident(server: PageServer, ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(server, group(alert())), range(8)))
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert len(incidents(ledger)) == 1
    assert len(runs()) == 1
    assert kinds(ledger, "studyspot-1").count("alerts") == 1


def test_declared_and_not_begun_is_begun_when_it_is_sent_again(server: PageServer, ledger: Ledger) -> None:
    """Airflow does not know the Dag yet: the state that a killed server leaves, too."""
    from airflow.models.dag import DagModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    with create_session() as session:
        session.execute(delete(SerializedDagModel).where(SerializedDagModel.dag_id == "incident_response"))
        session.execute(delete(DagModel).where(DagModel.dag_id == "incident_response"))
    assert send(server, group(alert())).status_code == 503
    known()
    assert send(server, group(alert())).status_code == 200
    assert len(incidents(ledger)) == 1
    assert len(runs()) == 1


def test_an_incident_of_another_platform_or_one_that_is_over_is_not_joined(
    server: PageServer, ledger: Ledger, studyspot: Platform
) -> None:
    send(server, group(alert()), "another", OTHERS)
    with pytest.raises(Exception, match="another-1 is an incident of another"):
        join(ledger, studyspot, "another-1")
    with pytest.raises(Exception, match="no incident 'studyspot-9'"):
        join(ledger, studyspot, "studyspot-9")
    send(server, group(alert()))
    assert join(ledger, studyspot, "studyspot-1").id == "studyspot-1"
    with ledger.transaction() as connection:
        connection.execute("update incidents set state = 'closed' where id = 'studyspot-1'")
    with pytest.raises(Exception, match="studyspot-1 is closed"):
        join(ledger, studyspot, "studyspot-1")


# -- who is let in -----------------------------------------------------------------------------------------


def test_only_the_platforms_own_password_is_let_in(server: PageServer, ledger: Ledger) -> None:
    basic = base64.b64encode(f"anybody:{PASSWORD}".encode()).decode()
    path = "/upkeep/alertmanager/studyspot"
    client, body = server.program(), json.dumps(group(alert()))
    assert client.post(path, content=body, headers={"authorization": f"Basic {basic}"}).status_code == 200
    strangers = {
        "nothing": {},
        "wrong": {"authorization": "Bearer no"},
        "empty": {"authorization": "Bearer "},
        "another platform's": {"authorization": f"Bearer {OTHERS}"},
        "Airflow's own admin": {"authorization": f"Bearer {token('Admin')}"},
        "broken basic": {"authorization": "Basic %%%"},
        "no password in basic": {"authorization": f"Basic {base64.b64encode(b'anybody').decode()}"},
    }
    refused = {who: client.post(path, content=body, headers=sent) for who, sent in strangers.items()}
    assert {who: answer.status_code for who, answer in refused.items()} == dict.fromkeys(strangers, 401)
    for name in ("silent", "nobody", "..%2Fstudyspot", "x" * 2000):
        answer = send(server, group(alert()), name)
        assert answer.status_code in (401, 403), name
    unknown, wrong = send(server, group(alert()), "nobody"), send(server, group(alert()), password="no")
    assert (unknown.status_code, unknown.json()) == (wrong.status_code, wrong.json())
    assert len(incidents(ledger)) == 1


def test_the_password_opens_nothing_else_and_the_login_is_needed_everywhere_else(server: PageServer) -> None:
    for path in ("/upkeep/", "/upkeep/findings/", "/upkeep/alertmanager", "/upkeep/metrics"):
        answer = server.program().get(path, headers={"authorization": f"Bearer {PASSWORD}"})
        assert answer.status_code in (401, 403), path
    for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
        path = "/upkeep/alertmanager/studyspot"
        assert server.program().request(method, path).status_code == 401, method
        assert server.program("Admin").request(method, path).status_code == 405, method


# -- bad input ---------------------------------------------------------------------------------------------

BAD: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"alerts!",
    "a list": b"[]",
    "another version": json.dumps(group(alert(), version="3")).encode(),
    "no key": json.dumps({name: value for name, value in group(alert()).items() if name != "groupKey"}).encode(),
    "a status of its own": json.dumps(group(alert(status="burning"))).encode(),
    "no time": json.dumps(group(alert(startsAt="yesterday"))).encode(),
    "labels that are no words": json.dumps(group(alert(labels={"alertname": {"a": 1}}))).encode(),
    "deep": b"[" * 100_000,
    "no UTF-8": b'{"version":"4","groupKey":"\xff"}',
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_notification_is_refused_and_keeps_nothing(what: str, server: PageServer, ledger: Ledger) -> None:
    answer = send(server, BAD[what])
    assert answer.status_code == 400, answer.text
    assert "not a notification of Alertmanager" in answer.json()["detail"]
    assert len(answer.text) < 600
    assert incidents(ledger) == []
    with pytest.raises(PayloadError, match="not a notification"):
        read(BAD[what])


def test_more_than_a_group_is_refused_before_it_is_read(server: PageServer, ledger: Ledger) -> None:
    assert send(server, b" " * 4_000_001).status_code == 413
    assert incidents(ledger) == []


def test_letters_that_the_ledger_cannot_keep_are_kept_as_well_as_can_be(server: PageServer, ledger: Ledger) -> None:
    odd = {"summary": "nul \x00, half \ud83d, right-to-left \u202e, <script>alert(1)</script>"}
    answer = send(server, group(alert(annotations=odd)))
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        assert "\x00" not in incidents(ledger)[0]["title"]


# -- a real Alertmanager -----------------------------------------------------------------------------------


class RealAlertmanager:
    """One that delivers to the page over HTTP."""

    def __init__(self, home: Home, target: str) -> None:
        self.home, self.port = home, _free_port()
        self.configuration = home.directory("alertmanager") / "alertmanager.yml"
        receiver = {
            "url": target,
            "http_config": {"authorization": {"type": "Bearer", "credentials": PASSWORD}},
            "send_resolved": True,
        }
        route = {"receiver": "upkeep", "group_by": ["alertname"], "group_wait": "100ms", "group_interval": "1s"}
        content = {"route": {**route, "repeat_interval": "1s"}, "receivers": [
            {"name": "upkeep", "webhook_configs": [receiver]}
        ]}  # fmt: skip
        self.configuration.write_text(json.dumps(content))

    def start(self) -> None:
        package = debian("prometheus-alertmanager")
        program = self.home.path / "alertmanager" / "program"
        # Debian's looks for its templates below /usr alone: this copy looks below where it is started.
        built = (package / "usr/bin/prometheus-alertmanager").read_bytes()
        program.write_bytes(built.replace(b"/usr/share/prometheus/alertmanager", b"usr//share/prometheus/alertmanager"))
        program.chmod(0o700)
        processes.start(
            self.home,
            "alertmanager",
            [
                program,
                f"--config.file={self.configuration}",
                f"--storage.path={self.home.directory('alertmanager') / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",
            ],
            cwd=package,
            ready=lambda: processes.listening(self.port),
        )

    def fire(self, name: str, severity: str, *, over: bool = False) -> None:
        now = datetime.now(UTC)
        content = {
            "labels": {"alertname": name, "severity": severity, "pod": "api-1"},
            "annotations": {"summary": f"{name} is slow"},
            "startsAt": (now - timedelta(minutes=5)).isoformat(),
            **({"endsAt": (now - timedelta(seconds=1)).isoformat()} if over else {}),
        }
        httpx.post(f"http://127.0.0.1:{self.port}/api/v2/alerts", json=[content]).raise_for_status()


@contextmanager
def over_http(app: Any) -> Iterator[str]:
    """The app behind a port of its own."""
    made = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=_free_port(), log_level="warning"))
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    wait_until(lambda: made.started)
    yield f"http://127.0.0.1:{made.config.port}"
    made.should_exit = True
    thread.join(10)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_until(seen: Callable[[], Any], timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not seen():
        assert time.monotonic() < until, "it did not come in time"
        time.sleep(0.1)


def test_a_real_alertmanager_opens_it_while_the_ledger_was_away_and_tells_its_end(
    server: PageServer, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    with over_http(server.app) as address:
        sender = RealAlertmanager(home, f"{address}/upkeep/alertmanager/studyspot")
        away = {"conn_type": "postgres", "host": "127.0.0.1", "port": _free_port(), "schema": "x", "login": "x"}
        with monkeypatch.context() as broken:
            broken.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps(away))
            assert send(server, group(alert())).status_code == 503
            sender.start()
            try:
                sender.fire("CheckoutSlow", "critical")
                time.sleep(2)
            except BaseException:
                processes.stop(home, "alertmanager")
                raise
        try:
            assert incidents(ledger) == []
            wait_until(lambda: incidents(ledger))
            # It is said again every second, and stays one.
            time.sleep(3)
            (row,) = incidents(ledger)
            assert (row["severity"], row["title"]) == ("P1", "CheckoutSlow: CheckoutSlow is slow")
            assert kinds(ledger, row["id"]) == ["declared", "alerts", "respond"]
            assert [run_id for run_id, _ in runs()] == ["alertmanager__studyspot-1__P1"]
            sender.fire("CheckoutSlow", "critical", over=True)
            wait_until(lambda: kinds(ledger, row["id"]).count("alerts") == 2)
            assert timeline(ledger, row["id"])[-1]["said"].startswith("nothing of it fires any longer: ")
        finally:
            processes.stop(home, "alertmanager")


def test_a_missing_dag_is_named(server: PageServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    from upkeep.page import alertmanager

    monkeypatch.setattr(alertmanager, "RESPONSE", "no_such_dag")
    answer = send(server, group(alert()))
    assert (answer.status_code, answer.json()["detail"]) == (503, "Airflow knows no Dag no_such_dag")


def test_check_wants_a_password_that_nobody_guesses(studyspot: Platform) -> None:
    (need,) = [one for one in needs.own(studyspot) if one.kind == "alertmanager"]
    assert need.conn_id == "studyspot_alertmanager"
    (short,) = channels.alertmanager("x" * 15, need.conn_id)
    assert "15 letters" in short.findings[0].summary
    assert "openssl" in short.findings[0].hint
    (good,) = channels.alertmanager(PASSWORD, need.conn_id)
    assert good.state == "ok"


def test_a_short_password_opens_nothing(server: PageServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_ALERTMANAGER", json.dumps({"conn_type": "http", "password": "short"}))
    assert send(server, group(alert()), password="short").status_code == 401
    assert incidents(ledger) == []
