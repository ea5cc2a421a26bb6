"""What the signal engine says of itself, against what the test has brought it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pika.spec import BasicProperties

from blackbird.market.instrument import Instrument
from blackbird.runtime.failure_log import FailureLog
from blackbird.signals.ack_tracker import AckTracker
from blackbird.signals.group_lane import GroupLanes, LaneContext, PendingUpdate
from blackbird.signals.order_log import OrderLog
from blackbird.signals.signal_status import BOOKS_WITH_LEVELS, SignalStatusSource
from blackbird.status.messages import WhyNot
from blackbird.trading.orders import OpenSpread, Order, Reply
from blackbird.trading.pair_checks import Limits
from blackbird.trading.signal import Signal
from tests.support.market import BEYOND_RISK, PERP, PLACED, SPOT, book_message

Side = list[tuple[str, str]]


class Orders:
    """Keeps the orders in flight; the test answers them."""

    def __init__(self, log: OrderLog) -> None:
        self._log = log
        self.in_flight: list[tuple[Order, Callable[[Reply], None]]] = []
        self.questions: list[Callable[[Reply], None]] = []

    def send(self, order: Order, on_reply: Callable[[Reply], None]) -> None:
        self.in_flight.append((order, on_reply))

    def open_spreads(self, on_reply: Callable[[Reply], None]) -> None:
        self.questions.append(on_reply)

    def answer(self, reply: Reply = PLACED) -> None:
        order, on_reply = self.in_flight.pop(0)
        self._log.add(order, reply, 0.002)
        on_reply(reply)


class Timer:
    """Never expires."""

    def cancel(self) -> None:
        pass


class Scene:
    def __init__(self, *, know_spreads: bool = True) -> None:
        self.now = 1_000_000
        self.log = OrderLog(lambda: self.now)
        self.orders = Orders(self.log)
        self.signal = Signal(clock=lambda: self.now, limits=Limits(stale_after_ms=10_000))
        self.failures = FailureLog()
        acks = AckTracker(lambda _: None)
        self.lanes = GroupLanes(
            LaneContext(
                self.signal,
                self.orders,
                acks,
                self.failures,
                lambda *_: None,
                start_timer=lambda *_: Timer(),
            )
        )
        self.source = SignalStatusSource(
            self.signal,
            self.lanes,
            self.log,
            self.failures,
            is_connected=lambda: True,
            snapshots_requested=lambda: 3,
            clock=lambda: self.now,
        )
        self._number = 0
        self.lanes.ask_open_spreads()
        if know_spreads:
            self.know_spreads()

    def know_spreads(self, *spreads: OpenSpread) -> None:
        self.orders.questions.pop(0)(Reply("ACK", "open spreads", list(spreads)))

    def book(self, instrument: Instrument, bids: Side, asks: Side, key: str = "a") -> None:
        self._number += 1
        message = book_message(
            "snapshot", self._number, bids, asks, instrument=instrument, key=key, time=self.now - 5
        )
        self.lanes.receive(PendingUpdate(self._number, message, self.now, self.now, b"", BasicProperties()))

    def crossing(self) -> None:
        """Bring books that give reason for one order, for a size of 2."""
        self.book(PERP, [("99", "1")], [("100", "2"), ("108", "1")])
        self.book(SPOT, [("105", "3")], [("107", "4")])

    def quiet(self) -> None:
        self.book(PERP, [("99", "1")], [("100", "2")])
        self.book(SPOT, [("98", "3")], [("107", "4")])

    def status(self) -> Any:
        return asyncio.run(self.source.describe())

    def pair(self) -> Any:
        (pair,) = self.status().pairs
        return pair

    def why(self) -> Any:
        return self.pair().why


def test_books_are_shown_with_best_prices_levels_and_state() -> None:
    scene = Scene()
    scene.quiet()
    perp, spot = scene.status().books
    assert (perp.channel, perp.symbol, perp.group, perp.state) == (*PERP, "a", "in sync")
    assert (perp.bid, perp.bid_size, perp.ask, perp.ask_size) == (99, 1, 100, 2)
    assert spot.bids == [(98, 3, 3)]
    assert (spot.received_ms, spot.cts_ms) == (scene.now, scene.now - 5)
    scene.signal.keeper.invalidate(SPOT)
    scene.now += 10_001
    assert [book.state for book in scene.status().books] == ["too old", "waits for snapshot"]


def test_levels_of_many_books_are_sent_in_turn() -> None:
    scene = Scene()
    instruments = [Instrument("spot", f"COIN{number}USDT") for number in range(BOOKS_WITH_LEVELS * 2 + 5)]
    for instrument in instruments:
        scene.book(instrument, [("98", "3")], [("107", "4")], key=instrument.symbol)
    turns = []
    for _ in range(3):
        books = scene.status().books
        assert [book.symbol for book in books] == [instrument.symbol for instrument in instruments]
        assert all(book.bid == 98 for book in books)
        turns.append([book.symbol for book in books if book.bids])
    assert all(len(turn) == BOOKS_WITH_LEVELS for turn in turns)
    assert {symbol for turn in turns for symbol in turn} == {each.symbol for each in instruments}


def test_why_follows_an_order_from_its_sending_to_the_refusal() -> None:
    scene = Scene(know_spreads=False)
    scene.crossing()
    assert scene.why() is WhyNot.SPREADS_UNKNOWN
    scene.know_spreads()
    assert scene.why() is WhyNot.ORDER_IN_FLIGHT
    scene.orders.answer(BEYOND_RISK)
    assert scene.why() is WhyNot.RISK_LIMIT
    scene.quiet()
    assert scene.why() is WhyNot.NO_CROSSING
    scene.crossing()
    scene.lanes.stop_trading()
    assert scene.why() is WhyNot.STOPPING


def test_a_pair_is_trading_in_the_status_after_an_execution() -> None:
    scene = Scene()
    scene.crossing()
    scene.orders.answer()
    assert scene.why() is WhyNot.TRADING
    assert scene.why() is WhyNot.NO_CROSSING


def test_since_is_when_the_reason_began() -> None:
    scene = Scene()
    scene.quiet()
    begin = scene.now
    assert scene.pair().since_ms == begin
    scene.now += 500
    assert scene.pair().since_ms == begin
    scene.signal.keeper.invalidate(PERP)
    pair = scene.pair()
    assert (pair.why, pair.leg, pair.since_ms) == (WhyNot.WAITS_FOR_SNAPSHOT, PERP, scene.now)


def test_both_directions_have_their_spread_and_what_is_open() -> None:
    scene = Scene()
    scene.crossing()
    scene.orders.answer()
    better, other = scene.pair().directions
    assert (better.long, better.short, better.spread, better.exit) == (PERP, SPOT, -3, 8)
    assert (better.open_spreads, better.quantity, better.credit, better.widest) == (1, 2, 10, 5)
    assert (other.long, other.short, other.spread, other.open_spreads) == (SPOT, PERP, -8, 0)
    assert scene.status().spreads_open == 1


def test_open_spreads_of_a_leg_that_is_gone_are_not_subscribed() -> None:
    scene = Scene()
    scene.crossing()
    scene.orders.answer()
    scene.status()
    scene.signal.on_subscriptions([PERP])
    pair = scene.pair()
    assert (pair.why, pair.group) == (WhyNot.NOT_SUBSCRIBED, "a")


def test_a_large_group_lists_pairs_with_spreads_and_the_best_and_counts_the_rest() -> None:
    scene = Scene()
    for number in range(10):
        scene.book(Instrument("spot", f"COIN{number}USDT"), [(f"{90 + number}", "1")], [("106", "4")])
    scene.crossing()
    scene.orders.answer()
    scene.book(PERP, [("99", "1")], [("109", "2")])
    status = scene.status()
    listed = [{pair.directions[0].long, pair.directions[0].short} for pair in status.pairs]
    assert listed == [{PERP, SPOT}, {Instrument("spot", "COIN0USDT"), SPOT}]
    assert status.pairs_left_out == 12 * 11 // 2 - len(status.pairs)


def test_orders_are_shown_with_their_answer_and_counted() -> None:
    scene = Scene()
    scene.crossing()
    scene.orders.answer()
    scene.book(SPOT, [("106", "3")], [("109", "4")])
    scene.book(PERP, [("99", "1")], [("101", "2")])
    scene.orders.answer(BEYOND_RISK)
    status = scene.status()
    first, second = status.orders
    assert (first.number, first.acked, first.size, first.info) == (1, True, 2, "order placed")
    assert (first.buy, first.buy_price, first.sell, first.sell_price) == (PERP, 100, SPOT, 105)
    assert (first.decided_seconds, first.answered_seconds) == (0.003, 0.002)
    assert (second.number, second.acked) == (2, False)
    assert status.answers == {"Open Spread": {"ACK": 1, "risk limit exceed": 1}}
    assert status.answer_time.total == 2
    assert status.updates["applied"] == 4
    assert status.snapshots_requested == 3


def test_other_work_is_done_while_many_books_are_described() -> None:
    scene = Scene()
    for number in range(400):
        scene.book(
            Instrument("spot", f"COIN{number}USDT"), [("98", "3")], [("107", "4")], key=f"{number // 2}"
        )

    async def run() -> int:
        turns = 0
        describing = asyncio.create_task(scene.source.describe())
        while not describing.done():
            turns += 1
            await asyncio.sleep(0)
            if turns == 5:  # a book goes in the middle of it
                known = list(scene.signal.keeper.books)
                scene.signal.on_subscriptions(known[:200])
        status = describing.result()
        assert 200 <= len(status.books) <= 400
        return turns

    assert asyncio.run(run()) > 10
