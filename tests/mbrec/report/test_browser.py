"""A report in a real browser: nothing overflows, nothing is fetched, nothing complains."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSER = next((p for p in map(shutil.which, ("chromium", "google-chrome")) if p), None)
DRIVER = shutil.which("chromedriver")
SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage"
)
PHONE, DESKTOP = 360, 1280
VIEWS = [(width, scheme) for width in (PHONE, DESKTOP) for scheme in ("light", "dark")]
# What sticks out of the window, but for what scrolls in a box of its own.
OUTSIDE = """
return [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll, pre, nav, svg'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))
"""
CUT = """
return [...document.querySelectorAll('figure svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')]
    .filter(t => { const b = t.getBoundingClientRect();
                   return b.left < box.left - 8 || b.right > box.right + 8; })
    .map(t => t.textContent);
})
"""
COLORS = """
const style = getComputedStyle(document.body);
return [style.color, style.backgroundColor];
"""
SMALLEST = """
return Math.min(...[...document.querySelectorAll('figure svg text')]
  .map(t => parseFloat(getComputedStyle(t).fontSize)
            * t.ownerSVGElement.getBoundingClientRect().width
            / t.ownerSVGElement.viewBox.baseVal.width))
"""

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="Chromium and its driver are not installed"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for switch in SWITCHES.split():
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def show(browser: Any, page: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme_of = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme_of]})
    browser.get(page.as_uri())


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_nothing_overflows_and_all_can_be_read(
    browser: Any, page_path: Path, width: int, scheme: str
) -> None:
    show(browser, page_path, width, scheme)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(OUTSIDE) == []
    assert browser.execute_script(CUT) == []
    assert browser.execute_script(SMALLEST) >= 8.5  # pixels
    text, paper = (brightness(color) for color in browser.execute_script(COLORS))
    assert (paper < 60 < 180 < text) if scheme == "dark" else (text < 60 < 240 < paper)


def test_no_request_leaves_the_page_and_the_console_is_silent(
    browser: Any, page_path: Path
) -> None:
    browser.get_log("performance")
    show(browser, page_path, DESKTOP, "light")
    entries = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = [
        entry["params"]["request"]["url"]
        for entry in entries
        if entry["method"] == "Network.requestWillBeSent"
    ]
    own = page_path.as_uri()
    assert own in asked
    assert [url for url in asked if url != own and not url.startswith("data:")] == []
    assert browser.get_log("browser") == []


def test_it_prints_in_black_on_white_without_what_only_a_screen_needs(
    browser: Any, page_path: Path
) -> None:
    show(browser, page_path, DESKTOP, "dark")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    text, paper = (brightness(color) for color in browser.execute_script(COLORS))
    assert text < 60 and paper > 240
    nav = "return getComputedStyle(document.querySelector('nav')).display"
    assert browser.execute_script(nav) == "none"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page") > 2


def brightness(color: str) -> float:
    """0 … 255, of "rgb(r, g, b)"."""
    red, green, blue = (float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])
    return 0.3 * red + 0.59 * green + 0.11 * blue
