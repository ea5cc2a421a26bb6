"""When a snapshot of a book may be requested again."""

from __future__ import annotations

import time

# Pauses between requests for a snapshot of the same book.
SHORTEST_RESYNC = 0.5
LONGEST_RESYNC = 30.0


class SnapshotRequest:
    """How often a snapshot of one book was asked for in a row, and when it may be asked for again."""

    def __init__(self) -> None:
        self.asked = 0
        self._pause = SHORTEST_RESYNC
        self._next = 0.0

    def is_due(self) -> bool:
        """Tell whether to ask now; if so the next time is further away."""
        now = time.monotonic()
        if now < self._next:
            return False
        self.asked += 1
        self._next = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_RESYNC)
        return True

    def is_over(self) -> bool:
        """Tell whether the book has been in order for as long as the last pause was."""
        return time.monotonic() > self._next + self._pause
