"""The monitor as a process."""

from __future__ import annotations

import urllib.request

from tests.support.workspace import Service, Workspace, wait_for


def fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def start_monitor(place: Workspace, port: int, **settings: str) -> Service:
    """Start the monitor and wait until it answers."""
    started = place.start("monitor", MONITOR_PORT=str(port), **settings)

    def answers() -> bool:
        assert started.is_running, f"ended:\n{started.output}"
        try:
            return bool(fetch(port, "/"))
        except OSError:
            return False

    wait_for(answers, f"the monitor answers on port {port}, see {started.log}")
    return started
