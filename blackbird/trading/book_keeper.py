"""The books of all instruments and the matching groups that they are traded in."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from blackbird.market.book_message import BookMessage
from blackbird.market.instrument import Instrument, size_unit
from blackbird.market.order_book import OrderBook, Outcome
from blackbird.trading.matching_group import MatchingGroup
from blackbird.trading.spreads import Pair

logger = logging.getLogger(__name__)

# A message that waited longer for the signal engine does not count as the quickest of its stream.
PROMPT_MS = 1000


class BookKeeper:
    """Books, and groups of instruments that trade with each other. `consecutive` see OrderBook."""

    def __init__(self, *, consecutive: bool = True) -> None:
        self._consecutive = consecutive
        self.books: dict[Instrument, OrderBook] = {}
        self.groups: dict[str, MatchingGroup] = {}
        # Instruments whose book waits for a snapshot that the collector should be asked for.
        self.needs_snapshot: set[Instrument] = set()
        self.outcomes: Counter[Outcome] = Counter()
        self.subscribed: set[Instrument] = set()  # by the newest subscription map
        self._group_of: dict[Instrument, MatchingGroup] = {}
        self._removed: set[Instrument] = set()

    def on_subscriptions(self, instruments: Iterable[Instrument]) -> list[Instrument]:
        """Take the full map of what is subscribed; remove, and return, known instruments that it lacks."""
        subscribed = set(instruments)
        gone = [known for known in self.subscribed | set(self.books) if known not in subscribed]
        for instrument in gone:
            self.books.pop(instrument, None)
            self.needs_snapshot.discard(instrument)
            self._leave(instrument)
            logger.info("%s is no longer subscribed: removed", instrument)
        self._removed.update(gone)
        self._removed -= subscribed
        self.subscribed = subscribed
        return gone

    def on_book(
        self, instrument: Instrument, message: BookMessage, received_ms: int, waited_ms: int = 0
    ) -> list[Pair] | None:
        """Apply a message of `instrument`; return its pairs that cross, None where nothing changed.

        It was received at `received_ms` and waited since then for `waited_ms`. Raises InvalidMessage on
        levels that are no prices and sizes; nothing has changed then.
        """
        if instrument in self._removed:
            return None
        book = self.books.get(instrument)
        if book is None:
            book = OrderBook(consecutive=self._consecutive)
            outcome = book.apply(message, received_ms)
            self.books[instrument] = book
        else:
            outcome = book.apply(message, received_ms)
        group = self._group_of.get(instrument)
        # An old copy does not bring an old key back.
        if group is None or (
            group.key != message.matching_key and outcome in {Outcome.APPLIED, Outcome.DUPLICATE}
        ):
            group = self._join(instrument, message.matching_key)
        self.outcomes[outcome] += 1
        if outcome is Outcome.APPLIED:
            if self.needs_snapshot:
                self.needs_snapshot.discard(instrument)
            # The snapshot of a quiet option shows a book of long ago, which does not make it stale.
            is_quiet = instrument.channel == "option" and message.type == "snapshot"
            book.lag_ms = lag_ms = received_ms - (message.ts if is_quiet else message.cts)
            lag = book.lag
            if (lag_ms < lag.smallest_in_window or received_ms >= lag.window_ends) and waited_ms <= PROMPT_MS:
                lag.note(lag_ms, received_ms)
            return group.update(instrument, book)
        if outcome is Outcome.GAP or outcome is Outcome.AWAITING_SNAPSHOT:
            self.needs_snapshot.add(instrument)
        return None

    def invalidate(self, instrument: Instrument) -> None:
        """Keep the instrument's book, if it has one, from being traded on before its next snapshot."""
        book = self.books.get(instrument)
        if book is not None:
            book.invalidate()
            self.needs_snapshot.add(instrument)

    def group_of(self, instrument: Instrument) -> MatchingGroup | None:
        """Return the instrument's group, None where it is in none."""
        return self._group_of.get(instrument)

    def key_of(self, instrument: Instrument) -> str | None:
        """Return the matching key of the instrument's group, None where it is in none."""
        group = self._group_of.get(instrument)
        return None if group is None else group.key

    def _join(self, instrument: Instrument, key: str) -> MatchingGroup:
        self._leave(instrument)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = MatchingGroup(key)
        group.join(instrument)
        self._group_of[instrument] = group
        group.update(instrument, self.books[instrument])
        misfit = group.misfit(instrument)
        if misfit is not None:
            logger.warning(
                "group %s: %s (%s) is not traded against %s (%s): sizes of different units",
                key,
                instrument,
                size_unit(instrument),
                misfit,
                size_unit(misfit),
            )
        return group

    def _leave(self, instrument: Instrument) -> None:
        group = self._group_of.pop(instrument, None)
        if group is None:
            return
        group.leave(instrument)
        if not group:
            del self.groups[group.key]
