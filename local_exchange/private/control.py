"""What the control interface tells of the private side: the truth of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from local_exchange.control_routes import json_route
from local_exchange.private.decimals import plain

if TYPE_CHECKING:
    from local_exchange.private.exchange import PrivateExchange

Given = dict[str, Any]


def account_routes(exchange: PrivateExchange) -> list[Route]:
    """Return the routes about the account of an exchange; amounts are exact, as text."""

    def account(_given: Given) -> Given:
        locked = exchange.store.locked()
        wallets = {
            coin: {
                "balance": plain(wallet.balance),
                "spot_borrow": plain(wallet.spot_borrow),
                "locked": plain(locked[coin]) if coin in locked else "0",
            }
            for coin, wallet in exchange.account.wallets.items()
        }
        positions = [
            {"symbol": one.symbol, "idx": one.idx, "size": plain(one.size), "cost": plain(one.cost)}
            for one in exchange.account.positions.values()
        ]
        open_orders = [order.row() for order in exchange.store.open_orders.values()]
        return {"wallets": wallets, "positions": positions, "open_orders": open_orders}

    def orders(given: Given) -> list[Given]:
        return [one.describe() for one in exchange.store.received[int(given.get("after", 0)) :]]

    def fills(given: Given) -> list[Given]:
        return exchange.store.fills()[int(given.get("after", 0)) :]

    return [
        json_route("GET", "/account", account),
        json_route("GET", "/orders", orders),
        json_route("GET", "/fills", fills),
    ]
