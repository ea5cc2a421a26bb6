"""Statuses as the services publish them, of an invented market: its figures can be computed by hand."""

from __future__ import annotations

import os
import random
import threading
import time
from decimal import Decimal
from typing import Any

import msgspec
from pika.adapters.blocking_connection import BlockingChannel

from blackbird.market.instrument import Instrument
from blackbird.market.order_book import LevelView
from blackbird.status.histogram import BUCKETS, Counts
from blackbird.status.messages import (
    BookStatus,
    CollectorStatus,
    Direction,
    EngineStatus,
    LegStatus,
    OpenSpreadStatus,
    OrderStatus,
    PairStatus,
    PairTotals,
    SignalStatus,
    Status,
    StorageStatus,
    StreamStatus,
    WhyNot,
)
from tests.support.book_feed import declare_feed
from tests.support.workspace import Workspace

D = Decimal
STARTED_MS = time.time_ns() // 1_000_000 - 60_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def counts(*seconds: float) -> Counts:
    """Return a histogram of these observations."""
    buckets = [0] * (len(BUCKETS) + 1)
    for each in seconds:
        buckets[next((n for n, upper in enumerate(BUCKETS) if each <= upper), len(BUCKETS))] += 1
    return Counts(sum(seconds), tuple(buckets))


def status(service: str, body: Any, at_ms: int | None = None, **changes: Any) -> Status:
    """Return a status of a service."""
    at = now_ms() if at_ms is None else at_ms
    fields: dict[str, Any] = {
        "service": service,
        "version": "0.0.1",
        "mode": "simulated",
        "mode_text": "SIMULATED ORDERS",
        "host": "here",
        "pid": os.getpid(),
        "started_ms": STARTED_MS,
        "published_ms": at,
        "number": 1,
        "interval_seconds": 0.5,
        "broker": "connected",
        "cpu_seconds": (at - STARTED_MS) / 50_000,
        "resident_bytes": 61_000_000,
        "failures": {},
        service: body,
    }
    return Status(**(fields | changes))


def legs(group: int) -> tuple[Instrument, Instrument]:
    """Return spot and perpetual of a group."""
    coin = "BTC" if group == 0 else f"C{group:03d}"
    return Instrument("spot", f"{coin}USDT"), Instrument("linear", f"{coin}PERP")


def name(group: int) -> str:
    """Return the matching key of a group."""
    return "abcdefghijklmnopqrstuvwxyz"[group] if group < 26 else f"g{group}"


def collector(groups: int = 1) -> CollectorStatus:
    streams = [
        StreamStatus(
            leg.channel, leg.symbol, name(group), up=True, phase="live", silence_seconds=0.05, pushes=100
        )
        for group in range(groups)
        for leg in legs(group)
    ]
    pushes = (now_ms() - STARTED_MS) // 100
    return CollectorStatus(
        streams, "connected", 0, 20_000, pushes, pushes, 0, counts(0.001, 0.002), counts(0.0003, 0.001)
    )


def signal(groups: int = 1, *, wobble: int = 0, received_ms: int | None = None) -> SignalStatus:
    """Return the status of a signal engine; each group has a spread of 26.19 + wobble."""
    received = now_ms() if received_ms is None else received_ms
    books, pairs = [], []
    for group in range(groups):
        spot, perp = legs(group)
        bid, ask = D("61685.99") + wobble, D("61686.00") + wobble
        books += [
            _book(spot, name(group), bid, ask, received, levels=group < 10),
            _book(perp, name(group), D("61659.70"), D("61659.80"), received, levels=group < 10),
        ]
        spread, reverse = bid - D("61659.80"), D("61659.70") - ask
        held: dict[str, Any] = {
            "open_spreads": 2,
            "quantity": D("1.5"),
            "credit": D("40.5"),
            "widest": D("27.09"),
        }
        forward = Direction(perp, spot, spread, D("0.981"), D(26), -reverse, **(held if group == 0 else {}))
        backward = Direction(spot, perp, reverse, D("0.7"), D(26), -spread)
        why = WhyNot.RISK_LIMIT if group == 0 else WhyNot.NO_CROSSING
        pairs.append(PairStatus(name(group), (forward, backward), why, received - 400))
    spot, perp = legs(0)
    orders = [_order(number, received - 1000 * (30 - number), spot, perp) for number in range(1, 31)]
    return SignalStatus(
        books=books,
        pairs=pairs,
        pairs_left_out=0,
        orders=orders,
        orders_in_flight=0,
        may_trade=True,
        updates={
            "APPLIED": (now_ms() - STARTED_MS) // 100,
            "DUPLICATE": 2,
            "STALE": 0,
            "AWAITING_SNAPSHOT": 1,
            "GAP": 1,
        },
        untraded={"book too old": 4},
        answers={"Open Spread": {"ACK": 56, "risk limit exceed": 5}, "Close Spread": {"ACK": 64}},
        snapshots_requested=1,
        waiting=0,
        tick_age=counts(0.002, 0.003, 0.009),
        answer_time=counts(0.001, 0.003),
        book_age=counts(0.01, 0.02),
        spreads_open=2,
    )


def _order(number: int, at: int, spot: Instrument, perp: Instrument) -> OrderStatus:
    opens, acked = bool(number % 2), bool(number % 5)
    return OrderStatus(
        number=number,
        answered_ms=at,
        action="Open Spread" if opens else "Close Spread",
        buy=perp if opens else spot,
        sell=spot if opens else perp,
        size=D("0.25"),
        buy_price=D("61659.8") if opens else D("61686.00"),
        sell_price=D("61685.99") if opens else D("61659.7"),
        acked=acked,
        info="order placed" if acked else "risk limit exceed",
        decided_seconds=0.0043,
        answered_seconds=0.0032,
        spread_id=f"4c1e{number:04d}",
    )


def _book(leg: Instrument, group: str, bid: Decimal, ask: Decimal, at: int, *, levels: bool) -> BookStatus:
    bids = [LevelView(bid - n, D("1.5") + n, D("1.5") + n if n else D(1)) for n in range(5)]
    asks = [LevelView(ask + n, D("2.25"), D("2.25")) for n in range(5)]
    return BookStatus(
        leg.channel, leg.symbol, "in sync", at, at - 6, group, bid, D(1), ask, D("2.25"),
        bids if levels else None, asks if levels else None,
    )  # fmt: skip


def engine(groups: int = 1) -> EngineStatus:
    """Return the status of an engine with 577.88 of cash, 40.5 of it credit of 2 open spreads in 1.5 BTC."""
    spot, perp = legs(0)
    held = [LegStatus(*spot, D("-983645.1"), D("-1.5")), LegStatus(*perp, D(983227), D("1.5"))]
    held += [LegStatus(*leg, D(0), D(0)) for group in range(1, groups) for leg in legs(group)]
    return EngineStatus(
        state="active",
        stores=True,
        limit=D(1_000_000),
        risk_model="cash",
        legs=held,
        pnl=D("577.88"),
        credit=D("40.5"),
        cash_without_spread=D(0),
        turnover={"spot": D(2_855_000), "linear": D(2_854_000)},
        pairs=[PairTotals(perp, spot, D("577.88"), D("40.5"), D(0), D("1.5"), 2, D(5_709_000), 56, 64)],
        spreads_open=2,
        open_spreads=[
            OpenSpreadStatus("4c1e0001", perp, spot, D("27.09"), D("0.5"), D(2), now_ms() - 122_000),
            OpenSpreadStatus("4c1e0003", perp, spot, D("26.955"), D(1), D(1), now_ms() - 61_000),
        ],
        orders_known=125,
        answers={"Open Spread": {"ACK": 56, "risk limit exceed": 5}, "Close Spread": {"ACK": 64}},
        answer_time=counts(0.001, 0.002),
        journal_records=12,
        stored_lag_seconds=0.2,
        dead_letters=0,
    )


def storage() -> StorageStatus:
    messages = (now_ms() - STARTED_MS) // 100
    return StorageStatus(
        "storing", messages, messages, 16 * messages, 0, counts(0.1, 0.2), now_ms() - 100, now_ms() - 20, 0
    )


def all_statuses(groups: int = 1, **signals: Any) -> dict[str, Status]:
    """Return a status of each service, of now."""
    return {
        "collector": status("collector", collector(groups)),
        "signal": status("signal", signal(groups, **signals)),
        "engine": status("engine", engine(groups)),
        "storage": status("storage", storage()),
    }


def publish(channel: BlockingChannel, *statuses: Status) -> None:
    """Publish statuses as the services do."""
    for each in statuses:
        channel.basic_publish("data_feeder", "status", msgspec.json.encode(each))


class Publishing:
    """Publishes a status of each service twice a second, in a thread, but for those that are silenced."""

    def __init__(self, place: Workspace, groups: int = 1) -> None:
        self.silent: set[str] = set()
        self.frozen = False
        self.groups = groups
        self._channel: BlockingChannel = place.channel()
        declare_feed(self._channel)
        self._ended = threading.Event()
        self._last: dict[str, Status] = {}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        chance = random.Random(1)
        while not self._ended.is_set():
            if not self.frozen or not self._last:
                self._last = all_statuses(self.groups, wobble=chance.randint(-3, 3))
            now = now_ms()
            for name, status in self._last.items():
                if name not in self.silent:
                    publish(self._channel, msgspec.structs.replace(status, published_ms=now))
            self._channel.connection.process_data_events(0)
            self._ended.wait(0.5)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
