"""Everything at once: exchange, collector, broker, storage, signal and trading engine on one machine.

The exchange pushes at a fixed rate and counts; afterwards every push has to be in the database once. While it
runs, the queues are looked at every second: what waits must not grow. Then, from empty queues on and at half
the rate, a queue of the benchmark's own bound to `signal` tells how old a push is when it gets to a consumer.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from benchmarks import machine, market
from benchmarks.collector import Collector, pushed
from benchmarks.place import Place, place, wait_until
from benchmarks.raw_broker import RawBroker
from benchmarks.results import Row, check, millis, percentile, progress, thousands
from blackbird.broker.topology import EXCHANGE, ORDERS, SIGNAL, STORAGE
from config import Config
from local_exchange.process import ExchangeProcess

WAITING_MOST = 0.5  # seconds of pushes that may wait in a queue
LOOKS = 10  # at the queues, one a second
# Of the recorded market's updates 1.0 % trade at depth 1 under the default risk limit, and 19 % at depth 50
# (13 % of 50,000 when it is played in rounds, for the limit is reached). With this share of its swings 1.5 %
# and 11 % of the synthetic market's do, counted over ten minutes.
SWINGS = {1: "0.02", 50: "0.1"}
SERVICES = ("data_storage", "signal", "trading_engine")


@dataclass
class Flow:
    """What was seen while pushes flowed."""

    pushes: int = 0
    seconds: float = 0.0
    most_waiting: dict[str, int] = field(default_factory=dict)
    # Of the last LOOKS looks: a queue that does not grow is empty again and again.
    least_waiting: dict[str, int] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    ages: list[float] = field(default_factory=list)


class Listener:
    """A queue of the benchmark's own on `signal`, read in a thread of its own."""

    def __init__(self, raw: RawBroker) -> None:
        self.ages: list[float] = []
        self._raw = raw
        queue = raw.declare("", durable=False, exclusive=True)
        raw.bind(queue, EXCHANGE, SIGNAL)
        raw.consume(queue)
        self._stop = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop:
            try:
                taken = self._raw.take(0.5)
            except TimeoutError:
                continue
            now = time.time()
            # ts is in whole milliseconds: half of one is what the rest comes to on average.
            self.ages.append(max(0.0, now - json.loads(taken.body)["ts"] / 1000 - 0.0005))

    def stop(self) -> list[float]:
        self._stop = True
        self._thread.join()
        return self.ages


class Pipeline:
    """All processes, on one exchange that stands still until it is told to push."""

    def __init__(self, there: Place, exchange: ExchangeProcess, topics: market.Topics, depth: int) -> None:
        self.exchange = exchange
        self._topics = len(topics)
        self._there = there
        processes = {name: there.space.start_ready(name).process.pid for name in SERVICES}
        collector = Collector(there, exchange.url, depth)
        for channel, topic in topics:
            collector.subscribe(channel, topic)
        self.collector = collector
        self._pids = {
            **processes,
            "collector": collector.pid,
            "exchange": exchange.process.pid,
            "broker": machine.listener(Config.RABBITMQ_PORT),
        }
        self._database = machine.listener(Config.POSTGRES_PORT)

    def _used(self) -> dict[str, float]:
        """Return the CPU time of each part so far; of the database its whole server."""
        used = {name: machine.cpu_seconds(pid) for name, pid in self._pids.items() if pid is not None}
        if self._database is not None:
            used["database"] = machine.family_cpu_seconds(self._database)
        return used

    def flow(self, raw: RawBroker, rate: float, seconds: float, what: str, *, listen: bool = False) -> Flow:
        """Push at `rate` a second altogether; return when all is stored."""
        seen = Flow()
        before = pushed(self.exchange)
        used = self._used()
        listener = Listener(self._there.raw()) if listen else None
        looks = {queue: deque[int](maxlen=LOOKS) for queue in (STORAGE, SIGNAL, ORDERS)}
        begin = time.time()
        self.exchange.post("/pace", pace=rate / self._topics)
        while time.time() < begin + seconds:
            time.sleep(min(1.0, max(0.0, begin + seconds - time.time())))
            for queue, waiting in looks.items():
                waiting.append(raw.waiting(queue))
                seen.most_waiting[queue] = max(seen.most_waiting.get(queue, 0), waiting[-1])
                seen.least_waiting[queue] = min(waiting)
            now = {queue: waiting[-1] for queue, waiting in looks.items()}
            progress(f"{what}: {time.time() - begin:.0f} of {seconds:.0f} s, waiting {now}")
        self.exchange.post("/pace", pace=0)
        seen.seconds = time.time() - begin
        seen.pushes = pushed(self.exchange) - before
        seen.cpu = {name: (now - used[name]) / seen.seconds for name, now in self._used().items()}
        seen.memory = {
            name: machine.resident_bytes(pid) for name, pid in self._pids.items() if pid is not None
        }
        if listener is not None:
            seen.ages = listener.stop()
        self.wait_until_stored()
        return seen

    def wait_until_stored(self) -> None:
        """Wait until the database has every push, and check that it has each once."""
        expected = pushed(self.exchange)

        def stored() -> int:
            return int(self._there.space.query("SELECT count(*) FROM bybit.orderbook_update")[0][0])

        wait_until(lambda: stored() >= expected, f"{expected} updates stored", 120, 0.3)
        check(self.collector.health()["dropped"] == 0, "the collector dropped pushes")

    def wait_until_drained(self, raw: RawBroker) -> None:
        """Wait until nothing waits in any queue: what is measured next must not be of what was before."""
        queues = (STORAGE, SIGNAL, ORDERS)
        wait_until(lambda: not any(raw.waiting(queue) for queue in queues), "empty queues", 300, 0.1)

    def check_rows(self) -> None:
        """Check that each stored update has its rows, and no row stands twice."""
        # While this looks for minutes, the collector asks streams that are quiet for snapshots.
        least = pushed(self.exchange)
        found = self._there.space.query(
            "SELECT (SELECT count(*) FROM bybit.orderbook_update),"
            " (SELECT count(DISTINCT (channel, topic, type, update_id, sequence_id, ts_orderbook))"
            "  FROM bybit.orderbook),"
            " (SELECT count(*) FROM bybit.orderbook)"
            " - (SELECT count(*) FROM (SELECT DISTINCT channel, topic, type, update_id, sequence_id,"
            "    ts_orderbook, side, price FROM bybit.orderbook) AS level)"
        )[0]
        most = pushed(self.exchange)
        updates, with_rows, twice = found
        check(
            least <= updates <= most and with_rows == updates and twice == 0,
            f"pushes {least} to {most}; updates, with rows, rows twice: {found}",
        )

    def check_orders(self) -> int:
        """Check that every execution has two rows, and return how many there are."""
        rows, orders = self._there.space.query(
            'SELECT count(*), count(DISTINCT order_id) FROM bybit."order"'
        )[0]
        check(rows == 2 * orders, f"{rows} rows of {orders} executed orders")
        return int(orders)


def _row(what: str, asked: float, flow: Flow, note: str = "") -> Row:
    rate = flow.pushes / flow.seconds
    shares = ", ".join(f"{name.removesuffix('_engine')} {share:.0%}" for name, share in flow.cpu.items())
    grown = [queue for queue, waiting in flow.least_waiting.items() if waiting > rate * WAITING_MOST]
    waiting = ", ".join(f"{queue} {most}" for queue, most in flow.most_waiting.items())
    return Row(
        what,
        thousands(rate, "updates/s") + (f", grown: {', '.join(grown)}" if grown else ""),
        f"{asked:,.0f} updates/s asked",
        0.0 if grown else rate / asked,
        least=0.98,
        note=f"most waiting: {waiting}; CPU {shares}{note}",
    )


def market_process(depth: int) -> ExchangeProcess:
    """Return an exchange with two pairs that trade as often as the recorded market."""
    arguments = ("--rate", "0", "--repeat-after", "0", "--instruments", "2", "--swings", SWINGS[depth])
    return ExchangeProcess(*arguments)


def run(*, quick: bool, minutes: float = 1.0) -> list[Row]:
    seconds = 8.0 if quick else minutes * 60
    rows = []
    for depth, rate in ((1, 3000), (50, 2000)):
        name = f"pipeline, depth {depth}"
        topics = market.pair_topics(depth, 2)
        with (
            place() as there,
            market_process(depth) as exchange,
            there.raw() as raw,
        ):
            pipeline = Pipeline(there, exchange, topics, depth)
            flow = pipeline.flow(raw, rate, seconds, name)
            pipeline.wait_until_drained(raw)
            half = pipeline.flow(raw, rate / 2, min(seconds, 20), f"{name}, half", listen=True)
            pipeline.check_rows()
            executed = pipeline.check_orders()
            check(executed > 0, "the market crossed and nothing was traded")
        rows += [
            _row(name, rate, flow, f"; {executed} orders"),
            Row(
                f"  exchange to `signal` at {rate / 2:,.0f} updates/s, p50",
                millis(half.ages),
                "5 ms asked",
                percentile(half.ages, 0.5) / 0.005,
                most=1.0,
            ),
        ]
    return rows
