"""The page in a whole Airflow, as a person meets it: log in, its place in the navigation, what is red, waiving it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sandbox.browser import chromium
from sandbox.faults import break_it, heal_it
from sandbox.home import REPOSITORY
from tests.conftest import Live

pytestmark = [pytest.mark.live, pytest.mark.soak]

SCREENSHOTS = REPOSITORY / "artifacts" / "screenshots"

WHY = "the cache moves to a larger machine on Friday"


@pytest.fixture
def page(live: Live) -> Iterator[Page]:
    """A browser that has not logged in; it may ask nobody but Airflow."""
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=live.api.url)
        page = context.new_page()
        page.on("request", lambda request: _from_here(request.url, live.api.url))
        yield page


def _from_here(url: str, airflow: str) -> None:
    assert url.startswith((airflow, "data:", "blob:")), url


def picture(page: Page, name: str) -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    file = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=file, full_page=True)
    return file


def test_one_logs_in_finds_the_page_sees_what_is_red_waives_it_and_reads_its_report(live: Live, page: Page) -> None:
    break_it(live.home, "studyspot_redis_down")
    try:
        _, states = live.maintain("studyspot")
    finally:
        heal_it(live.home, "studyspot_redis_down")
    assert states["health"] == "failed", states

    # Whoever comes without a login is led to it, and back to where they wanted to go.
    answer = page.goto("/upkeep/platforms/studyspot/")
    assert answer is not None
    assert answer.status == 401
    page.get_by_label("Username").fill("admin", timeout=20_000)
    page.get_by_label("Password").fill("admin")
    page.get_by_role("button", name=re.compile("sign in|login", re.I)).click()
    page.wait_for_url("**/upkeep/platforms/studyspot/", timeout=30_000)
    expect(page.get_by_role("heading", level=1)).to_have_text("StudySpot")

    # From Airflow's own navigation.
    page.goto("/")
    page.get_by_text("Browse", exact=True).click(timeout=30_000)
    with page.context.expect_page() as opened:
        page.get_by_role("menuitem", name="Upkeep").click()
    upkeep = opened.value
    upkeep.wait_for_load_state()
    row = upkeep.get_by_role("row").filter(has=upkeep.get_by_role("link", name="StudySpot", exact=True))
    expect(row).to_contain_text("open, worst")
    picture(upkeep, "page_overview")
    upkeep.get_by_role("link", name="StudySpot", exact=True).click()
    finding = upkeep.locator("article").filter(has_text="redis_connect").first
    expect(finding).to_be_visible()
    for device, width in (("desk", 1280), ("phone", 360)):
        for scheme in ("light", "dark"):
            upkeep.set_viewport_size({"width": width, "height": 900})
            upkeep.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            assert upkeep.evaluate("document.documentElement.scrollWidth") == width, "it scrolls sideways"
            picture(upkeep, f"page_platform_{device}_{scheme}")
    upkeep.set_viewport_size({"width": 1280, "height": 900})

    # By keyboard alone: skip to the content, then waive.
    upkeep.keyboard.press("Tab")
    assert upkeep.evaluate("document.activeElement.className") == "skip"
    finding.get_by_role("link", name=re.compile("^Waive")).focus()
    upkeep.keyboard.press("Enter")
    upkeep.get_by_label("Why is this acceptable").fill(WHY)
    picture(upkeep, "page_waive")
    upkeep.get_by_role("button", name="Waive as admin").focus()
    upkeep.keyboard.press("Enter")
    upkeep.wait_for_url("**/findings/?state=waived*")
    expect(upkeep.locator("article").filter(has_text="redis_connect")).to_contain_text("by admin until")
    picture(upkeep, "page_waived")
    with live.ledger() as ledger:
        (waiver,) = ledger.rows("select owner, reason from waivers where until > now()")
    assert waiver == {"owner": "admin", "reason": WHY}
    upkeep.get_by_role("button", name=re.compile("^Take back")).click()
    upkeep.wait_for_url("**/findings/?platform=studyspot")
    expect(upkeep.locator("article").filter(has_text="redis_connect").first).to_be_visible()

    # And the report, one click away.
    upkeep.get_by_role("link", name="Upkeep", exact=True).click()
    row.get_by_role("link", name="Daily maintenance of StudySpot").click()
    expect(upkeep.get_by_role("heading", level=1)).to_contain_text("StudySpot")
    expect(upkeep.get_by_text("redis_connect").first).to_be_visible()

    # Healed, the next run says so.
    _, states = live.maintain("studyspot")
    assert states["health"] == "success", states
    upkeep.goto(f"{live.api.url}/upkeep/findings/?platform=studyspot&state=all&words=redis_connect")
    expect(upkeep.locator("article").filter(has_text="redis_connect").first).to_contain_text("over")
