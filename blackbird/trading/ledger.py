"""The trading engine's books: what executions, refusals and leftovers add up to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from decimal import Decimal

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.books import Books, LegBooks, SpreadBooks
from blackbird.trading.known_orders import Answer, KnownOrders, Mark
from blackbird.trading.leftovers import Leftovers
from blackbird.trading.orders import ACK, NOT_ACK, OPEN_SPREAD, ORDER_PLACED, Order, Reply
from blackbird.trading.records import Booking, Execution, Leftover, Refusal, Resolved, Stored, Unwind
from blackbird.trading.spreads import OpenSpreads, Spread, pair_of
from blackbird.trading.totals import Totals


class Ledger:
    """Exposure, PnL, known orders, open spreads and leftovers. With `unique_order` it knows copies too.

    `known_orders` is how many orders are remembered, see KnownOrders.
    """

    def __init__(self, *, unique_order: bool, known_orders: int | None = None) -> None:
        # Above zero long, below short: cash exposure in quote coin, position in base coin.
        self.risks: dict[Instrument, Decimal] = {}
        self.positions: dict[Instrument, Decimal] = {}
        self.pnl = ZERO
        self.orders = KnownOrders(known_orders)
        self.spreads = OpenSpreads()
        self.leftovers = Leftovers()
        self.totals = Totals()
        self.last_id = 0
        self._unique_order = unique_order

    def next_id(self) -> int:
        """Return the id of the next execution or refusal."""
        self.last_id += 1
        return self.last_id

    def first_answer(self, key: str | None) -> Reply | None:
        """Return the answer that the order or request known by `key` was given, None for an unknown key."""
        info = self.orders.get(key) if key is not None else None
        if info is None or key is None:
            return None
        return self.orders.reply(key) or reply(info)

    def recover(self, records: Iterable[Stored]) -> None:
        """Account for what was decided earlier, executions oldest first and leftovers last."""
        for record in records:
            if not isinstance(record, Leftover | Resolved):
                self.last_id = max(self.last_id, record.execution_id)
                self.orders.stored(record.execution_id)
            self.account(record)

    def books(self) -> Books:
        """Return what everything up to now adds up to, leftovers apart."""
        return Books(
            self.last_id,
            self.orders.newest_ms,
            self.pnl,
            [LegBooks(leg, self.risks[leg], self.positions[leg]) for leg in self.risks],
            [
                SpreadBooks(listed, spread.opened, spread.opened_ms)
                for listed, spread in zip(self.spreads.listed(), self.spreads, strict=True)
            ],
            self.totals.books(),
            self.totals.fees,
            self.orders.mark(self.last_id),
        )

    def restore(self, books: Books, answers: Iterable[Answer] | None = None) -> None:
        """Begin with the books of an earlier run, and with its answers after the first of the books' marks.

        Without answers none of its orders is known here.
        """
        self.last_id = books.execution_id
        self.pnl = books.pnl
        if answers is None or not books.marks:
            self.orders.restore([Mark(books.execution_id, books.newest_ms)], ())
        else:
            self.orders.restore(books.marks, answers)
        for leg in books.legs:
            self.risks[leg.instrument] = leg.exposure
            self.positions[leg.instrument] = leg.position
        self.totals.restore(books)
        for each in books.spreads:
            spread = Spread.listed_as(each.listed)
            spread.opened, spread.opened_ms = each.opened, each.opened_ms
            self.spreads.add(spread)

    def remember(self, record: Execution | Refusal) -> None:
        """Remember the answer of a record that is accounted for already."""
        if isinstance(record, Execution):
            key = record.order.order_id or record.request_key
            more = None if record.traded is None else answer_to(record)
            copy = fingerprint(record.order) if self._unique_order else None
            self.orders.add(record.execution_id, record.placed_at, key, ORDER_PLACED, more, copy)
        else:
            key = record.order_id or record.request_key
            self.orders.add(record.execution_id, record.answered_at, key, record.info)

    def account(self, record: Stored) -> None:
        """Add a record to what there is."""
        if isinstance(record, Execution):
            self._account_execution(record)
        elif isinstance(record, Refusal):
            self.remember(record)
        elif isinstance(record, Booking):
            for part in record.parts():
                self.account(part)
        elif isinstance(record, Unwind):
            self._account_unwind(record)
        elif isinstance(record, Leftover):
            self.leftovers.add(record)
        else:
            self.leftovers.resolve(record)

    def _account_execution(self, record: Execution) -> None:
        order = record.order
        executed = record.traded or order
        size, bought, sold = executed.size, record.buy_flux, record.sell_flux
        risks, positions = self.risks, self.positions
        risks[order.buy] = EXACT.subtract(risks.get(order.buy, ZERO), bought)
        risks[order.sell] = EXACT.subtract(risks.get(order.sell, ZERO), sold)
        positions[order.buy] = EXACT.add(positions.get(order.buy, ZERO), size)
        positions[order.sell] = EXACT.subtract(positions.get(order.sell, ZERO), size)
        cash = EXACT.add(bought, sold)
        self.pnl = EXACT.add(self.pnl, cash)
        self.totals.add(record, bought, sold, cash)
        if order.action == OPEN_SPREAD:
            self.spreads.add(Spread.opened_by(order, executed, record.placed_at))
        else:
            self._reduce_spreads(record, size)
        self.remember(record)

    def _account_unwind(self, record: Unwind) -> None:
        unwound = record.unwound
        leg, flux = unwound.instrument, EXACT.add(unwound.bought.flux, unwound.sold.flux)
        self.risks[leg] = EXACT.subtract(self.risks.get(leg, ZERO), flux)
        self.positions.setdefault(leg, ZERO)
        self.pnl = EXACT.add(self.pnl, flux)

    def _reduce_spreads(self, record: Execution, left: Decimal) -> None:
        order = record.order
        if order.spread_id is not None:
            spread = self.spreads.get(order.spread_id)
            if spread is not None:
                self.spreads.reduce(spread, left)
            return
        for spread in self.spreads.of_pairs([pair_of(order)]):
            size = min(left, spread.quantity)
            self.spreads.reduce(spread, size)
            left = EXACT.subtract(left, size)
            if not left:
                return
        self.totals.add_without_spread(record, left)


def reply(info: str) -> Reply:
    """Return the answer with this `info`."""
    return Reply(ACK if info == ORDER_PLACED else NOT_ACK, info)


def answer_to(execution: Execution) -> Reply:
    """Return the answer to an order that was executed: of a real one with what its fills came to."""
    traded = execution.traded
    if traded is None:
        return reply(ORDER_PLACED)
    return Reply(
        ACK,
        ORDER_PLACED,
        size=traded.size,
        buy_price=traded.buy_price,
        sell_price=traded.sell_price,
        fee=traded.fee,
    )


def fingerprint(order: Order) -> bytes:
    """Return what makes two orders without an id the same: legs, prices, size and times."""
    numbers = (
        order.buy_price.normalize(EXACT),
        order.sell_price.normalize(EXACT),
        order.size.normalize(EXACT),
    )
    text = repr((order.buy, order.sell, numbers, order.ts_buy, order.ts_sell))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
