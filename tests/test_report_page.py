"""The page in a real API server: what it shows, to whom, and what it never gives away."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import psycopg
import pytest

from sandbox import processes
from sandbox.browser import chromium
from sandbox.home import REPOSITORY, Home
from tests.test_report import NIGHT, busy_night
from upkeep.ledger import Ledger
from upkeep.ledger.migrate import migrate

AT = datetime(2026, 11, 14, 2, tzinfo=UTC)
DAG = NIGHT.dag_id
RUN = f"manual__{AT.isoformat()}"
PASSWORDS = {"admin": "only-for-this-test", "reader": "only-for-this-test-too"}

DAG_FILE = f'''
"""A Dag for a test."""
from airflow.sdk import DAG, task
from upkeep.report.operators import ReportOperator

for dag_id in ("{DAG}", "blind", "adaptive_learning_daily_maintenance"):
    with DAG(dag_id, schedule=None):
        @task
        def vacuum():
            raise RuntimeError("out of disk")
        vacuum() >> ReportOperator(
            task_id="report", platform="studyspot", trigger_rule="all_done", sections=["http", "postgres", "redis"]
        )
'''

PREPARE = f'''
import json, os, sys
from datetime import datetime, timezone
from airflow.utils import db
from airflow.utils.session import create_session

db.initdb()
from airflow.models import Connection
with create_session() as session:
    session.add(Connection(conn_id="upkeep_ledger", **json.loads(os.environ["LEDGER"])))
open("migrated", "w").close()
from airflow.dag_processing.dagbag import DagBag

bag = DagBag()
assert not bag.import_errors, bag.import_errors
at = datetime.fromisoformat("{AT.isoformat()}")
run = bag.dags["{DAG}"].test(logical_date=at, run_after=at)
print("REPORTED", run.run_id, {{ti.task_id: ti.state for ti in run.get_task_instances()}})
# The same with a ledger that is down: an environment variable wins over Airflow's database.
os.environ["AIRFLOW_CONN_UPKEEP_LEDGER"] = "postgres://u:hunter22@127.0.0.1:1/none"
run = bag.dags["blind"].test(logical_date=at, run_after=at)
print("BLIND", {{ti.task_id: ti.state for ti in run.get_task_instances()}})
'''


@dataclass(frozen=True)
class Airflow:
    """A running API server, and what was said while its one Dag ran."""

    url: str
    home: Path
    said: str

    def client(self, user: str = "admin") -> httpx.Client:
        """Somebody who is logged in, as a program."""
        answer = httpx.post(f"{self.url}/auth/token", json={"username": user, "password": PASSWORDS[user]})
        token = answer.raise_for_status().json()["access_token"]
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    @property
    def report(self) -> str:
        return f"/upkeep/reports/studyspot/{DAG}/{quote(RUN, safe='')}/"


@pytest.fixture(scope="module")
def airflow(control: Home) -> Iterator[Airflow]:
    """An Airflow with its own database, one finished run, and an API server."""
    home = Home(Path(tempfile.mkdtemp(prefix="up-", dir="/tmp")))
    server = control.state()["connections"]["upkeep_ledger"]
    superuser = control.facts("postgres.control")["superuser_dsn"]
    name = f"ledger_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute(f"create database {name} owner {server['login']}")
    conninfo = psycopg.conninfo.make_conninfo(
        host=server["host"], port=server["port"], user=server["login"], password=server["password"], dbname=name
    )
    migrate(conninfo)
    with Ledger(conninfo) as ledger:
        busy_night(ledger, run_id=RUN)
    port = home.port("api")
    url = f"http://127.0.0.1:{port}"
    (home.directory("dags") / "one.py").write_text(DAG_FILE)
    (home.path / "passwords.json").write_text(json.dumps(PASSWORDS))
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "UPKEEP_"))},
        "AIRFLOW_HOME": str(home.path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home.path / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,reader:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home.path / "passwords.json"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.path}/airflow.db?timeout=30",
        "AIRFLOW__API__BASE_URL": url,
        "UPKEEP_AIRFLOW_URL": url,
        "UPKEEP_REPORTS": f"file://{home.path}/reports",
        "LEDGER": json.dumps(
            {"conn_type": "postgres", **{k: server[k] for k in ("host", "port", "login", "password")}, "schema": name}
        ),
    }
    try:
        # The API server starts while the Dag runs; both need the tables first.
        preparing = subprocess.Popen(
            [sys.executable, "-c", PREPARE],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home.path,
        )
        migrated = home.path / "migrated"
        processes.wait_until(lambda: migrated.exists() or preparing.poll() is not None, 60, "Airflow's tables")
        processes.start(
            home,
            "api",
            [Path(sys.executable).parent / "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)],
            env=env,
            timeout_s=60,
        )
        said, _ = preparing.communicate(timeout=120)
        assert preparing.returncode == 0, said[-8000:]
        processes.wait_until(lambda: _healthy(url), 60, "the API server", home.logs / "api.log")
        yield Airflow(url, home.path, said)
    finally:
        processes.stop(home, "api", timeout_s=2)
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute(f"drop database {name} with (force)")
        shutil.rmtree(home.path, ignore_errors=True)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/v2/version", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


# -- the task ------------------------------------------------------------------------------------------------


def test_the_report_is_written_although_a_task_before_it_failed(airflow: Airflow) -> None:
    assert f"REPORTED {RUN} " in airflow.said
    states = re.search(r"REPORTED .*", airflow.said)
    assert states is not None
    assert "'vacuum': <TaskInstanceState.FAILED" in states[0] or "'vacuum': 'failed'" in states[0]
    assert "'report': <TaskInstanceState.SUCCESS" in states[0] or "'report': 'success'" in states[0]
    assert len(list((airflow.home / "reports").rglob("report.html"))) == 1


def test_the_tasks_log_says_what_the_report_says(airflow: Airflow) -> None:
    assert "StudySpot studyspot_daily_maintenance: FAILED: 1 task failed; 2 findings, worst " in airflow.said
    assert f"report: {airflow.url}{airflow.report}" in airflow.said


def test_with_the_ledger_down_the_task_fails_and_says_so_without_the_password(airflow: Airflow) -> None:
    said = airflow.said[airflow.said.index("REPORTED") :]
    assert "the ledger (connection `upkeep_ledger`) cannot be used" in said
    assert "HINT: start its server or correct the connection" in said
    assert "'report': <TaskInstanceState.FAILED" in said or "'report': 'failed'" in said
    assert "hunter22" not in airflow.said


def test_the_task_has_a_link_to_its_report(airflow: Airflow) -> None:
    with airflow.client() as client:
        answer = client.get(f"/api/v2/dags/{DAG}/dagRuns/{quote(RUN, safe='')}/taskInstances/report/links")
    assert answer.json()["extra_links"] == {"Report": f"{airflow.url}{airflow.report}"}


def test_the_plugin_is_loaded_whole_and_stands_in_the_navigation(airflow: Airflow) -> None:
    with airflow.client() as client:
        (plugin,) = [p for p in client.get("/api/v2/plugins").json()["plugins"] if p["name"] == "upkeep"]
        assert client.get("/api/v2/plugins/importErrors").json()["total_entries"] == 0
    assert [(view["name"], view["href"]) for view in plugin["external_views"]] == [("Upkeep", "/upkeep/")]


# -- the pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", PASSWORDS)
def test_whoever_may_read_the_dag_reads_its_report(airflow: Airflow, user: str) -> None:
    with airflow.client(user) as client:
        page, data = client.get(airflow.report), client.get(f"{airflow.report}report.json")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "62 of 64 MiB in use (97 %)" in page.text
    assert data.headers["content-type"] == "application/json"
    assert data.json()["run_id"] == RUN
    assert {task["task_id"]: task["state"] for task in data.json()["tasks"]} == {"vacuum": "failed"}


def test_every_answer_forbids_scripts_and_everything_from_outside(airflow: Airflow) -> None:
    with airflow.client() as client:
        for path in (airflow.report, f"{airflow.report}report.json", "/upkeep/", "/upkeep/reports/a/b/c/", "/upkeep/x"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
            assert "frame-ancestors 'self'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "private, no-store"


def test_the_index_leads_to_the_newest_report_of_each_platform(airflow: Airflow) -> None:
    with airflow.client() as client:
        page = client.get("/upkeep/")
        assert page.status_code == 200
        assert "StudySpot" in page.text
        assert "2 findings open, worst P1 Critical" in page.text
        (link,) = re.findall(r'href="/upkeep/(reports/[^"]*)"', page.text)
        assert f"/upkeep/{link}" == airflow.report
        assert client.get(f"/upkeep/{link}").status_code == 200


def test_a_platform_without_a_report_is_not_called_well(airflow: Airflow) -> None:
    with airflow.client() as client:
        page = client.get("/upkeep/").text
    section = page[page.index("Adaptive Learning") :]
    assert "no report yet" in section
    assert "no finding open" not in section


def test_a_program_without_a_login_gets_401_and_nothing_else(airflow: Airflow) -> None:
    for path in ("/upkeep/", airflow.report, f"{airflow.report}report.json", "/upkeep/reports/a/b/c/"):
        answer = httpx.get(f"{airflow.url}{path}", headers={"accept": "application/json"})
        assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})


def test_a_forged_token_opens_nothing(airflow: Airflow) -> None:
    for headers in ({"Authorization": "Bearer forged"}, {"Cookie": "_token=forged", "accept": "application/json"}):
        assert httpx.get(f"{airflow.url}{airflow.report}", headers=headers).status_code in (401, 403)


@pytest.mark.parametrize("cookie", ["", "_token=forged"])
def test_a_browser_without_a_login_is_led_to_it_and_back(airflow: Airflow, cookie: str) -> None:
    headers = {"accept": "text/html,application/xhtml+xml", **({"Cookie": cookie} if cookie else {})}
    answer = httpx.get(f"{airflow.url}{airflow.report}", headers=headers)
    assert answer.status_code == 401
    login = answer.headers["refresh"].removeprefix("0; url=")
    assert urlsplit(login).path == "/api/v2/auth/login"
    second = httpx.get(f"{airflow.url}{login}", headers=headers)
    assert second.status_code == 307
    back = parse_qs(urlsplit(second.headers["location"]).query)["next"]
    assert back == [airflow.report]


def test_no_documentation_page_of_the_framework_is_public(airflow: Airflow) -> None:
    for path in ("docs", "redoc", "openapi.json"):
        assert httpx.get(f"{airflow.url}/upkeep/{path}").status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/upkeep/reports/studyspot/{dag}/..%2f..%2f..%2fpasswords.json/",
        "/upkeep/reports/..%2f..%2f/{dag}/x/report.json",
        "/upkeep/reports/../../passwords.json",
        "/upkeep/reports/studyspot/{dag}/../../../passwords.json",
        "/upkeep/reports/studyspot/{dag}/%2e%2e/report.json",
        "/upkeep/reports/studyspot/{dag}/{run}/..%2f..%2freport.json",
        "/upkeep/reports/studyspot/{dag}/{run}/other.txt",
        "/upkeep/reports/studyspot/{dag}/{run}%00/",
        "/upkeep/reports/%2fetc/passwd/x/",
    ],
)
def test_nothing_but_reports_can_be_read(airflow: Airflow, path: str) -> None:
    (airflow.home / "reports" / "studyspot" / DAG / "other.txt").write_text("only-for-this-test")
    # Spelled out byte by byte: a client library would tidy the path up before it sends it.
    with airflow.client() as client:
        target = path.format(dag=DAG, run=quote(RUN, safe=""))
        request = client.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=target.encode())
        answer = client.send(request)
    assert answer.status_code in (307, 404, 200)
    assert "only-for-this-test" not in answer.text
    if answer.status_code == 200:
        # Airflow's own catch-all answers whatever is not ours.
        assert '<div id="root"' in answer.text


def test_a_report_that_does_not_exist_is_said_to_be_that(airflow: Airflow) -> None:
    with airflow.client() as client:
        answer = client.get(f"/upkeep/reports/studyspot/{DAG}/<script>/", headers={"accept": "text/html"})
    assert answer.status_code == 404
    assert "its task `report` has not run yet or failed" in answer.text
    assert "<script>" not in answer.text


@pytest.mark.soak  # tests/test_ui.py opens a report in every run
def test_in_a_browser_one_logs_in_and_reads_the_report_on_desk_and_phone_in_light_and_dark(airflow: Airflow) -> None:
    pictures = REPOSITORY / "artifacts" / "screenshots"
    pictures.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.goto(f"{airflow.url}{airflow.report}")
        page.get_by_label("Username").fill("reader")
        page.get_by_label("Password").fill(PASSWORDS["reader"])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"**{airflow.report}", timeout=30_000)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda r: None if r.url.startswith(("data:", airflow.url)) else complaints.append(r.url))
        for scheme in ("light", "dark"):
            for device, width in (("desk", 1280), ("phone", 360)):
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                page.goto(f"{airflow.url}{airflow.report}")
                assert page.get_by_text("62 of 64 MiB in use (97 %)").first.is_visible()
                assert page.evaluate("document.documentElement.scrollWidth") == width, "it scrolls sideways"
                page.screenshot(path=pictures / f"report_{device}_{scheme}.png", full_page=True)
        # By keyboard alone: the first stop skips to the content, and groups open with Enter.
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        folded = page.locator("details.group:not([open]) > summary")
        before = folded.count()
        folded.first.focus()
        page.keyboard.press("Enter")
        assert folded.count() == before - 1
        page.goto(f"{airflow.url}/upkeep/")
        page.get_by_role("link", name="Daily maintenance of StudySpot").click()
        assert page.url == f"{airflow.url}{airflow.report}"
        assert complaints == []
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(airflow.url)
        page.get_by_text("Browse", exact=True).click()
        page.get_by_role("menuitem", name="Upkeep").wait_for()
        page.screenshot(path=pictures / "report_navigation.png")
        with context.expect_page() as opened:
            page.get_by_role("menuitem", name="Upkeep").click()
        assert opened.value.url == f"{airflow.url}/upkeep/"
        assert opened.value.get_by_role("link", name="StudySpot", exact=True).is_visible()
