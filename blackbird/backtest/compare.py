"""A backtest's orders against those of the live run that its market was stored from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from blackbird.backtest.sheets import Line, Sheet
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook, Side
from blackbird.trading.orders import Order, Reply
from database_manager import Cursor, DatabaseManager

SHOWN_LEVELS = 5
# An execution is stored with the time of its answer, which comes behind the message that caused it.
_ANSWER_MS = 60_000


class Executed(NamedTuple):
    """An execution; `spread` counts the spreads of its instruments in the order of their first execution."""

    action: str
    buy: Instrument
    buy_price: Decimal
    sell: Instrument
    sell_price: Decimal
    size: Decimal
    spread: int

    def __str__(self) -> str:
        return (
            f"{self.action} {self.size}: buy {self.buy} at {self.buy_price}, sell {self.sell} at"
            f" {self.sell_price}, spread {self.spread}"
        )


class StoredOrders(NamedTuple):
    """What a live run stored: executions in their order, with their spread ids, and refusals by reason."""

    executions: list[tuple[Order, str]]
    refusals: Counter[str]


@dataclass(frozen=True)
class Difference:
    """The first execution that is not the live one, and both books when the backtest came to it."""

    number: int
    live: Executed | None
    backtest: Executed | None
    books: list[Sheet] = field(default_factory=list)


class _Sequence:
    """Executions of instruments that are traded with each other, and how far they were found again."""

    def __init__(self) -> None:
        self.live: list[Executed] = []
        self.found = 0
        self.spreads: dict[str, int] = {}


class Comparison:
    """Compares order by order while the backtest runs; groups do not wait for each other, so each by itself.

    `difference` is the first one that was found.
    """

    def __init__(self, stored: StoredOrders) -> None:
        self.executions = len(stored.executions)
        self.difference: Difference | None = None
        self.refusals: Counter[str] = Counter()
        self._stored_refusals = stored.refusals
        self._sequences = _sequences(stored.executions)

    def on_order(self, order: Order, reply: Reply, books: Mapping[Instrument, OrderBook]) -> None:
        """Take the backtest's next order with its answer, and the books that it was made on."""
        if not reply.acked:
            self.refusals[reply.info] += 1
            return
        if self.difference is not None:
            return
        sequence = self._sequences.get(order.buy) or _Sequence()
        found = _executed(order, order.spread_id or "", sequence.spreads)
        live = sequence.live[sequence.found] if sequence.found < len(sequence.live) else None
        if found != live:
            sheets = [_sheet(leg, books[leg]) for leg in (order.buy, order.sell)]
            self.difference = Difference(sequence.found + 1, live, found, sheets)
        sequence.found += 1

    def finish(self) -> list[str]:
        """Return what differs, in lines; none where the orders are the same."""
        if self.difference is None:
            for sequence in self._sequences.values():
                if sequence.found < len(sequence.live):
                    self.difference = Difference(sequence.found + 1, sequence.live[sequence.found], None)
                    break
        lines = []
        if self.difference is not None:
            lines += [
                f"execution {self.difference.number} of its instruments differs",
                f"live:     {self.difference.live or 'none'}",
                f"backtest: {self.difference.backtest or 'none'}",
            ]
        lines += [
            f"refused with {reason!r}: {self._stored_refusals[reason]} live, {self.refusals[reason]} here"
            for reason in sorted(self._stored_refusals | self.refusals)
            if self._stored_refusals[reason] != self.refusals[reason]
        ]
        return lines


def read_orders(database: DatabaseManager, begin_ms: int, end_ms: int) -> StoredOrders:
    """Return what was executed and refused on messages published in a time range.

    Raises DatabaseUnavailable.
    """

    def read(cursor: Cursor) -> StoredOrders:
        span = (begin_ms, end_ms + _ANSWER_MS)
        cursor.execute(
            "SELECT action, buy_channel, buy_symbol, buy_price, sell_channel, sell_symbol, sell_price, size,"
            " coalesce(spread_id, '') FROM bybit.execution"
            " WHERE placed_at BETWEEN %s AND %s AND action IN ('Open Spread', 'Close Spread')"
            " ORDER BY execution_id",
            span,
        )
        executions = [
            (
                Order(row[0], Instrument(*row[1:3]), row[3], Instrument(*row[4:6]), row[6], row[7], 0, 0),
                row[8],
            )
            for row in cursor.fetchall()
        ]
        cursor.execute(
            "SELECT info, count(*) FROM bybit.refused_order WHERE answered_at BETWEEN %s AND %s GROUP BY 1",
            span,
        )
        return StoredOrders(executions, Counter(dict(cursor.fetchall())))

    return database.transaction(read)


def _sequences(executions: Iterable[tuple[Order, str]]) -> dict[Instrument, _Sequence]:
    """Return the executions of each set of instruments that are traded with each other."""
    executions = list(executions)
    leader: dict[Instrument, Instrument] = {}

    def find(instrument: Instrument) -> Instrument:
        while leader.setdefault(instrument, instrument) != instrument:
            instrument = leader[instrument]
        return instrument

    for order, _ in executions:
        leader[find(order.buy)] = find(order.sell)
    sequences: dict[Instrument, _Sequence] = {}
    by_instrument = {
        instrument: sequences.setdefault(find(instrument), _Sequence()) for instrument in list(leader)
    }
    for order, spread_id in executions:
        sequence = by_instrument[order.buy]
        sequence.live.append(_executed(order, spread_id, sequence.spreads))
    for sequence in sequences.values():
        sequence.spreads = {}
    return by_instrument


def _executed(order: Order, spread_id: str, spreads: dict[str, int]) -> Executed:
    number = spreads.setdefault(spread_id, len(spreads) + 1)
    return Executed(
        order.action, order.buy, order.buy_price, order.sell, order.sell_price, order.size, number
    )


def _sheet(instrument: Instrument, book: OrderBook) -> Sheet:
    bids = _best(book.bids, highest=True)
    asks = _best(book.asks, highest=False)
    lines: list[Line] = [(*bid, *ask) for bid, ask in zip(bids, asks, strict=True)]
    return Sheet(f"{instrument}, update {book.update_id}", lines, ("left", "bid", "ask", "left"))


def _best(side: Side, *, highest: bool) -> Sequence[tuple[str, str]]:
    levels = sorted(side.available().items(), reverse=highest)[:SHOWN_LEVELS]
    texts = [(f"{size}", f"{price}") if highest else (f"{price}", f"{size}") for price, size in levels]
    return texts + [("", "")] * (SHOWN_LEVELS - len(texts))
