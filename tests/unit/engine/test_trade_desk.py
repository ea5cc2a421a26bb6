"""Real orders from delivery to answer: intent before the first byte, trades side by side, one answer each."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from blackbird.engine.journal import Journal
from blackbird.market.instrument import Instrument
from blackbird.runtime.clock import milliseconds
from blackbird.trading.engine import TradingEngine
from blackbird.trading.leg_order import Final, LegOrder, LegRefused, Taken, Unknown
from blackbird.trading.orders import (
    CLOSE_SPREAD,
    OPEN_SPREAD,
    LeftoverRequest,
    Order,
    encode_leftover_request,
)
from blackbird.trading.records import Booking, Leftover, Record
from blackbird.trading.sizing import MARGIN, MarginTerms
from blackbird.trading.spreads import Pair
from blackbird.trading.trade import TradeState
from blackbird.trading.unwinding import TRIES
from database_manager import DatabaseUnavailable
from tests.support.desk_scene import (
    PREFIX,
    DeskScene,
    FakeExchange,
    FakeSession,
    fill_of,
    new_engine,
    request,
)
from tests.support.fake_history import FakeHistory
from tests.support.trade_model import PERP, SPOT

Script = Callable[[DeskScene], Awaitable[None]]
_numbers = itertools.count(1)


def order(
    *,
    action: str = OPEN_SPREAD,
    buy: Instrument = SPOT,
    sell: Instrument = PERP,
    size: str = "0.1",
    order_id: str | None = "",
    spread_id: str | None = None,
    expires_in: int = 2_000,
) -> Order:
    return Order(
        action=action,  # type: ignore[arg-type]  # one of the two constants
        buy=buy,
        buy_price=Decimal(64_000),
        sell=sell,
        sell_price=Decimal(64_200),
        size=Decimal(size),
        ts_buy=1,
        ts_sell=1,
        order_id=f"order {next(_numbers)}" if order_id == "" else order_id,
        spread_id=spread_id,
        expires_at=milliseconds() + expires_in,
    )


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., DeskScene]:
    def start(
        script: Script,
        exchange: FakeExchange | None = None,
        make: Callable[[], TradingEngine] = new_engine,
        history: FakeHistory | None = None,
    ) -> DeskScene:
        async def run() -> DeskScene:
            scene = DeskScene(tmp_path, exchange or FakeExchange(), history, make)
            try:
                await scene.recover()
                await script(scene)
            finally:
                await scene.desk.finish(0)
                scene.state.close()
            return scene

        return asyncio.run(run())

    return start


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tries of unwinding follow at once."""
    monkeypatch.setattr("blackbird.trading.trade.PAUSES_MS", (0,) * TRIES)


class Held:
    """Orders whose sending gets no reply until they are let go; `only` those of one side."""

    def __init__(self, exchange: FakeExchange, only: str | None = None) -> None:
        self._exchange = exchange
        self._only = only
        self.released = asyncio.Event()
        exchange.on_send = self._send

    async def _send(self, sent: LegOrder) -> Taken | LegRefused | Unknown:
        if self._only is None or sent.side == self._only:
            await self.released.wait()
        return await self._exchange.fill(sent)


def test_order_is_traded_booked_and_answered_with_what_was_executed(
    play: Callable[..., DeskScene],
) -> None:
    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        (reply,) = await scene.replied()
        assert (reply.status, reply.info, reply.size) == ("ACK", "order placed", Decimal("0.1"))
        assert (reply.buy_price, reply.sell_price) == (Decimal(64_032), Decimal("64167.9"))
        assert scene.session.acknowledged == [1]
        (record,) = scene.journal.pending(10)
        assert isinstance(record, Booking)
        assert len(record.fills) == 2
        assert scene.open_trades() == []
        assert len(scene.engine.spreads) == 1
        assert scene.exchange.account.reserved == {}

    scene = play(script)
    assert sorted(sent.link_id[-3:] for sent in scene.exchange.sent) == ["-b1", "-s1"]
    assert {sent.link_id[:9] for sent in scene.exchange.sent} == {f"{PREFIX}-"}


def test_intent_is_in_the_journal_before_the_first_byte_goes_out(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()
    open_trades: list[list[str]] = []

    async def script(scene: DeskScene) -> None:
        async def send(sent: LegOrder) -> Taken | LegRefused | Unknown:
            open_trades.append([each.link_id for each in scene.open_trades()[0].orders])
            return await exchange.fill(sent)

        exchange.on_send = send
        exchange.shares = {"b1": "0.5"}
        await scene.take(request(1, order()))
        await scene.replied()

    play(script, exchange)
    assert [len(known) for known in open_trades] == [2, 2, 3], "two legs, and the way back of one"
    for sent, known in zip(exchange.sent, open_trades, strict=True):
        assert sent.link_id in known


def test_both_legs_are_sent_before_either_is_answered(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        held = Held(exchange)
        await scene.take(request(1, order()))
        await scene.until(lambda: len(exchange.sent) == 2)
        assert scene.session.replies == []
        held.released.set()
        await scene.replied()

    play(script, exchange)


def test_open_that_comes_out_unequal_is_booked_with_what_both_legs_have(
    play: Callable[..., DeskScene],
) -> None:
    exchange = FakeExchange()
    exchange.shares = {"b1": "0.6"}

    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        (reply,) = await scene.replied()
        assert (reply.status, reply.size) == ("ACK", Decimal("0.06"))
        back = exchange.sent[2]
        assert (back.instrument, back.side, back.quantity) == (PERP, "Buy", Decimal("0.04"))
        assert back.limit is None
        assert scene.engine.positions == {SPOT: Decimal("0.06"), PERP: Decimal("-0.06")}

    play(script, exchange)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("shares", "info"),
    [
        ({"b1": "0", "s1": "0"}, "not filled"),
        ({"b1": "0"}, "buy leg failed"),
        ({"s1": "0"}, "sell leg failed"),
        ({"s1": "0", "u1": "0", "u2": "0", "u3": "0", "u4": "0", "u5": "0"}, "sell leg failed: leftover"),
    ],
)
def test_open_without_a_matched_size_is_refused_and_leaves_no_spread(
    play: Callable[..., DeskScene], shares: dict[str, str], info: str
) -> None:
    exchange = FakeExchange()
    exchange.shares = shares

    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        (reply,) = await scene.replied()
        assert (reply.status, reply.info) == ("NOT ACK", info)
        assert len(scene.engine.spreads) == 0
        assert bool(scene.engine.leftovers.open) == info.endswith("leftover")

    play(script, exchange)


def test_copies_of_an_order_get_the_answer_of_its_one_trade(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        held = Held(exchange)
        mine = order()
        await scene.take(request(1, mine), request(2, mine))
        await scene.until(lambda: len(exchange.sent) == 2)
        await scene.take(request(3, mine))
        held.released.set()
        replies = await scene.replied(3)
        assert replies[0] == replies[1] == replies[2]
        assert sorted(scene.session.acknowledged) == [1, 2, 3]
        await scene.take(request(4, mine))
        assert (await scene.replied(4))[3] == replies[0]

    play(script, exchange)
    assert len(exchange.sent) == 2


def test_client_that_asks_again_holds_up_one_delivery_only(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        held = Held(exchange)
        mine = order()
        for tag in range(1, 6):
            await scene.take(request(tag, mine, correlation_id="same"))
        assert scene.session.acknowledged == [1, 2, 3, 4]
        held.released.set()
        await scene.replied()
        assert scene.session.acknowledged == [1, 2, 3, 4, 5]
        assert len(scene.session.replies) == 1

    play(script, exchange)


def test_trade_that_hangs_holds_up_nobody_else(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        held = Held(exchange, only="Buy")
        slow = order(size="0.2")
        await scene.take(request(1, slow))
        await scene.until(lambda: len(exchange.sent) == 2)
        exchange.on_send = exchange.fill
        await scene.take(request(2, order()), request(3, b'{"action":"List Open Spreads"}'))
        await scene.replied(2)
        assert {correlation for correlation, _ in scene.session.replies} == {"c2", "c3"}
        assert sorted(scene.session.acknowledged) == [2, 3]
        held.released.set()
        await scene.replied(3)

    play(script, exchange)


@pytest.mark.parametrize(
    ("changes", "info"),
    [
        ({"expires_in": -1}, "expired"),
        ({"size": "0.0001"}, "size below minimum: 0.0001 of linear:BTCPERP"),
        ({"size": "100"}, "risk limit exceed"),
        (
            {"buy": Instrument("inverse", "BTCUSD")},
            "instrument not tradable: inverse:BTCUSD: expected spot or linear",
        ),
        (
            {"action": CLOSE_SPREAD, "spread_id": "?"},
            "invalid order: spread_id: expected an open spread, was unknown",
        ),
    ],
)
def test_order_that_is_refused_is_not_sent(
    play: Callable[..., DeskScene], changes: dict[str, object], info: str
) -> None:
    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order(**changes)))  # type: ignore[arg-type]
        (reply,) = await scene.replied()
        assert (reply.status, reply.info) == ("NOT ACK", info)
        assert scene.session.acknowledged == [1]
        assert len(scene.journal.pending(10)) == 1
        assert scene.journaled == 1

    assert play(script).exchange.sent == []


def test_open_is_refused_without_pushes_or_room_and_a_close_is_not(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        opened = order()
        await scene.take(request(1, opened))
        await scene.replied()
        exchange.has_room = False
        await scene.take(request(2, order()))
        assert (await scene.replied(2))[1].info == "rate limit"
        exchange.why_not = "the private stream is down"
        await scene.take(request(3, order()))
        assert (await scene.replied(3))[2].info == "not connected to the exchange"
        close = order(action=CLOSE_SPREAD, buy=PERP, sell=SPOT, spread_id=opened.order_id)
        await scene.take(request(4, close))
        assert (await scene.replied(4))[3].status == "ACK"
        assert len(scene.engine.spreads) == 0

    play(script, exchange)


def test_coins_and_risk_that_running_trades_may_take_are_not_given_twice(
    play: Callable[..., DeskScene],
) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        held = Held(exchange)
        await scene.take(request(1, order(size="10")), request(2, order(size="10")))
        assert (await scene.replied())[0].info == "risk limit exceed"
        assert [list(coins) for coins in exchange.account.reserved.values()] == [["USDT"]]
        held.released.set()
        await scene.replied(2)

    play(script, exchange)


def test_close_reduces_only_where_the_account_has_that_much(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        opened = order()
        await scene.take(request(1, opened))
        await scene.replied()
        exchange.sent.clear()
        close = order(action=CLOSE_SPREAD, buy=PERP, sell=SPOT, spread_id=opened.order_id)
        await scene.take(request(2, close))
        await scene.replied(2)
        assert {(sent.instrument, sent.reduce_only) for sent in exchange.sent} == {
            (PERP, True),
            (SPOT, False),
        }

    play(script, exchange)


def test_trade_goes_on_when_the_session_ends_and_answers_on_the_next(
    play: Callable[..., DeskScene],
) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        held = Held(exchange)
        mine = order()
        await scene.take(request(1, mine))
        await scene.until(lambda: len(exchange.sent) == 2)
        first, scene.session = scene.session, FakeSession()
        first.is_lost = True
        await scene.take(request(1, mine, redelivered=True))
        held.released.set()
        (reply,) = await scene.replied()
        assert reply.status == "ACK"
        assert first.replies == []

    play(script, exchange)
    assert len(exchange.sent) == 2


def test_trade_that_was_open_is_taken_up_and_nothing_is_sent_again(
    play: Callable[..., DeskScene],
) -> None:
    exchange = FakeExchange()
    mine = order(expires_in=600)

    async def begin(scene: DeskScene) -> None:
        Held(exchange)
        await scene.take(request(1, mine))
        await scene.until(lambda: len(exchange.sent) == 2)

    play(begin, exchange)
    again = FakeExchange()
    for sent in exchange.sent:
        again.account.found[sent.link_id] = [Taken(sent.link_id), fill_of(sent, sent.quantity)]

    async def resumed(scene: DeskScene) -> None:
        await scene.take(request(1, mine, redelivered=True))
        assert scene.session.replies == [], "the exchange has not said yet that the orders are over"
        for sent in exchange.sent:
            again.account.found[sent.link_id].append(Final(sent.link_id, sent.quantity))
        (reply,) = await scene.replied()
        assert (reply.status, reply.size) == ("ACK", Decimal("0.1"))
        assert scene.open_trades() == []

    play(resumed, again)
    assert again.sent == []


def test_end_gives_trades_time_and_leaves_the_rest_to_the_journal(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        held = Held(exchange)
        await scene.take(request(1, order()))
        await scene.until(lambda: len(exchange.sent) == 2)
        await scene.desk.finish(0.01)
        assert len(scene.open_trades()) == 1
        held.released.set()
        await asyncio.sleep(0)
        assert len(scene.open_trades()) == 1, "nothing goes on after the end"

    play(script, exchange)


def test_trade_that_ends_in_time_is_answered_at_the_end(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        held = Held(exchange)
        await scene.take(request(1, order()))
        await scene.until(lambda: len(exchange.sent) == 2)
        held.released.set()
        await scene.desk.finish(5)
        assert scene.session.acknowledged == [1]
        assert scene.open_trades() == []

    play(script, exchange)


def test_nothing_is_sent_while_the_journal_takes_nothing(
    play: Callable[..., DeskScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(scene: DeskScene) -> None:
        intend, failures = scene.state.intend, iter([sqlite3.OperationalError("disk full")] * 2)

        async def fail_first(trade: TradeState) -> None:
            for error in failures:
                raise error
            await intend(trade)

        monkeypatch.setattr(scene.state, "intend", fail_first)
        await scene.take(request(1, order(expires_in=600)))
        (reply,) = await scene.replied()
        # It took longer than the order may wait.
        assert (reply.status, reply.info) == ("NOT ACK", "order not placed")

    assert play(script).exchange.sent == []


def test_outcome_that_the_journal_does_not_take_is_booked_after_recovery(
    play: Callable[..., DeskScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbird.engine.trade_books.DISK_PAUSE", 0.0)

    async def script(scene: DeskScene) -> None:
        append, failures = scene.state.append, iter([sqlite3.OperationalError("disk full")])

        def fail_first(records: Sequence[Record], ended: str | None = None) -> bool:
            for error in failures:
                raise error
            return append(records, ended)

        monkeypatch.setattr(scene.state, "append", fail_first)
        mine = order()
        await scene.take(request(1, mine))
        await scene.until(lambda: scene.session.is_closed)
        assert scene.state.engine is None
        assert len(scene.open_trades()) == 1
        scene.session = FakeSession()
        await scene.recover()
        await scene.take(request(1, mine, redelivered=True))
        (reply,) = await scene.replied()
        assert reply.status == "ACK"
        assert len(scene.engine.spreads) == 1
        assert scene.open_trades() == []

    play(script)


class CrashingEngine(TradingEngine):
    """Crashes on orders of size 6.66."""

    def check(
        self, order: Order, buy_limit: Decimal | None = None, sell_limit: Decimal | None = None
    ) -> None:
        if order.size == Decimal("6.66"):
            raise ZeroDivisionError
        super().check(order, buy_limit, sell_limit)


def test_order_that_crashes_the_engine_is_redelivered_once_and_then_refused(
    play: Callable[..., DeskScene],
) -> None:
    def crashing() -> TradingEngine:
        return CrashingEngine(limit=Decimal(1_000_000), unique_order=True, clock=milliseconds)

    async def script(scene: DeskScene) -> None:
        mine = order(size="6.66")
        await scene.take(request(1, mine))
        await scene.until(lambda: scene.session.is_closed)
        assert scene.session.replies == []
        scene.session = FakeSession()
        await scene.recover()
        await scene.take(request(1, mine, redelivered=True))
        (reply,) = await scene.replied()
        assert (reply.status, reply.info) == ("NOT ACK", "internal error")
        assert scene.session.dead_letters == ["crashed the handler twice"]

    play(script, make=crashing)


def test_fill_that_comes_after_the_trade_was_booked_is_left_over(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()
    exchange.shares = {"b1": "0", "s1": "0"}

    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        await scene.replied()
        late = fill_of(exchange.sent[0], Decimal("0.1"), number=9)
        exchange.on_event(late)
        exchange.on_event(late)
        await scene.until(lambda: scene.engine.leftovers.open)
        assert [each.size for each in scene.engine.leftovers.open.values()] == [Decimal("0.1")]
        (_, booking) = scene.journal.pending(10)
        assert isinstance(booking, Booking)
        assert booking.fills == (late,)

    play(script, exchange)


def test_trades_that_run_have_their_margin_set_aside(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()
    held = Held(exchange)
    exchange.account.margins = {PERP: MarginTerms(Decimal(0), Decimal("0.1"))}
    exchange.account.balances = {MARGIN: Decimal(1000)}

    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        await scene.until(lambda: len(exchange.sent) == 2)
        (coins,) = exchange.account.reserved.values()
        assert 640 < coins[MARGIN] < 643
        exchange.account.balances = {MARGIN: Decimal(1)}
        await scene.take(request(2, order()))
        (reply,) = await scene.replied()
        assert (reply.status, reply.info) == ("NOT ACK", "not enough margin")
        assert exchange.account.doubts == 1
        held.released.set()
        await scene.replied(2)
        assert exchange.account.reserved == {}
        assert len(exchange.sent) == 2

    play(script, exchange)


async def restarted(scene: DeskScene, folder: Path, exchange: FakeExchange) -> DeskScene:
    """Return the desk of another process on the same history, which has all that was journaled."""
    while await scene.state.store_pending():
        pass
    scene.state.close()
    again = DeskScene(folder, exchange, scene.history)
    await again.recover()
    return again


def test_fill_that_comes_after_a_restart_is_left_over_unless_it_is_stored(
    play: Callable[..., DeskScene], tmp_path: Path
) -> None:
    exchange = FakeExchange()
    exchange.shares = {"b1": "0", "s1": "0"}

    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        await scene.replied()
        again = await restarted(scene, tmp_path, exchange)
        bought, sold = (fill_of(sent, Decimal("0.1"), number=9) for sent in exchange.sent)
        for fill in (bought, sold, bought):
            exchange.on_event(fill)
        await again.until(lambda: len(again.engine.leftovers.open) == 2)
        assert {each.size for each in again.engine.leftovers.open.values()} == {
            Decimal("0.1"),
            Decimal("-0.1"),
        }
        bookings = again.journal.pending(10)
        assert sorted(
            fill.exec_id for each in bookings if isinstance(each, Booking) for fill in each.fills
        ) == (sorted([bought.exec_id, sold.exec_id]))
        # Of an order that was not filled no pair is stored: every pair of the instrument is blocked.
        assert again.engine.leftovers.blocks(Pair(SPOT, Instrument("linear", "BTCUSDT")))
        third = await restarted(again, tmp_path, exchange)
        exchange.on_event(bought)
        other = fill_of(exchange.sent[0], Decimal("0.2"), number=10)
        exchange.on_event(other)
        await third.until(lambda: len(third.engine.leftovers.open) == 3)
        (booking,) = third.journal.pending(10)
        assert isinstance(booking, Booking)
        assert booking.fills == (other,)
        third.state.close()

    play(script, exchange)


def test_fill_after_a_restart_waits_for_the_database(
    play: Callable[..., DeskScene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbird.engine.late_fills.SHORTEST_PAUSE", 0.001)
    exchange = FakeExchange()
    exchange.shares = {"s1": "0"}

    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        await scene.replied()
        again = await restarted(scene, tmp_path, exchange)
        again.history.errors = [DatabaseUnavailable("gone")] * 2
        again.history.pairs = {exchange.sent[0].link_id.split("-")[1]: Pair(SPOT, PERP)}
        exchange.on_event(fill_of(exchange.sent[0], Decimal("0.1")))  # as it was booked
        exchange.on_event(fill_of(exchange.sent[1], Decimal("0.1"), number=9))
        await again.until(lambda: again.engine.leftovers.open)
        assert [(each.size, each.pair) for each in again.engine.leftovers.open.values()] == [
            (Decimal("-0.1"), Pair(SPOT, PERP))
        ]
        again.state.close()

    play(script, exchange)


def test_fill_that_comes_before_its_trade_is_taken_up_again_is_part_of_it(
    play: Callable[..., DeskScene], tmp_path: Path
) -> None:
    exchange = FakeExchange()

    async def hang(_: LegOrder) -> Taken:
        await asyncio.Event().wait()
        raise AssertionError

    exchange.on_send = hang

    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        await scene.until(lambda: len(exchange.sent) == 2)
        scene.desk.abandon()
        scene.state.close()
        again = DeskScene(tmp_path, exchange, scene.history)
        fills = [fill_of(sent, sent.quantity) for sent in exchange.sent]

        prepared: list[Instrument] = []

        async def note(instrument: Instrument) -> None:
            prepared.append(instrument)

        async def push() -> None:
            for fill in fills:
                exchange.on_event(fill)
            await again.until(lambda: len(prepared) == len(fills))
            # All that can be known of the fills without their trade is known.
            for _ in range(10):
                await asyncio.sleep(0)

        exchange.account.prepared, exchange.on_connected = note, push
        for sent, fill in zip(exchange.sent, fills, strict=True):
            exchange.account.found[sent.link_id] = [Taken(sent.link_id), Final(sent.link_id, fill.quantity)]
        await again.recover()
        await again.until(lambda: again.engine.spreads)
        assert again.engine.leftovers.open == {}
        again.state.close()

    play(script, exchange)


def test_order_without_an_id_is_traded_once_however_often_it_is_delivered(
    play: Callable[..., DeskScene],
) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        mine = order(order_id=None)
        await scene.take(request(1, mine))
        await scene.replied()
        await scene.take(request(1, mine, redelivered=True))
        replies = await scene.replied(2)
        assert replies[0] == replies[1]
        assert len(exchange.sent) == 2

    play(script, exchange)


def test_copy_of_an_order_without_an_id_has_link_ids_of_its_own(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        mine = order(order_id=None)
        await scene.take(request(1, mine))
        await scene.replied()
        await scene.take(request(1, mine))
        await scene.replied(2)

    play(
        script, exchange, lambda: TradingEngine(limit=Decimal(10**6), unique_order=False, clock=milliseconds)
    )
    assert len({sent.link_id for sent in exchange.sent}) == 4


def test_trades_that_run_are_left_alone_when_another_engine_takes_over(
    play: Callable[..., DeskScene],
) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        Held(exchange)
        await scene.take(request(1, order()))
        await scene.until(lambda: len(exchange.sent) == 2)
        scene.desk.abandon()
        await scene.state.release()
        exchange.shares = {"b1": "1"}
        for sent in exchange.sent:
            exchange.on_event(fill_of(sent, sent.quantity))
        assert exchange.account.reserved == {}
        assert len(exchange.sent) == 2

    play(script, exchange)


# --- leftovers -----------------------------------------------------------------------------------


def leaves_something_over() -> FakeExchange:
    """Return an exchange that fills the buy leg, and nothing that would take it back."""
    exchange = FakeExchange()
    exchange.shares = {"s1": "0", **{f"u{number}": "0" for number in range(1, 9)}}
    return exchange


def resolving(scene: DeskScene, price: str | None = None) -> bytes:
    (trade_id, number) = next(iter(scene.engine.leftovers.open))
    asked = LeftoverRequest(trade_id, number, None if price is None else Decimal(price))
    return encode_leftover_request(asked)


@pytest.mark.usefixtures("impatient")
def test_leftover_is_resolved_by_request_journaled_before_the_answer(play: Callable[..., DeskScene]) -> None:
    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        await scene.replied()
        body = resolving(scene, "64050")
        await scene.take(request(2, body))
        (_, reply) = await scene.replied(2)
        assert (reply.status, reply.info) == ("ACK", "leftover resolved")
        booking = scene.journal.pending(10)[-1]
        assert isinstance(booking, Booking)
        assert [each.resolution for each in booking.resolved] == ["traded away"]
        assert not scene.engine.leftovers.open
        await scene.take(request(3, body, redelivered=True))
        assert (await scene.replied(3))[2] == reply
        assert scene.session.acknowledged == [1, 2, 3]

    play(script, leaves_something_over())


@pytest.mark.usefixtures("impatient")
def test_leftover_that_the_journal_does_not_take_is_not_answered(
    play: Callable[..., DeskScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(records: Sequence[Record], ended: str | None = None) -> bool:
        del records, ended
        raise sqlite3.OperationalError("disk full")

    async def script(scene: DeskScene) -> None:
        await scene.take(request(1, order()))
        await scene.replied()
        body = resolving(scene)
        with monkeypatch.context() as patch:
            patch.setattr(scene.state, "append", full)
            await scene.take(request(2, body))
        assert scene.session.is_closed
        assert scene.session.acknowledged == [1]
        scene.session = FakeSession()
        await scene.recover()
        await scene.take(request(2, body, redelivered=True))
        (reply,) = await scene.replied()
        assert reply.info == "leftover resolved"

    play(script, leaves_something_over())


# --- leftovers -------------------------------------------------------------------------------------------

NO_WAY_BACK = {"s1": "0", **{f"u{number}": "0" for number in range(1, 6)}}


async def leave_over(scene: DeskScene) -> Leftover:
    """Have a trade leave 0.1 of spot over, and return it."""
    scene.exchange.shares = dict(NO_WAY_BACK)
    await scene.take(request(1, order()))
    await scene.replied()
    scene.exchange.sent.clear()
    (leftover,) = scene.engine.leftovers.open.values()
    return leftover


@pytest.mark.usefixtures("impatient")
def test_leftover_is_traded_away_by_one_bounded_order_and_booked(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        leftover = await leave_over(scene)
        exchange.shares = {}
        scene.desk.trade_away(leftover)
        scene.desk.trade_away(leftover)
        await scene.until(lambda: not scene.engine.leftovers.open)
        (sent,) = exchange.sent
        assert (sent.instrument, sent.side, sent.quantity) == (SPOT, "Sell", Decimal("0.1"))
        assert (sent.limit, sent.slippage_percent) == (None, Decimal(1))
        assert sent.link_id.startswith(f"{PREFIX}-")
        assert scene.engine.held(SPOT) == 0
        assert scene.open_trades() == []

    play(script, exchange)


@pytest.mark.usefixtures("impatient")
def test_rest_of_a_leftover_stays_one_and_nothing_filled_changes_nothing(
    play: Callable[..., DeskScene],
) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        leftover = await leave_over(scene)
        exchange.shares = {"u1": "0"}
        scene.desk.trade_away(leftover)
        await scene.until(lambda: exchange.sent and not scene.engine.leftovers.in_trade)
        assert list(scene.engine.leftovers.open.values()) == [leftover]
        exchange.shares = {"u1": "0.6"}
        await scene.until(lambda: not scene.open_trades())
        scene.desk.trade_away(leftover)
        await scene.until(lambda: leftover.key not in scene.engine.leftovers.open)
        (rest,) = scene.engine.leftovers.open.values()
        assert rest.size == Decimal("0.04")
        assert len({sent.link_id for sent in exchange.sent}) == 2

    play(script, exchange)


@pytest.mark.usefixtures("impatient")
def test_leftover_whose_order_was_sent_is_taken_up_again(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def begin(scene: DeskScene) -> None:
        leftover = await leave_over(scene)
        Held(exchange)
        scene.desk.trade_away(leftover)
        await scene.until(lambda: exchange.sent)
        scene.history.add(scene.journal.pending(10))

    history = play(begin, exchange).history
    (sent,) = exchange.sent
    again = FakeExchange()
    fill = fill_of(sent, sent.quantity)
    again.account.found[sent.link_id] = [Taken(sent.link_id), fill, Final(sent.link_id, sent.quantity)]

    async def resumed(scene: DeskScene) -> None:
        await scene.until(lambda: not scene.engine.leftovers.open)
        assert scene.engine.held(SPOT) == 0
        assert scene.open_trades() == []

    play(resumed, again, history=history)
    assert again.sent == []


@pytest.mark.usefixtures("impatient")
def test_leftover_is_left_alone_while_the_exchange_is_not_reached(play: Callable[..., DeskScene]) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        leftover = await leave_over(scene)
        exchange.why_not = "the private stream is down"
        scene.desk.trade_away(leftover)
        await scene.desk.finish(1)
        assert exchange.sent == []
        assert leftover.key in scene.engine.leftovers.open

    play(script, exchange)


def test_trade_that_cannot_be_booked_has_the_core_recovered_though_nobody_asks(
    play: Callable[..., DeskScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbird.engine.trade_books.DISK_PAUSE", 0.0)
    exchange = FakeExchange()

    async def begin(scene: DeskScene) -> None:
        Held(exchange)
        await scene.take(request(1, order()))
        await scene.until(lambda: len(exchange.sent) == 2)

    play(begin, exchange)
    again = FakeExchange()
    append, failures = Journal.append, iter([sqlite3.OperationalError("disk full")])

    def fail_first(journal: Journal, records: Sequence[Record], ended: str | None = None) -> None:
        for error in failures:
            raise error
        append(journal, records, ended)

    monkeypatch.setattr(Journal, "append", fail_first)
    for sent in exchange.sent:
        fill = fill_of(sent, sent.quantity)
        again.account.found[sent.link_id] = [Taken(sent.link_id), fill, Final(sent.link_id, sent.quantity)]

    async def resumed(scene: DeskScene) -> None:
        await scene.until(lambda: scene.session.is_closed)
        scene.session = FakeSession()
        await scene.recover()
        await scene.until(lambda: not scene.open_trades())
        assert len(scene.engine.spreads) == 1

    play(resumed, again)


@pytest.mark.usefixtures("impatient")
def test_leftover_of_which_an_order_is_at_the_exchange_is_not_resolved(
    play: Callable[..., DeskScene],
) -> None:
    exchange = FakeExchange()

    async def script(scene: DeskScene) -> None:
        leftover = await leave_over(scene)
        held = Held(exchange)
        exchange.shares = {}
        body = resolving(scene)
        scene.desk.trade_away(leftover)
        await scene.until(lambda: scene.engine.leftovers.in_trade)
        await scene.take(request(2, body))
        (_, reply) = await scene.replied(2)
        assert reply.info.startswith("invalid order: leftover: expected one at rest")
        held.released.set()
        await scene.until(lambda: not scene.engine.leftovers.open)
        await scene.take(request(3, body))
        assert (await scene.replied(3))[2].info == "leftover resolved"

    play(script, exchange)
