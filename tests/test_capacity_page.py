"""The capacity report and its place on the page, as people see them: on a desk, on a phone, by ear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sandbox.browser import chromium
from sandbox.home import REPOSITORY, Home
from tests.capacity_history import a_year_of, fill, today
from tests.conftest import run
from tests.page_server import PageServer, page_server, shop
from upkeep.capacity import forecasts
from upkeep.capacity.outlook import look_ahead
from upkeep.capacity.page import render
from upkeep.capacity.plot import picture
from upkeep.capacity.samples import Series, read
from upkeep.capacity.view import view
from upkeep.ledger import Ledger
from upkeep.platforms import platform
from upkeep.platforms.growth import Capacity

SCREENSHOTS = REPOSITORY / "artifacts" / "screenshots"

HOSTILE = "<img src=x onerror=alert(1)>'\""


@pytest.fixture(scope="module")
def server(control: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    platforms = [shop("shop", capacity={}), shop("young", capacity={}), shop("plain")]
    with page_server(control, tmp_path_factory.mktemp("page"), platforms) as made:
        with Ledger(made.conninfo) as ledger:
            a_year_of(ledger, "shop")
            fill(ledger, [0.5] * 40, "volume_share", HOSTILE, most=1.0, platform="shop")
            fill(ledger, [0.5] * 3, "volume_share", "db:/", most=1.0, platform="young")
            say(ledger, "shop")
        yield made


def say(ledger: Ledger, name: str) -> None:
    now = datetime.now(UTC)
    seen = [look_ahead(one, Capacity(), today()) for one in read(ledger, name, today())]
    forecasts.keep(ledger, run(1, platform=name), [forecasts.kept_of(one, now) for one in seen])


def test_the_page_shows_what_runs_out_first_and_needs_no_platform(server: PageServer) -> None:
    page = server.browser("Viewer").get("/upkeep/platforms/shop/capacity/")
    assert page.status_code == 200
    rows = re.findall(r'<td data-is="What"><span><span class="(\w+)">.*?</span>\s*(.*?)</span>', page.text, re.S)
    assert rows[0] == ("finding", "connections")
    assert rows[1] == ("finding", "volume db-0:9100:/var/lib/postgresql")
    assert ("unknown", "topic attempts.events") in rows
    assert "full in 25 days (early 22, late 28)".capitalize() in page.text
    assert "<img" not in page.text
    assert "&lt;img src=x" in page.text
    own = server.browser("Viewer").get("/upkeep/platforms/shop/")
    assert "What runs out first" in own.text
    assert own.text.index("Full already") < own.text.index("Full in 25 days")


def test_without_a_forecast_or_a_section_it_says_so(server: PageServer) -> None:
    viewer = server.browser("Viewer")
    assert "No forecast yet." in viewer.get("/upkeep/platforms/young/capacity/").text
    assert "3 days of samples so far" in viewer.get("/upkeep/platforms/young/capacity/").text
    assert "nothing is sampled" in viewer.get("/upkeep/platforms/plain/capacity/").text
    assert "What runs out first" not in viewer.get("/upkeep/platforms/plain/").text
    assert viewer.get("/upkeep/platforms/nobody/capacity/").status_code == 404
    assert server.browser().get("/upkeep/platforms/shop/capacity/").status_code == 401


def test_days_left_are_told_to_prometheus_and_grow_fewer_by_themselves(server: PageServer) -> None:
    labels = 'metric="volume_share",object="db-0:9100:/var/lib/postgresql",platform="shop",when="expected"'
    said = server.program("Viewer").get("/upkeep/metrics").text
    (line,) = [line for line in said.splitlines() if line.startswith(f"upkeep_capacity_left_seconds{{{labels}}}")]
    assert float(line.split()[-1]) == 25 * 86400
    assert 'object="node-0:9100:/"' not in said, "nobody has seen so far ahead"
    with Ledger(server.conninfo) as ledger:
        then = {one.name: one for one in forecasts.newest(ledger, "shop", datetime.now(UTC) + timedelta(days=20))}
    later = then["volume db-0:9100:/var/lib/postgresql"]
    assert (later.p10_days, later.p50_days, later.said) == (2, 5, "full in 5 days (early 2, late 8)")
    assert then["volume node-0:9100:/"].said == "not full within 160 days"


def test_the_report_fits_a_phone_asks_for_nothing_and_says_everything_in_words(
    server: PageServer, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    with Ledger(server.conninfo) as ledger:
        own = platform("shop")
        file = tmp_path / "capacity.html"
        file.write_bytes(render(view(ledger, own, now), now))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for name, width in (("desk", 1360), ("phone", 390)):
            page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))  # type: ignore[misc]
            page.on("console", lambda message: pytest.fail(message.text))
            page.goto(file.as_uri())
            assert asked == [file.as_uri()]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            plots = page.locator("svg.plot")
            assert plots.count() == 18
            assert page.get_by_role("img", name=re.compile("connections: 200 daily samples, .*; full already")).count()
            # The letters stay as large as they are meant to be, however narrow the picture.
            texts = page.locator("section[aria-labelledby=plots] svg.plot text")
            heights = texts.evaluate_all("texts => texts.map(t => t.getBBox().height)")
            assert min(heights) >= 11
            page.screenshot(path=SCREENSHOTS / f"capacity-{name}.png", full_page=True)


# -- pictures ------------------------------------------------------------------------------------------------


def drawn(values: list[float], *, most: float | None = 1.0, metric: str = "volume_share") -> tuple[Series, object]:
    first = today() - timedelta(days=len(values) - 1)
    days = {first + timedelta(days=place): value for place, value in enumerate(values) if value == value}
    series = Series(metric, "db:/", days, most)
    kept = forecasts.kept_of(look_ahead(series, Capacity(), today()), datetime.now(UTC))
    return series, picture(series, kept, 0.9)


NAN = float("nan")


def test_gaps_are_gaps_and_days_that_stand_alone_are_dots() -> None:
    _, made = drawn([0.5] * 20 + [NAN] * 5 + [0.6] + [NAN] * 5 + [0.7] * 20)
    assert made.history.count("M") == 2  # type: ignore[attr-defined]
    assert made.dots.count("M") == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "most"),
    [
        ([0.0] * 30, 1.0), ([0.0] * 30, None), ([5.0], None), ([5.0], 1.0), ([1e300] * 20, None), ([-3.0] * 20, None),
        ([1e-300] * 20, 1e300), (list(range(1100)), 1200.0), ([1.0, NAN] * 40, 1.0),
    ],
)  # fmt: skip
def test_whatever_is_drawn_stays_in_its_box(values: list[float], most: float | None) -> None:
    series, made = drawn([float(value) for value in values], most=most)
    everything = "".join((made.history, made.dots, made.band, made.edges, made.middle))  # type: ignore[attr-defined]
    places = [float(number) for number in re.findall(r"-?[\d.]+(?:e[-+]?\d+)?", everything)]
    assert "nan" not in everything
    assert all(0 <= place <= 1000 for place in places), max(places)
    assert len(everything) < 20_000, "three years are thinned"
    assert series.last[1] == values[-1] or values[-1] != values[-1]
