"""How long a push takes from the exchange to a consumer of `signal`, against a bare publisher.

Twelve instruments, a socket each, pushes at random moments. The floor is a program that publishes such pushes
itself, with the same properties and at the same moments, in the same run. Both have the same queues and
consumers: one on `storage` that acknowledges, one on `signal` that notes how old each push is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks import machine
from benchmarks.collector import Collector
from benchmarks.place import Place, Program, place, wait_until
from benchmarks.results import Row, check, percentile, progress
from benchmarks.timed import symbols
from blackbird.broker.topology import SIGNAL, STORAGE

RATES = (100, 1000, 3000)  # pushes a second
ROOMY = 1000  # up to here no machine is short of time, and latency counts; above, reads may be coalesced
ROUNDS = 3  # floor and collector take turns: what else the machine does comes to both


@dataclass
class Ages:
    """What came of one rate."""

    floor: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    cpu: float = 0.0


@contextlib.contextmanager
def collecting(there: Place, certificate: str = "") -> Iterator[tuple[Program, Collector]]:
    """Run an exchange that pushes when told to, and a collector that has subscribed all instruments.

    With the file of a certificate they speak TLS.
    """
    settings = {"WEBSOCKET_CLIENT_CA_BUNDLE": certificate, "STREAM_SILENCE_MS": "600000"}
    with there.timed("exchange", certificate) as exchange, there.raw() as raw:
        collector = Collector(there, exchange.says()["url"], 50, **settings)
        for symbol in symbols():
            collector.subscribe("spot", f"orderbook.50.{symbol}")
        wait_until(lambda: raw.waiting(SIGNAL) >= len(symbols()), "a snapshot of each instrument")
        for queue in (SIGNAL, STORAGE):
            raw.purge(queue)
        yield exchange, collector
        check(collector.health()["dropped"] == 0, "the collector dropped pushes")
        check(collector.service.stop() == 0, "the collector did not end in order")


@contextlib.contextmanager
def consuming(there: Place, count: int) -> Iterator[Callable[[], dict[str, Any]]]:
    """Consume `count` pushes of both queues; what is yielded waits for them and returns their times."""
    with (
        there.bare("consume", STORAGE, str(count)) as storage,
        there.timed("consume", SIGNAL, str(count)) as signal,
    ):
        signal.says()

        def taken() -> dict[str, Any]:
            times = signal.says()
            storage.says()
            return times

        yield taken


def run(*, quick: bool) -> list[Row]:
    seconds = 3 if quick else 10
    found = {rate: Ages() for rate in RATES}
    with place() as there, collecting(there) as (exchange, collector):
        for number in range(ROUNDS):
            for rate, of_rate in found.items():
                count = rate * seconds
                progress(f"latency: {rate:,} pushes a second, round {number + 1} of {ROUNDS}")
                with consuming(there, count) as taken, there.timed("publish", str(rate), str(count)):
                    of_rate.floor += taken()["ages"]
                with consuming(there, count) as taken:
                    used = machine.cpu_seconds(collector.pid)
                    exchange.tell(f"rate {rate} {count}")
                    of_rate.ours += taken()["ages"]
                    of_rate.cpu += machine.cpu_seconds(collector.pid) - used
                    exchange.says()
    return [row for rate, of_rate in found.items() for row in rows(rate, of_rate)]


def rows(rate: int, of_rate: Ages) -> list[Row]:
    """Return the rows of one rate: the median, which has a target, and the tail."""
    cpu = f"collector {of_rate.cpu / len(of_rate.ours) * 1e6:.0f} us CPU a push"
    return [
        Row(
            f"exchange to `signal`, {len(symbols())} instruments, {rate:,} pushes/s: p{share * 100:.0f}",
            f"{percentile(of_rate.ours, share) * 1000:.2f} ms",
            f"{percentile(of_rate.floor, share) * 1000:.2f} ms, bare publisher to `signal`",
            percentile(of_rate.ours, share) / percentile(of_rate.floor, share),
            most=2.0 if share == 0.5 and rate <= ROOMY else None,
            note=cpu if share == 0.5 else "",
        )
        for share in (0.5, 0.99)
    ]
