"""Debian's Chromium, without a screen, and what a page did in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
# For a machine that is busy: nothing waits longer than it has to.
DEADLINE_MS = 60_000

Scheme = Literal["light", "dark"]
SCREENS = [(width, scheme) for width in (1440, 390) for scheme in ("light", "dark")]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; skip the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium: ./run_tests.sh brings it where it is run as root on Debian")
    with sync_playwright() as playwright:
        # The wheel's own browser would have to be downloaded.
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            yield browser
        finally:
            browser.close()


class Viewer:
    """A page that is open, what it wrote to its console, and what it asked for."""

    def __init__(self, browser: Browser, address: str, width: int = 1440, scheme: Scheme = "light") -> None:
        self.messages: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 844 if width < 500 else 900}, color_scheme=scheme
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(DEADLINE_MS)
        self.page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def hosts(self) -> set[str | None]:
        """Return the hosts that were asked."""
        return {urlsplit(url).hostname for url in self.asked if not url.startswith("data:")}

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def figure(self, name: str) -> str:
        """Return a figure as it stands on the page."""
        return self.text(f'[data-figure="{name}"]')

    def wait(self, expression: str, argument: Any = None) -> None:
        """Wait until a JavaScript expression (or function of `argument`) is true."""
        # Not wait_for_function, which evaluates the text inside the page: the page's own policy forbids that.
        deadline = time.monotonic() + DEADLINE_MS / 1000
        while not self.page.evaluate(expression, argument):
            assert time.monotonic() < deadline, f"not in time: {expression} {argument or ''}"
            self.page.wait_for_timeout(50)

    def stale(self) -> set[str]:
        """Return the ids of what is greyed."""
        found: list[str] = self.page.evaluate(
            "[...document.querySelectorAll('[data-at].stale')].map(e => e.id)"
        )
        return set(found)

    def too_wide(self) -> list[str]:
        """Return what reaches beyond the screen."""
        found: list[str] = self.page.evaluate(
            "[...document.querySelectorAll('section, header, main')]"
            ".filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)"
            ".map(e => e.id || e.tagName)"
        )
        wide = self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return [*found, "page"] if wide else found

    def heap(self) -> int:
        """Return the bytes that the page's script holds, the least after three forced collections."""
        session = self.context.new_cdp_session(self.page)
        sizes = []
        for _ in range(3):
            session.send("HeapProfiler.collectGarbage")
            sizes.append(int(session.send("Runtime.getHeapUsage")["usedSize"]))
        session.detach()
        return min(sizes)
