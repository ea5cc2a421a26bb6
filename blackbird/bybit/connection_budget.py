"""New connections to Bybit, kept within its limits."""

from __future__ import annotations

from collections import deque

# Bybit allows 500 new connections in five minutes; some are left for whoever else works from here.
CONNECTIONS = 450
CONNECTIONS_WINDOW = 300.0
# While no connection comes about at all, tries share one pace: the budget is needed when it works again.
FAILURES_IN_A_ROW = 5
PACE_WHILE_FAILING = 2.0
# Until the first of a crowd have failed, the others wait: an exchange that is away must not cost the budget.
MOST_AT_ONCE = 50
LOOK_AGAIN_SECONDS = 0.05


class ConnectionBudget:
    """Keeps the new connections of all streams within what Bybit allows."""

    def __init__(self, most: int = CONNECTIONS, window: float = CONNECTIONS_WINDOW) -> None:
        self._most = most
        self._window = window
        self._opened: deque[float] = deque()
        self._failures = 0
        self._under_way = 0
        self._last = -window

    def wait(self, now: float) -> float:
        """Return for how many seconds no connection may be opened."""
        while self._opened and self._opened[0] <= now - self._window:
            self._opened.popleft()
        pace = self._last + PACE_WHILE_FAILING - now if self._failures >= FAILURES_IN_A_ROW else 0.0
        spent = self._opened[0] + self._window - now if len(self._opened) >= self._most else 0.0
        crowd = LOOK_AGAIN_SECONDS if self._under_way >= MOST_AT_ONCE else 0.0
        return max(0.0, pace, spent, crowd)

    def take(self, now: float) -> None:
        """Count a connection that is opened now; `succeeded` or `failed` has to follow."""
        self._under_way += 1
        self._opened.append(now)
        self._last = now

    def succeeded(self) -> None:
        """Learn that a connection came about."""
        self._under_way -= 1
        self._failures = 0

    def failed(self, *, reached: bool) -> None:
        """Learn that one did not; where the exchange was not even reached it does not count."""
        self._under_way -= 1
        if reached:
            self._failures += 1
        elif self._opened:
            self._opened.pop()
