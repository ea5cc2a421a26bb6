"""The collector: exchange pushes to both routing keys, confirmed, against a bare publisher.

Nobody reads the queues, so what is in them at the end is all that was published. The exchange counts what it
pushed; both have to be the same.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import machine, market
from benchmarks.place import Place, place, wait_until
from benchmarks.raw_broker import RawBroker
from benchmarks.results import Row, check, progress, thousands
from blackbird.broker.topology import SIGNAL, STORAGE
from local_exchange.process import ExchangeProcess
from tests.support.workspace import Service, free_port

RATES = (3000, 4000, 5000, 6000, 8000, 10_000)  # pushes a second, tried until it does not keep up


class Collector:
    """The collector's process and its HTTP side."""

    def __init__(self, there: Place, exchange_url: str, depth: int, **settings: str) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self.service: Service = there.space.start_ready(
            "market_data_collector",
            BYBIT_WS_URL=exchange_url,
            COLLECTOR_PORT=str(port),
            ORDERBOOK_DEPTH=str(depth),
            **settings,
        )
        self.pid = self.service.process.pid
        self.dropped = 0

    def subscribe(self, channel: str, topic: str) -> None:
        symbol = topic.rpartition(".")[2]
        body = {"channel": channel, "symbol": symbol, "matching_key": market.group_of(symbol)}
        request = urllib.request.Request(  # noqa: S310
            f"{self._url}/subscribe", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            check(answer.status == 200, f"{symbol} on {channel}: {answer.status}")

    def health(self) -> dict[str, Any]:
        try:
            answer = urllib.request.urlopen(f"{self._url}/health", timeout=10)  # noqa: S310
        except urllib.error.HTTPError as error:  # 503: the other services do not run here
            answer = error
        with answer:
            health: dict[str, Any] = json.load(answer)
        return health


def pushed(exchange: ExchangeProcess) -> int:
    """Return how many pushes the exchange has sent."""
    return int(exchange.get("/counters")["sent"])


@dataclass
class Run:
    """What came of some seconds of pushes."""

    pushes: int
    seconds: float
    behind: int  # pushes that were not in the queue at the end of the pushing
    kept_up: bool  # none dropped, and less than half a second behind
    catching_up: float  # seconds until they were
    cpu: float
    memory: int


@contextlib.contextmanager
def collecting(
    there: Place, topics: market.Topics, depth: int, *arguments: str
) -> Iterator[tuple[ExchangeProcess, Collector]]:
    """Run a local exchange that stands still, and a collector that has subscribed all topics."""
    with ExchangeProcess("--rate", "0", "--repeat-after", "0", *arguments) as exchange:
        collector = Collector(there, exchange.url, depth)
        for channel, topic in topics:
            collector.subscribe(channel, topic)
        yield exchange, collector
        check(collector.service.stop() == 0, "the collector did not end in order")


def measure(
    there: Place, raw: RawBroker, topics: market.Topics, depth: int, rate: float, seconds: float
) -> Run:
    """Push for some seconds at `rate` an instrument."""
    pairs = str(max(1, len(topics) // 2))
    raw.purge(STORAGE)
    raw.purge(SIGNAL)
    with collecting(there, topics, depth, "--instruments", pairs, "--no-crossing") as (exchange, collector):
        wait_until(lambda: raw.waiting(STORAGE) >= len(topics), "a snapshot of each topic")
        used = machine.cpu_seconds(collector.pid)
        begin = time.time()
        exchange.post("/pace", pace=rate)
        time.sleep(seconds)
        exchange.post("/pace", pace=0)
        end = time.time()
        sent = pushed(exchange)
        behind = sent - raw.waiting(STORAGE)
        done = wait_until(lambda: _all_there(raw, collector, sent), f"{sent} pushes in the queue", 60)
        used = machine.cpu_seconds(collector.pid) - used
        memory = machine.resident_bytes(collector.pid)
        there_now = raw.waiting(STORAGE)
        check(there_now + collector.dropped == sent, f"{sent} pushes sent, {there_now} in `storage`")
        expected = min(there_now, 100_000)  # what `signal` holds
        wait_until(lambda: raw.waiting(SIGNAL) == expected, f"{expected} pushes in `signal`", 10)
        kept_up = not collector.dropped and behind < sent / (end - begin) / 2
    return Run(sent, end - begin, max(0, behind), kept_up, done - end, used, memory)


def _all_there(raw: RawBroker, collector: Collector, sent: int) -> bool:
    collector.dropped = collector.health()["dropped"]
    return raw.waiting(STORAGE) + collector.dropped >= sent


def run(*, quick: bool) -> list[Row]:
    seconds = 3.0 if quick else 15.0
    rows = []
    with place() as there, there.raw() as raw:
        there.declare_queues()
        for name, depth in (("depth 1", 1), ("depth 50", 50)):
            most: Run | None = None
            for rate in RATES[:2] if quick else RATES:
                progress(f"collector: 2 streams, {name}, {rate:,} pushes a second")
                tried = measure(there, raw, market.pair_topics(depth, 1), depth, rate / 2, seconds)
                if not tried.kept_up:
                    break
                most = tried
            reached = most.pushes / most.seconds if most is not None else 0.0
            cpu = f"{most.cpu / most.pushes * 1e6:.0f} us CPU a push; " if most is not None else ""
            progress("collector: the bare publisher")
            with there.bare("publish", "20000", "300", "2000") as publisher:
                said = publisher.says()
            bare = said["published"] / said["seconds"]
            rows.append(
                Row(
                    f"collector, 2 streams, {name}: kept up with",
                    thousands(reached, "pushes/s"),
                    "3,000 pushes/s asked",
                    reached / 3000,
                    least=0.98,
                    note=f"{cpu}bare publisher with confirms {thousands(bare, 'msg/s')}",
                )
            )
        progress("collector: 200 streams at 10 pushes a second")
        many = measure(there, raw, market.pair_topics(50, 100), 50, 10, seconds)
        note = f"ratio: backlog in seconds; CPU {many.cpu / many.seconds:.0%}, {many.memory / 1e6:.0f} MB"
        rows.append(
            Row(
                "collector, 200 streams at 10 pushes/s, depth 50",
                f"{many.behind} pushes behind",
                f"{thousands(many.pushes / many.seconds, 'pushes/s')} sent",
                many.behind / (many.pushes / many.seconds),
                most=0.25,
                note=note,
            )
        )
    return rows
