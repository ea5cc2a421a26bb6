"""An order to its answer, database on, against a bare RPC echo in the same client library.

One at a time (in turns with the echo), the same with 100,000 remembered orders, and pipelined. At the end the
database has to hold two rows an order, and their sums have to be what was traded.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from decimal import Decimal

from pika.spec import BasicProperties

from benchmarks.place import Place, place, wait_until
from benchmarks.raw_broker import RawBroker
from benchmarks.results import Row, check, median, progress, thousands
from benchmarks.ticks import verdicts
from blackbird.broker.topology import ORDERS
from tests.support.workspace import connect

WARM_UP = 200
IN_FLIGHT = 200
REMEMBERED = 100_000
PRICE_DIFFERENCE = 2  # between the legs: what an order of size 1 adds to the PnL

REMEMBER = """
INSERT INTO bybit."order" (channel, symbol_name, price, size, type, flux, ts_orderbook,
                           order_id, action, spread_id, placed_at, execution_id, request_key)
SELECT leg.channel, leg.symbol, leg.price, 1, leg.type, leg.flux, placed_at - 10, 'remembered-' || number,
       'Close Spread', NULL, placed_at, number, NULL
FROM generate_series(1, %(count)s) AS number,
     -- The last ones a moment ago, at 400 a second.
     LATERAL (SELECT (extract(epoch FROM now()) * 1000 - (%(count)s - number) * 2.5)::bigint)
       AS time (placed_at),
     (VALUES ('linear', 'OLDPERP', 99, 'buy', -99), ('spot', 'OLDUSDT', 101, 'sell', 101))
       AS leg(channel, symbol, price, type, flux)
"""


def _order(number: int) -> bytes:
    """Return an order of size 1: an opening one, and next the one that closes what it opened."""
    legs = ('["linear","BTCPERP"]', '["spot","BTCUSDT"]')
    opens = number % 2 == 0
    buy, sell = legs if opens else reversed(legs)
    now = int(time.time() * 1000)
    text = (
        f'{{"order_id":"{uuid.uuid4().hex}","action":"{"Open" if opens else "Close"} Spread",'
        f'"spread_id":"spread-{number // 2}","expires_at":{now + 60_000},'
        f'"buy":{buy},"buy_price":99,"sell":{sell},"sell_price":101,"size":1,'
        f'"ts_buy":{now},"ts_sell":{now}}}'
    )
    return text.encode()


def _remember(there: Place) -> None:
    with contextlib.closing(connect(there.environment, there.space.name)) as database:
        database.cursor().execute(REMEMBER, {"count": REMEMBERED})


class Client:
    """Sends requests to a queue and takes the answers."""

    def __init__(self, raw: RawBroker, queue: str) -> None:
        self._raw = raw
        self._queue = queue
        self._replies = raw.declare("", durable=False, exclusive=True)
        raw.consume(self._replies)

    def frames(self, body: bytes, number: int) -> bytes:
        properties = BasicProperties(delivery_mode=2, reply_to=self._replies, correlation_id=f"{number:032}")
        return self._raw.frames("", self._queue, body, properties)

    def ask(self, body: bytes, number: int) -> float:
        """Return the seconds until the answer."""
        frames = self.frames(body, number)
        begin = time.perf_counter()
        self._raw.write(frames)
        reply = self._raw.take(10)
        seconds = time.perf_counter() - begin
        check(b'"ACK"' in reply.body, f"expected an ACK, was {reply.body!r}")
        check(reply.properties.correlation_id == f"{number:032}", "the answer to something else")
        return seconds

    def pipeline(self, bodies: list[bytes]) -> float:
        """Send all with so many unanswered at a time; return the seconds for all."""
        frames = [self.frames(body, number) for number, body in enumerate(bodies)]
        begin = time.perf_counter()
        for one in frames[:IN_FLIGHT]:
            self._raw.write(one)
        for number in range(len(frames)):
            reply = self._raw.take(30)
            check(b'"ACK"' in reply.body, f"expected an ACK, was {reply.body!r}")
            if number + IN_FLIGHT < len(frames):
                self._raw.write(frames[number + IN_FLIGHT])
        return time.perf_counter() - begin


class Market:
    """Orders with what they have to add up to."""

    def __init__(self) -> None:
        self.placed = 0

    def next(self) -> bytes:
        self.placed += 1
        return _order(self.placed - 1)

    def check_rows(self, there: Place) -> None:
        """Wait until all is stored, and check that it is all and adds up."""
        statement = (
            'SELECT count(*), count(DISTINCT order_id), sum(flux) FROM bybit."order"'
            " WHERE symbol_name LIKE 'BTC%%'"
        )
        expected = (2 * self.placed, self.placed, Decimal(PRICE_DIFFERENCE * self.placed))
        wait_until(lambda: there.space.query(statement)[0][0] >= expected[0], "orders in the database", 30)
        found = there.space.query(statement)[0]
        check(found == expected, f"orders: expected (rows, orders, PnL) {expected}, were {found}")


def _in_turns(engine: Client, echo: Client, orders: Market, count: int) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    for number in range(WARM_UP + count):
        body = orders.next()
        seconds = engine.ask(body, number)
        echo_seconds = echo.ask(body, number)
        if number >= WARM_UP:
            ours.append(seconds)
            bare.append(echo_seconds)
    return ours, bare


def run(*, quick: bool) -> list[Row]:
    count = 500 if quick else 4000
    piped = 2_000 if quick else 20_000
    rounds = 1 if quick else 5
    orders = Market()
    with place() as there:
        there.declare_queues("echo")
        with (
            there.raw() as raw,
            there.raw() as raw_echo,
            there.bare("echo", "echo") as program,
        ):
            program.says()
            engine, echo = Client(raw, ORDERS), Client(raw_echo, "echo")
            service = there.space.start_engine()
            progress("orders: one at a time")
            ours, bare = _in_turns(engine, echo, orders, count)
            rows = verdicts("order to ACK, one at a time", ours, bare, "bare echo")
            fresh = median(ours)
            runs = []
            for number in range(rounds):
                progress(f"orders: pipelined, round {number + 1} of {rounds}")
                bodies = [orders.next() for _ in range(piped)]
                runs.append((engine.pipeline(bodies), echo.pipeline(bodies)))
            orders.check_rows(there)
            rows.append(
                Row(
                    f"order to ACK, {IN_FLIGHT} in flight",
                    thousands(piped / median([ours for ours, _ in runs]), "orders/s"),
                    thousands(piped / median([bare for _, bare in runs]), "req/s") + " bare echo",
                    median([bare / ours for ours, bare in runs]),
                    least=0.6,
                )
            )
            check(service.stop() == 0, "the engine did not end in order")

            progress(f"orders: {REMEMBERED} remembered")
            # Out of the way of those, and of each other while they move.
            there.space.query('UPDATE bybit."order" SET execution_id = execution_id + 1000000000')
            _remember(there)
            begin = time.perf_counter()
            there.space.start_engine()
            reading = time.perf_counter() - begin
            ours, bare = _in_turns(engine, echo, orders, count)
            orders.check_rows(there)
    note = f"started and read them in {reading:.1f} s"
    rows += verdicts(f"order to ACK, {REMEMBERED:,} remembered", ours, bare, "bare echo", note)
    rows.append(
        Row(
            "  p50 with them, against p50 without",
            f"{median(ours) * 1000:.2f} ms",
            f"{fresh * 1000:.2f} ms with none",
            median(ours) / fresh,
            most=1.2,
            note="flat",
        )
    )
    return rows
