"""Market data over REST, from the very books that are pushed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from local_exchange.private.api import ApiError
from local_exchange.private.rules import STATUSES

if TYPE_CHECKING:
    from local_exchange.private.api import ExchangeClock
    from local_exchange.private.prices import Prices
    from local_exchange.private.rules import RuleBook

Given = dict[str, str]


class MarketData:
    """Answers what is asked about the market; nothing of it is signed."""

    def __init__(self, rule_book: RuleBook, prices: Prices, clock: ExchangeClock) -> None:
        self._rule_book = rule_book
        self._prices = prices
        self._clock = clock

    def time(self, _given: Given) -> dict[str, Any]:
        """Return the time (https://bybit-exchange.github.io/docs/v5/market/time)."""
        ns = self._clock.ns()
        return {"timeSecond": str(ns // 1_000_000_000), "timeNano": str(ns)}

    def instruments(self, given: Given) -> dict[str, Any]:
        """Return the rules of instruments (https://bybit-exchange.github.io/docs/v5/market/instrument).

        Those that trade, or those of the `status` asked for.
        """
        category, status = given.get("category", ""), given.get("status", "Trading")
        symbol = given.get("symbol")
        if status not in STATUSES:
            raise ApiError(10001, "params error: status invalid")
        if symbol:
            self._rule_book.of(category, symbol)
        rows = [
            rules.row()
            for rules in self._rule_book.listed(category)
            if rules.status == status and symbol in {None, "", rules.symbol}
        ]
        return {"category": category, "list": rows, "nextPageCursor": ""}

    def tickers(self, given: Given) -> dict[str, Any]:
        """Return best prices and sizes (https://bybit-exchange.github.io/docs/v5/market/tickers)."""
        category, symbol = given.get("category", ""), given.get("symbol")
        listed = [self._rule_book.of(category, symbol)] if symbol else self._rule_book.listed(category)
        return {"category": category, "list": [self._prices.ticker(rules) for rules in listed]}

    def orderbook(self, given: Given) -> dict[str, Any]:
        """Return a book (https://bybit-exchange.github.io/docs/v5/market/orderbook)."""
        category = given.get("category", "")
        rules = self._rule_book.of(category, given.get("symbol", ""))
        limit = given.get("limit", "1" if category == "spot" else "25")
        if not limit.isdecimal() or not 1 <= int(limit) <= 1000:
            raise ApiError(10001, "params error: limit invalid")
        return self._prices.orderbook(rules, int(limit), self._clock.ms())
