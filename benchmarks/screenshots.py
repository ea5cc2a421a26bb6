"""Makes the pictures of the README from a real run: `uv run benchmarks/screenshots.py`.

The demo trades for a while on a database and a virtual host of its own; then its page is taken in light at
1440 pixels and in dark at 390, and written to docs/pictures/.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from benchmarks.small_png import small_png  # noqa: E402
from tests.support.browser import Scheme, Viewer, chromium  # noqa: E402
from tests.support.workspace import free_ports, wait_for  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
SHOTS: tuple[tuple[str, int, Scheme], ...] = (
    ("page-light", 1440, "light"),
    ("page-dark-phone", 390, "dark"),
)
LARGEST = 300_000


def main() -> int:
    """Run the demo for so many seconds and take the pictures; exit status 1 where one is too large."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="how long it trades before (default 120)"
    )
    options = parser.parse_args()
    collector, monitor = map(str, free_ports(2))
    environment = {
        **os.environ,
        "DEMO_NAME": "pictures",
        "COLLECTOR_PORT": collector,
        "MONITOR_PORT": monitor,
        "TAKER_FEE_SPOT": "0.00001",
        "TAKER_FEE_LINEAR": "0.00001",
        "CLOSE_RULE": "signed",
    }
    with tempfile.TemporaryDirectory() as logs:
        command = [str(ROOT / "start_microservice.sh"), "--demo", "--logs", logs]
        with (Path(logs) / "terminal").open("wb") as output:
            demo = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            said = Path(logs) / "terminal"
            found = wait_for(partial(address_in, said), "the page", 300)
            return take_pictures(found, options.seconds)
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(60)


def address_in(terminal: Path) -> str:
    """Return where the launcher says that the page is, nothing before it does."""
    found = re.search(r"to look at it: (http://\S+)", terminal.read_text(errors="replace"))
    return found[1] if found else ""


def take_pictures(address: str, seconds: float) -> int:
    """Write the pictures after so many seconds; print their names and sizes."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    status = 0
    with chromium() as browser:
        for number, (name, width, scheme) in enumerate(SHOTS):
            wait_for(partial(answers, address), "an answer of the monitor", 60)
            viewer = Viewer(browser, address, width, scheme)
            if not number:
                time.sleep(seconds)
            viewer.wait("document.querySelector('[data-figure=total]') && !document.querySelector('.stale')")
            path = PICTURES / f"{name}.png"
            path.write_bytes(small_png(viewer.page.screenshot(full_page=True)))
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")
            status |= path.stat().st_size > LARGEST
    return status


def answers(address: str) -> bool:
    """Return whether the page is there."""
    try:
        with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - of this machine
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
