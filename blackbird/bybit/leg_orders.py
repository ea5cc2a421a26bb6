"""Sends the orders of legs, and says what the reply proves: taken, refused, or unknown.

https://bybit-exchange.github.io/docs/v5/order/create-order: creation is asynchronous. A reply says whether an
order was taken, never what was filled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Protocol

import msgspec
from pybit.unified_trading import HTTP

from blackbird.bybit.order_rates import OrderRates
from blackbird.bybit.rest import Call, HttpFailure, NotSent, Refusal, RestError
from blackbird.market.decimals import EXACT
from blackbird.market.instrument import Instrument
from blackbird.trading.instrument_rules import InstrumentRules, divide
from blackbird.trading.leg_order import BUY, LegOrder, LegRefused, Taken, Unknown

logger = logging.getLogger(__name__)

Sent = Taken | LegRefused | Unknown

# How long after its sending the exchange may take an order that no expiry limits.
LONGEST_WINDOW_MS = 2000
RATE_PAUSE_SECONDS = 1.0
# The code of an order that was not sent at all.
NOT_SENT = 0

# "OrderLinkedID is duplicate" on linear and on spot, and "duplicate request": the first sending was taken.
DUPLICATE_CODES = frozenset({10014, 110072, 170141})
RATE_CODES = frozenset({429, 10006, 170005, 170222})
SLIPPAGE_CODES = frozenset({110108, 110109})
# The codes below prove that an order was not taken, every other one proves nothing:
# https://bybit-exchange.github.io/docs/v5/error.
_KEY_CODES = {10003, 10004, 10005, 10007, 10009, 10010, 10024, 10027, 10028, 10029, 33004}
_REQUEST_CODES = {10001, 10002}
_MONEY_CODES = {
    *(110004, 110006, 110007, 110012, 110044, 110045, 110051, 110052, 110053),
    *(170033, 170034, 170036, 170037, 170131, 170207, 170344, 182021),
}
_SIZE_CODES = {
    *(110017, 110094),
    *(170124, 170136, 170137, 170140, 170148, 170341, 170381, 170382),
}
_PRICE_CODES = {
    *(110003, 110108, 110109, 110120, 110121, 30208, 30209),
    *(170132, 170133, 170134, 170192, 170193, 170194, 170371, 170372),
}
_SYMBOL_CODES = {
    *(110023, 110042, 110063, 110066, 110074, 110103, 30228),
    *(170121, 170151, 170157, 170159, 170209, 170217),
}
_COUNT_CODES = {110020, 170810}
REFUSAL_CODES = frozenset(
    _KEY_CODES | _REQUEST_CODES | _MONEY_CODES | _SIZE_CODES | _PRICE_CODES | _SYMBOL_CODES | _COUNT_CODES
)
# The instrument may have other rules by now.
RULES_CODES = frozenset({10001} | _SIZE_CODES | _PRICE_CODES | _SYMBOL_CODES) - SLIPPAGE_CODES
REFUSAL_STATUSES = frozenset({400, 401, 403, 404})
RATE_STATUS = 429


class Sender(Protocol):
    """What sends requests; see blackbird.bybit.rest.Rest."""

    @property
    def is_banned(self) -> bool:
        """Return whether nothing can be sent for some minutes."""

    async def call(self, call: Call) -> Mapping[str, Any]:
        """Return the result of a request; raises RestError."""


class LegOrders:
    """Sends orders, any number at the same time; each in a thread of its own.

    `now` returns this machine's milliseconds since 1970, `clock_offset` how many of them the exchange's
    clock is ahead, `rules` what is known of an instrument. `on_rules_refused` gets an instrument whose rules
    may have changed. `per_second` are the exchange's limits by channel.
    """

    def __init__(
        self,
        rest: Sender,
        *,
        now: Callable[[], int],
        clock_offset: Callable[[], int],
        rules: Callable[[Instrument], InstrumentRules | None],
        on_rules_refused: Callable[[Instrument], None],
        per_second: Mapping[str, int],
    ) -> None:
        self._rest = rest
        self._now = now
        self._clock_offset = clock_offset
        self._rules = rules
        self._on_rules_refused = on_rules_refused
        self._rates = OrderRates(per_second)

    @property
    def trouble(self) -> str | None:
        """Return why nothing can be sent now, None where nothing is known of that."""
        return "banned by the exchange" if self._rest.is_banned else None

    def take_room(self, legs: Iterable[Instrument]) -> bool:
        """Return whether an order of each leg may be sent now, within the rate limits; they count as sent."""
        return self._rates.take(legs)

    async def wait_for_room(self, legs: Iterable[Instrument]) -> None:
        """Wait until an order of each leg may be sent; they count as sent."""
        await self._rates.wait(legs)

    async def send(self, order: LegOrder, expires_at: int | None) -> Sent:
        """Send an order, which the exchange does not take after `expires_at` (milliseconds)."""
        sent = await self._send(order, order_body(order), expires_at)
        if isinstance(sent, LegRefused) and _refuses_slippage(sent) and order.limit is None:
            # It was not taken: the same link id again is no second order.
            sent = await self._send_as_limit(order, expires_at)
        self._log(order, sent)
        return sent

    async def _send(self, order: LegOrder, body: dict[str, Any], expires_at: int | None) -> Sent:
        def create(session: HTTP) -> Any:
            # Just before the sending: an order may have waited for its thread.
            session.recv_window = self._window(expires_at)
            return session.place_order(**body)

        try:
            return _taken(order, await self._rest.call(create))
        except _Expired:
            return LegRefused(order.link_id, NOT_SENT, "expired")
        except RestError as error:
            return self._failed(order, error)

    def _window(self, expires_at: int | None) -> int:
        """Return for how long the exchange may take a request that is sent now."""
        offset = self._clock_offset()
        if expires_at is None:
            return LONGEST_WINDOW_MS + offset
        window = min(expires_at - self._now(), LONGEST_WINDOW_MS) + offset
        if expires_at <= self._now() or window <= 0:
            raise _Expired
        return window

    def _failed(self, order: LegOrder, error: RestError) -> Sent:
        sent = classify(order.link_id, error)
        if _is_for_the_rate(error):
            self._rates.pause(order.instrument.channel, RATE_PAUSE_SECONDS)
        if isinstance(error, Refusal) and error.code in RULES_CODES:
            self._on_rules_refused(order.instrument)
        return sent

    async def _send_as_limit(self, order: LegOrder, expires_at: int | None) -> Sent:
        """Send a market order as a limit order, bounded from the best price of now."""
        rules = self._rules(order.instrument)
        if rules is None or order.slippage_percent is None:
            return LegRefused(order.link_id, NOT_SENT, "no price to limit it by")
        try:
            best = await self._best_price(order)
        except RestError as error:
            return LegRefused(order.link_id, NOT_SENT, f"no price to limit it by: {error}")
        share = divide(order.slippage_percent, Decimal(100))
        factor = EXACT.add(Decimal(1), share if order.side == BUY else -share)
        limit = rules.round_price(EXACT.multiply(best, factor), order.side)
        limited = msgspec.structs.replace(order, limit=limit, slippage_percent=None)
        return await self._send(limited, order_body(limited), expires_at)

    async def _best_price(self, order: LegOrder) -> Decimal:
        leg = order.instrument
        result = await self._rest.call(
            lambda session: session.get_tickers(category=leg.channel, symbol=leg.symbol)
        )
        try:
            return Decimal(result["list"][0]["ask1Price" if order.side == BUY else "bid1Price"])
        except (LookupError, TypeError, ArithmeticError) as error:
            raise RestError(f"expected a price of {leg}, was {type(error).__name__}") from None

    def _log(self, order: LegOrder, sent: Sent) -> None:
        if isinstance(sent, Taken):
            return
        outcome = f"refused: {sent.reason}" if isinstance(sent, LegRefused) else f"unknown: {sent.why}"
        logger.warning(
            "%s: %s %s %s %s", order.link_id, order.side, order.quantity, order.instrument, outcome
        )


class _Expired(Exception):
    """An order is not sent any more."""


def order_body(order: LegOrder) -> dict[str, Any]:
    """Return the request of an order."""
    body: dict[str, Any] = {
        "category": order.instrument.channel,
        "symbol": order.instrument.symbol,
        "side": order.side,
        "qty": _text(order.quantity),
        "orderLinkId": order.link_id,
    }
    if order.limit is not None:
        body |= {"orderType": "Limit", "price": _text(order.limit), "timeInForce": "IOC"}
    else:
        body["orderType"] = "Market"
        if order.slippage_percent is not None:
            body |= {"slippageToleranceType": "Percent", "slippageTolerance": _text(order.slippage_percent)}
    if order.instrument.channel == "linear":
        return body | {"positionIdx": 0, "reduceOnly": order.reduce_only}
    if order.limit is None:
        # Otherwise the quantity of a spot market buy is in quote coin.
        body["marketUnit"] = "baseCoin"
    return body | {"isLeverage": 0}


def classify(link_id: str, error: RestError) -> Sent:
    """Return what an error proves about the order that was sent."""
    if isinstance(error, Refusal):
        if error.code in DUPLICATE_CODES:
            return Taken(link_id)
        if error.code in REFUSAL_CODES:
            return LegRefused(link_id, error.code, str(error))
    if isinstance(error, NotSent):
        return LegRefused(link_id, NOT_SENT, str(error))
    if isinstance(error, HttpFailure) and error.status in REFUSAL_STATUSES:
        return LegRefused(link_id, error.status, str(error))
    return Unknown(link_id, str(error))


def _taken(order: LegOrder, result: Mapping[str, Any]) -> Sent:
    order_id, link_id = result.get("orderId"), result.get("orderLinkId")
    if link_id != order.link_id or not isinstance(order_id, str) or not order_id:
        return Unknown(order.link_id, "expected its own link id and an order id, was another answer")
    return Taken(order.link_id, order_id)


def _is_for_the_rate(error: RestError) -> bool:
    if isinstance(error, Refusal):
        return error.code in RATE_CODES
    return isinstance(error, HttpFailure) and error.status == RATE_STATUS


def _refuses_slippage(sent: LegRefused) -> bool:
    return sent.code in SLIPPAGE_CODES or (sent.code == 10001 and "slippage" in sent.reason.lower())


def _text(number: Decimal) -> str:
    """Return a number without an exponent and without zeros at its end."""
    return f"{number.normalize(EXACT):f}"
