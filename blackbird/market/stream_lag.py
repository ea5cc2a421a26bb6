"""How far a stream is behind, measured against its own quickest message of late."""

from __future__ import annotations

# The quickest message is looked for among those of the last one to two of these, so that a clock that was
# set anew is forgiven after ten minutes at most.
WINDOW_MS = 300_000

_NO_LAG = 1 << 62


class StreamLag:
    """The smallest lag (receive time minus exchange time, milliseconds) of one stream in a moving window.

    The two times are of different clocks, so that a lag means nothing by itself, and may be negative. What a
    message took longer than the quickest one is free of the clocks' offset. A message has to be noted only if
    its lag is below `smallest_in_window`, or if it was received at `window_ends` or later.
    """

    __slots__ = ("_smallest", "smallest_in_window", "window_ends")

    def __init__(self) -> None:
        self.smallest_in_window = _NO_LAG
        self.window_ends = 0
        self._smallest = _NO_LAG  # of this window and the one before

    def note(self, lag_ms: int, received_ms: int) -> None:
        """Count a message among those that may be the quickest."""
        if received_ms >= self.window_ends:
            # After a silence longer than a window what was before it says nothing any more.
            lasting = received_ms < self.window_ends + WINDOW_MS
            self._smallest = self.smallest_in_window if lasting else _NO_LAG
            self.smallest_in_window = _NO_LAG
            self.window_ends = received_ms + WINDOW_MS
        self.smallest_in_window = min(self.smallest_in_window, lag_ms)
        self._smallest = min(self._smallest, lag_ms)

    def excess(self, lag_ms: int) -> int:
        """Return how much larger a lag is than the smallest one; 0 where none is known."""
        return 0 if self._smallest == _NO_LAG else lag_ms - self._smallest
