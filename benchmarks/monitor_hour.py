"""The monitor beside a whole system under load: its memory and the page's, minute by minute, and its CPU.

    .venv/bin/python -m benchmarks.monitor_hour --minutes 60

starts a broker and a database of its own, the local exchange, the four services and the monitor, opens the
page twice in a headless Chromium, and pushes at a fixed rate. From minute 10 on neither memory may grow by
over 5 %. It ends with 1 where something was missed. At 2,000 updates/s an hour takes 20 GB of disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, market
from benchmarks.collector import Collector, pushed
from benchmarks.place import ANY_PRICE, Place
from local_exchange.process import ExchangeProcess
from tests.support.browser import Viewer, chromium
from tests.support.live_system import ServerPair
from tests.support.monitor import start_monitor
from tests.support.workspace import ANY_AGE, free_port, workspace

WARM_MINUTES = 10
GROWTH, MEMORY, CPU = 1.05, 120e6, 0.05
SWINGS = "0.1"
SHOWN = "document.querySelector('[data-figure=total]')"


@dataclass
class Sample:
    """What was seen at the end of a minute."""

    minute: float
    memory: int
    heap: int
    cpu: float  # of a core, since the sample before
    rate: float  # updates/s, since the sample before
    waiting: int  # in `storage` and `signal`
    stale: str  # what of the page is greyed


@contextmanager
def system(rate: float, instruments: int) -> Iterator[tuple[Place, ExchangeProcess]]:
    """Run servers, exchange and the four services, pushing at `rate` updates a second."""
    with tempfile.TemporaryDirectory(prefix="blackbird-hour-") as folder:
        Path(folder).chmod(0o755)
        servers = ServerPair(Path(folder))
        arguments = ("--rate", "0", "--repeat-after", "0", "--instruments", str(instruments // 2))
        try:
            servers.setup("start")
            with (
                workspace(
                    Path(folder), **ANY_AGE, **ANY_PRICE, **servers.settings, STATUS_INTERVAL_MS="500"
                ) as space,
                ExchangeProcess(*arguments, "--swings", SWINGS) as exchange,
            ):
                there = Place(space)
                for name in ("data_storage", "signal", "trading_engine"):
                    space.start_ready(name)
                collector = Collector(there, exchange.url, 50)
                for channel, topic in market.pair_topics(50, instruments // 2):
                    collector.subscribe(channel, topic)
                exchange.post("/pace", pace=rate / instruments)
                yield there, exchange
                exchange.post("/pace", pace=0)
        finally:
            servers.setup("stop")


def watch(rate: float, instruments: int, minutes: int) -> list[Sample]:
    """Return a sample a minute."""
    samples = []
    with system(rate, instruments) as (there, exchange), chromium() as browser, there.raw() as raw:
        port = free_port()
        monitor = start_monitor(there.space, port)
        viewers = [Viewer(browser, f"http://127.0.0.1:{port}/") for _ in range(2)]
        for viewer in viewers:
            viewer.wait(SHOWN)
        pid, began = monitor.process.pid, time.monotonic()
        at, used, count = began, machine.cpu_seconds(pid), pushed(exchange)
        for minute in range(1, minutes + 1):
            viewers[0].page.wait_for_timeout(1000 * max(0.0, began + 60 * minute - time.monotonic()))
            now, cpu, pushes = time.monotonic(), machine.cpu_seconds(pid), pushed(exchange)
            sample = Sample(
                (now - began) / 60,
                machine.resident_bytes(pid),
                viewers[0].heap(),
                (cpu - used) / (now - at),
                (pushes - count) / (now - at),
                raw.waiting("storage") + raw.waiting("signal"),
                ", ".join(sorted(viewers[0].stale())),
            )
            at, used, count = now, cpu, pushes
            samples.append(sample)
            sys.stderr.write(
                f"{sample.minute:5.1f} min: {sample.memory / 1e6:.1f} MB, page {sample.heap / 1e6:.2f} MB,"
                f" CPU {sample.cpu:.1%}, {sample.rate:,.0f} updates/s, {sample.waiting} waiting,"
                f" greyed: {sample.stale or 'nothing'}\n"
            )
        messages = [message for viewer in viewers for message in viewer.messages]
        if messages:
            sys.exit(f"the page wrote to its console: {messages[:3]}")
        monitor.stop(seconds=30)
    return samples


def verdicts(samples: list[Sample], rate: float) -> list[tuple[str, bool]]:
    """Return what was asked, with whether it was met."""
    warm = [sample for sample in samples if sample.minute >= WARM_MINUTES - 0.5]
    first, last = warm[0], warm[-1]
    # One sample in fifteen of a heap stands higher for no known reason: the least of five.
    heaps = (min(one.heap for one in warm[:5]), min(one.heap for one in warm[-5:]))
    cpu = sum(sample.cpu for sample in warm) / len(warm)
    flowed = sum(sample.rate for sample in warm) / len(warm)
    memory = max(sample.memory for sample in samples)
    span = f"memory from minute {first.minute:.0f} to {last.minute:.0f}"
    return [
        (f"{flowed:,.0f} updates/s of {rate:,.0f}", flowed >= 0.98 * rate),
        (f"memory at most {memory / 1e6:.0f} MB of {MEMORY / 1e6:.0f}", memory <= MEMORY),
        (
            f"{span}: {first.memory / 1e6:.1f} -> {last.memory / 1e6:.1f} MB",
            last.memory <= GROWTH * first.memory,
        ),
        (f"the page's: {heaps[0] / 1e6:.2f} -> {heaps[1] / 1e6:.2f} MB", heaps[1] <= GROWTH * heaps[0]),
        (f"CPU with two viewers {cpu:.1%} of a core", cpu <= CPU),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=float, default=2000, help="updates a second altogether")
    parser.add_argument("--instruments", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.minutes <= WARM_MINUTES:
        parser.error(f"--minutes: expected more than {WARM_MINUTES}")
    found = verdicts(watch(arguments.rate, arguments.instruments, arguments.minutes), arguments.rate)
    for text, met in found:
        print(f"{'met   ' if met else 'MISSED'} {text}")
    sys.exit(not all(met for _, met in found))


if __name__ == "__main__":
    main()
