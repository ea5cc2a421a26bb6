"""Recorded markets through signal core and trading engine, in file order, without broker or database."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from blackbird.market.book_message import decode_book
from blackbird.market.instrument import Instrument
from blackbird.trading.engine import TradingEngine
from blackbird.trading.orders import Order, Reply
from blackbird.trading.records import Execution
from blackbird.trading.signal import Signal
from tests.support.market import PERP, SPOT
from tests.support.naive_market import NaiveEngine, NaiveMarket, NaiveOrder

LIMIT = Decimal(1_000_000)


def recorded(file: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Return the pushes of a recording as the collector publishes them, both instruments in one group."""
    with gzip.open(file, "rt") as lines:
        for number, line in enumerate(lines):
            if number == most:
                return
            entry = json.loads(line)
            yield {**entry["message"], "channel": entry["category"], "matching_key": "a"}


@dataclass
class Run:
    """What became of a recording."""

    orders: list[NaiveOrder] = field(default_factory=list)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    pnl: Decimal = Decimal(0)
    exposure: dict[Instrument, Decimal] = field(default_factory=dict)
    spreads_left: int = 0


def trade(messages: Iterator[dict[str, Any]]) -> Run:
    signal = Signal(clock=lambda: 0)
    engine = TradingEngine(limit=LIMIT, unique_order=True, clock=lambda: 0)
    run = Run()
    numbers: dict[str, int] = {}

    def place(order: Order) -> Reply:
        assert order.spread_id is not None
        number = numbers.setdefault(order.spread_id, len(numbers))
        run.orders.append(
            NaiveOrder(
                order.action, order.buy, order.buy_price, order.sell, order.sell_price, order.size, number
            )
        )
        record = engine.execute(order)
        if order.action == "Open Spread" and not isinstance(record, Execution):
            del numbers[order.spread_id]
        reply = engine.answer_of(record)
        run.answers[order.action, reply.status] += 1
        return reply

    for message in messages:
        pairs = signal.on_book(decode_book(json.dumps(message).encode()), 0)
        scan = signal.scan(pairs)
        while scan.order is not None:
            scan.answer(place(scan.order))
    run.pnl = engine.pnl
    run.exposure = engine.risks
    run.spreads_left = len(engine.spreads)
    assert signal.spreads.listed() == engine.spreads.listed()
    return run


def test_depth_50_gives_the_published_figures(recordings: Path) -> None:
    run = trade(recorded(recordings / "btc_depth50.ndjson.gz"))
    assert run.answers == {
        ("Open Spread", "ACK"): 773,
        ("Open Spread", "NOT ACK"): 153,
        ("Close Spread", "ACK"): 1100,
    }
    assert run.pnl == Decimal("235.8528529")
    assert run.exposure == {SPOT: Decimal("-921588.1904669"), PERP: Decimal("921352.337614")}
    assert run.spreads_left == 140


def test_depth_1_gives_the_published_figures(recordings: Path) -> None:
    run = trade(recorded(recordings / "btc_depth1.ndjson.gz"))
    assert run.answers == {
        ("Open Spread", "ACK"): 317,
        ("Open Spread", "NOT ACK"): 234,
        ("Close Spread", "ACK"): 628,
    }
    assert run.pnl == Decimal("402.9136848")
    assert run.exposure == {SPOT: Decimal("-998042.0371298"), PERP: Decimal("997639.123445")}
    assert run.spreads_left == 41


def recompute(messages: Iterator[dict[str, Any]]) -> tuple[NaiveMarket, NaiveEngine]:
    engine = NaiveEngine(LIMIT)
    market = NaiveMarket(engine)
    for message in messages:
        market.on_message(message)
    return market, engine


def assert_same(run: Run, market: NaiveMarket, engine: NaiveEngine) -> None:
    for number, (order, expected) in enumerate(zip(run.orders, market.orders, strict=False)):
        assert order == expected, f"order {number}"
    assert len(run.orders) == len(market.orders)
    assert run.answers == engine.answers
    assert run.pnl == engine.pnl
    assert run.exposure == engine.exposure
    assert run.spreads_left == len(market.spreads)


@pytest.mark.parametrize(
    ("name", "most", "least_orders"),
    [
        ("btc_depth50.ndjson.gz", None, 2000),
        ("btc_depth1.ndjson.gz", 15_000, 100),
        pytest.param("btc_depth1.ndjson.gz", None, 1000, marks=pytest.mark.slow),
    ],
)
def test_recording_goes_order_by_order_as_a_naive_recomputation(
    recordings: Path, name: str, most: int | None, least_orders: int
) -> None:
    file = recordings / name
    run = trade(recorded(file, most))
    assert len(run.orders) > least_orders
    assert_same(run, *recompute(recorded(file, most)))
