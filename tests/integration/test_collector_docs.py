"""The collector's interactive description in a real browser: complete, and without the internet."""

from __future__ import annotations

from tests.support.browser import Viewer, chromium
from tests.support.workspace import Workspace, free_port


def test_the_description_is_shown_and_nobody_else_is_asked(place: Workspace) -> None:
    port = free_port()
    place.start_ready("market_data_collector", COLLECTOR_PORT=str(port), BYBIT_WS_URL="ws://127.0.0.1:1")
    with chromium() as browser:
        viewer = Viewer(browser, f"http://127.0.0.1:{port}/docs")
        viewer.page.wait_for_selector("text=/subscriptions")
        viewer.page.click("text=/health")
        viewer.page.wait_for_selector("text=Try it out")
        assert viewer.hosts() == {"127.0.0.1"}
        assert viewer.messages == []
