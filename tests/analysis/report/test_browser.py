"""The site in a browser: it asks for nothing outside its folder, sorts, filters, and fits a narrow screen.

Needs a Chromium of the system's own (apt-get install chromium); playwright, which drives it, downloads none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.report.small import build_small, write_results
from tests.analysis.stores import more_studies

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")

PAGES = (
    *("index.html", "leaderboard.html", "figures.html", "studies.html"),
    *("studies/widths.html", "notebooks/small.html", "notebooks/torn.html"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    with more_studies(tmp_path_factory.mktemp("conf")):
        return build_small(folder, write_results(folder)).folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What pages asked for outside their folder, and what they reported as wrong."""
    return []


@pytest.fixture
def opened(browser: Any, complaints: list[str]) -> Iterator[Any]:
    """A page at 360 pixels in which only files can be read."""
    context = browser.new_context(viewport={"width": 360, "height": 800})

    def refuse(route: Any) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    context.route("**/*", refuse)
    page = context.new_page()
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()


def column(page: Any, name: str) -> list[str]:
    """The shown cells of a column of the leaderboard."""
    heads = page.locator("#leaderboard thead th .dt-column-title").all_inner_texts()
    number = heads.index(name) + 1
    return page.locator(f"#leaderboard tbody tr td:nth-child({number})").all_inner_texts()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_loads_alone_and_fits(site: Path, opened: Any, complaints: list[str], name: str, scheme: str) -> None:
    opened.emulate_media(color_scheme=scheme)
    opened.goto((site / name).as_uri(), wait_until="load")
    if name == "leaderboard.html":
        opened.wait_for_selector("#leaderboard tbody td a")
    for closed in opened.locator("details > summary").all():
        closed.click()
    assert opened.locator("h1").count() == 1
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    assert complaints == []
    colour = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_leaderboard_sorts_and_filters(site: Path, opened: Any, complaints: list[str]) -> None:
    opened.set_viewport_size({"width": 1280, "height": 900})
    opened.goto((site / "leaderboard.html").as_uri())
    opened.wait_for_selector("#leaderboard tbody td a")
    assert sorted(column(opened, "variant")) == ["luna", "transformer"]
    head = opened.locator("#leaderboard thead th", has=opened.get_by_text("mean", exact=True)).first
    for direction, order in (("asc", [0.25, 0.55]), ("desc", [0.55, 0.25])):
        head.click()
        opened.wait_for_selector(f"#leaderboard thead th.dt-ordering-{direction}")
        assert [float(text) for text in column(opened, "mean")] == order
    opened.locator(".dt-search input").fill("transf")
    assert column(opened, "variant") == ["transformer"]
    opened.locator(".dt-search input").fill("")
    variant = opened.locator("#leaderboard thead th", has=opened.get_by_text("variant", exact=True)).first
    variant.locator(".dtcc-button").last.click()
    opened.locator(".dtcc-dropdown .dtcc-list-buttons .dtcc-button", has_text="luna").click()
    assert column(opened, "variant") == ["luna"]
    opened.keyboard.press("Escape")
    opened.locator("#leaderboard tbody td a").first.click()
    opened.wait_for_selector("section.arm:target")
    assert opened.url.endswith("studies/widths.html#laptop-arm-1")
    assert complaints == []


def test_a_link_to_a_run_opens_it(site: Path, opened: Any) -> None:
    opened.goto((site / "studies" / "widths.html").as_uri())
    link = opened.locator("table a[href^='#run-']").first
    target = str(link.get_attribute("href"))
    assert not opened.locator(target).is_visible()
    link.click()
    opened.locator(target).wait_for(state="visible")
