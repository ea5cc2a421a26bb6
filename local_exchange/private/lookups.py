"""The look-ups of REST: what they find, and in which pages.

https://bybit-exchange.github.io/docs/v5/order/open-order, .../order/order-list, .../order/execution,
.../position, .../account/wallet-balance. What is not found is an empty list, not an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local_exchange.private.account_rows import account_row, position_row, wallet_row
from local_exchange.private.api import UID, ApiError
from local_exchange.private.orders import Order, execution_row
from local_exchange.private.rules import CATEGORIES

if TYPE_CHECKING:
    from local_exchange.private.accounts import Account
    from local_exchange.private.api import ExchangeClock
    from local_exchange.private.order_store import OrderStore
    from local_exchange.private.rules import RuleBook

Given = dict[str, str]


class Lookups:
    """Answers what is asked about the account; `given` are the parameters of the query."""

    def __init__(
        self, account: Account, store: OrderStore, rule_book: RuleBook, clock: ExchangeClock, api_key: str
    ) -> None:
        self._account = account
        self._store = store
        self._rule_book = rule_book
        self._clock = clock
        self._api_key = api_key

    def realtime(self, given: Given) -> dict[str, Any]:
        """Return open and recently closed orders; by id, or all open ones."""
        category = _category(given)
        order_id, link_id = given.get("orderId", ""), given.get("orderLinkId", "")
        if order_id or link_id:
            order = self._store.find(category, order_id, link_id)
            recent = order is not None and (order.is_open or order in self._store.realtime(category))
            found: Iterable[Order] = [order] if order is not None and recent else []
        else:
            if category == "linear" and not (
                given.get("symbol") or given.get("baseCoin") or given.get("settleCoin")
            ):
                raise ApiError(10001, "params error: symbol, baseCoin or settleCoin is required")
            only_open = given.get("openOnly", "0") == "0"
            found = (one for one in self._store.realtime(category) if one.is_open or not only_open)
        return self._orders(found, given, most=50)

    def history(self, given: Given) -> dict[str, Any]:
        """Return closed orders."""
        category = _category(given)
        order_id, link_id = given.get("orderId", ""), given.get("orderLinkId", "")
        if order_id or link_id:
            order = self._store.find(category, order_id, link_id)
            found: Iterable[Order] = [order] if order is not None and not order.is_open else []
        else:
            found = self._store.closed(category)
        return self._orders(found, given, most=50)

    def _orders(self, found: Iterable[Order], given: Given, most: int) -> dict[str, Any]:
        now, symbol = self._clock.ns(), given.get("symbol")
        coin = given.get("settleCoin")
        rows = (
            one.row()
            for one in found
            if one.visible_ns <= now
            and symbol in {None, "", one.rules.symbol}
            and coin in {None, "", one.rules.quote}
        )
        return {**_page(list(rows), given, usual=20, most=most), "category": given["category"]}

    def executions(self, given: Given) -> dict[str, Any]:
        """Return executions, newest first."""
        category = _category(given)
        now = self._clock.ns()
        start, end = int(given.get("startTime", 0)), int(given.get("endTime", 2**62))
        rows = []
        for trade in reversed(self._store.trades):
            order, execution = trade.order, trade.execution
            wanted = (
                order.category == category
                and order.visible_ns <= now
                and given.get("orderId", order.order_id) == order.order_id
                and given.get("orderLinkId", order.link_id) == order.link_id
                and given.get("symbol", order.rules.symbol) == order.rules.symbol
                and given.get("execType", execution.kind) == execution.kind
                and start <= execution.time_ms <= end
            )
            if wanted:
                rows.append(execution_row(order, execution))
        return {**_page(rows, given, usual=50, most=100), "category": category}

    def positions(self, given: Given) -> dict[str, Any]:
        """Return positions: of a symbol also where flat, of a settle coin only those that are not."""
        if _category(given) != "linear":
            raise ApiError(10001, "params error: category invalid")
        account, symbol, coin = self._account, given.get("symbol"), given.get("settleCoin")
        if symbol:
            rules = self._rule_book.of("linear", symbol)
            found = [account.position(symbol, idx) for idx in ((1, 2) if account.is_hedged(rules) else (0,))]
        elif coin:
            found = [
                one
                for one in account.positions.values()
                if one.size and self._rule_book.of("linear", one.symbol).quote == coin
            ]
        else:
            raise ApiError(10001, "params error: symbol or settleCoin is required")
        rows = [position_row(account, one) for one in found]
        return {"list": rows, "nextPageCursor": "", "category": "linear"}

    def wallet(self, given: Given) -> dict[str, Any]:
        """Return wallets: the coins asked for, or those that hold something."""
        if given.get("accountType") != "UNIFIED":
            raise ApiError(10001, "accountType only support UNIFIED.")
        account, locked = self._account, self._store.locked()
        coins = [coin for coin in given.get("coin", "").split(",") if coin]
        coins = coins or [coin for coin, wallet in account.wallets.items() if wallet.balance]
        rows = [wallet_row(account, coin, locked.get(coin, Decimal(0))) for coin in coins]
        return {"list": [account_row(account, rows)]}

    def account_info(self, _given: Given) -> dict[str, Any]:
        """Return how the account is set (https://bybit-exchange.github.io/docs/v5/account/account-info)."""
        return {
            "marginMode": "ISOLATED_MARGIN" if self._account.isolated else "REGULAR_MARGIN",
            "updatedTime": "1697078946000",
            "unifiedMarginStatus": 4,
            "dcpStatus": "OFF",
            "timeWindow": 10,
            "smpGroup": 0,
            "isMasterTrader": False,
            "spotHedgingStatus": "OFF",
        }

    def api_key(self, _given: Given) -> dict[str, Any]:
        """Return what the key may do (https://bybit-exchange.github.io/docs/v5/user/apikey-info)."""
        return {
            "id": "100001",
            "note": "local",
            "apiKey": self._api_key,
            "readOnly": 0,
            "secret": "",
            "permissions": {
                "ContractTrade": ["Order", "Position"],
                "Spot": ["SpotTrade"],
                "Wallet": ["AccountTransfer"],
                "Derivatives": ["DerivativesTrade"],
            },
            "ips": ["127.0.0.1"],
            "type": 1,
            "deadlineDay": -2,
            "expiredAt": "1970-01-01T00:00:00Z",
            "createdAt": "2025-10-13T03:20:45Z",
            "unified": 0,
            "uta": 1,
            "userID": UID,
            "inviterID": 0,
            "vipLevel": "No VIP",
        }


def _category(given: Given) -> str:
    category = given.get("category", "")
    if category not in CATEGORIES:
        raise ApiError(10001, "params error: category invalid")
    return category


def _page(rows: list[dict[str, Any]], given: Given, *, usual: int, most: int) -> dict[str, Any]:
    """Return a page of rows; its cursor may be set although nothing follows, as on the exchange."""
    limit, start = given.get("limit", str(usual)), given.get("cursor", "0")
    if not limit.isdecimal() or not 1 <= int(limit) <= most or not start.isdecimal():
        raise ApiError(10001, "params error: limit or cursor invalid")
    first = int(start)
    page = rows[first : first + int(limit)]
    return {"list": page, "nextPageCursor": str(first + len(page)) if page else ""}
