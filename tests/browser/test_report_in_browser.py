"""The report in a real browser: it is rendered correctly, runs no scripts and sends no requests."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# Where a browser must be there (.ci/run says so), its absence is a failure and not a skip.
REQUIRED = "USERTUNE_REQUIRE_BROWSER" in os.environ
pytestmark = pytest.mark.skipif(
    not ((CHROMIUM and DRIVER) or REQUIRED),
    reason="chromium and chromedriver are needed (apt-get install chromium chromium-driver)",
)

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
ARGUMENTS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in [*ARGUMENTS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def requested(browser: webdriver.Chrome) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def test_report_in_a_browser(make_study: Callable[..., Any], browser: webdriver.Chrome) -> None:
    page = make_study(hostile=HOSTILE).report()
    browser.get("about:blank")
    requested(browser)  # what the browser's own start page asked for does not count
    browser.get(page.as_uri())

    assert browser.title == "A <b>bold</b> study"
    assert HOSTILE in browser.execute_script("return document.querySelector('#examples').innerText")
    sizes = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(sizes) == 3 + 2
    assert all(sizes)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background != "rgba(0, 0, 0, 0)"  # the policy lets the style sheet in

    outside = [url for url in requested(browser) if not url.startswith(("data:", page.as_uri()))]
    assert outside == []
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [320, 400, 1100])
def test_no_horizontal_overflow(make_study: Callable[..., Any], browser: webdriver.Chrome, width: int) -> None:
    page = make_study(hostile="W" * 300, samples=2).report()
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page(make_study: Callable[..., Any], browser: webdriver.Chrome, scheme: str) -> None:
    page = make_study(samples=2).report()
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())
    ink, soft, paper = (
        luminance(browser.execute_script(f"return getComputedStyle(document.querySelector('{selector}')).{name}"))
        for selector, name in (("body", "color"), (".note", "color"), ("body", "backgroundColor"))
    )
    assert (paper > 0.5) == (scheme == "light")
    for text in (ink, soft):
        lighter, darker = max(text, paper), min(text, paper)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5  # WCAG 2.2, success criterion 1.4.3


def luminance(colour: str) -> float:
    """Relative luminance of a CSS ``rgb()`` colour as WCAG defines it."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
