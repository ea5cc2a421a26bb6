"""The trading engine's core: which orders are executed, and what they make of exposure, PnL and open spreads.

Without broker or database. A simulated order is decided and executed in one go: `TradingEngine.execute`
returns the record of it. A real one takes time: it is checked and its possible outcome reserved, the trade
desk sends its legs, and `TradingEngine.book` accounts for what came of them. `TradingEngine.recover` takes
the records of earlier runs through the same accounting.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.cooldown import Cooldown
from blackbird.trading.ledger import Ledger, answer_to, fingerprint, reply
from blackbird.trading.orders import (
    ALREADY_PLACED,
    COOLING_DOWN,
    EXPIRED,
    LEFTOVER,
    NOT_PLACED,
    OPEN_SPREAD,
    LeftoverRequest,
    Order,
    Refused,
    Reply,
    invalid_spread,
)
from blackbird.trading.records import (
    Amendment,
    Booking,
    Execution,
    Record,
    Refusal,
    TradeOutcome,
    Unwind,
    Unwound,
)
from blackbird.trading.reservations import Reservations
from blackbird.trading.risk import RiskLimit, RiskModel
from blackbird.trading.settlement import by_hand
from blackbird.trading.spreads import Spread, new_id, pair_of

logger = logging.getLogger(__name__)


class TradingEngine:
    """Exposure, PnL, known orders and open spreads, and the checks an order passes before it changes them.

    `limit` and `risk_model` see RiskLimit. `unique_order` refuses copies of orders that have no id, `clock`
    returns milliseconds since 1970. `fee_rates` are those of a simulation by channel, as fractions of an
    order's value. `pair_cooldown_ms` see Cooldown, `known_orders` see KnownOrders.

    In a simulation `execute` decides on an order, and one that passes the checks counts as executed at its
    prices. A real one is checked, reserved for while it is traded, and booked with what came of it.
    """

    def __init__(
        self,
        *,
        limit: Decimal,
        unique_order: bool,
        clock: Callable[[], int],
        risk_model: RiskModel = "cash",
        fee_rates: Mapping[str, Decimal] | None = None,
        pair_cooldown_ms: int = 0,
        known_orders: int | None = None,
    ) -> None:
        self._ledger = ledger = Ledger(unique_order=unique_order, known_orders=known_orders)
        self.risks = ledger.risks
        self.positions = ledger.positions
        self.orders = ledger.orders
        self.spreads = ledger.spreads
        self.leftovers = ledger.leftovers
        self.totals = ledger.totals
        self.limit = limit
        self.risk_model = risk_model
        self.first_answer = ledger.first_answer
        self.recover = ledger.recover
        self.books = ledger.books
        self.restore = ledger.restore
        self.remember = ledger.remember
        self._reservations = Reservations()
        self._cooldown = Cooldown(pair_cooldown_ms)
        self._risk = RiskLimit(limit, risk_model, ledger, self._reservations)
        self._unique_order = unique_order
        self._clock = clock
        self._fee_rates = fee_rates

    @property
    def pnl(self) -> Decimal:
        """All cash received less all cash paid, without fees."""
        return self._ledger.pnl

    @property
    def last_id(self) -> int:
        """The id of the newest record."""
        return self._ledger.last_id

    def may_be_forgotten(self, order: Order) -> bool:
        """Return whether an order that is not known may have been answered all the same, long ago."""
        return self.orders.may_be_forgotten(order, self._clock())

    @staticmethod
    def answer_of(record: Record) -> Reply:
        """Return the answer to the order of which `record` was made."""
        answer = record.answer if isinstance(record, Booking) else record
        if isinstance(answer, Execution):
            return answer_to(answer)
        return reply(answer.info if answer is not None else NOT_PLACED)

    def held(self, instrument: Instrument) -> Decimal:
        """Return what all fills of `instrument`, less fees in base coin, add up to, leftovers included."""
        return EXACT.add(self.positions.get(instrument, ZERO), self.leftovers.size(instrument))

    # --- simulated orders, and those that are not executed ------------------------------------------

    def execute(self, order: Order, request_key: str | None = None) -> Record:
        """Check and place a new order, account for it, and return the record of what became of it.

        `request_key` identifies the request of an order that has no id, should the broker redeliver it.
        """
        order = _with_spread_id(order, new_id)
        try:
            self.check(order)
            self._place_order_always_true(order)
        except Refused as refused:
            return self.refuse(order, str(refused), request_key)
        fees = None if self._fee_rates is None else _fees(order, self._fee_rates)
        record = Execution(self._ledger.next_id(), order, self._clock(), request_key, fees=fees)
        self._ledger.account(record)
        return record

    def refuse(self, order: Order, info: str, request_key: str | None = None) -> Refusal:
        """Answer a new order NOT ACK with `info`, and return the record of it."""
        record = Refusal(self._ledger.next_id(), info, self._clock(), order.order_id, request_key)
        self._ledger.account(record)
        return record

    # --- real orders -----------------------------------------------------------------------------

    def reserve(self, trade_id: str, order: Order, buy_limit: Decimal, sell_limit: Decimal) -> None:
        """Count what a trade may come to, at the prices its legs are limited to, until it is booked."""
        self._reservations.add(trade_id, _with_spread_id(order, lambda: trade_id), buy_limit, sell_limit)

    def release(self, trade_id: str) -> None:
        """Forget what was reserved for a trade of which nothing was sent."""
        self._reservations.release(trade_id)

    def book(self, outcome: TradeOutcome) -> Booking:
        """Account for a trade whose legs are over, and return the record of it."""
        self._reservations.release(outcome.trade_id)
        order = _with_spread_id(outcome.order, lambda: outcome.trade_id)
        key, ended_at = outcome.request_key, outcome.ended_at
        execution = refusal = None
        if outcome.traded is not None:
            execution = Execution(self._ledger.next_id(), order, ended_at, key, outcome.traded)
        else:
            info = outcome.refusal or NOT_PLACED
            refusal = Refusal(self._ledger.next_id(), info, ended_at, order.order_id, key, outcome.trade_id)
        unwinds = self._unwinds(outcome.unwound, ended_at)
        booking = Booking(
            self._ledger.last_id,
            outcome.trade_id,
            execution,
            refusal,
            unwinds,
            outcome.leftovers,
            fills=outcome.fills,
        )
        self._ledger.account(booking)
        is_left_over = any(leftover.blocks for leftover in outcome.leftovers)
        if refusal is not None or unwinds or is_left_over:
            pair = pair_of(order)
            self._cooldown.start(order.action, pair, self._clock(), is_left_over=is_left_over)
        return booking

    def amend(self, amendment: Amendment) -> Booking:
        """Account for what became of a trade after it was booked, and return the record of it."""
        unwinds = self._unwinds(amendment.unwound, amendment.ended_at)
        booking = Booking(
            self._ledger.last_id if unwinds else self._ledger.next_id(),
            amendment.trade_id,
            unwinds=unwinds,
            leftovers=amendment.leftovers,
            resolved=amendment.resolved,
            fills=amendment.fills,
        )
        self._ledger.account(booking)
        return booking

    def resolve_leftover(self, request: LeftoverRequest) -> Booking | None:
        """Do as a person says of a leftover, and return the record of it, None where that was done already.

        Raises Refused for one that is unknown, or that is being traded away.
        """
        leftover = self.leftovers.find(request.trade_id, request.number)
        if leftover is None:
            return None
        return self.amend(by_hand(leftover, request.price, self._clock()))

    def _unwinds(self, unwound: Iterable[Unwound], ended_at: int) -> tuple[Unwind, ...]:
        return tuple(Unwind(self._ledger.next_id(), ended_at, each) for each in unwound)

    # --- checks ----------------------------------------------------------------------------------

    def check(
        self, order: Order, buy_limit: Decimal | None = None, sell_limit: Decimal | None = None
    ) -> None:
        """Raise Refused where the order must not be executed.

        The limits are the worst prices that a real order may come to, by default its own.
        """
        if order.expires_at is not None and self._clock() > order.expires_at:
            raise Refused(EXPIRED)
        if self._unique_order and order.order_id is None and self._is_copy(order):
            raise Refused(ALREADY_PLACED)
        if self._cooldown.rests and self._cooldown.holds(order.action, pair_of(order), self._clock()):
            raise Refused(COOLING_DOWN)
        if order.action == OPEN_SPREAD:
            self._check_new_spread(order)
        elif order.spread_id is not None:
            # Nothing more than what is open is closed, which no limit may stand in the way of.
            _check_close(order, self.spreads.get(order.spread_id), self._reservations)
            return
        self._risk.check(order, buy_limit or order.buy_price, sell_limit or order.sell_price)

    def _is_copy(self, order: Order) -> bool:
        copy = fingerprint(order)
        running = self._reservations.orders()
        return self.orders.is_copy(copy) or any(fingerprint(each) == copy for each in running)

    def _check_new_spread(self, order: Order) -> None:
        spread_id = order.spread_id
        if spread_id is not None and (
            self.spreads.get(spread_id) is not None or self._reservations.opens(spread_id)
        ):
            raise Refused(invalid_spread("expected a new spread, was an open one"))
        if self.leftovers.open and self.leftovers.blocks(pair_of(order)):
            raise Refused(LEFTOVER)

    # --- placing ---------------------------------------------------------------------------------

    def _place_order_always_true(self, order: Order) -> None:
        """Simulate the execution: both legs fill whole at the order's prices."""


def _check_close(order: Order, spread: Spread | None, reservations: Reservations) -> None:
    """Raise Refused where an order closes what is not open, or more than running trades leave of it."""
    if spread is None:
        raise Refused(invalid_spread("expected an open spread, was unknown"))
    if spread.pair != pair_of(order):
        raise Refused(invalid_spread(f"expected the legs of {spread.pair}, was another pair"))
    left = spread.quantity
    if reservations.trades:
        left = EXACT.subtract(left, reservations.closing(spread.spread_id))
    if order.size > left:
        raise Refused(invalid_spread(f"expected at most {left}, was {order.size}"))


def request_key(reply_to: str | None, correlation_id: str | None, body: bytes) -> str:
    """Return what identifies a request without an order id when the broker redelivers it.

    The body is part of it: a client may use one correlation id for all its requests.
    """
    text = f"{reply_to}\n{correlation_id}\n".encode()
    return "request " + hashlib.blake2b(text + body, digest_size=16).hexdigest()


def _with_spread_id(order: Order, make: Callable[[], str]) -> Order:
    """Return the order; an Open without the id of its spread is given one, its own where it has one."""
    if order.action != OPEN_SPREAD or order.spread_id is not None:
        return order
    return msgspec.structs.replace(order, spread_id=order.order_id or make())


def _fees(order: Order, rates: Mapping[str, Decimal]) -> tuple[Decimal | None, Decimal | None]:
    """Return what a simulation charges for the buy leg and the sell leg; None on a channel without a rate."""

    def fee(leg: Instrument, price: Decimal) -> Decimal | None:
        rate = rates.get(leg.channel)
        return None if rate is None else EXACT.multiply(EXACT.multiply(price, order.size), rate)

    return fee(order.buy, order.buy_price), fee(order.sell, order.sell_price)
