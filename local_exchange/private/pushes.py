"""Messages of the private stream, and the forms in which one match may be told.

https://bybit-exchange.github.io/docs/v5/websocket/private/order, .../execution, .../position, .../wallet.
No order of the topics is documented, executions of one match come as one message or as several, and an order
that is filled at once was seen without a message before: all of it is drawn anew for each order.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local_exchange.private.account_rows import account_row, position_push, wallet_row
from local_exchange.private.api import UID, ExchangeClock
from local_exchange.private.orders import Execution, Order, execution_row, fast_row

if TYPE_CHECKING:
    from local_exchange.private.accounts import Account, Position


@dataclass(frozen=True)
class Push:
    """A message of a topic; `category` is that of its rows, "" where they have none."""

    topic: str
    category: str
    message: dict[str, Any]

    def as_topic(self, topic: str) -> dict[str, Any]:
        """Return the message under the name by which a client has subscribed it."""
        return {**self.message, "topic": topic}


class Pushes:
    """Makes the messages about orders and the account."""

    def __init__(self, account: Account, clock: ExchangeClock, rng: random.Random) -> None:
        self._account = account
        self._clock = clock
        self._rng = rng

    def order(self, order: Order, seq: int) -> Push:
        """Return an `order` message about the order as it is now."""
        row = order.push()
        if order.category == "spot" and self._rng.random() < 0.5:
            # A text in some rows, a number in others.
            row["smpGroup"] = str(row["smpGroup"])
        return self._push("order", order.category, self._match_id(order, seq), [row])

    def executions(self, order: Order, executions: list[Execution]) -> list[Push]:
        """Return the `execution` messages of one match: one with all rows, or one for each row."""
        rows = [{"category": order.category, **execution_row(order, one)} for one in executions]
        groups = [rows] if self._rng.random() < 0.5 else [[row] for row in rows]
        return [
            self._push("execution", order.category, self._match_id(order, group[0]["seq"]), group)
            for group in groups
            if group
        ]

    def fast(self, order: Order, executions: list[Execution]) -> list[Push]:
        """Return the `execution.fast` messages of one match."""
        return [
            self._push("execution.fast", order.category, None, [fast_row(order, one)]) for one in executions
        ]

    def position(self, position: Position) -> Push:
        """Return a `position` message."""
        name = f"{UID}_position_{self._clock.ms()}"
        return self._push("position", "linear", name, [position_push(self._account, position)])

    def wallet(self, coins: list[str], locked: dict[str, Decimal]) -> Push:
        """Return a `wallet` message with these coins."""
        rows = [wallet_row(self._account, coin, locked.get(coin, Decimal(0))) for coin in coins]
        name = f"{UID}_wallet_{self._clock.ms()}"
        return self._push("wallet", "", name, [account_row(self._account, rows)])

    def _match_id(self, order: Order, seq: int) -> str:
        """Return the id of a match: the symbol on linear, a number in its place on spot."""
        name = order.rules.symbol if order.category == "linear" else "22004"
        return f"{UID}_{name}_{seq}"

    def _push(self, topic: str, category: str, name: str | None, rows: list[dict[str, Any]]) -> Push:
        message = {"topic": topic, **({} if name is None else {"id": name})}
        return Push(topic, category, {**message, "creationTime": self._clock.ms(), "data": rows})
