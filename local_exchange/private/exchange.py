"""The private side of the local exchange, put together."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from local_exchange.fault_rules import FaultRules
from local_exchange.http_server import HttpServer
from local_exchange.private.accounts import Account
from local_exchange.private.api import CREATE, ApiError, ExchangeClock
from local_exchange.private.desk import OrderDesk
from local_exchange.private.faults import PrivateFaults
from local_exchange.private.lookups import Lookups
from local_exchange.private.market_data import MarketData
from local_exchange.private.matcher import Matcher
from local_exchange.private.order_store import OrderStore
from local_exchange.private.prices import Prices
from local_exchange.private.pushes import Pushes
from local_exchange.private.rate_limits import RateLimits
from local_exchange.private.rest import Endpoint, RestApi
from local_exchange.private.rules import RuleBook
from local_exchange.private.signatures import Signatures
from local_exchange.private.stream import CHANNEL, PrivateStream

if TYPE_CHECKING:
    from starlette.datastructures import Address

    from local_exchange.client_socket import Socket
    from local_exchange.faults import Faults
    from local_exchange.private.settings import PrivateSettings
    from local_exchange.source import Source

HOST = "127.0.0.1"


class PrivateExchange:
    """One account on the market of a source, with REST on a port of its own.

    Args:
        source: the market, the same that is pushed.
        settings: the account, and how it is treated.
        port: of REST, 0 takes a free one.
        sockets: returns all open sockets of the exchange.
        answer_delay: seconds from a request of the private stream to its answer.
        public_faults: the switches of connections.
        background: runs something beside the rest.
    """

    def __init__(
        self,
        source: Source,
        settings: PrivateSettings,
        *,
        port: int,
        sockets: Callable[[], list[Socket]],
        answer_delay: float,
        public_faults: Faults,
        background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.source = source
        self.port = port
        self.public_faults = public_faults
        self.background = background
        self.clock = ExchangeClock()
        self.fault_rules = FaultRules(settings.seed)
        self.rule_book = RuleBook(source)
        self.prices = Prices(source)
        self.account = Account(settings, self.prices)
        self.store = OrderStore()
        self.signatures = Signatures(settings.api_key, settings.api_secret, self.clock)
        self.limits = RateLimits(
            settings.orders_per_second, settings.lookups_per_second, settings.ip_requests, self.clock
        )
        rng = random.Random(settings.seed)  # noqa: S311 - delays, not secrets
        self.pushes = Pushes(self.account, self.clock, rng)
        self.stream = PrivateStream(
            self.signatures,
            self.clock,
            self.fault_rules,
            settings,
            lambda: [one for one in sockets() if one.channel == CHANNEL],
            answer_delay,
            rng,
        )
        self.matcher = Matcher(source, self.account, self.store, self.clock, self.pushes, self.stream.publish)
        self.desk = OrderDesk(
            self.rule_book,
            self.account,
            self.store,
            self.clock,
            self.fault_rules,
            self.pushes,
            self.matcher,
            rng,
            self.stream.publish,
        )
        self.faults = PrivateFaults(self)
        self.http = HttpServer(self._api(settings.api_key).app())

    def _api(self, api_key: str) -> RestApi:
        lookups = Lookups(self.account, self.store, self.rule_book, self.clock, api_key)
        market = MarketData(self.rule_book, self.prices, self.clock)
        endpoints = [
            Endpoint("GET", "/v5/market/time", market.time),
            Endpoint("GET", "/v5/market/instruments-info", market.instruments),
            Endpoint("GET", "/v5/market/tickers", market.tickers),
            Endpoint("GET", "/v5/market/orderbook", market.orderbook),
            Endpoint("POST", CREATE, self._create, "create"),
            Endpoint("POST", "/v5/order/cancel", self._cancel, "cancel"),
            Endpoint("GET", "/v5/order/realtime", lookups.realtime, "realtime"),
            Endpoint("GET", "/v5/order/history", lookups.history, "history"),
            Endpoint("GET", "/v5/execution/list", lookups.executions, "executions"),
            Endpoint("GET", "/v5/position/list", lookups.positions, "positions"),
            Endpoint("GET", "/v5/account/wallet-balance", lookups.wallet, "wallet"),
            Endpoint("GET", "/v5/account/info", lookups.account_info, "account"),
            Endpoint("GET", "/v5/account/fee-rate", _not_on_demo, "fee-rate"),
            Endpoint("GET", "/v5/user/query-api", lookups.api_key, "api-key"),
        ]
        return RestApi(
            endpoints,
            signatures=self.signatures,
            limits=self.limits,
            store=self.store,
            faults=self.fault_rules,
            clock=self.clock,
            cut=self._cut,
        )

    def _cut(self, client: Address | None) -> None:
        self.http.cut(client)

    def _create(self, given: dict[str, Any]) -> dict[str, Any]:
        order = self.desk.create(given)
        return {"orderId": order.order_id, "orderLinkId": order.link_id}

    def _cancel(self, given: dict[str, Any]) -> dict[str, Any]:
        ids = str(given.get("orderId", "")), str(given.get("orderLinkId", ""))
        self.rule_book.of(str(given.get("category", "")), str(given.get("symbol", "")))
        order = self.desk.cancel(str(given["category"]), *ids)
        return {"orderId": order.order_id, "orderLinkId": order.link_id}

    def counters(self) -> dict[str, Any]:
        """Return what came and went, for the control interface."""
        return {
            **self.store.counters(),
            "bad_signatures": self.signatures.refused,
            "orders_waiting": self.desk.waiting,
            "pushes": self.stream.sent,
            "limits": self.limits.describe(),
        }

    async def listen(self) -> None:
        """Accept REST requests."""
        self.port = await self.http.start(HOST, self.port)

    async def stop(self) -> None:
        """Match, push and answer nothing more."""
        self.desk.stop()
        self.stream.stop()
        self.fault_rules.end_all()
        await self.http.stop()


def _not_on_demo(_given: dict[str, Any]) -> dict[str, Any]:
    """Refuse what demo trading has not (https://bybit-exchange.github.io/docs/v5/demo)."""
    raise ApiError(10001, "Demo trading are not supported.")
