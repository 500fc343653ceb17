"""Where reports are kept: a directory tree or a bucket; whatever a run is called, its report stays in its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import __main__ as sandbox
from sandbox.home import Home
from sandbox.servers import s3
from tests.conftest import run
from upkeep.errors import SettingsError
from upkeep.ledger import Ledger
from upkeep.report.storage import DATA, PAGE, ReportError, announce, page_url, place, read, safe, store
from upkeep.settings import settings


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UPKEEP_REPORTS", f"file://{tmp_path}/kept/reports")
    settings.cache_clear()
    yield tmp_path / "kept" / "reports"  # type: ignore[misc]
    settings.cache_clear()


def test_a_report_is_stored_below_platform_dag_and_run_and_read_back(reports: Path) -> None:
    run_id = "scheduled__2026-11-14T02:00:00+00:00"
    store("studyspot", "studyspot_daily_maintenance", run_id, b"<html>", b"{}")
    (page,) = reports.rglob(PAGE)
    assert page.parent.parent == reports / "studyspot" / "studyspot_daily_maintenance"
    assert re.fullmatch(r"scheduled__2026-11-14T02-00-00-00-00\.[0-9a-f]{16}", page.parent.name)
    assert read("studyspot", "studyspot_daily_maintenance", run_id, PAGE) == b"<html>"
    assert read("studyspot", "studyspot_daily_maintenance", run_id, DATA) == b"{}"


def test_a_second_run_of_the_task_replaces_both_files(reports: Path) -> None:
    store("s", "d", "r", b"one", b"1")
    store("s", "d", "r", b"two", b"2")
    assert (read("s", "d", "r", PAGE), read("s", "d", "r", DATA)) == (b"two", b"2")
    assert len(list(reports.rglob("report.*"))) == 2


def test_a_report_whose_json_is_missing_was_not_finished_and_is_not_shown(reports: Path) -> None:
    store("s", "d", "r", b"one", b"1")
    next(reports.rglob(DATA)).unlink()
    assert read("s", "d", "r", PAGE) is None


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "🧨" * 300, "x" * 300, "%2e%2e", "a\0b"],
)
def test_no_run_id_leaves_the_reports_directory(reports: Path, name: str) -> None:
    store("studyspot", "dag", name, b"page", b"{}")
    (page,) = reports.rglob(PAGE)
    assert page.parent.parent == reports / "studyspot" / "dag"
    assert len(page.parent.name.encode()) <= 120
    assert read("studyspot", "dag", name, PAGE) == b"page"


def test_different_run_ids_never_share_a_directory() -> None:
    names = ["a:b", "a+b", "a-b", "a b", "a/b", "a.b", ".a.b", "..a.b", "", ".", "..", "x" * 150, "x" * 151]
    assert len({safe(name) for name in names}) == len(names)
    assert not [name for name in names if safe(name) in ("", ".", "..") or "/" in safe(name)]


def test_a_link_that_leads_out_of_the_reports_directory_is_not_followed(reports: Path, tmp_path: Path) -> None:
    store("s", "d", "r", b"page", b"{}")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    page = next(reports.rglob(PAGE))
    page.unlink()
    page.symlink_to(secret)
    assert read("s", "d", "r", PAGE) is None


def test_only_the_two_files_of_a_report_can_be_read(reports: Path) -> None:
    store("s", "d", "r", b"page", b"{}")
    (next(reports.rglob(DATA)).parent / "other").write_text("other")
    assert read("s", "d", "r", "other") is None


@pytest.fixture(scope="module")
def server() -> Iterator[Home]:
    with sandbox.temporary() as home:
        sandbox.up(home, only=["s3"], scale=0.02)
        yield home


def in_bucket(monkeypatch: pytest.MonkeyPatch, server: Home, bucket: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_REPORTS_S3", json.dumps(s3.connection_to(server)))
    monkeypatch.setenv("UPKEEP_REPORTS", f"s3://reports_s3@{bucket}/nightly")
    settings.cache_clear()


def test_a_bucket_keeps_reports_like_a_directory(server: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    in_bucket(monkeypatch, server, "upkeep-reports")
    run_id = "scheduled__2026-11-14T02:00:00+00:00"
    try:
        assert read("studyspot", "dag", run_id, PAGE) is None
        store("studyspot", "dag", run_id, b"<html>", b"{}")
        store("studyspot", "dag", run_id, b"<html>2", b"{}")
        assert read("studyspot", "dag", run_id, PAGE) == b"<html>2"
        assert read("studyspot", "dag", run_id, DATA) == b"{}"
        kept = Path(server.facts("s3")["root"]) / "upkeep-reports" / "nightly"
        assert sorted(file.name for file in kept.rglob("*") if file.is_file()) == [PAGE, DATA]
        (place("studyspot", "dag", run_id) / DATA).unlink()
        assert read("studyspot", "dag", run_id, PAGE) is None
    finally:
        settings.cache_clear()


def test_a_bucket_that_is_not_there_is_named_with_its_cure(server: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    in_bucket(monkeypatch, server, "no-such-bucket")
    try:
        with pytest.raises(ReportError, match=r"cannot be written at s3://.*no-such-bucket.*\nHINT: `reports` in"):
            store("s", "d", "r", b"", b"")
    finally:
        settings.cache_clear()
    assert not (Path(server.facts("s3")["root"]) / "no-such-bucket").exists()


def test_storage_that_refuses_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UPKEEP_REPORTS", f"file://{tmp_path}/file/reports")
    settings.cache_clear()
    try:
        with pytest.raises(
            ReportError, match=r"cannot be written at file://.*\nHINT: `reports` in include/upkeep.yaml"
        ):
            store("s", "d", "r", b"", b"")
    finally:
        settings.cache_clear()


def test_storage_behind_a_connection_that_does_not_exist_is_not_tried_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UPKEEP_REPORTS", "s3://nobody@bucket/reports")
    settings.cache_clear()
    try:
        with pytest.raises(SettingsError, match=r"no connection 'nobody'\nHINT: add it"):
            store("s", "d", "r", b"", b"")
    finally:
        settings.cache_clear()


def test_the_reports_address_is_on_record_and_survives_hostile_run_ids(ledger: Ledger) -> None:
    url = page_url("studyspot", "dag", "manual__2026-11-14T02:00:00+00:00 ../x?#")
    assert url.endswith("/upkeep/reports/studyspot/dag/manual__2026-11-14T02%3A00%3A00%2B00%3A00%20..%2Fx%3F%23/")
    announce(ledger, run(14), url)
    announce(ledger, run(14), url)
    assert ledger.rows("select report_url from runs") == [{"report_url": url}]


def test_place_is_where_settings_say(reports: Path) -> None:
    assert str(place("s", "d", "r")) == f"file://{reports}/s/d/r"
