"""The quotes of the signal engine's books, published once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blackbird.broker.properties import publication
from blackbird.market.instrument import Instrument
from blackbird.market.quotes import Quotes, encode_quotes, quote_of
from blackbird.signals.group_lane import PendingUpdate
from blackbird.trading.book_keeper import BookKeeper

SECOND_MS = 1000


class QuotePublisher:
    """Publishes the best prices of all books at each whole second of `clock` (milliseconds since 1970).

    `last_update` returns the last message that an instrument's book has seen. A second in which the event
    loop did not get round to it is left out.
    """

    def __init__(
        self,
        keeper: BookKeeper,
        last_update: Callable[[Instrument], PendingUpdate | None],
        publish: Callable[[bytes], None],
        clock: Callable[[], int],
    ) -> None:
        self._keeper = keeper
        self._last_update = last_update
        self._publish = publish
        self._clock = clock

    async def wait(self) -> int:
        """Return the next whole second, in milliseconds, once it has come."""
        second = (self._clock() // SECOND_MS + 1) * SECOND_MS
        # The loop's clock is another one: it may be early by a little.
        while (left := second - self._clock()) > 0:
            await asyncio.sleep(left / 1000)
        return second

    def publish(self, second: int) -> None:
        """Publish the quotes of all books as those of `second`."""
        keeper = self._keeper
        quotes = [
            quote_of(instrument, book, keeper.key_of(instrument), self._number(instrument))
            for instrument, book in keeper.books.items()
        ]
        if quotes:
            self._publish(encode_quotes(Quotes(second, quotes)))

    def _number(self, instrument: Instrument) -> int | None:
        update = self._last_update(instrument)
        return None if update is None else publication(update.properties)[1]
