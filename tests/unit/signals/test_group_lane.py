"""Groups side by side in the signal service: what waits for whose order, and what is acknowledged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

from pika.spec import Basic, BasicProperties

from blackbird.broker.session import Session
from blackbird.market.instrument import Instrument
from blackbird.signals.order_manager import OrderManager
from blackbird.trading.orders import Order, Reply
from blackbird.trading.signal import Signal
from signal_service import SignalService
from tests.support.book_feed import book_message
from tests.support.market import PLACED

Side = list[tuple[str, str]]
A = Instrument("spot", "A")
B = Instrument("linear", "B")
C = Instrument("spot", "C")
D = Instrument("linear", "D")


class Orders:
    """Keeps the orders that are out; the test answers them."""

    def __init__(self) -> None:
        self.out: list[tuple[Order, Callable[[Reply], None]]] = []
        self.questions: list[Callable[[Reply], None]] = []

    def send(self, order: Order, on_reply: Callable[[Reply], None]) -> None:
        self.out.append((order, on_reply))

    def open_spreads(self, on_reply: Callable[[Reply], None]) -> None:
        self.questions.append(on_reply)

    def answer(self, reply: Reply = PLACED, number: int = 0) -> Order:
        order, on_reply = self.out.pop(number)
        on_reply(reply)
        return order


class Scene:
    """A service that has its spreads; deliveries are numbered from 1."""

    def __init__(self) -> None:
        self.orders = Orders()
        self.signal = Signal(clock=lambda: 0)
        self.service = SignalService(self.signal, cast("OrderManager", self.orders))
        self.acknowledged = 0
        session = SimpleNamespace(acknowledge=self._acknowledge, is_open=True)
        self.service._session = cast("Session", session)
        self.service._restore(Reply("ACK", "open spreads"))
        self._delivered = 0
        self._last: dict[Instrument, int] = {}

    def _acknowledge(self, tag: int, *, multiple: bool) -> None:
        assert multiple
        self.acknowledged = tag

    def book(
        self, instrument: Instrument, bids: Side, asks: Side, *, key: str = "a", kind: str = "snapshot"
    ) -> None:
        self._delivered += 1
        u = self._last[instrument] = self._last.get(instrument, 0) + 1
        message = book_message(
            instrument.symbol,
            u,
            channel=instrument.channel,
            bids=bids,
            asks=asks,
            kind=kind,
            cts=self._delivered,
            matching_key=key,
        )
        deliver = Basic.Deliver("tag", self._delivered, False, "", "")
        properties = BasicProperties(headers={"published_at": self._delivered})
        self.service._take_book(cast("Any", None), deliver, properties, json.dumps(message).encode())
        self.service._acknowledge()

    def become_late(self, key: str) -> None:
        self.service._become_late(self.service._desks[key])

    def crossed_pair(self) -> None:
        self.book(B, [("99", "1")], [("100", "1")])
        self.book(A, [("101", "1")], [("102", "1")])


def play(scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def act() -> None:
        made = Scene()
        await scene(made)
        for desk in made.service._desks.values():
            if desk.late_timer is not None:
                desk.late_timer.cancel()

    asyncio.run(act())


def test_nothing_is_acknowledged_beyond_the_oldest_message_that_waits() -> None:
    async def scene(scene: Scene) -> None:
        scene.crossed_pair()
        assert scene.acknowledged == 2
        scene.book(A, [("98", "1")], [("102", "1")])
        scene.book(C, [("5", "1")], [("6", "1")], key="c")
        scene.book(D, [("7", "1")], [("8", "1")], key="c")
        scene.book(C, [("5", "2")], [("6", "2")], key="c")
        assert [order.buy for order, _ in scene.orders.out] == [B, C]
        assert scene.acknowledged == 2
        scene.orders.answer(number=1)
        scene.service._acknowledge()
        assert scene.acknowledged == 2
        scene.orders.answer(number=0)
        scene.service._acknowledge()
        assert scene.acknowledged == 6

    play(scene)


def test_late_answer_lets_books_go_on_in_order_but_not_those_that_move() -> None:
    async def scene(scene: Scene) -> None:
        scene.book(C, [("5", "1")], [("90", "1")], key="c")
        scene.crossed_pair()
        scene.book(B, [("98", "1")], [], kind="delta")
        scene.book(A, [("95", "3")], [("102", "1")], key="c")
        scene.book(B, [("97", "1")], [], kind="delta")
        scene.become_late("a")
        scene.book(A, [("96", "3")], [], key="c", kind="delta")
        scene.book(B, [("98", "0")], [], kind="delta")
        scene.book(A, [("97", "3")], [], kind="delta", key="c")
        scene.book(C, [("5", "1")], [("94", "1")], key="c")
        # B has gone on, A has not, and what A does in its new group is not known yet.
        assert scene.signal.books[B].update_id == 4
        assert sorted(scene.signal.books[B].bids.available()) == [97, 99]
        assert scene.signal.books[A].update_id == 1
        assert scene.signal.key_of(A) == "a"
        assert scene.acknowledged == 4
        assert len(scene.orders.out) == 1
        assert scene.orders.answer().buy == B
        scene.service._acknowledge()
        assert scene.signal.key_of(A) == "c"
        assert list(scene.service._desks) == ["c", "a"]
        # One order at 95; those that wait for its answer bring 96 and 97.
        assert [(order.sell, order.sell_price) for order, _ in scene.orders.out] == [(A, Decimal(95))]
        assert scene.acknowledged == 6
        scene.orders.answer()
        scene.service._acknowledge()
        assert scene.signal.books[A].gaps == 0
        assert scene.signal.books[A].update_id == 4
        assert scene.acknowledged == 10

    play(scene)


def test_instrument_that_moves_and_comes_back_waits_with_all_of_its_messages() -> None:
    async def scene(scene: Scene) -> None:
        scene.crossed_pair()
        scene.book(A, [("98", "1")], [("102", "1")], key="c")
        scene.book(A, [("97", "1")], [], kind="delta", key="a")
        scene.become_late("a")
        assert scene.signal.books[A].update_id == 1
        scene.orders.answer()
        assert scene.signal.books[A].update_id == 3
        assert scene.signal.key_of(A) == "a"

    play(scene)


def test_instrument_that_moves_to_a_busy_group_is_looked_at_when_its_order_is_answered() -> None:
    async def scene(scene: Scene) -> None:
        scene.crossed_pair()
        scene.book(C, [("103", "2")], [("104", "2")], key="c")
        scene.book(C, [("103", "2")], [("104", "2")], key="a")
        assert scene.signal.key_of(C) == "a"
        assert "c" not in scene.service._desks
        assert [order.sell for order, _ in scene.orders.out] == [A]
        scene.orders.answer(Reply("NOT ACK", "order not placed"))
        assert [(order.buy, order.sell) for order, _ in scene.orders.out] == [(B, C)]

    play(scene)


def test_desk_of_a_group_that_is_no_more_is_closed_when_its_order_is_answered() -> None:
    async def scene(scene: Scene) -> None:
        scene.crossed_pair()
        scene.become_late("a")
        scene.signal.on_subscriptions([])
        scene.service._close_desks()
        assert list(scene.service._desks) == ["a"]
        scene.orders.answer()
        scene.service._close_desks()
        assert list(scene.service._desks) == []

    play(scene)


def test_spread_that_the_engine_does_not_know_stops_the_orders_of_every_group() -> None:
    async def scene(scene: Scene) -> None:
        scene.crossed_pair()
        scene.book(D, [("9", "1")], [("10", "1"), ("10.5", "1")], key="c")
        scene.book(C, [("11", "2")], [("12", "1")], key="c")
        scene.orders.answer(Reply("NOT ACK", "invalid order: spread_id: expected an open spread"))
        assert len(scene.orders.questions) == 1
        scene.orders.answer()
        scene.book(A, [("103", "1")], [("104", "1")])
        assert scene.orders.out == []
        scene.orders.questions[0](Reply("ACK", "open spreads"))
        assert [(order.buy, order.buy_price) for order, _ in scene.orders.out] == [
            (B, Decimal(100)),
            (D, Decimal("10.5")),
        ]

    play(scene)
