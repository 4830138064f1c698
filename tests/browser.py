"""A headless Chromium for tests of pages, driven by chromedriver over plain HTTP (W3C WebDriver)."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element's identifier, as WebDriver defines it."""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Uses no proxy. `urllib.request.urlopen` would keep the one that the environment named at its first use."""
STARTS = 5
"""Attempts to start chromedriver, which takes a free IPv4 port and ends if another program has the same IPv6 port."""


@dataclass(frozen=True)
class Browser:
    """A session with one window."""

    url: str

    def call(self, path: str, body: Any = None, method: str = "POST") -> Any:
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with DIRECT.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self.call("/url", {"url": page.resolve().as_uri()})

    def click(self, xpath: str) -> None:
        """Click the first element that `xpath` finds: a real click, where the element is on the screen."""
        found = self.call("/element", {"using": "xpath", "value": xpath})
        self.call(f"/element/{found[ELEMENT]}/click")

    def run(self, script: str) -> Any:
        """The value that `script` returns."""
        return self.call("/execute/sync", {"script": script, "args": []})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def errors(self) -> list[Any]:
        """The messages in the console of the page since the last call."""
        found: list[Any] = self.call("/se/log", {"type": "browser"})
        return found

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call("/screenshot", method="GET"))


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new, empty `profile`. Skips the test where chromium or chromedriver is missing."""
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            pytest.skip(f"no {name} (Debian: apt-get install chromium chromium-driver)")
    with _driver() as port:
        options = {"args": [*QUIET, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        driven = Browser(f"http://127.0.0.1:{port}/session")
        session = driven.call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        driven = Browser(f"{driven.url}/{session}")
        try:
            yield driven
        finally:
            driven.call("", method="DELETE")


@contextlib.contextmanager
def _driver() -> Iterator[str]:
    """Run chromedriver during the block; its port."""
    for _ in range(STARTS):
        with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            try:
                if ports := re.findall(r"started successfully on port (\d+)", "".join(_until_started(driver.stdout))):
                    yield ports[0]
                    return
            finally:
                driver.terminate()
    pytest.fail(f"chromedriver found no free port {STARTS} times")


def _until_started(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if "started successfully" in line:
            return
