"""Airflow's own pages in a real browser: what the people who run Upkeep see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sandbox.browser import chromium
from sandbox.home import REPOSITORY
from tests.conftest import Live

pytestmark = pytest.mark.live

SCREENSHOTS = REPOSITORY / "artifacts" / "screenshots"


@pytest.fixture(scope="module")
def page(live: Live) -> Iterator[Page]:
    """Logged in as admin."""
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1360, "height": 900}, base_url=live.api.url)
        page = context.new_page()
        page.goto("/")
        page.get_by_label("Username").fill("admin")
        page.get_by_label("Password").fill("admin")
        page.get_by_role("button", name=re.compile("sign in|login", re.I)).click()
        # The login page redirects more than once; whoever navigates before the last of them is interrupted by it.
        page.wait_for_url(lambda url: "/auth/" not in url)
        page.wait_for_load_state("networkidle")
        yield page


def picture(page: Page, name: str) -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    file = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=file, full_page=True)
    return file


def test_both_daily_dags_are_listed_with_their_docs(live: Live, page: Page) -> None:
    live.api.wait_for_dags("studyspot_daily_maintenance", "adaptive_learning_daily_maintenance")
    page.goto("/dags?tags=daily&tags_match_mode=any")
    for name in ("studyspot", "adaptive_learning"):
        expect(page.get_by_role("link", name=f"{name}_daily_maintenance", exact=True).first).to_be_visible(
            timeout=20_000
        )
    picture(page, "dags")
    page.goto("/dags/studyspot_daily_maintenance")
    page.get_by_role("button", name=re.compile("dag docs", re.I)).first.click()
    expect(page.get_by_text("Daily maintenance of one platform")).to_be_visible(timeout=20_000)
    picture(page, "docs")


def test_a_green_run_and_its_report_one_click_away(live: Live, page: Page) -> None:
    run_id, states = live.maintain("studyspot")
    assert states[""] == "success", states
    page.goto(f"/dags/studyspot_daily_maintenance/runs/{run_id}")
    expect(page.get_by_text(re.compile("^success$", re.I)).first).to_be_visible(timeout=20_000)
    picture(page, "run")
    page.goto(f"/dags/studyspot_daily_maintenance/runs/{run_id}/tasks/report/details")
    link = page.locator('a[href*="/upkeep/reports/"]', has_text=re.compile("^Report$")).first
    expect(link).to_be_visible(timeout=20_000)
    picture(page, "task")
    href = link.get_attribute("href")
    assert href
    page.goto(href)
    expect(page.get_by_role("heading", level=1)).to_contain_text("StudySpot")
    picture(page, "report")


def test_the_report_asks_for_a_login(live: Live, page: Page) -> None:
    assert page.context.browser
    stranger = page.context.browser.new_context(base_url=live.api.url).new_page()
    stranger.goto("/upkeep/")
    expect(stranger.get_by_label("Password")).to_be_visible(timeout=20_000)
    assert "StudySpot" not in stranger.content()
