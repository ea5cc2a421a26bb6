"""Signal engine: book updates with nothing crossing, against a bare consumer of the same bodies.

The benchmark plays the trading engine. After the updates comes one that crosses both books, so that the
orders that it causes tell when all was worked off and whether the books are right.
"""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

from pika.spec import BasicProperties

from benchmarks import machine, market
from benchmarks.place import Place, place
from benchmarks.raw_broker import Delivery, RawBroker
from benchmarks.results import Row, check, median, progress, thousands
from benchmarks.storage import consumed
from blackbird.broker.topology import ORDERS, SIGNAL
from local_exchange.synthetic import SyntheticMarket

NOTHING_OPEN = b'{"status":"ACK","info":"open spreads","open_spreads":[]}'
PLACED = b'{"status":"ACK","info":"order placed"}'
REFUSED = b'{"status":"NOT ACK","info":"buy leg failed"}'


class Engine:
    """The trading engine, played: nothing is open, every order is refused."""

    def __init__(self, raw: RawBroker) -> None:
        self._raw = raw
        raw.purge(ORDERS)
        raw.consume(ORDERS)

    def answer_question(self) -> float:
        """Wait until a signal engine asks what is open, answer it, and return when it asked."""
        asked = self._raw.take()
        now = time.time()
        check(b"List Open Spreads" in asked.body, f"expected the question, was {asked.body!r}")
        self._reply(asked.properties, NOTHING_OPEN)
        return now

    def refuse_order(self, seconds: float = 60) -> tuple[float, dict[str, Any]]:
        """Wait for an order, refuse it, and return when it came and what it is."""
        taken = self._raw.take(seconds)
        now = time.time()
        order: dict[str, Any] = json.loads(taken.body, parse_float=Decimal)
        check("buy" in order, f"expected an order, was {order}")
        self._reply(taken.properties, REFUSED)
        return now, order

    def accept(self, taken: Delivery) -> dict[str, Any]:
        """Answer an order that was taken with ACK, and return it."""
        order: dict[str, Any] = json.loads(taken.body, parse_float=Decimal)
        self._reply(taken.properties, PLACED)
        return order

    def _reply(self, asked: BasicProperties, body: bytes) -> None:
        properties = BasicProperties(correlation_id=asked.correlation_id)
        self._raw.write(self._raw.frames("", asked.reply_to or "", body, properties))


_CROSSING = market.snapshot("linear", "BTCUSDT", 5_000_000, [["1", "1"]], [["2", "0.001"]])


class Load:
    """Updates of pairs, and at the end one of a third leg of the first pair that crosses both."""

    def __init__(self, name: str, pushes: list[market.Push], state: SyntheticMarket) -> None:
        self.name = name
        self.bodies = [market.body(push, market.group_of(push[1]["data"]["s"])) for push in pushes]
        legs = [("spot", "BTCUSDT"), ("linear", "BTCPERP")]
        self.expected = {(*leg, Decimal(market.best_bid(state, *leg)[0])) for leg in legs}
        self.bodies.append(market.body(_CROSSING, "BTC"))

    @classmethod
    def in_one_group(cls, instruments: int, count: int) -> Load:
        """Return depth-1 updates of so many instruments that stand at the same price."""
        pushes, state = market.calm(1, 1, count)
        load = cls(f"{instruments} in one group", [], state)
        load.bodies.clear()
        last = {}
        for number, (channel, message) in enumerate(pushes):
            symbol = f"{message['data']['s']}{number // 2 % (instruments // 2)}"
            renamed = {**message, "topic": f"orderbook.1.{symbol}", "data": {**message["data"], "s": symbol}}
            load.bodies.append(market.body((channel, renamed), "BTC"))
            last[channel, symbol] = Decimal(message["data"]["b"][0][0])
        load.expected = {(*leg, price) for leg, price in last.items()}
        load.bodies.append(market.body(_CROSSING, "BTC"))
        return load


def drained(there: Place, load: Load) -> tuple[float, float, float]:
    """Let the signal engine drain the queue; return its seconds, CPU seconds and bytes of memory."""
    with there.raw() as raw, there.raw() as played:
        raw.fill(SIGNAL, load.bodies, market.properties(SIGNAL))
        engine = Engine(played)
        service = there.space.start("signal")
        begin = engine.answer_question()
        used = machine.cpu_seconds(service.process.pid)
        end, order = engine.refuse_order(120)
        used = machine.cpu_seconds(service.process.pid) - used
        orders = [order]
        while len(orders) < len(load.expected):
            orders.append(engine.refuse_order()[1])
        found = {(*_leg(order["sell"]), order["sell_price"]) for order in orders}
        check(found == load.expected, f"expected sales {load.expected}, were {found}")
        check(all(order["buy_price"] == 2 for order in orders), f"expected to buy at 2: {orders}")
        memory = machine.resident_bytes(service.process.pid)
        check(service.stop() == 0, "the signal service did not end in order")
        check(raw.waiting(SIGNAL) == 0, "messages are left in the queue")
    return end - begin, used, memory


def _leg(value: object) -> tuple[str, str]:
    channel, symbol = value if isinstance(value, list) else ("", "")
    return str(channel), str(symbol)


def run(*, quick: bool) -> list[Row]:
    small, large = (20_000, 10_000) if quick else (90_000, 20_000)
    loads = [
        Load("depth 1", *market.calm(1, 1, small)),
        Load("depth 50, deltas", *market.calm(50, 1, small // 2)),
        Load("depth 50, whole books", *market.whole_books(large)),
    ]
    rows = []
    rounds = 3 if quick else 5
    with place() as there:
        there.declare_queues()
        for load in loads:
            count = len(load.bodies)
            runs = []
            for number in range(rounds):
                progress(f"signal: {load.name}, round {number + 1} of {rounds}")
                runs.append((drained(there, load), consumed(there, SIGNAL, load.bodies)))
            seconds = median([ours[0] for ours, _ in runs])
            bare_seconds = median([bare[0] for _, bare in runs])
            ours_cpu = median([ours[1] for ours, _ in runs]) / count * 1e6
            bare_cpu = median([bare[1] for _, bare in runs]) / count * 1e6
            size = sum(map(len, load.bodies)) / count
            rows.append(
                Row(
                    f"signal, {load.name}, nothing crossing ({size:.0f} bytes)",
                    thousands(count / seconds, "msg/s"),
                    f"{thousands(count / bare_seconds, 'msg/s')} bare consumer",
                    median([bare[0] / ours[0] for ours, bare in runs]),
                    least=0.7,
                    note=f"CPU a message: {ours_cpu:.0f} us, bare {bare_cpu:.0f} us",
                )
            )
    return rows
