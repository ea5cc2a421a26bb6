"""A run: messages through the signal core, its orders through the trading engine's core, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from blackbird.archive.source import Timed
from blackbird.backtest.ledger import Ledger
from blackbird.backtest.marks import Marks
from blackbird.backtest.parameters import Parameters
from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.fields import InvalidMessage
from blackbird.trading.orders import Order, Reply
from blackbird.trading.records import Execution, Record
from blackbird.trading.spreads import Pair

PROGRESS_EVERY = 1000  # messages


class ReplayClock:
    """The time of the message at hand, in milliseconds since 1970."""

    def __init__(self) -> None:
        self.ms = 0

    def now(self) -> int:
        """Return the time."""
        return self.ms


class Simulation:
    """A stored market traded by `parameters`. `on_order` is given each order with its answer.

    The time is the messages' own: each is published, taken and traded on at once, and an order is answered
    before the next message.
    """

    def __init__(
        self, parameters: Parameters, *, on_order: Callable[[Order, Reply], None] | None = None
    ) -> None:
        self.parameters = parameters
        self.clock = ReplayClock()
        self.signal = parameters.new_signal(self.clock.now)
        self.engine = parameters.new_engine(self.clock.now)
        self.ledger = Ledger()
        self.marks = Marks(self.signal.keeper.books, self.ledger)
        self.messages = 0
        self.invalid = 0
        self.begin_ms = 0
        self.on_order = on_order

    def run(self, messages: Iterable[Timed], on_progress: Callable[[int], None] | None = None) -> None:
        """Play the messages; `on_progress` is told their number now and then."""
        clock, on_book, marks = self.clock, self.signal.on_book, self.marks
        count = self.messages
        for received_ms, message in messages:
            if not count:
                self.begin_ms = received_ms
            count += 1
            clock.ms = received_ms
            try:
                pairs = on_book(message, received_ms)
            except InvalidMessage:
                self.invalid += 1
                continue
            instrument = message.instrument
            changed = marks.on_book(instrument, received_ms)
            if (pairs and self._trade(pairs)) or changed:
                marks.mark(instrument, received_ms)
            if on_progress is not None and not count % PROGRESS_EVERY:
                on_progress(count)
        self.messages = count

    def _trade(self, pairs: Sequence[Pair]) -> bool:
        """Send the orders that the pairs give reason for; return whether there were any."""
        scan = self.signal.scan(pairs)
        order = scan.order
        if order is None:
            return False
        while order is not None:
            record = self.engine.execute(order)
            reply = self.engine.answer_of(record)
            self.ledger.add(order, reply, self.clock.ms, _fees(record))
            if reply.acked:
                self.marks.on_execution(order, self.clock.ms)
            if self.on_order is not None:
                self.on_order(order, reply)
            order = scan.answer(reply)
        return True


def _fees(record: Record) -> Decimal:
    """Return what the engine has charged for both legs; a channel without a rate is free."""
    if not isinstance(record, Execution) or record.fees is None:
        return ZERO
    bought, sold = record.fees
    return EXACT.add(bought or ZERO, sold or ZERO)
