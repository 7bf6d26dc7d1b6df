"""The admin's page for everybody: names for every column, scrolling by keyboard, whole labels."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_helpers import PASSWORD, admin_client, admin_settings, busy_store, log_in
from playwright.sync_api import Browser, sync_playwright
from test_browser import CHROMIUM_FLAGS
from werkzeug.serving import make_server

from ml_backend.app import Services, create_app
from training.report_figures import Dot, Series, bar_chart, line_chart

STYLE = Path(__file__).resolve().parents[1] / "ml_backend/dashboard/static/dashboard.css"
NAMES = (
    "Vegetation and terrain xyz", "W" * 40, "歩行者と自転車と自動車と信号機と歩道と道路標識です",
    "a very long name of a class that goes on and on", "Sky",
)  # fmt: skip
# Texts of pictures that stick out of them, as [text, px outside].
CLIPPED = """() => [...document.querySelectorAll('svg[role=img]')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].map(text => {
    const r = text.getBoundingClientRect();
    return [text.textContent, Math.max(box.left - r.left, r.right - box.right,
                                       box.top - r.top, r.bottom - box.bottom)];
  }).filter(([, outside]) => outside > 0.25);
})"""
# What can be scrolled and neither takes the focus nor holds anything that does.
UNREACHABLE = """() => [...document.querySelectorAll('main *')].filter(item =>
  item.scrollWidth > item.clientWidth + 1
  && ['auto', 'scroll'].includes(getComputedStyle(item).overflowX)
  && item.tabIndex < 0 && !item.querySelector('a, button, input, summary')
).map(item => item.outerHTML.slice(0, 80))"""


def test_every_column_has_a_name_and_what_scrolls_takes_the_focus(tmp_path: Path) -> None:
    """axe-core's empty-table-header and scrollable-region-focusable, which both failed here."""
    with busy_store(tmp_path / "home") as store:
        client = admin_client(admin_settings(tmp_path / "home"), store)
        log_in(client)
        html = client.get("/dashboard/projects/4").get_data(as_text=True)
    headers = re.findall(r"<th[^>]*>(.*?)</th>", html)
    assert len(headers) > 10
    assert all(text.strip() for text in headers)
    scrolling = re.findall(r'<div class="wide"([^>]*)>', html)
    assert len(scrolling) == 4
    for attributes in scrolling:
        assert 'tabindex="0"' in attributes
        named = re.search(r'aria-labelledby="(\w+)"', attributes)
        assert named is not None
        assert f'<h2 id="{named[1]}">' in html


@pytest.fixture
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("Chromium is not installed (`make browser` installs Debian's)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=executable, args=list(CHROMIUM_FLAGS))
        yield found
        found.close()


@pytest.mark.server
@pytest.mark.parametrize("width", [390, 1400])
def test_a_phone_and_a_desk_show_everything_and_the_keyboard_reaches_it(
    browser: Browser, width: int, tmp_path: Path
) -> None:
    """Seen failing without the tabindex of the tables: on a phone no key scrolled them."""
    with busy_store(tmp_path / "home") as store:
        app = create_app(Services(admin_settings(tmp_path / "home"), store))
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(f"http://127.0.0.1:{server.server_port}/dashboard/login")
            page.fill("input[name=user]", "admin")
            page.fill("input[name=password]", PASSWORD)
            page.press("input[name=password]", "Enter")
            page.wait_for_url(lambda url: "/login" not in url)
            for path in ("/dashboard/", "/dashboard/projects/4"):
                page.goto(f"http://127.0.0.1:{server.server_port}{path}")
                assert page.evaluate(UNREACHABLE) == []
                assert page.evaluate(CLIPPED) == []
            if width == 390:
                table = page.locator("div.wide[aria-labelledby=versions]")
                table.focus()
                page.keyboard.press("ArrowRight")
                page.wait_for_function("item => item.scrollLeft > 0", arg=table.element_handle())
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def charts() -> list[Any]:
    """Curves and bars as hard to label as they come."""

    def curve(*dots: tuple[float, float]) -> list[Series]:
        return [Series("mIoU", tuple(Dot(x, y, None, "") for x, y in dots), 0)]

    return [
        line_chart(curve((221, 29.2), (900, 53.1)), "clicks", "mIoU, %"),
        line_chart(curve((221, 29.12), (1_234_567, 29.13)), "clicks", "mIoU, %", 29.1),
        line_chart(curve((2, 0.0292)), "estimated seconds of annotators", "mIoU, %"),
        bar_chart(NAMES, [("r1", 0, [0.5] * len(NAMES))]),
    ]


@pytest.mark.server
@pytest.mark.parametrize("width", [390, 1400])
def test_no_label_of_a_chart_is_clipped(browser: Browser, width: int) -> None:
    """Seen failing as it was: a phone cut the beginning off long class names and off "mIoU, %"."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    style = STYLE.read_text(encoding="utf-8")
    for chart in charts():
        page.set_content(
            f"<style>{style}</style><main><div class='columns charts'><section class='panel'>"
            f"<div class='wide'>{chart}</div></section></div></main>"
        )
        assert page.locator("svg[role=img] text").count() > 3
        assert page.evaluate(CLIPPED) == []


def test_a_shortened_name_can_still_be_read_whole() -> None:
    chart = str(bar_chart(NAMES, [("r1", 0, [0.5] * len(NAMES))]))
    for name in NAMES:
        assert f"<title>{name}</title>" in chart
    assert ">Sky</text>" in chart
    assert f">{'W' * 40}</text>" not in chart
    assert "…</text>" in chart
