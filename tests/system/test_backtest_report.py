"""The report in a real browser: offline, light and dark, wide and narrow, without a word on the console."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def report(recordings: Path, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    recording = str(recordings / "btc_depth50.ndjson.gz")
    command = [sys.executable, str(ROOT / "backtest.py"), "--recording", recording, "--html", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_the_report_opens_offline_in_both_themes_without_a_message(
    report: Path, scheme: str, width: int
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    messages: list[str] = []
    requests: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_selector("#pnl canvas")
        page.wait_for_selector("#spread canvas")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        widest = page.evaluate("document.documentElement.scrollWidth")
        drawn = page.evaluate(
            "[...document.querySelectorAll('canvas')].every((canvas) =>"
            " canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v))"
        )
        legend = page.inner_text("#pnl .u-legend")
        browser.close()
    assert messages == []
    assert requests == [report.as_uri()]
    assert ground == {"light": "rgb(244, 245, 246)", "dark": "rgb(14, 18, 23)"}[scheme]
    assert widest == width
    assert drawn
    assert "\u2212156.38" in legend
