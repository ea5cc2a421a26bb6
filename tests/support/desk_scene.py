"""A trade desk with a real journal on an exchange that does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from pika.spec import BasicProperties

from blackbird.broker.session import SessionLost
from blackbird.bybit.look_ups import LookUpFailed
from blackbird.engine.admission import Tolerances
from blackbird.engine.exchange import Found, OnEvent
from blackbird.engine.journal import Journal
from blackbird.engine.replies import Replies
from blackbird.engine.requests import Request
from blackbird.engine.state import EngineState
from blackbird.engine.trade_desk import TradeDesk
from blackbird.engine.trading_answerer import TradingAnswerer
from blackbird.market.instrument import Instrument
from blackbird.runtime.clock import milliseconds
from blackbird.trading.engine import TradingEngine
from blackbird.trading.instrument_rules import InstrumentRules
from blackbird.trading.leftover_trade import OpenTrade
from blackbird.trading.leg_order import Fill, Final, LegOrder, LegRefused, NotFound, Side, Taken, Unknown
from blackbird.trading.orders import Order, Reply, decode_reply, encode_order
from blackbird.trading.sizing import MarginTerms
from tests.support.fake_history import FakeHistory
from tests.support.trade_model import rules

HISTORY = "0123456789abcdef"
PREFIX = HISTORY[:8]


class FakeAccount:
    """An account with plenty of every coin, and the rules of BTCUSDT and BTCPERP."""

    def __init__(self) -> None:
        self.balances: dict[str, Decimal] = {}
        self.reserved: dict[str, Mapping[str, Decimal]] = {}
        self.found: dict[str, list[Found]] = {}
        self.look_ups: list[str] = []
        self.margins: dict[Instrument, MarginTerms] = {}
        self.doubts = 0
        self.is_silent = False
        self.prepared: Callable[[Instrument], Awaitable[None]] | None = None

    async def prepare(self, instrument: Instrument) -> InstrumentRules:
        if self.prepared is not None:
            await self.prepared(instrument)
        return rules(instrument)

    def base_fee(self, instrument: Instrument) -> Decimal:
        del instrument
        return Decimal(0)

    def balance(self, coin: str) -> Decimal:
        return self.balances.get(coin, Decimal(1_000_000))

    def margin(self, instrument: Instrument, side: Side) -> MarginTerms | None:
        del side
        return self.margins.get(instrument)

    def doubt(self) -> None:
        self.doubts += 1

    def reserve(self, trade_id: str, coins: Mapping[str, Decimal]) -> None:
        self.reserved[trade_id] = coins

    def release(self, trade_id: str) -> None:
        self.reserved.pop(trade_id, None)

    async def look_up(self, link_id: str, instrument: Instrument) -> Sequence[Found]:
        del instrument
        self.look_ups.append(link_id)
        if self.is_silent:
            raise LookUpFailed("no answer")
        return self.found.get(link_id, [NotFound(link_id)])


class FakeExchange:
    """Fills every order whole at its limit, unless `on_send` says otherwise."""

    def __init__(self) -> None:
        self.account = FakeAccount()
        self.legs = self
        self.sent: list[LegOrder] = []
        self.on_event: OnEvent = lambda _: None
        self.on_connected: Callable[[], Awaitable[None]] = _do_nothing
        self.on_send: Callable[[LegOrder], Awaitable[Taken | LegRefused | Unknown]] = self.fill
        self.link_prefix = ""
        self.has_room = True
        self.why_not: str | None = None
        self.shares: dict[str, str] = {}  # by the end of the link id, what is filled of it

    def connect(self, link_prefix: str, on_event: OnEvent) -> FakeExchange:
        self.link_prefix, self.on_event = link_prefix, on_event
        return self

    async def fill(self, order: LegOrder) -> Taken:
        """Take an order, and push its fill and its end."""
        taken = Taken(order.link_id, "1")
        share = self.shares.get(order.link_id.rpartition("-")[2], "1")
        quantity = order.quantity * Decimal(share)
        events: list[Found] = [Final(order.link_id, quantity)]
        if quantity:
            events.insert(0, fill_of(order, quantity))
        self.account.found[order.link_id] = [taken, *events]
        for event in events:
            if not isinstance(event, NotFound):
                self.on_event(event)
        return taken

    def take_room(self, legs: Iterable[Instrument]) -> bool:
        del legs
        return self.has_room

    async def wait_for_room(self, legs: Iterable[Instrument]) -> None:
        del legs

    async def send(self, order: LegOrder, expires_at: int | None) -> Taken | LegRefused | Unknown:
        assert expires_at is not None
        if milliseconds() > expires_at:
            return LegRefused(order.link_id, 0, "expired")
        self.sent.append(order)
        return await self.on_send(order)

    def trouble(self) -> str | None:
        return self.why_not

    def was_down_since(self, ms: int) -> bool:
        del ms
        return False

    async def wait_until_connected(self, seconds: float) -> bool:
        del seconds
        await self.on_connected()
        return True

    async def run(self) -> None:
        await asyncio.Event().wait()


async def _do_nothing() -> None:
    pass


def fill_of(order: LegOrder, quantity: Decimal, number: int = 1) -> Fill:
    return Fill(
        f"{order.link_id}-{number}",
        order.link_id,
        order.instrument,
        order.side,
        order.limit or Decimal(64_100),
        quantity,
        Decimal(0),
        "USDT",
        milliseconds(),
    )


class FakeSession:
    """Notes replies and acknowledgements."""

    def __init__(self) -> None:
        self.replies: list[tuple[str | None, Reply]] = []
        self.acknowledged: list[int] = []
        self.dead_letters: list[str] = []
        self.is_lost = False
        self.is_closed = False
        self.changed = asyncio.Event()

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        del exchange, key
        if self.is_lost:
            raise SessionLost("gone")
        self.replies.append((properties.correlation_id, decode_reply(body)))

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        del queue, properties, body
        self.dead_letters.append(reason)

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        assert not multiple
        if not self.is_lost:
            self.acknowledged.append(delivery_tag)
            self.changed.set()

    async def declare_queue(self, name: str) -> int:
        del name
        return 0

    def close(self) -> None:
        self.is_closed = True
        self.changed.set()


def new_engine() -> TradingEngine:
    return TradingEngine(limit=Decimal(1_000_000), unique_order=True, clock=milliseconds)


class DeskScene:
    """The parts of the engine that answer real orders, without broker and database."""

    def __init__(
        self,
        folder: Path,
        exchange: FakeExchange,
        history: FakeHistory | None = None,
        make: Callable[[], TradingEngine] = new_engine,
    ) -> None:
        self.exchange = exchange
        self.history = history or FakeHistory(HISTORY)
        self.state = EngineState(make, self.history, folder)
        self.session = FakeSession()
        self.replies = TradingAnswerer(Replies(remembered=100))
        self.journaled = 0
        self.desk = TradeDesk(
            self.state,
            exchange.connect,
            Tolerances(Decimal(5), Decimal(100)),
            milliseconds,
            askers=self.replies,
            on_journaled=self._on_journaled,
        )

    def _on_journaled(self) -> None:
        self.journaled += 1

    @property
    def engine(self) -> TradingEngine:
        assert self.state.engine is not None
        return self.state.engine

    @property
    def journal(self) -> Journal:
        assert self.state.journal is not None
        return self.state.journal

    def open_trades(self) -> list[OpenTrade]:
        return self.journal.open_trades()

    async def recover(self) -> None:
        self.replies.attach(self.session)
        engine = await self.state.recover(asyncio.get_running_loop().create_future())
        await self.desk.recover(engine)

    async def take(self, *requests: Request) -> None:
        """Hand over deliveries, without waiting for what becomes of them."""
        await self.replies.take(self.engine, self.desk, self.session, requests)

    async def replied(self, count: int = 1) -> list[Reply]:
        """Return the replies, once there are so many."""
        async with asyncio.timeout(10):
            while len(self.session.replies) < count:
                self.session.changed.clear()
                await self.session.changed.wait()
        return [reply for _, reply in self.session.replies]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.002)


def request(
    tag: int, order: Order | bytes, *, redelivered: bool = False, correlation_id: str | None = None
) -> Request:
    properties = BasicProperties(reply_to="client", correlation_id=correlation_id or f"c{tag}")
    body = encode_order(order) if isinstance(order, Order) else order
    return Request(tag, redelivered, properties, body)
