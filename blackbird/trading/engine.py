"""The trading engine's core: which orders are executed, and what they make of exposure, PnL and open spreads.

Without broker or database. `TradingEngine.execute` decides on an order and returns the record of it;
`TradingEngine.recover` takes the records of earlier runs through the same accounting.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Literal, Protocol

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import (
    ACK,
    ALREADY_PLACED,
    BUY_LEG_FAILED,
    EXPIRED,
    NOT_ACK,
    OPEN_SPREAD,
    ORDER_PLACED,
    RISK_LIMIT_EXCEED,
    SELL_LEG_FAILED,
    Order,
    Refused,
    Reply,
    invalid_spread,
)
from blackbird.trading.records import Booking, Execution, Record, Refusal
from blackbird.trading.spreads import OpenSpreads, Pair, Spread, new_id

logger = logging.getLogger(__name__)

RiskModel = Literal["cash", "position"]
Exposures = tuple[tuple[Decimal, Decimal], tuple[Decimal, Decimal]]


class LegSender(Protocol):
    """Sends one leg of an order to the exchange."""

    def place_market_order(self, leg: Instrument, side: str, size: Decimal, link_id: str) -> bool:
        """Send a market order for `size` base coin, `side` Buy or Sell; return whether it was accepted.

        The same `link_id` again is the same order.
        """


class TradingEngine:
    """Exposure, PnL, known orders and open spreads, and the checks an order passes before it changes them.

    `limit` is the largest exposure of a leg in quote coin. By the `risk_model` "cash", the owner's formula,
    the exposure of a leg is the cash paid for it less the cash received, which drifts by what each round trip
    earns; by "position" it is the position in base coin times the order's price. `unique_order` refuses
    copies of orders that have no id, `clock` returns milliseconds since 1970. With `exchange` orders are sent
    there, without it every order that passes the checks counts as executed at its prices.
    """

    def __init__(
        self,
        *,
        limit: Decimal,
        unique_order: bool,
        clock: Callable[[], int],
        risk_model: RiskModel = "cash",
        exchange: LegSender | None = None,
    ) -> None:
        # Above zero long, below short: cash exposure in quote coin, position in base coin.
        self.risks: dict[Instrument, Decimal] = {}
        self.positions: dict[Instrument, Decimal] = {}
        self.pnl = ZERO
        self.orders: dict[str, str] = {}  # order id, or key of a request without one -> its first answer
        self.spreads = OpenSpreads()
        self._limit = limit
        self._unique_order = unique_order
        self._clock = clock
        self._exposures = self._cash_exposures if risk_model == "cash" else self._position_exposures
        self._exchange = exchange
        self._place = self._place_order_always_true if exchange is None else self._place_order
        self._copies: set[bytes] = set()
        self._last_id = 0

    def first_answer(self, key: str | None) -> Reply | None:
        """Return the answer that the order or request known by `key` was given, None for an unknown key."""
        info = self.orders.get(key) if key is not None else None
        return None if info is None else _reply(info)

    @staticmethod
    def answer_of(record: Record) -> Reply:
        """Return the answer to the order of which `record` was made."""
        return _reply(record.info if isinstance(record, Refusal) else ORDER_PLACED)

    def execute(self, order: Order, request_key: str | None = None) -> Record:
        """Check and place a new order, account for it, and return the record of what became of it.

        `request_key` identifies the request of an order that has no id, should the broker redeliver it.
        """
        if order.action == OPEN_SPREAD and order.spread_id is None:
            order = msgspec.structs.replace(order, spread_id=order.order_id or new_id())
        try:
            self._check(order)
            self._place(order)
        except Refused as refused:
            return self.refuse(order, str(refused), request_key)
        self._last_id += 1
        record = Execution(self._last_id, order, self._clock(), request_key)
        self._account(record)
        return record

    def refuse(self, order: Order, info: str, request_key: str | None = None) -> Refusal:
        """Answer a new order NOT ACK with `info`, and return the record of it."""
        self._last_id += 1
        record = Refusal(self._last_id, info, self._clock(), order.order_id, request_key)
        self._account(record)
        return record

    def recover(self, records: Iterable[Record]) -> None:
        """Account for what was decided earlier, oldest first."""
        for record in records:
            self._last_id = max(self._last_id, record.execution_id)
            self._account(record)

    # --- checks ----------------------------------------------------------------------------------

    def _check(self, order: Order) -> None:
        """Raise Refused where the order must not be executed."""
        if order.expires_at is not None and self._clock() > order.expires_at:
            raise Refused(EXPIRED)
        if self._unique_order and order.order_id is None and _fingerprint(order) in self._copies:
            raise Refused(ALREADY_PLACED)
        if order.action == OPEN_SPREAD:
            self._check_new_spread(order.spread_id)
            self._check_risk(order)
        elif order.spread_id is None:
            self._check_risk(order)
        else:
            # Nothing more than what is open is closed, which no limit may stand in the way of.
            self._check_open_spread(order, order.spread_id)

    def _check_new_spread(self, spread_id: str | None) -> None:
        if spread_id is not None and self.spreads.get(spread_id) is not None:
            raise Refused(invalid_spread("expected a new spread, was an open one"))

    def _check_open_spread(self, order: Order, spread_id: str) -> None:
        spread = self.spreads.get(spread_id)
        if spread is None:
            raise Refused(invalid_spread("expected an open spread, was unknown"))
        if spread.pair != Pair(long=order.sell, short=order.buy):
            raise Refused(invalid_spread(f"expected the legs of {spread.pair}, was another pair"))
        if order.size > spread.quantity:
            raise Refused(invalid_spread(f"expected at most {spread.quantity}, was {order.size}"))

    def _check_risk(self, order: Order) -> None:
        for before, after in self._exposures(order):
            if abs(after) > self._limit and abs(after) > abs(before):
                raise Refused(RISK_LIMIT_EXCEED)

    def _cash_exposures(self, order: Order) -> Exposures:
        """Return the exposure of each leg before and after the order."""
        long = self.risks.get(order.buy, ZERO)
        short = self.risks.get(order.sell, ZERO)
        return (
            (long, EXACT.add(long, _cost(order))),
            (short, EXACT.subtract(short, _proceeds(order))),
        )

    def _position_exposures(self, order: Order) -> Exposures:
        """Return the exposure of each leg before and after the order."""
        long = EXACT.multiply(self.positions.get(order.buy, ZERO), order.buy_price)
        short = EXACT.multiply(self.positions.get(order.sell, ZERO), order.sell_price)
        return (
            (long, EXACT.add(long, _cost(order))),
            (short, EXACT.subtract(short, _proceeds(order))),
        )

    # --- placing ---------------------------------------------------------------------------------

    def _place_order_always_true(self, order: Order) -> None:
        """Simulate the execution: both legs fill whole at the order's prices."""

    def _place_order(self, order: Order) -> None:
        """Send both legs to the exchange, one after the other; raise Refused where one of them fails.

        A buy leg that fails leaves nothing open. A sell leg that fails leaves the bought one: it is logged,
        and unwinding it is up to a person.
        """
        assert self._exchange is not None  # noqa: S101 - chosen in the constructor
        link = _link_id(order)
        if not self._exchange.place_market_order(order.buy, "Buy", order.size, f"{link}-b"):
            raise Refused(BUY_LEG_FAILED)
        if not self._exchange.place_market_order(order.sell, "Sell", order.size, f"{link}-s"):
            logger.error(
                "order %s: bought %s %s and could not sell %s: the bought leg stands alone",
                order.order_id,
                order.size,
                order.buy,
                order.sell,
            )
            raise Refused(SELL_LEG_FAILED)

    # --- accounting ------------------------------------------------------------------------------

    def _account(self, record: Record) -> None:
        if isinstance(record, Booking):
            raise NotImplementedError
        if isinstance(record, Refusal):
            self._remember(record.order_id, record.request_key, record.info)
            return
        order = record.order
        bought, sold = _cost(order), _proceeds(order)
        self.risks[order.buy] = EXACT.add(self.risks.get(order.buy, ZERO), bought)
        self.risks[order.sell] = EXACT.subtract(self.risks.get(order.sell, ZERO), sold)
        self.positions[order.buy] = EXACT.add(self.positions.get(order.buy, ZERO), order.size)
        self.positions[order.sell] = EXACT.subtract(self.positions.get(order.sell, ZERO), order.size)
        self.pnl = EXACT.add(self.pnl, EXACT.subtract(sold, bought))
        if self._unique_order:
            self._copies.add(_fingerprint(order))
        if order.action == OPEN_SPREAD:
            self.spreads.add(Spread.opened_by(order))
        else:
            self._reduce_spreads(order)
        self._remember(order.order_id, record.request_key, ORDER_PLACED)

    def _reduce_spreads(self, order: Order) -> None:
        if order.spread_id is not None:
            spread = self.spreads.get(order.spread_id)
            if spread is not None:
                self.spreads.reduce(spread, order.size)
            return
        left = order.size
        for spread in self.spreads.of_pairs([Pair(long=order.sell, short=order.buy)]):
            size = min(left, spread.quantity)
            self.spreads.reduce(spread, size)
            left = EXACT.subtract(left, size)
            if not left:
                return

    def _remember(self, order_id: str | None, request_key: str | None, info: str) -> None:
        key = order_id if order_id is not None else request_key
        if key is not None:
            self.orders[key] = info


def _reply(info: str) -> Reply:
    return Reply(ACK if info == ORDER_PLACED else NOT_ACK, info)


def request_key(reply_to: str | None, correlation_id: str | None, body: bytes) -> str:
    """Return what identifies a request without an order id when the broker redelivers it.

    The body is part of it: a client may use one correlation id for all its requests.
    """
    text = f"{reply_to}\n{correlation_id}\n".encode()
    return "request " + hashlib.blake2b(text + body, digest_size=16).hexdigest()


def _cost(order: Order) -> Decimal:
    return EXACT.multiply(order.buy_price, order.size)


def _proceeds(order: Order) -> Decimal:
    return EXACT.multiply(order.sell_price, order.size)


def _fingerprint(order: Order) -> bytes:
    """Return what makes two orders without an id the same: legs, prices, size and times."""
    numbers = (
        order.buy_price.normalize(EXACT),
        order.sell_price.normalize(EXACT),
        order.size.normalize(EXACT),
    )
    text = repr((order.buy, order.sell, numbers, order.ts_buy, order.ts_sell))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _link_id(order: Order) -> str:
    """Return the exchange's id for an order: at most 36 letters, digits and dashes with a leg's suffix."""
    if order.order_id is None:
        return new_id()
    return hashlib.blake2b(order.order_id.encode(), digest_size=16).hexdigest()
