"""The trading engine's history as a list, with everything that a database can do to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from decimal import Decimal

from blackbird.engine.execution_store import Fenced, Recovering
from blackbird.engine.lease import Holder, LeaseHeld, MayClaim, from_anybody
from blackbird.engine.lookups import StoredTrade
from blackbird.trading.books import Books
from blackbird.trading.engine import TradingEngine
from blackbird.trading.orders import Order
from blackbird.trading.records import Booking, Execution, Record, Refusal
from blackbird.trading.spreads import Pair
from tests.support.market import PERP, SPOT

_numbers = itertools.count(1)


class FakeHistory:
    """Keeps records in order. Each call raises the first of `errors`, as long as there are some."""

    def __init__(self, identifier: str = "history") -> None:
        self.identifier = identifier
        self.records: list[Record] = []
        self.errors: list[Exception] = []
        self.added: list[int] = []  # how many records each call brought
        self.steps: list[str] = []
        self.deadlines: list[int | None] = []
        self.owned = False
        self.holder = Holder(identifier, None, None, None, 0)
        self.checkpoint: Books | None = None
        self.checkpoint_agrees = True
        self.books_at_end: Books | None = None
        self.pairs: dict[str, Pair] = {}  # by trade
        self.looked_up: list[tuple[list[str], list[Order]]] = []

    def claim(self, journal: str = "", may_claim: MayClaim = from_anybody) -> str:
        self._step("claim")
        if not may_claim(self.holder, journal):
            raise LeaseHeld("another engine")
        self.owned = True
        return self.identifier

    def enter_mode(self) -> None:
        self._step("enter mode")

    def is_owned(self) -> bool:
        self._step("is owned")
        return self.owned

    def add(self, records: Sequence[Record], deadline_ms: int | None = None) -> None:
        self._step("add")
        self.deadlines.append(deadline_ms)
        if not self.owned:
            raise Fenced("another engine")
        self.added.append(len(records))
        self.records += [record for record in records if record not in self.records]

    def replay(self, engine: Recovering) -> Books | None:
        self._step("replay")
        books = self.checkpoint
        if books is not None:
            engine.restore(books)
        engine.recover([each for each in self.records if not books or each.execution_id > books.execution_id])
        return books

    def agrees(self, books: Books) -> bool:
        self._step("agrees")
        assert books == self.checkpoint
        return self.checkpoint_agrees

    def find(self, keys: Sequence[str], copies: Sequence[Order]) -> list[Execution | Refusal]:
        self._step("find")
        self.looked_up.append((list(keys), list(copies)))
        return [each for each in self.records if isinstance(each, Execution) and each.order.order_id in keys]

    def find_trade(self, link_id: str) -> StoredTrade:
        self._step("find trade")
        of_trade, _, _ = link_id.rpartition("-")
        fills = {
            fill.exec_id: record.trade_id
            for record in self.records
            if isinstance(record, Booking)
            for fill in record.fills
            if fill.link_id.startswith(f"{of_trade}-")
        }
        trade_id = next(iter(fills.values()), of_trade.rpartition("-")[2])
        return StoredTrade(trade_id, self.pairs.get(trade_id), frozenset(fills))

    def save_checkpoint(self, books: Books) -> None:
        self._step("save checkpoint")
        if not self.owned:
            raise Fenced("another engine")
        assert books.execution_id <= max(each.execution_id for each in self.records)
        self.checkpoint = books

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if self.errors:
            raise self.errors.pop(0)


def new_engine() -> TradingEngine:
    return TradingEngine(limit=Decimal(1_000_000), unique_order=True, clock=lambda: 1000)


def new_order(size: int = 1) -> Order:
    """Return an Open with an id of its own, which earns 2 for each of `size`."""
    return Order(
        action="Open Spread",
        buy=PERP,
        buy_price=Decimal(99),
        sell=SPOT,
        sell_price=Decimal(101),
        size=Decimal(size),
        ts_buy=1,
        ts_sell=1,
        order_id=f"order {next(_numbers)}",
    )


def executions(count: int) -> list[Record]:
    """Return the records of so many orders, with ids from 1 on."""
    engine = new_engine()
    records: list[Record] = [engine.execute(new_order()) for _ in range(count)]
    assert all(isinstance(record, Execution) for record in records)
    return records
