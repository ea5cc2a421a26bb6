"""What a request to create an order asks for, and whether its form is right.

https://bybit-exchange.github.io/docs/v5/order/create-order. Bybit documents no order of the checks; this one
is: fields, symbol, status, link id, quantity step, price tick, minimum, maximum, position mode, reduce-only,
balance (the last two are checked against the account).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from local_exchange.private.api import ApiError
from local_exchange.private.decimals import ceil_to, floor_to, is_multiple, times

if TYPE_CHECKING:
    from local_exchange.private.prices import Prices
    from local_exchange.private.rules import InstrumentRules, RuleBook

LINK_ID = re.compile(r"[A-Za-z0-9_-]*")
LONGEST_LINK_ID = 36
TIMES_IN_FORCE = ("GTC", "IOC", "FOK", "PostOnly")
# How far a market order without a tolerance may go; +5 % was seen on a linear one, spot is not confirmed.
MARKET_LIMIT = Decimal("0.05")


@dataclass(frozen=True)
class OrderRequest:
    """A request whose form is right; see `Order` for the fields."""

    rules: InstrumentRules
    side: str
    order_type: str
    qty: Decimal
    # Of a market order the furthest price, of a futures limit order the nearest that is allowed.
    price: Decimal
    time_in_force: str
    link_id: str
    position_idx: int
    reduce_only: bool
    is_leverage: bool
    market_unit: str
    slippage: tuple[str, str]
    last_price: Decimal

    @property
    def is_buy(self) -> bool:
        """Return whether it buys."""
        return self.side == "Buy"


def parse_order(
    given: dict[str, Any], rule_book: RuleBook, prices: Prices, *, is_known: Callable[[str, str], bool]
) -> OrderRequest:
    """Return the order that a request asks for.

    Args:
        given: the JSON object of the request.
        rule_book: of the instruments.
        prices: of the market, against which a limit is checked.
        is_known: whether a link id is taken already, by category and link id.

    Raises:
        ApiError: the request is refused.
    """
    category, symbol = str(given.get("category", "")), str(given.get("symbol", ""))
    side, order_type = given.get("side"), given.get("orderType")
    if side not in {"Buy", "Sell"}:
        raise ApiError(10001, "Side invalid")
    if order_type not in {"Market", "Limit"}:
        raise ApiError(10001, "OrderType invalid")
    qty = _positive(given.get("qty"), "Qty invalid")
    rules = rule_book.of(category, symbol)
    _check_status(rules)
    link_id = _link_id(given.get("orderLinkId"), category, is_known)
    market = order_type == "Market"
    unit = str(given.get("marketUnit", "")) if market and category == "spot" else ""
    in_quote = category == "spot" and market and (unit == "quoteCoin" or (side == "Buy" and not unit))
    _check_step(rules, qty, in_quote=in_quote)
    last = prices.last(category, symbol)
    slippage = ("UNKNOWN", "")
    if market:
        slippage = _slippage(given)
        price = _market_limit(rules, prices, side == "Buy", slippage)
    else:
        price = _limit(rules, given.get("price"), last, is_buy=side == "Buy")
    _check_sizes(rules, qty, price if not market else last, in_quote=in_quote, market=market)
    return OrderRequest(
        rules=rules,
        side=side,
        order_type=order_type,
        qty=qty,
        price=price,
        time_in_force="IOC" if market else _time_in_force(given.get("timeInForce")),
        link_id=link_id,
        position_idx=_position_idx(given.get("positionIdx")),
        # Not confirmed: on spot it is not valid, and ignored.
        reduce_only=bool(given.get("reduceOnly", False)) and category == "linear",
        is_leverage=str(given.get("isLeverage", 0)) == "1" and category == "spot",
        market_unit=unit,
        slippage=slippage,
        last_price=last,
    )


def _positive(given: object, text: str) -> Decimal:
    """Return the number that a text holds; all numbers of a request are texts."""
    try:
        number = Decimal(given) if isinstance(given, str) else Decimal(0)
    except InvalidOperation:
        number = Decimal(0)
    if not number.is_finite() or number <= 0:
        raise ApiError(10001, text)
    return number


def _check_status(rules: InstrumentRules) -> None:
    if rules.status == "Trading":
        return
    if rules.category == "spot":
        raise ApiError(170151, "The trading pair is not open yet")
    raise ApiError(110074, "This contract is not live")


def _link_id(given: object, category: str, is_known: Callable[[str, str], bool]) -> str:
    """Return the link id; one that was ever taken is taken for good, each category by itself."""
    if given is None:
        return ""
    if not isinstance(given, str) or LINK_ID.fullmatch(given) is None:
        # Not confirmed.
        raise ApiError(10001, "OrderLinkID can only have letters, numbers, dashes and underscores")
    if len(given) > LONGEST_LINK_ID:
        # The text of an answer that had 45 in it; 36 is documented.
        raise ApiError(10001, f"order link id is longer than {LONGEST_LINK_ID}")
    if given and is_known(category, given):
        if category == "spot":
            raise ApiError(170141, "Duplicate clientOrderId")
        raise ApiError(110072, "OrderLinkedID is duplicate")
    return given


def _check_step(rules: InstrumentRules, qty: Decimal, *, in_quote: bool) -> None:
    if is_multiple(qty, rules.quote_step if in_quote else rules.step):
        return
    if in_quote:
        raise ApiError(170148, "Market order amount decimal too long")
    if rules.category == "spot":
        raise ApiError(170137, "Order quantity has too many decimals.")
    raise ApiError(10001, "Qty invalid")


def _slippage(given: dict[str, Any]) -> tuple[str, str]:
    kind, amount = given.get("slippageToleranceType"), given.get("slippageTolerance")
    if kind is None and amount is None:
        return "UNKNOWN", ""
    if kind == "TickSize":
        number = _positive(amount, "slippageTolerance invalid")
        if number != int(number) or number > 10_000:
            raise ApiError(110108, "The slippage tolerance must be 1 to 10000 ticks")
    elif kind == "Percent":
        number = _positive(amount, "slippageTolerance invalid")
        if not Decimal("0.01") <= number <= 10 or not is_multiple(number, Decimal("0.01")):
            raise ApiError(110109, "The slippage tolerance must be 0.01 to 10 percent")
    else:
        # Not confirmed.
        raise ApiError(10001, "slippageToleranceType invalid")
    return str(kind), str(amount)


def _market_limit(rules: InstrumentRules, prices: Prices, is_buy: bool, slippage: tuple[str, str]) -> Decimal:
    """Return how far a market order may go: its tolerance from the best price of the other side."""
    best = prices.best(rules.category, rules.symbol, bid=not is_buy)
    if best is None:
        if rules.category == "linear":
            raise ApiError(110118, "Low liquidity")
        # Not confirmed: on spot it is taken, and finds nothing.
        best = prices.last(rules.category, rules.symbol)
    kind, amount = slippage
    if kind == "TickSize":
        room = times(Decimal(amount), rules.tick)
    else:
        room = times(best, Decimal(amount) / 100 if kind == "Percent" else MARKET_LIMIT)
    # Inwards to the tick, so that the tolerance is kept.
    return floor_to(best + room, rules.tick) if is_buy else ceil_to(max(best - room, rules.tick), rules.tick)


def _limit(rules: InstrumentRules, given: object, last: Decimal, *, is_buy: bool) -> Decimal:
    """Return the limit price; a futures price beyond the band is moved to its edge, a spot price refused.

    https://bybit-exchange.github.io/docs/v5/account/set-price-limit
    """
    price = _positive(given, "price invalid")
    if not is_multiple(price, rules.tick):
        if rules.category == "spot":
            raise ApiError(170134, "Order price has too many decimals.")
        # Not confirmed.
        raise ApiError(10001, "price invalid")
    if not last:
        return price
    highest = floor_to(times(last, 1 + rules.price_ratio), rules.tick)
    lowest = ceil_to(times(last, 1 - rules.price_ratio), rules.tick)
    if is_buy and price > highest:
        if rules.category == "spot":
            raise ApiError(170193, f"Buy order price cannot be higher than {highest:f}.")
        return highest
    if not is_buy and price < lowest:
        if rules.category == "spot":
            raise ApiError(170194, f"Sell order price cannot be lower than {lowest:f}.")
        return lowest
    return price


def _check_sizes(
    rules: InstrumentRules, qty: Decimal, price: Decimal, *, in_quote: bool, market: bool
) -> None:
    value = qty if in_quote else times(qty, price)
    most = rules.most_market_qty if market else rules.most_limit_qty
    too_much = not in_quote and qty > most
    if rules.category == "spot":
        if not in_quote and qty < rules.least_qty:
            raise ApiError(170136, "Order quantity lower than the minimum.")
        if value < rules.least_value:
            raise ApiError(170140, "Order value exceeded lower limit.")
        if too_much:
            # Not confirmed which of several codes it is.
            raise ApiError(170341, "Request order quantity exceeds maximum limit")
        return
    if qty < rules.least_qty:
        raise ApiError(10001, "The number of contracts exceeds minimum limit allowed")
    if value < rules.least_value:
        raise ApiError(110094, f"Order does not meet minimum order value {rules.least_value}{rules.quote}")
    if too_much:
        raise ApiError(10001, "The number of contracts exceeds maximum limit allowed")


def _time_in_force(given: object) -> str:
    if given is None or given == "":
        return "GTC"
    if given not in TIMES_IN_FORCE:
        # Not confirmed.
        raise ApiError(10001, "TimeInForce invalid")
    return str(given)


def _position_idx(given: object) -> int:
    if given is None:
        return 0
    if not isinstance(given, int) or given not in {0, 1, 2}:
        raise ApiError(10001, "position idx not match position mode")
    return given
