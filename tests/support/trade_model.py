"""A trade against an exchange of plain rules, in virtual time: what it was asked, and what it did."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from typing import Literal, TypeVar

import msgspec

from blackbird.market.decimals import ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.instrument_rules import InstrumentRules
from blackbird.trading.leg_order import (
    BUY,
    SELL,
    Fill,
    Final,
    LegEvent,
    LegOrder,
    LegRefused,
    NotFound,
    Taken,
    Unknown,
)
from blackbird.trading.order_sequence import LookUp, Send
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, Order
from blackbird.trading.sizing import Sizes, gross_up
from blackbird.trading.trade import Trade, TradeState
from blackbird.trading.unwinding import LegTerms

START = 1_800_000_000_000
SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "BTCPERP")
BUY_PRICE, SELL_PRICE = Decimal(64_000), Decimal(64_200)
NO_BALANCE = 170131
TOO_OLD = 10002

T = TypeVar("T")
Fate = Literal["taken", "reply lost", "request lost", "refused"]
PushOrder = Literal["fills first", "end first", "twice", "backwards"]


def rules(instrument: Instrument, *, least_value: str = "5") -> InstrumentRules:
    """Return rules like those of BTCUSDT and BTCPERP."""
    is_spot = instrument.channel == "spot"
    quote = "USDT" if is_spot else "USDC"
    return InstrumentRules(
        instrument,
        "BTC",
        quote,
        quote,
        step=Decimal("0.000001" if is_spot else "0.001"),
        tick=Decimal("0.1"),
        least_quantity=Decimal("0.000011" if is_spot else "0.001"),
        most_quantity=Decimal(80),
        most_market_quantity=Decimal(40),
        least_value=Decimal(least_value),
    )


def new_state(
    *,
    is_close: bool = False,
    buys_spot: bool = True,
    size: str = "0.1",
    base_fee: str = "0",
    expires_in: int | None = 2_000,
    least_value: str = "5",
) -> TradeState:
    """Return the state of a trade that has not begun."""
    buy, sell = (SPOT, PERP) if buys_spot else (PERP, SPOT)
    quantity, fee = Decimal(size), Decimal(base_fee)
    order = Order(
        CLOSE_SPREAD if is_close else OPEN_SPREAD,
        buy,
        BUY_PRICE,
        sell,
        SELL_PRICE,
        quantity,
        START,
        START,
        order_id="order",
        spread_id="spread",
        expires_at=None if expires_in is None else START + expires_in,
    )
    buying = LegTerms(rules(buy, least_value=least_value), BUY, BUY_PRICE, fee if buys_spot else ZERO)
    selling = LegTerms(rules(sell, least_value=least_value), SELL, SELL_PRICE, ZERO if buys_spot else fee)
    bought = gross_up(quantity, buying.rules.step, buying.base_fee)
    sizes = Sizes(quantity, bought, quantity, BUY_PRICE, SELL_PRICE)
    return TradeState("trade", "history-trade", order, None, sizes, buying, selling, Decimal(1), START)


@dataclass
class Behaviour:
    """What the exchange does with the sendings and orders, in their order; the last goes for all others.

    `filled` are shares of the orders, `lags` milliseconds until an order can be looked up, `push_delays`
    those until its pushes arrive, None where they get lost; they come before the reply where it is shorter
    than the reply's. `crash_after` are the numbers of the trade's
    steps after which its process dies, to be resumed from the journal, `crash_before` those in the middle of
    which it dies: between journal and exchange.
    """

    fates: list[Fate] = field(default_factory=lambda: ["taken"])
    filled: list[str] = field(default_factory=lambda: ["1"])
    lags: list[int] = field(default_factory=lambda: [0])
    push_delays: list[int | None] = field(default_factory=lambda: [3])
    push_orders: list[PushOrder] = field(default_factory=lambda: ["fills first"])
    failing_look_ups: int = 0
    base_fee: str = "0"
    crash_after: set[int] = field(default_factory=set)
    crash_before: set[int] = field(default_factory=set)


@dataclass
class _Kept:
    order: LegOrder
    visible_at: int
    fills: list[Fill]


class TradeModel:
    """Runs a trade to its end against an exchange of this behaviour."""

    def __init__(self, state: TradeState, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.now = START
        self.trade = Trade(state, self._reducible)
        self.journal = b""
        self.sent: list[tuple[int, LegOrder]] = []
        self.taken: dict[str, _Kept] = {}
        self.duplicates = 0
        self.overlaps = 0  # sendings while an order of another step was not over
        self.look_ups = 0
        self.position = ZERO  # of the derivative, by others
        self.crashes = 0
        self._steps = 0
        self._events: list[tuple[int, int, bool, Callable[[], None]]] = []
        self._serial = itertools.count()

    def run(self, most_ms: int = 600_000) -> Trade:
        """Return the trade when it is over and nothing is on its way to it any more."""
        self._do(self.trade.start(self.now))
        return self._go_on(most_ms, lambda: not self.trade.is_over or bool(self._events))

    def run_until_over(self, most_ms: int = 600_000) -> Trade:
        """Return the trade as soon as it is over: pushes may be on their way to it."""
        self._do(self.trade.start(self.now))
        return self._go_on(most_ms, lambda: not self.trade.is_over)

    def _go_on(self, most_ms: int, goes_on: Callable[[], bool]) -> Trade:
        while goes_on():
            wake_at = self.trade.wake_at
            times = [self._events[0][0]] if self._events else []
            if wake_at is not None:
                times.append(wake_at)
            assert times, "the trade waits for nothing"
            self.now = max(self.now, min(times))
            assert self.now <= START + most_ms, f"not over: {self.trade.state.orders}"
            if self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[3]()
            else:
                self._do(self.trade.tick(self.now))
        return self.trade

    @property
    def executions(self) -> list[Fill]:
        """All executions that there were."""
        return [fill for kept in self.taken.values() for fill in kept.fills]

    @property
    def fills(self) -> set[str]:
        """Their ids."""
        return {fill.exec_id for fill in self.executions}

    def at(self, milliseconds: int, action: Callable[[], None], *, of_process: bool = False) -> None:
        """Do something then; what is `of_process` dies with the trade's process."""
        heapq.heappush(self._events, (self.now + milliseconds, next(self._serial), of_process, action))

    # --- the trade's process ---------------------------------------------------------------------

    def _do(self, actions: list[Send | LookUp]) -> None:
        if any(isinstance(action, Send) and action.is_new for action in actions):
            self.journal = msgspec.json.encode(self.trade.state)
        self._steps += 1
        if self._steps in self.behaviour.crash_before:
            self._crash()
            return
        for action in actions:
            if isinstance(action, Send):
                self._send(action)
            else:
                self._look_up(action)
        if self._steps in self.behaviour.crash_after - self.behaviour.crash_before:
            self._crash()

    def _crash(self) -> None:
        self.crashes += 1
        self._events = [event for event in self._events if not event[2]]
        heapq.heapify(self._events)
        self.trade = Trade(msgspec.json.decode(self.journal, type=TradeState), self._reducible)
        self._do(self.trade.resume(self.now))

    def _tell(self, milliseconds: int, event: LegEvent) -> None:
        def tell() -> None:
            self._do(self.trade.take(event, self.now, pushes_missed=self._misses_pushes))

        self.at(milliseconds, tell, of_process=True)

    @property
    def _misses_pushes(self) -> bool:
        return None in self.behaviour.push_delays

    def _reducible(self, _: Instrument, side: str) -> Decimal:
        held = self.position if side == SELL else -self.position
        return max(held, ZERO)

    # --- the exchange ----------------------------------------------------------------------------

    def _send(self, send: Send) -> None:
        fate = _nth(self.behaviour.fates, len(self.sent))
        self.sent.append((self.now, send.order))
        self.overlaps += any(
            not sent.is_over and sent.deadline != send.deadline for sent in self.trade.state.orders
        )
        link_id = send.order.link_id
        if fate == "refused":
            self._tell(5, LegRefused(link_id, NO_BALANCE, "Insufficient balance."))
        elif fate == "request lost":
            self._tell(5, Unknown(link_id, "no answer"))
        else:
            self.at(2, lambda: self._arrive(send, is_answered=fate == "taken"))

    def _arrive(self, send: Send, *, is_answered: bool) -> None:
        order = send.order
        reply: LegEvent = Taken(order.link_id, "1")
        if order.link_id in self.taken:
            self.duplicates += 1
            reply = Taken(order.link_id)
        elif self.now > send.deadline:
            reply = LegRefused(order.link_id, TOO_OLD, "invalid request")
        else:
            self._match(order)
        self._tell(3, reply if is_answered else Unknown(order.link_id, "reset"))

    def _match(self, order: LegOrder) -> None:
        number = len(self.taken)
        share = Decimal(_nth(self.behaviour.filled, number))
        step = rules(order.instrument).step
        quantity = (order.quantity * share / step).to_integral_value(ROUND_DOWN) * step
        kept = self.taken[order.link_id] = _Kept(order, self.now + _nth(self.behaviour.lags, number), [])
        if quantity:
            parts = [quantity] if quantity == step else [step, quantity - step]
            kept.fills = [self._fill(order, part, at) for at, part in enumerate(parts)]
        delay = _nth(self.behaviour.push_delays, number)
        if delay is not None:
            events: list[LegEvent] = [*kept.fills, Final(order.link_id, quantity)]
            for event in in_order(events, _nth(self.behaviour.push_orders, number)):
                self._tell(delay, event)

    def _fill(self, order: LegOrder, quantity: Decimal, number: int) -> Fill:
        is_spot_buy = order.instrument == SPOT and order.side == BUY
        return Fill(
            f"{order.link_id}-{number}",
            order.link_id,
            order.instrument,
            order.side,
            order.limit or (BUY_PRICE if order.side == BUY else SELL_PRICE),
            quantity,
            quantity * Decimal(self.behaviour.base_fee) if is_spot_buy else ZERO,
            "BTC" if is_spot_buy else "USDT",
            self.now,
        )

    def _look_up(self, look_up: LookUp) -> None:
        self.look_ups += 1
        asked = self.look_ups
        self.at(4, lambda: self._answer(look_up, fails=asked <= self.behaviour.failing_look_ups))

    def _answer(self, look_up: LookUp, *, fails: bool) -> None:
        link_id = look_up.link_id
        kept = self.taken.get(link_id)
        events: list[LegEvent] = [NotFound(link_id)]
        if kept is not None and kept.visible_at <= self.now:
            total = sum((fill.quantity for fill in kept.fills), ZERO)
            events = [Taken(link_id, "1"), *kept.fills, Final(link_id, total)]

        def tell() -> None:
            missed = self._misses_pushes
            self._do(
                self.trade.look_up_failed(link_id, self.now)
                if fails
                else self.trade.looked_up(link_id, events, self.now, pushes_missed=missed)
            )

        self.at(4, tell, of_process=True)


def in_order(events: list[LegEvent], order: PushOrder) -> list[LegEvent]:
    """Return fills and end of an order as the stream may have them."""
    if order == "end first":
        return [events[-1], *events[:-1]]
    if order == "backwards":
        return events[::-1]
    return events * 2 if order == "twice" else events


def _nth(values: list[T], number: int) -> T:
    return values[min(number, len(values) - 1)]
