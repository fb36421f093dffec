"""How fast the report's browser of samples is with 10,000 samples: first paint, filters, orders, scrolling.

A stand-in answers for the models; everything else is made by the package's own steps. The screenshots are drawn at
random, so that they are as large as real ones of their size, and lie in the folder next to the report. The page is
opened from disk in headless Chromium. Times of filters and orders are those of the whole answer to a change, with the
layout of the new list. Needs Chromium with its driver, and a temporary folder for about 500 MB; takes minutes, most of
them for the study:

    python benchmarks/report_browser.py
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
from PIL import Image, ImageDraw
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

sys.path.append(str(common.REPOSITORY))
from tests.support.synthetic_study import SyntheticStudy

SCREEN = (360, 780)
SHAPES = 30
ARGUMENTS = "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
# What is changed, and to what: name of the field, value.
CHANGES = (
    ("outcome", ""),
    ("experiment", ""),
    ("experiment", "lora"),
    ("outcome", "failed"),
    ("outcome", "unparsed"),
    ("outcome", ""),
    ("agreement", "disagree"),
    ("agreement", "all wrong"),
    ("agreement", ""),
    ("user", "3"),
    ("user", ""),
    ("min", "300"),
    ("min", ""),
    ("text", "send"),
    ("text", "icon4"),
    ("text", "no such text"),
    ("text", ""),
    ("sort", "far"),
    ("sort", "worst"),
    ("sort", "outcome"),
    ("sort", "study"),
)
CHANGE = """
const [name, value] = arguments;
const field = document.querySelector('.filters').elements[name];
const started = performance.now();
field.value = value;
field.dispatchEvent(new Event(field.matches('select') ? 'change' : 'input', { bubbles: true }));
document.body.getBoundingClientRect();
return performance.now() - started;
"""
SCROLL = """
const [part, done] = arguments;
const holder = document.querySelector('.tabulator-tableholder');
const started = performance.now();
holder.scrollTop = part * (holder.scrollHeight - holder.clientHeight);
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - started)));
"""
OPENED = """
const paint = performance.getEntriesByName('first-contentful-paint')[0];
const ready = performance.getEntriesByName('samples-ready')[0];
return paint && ready ? [paint.startTime, ready.startTime] : null;
"""
ROWS = "return document.querySelectorAll('.tabulator-row').length"


class Study(SyntheticStudy):
    """A study whose screenshots are large."""

    def write_raw(self, user: str) -> None:
        """Write a user's raw samples and screenshots."""
        super().write_raw(user)
        for step in range(self.samples):
            _draw(self.dataset / f"images/{user}_{step}.png", f"{user} {step}")


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    users = [str(number) for number in range(1, arguments.users + 1)]
    with tempfile.TemporaryDirectory() as name:
        study = Study(Path(name) / "study", users=users, samples=arguments.samples).write()
        started = time.monotonic()
        page = study.report()
        first = time.monotonic() - started
        again = common.seconds_of(study.report)
        folder = page.parent / "report_images"
        sizes = {
            "page_bytes": page.stat().st_size,
            "folder_bytes": sum(path.stat().st_size for path in folder.glob("*.jpg")) if folder.exists() else 0,
        }
        opened = [_measured(page, Path(name)) for _ in range(arguments.rounds)]
    paints, ready, changes, scrolls, rows = zip(*opened, strict=True)
    return {
        "samples": arguments.users * arguments.samples,
        "experiments": len(study.experiments),
        **sizes,
        "seconds": {"everything_up_to_the_report": round(first, 1), "report_again": round(again, 1)},
        "first_paint_ms": common.spread(list(paints)),
        "list_ready_ms": common.spread(list(ready)),
        "change_ms": common.spread([value for values in changes for value in values]),
        "slowest_change": " ".join(_slowest(changes)),
        "scroll_ms": common.spread([value for values in scrolls for value in values]),
        "most_rows_in_the_page": max(rows),
    }


def tell(measured: dict[str, Any]) -> list[str]:
    size = f"{measured['samples']:,} samples x {measured['experiments']} experiments"
    page, folder = (measured[name] / 1e6 for name in ("page_bytes", "folder_bytes"))
    again = measured["seconds"]["report_again"]
    return [
        f"{size}: page {page:.1f} MB, screenshots {folder:.0f} MB; report again {again} s",
        f"first paint: {common.told(measured['first_paint_ms'], 'ms')}; aim: 4,000 ms",
        f"list ready: {common.told(measured['list_ready_ms'], 'ms')}",
        f"a filter or order: {common.told(measured['change_ms'], 'ms')}; aim: 100 ms; "
        f"slowest: {measured['slowest_change']}",
        f"a jump in the list: {common.told(measured['scroll_ms'], 'ms')}",
        f"at most {measured['most_rows_in_the_page']} rows in the page",
    ]


def _slowest(changes: Sequence[Sequence[float]]) -> tuple[str, str]:
    """Return the change with the largest median over rounds."""
    return CHANGES[max(range(len(CHANGES)), key=lambda index: statistics.median(own[index] for own in changes))]


def _draw(path: Path, seed: str) -> None:
    """Draw a screen of random boxes and lines of text."""
    chance = random.Random(seed)
    image = Image.new("RGB", SCREEN, (chance.randrange(200, 256),) * 3)
    pen = ImageDraw.Draw(image)
    for _ in range(SHAPES):
        x, y = chance.randrange(SCREEN[0]), chance.randrange(SCREEN[1])
        colour = tuple(chance.randrange(256) for _ in range(3))
        pen.rectangle((x, y, x + chance.randrange(8, 90), y + chance.randrange(8, 40)), fill=colour)
        pen.text((x, y), f"item {chance.randrange(10**6)}", fill="black")
    image.save(path)


def _measured(page: Path, folder: Path) -> tuple[float, float, list[float], list[float], int]:
    """Return first paint, when the list is ready, the times of changes and of jumps in the list, and its rows."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in [*ARGUMENTS.split(), f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"]:
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(page.as_uri())
        while (opened := driver.execute_script(OPENED)) is None:
            time.sleep(0.02)
        changes = [driver.execute_script(CHANGE, name, value) for name, value in CHANGES]
        scrolls, rows = [], 0
        for step in range(20):
            scrolls.append(driver.execute_async_script(SCROLL, (step * 7 % 20) / 19))
            rows = max(rows, driver.execute_script(ROWS))
        return opened[0], opened[1], changes, scrolls, rows
    finally:
        driver.quit()


if __name__ == "__main__":
    common.run(
        main,
        tell,
        {
            "users": (10, 2, "test users"),
            "samples": (1000, 4, "samples of each"),
            "rounds": (5, 1, "times that the page is opened"),
        },
    )
