"""The report in a real browser: what it shows, that it is accessible, and that it asks the network for nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest

pytest.importorskip("selenium")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.support.synthetic_study import SyntheticStudy
from tests.support.vendored import packed
from usertune.reporting.browser import pictures

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# Where a browser must be there (.ci/run says so), its absence is a failure and not a skip.
REQUIRED = "USERTUNE_REQUIRE_BROWSER" in os.environ
pytestmark = pytest.mark.skipif(
    not ((CHROMIUM and DRIVER) or REQUIRED),
    reason="chromium and chromedriver are needed (apt-get install chromium chromium-driver)",
)

AXE = ("axe-core", "4.14.1")
HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">" + "W" * 200
USERS = ["1", "2", "c0ffee00-1234-5678-9abc-def012345678", "ana"]
ARGUMENTS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in [*ARGUMENTS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    """A study with hostile texts and long names, whose report is written."""
    made = SyntheticStudy(tmp_path_factory.mktemp("study") / "study", users=USERS, hostile=HOSTILE, samples=20).write()
    made.report()
    return made


@pytest.fixture
def open_page(browser: webdriver.Chrome, study: SyntheticStudy) -> Callable[..., webdriver.Chrome]:
    """Return what opens the report, with filters in its address, and waits for the list of samples."""
    return partial(open_report, browser, study)


def open_report(
    browser: webdriver.Chrome, study: SyntheticStudy, address: str = "", width: int = 1280, scheme: str = "light"
) -> webdriver.Chrome:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get("about:blank")
    requested(browser)  # what the browser's own start page asked for does not count
    browser.get((study.root / "report.html").as_uri() + address)
    until(browser, "return document.documentElement.dataset.samples === 'ready'")
    return browser


def until(browser: webdriver.Chrome, script: str) -> None:
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script(script))


def requested(browser: webdriver.Chrome) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def shown(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "sample-title").text


def count(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "samples-count").text


def counted(browser: webdriver.Chrome, expected: int) -> None:
    """Wait until the list has this many samples."""
    until(browser, f"return document.getElementById('samples-count').textContent.startsWith('{expected} of ')")


def click(browser: webdriver.Chrome, element: WebElement) -> None:
    # A click at the element's place could come before the page has scrolled there.
    browser.execute_script("arguments[0].click()", element)


def choose(browser: webdriver.Chrome, name: str, text: str) -> None:
    Select(browser.find_element(By.NAME, name)).select_by_visible_text(text)


def samples_of(study: SyntheticStudy) -> pd.DataFrame:
    return pd.read_csv(study.root / "tables/samples.csv", dtype={"user": str, "id": str})


def test_the_page_loads_nothing_and_hostile_texts_stay_texts(
    study: SyntheticStudy, open_page: Callable[..., Any]
) -> None:
    page = study.root / "report.html"
    browser = open_page("#user=1&sample=1/0")
    assert browser.title == "A <b>bold</b> study"
    assert HOSTILE in browser.execute_script("return document.querySelector('#sample').innerText")
    assert "I cannot see it. <script>" in browser.execute_script("return document.querySelector('#sample').innerText")
    sizes = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(sizes) > 3 + 1
    assert all(sizes)
    assert browser.execute_script("return document.querySelectorAll('#sample ellipse').length") == 2
    outside = [url for url in requested(browser) if not url.startswith(("data:", page.as_uri()))]
    assert outside == []
    assert browser.get_log("browser") == []


def test_the_list_begins_with_failures_of_the_worst_user(study: SyntheticStudy, open_page: Callable[..., Any]) -> None:
    browser, table = open_page(), samples_of(study)
    own = table[table["experiment"] == "full_tuned"]
    worst = own.groupby("user")["hit_140"].mean().reindex(USERS).idxmin()
    failed = own[own["hit_140"] == 0]
    assert count(browser) == f"{len(failed)} of {len(own)} samples"
    assert shown(browser).startswith(f"User {worst}, sample {worst}/")
    link = browser.find_element(By.CSS_SELECTOR, "#samples > p a")
    assert link.text == worst
    click(browser, link)
    until(
        browser,
        f"return document.getElementById('samples-count').textContent.startsWith('{sum(failed['user'] == worst)} of')",
    )


def test_a_number_of_the_table_of_users_leads_to_the_failures(
    study: SyntheticStudy, open_page: Callable[..., Any]
) -> None:
    browser, table = open_page(), samples_of(study)
    failed = table[(table["experiment"] == "vanilla") & (table["user"] == USERS[2]) & (table["hit_140"] == 0)]
    cell = browser.find_element(By.XPATH, f"//section[@id='users']//tr[th/a='{USERS[2]}']/td[2]/a")
    click(browser, cell)
    counted(browser, len(failed))
    assert shown(browser).startswith(f"User {USERS[2]}, sample {failed['id'].iloc[0]}")


def test_filters_order_and_address(study: SyntheticStudy, open_page: Callable[..., Any]) -> None:
    browser, table = open_page(), samples_of(study)
    by_sample = table.pivot(index=["user", "id"], columns="experiment", values="hit_140")
    click(browser, browser.find_element(By.CSS_SELECTOR, "button[type=reset]"))
    assert count(browser) == f"All {len(by_sample)} samples"
    choose(browser, "agreement", "disagree")
    counted(browser, int((by_sample.nunique(axis=1) > 1).sum()))
    choose(browser, "agreement", "any")
    choose(browser, "outcome", "unparsed")
    counted(browser, len(table[table["parsed"] == 0].drop_duplicates(["user", "id"])))
    choose(browser, "outcome", "any")
    choose(browser, "experiment", "lora")
    browser.find_element(By.NAME, "min").send_keys("200")
    far = table[(table["experiment"] == "lora") & (table["distance"] >= 200)].sort_values("distance", kind="stable")
    counted(browser, len(far))
    choose(browser, "sort", "largest distance first")
    until(browser, "return location.hash.includes('sort=far')")
    # Rows that were in view before show the distance of the experiment that is chosen now.
    choose(browser, "experiment", "vanilla")
    choose(browser, "experiment", "lora")
    until(browser, "return location.hash.includes('experiment=lora')")
    listed = browser.find_elements(By.CSS_SELECTOR, ".tabulator-row [tabulator-field=distance]")
    values = [float(cell.text) for cell in listed]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(far["distance"].max(), abs=0.51)

    # The same page in another window.
    before, address = (shown(browser), count(browser)), browser.execute_script("return location.hash")
    assert open_page(address).execute_script("return location.hash") == address
    assert (shown(browser), count(browser)) == before
    open_page("#user=2&sample=2/7&experiment=gone")
    assert shown(browser).startswith("User 2, sample 2/7 ")
    assert count(browser) == f"{study.samples} of {len(by_sample)} samples"
    open_page("#user=2&sample=none")
    assert "there is no sample none" in count(browser)


def test_keys_go_through_the_samples(study: SyntheticStudy, open_page: Callable[..., Any]) -> None:
    browser = open_page("#user=2")
    holder = browser.find_element(By.CSS_SELECTOR, ".tabulator-tableholder")
    browser.execute_script("arguments[0].focus()", holder)
    assert browser.execute_script("return document.activeElement.matches(':focus-visible')")
    ids = [f"2/{number}" for number in range(study.samples)]
    for key, expected in [
        (Keys.ARROW_DOWN, 1),
        (Keys.ARROW_DOWN, 2),
        (Keys.ARROW_UP, 1),
        (Keys.END, study.samples - 1),
        (Keys.HOME, 0),
    ]:
        holder.send_keys(key)
        assert shown(browser) == f"User 2, sample {ids[expected]} {expected + 1} of {study.samples}"
        until(browser, "return document.querySelectorAll('.tabulator-row[aria-selected=true]').length === 1")
    assert browser.find_element(By.ID, "samples-said").get_attribute("textContent").startswith("2, Tap 'send'")
    rows = browser.execute_script("return document.querySelectorAll('.tabulator-row').length")
    assert 3 < rows <= study.samples


def test_screenshots_of_a_folder_are_shown(study: SyntheticStudy, open_page: Callable[..., Any]) -> None:
    with patch.object(pictures, "LARGEST_IN_PAGE", 100):
        study.report()
    try:
        browser = open_page("#user=1")
        until(browser, "return document.querySelector('#sample img').naturalWidth > 0")
        source = browser.find_element(By.CSS_SELECTOR, "#sample img").get_attribute("src")
        assert f"/{pictures.FOLDER}/" in source
        assert browser.get_log("browser") == []
    finally:
        study.report()


def test_the_list_has_a_column_for_each_of_six_experiments(browser: webdriver.Chrome, tmp_path: Path) -> None:
    names = {f"experiment_with_a_long_name_{number}": {"mode": "vanilla"} for number in range(6)}
    study = SyntheticStudy(tmp_path, users=["1", "2"], samples=3, changes={"experiments": names}).write()
    study.report()

    def columns(width: int) -> list[str]:
        open_report(browser, study, width=width)
        found: list[str] = browser.execute_script(
            "const list = document.getElementById('samples-list').getBoundingClientRect();"
            "return [...document.querySelectorAll('.tabulator-col')].filter(column => column.offsetWidth"
            " && column.getBoundingClientRect().right <= list.right + 1)"
            ".map(column => column.getAttribute('tabulator-field'))"
        )
        return found

    assert columns(1280) == ["picture", "sample", *(f"outcome{number}" for number in range(6)), "distance"]
    # Where there is no room, the sample that is shown has the outcome of every experiment.
    assert {"sample", "distance"} < set(columns(390))
    facts = browser.find_element(By.CSS_SELECTOR, "#sample .facts").text
    assert all(name in facts for name in names)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_cut_off(open_page: Callable[..., Any], width: int) -> None:
    """What is wider than the page scrolls within itself, says so, and shows the most important columns first."""
    browser = open_page(width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth + 1)"
        ".map(box => [box.ariaLabel ?? box.id, box.classList.contains('more')])"
    )
    assert all(said for _, said in wide), wide
    if width == 1280:
        assert wide == []
    if width >= 390:
        edge = browser.execute_script(
            "return document.querySelector('#summary tbody tr:last-child td.difference').getBoundingClientRect().right"
        )
        assert edge <= width


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_serious_violation_of_accessibility(open_page: Callable[..., Any], width: int, scheme: str) -> None:
    try:
        axe = packed(*AXE)["axe.min.js"].decode("utf-8")
    except (OSError, subprocess.SubprocessError) as problem:
        (pytest.fail if REQUIRED else pytest.skip)(f"no axe-core: {problem}")
    browser = open_page(width=width, scheme=scheme)
    browser.execute_script(axe)
    found = browser.execute_async_script("axe.run().then(arguments[0], error => arguments[0](String(error)))")
    serious = [
        (violation["id"], violation["impact"], [node["html"][:200] for node in violation["nodes"]][:3])
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 20


def test_the_shown_sample_and_the_list_are_printed(study: SyntheticStudy, open_page: Callable[..., Any]) -> None:
    browser = open_page("#user=1")
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not browser.find_element(By.ID, "samples-list").is_displayed()
    assert browser.find_element(By.ID, "sample").is_displayed()
    assert len(browser.find_elements(By.CSS_SELECTOR, "#samples-print tbody tr")) == study.samples
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
