"""A book message that crosses, until its order is on the `orders` queue, against a bare relay.

The benchmark publishes, and takes the order as the trading engine would. One measurement of ours and one of
the relay take turns, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import time
from decimal import Decimal

from benchmarks import market
from benchmarks.place import place
from benchmarks.raw_broker import RawBroker
from benchmarks.results import Row, check, millis, percentile, progress
from benchmarks.updates import Engine
from blackbird.broker.topology import EXCHANGE, ORDERS, SIGNAL

WARM_UP = 200


def _tick(number: int) -> bytes:
    """Return a book whose best ask is under the other leg's bid, each time of another size."""
    push = market.snapshot(
        "linear", "BTCPERP", 10 + number, [["90", "1"]], [["100", f"1.{number:06}"], ["200", "1"]]
    )
    return market.body(push, "a")


class Relay:
    """What is measured beside: the same bodies from one queue to another."""

    def __init__(self, raw: RawBroker) -> None:
        self._raw = raw
        raw.consume("relay.out")

    def pass_on(self, body: bytes) -> float:
        frames = self._raw.frames("", "relay.in", body, market.properties("relay.in"))
        begin = time.perf_counter()
        self._raw.write(frames)
        delivery = self._raw.take(10)
        seconds = time.perf_counter() - begin
        check(delivery.body == body, "the relay passed on something else")
        return seconds


def verdicts(what: str, ours: list[float], bare: list[float], ceiling: str, note: str = "") -> list[Row]:
    """Return the rows for p50 and p99 of two lists of latencies."""
    return [
        Row(
            f"{what}, {name}",
            f"{percentile(ours, share) * 1000:.2f} ms",
            f"{percentile(bare, share) * 1000:.2f} ms {ceiling}",
            percentile(ours, share) / percentile(bare, share),
            most=1.5,
            note=note if name == "p50" else "",
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def run(*, quick: bool) -> list[Row]:
    count = 500 if quick else 5000
    ours: list[float] = []
    bare: list[float] = []
    with place() as there:
        there.declare_queues("relay.in", "relay.out")
        with (
            there.raw() as books,
            there.raw() as orders,
            there.raw() as relayed,
            there.bare("relay", "relay.in", "relay.out") as program,
        ):
            program.says()
            relay = Relay(relayed)
            engine = Engine(orders)
            there.space.start("signal")
            engine.answer_question()
            other = market.snapshot("spot", "BTCUSDT", 1, [["101", "1000000"]], [["300", "1"]])
            books.write(books.frames(EXCHANGE, SIGNAL, market.body(other, "a"), market.properties(SIGNAL)))
            for number in range(WARM_UP + count):
                if number % 500 == 0:
                    progress(f"ticks: {number} of {WARM_UP + count}")
                body = _tick(number)
                frames = books.frames(EXCHANGE, SIGNAL, body, market.properties(SIGNAL))
                begin = time.perf_counter()
                books.write(frames)
                taken = orders.take(10)
                seconds = time.perf_counter() - begin
                order = engine.accept(taken)
                expected = (["linear", "BTCPERP"], Decimal(100), Decimal(101), Decimal(f"1.{number:06}"))
                found = (order["buy"], order["buy_price"], order["sell_price"], order["size"])
                check(found == expected, f"expected the order {expected}, was {found}")
                relay_seconds = relay.pass_on(body)
                if number >= WARM_UP:
                    ours.append(seconds)
                    bare.append(relay_seconds)
            check(books.waiting(ORDERS) == 0, "more orders than ticks")
    return verdicts("tick to order", ours, bare, "bare relay", f"{millis(ours)} of {count} ticks")
