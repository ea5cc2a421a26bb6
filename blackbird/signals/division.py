"""Which partition a group, an instrument and a pair belong to."""

from __future__ import annotations

from collections.abc import Iterable

from blackbird.broker.feed_layout import FeedLayout
from blackbird.market.instrument import Instrument
from blackbird.market.saved_subscriptions import SavedSubscription
from blackbird.trading.book_keeper import BookKeeper
from blackbird.trading.spreads import Pair


class Division:
    """The partitions of what is subscribed, by the collector's newest list."""

    def __init__(self, layout: FeedLayout, keeper: BookKeeper) -> None:
        self.of_group = layout.partition_of
        self._keeper = keeper
        self._listed: dict[Instrument, int] = {}
        self.is_known = False  # whether there was a list

    def renew(self, subscriptions: Iterable[SavedSubscription]) -> set[int]:
        """Take the collector's newest list; return the partitions that have gained an instrument by it."""
        before = self._listed
        self.is_known = True
        self._listed = {each.instrument: self.of_group(each.matching_key) for each in subscriptions}
        return {number for instrument, number in self._listed.items() if before.get(instrument) != number}

    def instruments(self, partitions: Iterable[int]) -> list[Instrument]:
        """Return what the list has of some partitions."""
        wanted = set(partitions)
        return [instrument for instrument, number in self._listed.items() if number in wanted]

    def of_instrument(self, instrument: Instrument) -> int | None:
        """Return the partition of an instrument, None where neither its book nor the list says it."""
        key = self._keeper.key_of(instrument)
        return self._listed.get(instrument) if key is None else self.of_group(key)

    def of_pair(self, pair: Pair) -> int | None:
        """Return the partition of a pair, None where it is not known."""
        number = self.of_instrument(pair.long)
        return self.of_instrument(pair.short) if number is None else number
