"""pybit as the client of the local exchange's private side: REST and the private WebSocket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from pybit import unified_trading
from pybit.exceptions import InvalidRequestError

from local_exchange.private.settings import PrivateSettings
from local_exchange.process import ExchangeProcess

PATIENCE = 10.0
KEY, SECRET = PrivateSettings.api_key, PrivateSettings.api_secret
# pybit would sleep and send again by itself; an empty set would mean its own defaults.
NO_RETRY_CODES = {999_999}
Message = dict[str, Any]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.005)


def session(exchange: ExchangeProcess, **options: Any) -> unified_trading.HTTP:
    """Return pybit's REST client of the exchange's account."""
    settings = {"api_key": KEY, "api_secret": SECRET, "retry_codes": NO_RETRY_CODES, "timeout": 5, **options}
    client = unified_trading.HTTP(**settings)
    client.endpoint = exchange.rest_url
    return client


class PrivateStream:
    """pybit's private WebSocket in raw mode, and everything that it handed over."""

    def __init__(self, exchange: ExchangeProcess, topics: tuple[str, ...], **options: Any) -> None:
        self.messages: list[Message] = []
        kept, unified_trading.PRIVATE_WSS = unified_trading.PRIVATE_WSS, exchange.private_url
        try:
            self.stream = unified_trading.WebSocket(
                "private",
                testnet=False,
                api_key=options.pop("api_key", KEY),
                api_secret=options.pop("api_secret", SECRET),
                callback_function=self.messages.append,
                **options,
            )
        finally:
            unified_trading.PRIVATE_WSS = kept
        for topic in topics:
            self.stream.subscribe(topic, None, symbol="")

    @property
    def replies(self) -> list[Message]:
        return [message for message in list(self.messages) if "topic" not in message]

    def pushes(self, topic: str | None = None) -> list[Message]:
        messages = [message for message in list(self.messages) if "topic" in message]
        return [message for message in messages if topic in {None, message["topic"]}]

    def rows(self, topic: str) -> list[Message]:
        return [row for push in self.pushes(topic) for row in push["data"]]


@contextmanager
def private_stream(
    exchange: ExchangeProcess,
    topics: tuple[str, ...] = ("order", "execution", "position", "wallet"),
    **options: Any,
) -> Iterator[PrivateStream]:
    """Connect, wait for the acknowledgements, and close at the end."""
    stream = PrivateStream(exchange, topics, **options)
    try:
        until(lambda: len(stream.replies) == 1 + len(topics), "the acknowledgements")
        yield stream
    finally:
        stream.stream.exit()


class Trader:
    """Places orders and waits for what becomes of them, as the exchange itself tells it."""

    def __init__(self, exchange: ExchangeProcess, **options: Any) -> None:
        self.exchange = exchange
        self.http = session(exchange, **options)

    def place(self, **order: Any) -> str:
        """Place an order (linear BTCPERP, bought at the market, unless told otherwise); return its id."""
        order = {"category": "linear", "symbol": "BTCPERP", "side": "Buy", "orderType": "Market", **order}
        result = self.http.place_order(**order)["result"]
        assert result["orderLinkId"] == order.get("orderLinkId", "")
        identifier: str = result["orderId"]
        return identifier

    def refusal(self, **order: Any) -> tuple[int, str]:
        """Place an order in vain, and return code and text."""
        try:
            self.place(**order)
        except InvalidRequestError as error:
            return int(error.status_code), error.message
        raise AssertionError("the order was taken")

    def row(self, category: str, order_id: str) -> Message:
        """Return the row of an order, once it is closed."""
        found: list[Message] = []

        def closed() -> bool:
            symbol = "BTCPERP" if category == "linear" else "BTCUSDT"
            query = {"category": category, "symbol": symbol, "orderId": order_id}
            found[:] = self.http.get_open_orders(**query)["result"]["list"]
            return bool(found) and found[0]["orderStatus"] not in {"New", "PartiallyFilled"}

        until(closed, f"order {order_id} closed")
        return found[0]

    def trade(self, **order: Any) -> Message:
        """Place an order, and return its row once it is closed."""
        return self.row(order.get("category", "linear"), self.place(**order))

    def balance(self, coin: str) -> Decimal:
        """Return what the exchange's own account holds of a coin."""
        return Decimal(self.exchange.get("/account")["wallets"][coin]["balance"])

    def position(self, symbol: str = "BTCPERP") -> Decimal:
        """Return the signed size of a position in the exchange's own account."""
        sizes = [
            Decimal(one["size"])
            for one in self.exchange.get("/account")["positions"]
            if one["symbol"] == symbol
        ]
        return sum(sizes, Decimal(0))

    def flatten(self) -> None:
        """Wait until every order is matched, and close the position."""
        counters = self.exchange.get
        until(lambda: counters("/counters")["private"]["orders_waiting"] == 0, "every order matched")
        size = self.position()
        if size:
            self.trade(side="Sell" if size > 0 else "Buy", qty=str(abs(size)))

    def set_book(self, category: str, bids: list[list[str]], asks: list[list[str]]) -> None:
        """Set the book of the pair's leg."""
        symbol = "BTCPERP" if category == "linear" else "BTCUSDT"
        self.exchange.post("/book", channel=category, symbol=symbol, b=bids, a=asks)
