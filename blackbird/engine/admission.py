"""Decides whether a real order is sent, and what of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import NamedTuple

import msgspec

from blackbird.bybit.look_ups import LookUpFailed
from blackbird.engine.exchange import Exchange
from blackbird.engine.requests import NewOrder
from blackbird.market.decimals import EXACT
from blackbird.market.instrument import Instrument
from blackbird.trading.engine import TradingEngine
from blackbird.trading.instrument_rules import InstrumentRules, not_tradable
from blackbird.trading.leftover_trade import LeftoverState, terms_of
from blackbird.trading.leg_order import BUY, SELL, Side
from blackbird.trading.orders import NOT_CONNECTED, OPEN_SPREAD, RATE_LIMIT, Order, Refused
from blackbird.trading.records import Leftover
from blackbird.trading.sizing import MARGIN, Limits, Margins, NotEnough, Sizes, size_order
from blackbird.trading.spreads import new_id
from blackbird.trading.trade import TradeState
from blackbird.trading.unwinding import LegTerms

HUNDRED = Decimal(100)
TRADED_CHANNELS = ("spot", "linear")


class Tolerances(NamedTuple):
    """How far from its prices an order may trade, and an unwinding from the best price of then, in bps."""

    price_bps: Decimal
    unwind_bps: Decimal


class Candidate(NamedTuple):
    """An order with the rules of its legs."""

    new: NewOrder
    order: Order
    buy: InstrumentRules
    sell: InstrumentRules


class Admission:
    """The checks of real orders; `link_prefix` is what the link ids of our orders begin with."""

    def __init__(
        self, exchange: Exchange, link_prefix: str, tolerances: Tolerances, clock: Callable[[], int]
    ) -> None:
        self.exchange = exchange
        self._link_prefix = link_prefix
        self._price_tolerance = tolerances.price_bps
        self._unwind_percent = EXACT.divide(tolerances.unwind_bps, HUNDRED)
        self._clock = clock

    async def prepare(self, new: NewOrder) -> Candidate:
        """Learn what has to be known of both legs, and wait until a close may be sent; raises Refused."""
        order = new.order
        for leg in (order.buy, order.sell):
            if leg.channel not in TRADED_CHANNELS:
                raise Refused(not_tradable(leg, "expected spot or linear"))
        if order.action == OPEN_SPREAD:
            if self.exchange.trouble() is not None:
                raise Refused(NOT_CONNECTED)
            if order.spread_id is None:
                order = msgspec.structs.replace(order, spread_id=order.order_id or new_id())
        account = self.exchange.account
        try:
            rules = [await account.prepare(leg) for leg in (order.buy, order.sell)]
        except LookUpFailed:
            raise Refused(NOT_CONNECTED) from None
        if order.action != OPEN_SPREAD:
            await self.exchange.legs.wait_for_room([order.buy, order.sell])
        return Candidate(new, order, *rules)

    def admit(self, engine: TradingEngine, candidate: Candidate, trade_id: str) -> TradeState:
        """Return the trade to begin, with all reserved that it may take; raises Refused.

        Between check and reservation nothing else happens.
        """
        order = candidate.order
        sizes = self._sizes(candidate)
        engine.check(order, sizes.buy_limit, sizes.sell_limit)
        if order.action == OPEN_SPREAD and not self.exchange.legs.take_room([order.buy, order.sell]):
            raise Refused(RATE_LIMIT)
        state = TradeState(
            trade_id,
            f"{self._link_prefix}-{trade_id}",
            order,
            candidate.new.key,
            sizes,
            self._terms(candidate.buy, BUY, sizes.buy_limit),
            self._terms(candidate.sell, SELL, sizes.sell_limit),
            self._unwind_percent,
            self._clock(),
        )
        self.reserve(engine, state)
        return state

    def _sizes(self, candidate: Candidate) -> Sizes:
        order, account = candidate.order, self.exchange.account
        try:
            return size_order(
                order,
                candidate.buy,
                candidate.sell,
                tolerance_bps=self._price_tolerance,
                base_fee=account.base_fee(order.buy),
                free=account.balance,
                margins=Margins(account.margin(order.buy, BUY), account.margin(order.sell, SELL)),
            )
        except NotEnough:
            account.doubt()
            raise

    async def prepare_leftover(self, leftover: Leftover) -> LeftoverState:
        """Return the trade that is to trade a leftover away; raises Refused."""
        account, now = self.exchange.account, self._clock()
        if self.exchange.trouble() is not None:
            raise Refused(NOT_CONNECTED)
        try:
            rules = await account.prepare(leftover.instrument)
        except LookUpFailed:
            raise Refused(NOT_CONNECTED) from None
        trade_id = trade_id_of(f"{leftover.trade_id} {leftover.number} {now}")
        return LeftoverState(
            trade_id,
            f"{self._link_prefix}-{trade_id}",
            leftover,
            terms_of(leftover, rules, account.base_fee(leftover.instrument)),
            self._unwind_percent,
            now,
        )

    def reserve(self, engine: TradingEngine, trade: TradeState) -> None:
        """Count what a trade may come to as taken: risk, spreads, and coins of the account."""
        engine.reserve(trade.trade_id, trade.order, trade.sizes.buy_limit, trade.sizes.sell_limit)
        self.exchange.account.reserve(trade.trade_id, self._coins(trade))

    def release(self, trade_id: str) -> None:
        """Count nothing of the account as taken by a trade any more."""
        self.exchange.account.release(trade_id)

    def _coins(self, trade: TradeState) -> Mapping[str, Decimal]:
        """Return what a trade may spend of coins in the wallet, and what it may need of the margin."""
        sizes, buy, sell = trade.sizes, trade.buy.rules, trade.sell.rules
        coins: dict[str, Decimal] = {}
        if _is_spot(buy.instrument):
            coins[buy.quote] = EXACT.multiply(sizes.buy_quantity, sizes.buy_limit)
        if _is_spot(sell.instrument):
            coins[sell.base] = sizes.sell_quantity
        account = self.exchange.account
        margins = Margins(account.margin(buy.instrument, BUY), account.margin(sell.instrument, SELL))
        if any(margins):
            coins[MARGIN] = margins.needed(sizes.size, Limits(sizes.buy_limit, sizes.sell_limit))
        return coins

    def _terms(self, rules: InstrumentRules, side: Side, limit: Decimal) -> LegTerms:
        return LegTerms(rules, side, limit, self.exchange.account.base_fee(rules.instrument))


def _is_spot(instrument: Instrument) -> bool:
    return instrument.channel == "spot"


def trade_id_of(name: str) -> str:
    """Return the id of the trade for an order known by this name: 20 hexadecimal digits."""
    return hashlib.blake2b(name.encode(), digest_size=10).hexdigest()
