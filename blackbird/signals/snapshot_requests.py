"""Requests to the collector for snapshots of books that are out of sync, with backoff."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from blackbird.market.instrument import Instrument

logger = logging.getLogger(__name__)

# Seconds between requests for a snapshot of the same book.
SHORTEST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
# So many requests in a row are worth a line in the log.
REPORT_EVERY = 5


class _Requests:
    """How often a snapshot of one book was requested in a row, and when it may be requested again."""

    __slots__ = ("_backoff", "_next", "asked", "gaps", "unanswered")

    def __init__(self) -> None:
        self.asked = 0
        self.unanswered = 0  # of these, those since the book was in sync
        self.gaps = 0
        self._backoff = SHORTEST_BACKOFF
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        return now >= self._next

    def is_over(self, now: float) -> bool:
        """Return whether the book has been in sync for as long as the last backoff was."""
        return now > self._next + self._backoff

    def count(self, now: float, gaps: int) -> None:
        self.unanswered = self.unanswered + 1 if gaps == self.gaps else 1
        self.gaps = gaps
        self.asked += 1
        self._next = now + self._backoff
        self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)


class SnapshotRequests:
    """Sends `request(instrument)` for each book that needs a snapshot, again with backoff until it has one.

    `total` counts them. `gaps(instrument)` counts the gaps of its book: where it has risen, a snapshot has
    come meanwhile. `clock` returns seconds.
    """

    def __init__(
        self,
        request: Callable[[Instrument], None],
        gaps: Callable[[Instrument], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request = request
        self._gaps = gaps
        self._clock = clock
        self.total = 0
        self._requests: dict[Instrument, _Requests] = {}

    def update(self, needed: Collection[Instrument]) -> None:
        """Request the snapshots that are due of the books in `needed`; forget books that stay in sync."""
        for instrument in list(needed):
            self.request(instrument)
        if len(self._requests) > len(needed):
            now = self._clock()
            for instrument in [known for known in self._requests if known not in needed]:
                if self._requests[instrument].is_over(now):
                    del self._requests[instrument]

    def request(self, instrument: Instrument) -> None:
        """Request a snapshot of a book, unless one was requested a moment ago."""
        requests = self._requests.setdefault(instrument, _Requests())
        now = self._clock()
        if not requests.is_due(now):
            return
        requests.count(now, self._gaps(instrument))
        self.total += 1
        if requests.asked % REPORT_EVERY == 0:
            _report(instrument, requests)
        self._request(instrument)


def _report(instrument: Instrument, requests: _Requests) -> None:
    if requests.unanswered >= REPORT_EVERY:
        logger.warning(
            "%s: no snapshot after %d requests; nobody serves `resync`, or the exchange does not answer",
            instrument,
            requests.unanswered,
        )
    else:
        logger.warning(
            "%s: its book has lost updates again after a snapshot, %d requests in a row; it is not traded"
            " meanwhile",
            instrument,
            requests.asked,
        )
