"""The monitor: CPU and memory with and without viewers, first paint, and how soon old figures are grey.

The statuses are those of an invented market, published as the services do; the pages are open in a real,
headless Chromium. What the browser itself uses is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser

from benchmarks import machine
from benchmarks.place import place
from benchmarks.results import Row, progress
from tests.support.browser import Viewer, chromium
from tests.support.monitor import start_monitor
from tests.support.statuses import Publishing
from tests.support.workspace import Service, Workspace, free_port

INSTRUMENTS = (2, 400)
CPU_ALONE, CPU_WATCHED, MEMORY = 0.02, 0.05, 120e6
FIRST_PAINT, GREYED, BACK = 2.0, 2.0, 5.0
ALL_FRESH = "document.querySelector('[data-figure=total]') && !document.querySelector('.stale')"


def run(*, quick: bool = False) -> list[Row]:
    """Return the rows of the table."""
    rows = []
    with place() as there, chromium() as browser:
        for instruments in INSTRUMENTS:
            with publishing(there.space, instruments // 2):
                port = free_port()
                monitor = start_monitor(there.space, port)
                rows += _costs(browser, monitor, port, instruments, 10.0 if quick else 60.0)
                if instruments == INSTRUMENTS[-1]:
                    rows.append(_first_paint(browser, port))
                monitor.stop()
        with publishing(there.space, 1) as made:
            rows += _greyed(browser, there.space, made, 1 if quick else 5)
    return rows


@contextmanager
def publishing(space: Workspace, groups: int) -> Iterator[Publishing]:
    """Publish statuses of so many groups of two instruments."""
    made = Publishing(space, groups)
    try:
        yield made
    finally:
        made.end()


def _costs(browser: Browser, monitor: Service, port: int, instruments: int, seconds: float) -> list[Row]:
    what = f"monitor, {instruments} instruments"
    progress(f"{what}: {seconds:.0f} s without a viewer")
    time.sleep(3)
    alone = _cpu(monitor, seconds)
    viewers = [Viewer(browser, f"http://127.0.0.1:{port}/") for _ in range(2)]
    for viewer in viewers:
        viewer.wait(ALL_FRESH)
    progress(f"{what}: {seconds:.0f} s with two")
    watched = _cpu(monitor, seconds)
    memory = machine.resident_bytes(monitor.process.pid)
    for viewer in viewers:
        viewer.context.close()
    return [
        _most(f"{what}: CPU without a viewer", f"{alone:.1%} of a core", alone, CPU_ALONE),
        _most(f"{what}: CPU with two", f"{watched:.1%} of a core", watched, CPU_WATCHED),
        _most(f"{what}: resident memory", f"{memory / 1e6:.0f} MB", memory, MEMORY),
    ]


def _most(what: str, measured: str, value: float, allowed: float) -> Row:
    ceiling = f"{allowed / 1e6:.0f} MB" if allowed > 1e3 else f"{allowed:.0%} of a core"
    return Row(what, measured, ceiling, value / allowed, most=1.0)


def _cpu(monitor: Service, seconds: float) -> float:
    pid = monitor.process.pid
    began, used = time.monotonic(), machine.cpu_seconds(pid)
    time.sleep(seconds)
    return (machine.cpu_seconds(pid) - used) / (time.monotonic() - began)


def _first_paint(browser: Browser, port: int) -> Row:
    began = time.monotonic()
    viewer = Viewer(browser, f"http://127.0.0.1:{port}/")
    viewer.wait("document.querySelectorAll('#why tr').length === 200")
    took = time.monotonic() - began
    viewer.context.close()
    return _seconds("monitor, 400 instruments: until all rows are there", took, FIRST_PAINT)


def _seconds(what: str, took: float, allowed: float, note: str = "") -> Row:
    return Row(what, f"{took:.2f} s", f"{allowed:.0f} s required", took / allowed, most=1.0, note=note)


def _greyed(browser: Browser, space: Workspace, made: Publishing, times: int) -> list[Row]:
    port = free_port()
    monitor = start_monitor(space, port)
    viewer = Viewer(browser, f"http://127.0.0.1:{port}/")
    viewer.wait(ALL_FRESH)
    rows = []
    for service in ("collector", "signal", "engine", "storage"):
        took = []
        for _ in range(times):
            made.silent.add(service)
            began = time.monotonic()
            viewer.wait(f"document.getElementById('service-{service}').matches('.stale')")
            took.append(time.monotonic() - began)
            made.silent.clear()
            viewer.wait(ALL_FRESH)
        note = f"the longest of {times}, from the moment on; {statistics.median(took):.2f} s in the middle"
        rows.append(_seconds(f"monitor: {service} stopped, until it is grey", max(took), GREYED, note))
    monitor.pause()
    began = time.monotonic()
    viewer.wait("document.body.matches('.old')")
    rows.append(_seconds("monitor stopped, until the page is grey", time.monotonic() - began, GREYED))
    monitor.go_on()
    viewer.wait(ALL_FRESH)
    monitor.kill()
    began = time.monotonic()
    start_monitor(space, port)
    viewer.wait("!document.body.matches('.old')")
    rows.append(
        _seconds("monitor killed and started, until the page is back", time.monotonic() - began, BACK)
    )
    return rows
