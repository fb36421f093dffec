"""Write the pictures of README.md from the demo's results. `make pictures` runs it; needs Chromium with its driver."""

from __future__ import annotations

import shutil
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "results"
PICTURES = REPOSITORY / "docs/images"
FIGURE = "accuracy_by_user.png"
# Name -> the part of the page, and the height of the picture, in pixels.
PARTS = {"report.png": ("", 828), "samples.png": ("#samples", 957)}
WIDTH = 1280


def main() -> None:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        for name, (part, height) in PARTS.items():
            # The window itself counts too.
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False},
            )
            browser.get(f"{(RESULTS / 'report.html').as_uri()}{part}")
            # The list of samples is built, and its screenshots are read.
            browser.execute_async_script("setTimeout(arguments[0], 1500)")
            if not browser.save_screenshot(str(PICTURES / name)):
                raise OSError(f"{PICTURES / name} cannot be written")
    finally:
        browser.quit()
    shutil.copy(RESULTS / "figures" / FIGURE, PICTURES / FIGURE)


if __name__ == "__main__":
    main()
