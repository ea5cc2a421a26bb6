"""How far a stream is behind, measured against its own quickest message of late."""

from __future__ import annotations

# The quickest message is looked for among those of the last one to two of these, so that a clock that was
# set anew is forgiven after ten minutes at most.
WINDOW_MS = 300_000

_NO_LAG = 1 << 62


class StreamLag:
    """The smallest lag (receive time minus exchange time, milliseconds) of one stream in a moving window.

    The two times are of different clocks, so that a lag means nothing by itself, and may be negative. What a
    message took longer than the quickest one is free of the clocks' offset.
    """

    __slots__ = ("_ends", "_smallest", "_smallest_of_window")

    def __init__(self) -> None:
        self._smallest = _NO_LAG  # of the present window and the one before
        self._smallest_of_window = _NO_LAG
        self._ends = 0

    def excess(self, lag_ms: int, received_ms: int, *, counts: bool = True) -> int:
        """Return how much larger the lag of a message is than the smallest one; 0 where none is known.

        A message that `counts` may be the quickest itself.
        """
        if received_ms >= self._ends:
            self._begin_window(received_ms)
        if counts and lag_ms < self._smallest_of_window:
            self._smallest_of_window = lag_ms
            if lag_ms < self._smallest:
                self._smallest = lag_ms
                return 0
        smallest = self._smallest
        return 0 if smallest == _NO_LAG else lag_ms - smallest

    def _begin_window(self, received_ms: int) -> None:
        # After a silence longer than a window what was before it says nothing any more.
        lasting = received_ms < self._ends + WINDOW_MS
        self._smallest = self._smallest_of_window if lasting else _NO_LAG
        self._smallest_of_window = _NO_LAG
        self._ends = received_ms + WINDOW_MS
