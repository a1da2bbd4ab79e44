"""A headless Chromium, driven by Selenium, that has no network."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium: apt-get install chromium chromium-driver"
)


class Page:
    """A page that is open."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def column(self, title: str, table: str = "#table-1") -> list[str]:
        """The texts of a column, read in one go: rows are replaced while a table is sorted."""
        return list(
            self.driver.execute_script(
                "const heads = [...document.querySelectorAll(arguments[0] + '_wrapper thead th')];"
                "const index = heads.map(e => e.innerText).indexOf(arguments[1]) + 1;"
                "return [...document.querySelectorAll(`${arguments[0]} tbody tr td:nth-child(${index})`)]"
                ".map(e => e.innerText)",
                table,
                title,
            )
        )

    def shows(self, title: str, expected: list[str], seconds: float = 10.0) -> bool:
        """Whether a column comes to hold these texts: a table is drawn a moment after a click."""
        deadline = time.monotonic() + seconds
        while self.column(title) != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.column(title) == expected

    def wait(self, script: str, seconds: float = 20.0) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, 0.05).until(lambda driver: driver.execute_script(f"return {script}"))

    def seconds(self) -> float:
        """From the first byte to the moment when tables can be sorted and searched."""
        entry = "performance.getEntriesByType('navigation')[0]"
        return float(self.driver.execute_script(f"return ({entry}.loadEventEnd - {entry}.startTime) / 1000"))

    def said(self) -> list[str]:
        """What the console shows."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for, but for what lies within the page."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
        return [address for address in asked if not address.startswith(("data:", "blob:"))]


@contextmanager
def opened(place: Path, *, width: int = 1400, dark: bool = False) -> Iterator[Page]:
    """Open a file over file://, offline, and wait until its tables and plots are drawn."""
    with tempfile.TemporaryDirectory() as home:
        yield from _opened(place, width, dark, home)


def _opened(place: Path, width: int, dark: bool, home: str) -> Iterator[Page]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    environment = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
    driver = webdriver.Chrome(options=options, service=Service(executable_path=str(DRIVER), env=environment))
    try:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        driver.get(place.resolve().as_uri())
        page = Page(driver)
        figures = "document.querySelectorAll('figure > div[role=group]').length"
        page.wait(f"document.querySelectorAll('figure .vega-embed svg.marks').length === {figures}")
        page.wait("document.querySelectorAll('.dt-search').length === document.querySelectorAll('.board').length")
        yield page
    finally:
        driver.quit()
